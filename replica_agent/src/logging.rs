//! Where the agent's log lines go: to stderr, with time and level, plain or as one JSON object a line.
//!
//! In: what was asked for on the command line, RUST_LOG, and the settings of each replication and slave. A thread works
//! for one of them, its scope, which decides how much it says and in which form. RUST_LOG wins, then the command line,
//! then the slave's setting, then that of its replication. Nothing else sets up logging.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use clap::ValueEnum;
use jiff::Timestamp;
use log::{LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};

use crate::config::Logging;
use crate::error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people
    Plain,
    /// One object a line, for programs
    Json,
}

/// What the command line asks for; `usual` is what its command logs if nobody asks.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub level: Option<LevelFilter>,
    pub format: Option<Format>,
    pub usual: LevelFilter,
}

struct Logger {
    asked: Asked,
    /// RUST_LOG, if it is set.
    filter: Option<env_filter::Filter>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// Of lines that belong to no replication: as the first replication has it.
static JSON: AtomicBool = AtomicBool::new(false);

/// Starts logging; once, before anything is logged.
pub fn start(asked: Asked) {
    let filter = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = filter.map(|text| env_filter::Builder::new().parse(&text).build());
    let most = filter.as_ref().map_or(asked.level.unwrap_or(asked.usual), |filter| filter.filter());
    let logger = LOGGER.get_or_init(|| Logger { asked, filter });
    JSON.store(asked.format == Some(Format::Json), Ordering::Relaxed);
    // Fails only for the second call, whose settings were not taken either.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(most);
    }
}

/// For lines that belong to no replication.
pub fn set_format(format: Option<Format>) {
    if let Some(Logger { asked: Asked { format: None, .. }, .. }) = LOGGER.get() {
        JSON.store(format == Some(Format::Json), Ordering::Relaxed);
    }
}

/// Whether lines that belong to no replication are JSON.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// What a thread works for.
#[derive(Debug)]
pub struct Scope {
    agent: String,
    /// None: for all slaves of the agent.
    slave: Option<String>,
    level: AtomicUsize,
    json: AtomicBool,
}

thread_local! {
    static SCOPE: RefCell<Option<Arc<Scope>>> = const { RefCell::new(None) };
}

/// The scopes of a replication.
#[derive(Clone, Default)]
pub struct Scopes(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    agent: String,
    settings: Logging,
    scopes: BTreeMap<String, Arc<Scope>>,
}

impl Scopes {
    pub fn new(agent: &str, settings: &Logging) -> Scopes {
        let known = Known { agent: agent.to_owned(), settings: settings.clone(), ..Known::default() };
        Scopes(Arc::new(Mutex::new(known)))
    }

    /// That of a slave; with an empty name, of the replication.
    pub fn of(&self, slave: &str) -> Arc<Scope> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { agent, settings, scopes } = &mut *known;
        let scope = scopes.entry(slave.to_owned()).or_insert_with(|| {
            Arc::new(Scope {
                agent: agent.clone(),
                slave: Some(slave.to_owned()).filter(|name| !name.is_empty()),
                level: AtomicUsize::new(0),
                json: AtomicBool::new(false),
            })
        });
        scope.configure(settings);
        scope.clone()
    }

    /// From now on, also for threads that are at work.
    pub fn configure(&self, settings: &Logging) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.settings = settings.clone();
        known.scopes.values().for_each(|scope| scope.configure(settings));
    }
}

impl Scope {
    fn configure(&self, settings: &Logging) {
        let asked = LOGGER.get().map(|logger| logger.asked);
        let asked_level = asked.and_then(|asked| asked.level);
        let of_slave = self.slave.as_ref().and_then(|slave| settings.slaves.get(slave)).copied();
        let usual = asked.map_or(LevelFilter::Info, |asked| asked.usual);
        let level = asked_level.or(of_slave).or(settings.level).unwrap_or(usual);
        let format = asked.and_then(|asked| asked.format).or(settings.format);
        self.level.store(level as usize, Ordering::Relaxed);
        self.json.store(format == Some(Format::Json), Ordering::Relaxed);
        if LOGGER.get().is_some_and(|logger| logger.filter.is_none()) && level > log::max_level() {
            log::set_max_level(level);
        }
    }
}

/// Runs something that works for this scope.
pub fn within<T>(scope: Arc<Scope>, work: impl FnOnce() -> T) -> T {
    let outer = SCOPE.replace(Some(scope));
    let result = work();
    SCOPE.set(outer);
    result
}

/// What a new thread runs on behalf of the one that starts it.
pub fn inherit<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let scope = SCOPE.with_borrow(Clone::clone);
    move || match scope {
        Some(scope) => within(scope, work),
        None => work(),
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        if let Some(filter) = &self.filter {
            return filter.enabled(metadata);
        }
        if !metadata.target().starts_with("replica_agent") {
            return metadata.level() <= LevelFilter::Warn;
        }
        let usual = self.asked.level.unwrap_or(self.asked.usual) as usize;
        let level = SCOPE
            .with_borrow(|scope| scope.as_ref().map_or(usual, |scope| scope.level.load(Ordering::Relaxed)));
        metadata.level() as usize <= level
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let scope = SCOPE.with_borrow(Clone::clone);
        let json = scope.as_ref().map_or(is_json(), |scope| scope.json.load(Ordering::Relaxed));
        let text = record.args().to_string();
        let line = match json {
            true => json_line(record, scope.as_deref(), &text),
            // A report has lines for detail and hint; they stay one entry.
            false => format!("{} {:<5} {}\n", time(), record.level(), text.replace('\n', "\n\t")),
        };
        // There is nobody to tell that nobody can be told.
        std::io::stderr().lock().write_all(line.as_bytes()).ok();
    }

    fn flush(&self) {}
}

fn time() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

#[derive(Serialize)]
struct JsonLine<'a> {
    at: String,
    level: &'static str,
    agent: Option<&'a str>,
    slave: Option<&'a str>,
    message: &'a str,
    detail: Option<&'a str>,
    hint: Option<&'a str>,
}

fn json_line(record: &Record, scope: Option<&Scope>, text: &str) -> String {
    let (message, detail, hint) = error::parts(text);
    let line = JsonLine {
        at: time(),
        level: match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        },
        agent: scope.map(|scope| scope.agent.as_str()),
        slave: scope.and_then(|scope| scope.slave.as_deref()),
        message,
        detail,
        hint,
    };
    // Text only: nothing in it can fail to become JSON.
    serde_json::to_string(&line).unwrap_or_else(|e| format!("{{\"message\": \"{e}\"}}")) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slave_has_a_level_of_its_own_and_threads_inherit_it() {
        let slaves = BTreeMap::from([("loud".to_owned(), LevelFilter::Debug)]);
        let settings = Logging { level: Some(LevelFilter::Warn), slaves, ..Logging::default() };
        let scopes = Scopes::new("shop", &settings);
        let level = |slave: &str| scopes.of(slave).level.load(Ordering::Relaxed);
        assert_eq!(
            (level("loud"), level("quiet")),
            (LevelFilter::Debug as usize, LevelFilter::Warn as usize)
        );
        let seen = within(scopes.of("loud"), || {
            std::thread::spawn(inherit(|| SCOPE.with_borrow(|scope| scope.as_ref().unwrap().slave.clone())))
                .join()
        });
        assert_eq!(seen.unwrap().as_deref(), Some("loud"));
        assert!(SCOPE.with_borrow(Option::is_none));
        scopes.configure(&Logging::default());
        assert_eq!(level("loud"), LevelFilter::Info as usize);
    }
}
