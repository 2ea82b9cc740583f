//! Connection strings: what libpq understands of them, taken apart and checked.
//!
//! In: `dsn` of the configuration (keyword/value or URI), the PG* variables, the password file.
//! Out: a `Dsn`, from which `session.rs` opens connections.
//! Invariant: a password is never shown, neither by `Debug` nor `Display` nor in the text of an error; so no
//! error repeats a piece of the string that may belong to one.

mod environment;
mod syntax;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::pgpass;

const DEFAULT_PORT: u16 = 5432;
/// Where Debian's packages put the socket; libpq there is built with the same default.
const DEFAULT_SOCKET_DIR: &str = "/var/run/postgresql";
/// A server that does not answer at all must not hold up a shutdown for minutes.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What may stand in a connection string, and the variable that is its default.
const KEYWORDS: &[(&str, Option<&str>)] = &[
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("port", Some("PGPORT")),
    ("dbname", Some("PGDATABASE")),
    ("user", Some("PGUSER")),
    ("password", Some("PGPASSWORD")),
    ("passfile", Some("PGPASSFILE")),
    ("sslmode", Some("PGSSLMODE")),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslkey", Some("PGSSLKEY")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("application_name", Some("PGAPPNAME")),
    ("fallback_application_name", None),
    ("options", Some("PGOPTIONS")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("client_encoding", None),
    ("keepalives", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("keepalives_count", None),
    ("tcp_user_timeout", None),
];

/// What libpq knows besides: refused, since leaving it out could weaken what was asked for.
const UNSUPPORTED: &[&str] = &[
    "gssdelegation",
    "gsslib",
    "krbsrvname",
    "load_balance_hosts",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A host name, an address, or the directory of a Unix-domain socket.
    pub name: String,
    pub addr: Option<IpAddr>,
    pub port: u16,
}

impl Host {
    pub fn is_socket(&self) -> bool {
        self.addr.is_none() && self.name.starts_with('/')
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalives {
    pub on: bool,
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
    /// Zero leaves it to the operating system.
    pub user_timeout: Duration,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Dsn {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) dbname: String,
    password: Option<String>,
    passfile: Option<PathBuf>,
    pub(crate) ssl_mode: SslMode,
    pub(crate) ssl_root_cert: Option<PathBuf>,
    pub(crate) ssl_cert: Option<PathBuf>,
    pub(crate) ssl_key: Option<PathBuf>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) application_name: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) target_session_attrs: postgres::config::TargetSessionAttrs,
    pub(crate) channel_binding: postgres::config::ChannelBinding,
    pub(crate) keepalives: Keepalives,
}

impl Dsn {
    /// Takes a connection string apart; what it leaves open comes from the environment of the process.
    pub fn parse(text: &str) -> Result<Dsn> {
        Dsn::parse_with(text, &|name| std::env::var(name).ok())
    }

    fn parse_with(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Dsn> {
        let mut given = Given::new(syntax::pairs(text)?)?;
        for (keyword, variable) in KEYWORDS {
            if let Some(value) = variable.and_then(env).filter(|value| !value.is_empty()) {
                given.0.entry((*keyword).into()).or_insert(value);
            }
        }
        let user = match given.take("user") {
            Some(user) => user,
            None => whoami::username().map_err(|e| {
                invalid("no user name given and that of the operating system is not known")
                    .hint("Put user=... into the dsn.")
                    .source(e)
            })?,
        };
        let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let in_home = |file: &str| home.as_ref().map(|home| home.join(file));
        Ok(Dsn {
            hosts: hosts(&mut given)?,
            dbname: given.take("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: given.take("password"),
            passfile: given.take("passfile").map(PathBuf::from).or_else(|| in_home(".pgpass")),
            ssl_mode: given.word("sslmode", SslMode::Prefer, SSL_MODES)?,
            ssl_root_cert: given
                .take("sslrootcert")
                .map(PathBuf::from)
                .or_else(|| in_home(".postgresql/root.crt").filter(|file| file.exists())),
            ssl_cert: given
                .take("sslcert")
                .map(PathBuf::from)
                .or_else(|| in_home(".postgresql/postgresql.crt").filter(|file| file.exists())),
            ssl_key: given
                .take("sslkey")
                .map(PathBuf::from)
                .or_else(|| in_home(".postgresql/postgresql.key")),
            connect_timeout: match given.number("connect_timeout")? {
                None => Some(DEFAULT_CONNECT_TIMEOUT),
                Some(0) => None,
                // libpq does not go below two seconds either: a busy server takes that long to fork.
                Some(seconds) => Some(Duration::from_secs(seconds.max(2).into())),
            },
            application_name: given.take("application_name").or(given.take("fallback_application_name")),
            options: given.take("options"),
            target_session_attrs: given.word(
                "target_session_attrs",
                postgres::config::TargetSessionAttrs::Any,
                SESSION_ATTRS,
            )?,
            channel_binding: given.word(
                "channel_binding",
                postgres::config::ChannelBinding::Prefer,
                CHANNEL_BINDINGS,
            )?,
            keepalives: Keepalives {
                on: given.number("keepalives")?.unwrap_or(1) != 0,
                // A firewall that forgets a connection, or a host that vanished, is noticed within a minute
                // or so and not after the two hours that are usual.
                idle: Duration::from_secs(given.number("keepalives_idle")?.unwrap_or(30).into()),
                interval: Duration::from_secs(given.number("keepalives_interval")?.unwrap_or(10).into()),
                count: given.number("keepalives_count")?.unwrap_or(3),
                user_timeout: Duration::from_millis(given.number("tcp_user_timeout")?.unwrap_or(0).into()),
            },
        })
        .and_then(|dsn| {
            given.word("gssencmode", (), &[("disable", ()), ("prefer", ())])?;
            given.word("client_encoding", (), &[("utf8", ()), ("UTF8", ()), ("auto", ())])?;
            Ok(dsn)
        })
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether both lead to one database, as far as the strings tell; `check` asks the servers.
    pub fn same_database(&self, other: &Dsn) -> bool {
        self.dbname == other.dbname && self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// The password for one of the hosts: the one given, else the one in the password file, which is read
    /// each time so that a password can be changed under a running agent.
    pub(crate) fn password(&self, host: &Host) -> Option<String> {
        self.password.clone().or_else(|| {
            let name =
                if host.is_socket() && host.name == DEFAULT_SOCKET_DIR { "localhost" } else { &host.name };
            pgpass::look_up(self.passfile.as_deref()?, name, host.port, &self.dbname, &self.user)
        })
    }
}

/// For people: where it leads.
impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("host ")?;
        for (i, host) in self.hosts.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}:{}", host.name, host.port)?;
        }
        write!(f, ", database \"{}\", user \"{}\"", self.dbname, self.user)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dsn({self}, password=***, sslmode={:?})", self.ssl_mode)
    }
}

const SSL_MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

const SESSION_ATTRS: &[(&str, postgres::config::TargetSessionAttrs)] = &[
    ("any", postgres::config::TargetSessionAttrs::Any),
    ("read-write", postgres::config::TargetSessionAttrs::ReadWrite),
    ("primary", postgres::config::TargetSessionAttrs::ReadWrite),
    ("read-only", postgres::config::TargetSessionAttrs::ReadOnly),
];

const CHANNEL_BINDINGS: &[(&str, postgres::config::ChannelBinding)] = &[
    ("disable", postgres::config::ChannelBinding::Disable),
    ("prefer", postgres::config::ChannelBinding::Prefer),
    ("require", postgres::config::ChannelBinding::Require),
];

/// The options of a string, each taken out once; the keywords are known ones.
struct Given(HashMap<String, String>);

impl Given {
    fn new(pairs: Vec<(String, String)>) -> Result<Given> {
        let mut map = HashMap::new();
        let mut after_password = false;
        for (keyword, value) in pairs {
            if UNSUPPORTED.contains(&keyword.as_str()) {
                return Err(invalid(format!("connection option \"{keyword}\" is not supported")));
            }
            if !KEYWORDS.iter().any(|(known, _)| *known == keyword) {
                let known = KEYWORDS.iter().map(|(known, _)| *known);
                // "password=a b=c" forgot the quotes: what follows is part of the secret.
                return Err(match nearest(&keyword, known) {
                    _ if after_password => {
                        invalid("unknown connection option after the password").hint(QUOTE_HINT)
                    }
                    Some(near) => invalid(format!("unknown connection option \"{keyword}\""))
                        .hint(format!("Perhaps you meant \"{near}\".")),
                    None => invalid(format!("unknown connection option \"{keyword}\"")),
                });
            }
            after_password = keyword == "password";
            // As in libpq an empty value means the default, and the last of two counts.
            if value.is_empty() {
                map.remove(&keyword);
            } else {
                map.insert(keyword, value);
            }
        }
        Ok(Given(map))
    }

    fn take(&mut self, keyword: &str) -> Option<String> {
        self.0.remove(keyword)
    }

    fn number(&mut self, keyword: &str) -> Result<Option<u32>> {
        self.take(keyword)
            .map(|value| {
                value
                    .trim()
                    .parse()
                    .map_err(|_| invalid(format!("connection option \"{keyword}\" is not a number")))
            })
            .transpose()
    }

    fn word<T: Copy>(&mut self, keyword: &str, default: T, words: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.take(keyword) else { return Ok(default) };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == value) {
            return Ok(*meaning);
        }
        let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        Err(invalid(format!("connection option \"{keyword}\" cannot be \"{value}\""))
            .hint(format!("It can be: {}.", all.join(", "))))
    }
}

const QUOTE_HINT: &str =
    "Put a value with blanks into single quotes, as in password='a b'; \\' and \\\\ stand for ' and \\.";

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}

