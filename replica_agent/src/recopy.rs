//! The `copy` command: makes the initial copy of a slave again, whatever it holds and wherever it stood.
//!
//! In: a slave, and that no agent serves it now. Out: its captured tables emptied and filled from the master, its
//! position that of the moment the copy began.
//!
//! # Order of the steps, and what a crash leaves
//!
//! 1. The slave's row on the master gives up its position and so holds the whole log.
//! 2. The new position (rank and snapshot of one query on the master) is taken.
//! 3. One slave transaction empties the tables, forgets what was copied, and writes the new position.
//! 4. The row on the master takes the new position.
//! 5. The tables are copied one by one, each with its own snapshot (see `copy.rs`).
//!
//! Before 3 the slave is as it was; from 3 on it is one whose initial copy is not finished, which both this
//! command and the agent (with initial = "copy") finish.

use postgres::{Client, GenericClient};

use crate::check;
use crate::config::{CommitMode, Config, Initial, Slave};
use crate::copy::{captured_tables, copy_table, CapturedTable};
use crate::error::{Error, Kind, Result};
use crate::quote;
use crate::session::{cancel_on_stop, connect_master, connect_slave, lock_key, Canceller};
use crate::wake::Stop;
use crate::commit::create_schema;

/// Copies one slave again; locks out any agent of this name meanwhile.
pub fn recopy(config: &Config, slave: &Slave, stop: &Stop) -> Result<()> {
    let mut master = connect_master(&config.master.dsn, "copy")?;
    let mut client = connect_slave(slave)?;
    let cancellers =
        vec![Canceller::new(&config.master.dsn, &master)?, Canceller::new(&slave.dsn, &client)?];
    let copied = cancel_on_stop(stop, cancellers, || copy_all(config, slave, &mut master, &mut client, stop));
    match copied {
        // What was cut short is told by the cancelled statement; the reason is the order.
        Err(_) if stop.is_set() => Err(Error::new(
            Kind::Stopped,
            format!("copy of slave \"{}\" was stopped", slave.name),
        )
        .hint("Start it again, or the agent: the tables that are done stay.")),
        done => done,
    }
}

fn copy_all(config: &Config, slave: &Slave, master: &mut Client, client: &mut Client, stop: &Stop) -> Result<()> {
    let agent = config.agent_name();
    lock(master, config, slave)?;
    // What the tables hold does not matter: they are emptied.
    let as_is = Slave { initial: Initial::Current, ..slave.clone() };
    check::preflight(master, client, config, &as_is)?;
    let tables = captured_tables(master)?;
    let result = begin_again(master, client, agent, slave, &tables).and_then(|()| {
        for table in &tables {
            copy_table(master, client, agent, &slave.name, table, stop)?;
        }
        Ok(())
    });
    let (state, error) = match &result {
        Ok(()) => ("stopped", None),
        Err(_) if stop.is_set() => ("stopped", None),
        Err(e) => ("error", Some(e)),
    };
    report(master, agent, slave, state, error)?;
    if result.is_ok() {
        log::info!("slave \"{}\": {} tables copied; start the agent to follow the master", slave.name, tables.len());
    }
    result
}

/// The same locks that an agent takes, kept as long as the session lives.
fn lock(master: &mut Client, config: &Config, slave: &Slave) -> Result<()> {
    let agent = config.agent_name();
    let mut keys = vec![lock_key(agent, &slave.name)];
    if config.agent.commit == CommitMode::Atomic {
        keys.push(lock_key(agent, ""));
    }
    for key in keys {
        let got: bool = master
            .query_one("select pg_try_advisory_lock($1)", &[&key])
            .map_err(|e| Error::from_pg("could not take the lock of the slave on the master", e))?
            .get(0);
        if !got {
            return Err(Error::new(Kind::Refused, format!("an agent is running for slave \"{}\"", slave.name))
                .with_sqlstate("55006")
                .hint("Stop it, copy, and start it again."));
        }
    }
    Ok(())
}

