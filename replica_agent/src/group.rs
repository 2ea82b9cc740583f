//! An atomic group: a batch is committed on all slaves or on none.
//!
//! In: the slaves of the configuration. Out: slaves that move from position to position together.
//!
//! # Protocol
//!
//! 1. All slaves apply the same batch and prepare it under the same number.
//! 2. A row in `pyreplica.decision` on the master, committed, is the decision. Before it all roll back, after it all
//!    commit, whoever dies when.
//! 3. All slaves COMMIT PREPARED; then the row is deleted.
//!
//! Recovery asks for the row: there, commit; not there, roll back. It runs after the advisory lock was taken, in the same
//! session that writes decisions: so no decision of a predecessor can still be under way.
//! A slave that cannot be reached keeps the others waiting.

use crossbeam_channel::{bounded, unbounded};

use crate::commit::SlaveSession;
use crate::control::Control;
use crate::copy::Moment;
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::follow::stand_by;
use crate::lives::{blame, live, Failure, Outcome, Served};
use crate::logging;
use crate::member::{Ended, Member};
use crate::pipeline::Mode;
use crate::position::Target;
use crate::report::State;
use crew::{work, Crew};
use walk::{Reached, Walk};

mod crew;
mod walk;

/// Serves all slaves as a group until told to stop, or to the target of `once`.
pub fn follow_group(context: &Context, mode: Mode) -> Result<()> {
    let names: Vec<&str> = context.config.slaves.iter().map(|slave| slave.name.as_str()).collect();
    live(context, "group", &names, mode, |context, control| serve(context, mode, control))
}

/// One life.
fn serve(context: &Context, mode: Mode, control: &mut Option<Control>) -> Outcome<Served> {
    let mut own = Control::open(&context.config, &context.cancels)?;
    // The group's lock first; then those of the slaves, which "replica_agent copy" may hold.
    if !stand_by(context, &mut own, "", mode)? {
        return Ok(Served::Done);
    }
    for slave in &context.config.slaves {
        if !own.elect_soon(&slave.name, &context.stop)? {
            return Err(blame(
                &slave.name,
                Error::new(Kind::Refused, format!("slave \"{}\" is in use by another agent", slave.name)),
            ));
        }
    }
    // Whose turn it is not has nothing to report.
    let control = control.insert(own);

    let mut members = Vec::new();
    for session in recover(context, control)? {
        let name = session.name.clone();
        members.push(Member::start(context, control, session).map_err(|e| blame(&name, e))?);
    }
    align(context, control, &mut members)?;

    let target = match mode {
        Mode::Run => None,
        Mode::Once => Some(control.state()?.now),
    };
    loop {
        match lock_step(context, control, &mut members, target.as_ref()) {
            Ok(Ended::NewTables) => finish_schema(context, control, &mut members)?,
            Ok(Ended::Passed) => return Ok(Served::Passed),
            Err(failure) if !context.stop.is_set() => return Err(failure),
            // At the target, or stopped: the master hears how far they came.
            _ => break,
        }
    }
    for member in &mut members {
        member.reporter.state(control, State::Stopped)?;
    }
    Ok(Served::Done)
}