/// The known word that a mistyped one is nearest to, if any is near.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
        .map(|(_, known)| known)
}

fn hosts(given: &mut Given) -> Result<Vec<Host>> {
    let list = |value: Option<String>| -> Vec<String> {
        value.map(|value| value.split(',').map(|item| item.trim().to_owned()).collect()).unwrap_or_default()
    };
    let names = list(given.take("host"));
    let addrs = list(given.take("hostaddr"));
    let ports = list(given.take("port"));
    let count = names.len().max(addrs.len()).max(1);
    if !names.is_empty() && !addrs.is_empty() && names.len() != addrs.len() {
        return Err(invalid(format!(
            "{} host names do not match {} addresses in hostaddr",
            names.len(),
            addrs.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(invalid(format!("{} ports do not match {count} hosts", ports.len())));
    }
    (0..count)
        .map(|i| {
            let addr = match addrs.get(i).filter(|addr| !addr.is_empty()) {
                Some(addr) => Some(
                    addr.parse().map_err(|_| invalid(format!("hostaddr \"{addr}\" is not an address")))?,
                ),
                None => None,
            };
            let name = match names.get(i).filter(|name| !name.is_empty()) {
                Some(name) => name.clone(),
                None => addr.map_or_else(|| DEFAULT_SOCKET_DIR.to_owned(), |addr: IpAddr| addr.to_string()),
            };
            // In a URI this is a password with an "@" in it: do not go on and show half of it as a host.
            if name.contains('@') && !name.starts_with('/') {
                return Err(invalid("host name contains \"@\"")
                    .hint("In a URI write %40 for an \"@\" in the user name or the password."));
            }
            let port = match ports.get(if ports.len() == 1 { 0 } else { i }).filter(|port| !port.is_empty()) {
                Some(port) => port
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| invalid("port is not a number from 1 to 65535"))?,
                None => DEFAULT_PORT,
            };
            Ok(Host { name, addr, port })
        })
        .collect()
}

#[cfg(test)]
mod tests;
