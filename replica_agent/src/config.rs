//! The configuration file, checked.
//!
//! In: the path of agent.toml. Out: a `Config` in which every name, number and connection string is valid.
//! Invariants: names fit into the identifier of a prepared transaction; no text of the file reaches an error
//! message where it could be part of a password. Nothing is opened but the file.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::dsn::{nearest, Dsn};
use crate::error::{Error, Kind, Result};

/// PostgreSQL's limit for the identifier of a prepared transaction is 200 bytes with the final NUL; ours is
/// `pyreplica:<agent>:<slave>:<batch>` with at most 19 digits.
const NAMES_BYTES_MAX: usize = 199 - "pyreplica:::".len() - 19;

#[derive(Clone, Debug)]
pub struct Config {
    pub master: Master,
    pub agent: Agent,
    pub slaves: Vec<Slave>,
}

#[derive(Clone, Debug)]
pub struct Master {
    pub dsn: Dsn,
}

#[derive(Clone, Debug)]
pub struct Agent {
    /// None: the name of the master's database; see `Config::agent_name`.
    pub name: Option<String>,
    pub commit: CommitMode,
    /// A batch ends after the transaction that reaches one of these.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    /// Tables of a slave that are copied at the same time.
    pub copy_jobs: usize,
    /// How long to trust that NOTIFY would have told.
    pub timer: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitMode {
    /// Each slave by itself.
    #[default]
    Independent,
    /// All slaves or none.
    Atomic,
}

#[derive(Clone, Debug)]
pub struct Slave {
    pub name: String,
    pub dsn: Dsn,
    pub initial: Initial,
    /// Whether the agent makes the tables that are not there.
    pub schema: bool,
    pub two_phase: bool,
    pub apply: Apply,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Apply {
    /// The net effect of many changes, in statements for many rows.
    #[default]
    Net,
    /// Each change by itself.
    Exact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// Copy the tables first.
    #[default]
    Copy,
    /// Both sides are in step now.
    Current,
    /// Replay all that the log still holds.
    Oldest,
}

/// The file as it is written. Unknown keys have been found before, with the nearest known one.
#[derive(Deserialize)]
struct File {
    master: FileMaster,
    #[serde(default)]
    agent: FileAgent,
    #[serde(default)]
    slave: Vec<FileSlave>,
}

#[derive(Deserialize)]
struct FileMaster {
    dsn: String,
}

#[derive(Deserialize)]
#[serde(default)]
struct FileAgent {
    name: Option<String>,
    commit: CommitMode,
    batch_rows: usize,
    batch_bytes: usize,
    copy_jobs: usize,
    timer_seconds: f64,
}

impl Default for FileAgent {
    fn default() -> Self {
        FileAgent {
            name: None,
            commit: CommitMode::default(),
            // Few enough that a slave is not a second behind for the batch alone, many enough that the two flushes
            // of a two-phase commit are not felt.
            batch_rows: 50_000,
            batch_bytes: 4 * 1024 * 1024,
            // One processor for each is what pays; more is for machines that have them.
            copy_jobs: 2,
            timer_seconds: 5.0,
        }
    }
}

#[derive(Deserialize)]
struct FileSlave {
    name: String,
    dsn: String,
    #[serde(default)]
    initial: Initial,
    #[serde(default)]
    schema: bool,
    #[serde(default = "yes")]
    two_phase: bool,
    #[serde(default)]
    apply: Apply,
}

fn yes() -> bool {
    true
}

const TOP_KEYS: &[&str] = &["master", "agent", "slave"];
const MASTER_KEYS: &[&str] = &["dsn"];
const AGENT_KEYS: &[&str] = &["name", "commit", "batch_rows", "batch_bytes", "copy_jobs", "timer_seconds"];
const SLAVE_KEYS: &[&str] = &["name", "dsn", "initial", "schema", "two_phase", "apply"];

impl Config {
    pub fn load(path: &Path) -> Result<Config> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| {
            let error =
                Error::new(Kind::Config, format!("could not read configuration file \"{shown}\": {e}"));
            match e.kind() {
                std::io::ErrorKind::NotFound => error.hint("Name the file with --config."),
                std::io::ErrorKind::PermissionDenied => {
                    error.hint("The user that runs the agent needs to be able to read it.")
                }
                _ => error,
            }
        })?;
        Config::parse(&text).map_err(|e| within(&format!("configuration file \"{shown}\""), e))
    }

