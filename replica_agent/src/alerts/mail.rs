//! A bundle of events becomes a mail, which goes to a mail server.
//!
//! In: bundles and the settings of [mail]. Out: mail. The password and the CA file are read for each mail; neither is
//! ever part of an error. A server that hangs costs one thread for a while, and nobody waits for it longer than `LIMIT`.

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::Message;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::response::Category;
use lettre::{SmtpTransport, Transport};

use super::bundle::{Bundle, Bundles};
use super::{Next, Queue};
use crate::config::{self, Mail, Password};
use crate::error::{self, Error, Kind, Result};
use crate::event::{now, Event};

/// For one answer of the server, and for all of it.
const ANSWER: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(30);
/// Attempts that hang without an end; a lookup of a name or a TLS handshake may.
const HANGING_MAX: usize = 8;

#[derive(Default)]
pub(super) struct Mails(Bundles);

impl Queue for Mails {
    type Settings = Mail;
    type Parcel = Bundle;

    fn add(&mut self, event: &Event) {
        self.0.add(event, Instant::now());
    }

    fn next(&mut self, now: Instant, mail: &Mail, closing: bool) -> Next<Bundle> {
        loop {
            match self.0.next(now, mail.interval, closing) {
                Next::Deliver(bundle) if mail.subject(bundle.kind).is_empty() => continue,
                next => return next,
            }
        }
    }

    fn deliver(bundle: &Bundle, mail: &Mail) -> Result<()> {
        let subject = subject(mail, bundle);
        let refused = send(mail, &subject, &body(bundle))?;
        if !refused.is_empty() {
            log::warn!("mail \"{subject}\" went to some only: {}", refused.join("; "));
        }
        Ok(())
    }

    fn patience(mail: &Mail) -> Duration {
        mail.retry
    }
}

/// Sends a mail that says that mail works.
pub fn test(mail: &Mail, agent: &str) -> Result<()> {
    let text = format!(
        "{}  This mail was sent by \"replica_agent check --mail\" for agent \"{agent}\".\n{}",
        now(),
        signature(agent)
    );
    let refused = send(mail, &format!("PyReplica {agent}: test"), &text)?;
    match refused.is_empty() {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Refused, format!("a test mail went to some only: {}", refused.join("; ")))
                .hint("Correct to in [mail]."))
        }
    }
}

fn subject(mail: &Mail, bundle: &Bundle) -> String {
    let first = bundle.events.first();
    let mut slaves: Vec<&str> = bundle.events.iter().filter_map(|event| event.slave.as_deref()).collect();
    slaves.sort_unstable();
    slaves.dedup();
    let slaves = if slaves.is_empty() { "every slave".to_owned() } else { slaves.join(", ") };
    let message = first.and_then(|event| event.message.lines().next()).unwrap_or_default();
    mail.subject(bundle.kind)
        .replace("{agent}", first.map(|event| event.agent.as_str()).unwrap_or_default())
        .replace("{slave}", &slaves)
        .replace("{event}", bundle.kind.name())
        .replace("{count}", &bundle.count.to_string())
        .replace("{host}", &host())
        // Last, because a message may have braces.
        .replace("{message}", message)
        .replace(char::is_control, " ")
}

fn body(bundle: &Bundle) -> String {
    let mut text: String = bundle.events.iter().map(|event| event.text() + "\n").collect();
    let told: u64 = bundle.events.iter().map(|event| event.count).sum();
    if bundle.count > told {
        text.push_str(&format!("and {} more, see the log of the agent.\n\n", bundle.count - told));
    }
    text + &signature(bundle.events.first().map(|event| event.agent.as_str()).unwrap_or_default())
}

fn signature(agent: &str) -> String {
    format!("-- \nreplica_agent {} \"{agent}\" on {}\n", env!("CARGO_PKG_VERSION"), host())
}

fn host() -> String {
    whoami::hostname().unwrap_or_else(|_| "an unnamed host".to_owned())
}

/// Nobody is to answer it with a note that he is on holiday.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> std::result::Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Gives the recipients that the server did not take, with its reasons.
fn send(mail: &Mail, subject: &str, text: &str) -> Result<Vec<String>> {
    let mut message = Message::builder()
        .from(mail.from.clone())
        .subject(subject)
        .date_now()
        .message_id(None)
        .header(AutoSubmitted)
        .header(ContentType::TEXT_PLAIN);
    for to in &mail.to {
        message = message.to(to.clone());
    }
    let place = format!("could not send mail \"{subject}\" through {}:{}", mail.server, mail.port);
    let message =
        message.body(text.to_owned()).map_err(|e| Error::new(Kind::Refused, place.clone()).source(e))?;
    let transport = transport(mail, &place)?;
    within_limit(&place, move || to_all(&transport, message.envelope(), &message.formatted()))
        .map_err(|e| explain(mail, e))
}

