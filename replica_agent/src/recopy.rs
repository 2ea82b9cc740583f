//! The `copy` command: makes the initial copy of a slave again, whatever it holds and wherever it stood, or that of
//! single tables.
//!
//! In: a slave, and that no agent serves it now. Out: its captured tables emptied and filled from the master, its
//! position that of the moment the copy began.
//!
//! One slave transaction empties the tables and forgets position and copies. From there on it is a slave that has
//! never been copied, and takes the same way as a new one; a copy that is killed is finished by starting it again, or
//! by the agent if it has initial = "copy".

use std::time::Duration;

use postgres::Client;

use crate::again;
use crate::check;
use crate::commit::{create_schema, SlaveSession};
use crate::config::{CommitMode, Config, Initial, Slave};
use crate::control::Control;
use crate::copy::{CapturedTable, Crew, Manner, Master};
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::lives::report_last;
use crate::member::Member;
use crate::pipe::Pipe;
use crate::quote;
use crate::report::State;
use crate::session::{self, cancel_on_stop};
use crate::shape::shapes;
use crate::tables::Tables;
use crate::verify::choose;
use crate::wake::Stop;

/// Copies one slave again; locks out any agent of this name meanwhile.
pub fn recopy(config: &Config, slave: &Slave, stop: &Stop) -> Result<()> {
    let slave = Slave { initial: Initial::Copy, ..slave.clone() };
    let context = Context::new(config, stop);
    let mut control = Control::open(config, &context.cancels)?;
    lock_out(&mut control, config, &slave.name, stop)?;
    let session = SlaveSession::open(&slave, config.agent_name(), &context.cancels, |client| {
        context.identities.take(&mut control.client, client, &slave.name)
    })?;
    let copied =
        cancel_on_stop(stop, &context.cancels, || begin_again(&context, &slave, &mut control, session));
    match copied {
        Ok(()) => Ok(()),
        Err(_) if stop.is_set() => {
            report_last(Some(&mut control), &slave.name, None);
            Err(Error::new(Kind::Stopped, format!("copy of slave \"{}\" was stopped", slave.name)).hint(
                "Start it again; with initial = \"copy\" the agent goes on with the tables that are left.",
            ))
        }
        Err(e) => {
            report_last(Some(&mut control), &slave.name, Some(&e));
            Err(e)
        }
    }
}

