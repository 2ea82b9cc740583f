//! Section [mail]: where mail goes, and what its subjects say.
//!
//! In: the keys as they are written. Out: `Mail`, with addresses that are addresses and subjects whose placeholders are
//! known. No file that it names is opened here: a password may change while the agent runs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use serde::Deserialize;

use super::invalid;
use super::keys::{Holds::*, Keys};
use crate::error::Result;
use crate::event::EventKind;

pub(super) const MAIL_NEEDS: &[&str] = &["server", "from", "to"];
pub(super) const MAIL_KEYS: Keys = &[
    ("server", Text),
    ("port", Whole(1, 65535)),
    ("tls", Word(&["none", "starttls", "tls"])),
    ("tls_verify", Switch),
    ("ca_file", Text),
    ("user", Text),
    ("password", Text),
    ("password_file", Text),
    ("from", Text),
    ("to", TextOrTexts),
    ("subject_start", Text),
    ("subject_stop", Text),
    ("subject_error", Text),
    ("subject_warning", Text),
    ("subject_recovery", Text),
    ("interval_seconds", Whole(0, YEAR)),
    ("retry_seconds", Whole(0, YEAR)),
];
const YEAR: i64 = 366 * 24 * 3600;

/// What may stand in a subject.
pub const PLACEHOLDERS: &[&str] = &["agent", "slave", "event", "count", "message", "host"];

#[derive(Clone, Debug, PartialEq)]
pub struct Mail {
    pub server: String,
    pub port: u16,
    pub tls: Tls,
    /// Whether the server's certificate must be right.
    pub verify: bool,
    pub ca_file: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<Password>,
    pub from: Mailbox,
    pub to: Vec<Mailbox>,
    subjects: [String; EventKind::ALL.len()],
    /// Between two mails of one kind; longer when they keep coming.
    pub interval: Duration,
    /// How long a mail is tried again.
    pub retry: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    None,
    /// Encrypted after a greeting in the clear; a server that cannot is not used.
    #[default]
    Starttls,
    /// Encrypted from the first byte.
    Tls,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    Text(String),
    /// Read whenever it is used.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Text(_) => f.write_str("(hidden)"),
            Password::File(path) => write!(f, "{path:?}"),
        }
    }
}

impl Mail {
    /// An empty subject: events of this kind are not mailed.
    pub fn subject(&self, kind: EventKind) -> &str {
        &self.subjects[kind as usize]
    }
}

/// The section as it is written.
#[derive(Deserialize)]
pub(super) struct FileMail {
    server: String,
    port: Option<u16>,
    #[serde(default)]
    tls: Tls,
    #[serde(default = "yes")]
    tls_verify: bool,
    ca_file: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    from: String,
    to: OneOrMore,
    #[serde(default = "subject_start")]
    subject_start: String,
    #[serde(default = "subject_stop")]
    subject_stop: String,
    #[serde(default = "subject_error")]
    subject_error: String,
    #[serde(default = "subject_warning")]
    subject_warning: String,
    #[serde(default = "subject_recovery")]
    subject_recovery: String,
    #[serde(default = "minute")]
    interval_seconds: u64,
    #[serde(default = "ten_minutes")]
    retry_seconds: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn yes() -> bool {
    true
}

fn minute() -> u64 {
    60
}

fn ten_minutes() -> u64 {
    600
}

fn subject_start() -> String {
    "PyReplica {agent}: started".to_owned()
}

fn subject_stop() -> String {
    "PyReplica {agent}: stopped".to_owned()
}

fn subject_error() -> String {
    "PyReplica {agent}: error, {slave} stands still".to_owned()
}

fn subject_warning() -> String {
    "PyReplica {agent}: warning, conflicts on {slave}: {count}".to_owned()
}

fn subject_recovery() -> String {
    "PyReplica {agent}: recovery, {slave} goes on".to_owned()
}

pub(super) fn mail(file: FileMail) -> Result<Mail> {
    let password = match (file.password, file.password_file) {
        (Some(_), Some(_)) => {
            return Err(invalid("[mail] has both password and password_file").hint("Leave one of them out."))
        }
        (Some(text), None) => Some(Password::Text(text)),
        (None, path) => path.map(Password::File),
    };
    if file.user.is_some() != password.is_some() {
        let (there, missing) = match password {
            Some(_) => ("a password", "user"),
            None => ("a user", "password or password_file"),
        };
        return Err(invalid(format!("[mail] has {there} and no {missing}")));
    }
    if file.server.trim().is_empty() {
        return Err(invalid("server in [mail] is empty"));
    }
    let subjects = [
        file.subject_start,
        file.subject_stop,
        file.subject_error,
        file.subject_warning,
        file.subject_recovery,
    ];
    for (kind, subject) in EventKind::ALL.iter().zip(&subjects) {
        check_subject(&format!("subject_{}", kind.name()), subject)?;
    }
    let to = match file.to {
        OneOrMore::One(address) => vec![address],
        OneOrMore::More(addresses) => addresses,
    };
    if to.is_empty() {
        return Err(invalid("to in [mail] is empty").hint("Name at least one recipient."));
    }
    let usual_port = match file.tls {
        Tls::None => 25,
        Tls::Starttls => 587,
        Tls::Tls => 465,
    };
    Ok(Mail {
        server: file.server,
        port: file.port.unwrap_or(usual_port),
        tls: file.tls,
        verify: file.tls_verify,
        ca_file: file.ca_file,
        user: file.user,
        password,
        from: address("from", &file.from)?,
        to: to.iter().map(|to| address("to", to)).collect::<Result<_>>()?,
        subjects,
        interval: Duration::from_secs(file.interval_seconds),
        retry: Duration::from_secs(file.retry_seconds),
    })
}

fn address(key: &str, text: &str) -> Result<Mailbox> {
    text.parse().map_err(|e| {
        invalid(format!("{key} in [mail] has {text:?}, which is no mail address: {e}"))
            .hint("Write it as name@example.com or \"Some Name <name@example.com>\".")
    })
}

/// Braces name something that is known.
fn check_subject(key: &str, subject: &str) -> Result<()> {
    if subject.chars().any(char::is_control) {
        return Err(invalid(format!("{key} in [mail] is more than one line")));
    }
    for rest in subject.split('{').skip(1) {
        let name = rest.split('}').next().unwrap_or_default();
        if !PLACEHOLDERS.contains(&name) {
            return Err(invalid(format!("unknown placeholder \"{{{name}}}\" in {key} of [mail]"))
                .hint(format!("Known are: {{{}}}.", PLACEHOLDERS.join("}, {"))));
        }
    }
    Ok(())
}