/// One recipient whom the server refuses would keep the mail from all of them: then each gets it by itself.
fn to_all(transport: &SmtpTransport, envelope: &Envelope, text: &[u8]) -> Sent {
    let is_of_mailbox =
        |e: &smtp::Error| e.status().is_some_and(|code| code.category == Category::MailSystem);
    let refusal = match transport.send_raw(envelope, text) {
        Ok(_) => return Ok(Vec::new()),
        Err(e) if envelope.to().len() > 1 && is_of_mailbox(&e) => e,
        Err(e) => return Err(e),
    };
    let mut refused = Vec::new();
    for to in envelope.to() {
        let Ok(alone) = Envelope::new(envelope.from().cloned(), vec![to.clone()]) else { continue };
        if let Err(e) = transport.send_raw(&alone, text) {
            refused.push(format!("{to}: {}", error::with_causes(&e)));
        }
    }
    match refused.len() == envelope.to().len() {
        true => Err(refusal),
        false => Ok(refused),
    }
}

fn transport(mail: &Mail, place: &str) -> Result<SmtpTransport> {
    let unusable =
        |e: smtp::Error| Error::new(Kind::Config, format!("{place}: could not set up TLS")).source(e);
    let parameters = || -> Result<TlsParameters> {
        let mut builder = TlsParameters::builder(mail.server.clone());
        for certificate in ca_certificates(mail, place)? {
            builder = builder.add_root_certificate(certificate);
        }
        if !mail.verify {
            builder = builder.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true);
        }
        builder.build().map_err(unusable)
    };
    let tls = match mail.tls {
        config::Tls::None => Tls::None,
        config::Tls::Starttls => Tls::Required(parameters()?),
        config::Tls::Tls => Tls::Wrapper(parameters()?),
    };
    let mut builder =
        SmtpTransport::builder_dangerous(&mail.server).port(mail.port).tls(tls).timeout(Some(ANSWER));
    if let (Some(user), Some(password)) = (&mail.user, &mail.password) {
        builder = builder.credentials(Credentials::new(user.clone(), read_password(password, place)?));
    }
    Ok(builder.build())
}

fn read_password(password: &Password, place: &str) -> Result<String> {
    match password {
        Password::Text(text) => Ok(text.clone()),
        Password::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(text.lines().next().unwrap_or_default().to_owned()),
            Err(e) => {
                let file = path.display();
                Err(Error::new(
                    Kind::Config,
                    format!("{place}: could not read password file \"{file}\": {e}"),
                )
                .hint("The user that runs the agent needs to be able to read it."))
            }
        },
    }
}

/// The library takes one certificate at a time; a CA file may hold several.
fn ca_certificates(mail: &Mail, place: &str) -> Result<Vec<Certificate>> {
    const END: &str = "-----END CERTIFICATE-----";
    let Some(path) = &mail.ca_file else { return Ok(Vec::new()) };
    let file = path.display();
    let broken = |what: String| Error::new(Kind::Config, format!("{place}: {what}"));
    let text = std::fs::read_to_string(path)
        .map_err(|e| broken(format!("could not read CA file \"{file}\": {e}")))?;
    let certificates: Vec<&str> = text.split_inclusive(END).filter(|part| part.ends_with(END)).collect();
    if certificates.is_empty() {
        return Err(broken(format!("CA file \"{file}\" holds no certificate in PEM form")));
    }
    certificates
        .iter()
        .map(|pem| {
            Certificate::from_pem(pem.trim().as_bytes())
                .map_err(|e| broken(format!("CA file \"{file}\" holds a broken certificate")).source(e))
        })
        .collect()
}

type Sent = std::result::Result<Vec<String>, smtp::Error>;

