//! The running agent: a thread for each slave (or one for the group), one that listens, and how they end.
//!
//! In: the configuration and the order to stop. Out: slaves that follow. Slaves do not wait for each other, unless
//! they form an atomic group.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select, Receiver, RecvTimeoutError};

use crate::config::{CommitMode, Config};
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::follow::follow;
use crate::group::follow_group;
use crate::wake::{listen, Stop};

/// After the order to stop: how long a statement may go on before it is cancelled, and how often that is repeated.
const CANCEL_AFTER: Duration = Duration::from_secs(2);
/// After that we end without our threads: what they have not committed the servers roll back.
const ABANDON_AFTER: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Until told to stop.
    Run,
    /// What was committed when it started.
    Once,
}

type Job = Box<dyn FnOnce() -> Result<()> + Send>;

/// Runs the agent; returns when it was told to stop or, with `Once`, when all slaves are done.
pub fn run(config: &Config, mode: Mode, stop: &Stop) -> Result<()> {
    let context = Context::new(config, stop);
    let agent = config.agent_name();
    log::info!(
        "agent \"{agent}\" starts, version {}, slaves: {}",
        env!("CARGO_PKG_VERSION"),
        config.slaves.len()
    );
    if mode == Mode::Run {
        let Context { config, stop, waker, retries, .. } = context.clone();
        spawn("listen", move || listen(&config.master.dsn, &waker, &retries, &stop))?;
    }

    let mut jobs: Vec<(String, Job)> = Vec::new();
    match config.agent.commit {
        CommitMode::Independent => {
            for slave in config.slaves.clone() {
                let context = context.clone();
                jobs.push((slave.name.clone(), Box::new(move || follow(&context, &slave, mode))));
            }
        }
        CommitMode::Atomic => {
            let context = context.clone();
            jobs.push(("group".to_owned(), Box::new(move || follow_group(&context, mode))));
        }
    }
    let running = jobs.len();
    let (done, results) = bounded(running);
    for (name, job) in jobs {
        let done = done.clone();
        spawn(&name, move || {
            // Only fails when we have been abandoned.
            done.send(guarded(job)).ok();
        })?;
    }

    let mut first_error = None;
    let mut deadline = None;
    for _ in 0..running {
        match next_result(&results, &context, &mut deadline) {
            Some(Ok(())) => {}
            Some(Err(e)) => {
                if mode == Mode::Run {
                    stop.set();
                }
                first_error.get_or_insert(e);
            }
            None => {
                log::warn!("not all slaves ended in time; the servers roll back what was not committed");
                break;
            }
        }
    }
    log::info!("agent \"{agent}\" ends");
    first_error.map_or(Ok(()), Err)
}

/// The next thread's result; `None` when after the order to stop none came in time.
fn next_result(
    results: &Receiver<Result<()>>,
    context: &Context,
    deadline: &mut Option<Instant>,
) -> Option<Result<()>> {
    if deadline.is_none() {
        select! {
            recv(results) -> result => return result.ok(),
            recv(context.stop.receiver()) -> _ => log::info!("stopping"),
        }
    }
    let deadline = *deadline.get_or_insert_with(|| Instant::now() + ABANDON_AFTER);
    while Instant::now() < deadline {
        match results.recv_timeout(CANCEL_AFTER) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Timeout) => context.cancels.cancel(),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
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
        .spawn(body)
        .map(drop)
        .map_err(|e| Error::new(Kind::Apply, "could not start a thread").source(e))
}
