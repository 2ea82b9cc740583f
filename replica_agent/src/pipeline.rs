//! A replication at work: a thread for each slave (or one for the group), one that listens, and who starts and ends them.
//!
//! In: the configuration, a new one whenever it has changed, the order to stop. Out: slaves that follow. Slaves do not
//! wait for each other, unless they form an atomic group. A new configuration stops and starts the slaves whose part of
//! it has changed; the others do not notice.

use std::collections::{BTreeMap, HashMap};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crossbeam_channel::{never, select, unbounded, Receiver, Sender};

use crate::alerts::Desks;
use crate::config::{Agent, CommitMode, Config, Master, Slave};
use crate::error::{Error, Kind, Result};
use crate::event::EventKind;
use crate::feed::Context;
use crate::follow::follow;
use crate::group::follow_group;
use crate::logging::{self, Scopes};
use crate::pulse::Pulses;
use crate::tell::Tellers;
use crate::wake::{listen, Cancels, Stop};

/// After the order to stop: how long a statement may go on before it is cancelled, and how often that is repeated.
const CANCEL_AFTER: Duration = Duration::from_secs(2);
/// After that we go on without the thread: what it has not committed the servers roll back.
const ABANDON_AFTER: Duration = Duration::from_secs(12);
/// What mails and programs may take in the end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A thread of an atomic group, which has no slave's name.
const GROUP: &str = "";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Until told to stop.
    Run,
    /// What was committed when it started.
    Once,
}

/// A replication that runs on a thread of its own.
pub struct Replication {
    pub tellers: Tellers,
    stop: Stop,
    orders: Sender<Config>,
}

impl Replication {
    /// Starts it; `ended` is called on its thread with how it ended.
    pub fn start(
        config: Config,
        mode: Mode,
        pulses: &Pulses,
        ended: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<Replication> {
        let agent = config.agent_name().to_owned();
        let scopes = Scopes::new(&agent, &config.logging);
        let scope = scopes.of(GROUP);
        logging::within(scope.clone(), || {
            let desks = Desks::new(&config.alerts)?;
            let tellers = Tellers::new(&agent, desks.alerts());
            let (orders, ordered) = unbounded();
            let stop = Stop::new();
            let (results_to, results) = unbounded();
            let keeper = Keeper {
                mode,
                wanted: config,
                stop: stop.clone(),
                desks,
                tellers: tellers.clone(),
                scopes,
                pulses: pulses.clone(),
                common: None,
                jobs: BTreeMap::new(),
                started: 0,
                results_to,
            };
            spawn(&agent, move || ended(guarded(|| keeper.keep(&ordered, &results))))?;
            Ok(Replication { tellers, stop, orders })
        })
    }

    pub fn stop(&self) {
        self.stop.set();
    }

    pub fn configure(&self, config: Config) {
        // Only fails when it has ended.
        self.orders.send(config).ok();
    }
}

/// Starts and ends the threads of a replication.
struct Keeper {
    mode: Mode,
    wanted: Config,
    stop: Stop,
    desks: Desks,
    tellers: Tellers,
    scopes: Scopes,
    pulses: Pulses,
    /// What all threads share; `None` until the first starts.
    common: Option<Common>,
    jobs: BTreeMap<String, Job>,
    /// How many jobs were started so far: the number of the last one.
    started: u64,
    results_to: Sender<(u64, Result<()>)>,
}

/// What no slave can change without the others.
struct Common {
    master: Master,
    agent: Agent,
    context: Context,
    listening: Stop,
}

/// A thread that serves a slave, or all of them as a group.
struct Job {
    number: u64,
    slaves: Vec<Slave>,
    stop: Stop,
    cancels: Cancels,
    /// When it was told to stop, and when its statements were last cancelled.
    ending: Option<(Instant, Instant)>,
}

impl Keeper {
    /// Returns when it was told to stop or, with `Once`, when all slaves are done.
    fn keep(mut self, ordered: &Receiver<Config>, results: &Receiver<(u64, Result<()>)>) -> Result<()> {
        let agent = self.wanted.agent_name().to_owned();
        let slaves: Vec<&str> = self.wanted.slaves.iter().map(|slave| slave.name.as_str()).collect();
        let (version, slaves) = (env!("CARGO_PKG_VERSION"), slaves.join(", "));
        let text = format!("agent \"{agent}\" starts, version {version}, slaves: {slaves}");
        log::info!("{text}");
        if self.mode == Mode::Run {
            self.tellers.tell(EventKind::Start, &text);
        }
        let kept = self.turn(ordered, results);
        // Still there if it was our own error.
        self.jobs.values_mut().for_each(Job::end);
        if let Some(common) = &self.common {
            common.listening.set();
        }
        log::info!("agent \"{agent}\" ends");
        if self.mode == Mode::Run {
            let text = match &kept {
                Err(e) if e.kind() != Kind::Stopped => format!("agent \"{agent}\" ends on an error: {e:#}"),
                _ => format!("agent \"{agent}\" ends: it was told to stop"),
            };
            self.tellers.tell(EventKind::Stop, &text);
        }
        self.desks.finish(Instant::now() + LAST_WORDS);
        kept
    }