/// Connects to all slaves and settles what was left prepared, on each that can be reached, even if another cannot.
fn recover(context: &Context, control: &mut Control) -> Outcome<Vec<SlaveSession>> {
    let mut sessions = Vec::new();
    let mut failure = None;
    for slave in &context.config.slaves {
        let opened = SlaveSession::open(slave, context.config.agent_name(), &context.cancels, |client| {
            context.identities.take(&mut control.client, client, &slave.name)
        });
        let recovered = opened.and_then(|mut session| {
            session.recover(&mut |batch| control.is_decided(batch))?;
            Ok(session)
        });
        match recovered {
            Ok(session) => sessions.push(session),
            Err(e) => {
                failure.get_or_insert_with(|| blame(&slave.name, e));
            }
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => {
            control.forget_decisions()?;
            Ok(sessions)
        }
    }
}

/// Brings all slaves to one position, each by itself (they differ after an initial copy, or when a slave joins), and to
/// one batch number. A crash in the middle is harmless: what is then prepared has no decision and is done again.
fn align(context: &Context, control: &mut Control, members: &mut [Member]) -> Outcome<()> {
    let same = |members: &[Member]| {
        members.windows(2).all(|w| {
            (w[0].position.rank, &w[0].position.snapshot) == (w[1].position.rank, &w[1].position.snapshot)
        })
    };
    // A member that copies a new table on its way comes to a later one.
    while !same(members) {
        let target = control.state()?.now;
        for member in members.iter_mut() {
            let name = member.session.name.clone();
            while member.stream(context, control, Some(&target)).map_err(|e| blame(&name, e))?
                != Ended::Target
            {}
        }
    }
    let batch = members.iter().map(|m| m.session.batch).max().unwrap_or(0);
    members.iter_mut().for_each(|m| m.session.batch = batch);
    Ok(())
}

/// New tables may bring foreign keys, for which a member catches up by itself; then the others do too.
fn finish_schema(context: &Context, control: &mut Control, members: &mut [Member]) -> Outcome<()> {
    for member in members.iter_mut() {
        let name = member.session.name.clone();
        member.finish_schema(context, control).map_err(|e| blame(&name, e))?;
    }
    align(context, control, members)
}

/// All members move together, until the target or until there are new tables, which are then there.
fn lock_step(
    context: &Context,
    control: &mut Control,
    members: &mut [Member],
    target: Option<&Target>,
) -> Outcome<Ended> {
    let position = members[0].position.clone();
    let batch = members[0].session.batch;
    for member in members.iter_mut() {
        member.catch_up_sequences(control).map_err(|e| blame(&member.session.name, e))?;
    }
    let captured = control.captured()?;
    let complete = members.iter().all(|member| member.session.tables.complete(&captured));
    let (mut sessions, mut reporters) = (Vec::new(), Vec::new());
    for member in members.iter_mut() {
        sessions.push(&mut member.session);
        reporters.push(&mut member.reporter);
    }
    let (ended, position) = std::thread::scope(|scope| {
        let (answer, answers) = unbounded();
        let mut crew = Crew { commands: Vec::new(), answers, names: Vec::new() };
        for (number, session) in sessions.into_iter().enumerate() {
            let (command, commands) = bounded(1);
            crew.commands.push(command);
            crew.names.push(session.name.clone());
            let (answer, stop) = (answer.clone(), &context.stop);
            let of_slave = context.scopes.of(&session.name);
            scope.spawn(move || {
                logging::within(of_slave, || work(session, number, &commands, &answer, stop));
            });
        }
        let known = complete.then_some(captured);
        let mut walk = Walk { control, crew, reporters, position, batch, known };
        let ended = walk.on(context, target)?;
        Ok::<_, Failure>((ended, walk.position))
    })?;
    for member in members.iter_mut() {
        member.position = position.clone();
    }
    match ended {
        Reached::Target => Ok(Ended::Target),
        Reached::Passed => Ok(Ended::Passed),
        Reached::NewTables(unknown) => {
            wait_for_new_tables(context, control, members)?;
            each(members, |member| member.copy_new_tables(context, control))?;
            control.end_moment();
            each(members, |member| member.finish_new_tables(context))?;
            if let Some((schema, name)) = &unknown {
                each(members, |member| member.settle_unknown(control, (schema, name)))?;
            }
            Ok(Ended::NewTables)
        }
    }
}

/// What a member does by itself, for all: `Member::wait_for_new_tables`. One moment serves them all.
fn wait_for_new_tables(context: &Context, control: &mut Control, members: &mut [Member]) -> Outcome<()> {
    let (mut missing, mut awaited, mut watched) = (Vec::new(), Vec::new(), false);
    each(members, |member| {
        missing.push(member.awaits_new_tables(control)?);
        watched |= member.looks_at_foreign_keys()?;
        Ok(())
    })?;
    for table in missing.iter().flatten() {
        if !awaited.contains(table) {
            awaited.push(table.clone());
        }
    }
    if awaited.is_empty() {
        return Ok(());
    }
    // One that was held for others: the stream is about to pass it.
    control.moment = None;
    let now = control.state()?.now;
    while lock_step(context, control, members, Some(&now))? != Ended::Target {}
    if watched {
        for (member, missing) in members.iter_mut().zip(&missing) {
            let made = member.make_new_tables(context, control, missing);
            made.map_err(|e| blame(&member.session.name, e))?;
        }
        let target = control.moment.insert(Moment::hold(context, &awaited)?).target.clone();
        while lock_step(context, control, members, Some(&target))? != Ended::Target {}
        control.moment_is_reached();
    }
    each(members, Member::new_tables_arrived)
}

/// One member after the other; the first error is to be blamed on its slave.
fn each(members: &mut [Member], mut step: impl FnMut(&mut Member) -> Result<()>) -> Outcome<()> {
    members.iter_mut().try_for_each(|member| step(member).map_err(|e| blame(&member.session.name, e)))
}
