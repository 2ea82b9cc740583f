//! Opens connections to master and slaves, with every setting pinned on which the meaning of data depends.
//!
//! In: a checked `Dsn`. Out: a session ready for use, or an error that says whom it could not reach and why.
//! Invariants: no session runs without its pinned settings, whatever role or database have set; values read
//! from one side as text mean the same on the other; no connection attempt outlasts its timeout.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::error::SqlState;
use postgres_openssl::MakeTlsConnector;

use crate::config::Slave;
use crate::dsn::{Dsn, Host, SslMode};
use crate::error::{self, Error, Kind, Result};
use crate::logging;
use crate::quote;
use crate::tls::tls;
use crate::wake::{Cancels, Stop};

use either::Token;
pub use either::{Ask, Session};

mod either;

/// Both sides: the text form of every value, and no limit that would end a session of ours for being patient.
const PINNED: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("array_nulls", "on"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    // Names come out qualified and nobody's objects get in before PostgreSQL's own.
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    // The server ends sessions of an agent whose machine is gone within a minute, and with them their locks.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("jit", "off"),
];

/// The log is never analysed (it is emptied before statistics could be of use), so the planner is told.
const PINNED_MASTER: &[(&str, &str)] = &[("enable_seqscan", "off"), ("default_transaction_read_only", "off")];

const PINNED_SLAVE: &[(&str, &str)] = &[
    ("default_transaction_read_only", "off"),
    // What is reported as applied must survive a crash of the slave.
    ("synchronous_commit", "on"),
    ("check_function_bodies", "off"),
];

/// Opens a session on the master; the purpose shows in `pg_stat_activity`.
pub fn connect_master<S: Session>(dsn: &Dsn, purpose: &str) -> Result<S> {
    let mut client: S = connect(dsn, "master", purpose)?;
    pin(&mut client, "master", PINNED_MASTER)?;
    Ok(client)
}

/// Opens a session on a slave, in which triggers and foreign keys of the slave rest where that is allowed.
pub fn connect_slave<S: Session>(slave: &Slave) -> Result<S> {
    let what = format!("slave \"{}\"", slave.name);
    let mut client: S = connect(&slave.dsn, &what, &slave.name)?;
    pin(&mut client, &what, PINNED_SLAVE)?;
    if let Err(e) = client.batch_execute("set session_replication_role = replica") {
        if e.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            return Err(Error::from_pg(format!("could not set session_replication_role on {what}"), e));
        }
        warn_role_once(slave);
    }
    Ok(client)
}

/// Statements for many rows are joins with `unnest`, of which the planner knows neither how many rows it gives nor that
/// they are few: it would hash and scan the whole table. A generic plan by index is right for any number of them.
const BY_INDEX: [&str; 3] = ["enable_seqscan", "enable_hashjoin", "enable_mergejoin"];

/// Makes the session plan by index whatever the estimates are.
pub fn plan_by_index(client: &mut impl Session) -> std::result::Result<(), postgres::Error> {
    let off: Vec<String> = BY_INDEX.iter().map(|name| format!("set {name} = off; ")).collect();
    client.batch_execute(&format!("{}set plan_cache_mode = force_generic_plan", off.concat()))
}

/// SQL that lets the rest of the transaction be planned as any other: it runs what is not ours.
pub fn plan_as_usual() -> String {
    let usual = |name: &&str| format!("set local {name} to default; ");
    BY_INDEX.iter().chain(&["plan_cache_mode"]).map(usual).collect()
}

/// SQL that pins the settings of a slave's session once more, after something that is not ours may have changed them.
pub fn pin_again() -> String {
    // What waits for the slave's disk depends on the kind of commit.
    let pinned = PINNED.iter().chain(PINNED_SLAVE).filter(|(name, _)| *name != "synchronous_commit");
    pinned.map(|(name, value)| format!("set {name} = '{value}';")).collect()
}

/// Do triggers and foreign keys rest in this session? If not, they see each change.
pub const IS_REPLICA: &str = "select current_setting('session_replication_role') = 'replica'";

pub fn is_replica(client: &mut impl Session) -> std::result::Result<bool, postgres::Error> {
    let row = client.query_one(IS_REPLICA, &[])?;
    Ok(row.get(0))
}

/// Ends what a session is doing, from another thread: a statement that waits for a lock, or a COPY.
pub struct Canceller {
    token: Token,
    tls: Option<MakeTlsConnector>,
}

impl Canceller {
    pub fn new(dsn: &Dsn, client: &impl Session) -> Result<Canceller> {
        let encrypted = dsn.ssl_mode != SslMode::Disable && !dsn.hosts.iter().all(Host::is_socket);
        let tls = if encrypted { Some(tls(dsn, "could not prepare to cancel")?) } else { None };
        Ok(Canceller { token: client.cancel_token(), tls })
    }

