//! The configuration file as it is written: its keys, its defaults, and the settings that they become.
//!
//! In: the text. Out: a `Config` in which each value is valid by itself. Every key is known; an unknown one is an
//! error that names the nearest. A new key is a field of the raw form below, a line in its list of keys, and a field
//! of the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use log::LevelFilter;
use serde::Deserialize;

use super::keys::{self, Holds::*, Keys};
use super::mail::{mail, FileMail, MAIL_KEYS, MAIL_NEEDS};
use super::mapping::{self, FileTable};
use super::{
    invalid, within, Agent, Alerts, Apply, CommitMode, Config, Initial, InsertExists, Logging, Master, Slave,
    UpdateDiffers,
};
use crate::dsn::Dsn;
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
        agent: agent(file.agent),
        slaves: file.slave.into_iter().map(slave).collect::<Result<_>>()?,
    })
}

/// The file as it is written. Its keys have been looked at before, and what they hold.
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
    copy_split_bytes: u64,
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
            // What one session copies within a minute is not worth the sessions and the larger indexes.
            copy_split_bytes: 1024 * 1024 * 1024,
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

const TOP_KEYS: Keys = &[("master", Sections), ("agent", Sections), ("slave", Sections), ("mail", Sections)];
const MASTER_KEYS: Keys = &[("dsn", Text)];
pub(super) const AGENT_KEYS: Keys = &[
    ("name", Text),
    ("commit", Word(&["independent", "atomic"])),
    ("batch_rows", Whole(1, i64::MAX)),
    ("batch_bytes", Whole(1, i64::MAX)),
    ("copy_jobs", Whole(1, i64::MAX)),
    ("copy_split_bytes", Whole(1, i64::MAX)),
    ("timer_seconds", Number(0.1, 3600.0)),
    ("log", Word(LEVELS)),
    ("log_format", Word(&["plain", "json"])),
    ("on_event", Texts),
];
pub(super) const SLAVE_KEYS: Keys = &[
    ("name", Text),
    ("dsn", Text),
    ("initial", Word(&["copy", "current", "oldest"])),
    ("schema", Switch),
    ("two_phase", Switch),
    ("apply", Word(&["net", "exact"])),
    ("insert_exists", Word(&["stop", "keep", "replace"])),
    ("update_differs", Word(&["apply", "keep"])),
    ("sequences", Switch),
    ("tables", Texts),
    ("schemas", NamedTexts),
    ("table", Sections),
    ("log", Word(LEVELS)),
];
const LEVELS: &[&str] = &["error", "warning", "info", "debug", "warn"];

fn on_event(command: Vec<String>) -> Result<Vec<String>> {
    match command.first().is_none_or(String::is_empty) {
        true => Err(invalid("on_event in [agent] names no program")
            .hint("Write it as a list: on_event = [\"/path/to/program\", \"argument\"].")),
        false => Ok(command),
    }
}

fn agent(file: FileAgent) -> Agent {
    Agent {
        name: file.name,
        commit: file.commit,
        batch_rows: file.batch_rows,
        batch_bytes: file.batch_bytes,
        copy_jobs: file.copy_jobs,
        copy_split_bytes: file.copy_split_bytes,
        timer: Duration::from_secs_f64(file.timer_seconds),
    }
}

fn slave(file: FileSlave) -> Result<Slave> {
    let dsn = Dsn::parse(&file.dsn).map_err(|e| within(&format!("dsn of slave \"{}\"", file.name), e))?;
    let FileSlave { name, initial, schema, two_phase, apply, insert_exists, update_differs, .. } = file;
    let FileSlave { sequences, tables, schemas, table, .. } = file;
    let mapping = Arc::new(mapping::mapping(&name, &tables, schemas, table, insert_exists)?);
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

/// Only the parser's message and the place: what it would quote may hold a password. So may what it says of a value:
/// of those only numbers that no integer holds come here.
fn bad_toml(text: &str, e: &toml::de::Error) -> Error {
    let line = e.span().map(|span| {
        1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count()
    });
    let message = match e.message().starts_with("invalid type") || e.message().starts_with("invalid value") {
        true => "a value cannot be read".to_owned(),
        false => e.message().lines().collect::<Vec<_>>().join(", "),
    };
    match line {
        Some(line) => invalid(format!("line {line}: {message}")),
        None => invalid(message),
    }
}

fn check_keys(file: &toml::Table) -> Result<()> {
    keys::check(file, TOP_KEYS, &[], "at the top level")?;
    for (name, known, needed) in
        [("master", MASTER_KEYS, &["dsn"][..]), ("agent", AGENT_KEYS, &[]), ("mail", MAIL_KEYS, MAIL_NEEDS)]
    {
        match file.get(name) {
            Some(toml::Value::Table(section)) => {
                keys::check(section, known, needed, &format!("in [{name}]"))?
            }
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
    match file.get("slave") {
        Some(toml::Value::Array(slaves)) => {
            for (i, slave) in slaves.iter().enumerate() {
                let toml::Value::Table(slave) = slave else {
                    return Err(invalid("\"slave\" is not a list of tables").hint("Write each as [[slave]]."));
                };
                let place = match slave.get("name").and_then(toml::Value::as_str) {
                    Some(name) => format!("in [[slave]] \"{name}\""),
                    None => format!("in [[slave]] number {}", i + 1),
                };
                keys::check(slave, SLAVE_KEYS, &["name", "dsn"], &place)?;
                mapping::check_keys(slave, &place)?;
            }
            Ok(())
        }
        Some(_) => Err(invalid("\"slave\" is not a list of tables")
            .hint("Write each slave as [[slave]], with two brackets.")),
        None => Ok(()),
    }
}
