//! One slave by itself: whose turn it is, and a life of its sessions.
//!
//! In: the configuration of a slave. Out: the slave follows the master until it is told to stop, or has reached the
//! target of `once`. An error stops this slave only.

use std::time::Duration;

use crate::commit::SlaveSession;
use crate::config::Slave;
use crate::control::Control;
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::lives::{blame, live, Served};
use crate::member::{Ended, Member};
use crate::pipeline::Mode;
use crate::report::State;

/// How often a standby asks whether it is its turn.
const STANDBY: Duration = Duration::from_secs(3);

/// Serves one slave until told to stop, or to the target of `once`.
pub fn follow(context: &Context, slave: &Slave, mode: Mode) -> Result<()> {
    let name = slave.name.as_str();
    live(context, &format!("slave \"{name}\""), &[name], mode, |context, control| {
        serve(context, slave, mode, control).map_err(|e| blame(name, e))
    })
}

/// One life.
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