    /// Asks the server; whether it came in time shows in the session itself.
    pub fn cancel(&self) -> Result<()> {
        self.token.cancel(self.tls.clone()).map_err(|e| Error::from_pg("could not cancel a statement", e))
    }
}

/// Does some work; when the order to stop comes meanwhile, the sessions are cancelled so that it ends soon.
pub fn cancel_on_stop<T>(stop: &Stop, cancels: &Cancels, work: impl FnOnce() -> T) -> T {
    let (working, done) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(logging::inherit(move || {
            crossbeam_channel::select! {
                recv(done) -> _ => {}
                recv(stop.receiver()) -> _ => cancels.cancel(),
            }
        }));
        let result = work();
        drop(working);
        result
    })
}

/// What to run on a slave so that its triggers do not fire for what is applied.
pub fn replication_role_grant(user: &str) -> String {
    format!("GRANT SET ON PARAMETER session_replication_role TO {}", quote::ident(user))
}

/// Key of the advisory lock on the master by which one agent is elected for a slave; with an empty slave
/// name, for an atomic group.
///
/// FNV-1a over both names: the same in every version and on every machine.
pub fn lock_key(agent: &str, slave: &str) -> i64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in [b"pyreplica", agent.as_bytes(), slave.as_bytes()].join(&0) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash as i64
}

fn warn_role_once(slave: &Slave) {
    static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(slave.name.clone()) {
        log::warn!(
            "role \"{}\" may not set session_replication_role on slave \"{}\": its triggers and foreign keys fire \
             for replicated changes too; to change that run there as superuser: {}",
            slave.dsn.user(),
            slave.name,
            replication_role_grant(slave.dsn.user())
        );
    }
}

fn pin(client: &mut impl Session, what: &str, more: &[(&str, &str)]) -> Result<()> {
    let settings: String =
        PINNED.iter().chain(more).map(|(name, value)| format!("set {name} = '{value}';")).collect();
    client
        .batch_execute(&settings)
        .map_err(|e| Error::from_pg(format!("could not set up the session on {what}"), e))
}

/// Tries the hosts in their order, as libpq does.
fn connect<S: Session>(dsn: &Dsn, what: &str, purpose: &str) -> Result<S> {
    let mut failures: Vec<Error> = Vec::new();
    for host in &dsn.hosts {
        let place = format!(
            "could not connect to {what} (host {}, port {}, database {}, user {})",
            host.name, host.port, dsn.dbname, dsn.user
        );
        match connect_host(dsn, host, &place, purpose) {
            Ok(client) => return Ok(client),
            Err(e) => failures.push(e),
        }
    }
    let Some(last) = failures.pop() else {
        return Err(Error::new(Kind::Config, format!("no host to connect to for {what}")));
    };
    Err(match failures.is_empty() {
        true => last,
        false => {
            let others: Vec<_> = failures.iter().map(|e| format!("{e:#}")).collect();
            last.detail(format!("Tried before: {}.", others.join("; ")))
        }
    })
}

fn connect_host<S: Session>(dsn: &Dsn, host: &Host, place: &str, purpose: &str) -> Result<S> {
    let plain = |mode| client_config(dsn, host, purpose, mode);
    let wrong_side = |e: &postgres::Error| e.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    // TLS is never used over a Unix-domain socket. Where libpq may choose, it tries the other way when
    // pg_hba.conf refuses the first.
    let tried = match if host.is_socket() { SslMode::Disable } else { dsn.ssl_mode } {
        SslMode::Disable => within(dsn, plain(postgres::config::SslMode::Disable), None),
        SslMode::Allow => match within(dsn, plain(postgres::config::SslMode::Disable), None) {
            Err(Failure::Server(e)) if wrong_side(&e) => {
                within(dsn, plain(postgres::config::SslMode::Require), Some(tls(dsn, place)?))
            }
            tried => tried,
        },
        SslMode::Prefer => {
            match within(dsn, plain(postgres::config::SslMode::Prefer), Some(tls(dsn, place)?)) {
                Err(Failure::Server(e)) if wrong_side(&e) => {
                    within(dsn, plain(postgres::config::SslMode::Disable), None)
                }
                tried => tried,
            }
        }
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            within(dsn, plain(postgres::config::SslMode::Require), Some(tls(dsn, place)?))
        }
    };
    tried.map_err(|failure| match failure {
        Failure::Timeout(limit) => {
            Error::new(Kind::Connection, format!("{place}: no answer within {} s", limit.as_secs()))
                .hint("Is the server running, and can this machine reach it? connect_timeout in the dsn sets the limit.")
        }
        Failure::Server(e) => explain(dsn, place, e),
    })
}

