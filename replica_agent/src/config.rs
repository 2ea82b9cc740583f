//! The configuration file, checked.
//!
//! In: the path of agent.toml. Out: a `Config` in which every name, number and connection string is valid.
//! Invariants: names fit into the identifier of a prepared transaction; no text of the file reaches an error
//! message where it could be part of a password. Nothing is opened but the file.

mod check;
pub mod directory;
mod file;
mod keys;
mod mapping;
mod mail;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;

pub use mail::{Mail, Password, Tls};

use crate::dsn::Dsn;
use crate::error::{Error, Kind, Result};
use crate::logging::Format;
use crate::mapping::Mapping;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub master: Master,
    pub agent: Agent,
    pub slaves: Vec<Slave>,
    pub alerts: Alerts,
    pub logging: Logging,
}

/// Who is told of what happens. Apart from `Agent`, because a change of it disturbs no slave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alerts {
    pub mail: Option<Mail>,
    /// A program and its arguments.
    pub on_event: Option<Vec<String>>,
}

/// What is logged, and how; the same holds for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logging {
    pub format: Option<Format>,
    pub level: Option<LevelFilter>,
    /// Of slaves that have a level of their own.
    pub slaves: BTreeMap<String, LevelFilter>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Master {
    pub dsn: Dsn,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// None: the name of the master's database; see `Config::agent_name`.
    pub name: Option<String>,
    pub commit: CommitMode,
    /// A batch ends after the transaction that reaches one of these.
    pub batch_rows: usize,
    pub batch_bytes: usize,
    /// Tables of a slave that are copied at the same time.
    pub copy_jobs: usize,
    /// Tables on disk larger than this may be copied by several workers.
    pub copy_split_bytes: u64,
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

#[derive(Clone, Debug, PartialEq)]
pub struct Slave {
    pub name: String,
    pub dsn: Dsn,
    pub initial: Initial,
    /// Whether the agent makes the tables that are not there.
    pub schema: bool,
    pub two_phase: bool,
    pub apply: Apply,
    pub insert_exists: InsertExists,
    pub update_differs: UpdateDiffers,
    /// What it gets, by which names, and what becomes of the rows on the way.
    pub mapping: Arc<Mapping>,
    /// Whether its sequences follow the master's.
    pub sequences: bool,
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

/// What becomes of an INSERT where the slave has a row in its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InsertExists {
    /// The slave waits for somebody to decide.
    #[default]
    Stop,
    /// The slave's row stays.
    Keep,
    /// The master's takes its place.
    Replace,
}

/// What becomes of an UPDATE of a row that has other old values on the slave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateDiffers {
    /// The master's new values are set.
    #[default]
    Apply,
    /// The slave's row stays.
    Keep,
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
        let config = file::read(text)?;
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

#[cfg(test)]
mod tests;