    pub fn parse(text: &str) -> Result<Config> {
        let table: toml::Table = text.parse().map_err(|e| bad_toml(text, &e))?;
        check_keys(&table)?;
        let file: File = toml::from_str(text).map_err(|e| bad_toml(text, &e))?;

        let config = Config {
            master: Master { dsn: Dsn::parse(&file.master.dsn).map_err(|e| within("dsn of the master", e))? },
            agent: agent(file.agent)?,
            slaves: file.slave.into_iter().map(slave).collect::<Result<_>>()?,
        };
        config.check()?;
        Ok(config)
    }

    /// The agent's part in positions, locks and the identifiers of prepared transactions.
    pub fn agent_name(&self) -> &str {
        self.agent.name.as_deref().unwrap_or(self.master.dsn.dbname())
    }

    /// The slave of that name.
    pub fn slave(&self, name: &str) -> Result<&Slave> {
        self.slaves.iter().find(|slave| slave.name == name).ok_or_else(|| {
            let names: Vec<_> = self.slaves.iter().map(|slave| slave.name.as_str()).collect();
            Error::new(Kind::Usage, format!("there is no slave \"{name}\" in the configuration"))
                .hint(format!("There is: {}.", names.join(", ")))
        })
    }

    fn check(&self) -> Result<()> {
        if self.slaves.is_empty() {
            return Err(invalid("no slave is configured").hint("Add a [[slave]] with name and dsn."));
        }
        check_name("agent", self.agent_name()).map_err(|e| match self.agent.name {
            Some(_) => e,
            None => {
                e.hint("It is the name of the master's database; give another with name = ... in [agent].")
            }
        })?;
        for (i, slave) in self.slaves.iter().enumerate() {
            check_name("slave", &slave.name)?;
            let bytes = self.agent_name().len() + slave.name.len();
            if bytes > NAMES_BYTES_MAX {
                return Err(invalid(format!("name of slave \"{}\" is too long", slave.name)).detail(format!(
                    "The names of agent and slave have {bytes} bytes together; there is room for {NAMES_BYTES_MAX} \
                     in the identifier of a prepared transaction."
                )));
            }
            if self.slaves[..i].iter().any(|other| other.name == slave.name) {
                return Err(invalid(format!("two slaves have the name \"{}\"", slave.name))
                    .hint("The name tells their positions apart; give each its own."));
            }
            if let Some(other) = self.slaves[..i].iter().find(|other| other.dsn.same_database(&slave.dsn)) {
                return Err(invalid(format!(
                    "slaves \"{}\" and \"{}\" are the same database",
                    other.name, slave.name
                ))
                .detail(format!("Both lead to {}.", slave.dsn)));
            }
            if slave.dsn.same_database(&self.master.dsn) {
                return Err(invalid(format!("slave \"{}\" is the master itself", slave.name))
                    .detail(format!("Both lead to {}.", slave.dsn)));
            }
            if slave.schema && slave.initial != Initial::Copy {
                return Err(invalid(format!("slave \"{}\" cannot have schema = true", slave.name)).detail(
                    "It makes tables for the initial copy, and the slave has another initial than \"copy\".",
                ));
            }
            if self.agent.commit == CommitMode::Atomic && !slave.two_phase {
                return Err(invalid(format!("slave \"{}\" cannot have two_phase = false", slave.name))
                    .detail(
                        "The agent has commit = \"atomic\", which needs PREPARE TRANSACTION on every slave.",
                    ));
            }
        }
        Ok(())
    }
}

/// The same error, with the place in front.
fn within(place: &str, e: Error) -> Error {
    let mut placed = Error::new(e.kind(), format!("{place}: {e:#}"));
    if let Some(detail) = e.detail_text() {
        placed = placed.detail(detail);
    }
    if let Some(hint) = e.hint_text() {
        placed = placed.hint(hint);
    }
    placed
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Config, message)
}