/// How often it is asked whether the agent has done it.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Copies single tables again. The position of the slave stays; the stream skips what a table's new snapshot sees.
///
/// An agent that serves the slave by itself is asked to do it, and waited for; else it is done here.
pub fn recopy_tables(config: &Config, slave: &Slave, wanted: &[String], stop: &Stop) -> Result<()> {
    let context = Context::new(config, stop);
    let agent = config.agent_name();
    let mut control = Control::open(config, &context.cancels)?;
    let tables = choose(slave.mapping.wanted(control.captured()?), wanted)?;
    let mut client: Pipe = session::connect_slave(slave)?;
    create_schema(&mut client, &slave.name)?;
    if config.agent.commit == CommitMode::Atomic {
        lock_out(&mut control, config, &slave.name, stop)?;
        return copy_here(&context, slave, &mut control, tables);
    }
    if control.elect_soon(&slave.name, stop)? {
        return copy_here(&context, slave, &mut control, tables);
    }

    for table in &tables {
        again::request(&mut client, agent, &slave.name, table)?;
    }
    log::info!("slave \"{}\": the agent that serves it is asked to copy", slave.name);
    let mut failure = None;
    let mut left = tables;
    while !left.is_empty() {
        let standing = again::requested(&mut client, agent, &slave.name)?;
        let is_standing =
            |table: &CapturedTable| standing.contains(&(table.schema.clone(), table.name.clone()));
        let (still, done): (Vec<_>, Vec<_>) = left.into_iter().partition(is_standing);
        left = still;
        for table in done {
            match again::error_of(&mut client, agent, &slave.name, &table)? {
                None => log::info!("slave \"{}\": copied table {} again", slave.name, table.full_name()),
                Some(text) => {
                    again::forget(&mut client, agent, &slave.name, &table)?;
                    failure.get_or_insert(Error::from_text(Kind::Apply, &text));
                }
            }
        }
        if !left.is_empty() && control.elect(&slave.name)? {
            log::info!("slave \"{}\": no agent serves it any more", slave.name);
            copy_here(&context, slave, &mut control, std::mem::take(&mut left))?;
        }
        if !left.is_empty() && stop.wait(ASK_EVERY) {
            return Err(Error::new(Kind::Stopped, "did not wait for the agent to copy").hint(
                "It goes on all the same; pyreplica_agent.copy_request on the slave tells what is left.",
            ));
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Nobody else serves the slave.
fn copy_here(
    context: &Context,
    slave: &Slave,
    control: &mut Control,
    tables: Vec<CapturedTable>,
) -> Result<()> {
    let Context { config, stop, cancels, .. } = context;
    let atomic = config.agent.commit == CommitMode::Atomic;
    let mut session = SlaveSession::open(slave, config.agent_name(), cancels, |client| {
        context.identities.take(&mut control.client, client, &slave.name)
    })?;
    session.recover(&mut |batch| if atomic { control.is_decided(batch) } else { Ok(true) })?;
    if session.standing()?.is_none() {
        return Err(Error::new(Kind::Refused, format!("slave \"{}\" has no initial copy yet", slave.name))
            .hint("Start the agent, or copy all its tables, without --table."));
    }
    cancel_on_stop(stop, cancels, || {
        let claim = session.claim();
        let crew = Crew { config, slave, stop, cancels, claim: &claim };
        let tables = tables.into_iter().map(|table| (table, Manner::Again)).collect();
        crew.copy(Master::Free(&mut control.client), tables).1
    })
}

fn begin_again(
    context: &Context,
    slave: &Slave,
    control: &mut Control,
    mut session: SlaveSession,
) -> Result<()> {
    let agent = context.config.agent_name();
    // What a killed agent left prepared holds locks, and is of no use to a slave that is emptied.
    session.recover(&mut |_| Ok(false))?;
    // What the tables hold does not matter: they are emptied.
    let as_is = Slave { initial: Initial::Current, ..slave.clone() };
    let (mut client, _cancelable) = session.claim().open(slave, &context.cancels)?;
    check::preflight(&mut control.client, &mut client, &context.config, &as_is)?;
    empty(&mut client, agent, slave, &control.captured()?)?;
    session.tables = Tables::load(session.parts()?.0, agent, &slave.name, slave.initial, &slave.mapping)?;

    let mut member = Member::start(context, control, session)?;
    member.reporter.state(control, State::Stopped)?;
    log::info!("slave \"{}\": copied; start the agent to follow the master", slave.name);
    Ok(())
}

/// Takes the locks by which agents are elected, for as long as the session lives.
fn lock_out(control: &mut Control, config: &Config, slave: &str, stop: &Stop) -> Result<()> {
    let atomic = config.agent.commit == CommitMode::Atomic;
    let group = atomic.then_some("");
    for name in [Some(slave), group].into_iter().flatten() {
        if !control.elect_soon(name, stop)? {
            return Err(Error::new(Kind::Refused, format!("an agent is running for slave \"{slave}\""))
                .with_sqlstate("55006")
                .hint("Stop it, copy, and start it again."));
        }
    }
    Ok(())
}

fn empty(client: &mut Client, agent: &str, slave: &Slave, captured: &[CapturedTable]) -> Result<()> {
    let Slave { name: slave, mapping, .. } = slave;
    let wanted = mapping.wanted(captured.to_vec());
    let tables: Vec<CapturedTable> = wanted.iter().map(|table| mapping.on_slave(table)).collect();
    let failed = |e| Error::from_pg(format!("could not empty the tables of slave \"{slave}\""), e);
    let names: Vec<_> = shapes(client, &format!("slave \"{slave}\""), &tables, &[])?
        .iter()
        .map(|shape| format!("{}{}", shape.only(), quote::qualified(&shape.schema, &shape.name)))
        .collect();
    let mut transaction = client.transaction().map_err(failed)?;
    if !names.is_empty() {
        transaction.batch_execute(&format!("truncate table {}", names.join(", "))).map_err(|e| {
            let referenced = e.code().is_some_and(|state| state.code() == "0A000");
            match referenced {
                // TRUNCATE ... CASCADE would empty tables that are nobody's business here.
                true => failed(e).hint(
                    "A table that is not replicated refers to one that is. Drop that foreign key on the slave, or \
                     replicate the table too.",
                ),
                false => failed(e),
            }
        })?;
    }
    for forget in [
        "delete from pyreplica_agent.copied_table where agent = $1 and slave = $2",
        "delete from pyreplica_agent.source where agent = $1 and slave = $2",
        "delete from pyreplica_agent.position where agent = $1 and slave = $2",
    ] {
        transaction.execute(forget, &[&agent, &slave]).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}
