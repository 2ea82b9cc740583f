//! The process: the replications of a configuration file or directory, each on threads of its own, and what the
//! administrator and the service manager want of them.
//!
//! In: a path, SIGHUP, SIGTERM. Out: replications at work. What is wrong with one file, or fails in one replication,
//! stops no other. SIGHUP reads everything again; a file that is broken then leaves its replication as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{never, select, unbounded, Receiver, Sender};

use crate::config::directory::{self, Source};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::logging;
use crate::pipeline::{Mode, Replication};
use crate::pulse::Pulses;
use crate::service::Service;
use crate::wake::Stop;

/// How often states are looked at, at least.
const GLANCE: Duration = Duration::from_secs(1);
/// A replication that failed is begun anew after that, as long as others run: else the process ends, which whoever
/// started it sees.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Runs what is configured there; returns when told to stop, when all have ended, or with `Once` when all are done.
pub fn run(path: &Path, mode: Mode, stop: &Stop, hangups: &Receiver<()>) -> Result<()> {
    let sources = directory::read(path)?;
    let (results_to, results) = unbounded();
    let mut daemon = Daemon {
        path: path.to_owned(),
        mode,
        pulses: Pulses::default(),
        service: Service::new(),
        results_to,
        running: BTreeMap::new(),
        wanted: BTreeMap::new(),
        broken: 0,
        failed: BTreeMap::new(),
        worst: None,
    };
    daemon.begin(sources)?;
    daemon.service.ready();
    daemon.turn(stop, hangups, &results);
    match daemon.worst {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

struct Daemon {
    path: PathBuf,
    mode: Mode,
    pulses: Pulses,
    service: Service,
    results_to: Sender<(String, Result<()>)>,
    /// By the agent's name.
    running: BTreeMap<String, Running>,
    /// What the files say, as far as they can be read.
    wanted: BTreeMap<String, (PathBuf, Config)>,
    /// Files that cannot be used.
    broken: usize,
    /// When to begin anew.
    failed: BTreeMap<String, Instant>,
    /// The error to end with.
    worst: Option<Error>,
}

struct Running {
    path: PathBuf,
    config: Config,
    replication: Replication,
    /// It was told to stop, since nothing asks for it any more.
    ending: bool,
}

impl Daemon {
    fn begin(&mut self, mut sources: Vec<Source>) -> Result<()> {
        let only = if sources.len() == 1 { sources.pop() } else { None };
        match only {
            // Its error is that of the process.
            Some(Source { path, config }) => self.want(path, config?),
            None => {
                for source in sources {
                    match source.config {
                        Ok(config) => self.want(source.path, config),
                        Err(e) => {
                            log::error!("{}", e.report());
                            self.note(e);
                            self.broken += 1;
                        }
                    }
                }
            }
        }
        if self.wanted.is_empty() {
            return Err(self
                .worst
                .take()
                .unwrap_or_else(|| Error::new(Kind::Config, "nothing to replicate")));
        }
        if self.mode == Mode::Run {
            // It was told; the others run until they are told to stop.
            self.worst = None;
        }
        logging::set_format(self.wanted.values().find_map(|(_, config)| config.logging.format));
        self.start_and_stop()
    }

    fn want(&mut self, path: PathBuf, config: Config) {
        self.wanted.insert(config.agent_name().to_owned(), (path, config));
    }

    /// Of several errors the process ends with the one that has the greatest exit status.
    fn note(&mut self, e: Error) {
        if self.worst.as_ref().is_none_or(|worst| e.exit_code() > worst.exit_code()) {
            self.worst = Some(e);
        }
    }

    fn turn(&mut self, stop: &Stop, hangups: &Receiver<()>, results: &Receiver<(String, Result<()>)>) {
        let glance = self.service.watchdog().map_or(GLANCE, |watchdog| GLANCE.min(watchdog / 3));
        let mut stopping = false;
        while !self.running.is_empty() || (self.mode == Mode::Run && !stopping && self.worst.is_none()) {
            self.tell();
            let stopped = if stopping { never() } else { stop.receiver().clone() };
            select! {
                recv(results) -> ended => if let Ok((name, result)) = ended {
                    self.ended(&name, result, stopping);
                },
                recv(hangups) -> _ => if self.mode == Mode::Run && !stopping {
                    self.reload();
                },
                recv(stopped) -> _ => {
                    stopping = true;
                    self.service.stopping();
                    self.running.values().for_each(|running| running.replication.stop());
                },
                default(glance) => {}
            }
            if self.mode == Mode::Run && !stopping {
                self.failed.retain(|_, again| *again > Instant::now());
                if let Err(e) = self.start_and_stop() {
                    log::error!("{}", e.report());
                }
            }
        }
    }

    /// Starts what is wanted and does not run; ends what is not wanted, and tells the others what has changed.
    fn start_and_stop(&mut self) -> Result<()> {
        for (name, running) in &mut self.running {
            match self.wanted.get(name) {
                Some((path, config)) if !running.ending => {
                    running.path.clone_from(path);
                    if running.config != *config {
                        running.config = config.clone();
                        running.replication.configure(config.clone());
                    }
                }
                Some(_) => {}
                None if running.ending => {}
                None => {
                    log::info!("agent \"{name}\" is stopped: it is no longer configured");
                    running.ending = true;
                    running.replication.stop();
                }
            }
        }
        for (name, (path, config)) in &self.wanted {
            if self.running.contains_key(name) || self.failed.contains_key(name) {
                continue;
            }
            let (results_to, ended_name) = (self.results_to.clone(), name.clone());
            let replication = Replication::start(config.clone(), self.mode, &self.pulses, move |result| {
                // Only fails when the process ends.
                results_to.send((ended_name, result)).ok();
            })?;
            let running = Running { path: path.clone(), config: config.clone(), replication, ending: false };
            self.running.insert(name.clone(), running);
        }
        Ok(())
    }

    fn ended(&mut self, name: &str, result: Result<()>, stopping: bool) {
        self.running.remove(name);
        let Err(e) = result else { return };
        if e.kind() == Kind::Stopped {
            return;
        }
        let alone = self.running.is_empty();
        if self.mode == Mode::Once || stopping || alone {
            if !alone || self.worst.is_some() {
                log::error!("agent \"{name}\": {}", e.report());
            }
            self.note(e);
            return;
        }
        log::error!("agent \"{name}\" is started again in {} s: {}", AGAIN_AFTER.as_secs(), e.report());
        self.failed.insert(name.to_owned(), Instant::now() + AGAIN_AFTER);
    }

    /// What cannot be read leaves everything as it is that came from there.
    fn reload(&mut self) {
        self.service.reloading();
        match directory::read(&self.path) {
            Ok(sources) => self.take(sources),
            Err(e) => log::error!("the configuration stays as it was: {}", e.report()),
        }
        log::info!("SIGHUP: the configuration was read again");
        self.service.ready();
    }

    fn take(&mut self, sources: Vec<Source>) {
        let before = std::mem::take(&mut self.wanted);
        self.broken = 0;
        for Source { path, config } in sources {
            match config {
                Ok(config) => self.want(path, config),
                Err(e) => {
                    self.broken += 1;
                    let kept = before.iter().find(|(_, (old, _))| *old == path);
                    let becomes = if kept.is_some() { "stays as it was" } else { "is not used" };
                    log::error!("\"{}\" {becomes}: {}", path.display(), e.report());
                    self.wanted.extend(kept.map(|(name, was)| (name.clone(), was.clone())));
                }
            }
        }
        self.failed.clear();
        logging::set_format(self.wanted.values().find_map(|(_, config)| config.logging.format));
        if self.wanted.is_empty() {
            log::warn!("nothing is configured any more: waiting for SIGHUP or SIGTERM");
        }
    }

    /// To the service manager: how we are, and that we are alive, if all threads are that should be awake.
    fn tell(&mut self) {
        self.service.status(&self.status());
        let Some(watchdog) = self.service.watchdog() else { return };
        match self.pulses.late(watchdog) {
            None => self.service.alive(),
            Some(thread) => {
                log::error!("the thread \"{thread}\" hangs: the service manager is to restart the agent")
            }
        }
    }

    fn status(&self) -> String {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for running in self.running.values() {
            for (state, count) in running.replication.tellers.states() {
                *states.entry(if state.is_empty() { "starting" } else { state }).or_default() += count;
            }
        }
        let states: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let names: Vec<&str> = self.running.keys().map(String::as_str).collect();
        let mut text = match (names.is_empty(), states.is_empty()) {
            (true, _) => "nothing runs".to_owned(),
            (_, true) => format!("{}: starting", names.join(", ")),
            _ => format!("{}: {}", names.join(", "), states.join(", ")),
        };
        if self.broken > 0 {
            text.push_str(&format!("; {} broken configuration files", self.broken));
        }
        if !self.failed.is_empty() {
            let failed: Vec<&str> = self.failed.keys().map(String::as_str).collect();
            text.push_str(&format!("; failed: {}", failed.join(", ")));
        }
        text
    }
}