/// Adds what to do next where the cause alone does not say it.
fn explain(dsn: &Dsn, place: &str, e: postgres::Error) -> Error {
    let Some(code) = e.code().cloned() else {
        return explain_unanswered(place, &e);
    };
    let error = Error::from_pg(place, e).with_kind(Kind::Connection);
    match code {
        SqlState::INVALID_PASSWORD => {
            error.hint("Correct the password in the dsn, PGPASSWORD or the password file.")
        }
        SqlState::INVALID_CATALOG_NAME => {
            let create = format!("CREATE DATABASE {}", quote::ident(&dsn.dbname));
            error.hint(format!("Create it with {create}, or correct dbname in the dsn."))
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            error.hint("Create the role, or add a line for it to pg_hba.conf of that server and reload it.")
        }
        SqlState::TOO_MANY_CONNECTIONS => error.hint(format!(
            "Raise the limit that is reached there: ALTER ROLE {} CONNECTION LIMIT ..., or max_connections in \
             postgresql.conf; docs/operations.md says how many sessions an agent takes.",
            quote::ident(&dsn.user)
        )),
        _ => error,
    }
}

/// An error that did not come from the server.
fn explain_unanswered(place: &str, e: &postgres::Error) -> Error {
    let text = format!("{place}: {}", error::with_causes(e));
    let hint = if text.contains("certificate verify failed") {
        "The certificate of the server must be signed by one in sslrootcert and, with sslmode=verify-full, name the host."
    } else if text.contains("does not support TLS") {
        "Set ssl = on in postgresql.conf of that server, or choose another sslmode."
    } else if text.contains("password missing") {
        "Put the password into the dsn, PGPASSWORD or the password file."
    } else if text.contains("error connecting to server") {
        "Is the server running there, and does it accept connections on that port?"
    } else {
        return Error::new(Kind::Connection, text);
    };
    Error::new(Kind::Connection, text).hint(hint)
}

enum Failure {
    Server(postgres::Error),
    Timeout(Duration),
}

/// Connects on a thread of its own: the library's timeout ends with the TCP handshake, and a server that
/// takes a connection and then says nothing would hold us for ever.
fn within<S: Session>(
    dsn: &Dsn,
    config: tokio_postgres::Config,
    tls: Option<MakeTlsConnector>,
) -> std::result::Result<S, Failure> {
    let connect = move || S::open(config, tls);
    let Some(limit) = dsn.connect_timeout else { return connect().map_err(Failure::Server) };
    let (sender, receiver) = crossbeam_channel::bounded(1);
    std::thread::spawn(logging::inherit(move || {
        // Nobody listens any more when it took too long; then the connection is closed here.
        sender.send(connect()).ok();
    }));
    match receiver.recv_timeout(limit) {
        Ok(connected) => connected.map_err(Failure::Server),
        Err(_) => Err(Failure::Timeout(limit)),
    }
}

fn client_config(
    dsn: &Dsn,
    host: &Host,
    purpose: &str,
    mode: postgres::config::SslMode,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(&host.name).port(host.port).user(&dsn.user).dbname(&dsn.dbname).ssl_mode(mode);
    if let Some(addr) = host.addr {
        config.hostaddr(addr);
    }
    if let Some(password) = dsn.password(host) {
        config.password(password);
    }
    if let Some(options) = &dsn.options {
        config.options(options);
    }
    if let Some(limit) = dsn.connect_timeout {
        config.connect_timeout(limit);
    }
    let keepalives = dsn.keepalives;
    config
        .application_name(dsn.application_name.as_deref().unwrap_or(&format!("replica_agent {purpose}")))
        .target_session_attrs(dsn.target_session_attrs)
        .channel_binding(dsn.channel_binding)
        .keepalives(keepalives.on)
        .keepalives_idle(keepalives.idle)
        .keepalives_interval(keepalives.interval)
        .keepalives_retries(keepalives.count);
    if !keepalives.user_timeout.is_zero() {
        config.tcp_user_timeout(keepalives.user_timeout);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres::Client;

    #[test]
    fn lock_keys_tell_agents_and_slaves_apart() {
        assert_eq!(lock_key("shop", "reports"), lock_key("shop", "reports"));
        assert_ne!(lock_key("shop", "reports"), lock_key("shop", "archive"));
        assert_ne!(lock_key("a", "bc"), lock_key("ab", "c"));
        // Written down: two versions of the agent must compete for the same lock.
        assert_eq!(lock_key("shop", "reports"), -2_404_445_750_313_270_675);
    }

    #[test]
    fn a_server_that_never_answers_is_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let dsn = Dsn::parse(&format!(
            "host=127.0.0.1 port={port} user=ann dbname=shop password=secret sslmode=disable connect_timeout=2"
        ))
        .unwrap();
        let text = format!("{:#}", connect_master::<Client>(&dsn, "test").err().unwrap());
        assert!(text.contains("could not connect to master (host 127.0.0.1"), "{text}");
        assert!(text.contains("no answer within 2 s"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
