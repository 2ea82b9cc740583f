//! The configuration file as it is written: its keys, its defaults, and the settings that they become.
//!
//! In: the text. Out: a `Config` in which each value is valid by itself. Every key is known; an unknown one is an
//! error that names the nearest. A new key is a field of the raw form below, a word in its list of keys, and a field
//! of the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;

use super::mail::{mail, FileMail, MAIL_KEYS};
use super::mapping::{self, FileTable};
use super::{
    invalid, within, Agent, Alerts, Apply, CommitMode, Config, Initial, InsertExists, Logging, Master, Slave,
    UpdateDiffers,
};
use crate::dsn::{nearest, Dsn};
use crate::error::{Error, Result};
use crate::logging::Format;

pub(super) fn read(text: &str) -> Result<Config> {
    let table: toml::Table = text.parse().map_err(|e| bad_toml(text, &e))?;
    check_keys(&table)?;
    let file: File = toml::from_str(text).map_err(|e| bad_toml(text, &e))?;
    let levels = file.slave.iter().filter_map(|slave| Some((slave.name.clone(), slave.log?.into())));
    Ok(Config {
        logging: Logging {
            format: file.agent.log_format,
            level: file.agent.log.map(LevelFilter::from),
            slaves: levels.collect(),
        },
        alerts: Alerts {
            mail: file.mail.map(mail).transpose()?,
            on_event: file.agent.on_event.clone().map(on_event).transpose()?,
        },
        master: Master { dsn: Dsn::parse(&file.master.dsn).map_err(|e| within("dsn of the master", e))? },
        agent: agent(file.agent)?,
        slaves: file.slave.into_iter().map(slave).collect::<Result<_>>()?,
    })
}

/// The file as it is written. Unknown keys have been found before, with the nearest known one.
#[derive(Deserialize)]
struct File {
    master: FileMaster,
    #[serde(default)]
    agent: FileAgent,
    #[serde(default)]
    slave: Vec<FileSlave>,
    mail: Option<FileMail>,
}

/// How much is logged.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    #[serde(alias = "warn")]
    Warning,
    Info,
    Debug,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => LevelFilter::Error,
            Level::Warning => LevelFilter::Warn,
            Level::Info => LevelFilter::Info,
            Level::Debug => LevelFilter::Debug,
        }
    }
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
    log: Option<Level>,
    log_format: Option<Format>,
    on_event: Option<Vec<String>>,
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
            log: None,
            log_format: None,
            on_event: None,
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
    #[serde(default)]
    insert_exists: InsertExists,
    #[serde(default)]
    update_differs: UpdateDiffers,
    #[serde(default)]
    tables: Vec<String>,
    #[serde(default)]
    schemas: BTreeMap<String, String>,
    #[serde(default)]
    table: Vec<FileTable>,
    #[serde(default = "yes")]
    sequences: bool,
    log: Option<Level>,
}

fn yes() -> bool {
    true
}

const TOP_KEYS: &[&str] = &["master", "agent", "slave", "mail"];
const MASTER_KEYS: &[&str] = &["dsn"];
const AGENT_KEYS: &[&str] = &[
    "name",
    "commit",
    "batch_rows",
    "batch_bytes",
    "copy_jobs",
    "timer_seconds",
    "log",
    "log_format",
    "on_event",
];
const SLAVE_KEYS: &[&str] = &[
    "name",
    "dsn",
    "initial",
    "schema",
    "two_phase",
    "apply",
    "insert_exists",
    "update_differs",
    "sequences",
    "tables",
    "schemas",
    "table",
    "log",
];

fn on_event(command: Vec<String>) -> Result<Vec<String>> {
    match command.first().is_none_or(String::is_empty) {
        true => Err(invalid("on_event in [agent] names no program")
            .hint("Write it as a list: on_event = [\"/path/to/program\", \"argument\"].")),
        false => Ok(command),
    }
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
    let FileSlave { name, initial, schema, two_phase, apply, insert_exists, update_differs, .. } = file;
    let FileSlave { sequences, tables, schemas, table, .. } = file;
    let mapping = Arc::new(mapping::mapping(&name, &tables, schemas, table)?);
    Ok(Slave {
        name,
        dsn,
        initial,
        schema,
        two_phase,
        apply,
        insert_exists,
        update_differs,
        sequences,
        mapping,
    })
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
    for (name, keys) in [("master", MASTER_KEYS), ("agent", AGENT_KEYS), ("mail", MAIL_KEYS)] {
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
                mapping::check_keys(slave, &place)?;
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

pub(super) fn known_keys(table: &toml::Table, known: &[&str], place: &str) -> Result<()> {
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
