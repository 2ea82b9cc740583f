//! The one error type of the agent: what happened, the details, what to do next, and the SQLSTATE where a server
//! gave one. In: errors of servers and of our own checks. Out: text in PostgreSQL's style for log and `slave_status`.

use std::error::Error as StdError;
use std::fmt;

use crate::retry;

pub type Result<T> = std::result::Result<T, Error>;

/// What a library's error says, with its causes; OpenSSL tells the same thing several times over.
pub fn with_causes(e: &dyn StdError) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = error.source();
    }
    text
}

/// Who has to act, and with which exit status the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Wrong use of the command line.
    Usage,
    /// The configuration is wrong.
    Config,
    /// A server cannot be reached, or a connection to it was lost.
    Connection,
    /// A row of the slave is not what the change expects.
    Conflict,
    /// A change or a step of the commit failed on the slave.
    Apply,
    /// The log is not as `docs/log-format.md` says.
    Log,
    /// Going on could lose or double changes, so the agent does not.
    Refused,
    /// Asked to stop.
    Stopped,
}

/// Boxed, so that a `Result` stays as small as a pointer on the path where nothing fails.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    /// The trigger's or other function of the server in which it was raised.
    inside: Option<String>,
    sqlstate: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
            inside: None,
            sqlstate: None,
            source: None,
        }))
    }

    /// Wraps an error of the server or the connection; `context` says what could not be done.
    ///
    /// The server's words become ours, since a user reads them next to the server's log. An error without a
    /// server's words stays the source.
    pub fn from_pg(context: impl Into<String>, e: postgres::Error) -> Self {
        let context = context.into();
        let Some(db) = e.as_db_error() else {
            let kind = if is_connection_lost(&e) { Kind::Connection } else { Kind::Apply };
            return Error::new(kind, context).source(e);
        };
        let state = db.code().code();
        let kind = if retry::is_connection_lost(state) { Kind::Connection } else { Kind::Apply };
        let mut error = Error::new(kind, format!("{context}: {}", db.message()));
        error.0.sqlstate = Some(state.to_owned());
        error.0.detail = db.detail().map(sentence);
        error.0.hint = db.hint().map(sentence);
        error.0.inside = db.where_().and_then(outermost_function);
        error
    }

    /// The error that another process wrote down as `text`.
    pub fn from_text(kind: Kind, text: &str) -> Self {
        let (message, detail, hint) = parts(text);
        let mut error = Error::new(kind, message);
        error.0.detail = detail.map(str::to_owned);
        error.0.hint = hint.map(str::to_owned);
        error
    }

    /// The master may have emptied the log of what these slaves have not applied.
    pub fn given_up(slaves: &str) -> Self {
        Error::new(Kind::Refused, format!("the master no longer keeps the log for {slaves}"))
            .with_sqlstate("55000")
            .detail(
                "The log reached pyreplica.max_log_size, or their rows were deleted from pyreplica.slave.",
            )
            .hint("Copy them again with \"replica_agent copy\".")
    }

    pub fn detail(mut self, s: impl Into<String>) -> Self {
        self.0.detail = Some(s.into());
        self
    }

    pub fn hint(mut self, s: impl Into<String>) -> Self {
        self.0.hint = Some(s.into());
        self
    }

    pub fn source(mut self, e: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(e));
        self
    }

    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    pub fn with_sqlstate(mut self, state: &str) -> Self {
        self.0.sqlstate = Some(state.to_owned());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn detail_text(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn inside(&self) -> Option<&str> {
        self.0.inside.as_deref()
    }

    /// The exit status of the program that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind() {
            Kind::Usage | Kind::Config => 2,
            Kind::Stopped => 0,
            _ => 1,
        }
    }

    /// As psql prints it: ERROR, DETAIL and HINT on lines of their own.
    pub fn report(&self) -> String {
        format!("ERROR:  {}", self.text())
    }

    /// What another process is to show to a user: the report without its first label.
    pub fn text(&self) -> String {
        let mut text = format!("{self:#}");
        if let Some(detail) = self.detail_text() {
            text.push_str(&format!("\nDETAIL:  {detail}"));
        }
        if let Some(hint) = self.hint_text() {
            text.push_str(&format!("\nHINT:  {hint}"));
        }
        text
    }
}

/// Message, detail and hint of a report, whose labels are each at the beginning of a line.
pub fn parts(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (text, hint) = split(text, "\nHINT:");
    let (message, detail) = split(text, "\nDETAIL:");
    (message, detail, hint)
}

fn split<'a>(text: &'a str, label: &str) -> (&'a str, Option<&'a str>) {
    match text.split_once(label) {
        Some((before, after)) => (before, Some(after.trim_start())),
        None => (text, None),
    }
}

/// A dropped connection shows as a closed client or as an I/O error somewhere below.
fn is_connection_lost(e: &postgres::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(e);
    while let Some(error) = cause {
        if error.is::<std::io::Error>() {
            return true;
        }
        cause = error.source();
    }
    e.is_closed()
}

/// Of a CONTEXT, whose other lines are statements and rows and so may show values.
fn outermost_function(context: &str) -> Option<String> {
    let is_function =
        |line: &&str| line.contains("PL/") && !line.starts_with("SQL") && !line.starts_with("COPY");
    context.lines().rfind(is_function).map(str::to_owned)
}

/// Servers end details and hints with a full stop already, most of the time.
fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?', ':', '"', ')', '\n']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() {
            let mut cause = StdError::source(self);
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}\n{}", self.0.kind, self.0.sqlstate, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_all_parts() {
        let cause = std::io::Error::other("connection reset by peer");
        let e = Error::new(Kind::Connection, "could not read the log")
            .source(cause)
            .detail("The master went away.")
            .hint("Wait for it.");
        assert_eq!(e.to_string(), "could not read the log");
        assert_eq!(
            e.report(),
            "ERROR:  could not read the log: connection reset by peer\nDETAIL:  The master went away.\nHINT:  Wait for it."
        );
    }

    #[test]
    fn a_report_is_taken_apart() {
        let e = Error::new(Kind::Apply, "no").detail("It is so.").hint("Do it.");
        assert_eq!(parts(&e.report()), ("ERROR:  no", Some("It is so."), Some("Do it.")));
        assert_eq!(parts("one\ntwo"), ("one\ntwo", None, None));
        for e in [e, Error::new(Kind::Apply, "no"), Error::new(Kind::Apply, "no").hint("Do it.")] {
            assert_eq!(Error::from_text(Kind::Apply, &e.text()).report(), e.report());
        }
    }

    #[test]
    fn exit_codes() {
        let check = |kind, code| assert_eq!(Error::new(kind, "x").exit_code(), code);
        check(Kind::Usage, 2);
        check(Kind::Config, 2);
        check(Kind::Conflict, 1);
        check(Kind::Stopped, 0);
    }
}