/// Only the parser's message and the place: what it would quote may hold a password.
fn bad_toml(text: &str, e: &toml::de::Error) -> Error {
    let line = e.span().map(|span| {
        1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count()
    });
    let message = e.message().lines().collect::<Vec<_>>().join(", ");
    match line {
        Some(line) => invalid(format!("line {line}: {message}")),
        None => invalid(message),
    }
}

fn check_keys(table: &toml::Table) -> Result<()> {
    known_keys(table, TOP_KEYS, "at the top level")?;
    for (name, keys) in [("master", MASTER_KEYS), ("agent", AGENT_KEYS)] {
        match table.get(name) {
            Some(toml::Value::Table(inner)) => known_keys(inner, keys, &format!("in [{name}]"))?,
            Some(_) => {
                return Err(
                    invalid(format!("\"{name}\" is not a table")).hint(format!("Write it as [{name}]."))
                )
            }
            None if name == "master" => {
                return Err(invalid("[master] is missing").hint("Add [master] with the dsn of the master."))
            }
            None => {}
        }
    }
    match table.get("slave") {
        Some(toml::Value::Array(slaves)) => {
            for (i, slave) in slaves.iter().enumerate() {
                let toml::Value::Table(slave) = slave else {
                    return Err(invalid("\"slave\" is not a list of tables").hint("Write each as [[slave]]."));
                };
                let place = match slave.get("name").and_then(toml::Value::as_str) {
                    Some(name) => format!("in [[slave]] \"{name}\""),
                    None => format!("in [[slave]] number {}", i + 1),
                };
                known_keys(slave, SLAVE_KEYS, &place)?;
                for needed in ["name", "dsn"] {
                    if !slave.contains_key(needed) {
                        return Err(invalid(format!("key \"{needed}\" is missing {place}")));
                    }
                }
            }
            Ok(())
        }
        Some(_) => Err(invalid("\"slave\" is not a list of tables")
            .hint("Write each slave as [[slave]], with two brackets.")),
        None => Ok(()),
    }
}

fn known_keys(table: &toml::Table, known: &[&str], place: &str) -> Result<()> {
    for key in table.keys() {
        if !known.contains(&key.as_str()) {
            let error = invalid(format!("unknown key \"{key}\" {place}"));
            return Err(match nearest(key, known.iter().copied()) {
                Some(near) => error.hint(format!("Perhaps you meant \"{near}\".")),
                None => error.hint(format!("Known are: {}.", known.join(", "))),
            });
        }
    }
    Ok(())
}

fn agent(file: FileAgent) -> Result<Agent> {
    let positive = |key: &str, value: usize| match value {
        0 => Err(invalid(format!("{key} in [agent] cannot be 0"))),
        _ => Ok(value),
    };
    if !(0.1..=3600.0).contains(&file.timer_seconds) {
        return Err(invalid("timer_seconds in [agent] is not between 0.1 and 3600"));
    }
    Ok(Agent {
        name: file.name,
        commit: file.commit,
        batch_rows: positive("batch_rows", file.batch_rows)?,
        batch_bytes: positive("batch_bytes", file.batch_bytes)?,
        copy_jobs: positive("copy_jobs", file.copy_jobs)?,
        timer: Duration::from_secs_f64(file.timer_seconds),
    })
}

fn slave(file: FileSlave) -> Result<Slave> {
    let dsn = Dsn::parse(&file.dsn).map_err(|e| within(&format!("dsn of slave \"{}\"", file.name), e))?;
    let FileSlave { name, initial, schema, two_phase, apply, .. } = file;
    Ok(Slave { name, dsn, initial, schema, two_phase, apply })
}

/// A colon would make one prefix of prepared transactions the beginning of another's.
fn check_name(what: &str, name: &str) -> Result<()> {
    let fault = if name.is_empty() {
        "is empty"
    } else if name.contains(':') {
        "contains a colon"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else if name.trim() != name {
        "begins or ends with a blank"
    } else {
        return Ok(());
    };
    Err(invalid(format!("name of {what} {name:?} {fault}")))
}

#[cfg(test)]
mod tests;
