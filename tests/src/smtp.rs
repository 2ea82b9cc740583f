//! A real mail server on a loopback port: it takes mail, over TLS if it is to, and keeps it for the test to look at.
//!
//! In: how it is to be. Out: the mails it took; none for `nobody@...`. It serves until the process ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mailin_embedded::{response, AuthMechanism, Handler, Response, Server, SslConfig};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509NameBuilder, X509};

use crate::keeper;
use crate::wait::wait_for;

/// How long one side of an encrypted connection is listened to.
const GLANCE: Duration = Duration::from_millis(5);

pub const USER: &str = "replica";
pub const PASSWORD: &str = "mail-secret-7";

/// A mail as it came.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    /// Who has logged in for it.
    pub user: Option<String>,
    pub text: String,
}

impl Mail {
    pub fn subject(&self) -> String {
        self.header("Subject").unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        // A long one goes on in lines that begin with a blank.
        let head = self.text.split("\n\n").next().unwrap_or_default().replace("\n ", " ");
        head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).map(String::from)
    }

    /// What was written: the text travels as "quoted-printable".
    pub fn body(&self) -> String {
        let body = self.text.split_once("\n\n").map(|(_, body)| body).unwrap_or_default().replace("=\n", "");
        let mut parts = body.split('=');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (code, rest) = part.split_at(2);
            bytes.push(u8::from_str_radix(code, 16).expect("a byte in hexadecimal"));
            bytes.extend(rest.as_bytes());
        }
        String::from_utf8(bytes).expect("UTF-8")
    }
}

pub struct MailServer {
    pub port: u16,
    /// The certificate, which is also that of its issuer.
    pub ca_file: PathBuf,
    mails: Arc<Mutex<Vec<Mail>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    None,
    /// With a login.
    StartTls,
    /// From the first byte.
    Tls,
}

impl MailServer {
    pub fn start(encryption: Encryption) -> MailServer {
        MailServer::start_on(TcpListener::bind("127.0.0.1:0").expect("a port"), encryption)
    }

    pub fn start_on(listener: TcpListener, encryption: Encryption) -> MailServer {
        let dir = keeper::subdir("mail");
        let (ca_file, key_file) = (dir.join("server.crt"), dir.join("server.key"));
        let (certificate, key) = self_signed();
        std::fs::write(&ca_file, certificate.to_pem().expect("PEM")).expect("own directory");
        std::fs::write(&key_file, key.private_key_to_pem_pkcs8().expect("PEM")).expect("own directory");
        let port = listener.local_addr().expect("bound").port();
        let mails = Arc::default();
        let handler = Taking { mails: Arc::clone(&mails), mail: Mail::default() };
        let mut server = Server::new(handler);
        match encryption {
            Encryption::None => drop(server.with_tcp_listener(listener)),
            Encryption::StartTls => {
                let path = |path: &PathBuf| path.display().to_string();
                let ssl = SslConfig::SelfSigned { cert_path: path(&ca_file), key_path: path(&key_file) };
                server.with_ssl(ssl).expect("certificate");
                server.with_auth(AuthMechanism::Plain).with_tcp_listener(listener);
            }
            Encryption::Tls => {
                let inner = TcpListener::bind("127.0.0.1:0").expect("a port");
                let inner_port = inner.local_addr().expect("bound").port();
                server.with_tcp_listener(inner);
                thread::spawn(move || unwrap_tls(&listener, &certificate, &key, inner_port));
            }
        }
        thread::spawn(move || server.serve().expect("a listener that works"));
        MailServer { port, ca_file, mails }
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().expect("no test panics with it").clone()
    }

    /// Those whose subject contains this.
    pub fn about(&self, words: &str) -> Vec<Mail> {
        self.mails().into_iter().filter(|mail| mail.subject().contains(words)).collect()
    }

    /// Waits for the first of them.
    #[track_caller]
    pub fn wait_for(&self, words: &str) -> Mail {
        wait_for(&format!("a mail about {words:?}"), || self.about(words).pop())
    }
}

#[derive(Clone)]
struct Taking {
    mails: Arc<Mutex<Vec<Mail>>>,
    mail: Mail,
}

impl Handler for Taking {
    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        self.mail.from = from.to_owned();
        self.mail.to.clear();
        self.mail.text.clear();
        response::OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        if to.starts_with("nobody@") {
            return response::NO_MAILBOX;
        }
        self.mail.to.push(to.to_owned());
        response::OK
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mail.text.push_str(&String::from_utf8_lossy(bytes).replace("\r\n", "\n"));
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        self.mails.lock().expect("no test panics with it").push(self.mail.clone());
        response::OK
    }

    fn auth_plain(&mut self, _: &str, user: &str, password: &str) -> Response {
        if (user, password) != (USER, PASSWORD) {
            return response::INVALID_CREDENTIALS;
        }
        self.mail.user = Some(user.to_owned());
        response::AUTH_OK
    }
}

/// For 127.0.0.1.
fn self_signed() -> (X509, PKey<Private>) {
    let build = || -> Result<_, openssl::error::ErrorStack> {
        let key = PKey::from_rsa(Rsa::generate(2048)?)?;
        let mut name = X509NameBuilder::new()?;
        name.append_entry_by_text("CN", "mail of a test")?;
        let name = name.build();
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        builder.set_subject_name(&name)?;
        builder.set_issuer_name(&name)?;
        builder.set_pubkey(&key)?;
        builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
        builder.set_not_after(Asn1Time::days_from_now(2)?.as_ref())?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        let names =
            SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None))?;
        builder.append_extension(names)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok((builder.build(), key))
    };
    build().expect("a certificate")
}

/// Passes on what comes encrypted, in both directions.
fn unwrap_tls(listener: &TcpListener, certificate: &X509, key: &PKey<Private>, port: u16) {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("TLS");
    builder.set_private_key(key).expect("key");
    builder.set_certificate(certificate).expect("certificate");
    let acceptor = builder.build();
    for stream in listener.incoming() {
        let acceptor = acceptor.clone();
        thread::spawn(move || -> io::Result<()> {
            let Ok(mut outer) = acceptor.accept(stream?) else { return Ok(()) };
            let mut inner = TcpStream::connect(("127.0.0.1", port))?;
            // A TLS stream has no halves for two threads: we look at either side in turn.
            outer.get_ref().set_read_timeout(Some(GLANCE))?;
            inner.set_read_timeout(Some(GLANCE))?;
            while pass_on(&mut outer, &mut inner)? && pass_on(&mut inner, &mut outer)? {}
            Ok(())
        });
    }
}

/// What is there to read; false at the end.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => to.write_all(&buffer[..n]).map(|()| true),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(true),
        Err(e) => Err(e),
    }
}