    fn turn(&mut self, ordered: &Receiver<Config>, results: &Receiver<(u64, Result<()>)>) -> Result<()> {
        let pulse = self.pulses.watch(&format!("keeper of {}", self.wanted.agent_name()));
        let mut first_error = None;
        let mut stopping = false;
        self.start_and_stop()?;
        while !self.jobs.is_empty() || (self.mode == Mode::Run && !stopping) {
            let stop = if stopping { never() } else { self.stop.receiver().clone() };
            let mut result = None;
            let mut order = None;
            pulse.asleep(CANCEL_AFTER, || {
                select! {
                    recv(results) -> ended => result = ended.ok(),
                    recv(ordered) -> config => order = config.ok(),
                    recv(stop) -> _ => {}
                    default(CANCEL_AFTER) => {}
                }
            });
            if let Some(config) = order.filter(|_| !stopping) {
                self.configure(config)?;
            }
            if let Some((name, Err(e))) =
                result.and_then(|(number, ended)| Some((self.ended(number)?, ended)))
            {
                if self.mode == Mode::Run {
                    self.tellers.of(&name).error(&e);
                    self.stop.set();
                }
                first_error.get_or_insert(e);
            }
            if self.stop.is_set() && !stopping {
                stopping = true;
                log::info!("stopping");
                self.jobs.values_mut().for_each(Job::end);
            }
            self.hurry();
            if self.mode == Mode::Run && !stopping {
                self.start_and_stop()?;
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn configure(&mut self, config: Config) -> Result<()> {
        self.scopes.configure(&config.logging);
        self.desks.configure(&config.alerts)?;
        self.wanted = config;
        Ok(())
    }

    /// Ends what is no longer wanted as it is. Starts what is, once everything has ended that is to end: it may be the
    /// same slave, or another one in the same database.
    fn start_and_stop(&mut self) -> Result<()> {
        let wanted = self.wanted_jobs();
        let changed = self.common.as_ref().is_some_and(|common| {
            (&common.master, &common.agent) != (&self.wanted.master, &self.wanted.agent)
        });
        for (name, job) in &mut self.jobs {
            if (changed || wanted.get(name) != Some(&job.slaves)) && job.ending.is_none() {
                let why = match wanted.contains_key(name) {
                    true => "its configuration has changed",
                    false => "it is no longer configured",
                };
                log::info!("{} is stopped: {why}", called(name));
                job.end();
            }
        }
        if self.jobs.values().any(|job| job.ending.is_some()) {
            return Ok(());
        }
        if changed {
            if let Some(common) = self.common.take() {
                common.listening.set();
            }
        }
        for (name, slaves) in wanted {
            if !self.jobs.contains_key(&name) {
                self.start(name, slaves)?;
            }
        }
        Ok(())
    }

    fn wanted_jobs(&self) -> HashMap<String, Vec<Slave>> {
        match self.wanted.agent.commit {
            CommitMode::Independent => {
                self.wanted.slaves.iter().map(|slave| (slave.name.clone(), vec![slave.clone()])).collect()
            }
            CommitMode::Atomic => HashMap::from([(GROUP.to_owned(), self.wanted.slaves.clone())]),
        }
    }

    fn start(&mut self, name: String, slaves: Vec<Slave>) -> Result<()> {
        let (stop, cancels) = (Stop::new(), Cancels::default());
        let mut context = self.common()?;
        context.config = self.wanted.clone();
        (context.stop, context.cancels) = (stop.clone(), cancels.clone());
        if self.wanted.slaves.len() == 1 {
            context.read_alone();
        }
        self.started += 1;
        let (number, mode, results_to) = (self.started, self.mode, self.results_to.clone());
        let scope = self.scopes.of(&name);
        let alone = slaves.first().filter(|_| name != GROUP).cloned();
        let thread = if name == GROUP { "group" } else { &name };
        spawn(thread, move || {
            let result = logging::within(scope, || {
                guarded(|| match &alone {
                    Some(slave) => follow(&context, slave, mode),
                    None => follow_group(&context, mode),
                })
            });
            // Only fails when we have been abandoned.
            results_to.send((number, result)).ok();
        })?;
        self.jobs.insert(name, Job { number, slaves, stop, cancels, ending: None });
        Ok(())
    }

    /// What all threads share; the first that needs it starts to listen.
    fn common(&mut self) -> Result<Context> {
        if let Some(common) = &self.common {
            return Ok(common.context.clone());
        }
        let listening = Stop::new();
        let mut context = Context::new(&self.wanted, &listening);
        context.tellers = self.tellers.clone();
        context.scopes = self.scopes.clone();
        context.pulses = self.pulses.clone();
        let Config { master, agent, .. } = self.wanted.clone();
        if self.mode == Mode::Run {
            let (dsn, stop) = (master.dsn.clone(), listening.clone());
            let (waker, retries) = (context.waker.clone(), context.retries.clone());
            spawn("listen", move || listen(&dsn, &waker, &retries, &stop))?;
        }
        self.common = Some(Common { master, agent, context: context.clone(), listening });
        Ok(context)
    }

    /// A thread has ended: which, unless it was abandoned before.
    fn ended(&mut self, number: u64) -> Option<String> {
        let name = self.jobs.iter().find(|(_, job)| job.number == number)?.0.clone();
        let job = self.jobs.remove(&name)?;
        self.forget(&job);
        Some(name)
    }

    /// The place of its slaves is free for others.
    fn forget(&self, job: &Job) {
        for slave in &job.slaves {
            // One that starts again is still in its outage.
            if !self.wanted.slaves.iter().any(|wanted| wanted.name == slave.name) {
                self.tellers.forget(&slave.name);
            }
            if let Some(common) = &self.common {
                common.context.identities.forget(&slave.name);
            }
        }
    }

    /// Cancels the statements of threads that do not end, and goes on without them in the end.
    fn hurry(&mut self) {
        let now = Instant::now();
        let mut abandoned = Vec::new();
        for (name, job) in &mut self.jobs {
            let Some((since, cancelled)) = &mut job.ending else { continue };
            if now >= *since + ABANDON_AFTER {
                abandoned.push(name.clone());
            } else if now >= *cancelled + CANCEL_AFTER {
                *cancelled = now;
                job.cancels.cancel();
            }
        }
        for name in abandoned {
            log::warn!("{} did not end in time; the servers roll back what was not committed", called(&name));
            if let Some(job) = self.jobs.remove(&name) {
                self.forget(&job);
            }
        }
    }
}

fn called(job: &str) -> String {
    match job {
        GROUP => "the group".to_owned(),
        slave => format!("slave \"{slave}\""),
    }
}

impl Job {
    fn end(&mut self) {
        let now = Instant::now();
        self.stop.set();
        self.ending.get_or_insert((now, now));
    }
}

/// A bug in one thread must not leave a slave unattended in silence.
pub fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::new(Kind::Apply, format!("internal error: {}", text.unwrap_or("a thread panicked")))
            .hint("Please report this with the log of the agent."))
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(logging::inherit(body))
        .map(drop)
        .map_err(|e| Error::new(Kind::Apply, "could not start a thread").source(e))
}