fn begin_again(
    master: &mut Client,
    client: &mut Client,
    agent: &str,
    slave: &Slave,
    tables: &[CapturedTable],
) -> Result<()> {
    let on_master = |e| Error::from_pg("could not register the copy on the master", e);
    let on_slave = |e| Error::from_pg(format!("could not empty the tables of slave \"{}\"", slave.name), e);

    create_schema(client, &slave.name)?;
    drop_prepared(client, agent, slave)?;
    master.execute(include_str!("sql/recopy_hold_log.sql"), &[&agent, &slave.name]).map_err(on_master)?;
    let start = master.query_one(include_str!("sql/start_position.sql"), &[]).map_err(on_master)?;
    let (system_identifier, timeline): (String, i32) = (start.get(0), start.get(1));
    let (rank, snapshot): (i64, String) = (start.get(2), start.get(3));
    let (last_xid, last_ts): (Option<String>, Option<String>) = (start.get(4), start.get(5));

    let mut transaction = client.transaction().map_err(on_slave)?;
    if !tables.is_empty() {
        let names: Vec<_> = tables.iter().map(CapturedTable::quoted).collect();
        transaction.batch_execute(&format!("truncate table {}", names.join(", "))).map_err(|e| {
            let referenced = e.code().is_some_and(|state| state.code() == "0A000");
            let error = on_slave(e);
            if referenced {
                // TRUNCATE ... CASCADE would empty tables that are nobody's business here.
                error.hint("A table that is not replicated refers to one that is; drop that foreign key on the slave.")
            } else {
                error
            }
        })?;
    }
    transaction
        .execute("delete from pyreplica_agent.copied_table where agent = $1 and slave = $2", &[&agent, &slave.name])
        .map_err(on_slave)?;
    transaction
        .execute(
            include_str!("sql/recopy_position.sql"),
            &[&agent, &slave.name, &system_identifier, &timeline, &rank, &snapshot, &last_xid, &last_ts],
        )
        .map_err(on_slave)?;
    transaction.commit().map_err(on_slave)?;

    master
        .execute(include_str!("sql/recopy_register.sql"), &[&agent, &slave.name, &rank, &snapshot])
        .map_err(on_master)?;
    Ok(())
}

/// What a killed agent left prepared holds locks on the tables, and is of no use to a slave that is emptied.
fn drop_prepared(client: &mut Client, agent: &str, slave: &Slave) -> Result<()> {
    let prefix = format!("pyreplica:{agent}:{}:", slave.name);
    let failed = |e| Error::from_pg(format!("could not roll back what is prepared on slave \"{}\"", slave.name), e);
    for row in client.query(include_str!("sql/prepared.sql"), &[&prefix]).map_err(failed)? {
        let gid: &str = row.get(0);
        client.batch_execute(&format!("rollback prepared {}", quote::literal(gid))).map_err(failed)?;
        log::info!("slave \"{}\": rolled back prepared transaction {gid}", slave.name);
    }
    Ok(())
}

fn report(
    master: &mut impl GenericClient,
    agent: &str,
    slave: &Slave,
    state: &str,
    error: Option<&Error>,
) -> Result<()> {
    let message = error.map(|e| format!("{e:#}"));
    let (sqlstate, hint) = (error.and_then(Error::sqlstate), error.and_then(Error::hint_text));
    let told = master.execute(
        include_str!("sql/recopy_report.sql"),
        &[&agent, &slave.name, &state, &message, &sqlstate, &hint],
    );
    match (told, error) {
        // The first error is the one to show.
        (Err(e), Some(_)) => log::warn!("could not report to the master: {e}"),
        (Err(e), None) if !master_was_cancelled(&e) => return Err(Error::from_pg("could not report to the master", e)),
        _ => {}
    }
    Ok(())
}

fn master_was_cancelled(e: &postgres::Error) -> bool {
    e.code() == Some(&postgres::error::SqlState::QUERY_CANCELED)
}