/// On a thread of its own: the library's timeout does not cover everything.
fn within_limit(place: &str, send: impl FnOnce() -> Sent + Send + 'static) -> Result<Vec<String>> {
    static HANGING: AtomicUsize = AtomicUsize::new(0);
    let silent = || Error::new(Kind::Connection, format!("{place}: no answer within {} s", LIMIT.as_secs()));
    if HANGING.fetch_add(1, Ordering::SeqCst) >= HANGING_MAX {
        HANGING.fetch_sub(1, Ordering::SeqCst);
        return Err(silent().detail("Earlier attempts still wait for one."));
    }
    let (sender, receiver) = bounded(1);
    let spawned = std::thread::Builder::new().name("mail".to_owned()).spawn(move || {
        // Nobody listens any more when it took too long.
        sender.send(send()).ok();
        HANGING.fetch_sub(1, Ordering::SeqCst);
    });
    if let Err(e) = spawned {
        HANGING.fetch_sub(1, Ordering::SeqCst);
        return Err(Error::new(Kind::Refused, "could not start a thread").source(e));
    }
    match receiver.recv_timeout(LIMIT) {
        Ok(sent) => sent.map_err(|e| {
            let cause = match is_silence(&e) {
                true => format!("no answer within {} s", ANSWER.as_secs()),
                false => error::with_causes(&e),
            };
            Error::new(Kind::Connection, format!("{place}: {cause}"))
        }),
        Err(_) => Err(silent()),
    }
}

/// A socket that waits long enough says so in two ways.
fn is_silence(e: &smtp::Error) -> bool {
    let mut cause = e.source();
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<io::Error>() {
            return matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        }
        cause = e.source();
    }
    false
}

/// Adds what to do next where the cause alone does not say it.
fn explain(mail: &Mail, e: Error) -> Error {
    let text = format!("{e:#}").to_lowercase();
    let hint = if text.contains("certificate verify failed") || text.contains("self-signed") {
        "The server's certificate must be signed by one in ca_file, or by one that the system trusts, and name the server as [mail] does."
    } else if text.contains("(535)") || text.contains("authentication") {
        "Correct user and password, or password_file, in [mail]."
    } else if text.contains("starttls") {
        "The server does not offer STARTTLS on this port: correct port or tls in [mail]."
    } else if text.contains("refused") || text.contains("no answer") || text.contains("timed out") {
        "Is the mail server running there, and can this machine reach it? Which port it has depends on tls: usually 587 for starttls, 465 for tls, 25 for none; one that waits for TLS from the first byte answers nothing else."
    } else if mail.tls == config::Tls::Tls && text.contains("wrong version number") {
        "The server does not speak TLS from the first byte on this port: perhaps tls = \"starttls\" is right."
    } else if text.contains("lookup address") || text.contains("resolve") {
        "Correct server in [mail], or the resolver of this machine."
    } else {
        return e;
    };
    e.hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::EventKind;

    fn mail(more: &str) -> Mail {
        let text = format!(
            "[master]\ndsn = \"dbname=a\"\n[[slave]]\nname = \"b\"\ndsn = \"dbname=b\"\n\
             [mail]\nserver = \"127.0.0.1\"\nfrom = \"a@example.com\"\nto = \"b@example.com\"\n{more}"
        );
        Config::parse(&text).unwrap().alerts.mail.unwrap()
    }

    fn bundle(kind: EventKind, slaves: &[&str]) -> Bundle {
        let event = |slave: &&str| Event::new(kind, "shop", Some(slave), "could not {agent}\nat all");
        Bundle { kind, events: slaves.iter().map(event).collect(), count: 12 }
    }

    #[test]
    fn subjects_name_what_they_are_about() {
        let usual = mail("");
        let error = bundle(EventKind::Error, &["reports", "archive", "reports"]);
        assert_eq!(subject(&usual, &error), "PyReplica shop: error, archive, reports stands still");
        let own = mail("subject_error = \"{event} {count} {message}\"");
        assert_eq!(subject(&own, &error), "error 12 could not {agent}");
        assert!(body(&error).contains("and 9 more"), "{}", body(&error));
    }

    #[test]
    fn kinds_without_a_subject_are_not_mailed() {
        let mail = mail("subject_start = \"\"");
        let mut mails = Mails::default();
        mails.add(&Event::new(EventKind::Start, "shop", None, "x"));
        assert!(matches!(mails.next(Instant::now(), &mail, true), Next::Nothing));
    }

    #[test]
    fn a_missing_password_file_is_named() {
        let e = test(&mail("user = \"u\"\npassword_file = \"/nowhere/p\"\n"), "shop").unwrap_err();
        assert!(e.to_string().contains("could not read password file \"/nowhere/p\""), "{e}");
    }
}
