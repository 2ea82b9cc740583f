//! One slave by itself: whose turn it is, its lives, what comes after an error.
//!
//! In: the configuration of a slave. Out: the slave follows the master until it is told to stop, or has reached the
//! target of `once`. An error stops this slave only: it is reported, and tried again after a while.

use std::time::{Duration, Instant};

use crate::commit::SlaveSession;
use crate::config::Slave;
use crate::control::Control;
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::member::{Ended, Member};
use crate::pipeline::Mode;
use crate::report::{ErrorLog, State};
use crate::retry::{self, Backoff};

/// How often a standby asks whether it is its turn.
const STANDBY: Duration = Duration::from_secs(3);
/// `once` gives up when a connection fails so often in a row.
pub const ONCE_ATTEMPTS: u32 = 3;

/// What is left to do after a life without an error.
pub enum Served {
    Done,
    /// Go on with transactions joined.
    Passed,
}

/// Serves one slave until told to stop, or to the target of `once`.
pub fn follow(context: &Context, slave: &Slave, mode: Mode) -> Result<()> {
    let mut backoff = Backoff::new();
    let mut errors = ErrorLog::default();
    let mut attempts = 0;
    let mut context = context.clone();
    let name = &slave.name;
    loop {
        let mut control = None;
        let began = Instant::now();
        let e = match serve(&context, slave, mode, &mut control) {
            Ok(Served::Done) => return Ok(()),
            Ok(Served::Passed) => {
                context.careful = false;
                continue;
            }
            Err(e) => e,
        };
        if context.stop.is_set() || e.kind() == Kind::Stopped {
            log::debug!("slave \"{name}\": {e:#}");
            report_last(control.as_mut(), name, None);
            return Ok(());
        }
        if control.is_none() && e.kind() == Kind::Refused && mode == Mode::Once {
            return Err(e);
        }
        if e.sqlstate().is_some_and(|state| retry::is_transient(state, e.message()))
            && attempts < ONCE_ATTEMPTS
        {
            log::debug!("slave \"{name}\": trying again at once after: {e:#}");
            attempts += 1;
            continue;
        }
        if e.kind() == Kind::Apply && !context.careful {
            log::debug!("slave \"{name}\": trying again transaction by transaction after: {e:#}");
            context = context.careful();
            continue;
        }
        report_last(control.as_mut(), name, Some(&e));
        context.tellers.of(name).error(&e);
        drop(control);
        attempts += 1;
        if mode == Mode::Once && (e.kind() != Kind::Connection || attempts >= ONCE_ATTEMPTS) {
            return Err(e);
        }
        errors.write(name, &e);
        if began.elapsed() > Backoff::LAST {
            backoff.reset();
            attempts = 0;
        }
        if context.pause(backoff.delay()) {
            return Ok(());
        }
    }
}

/// One life of the sessions; the control session is left to the caller, who may have an error to report.
fn serve(context: &Context, slave: &Slave, mode: Mode, control: &mut Option<Control>) -> Result<Served> {
    let mut own = Control::open(&context.config, &context.cancels)?;
    // Whose turn it is not has nothing to report.
    if !stand_by(context, &mut own, &slave.name, mode)? {
        return Ok(Served::Done);
    }
    let control = control.insert(own);
    let mut session = SlaveSession::open(slave, context.config.agent_name(), &context.cancels, |client| {
        context.identities.take(&mut control.client, client, &slave.name)
    })?;
    session.recover(&mut |_| Ok(true))?;
    let mut member = Member::start(context, control, session)?;
    let target = match mode {
        Mode::Run => None,
        Mode::Once => Some(control.state()?.now),
    };
    loop {
        match member.stream(context, control, target.as_ref()) {
            Ok(Ended::NewTables) => member.finish_schema(context, control)?,
            Ok(Ended::Passed) => return Ok(Served::Passed),
            Err(e) if !context.stop.is_set() => return Err(e),
            // At the target, or stopped: the master hears how far it came.
            _ => {
                member.reporter.state(control, State::Stopped)?;
                return Ok(Served::Done);
            }
        }
    }
}

/// Waits until it is our turn; false when told to stop before.
pub fn stand_by(context: &Context, control: &mut Control, slave: &str, mode: Mode) -> Result<bool> {
    let whom = if slave.is_empty() { "the slaves".to_owned() } else { format!("slave \"{slave}\"") };
    if mode == Mode::Once {
        return match control.elect_soon(slave, &context.stop)? {
            true => Ok(true),
            false if context.stop.is_set() => Ok(false),
            false => Err(Error::new(Kind::Refused, format!("another agent serves {whom}"))
                .hint("Leave the work to it, or stop it first.")),
        };
    }
    // We may have held the lock ourselves, in a session that is just ending.
    if control.elect_soon(slave, &context.stop)? {
        return Ok(true);
    }
    let mut told = false;
    while !control.elect(slave)? {
        if !std::mem::replace(&mut told, true) {
            log::info!("another agent serves {whom}: standing by");
        }
        if context.pulses.watch(slave).wait(&context.stop, STANDBY) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The last word of a life. The session may be the very thing that failed.
pub fn report_last(control: Option<&mut Control>, slave: &str, error: Option<&Error>) {
    let Some(control) = control else { return };
    let state = if error.is_some() { "error" } else { "stopped" };
    if let Err(e) = control.report(slave, state, None, error, None) {
        log::debug!("slave \"{slave}\": {e:#}");
    }
}
