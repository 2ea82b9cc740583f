//! Copies tables under one snapshot: locks, emptiness, their rows, and their `copied_table` rows, in one transaction on
//! either side. Mostly that is one table; where foreign keys are looked at it is all that they connect.
//!
//! Invariant: of tables that are copied together the slave has all or none.

use std::fmt;

use postgres::error::SqlState;
use postgres::{Client, GenericClient, IsolationLevel, Transaction};

use super::crew::Planned;
use super::moment::Master;
use super::progress::Progress;
use super::table::{stopped, Job, Manner, Target};
use super::{CapturedTable, CopiedTable};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::references::Connected;
use crate::session;
use crate::wake::Stop;

/// Copies captured tables under one snapshot and commits them with their `copied_table` rows on the slave.
pub(super) fn copy_together(
    master: &mut Master,
    slave: &mut Client,
    target: &Target,
    connected: &Connected<Planned>,
    stop: &Stop,
    progress: &Progress,
) -> Result<Vec<CopiedTable>> {
    let client = match master {
        Master::Free(client) => client,
        Master::Held(moment) => {
            let snapshot = moment.snapshot();
            return copy_under((&mut moment.client, &snapshot), slave, target, connected, stop, progress);
        }
    };
    let here: Vec<&CapturedTable> = connected.tables.iter().map(|planned| &planned.table).collect();
    let what = describe(&here);
    let on_master = |e| Error::from_pg(format!("could not copy {what} from the master"), e);
    let (mut from, snapshot) = begin_reading(client, &here, stop, &on_master)?;
    let copied = copy_under((&mut from, &snapshot), slave, target, connected, stop, progress)?;
    from.commit().map_err(on_master)?;
    Ok(copied)
}

/// The same in a transaction of the master that has the tables locked.
fn copy_under(
    (from, snapshot): (&mut impl GenericClient, &str),
    slave: &mut Client,
    target: &Target,
    connected: &Connected<Planned>,
    stop: &Stop,
    progress: &Progress,
) -> Result<Vec<CopiedTable>> {
    let Connected { tables, circular } = connected;
    let here: Vec<&CapturedTable> = tables.iter().map(|planned| &planned.table).collect();
    let what = describe(&here);
    let on_slave = |e| Error::from_pg(format!("could not copy {what} to slave \"{}\"", target.slave), e);

    let jobs: Vec<Job> =
        tables.iter().map(|planned| Job::new(from, slave, target, planned)).collect::<Result<_>>()?;
    let mut to = begin_writing(slave, &jobs, target, stop, &on_slave)?;
    if *circular {
        to.batch_execute("set constraints all deferred").map_err(on_slave)?;
    }

    let (mut copied, mut lines) = (Vec::new(), Vec::new());
    for (job, planned) in jobs.iter().zip(tables) {
        let progress = progress.table(planned.size);
        let table = job
            .rows(from, &mut to, target, None, stop, &progress)
            .and_then(|rows| job.record(from, &mut to, target, snapshot, rows))
            .map_err(|e| explain(e, *circular, target))?;
        lines.push(format!("copied table {}: {}", table.table.full_name(), progress.finish()));
        copied.push(table);
    }
    failpoint::hit("copy.before_commit");
    to.commit().map_err(on_slave).map_err(|e| explain(e, false, target))?;
    failpoint::hit("copy.after_commit");
    lines.iter().for_each(|line| log::info!("slave \"{}\": {line}", target.slave));
    Ok(copied)
}

/// The tables, for an error.
fn describe(tables: &[&CapturedTable]) -> String {
    match tables {
        [] => "no table".to_owned(),
        [table] => format!("table \"{}\"", table.full_name()),
        [first, ..] => format!("table \"{}\" and what foreign keys connect with it", first.full_name()),
    }
}

/// A foreign key that rows break on the slave, and not on the master.
fn explain(e: Error, circular: bool, target: &Target) -> Error {
    if e.sqlstate() != Some(SqlState::FOREIGN_KEY_VIOLATION.code()) {
        return e;
    }
    let rest = format!(
        "let foreign keys rest there, as superuser: {}",
        session::replication_role_grant(target.user)
    );
    match circular {
        true => e.hint(format!(
            "What the rows refer to comes after them: make this foreign key DEFERRABLE on the slave, or {rest}"
        )),
        false => e.hint(format!(
            "What the rows refer to is not copied together with them: replicate it too, or copy while nothing is written \
             to it, or {rest}"
        )),
    }
}

/// Begins to read tables of the master. They are locked before the snapshot, and what it sees is on disk; gives its text.
pub(super) fn begin_reading<'a>(
    master: &'a mut Client,
    tables: &[&CapturedTable],
    stop: &Stop,
    on_master: &dyn Fn(postgres::Error) -> Error,
) -> Result<(Transaction<'a>, String)> {
    let timeout = lock_timeout(master).map_err(on_master)?;
    let begin = master.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let mut from = begin.start().map_err(on_master)?;
    lock(&mut from, tables, (Side::Master, timeout), stop, on_master)?;
    let snapshot = from.query_one("select pg_current_snapshot()::text", &[]).map_err(on_master)?.get(0);
    from.execute("select pyreplica.flush_wal()", &[]).map_err(on_master)?;
    Ok((from, snapshot))
}

/// Begins to write to the slave's tables. They are locked, and empty.
pub(super) fn begin_writing<'a>(
    slave: &'a mut Client,
    jobs: &[Job],
    target: &Target,
    stop: &Stop,
    on_slave: &dyn Fn(postgres::Error) -> Error,
) -> Result<Transaction<'a>> {
    let timeout = lock_timeout(slave).map_err(on_slave)?;
    let mut to = slave.transaction().map_err(on_slave)?;
    let tables: Vec<&CapturedTable> = jobs.iter().map(|job| &job.there).collect();
    lock(&mut to, &tables, (Side::Slave, timeout), stop, on_slave)?;
    for job in jobs {
        match job.manner {
            Manner::First => {
                refuse_filled(&mut to, job.only, &job.there, target.slave)?;
                drop_dead_rows(&mut to, job).map_err(on_slave)?;
            }
            Manner::Again | Manner::Anew => {}
            Manner::Aside => still_held(&mut to, target, job.table)?,
        }
    }
    if jobs.iter().any(|job| job.manner != Manner::First) {
        // All of them: TRUNCATE asks for those that refer to one.
        empty(&mut to, jobs).map_err(on_slave)?;
    }
    Ok(to)
}

/// Locks tables in a transaction, however long that takes unless stopped. While one is waited for, none is locked for more
/// than a moment.
pub(super) fn lock(
    transaction: &mut impl GenericClient,
    tables: &[&CapturedTable],
    (side, timeout): (Side, i32),
    stop: &Stop,
    context: &dyn Fn(postgres::Error) -> Error,
) -> Result<()> {
    let mode = match side {
        Side::Master => "access share",
        Side::Slave => "share row exclusive",
    };
    // LOCK takes no snapshot, nor do savepoints. A partitioned table is locked with its partitions.
    let names: Vec<String> = tables.iter().map(|table| table.quoted()).collect();
    let lock = format!(
        "savepoint attempt; set local lock_timeout = {timeout}; lock table {} in {mode} mode; \
         set local lock_timeout = 0; release attempt",
        names.join(", ")
    );
    // Others may lock several tables in another order.
    let passing = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    let mut told = false;
    while let Err(e) = transaction.batch_execute(&lock) {
        if !e.code().is_some_and(|code| passing.contains(code)) {
            return Err(context(e));
        }
        let what = describe(tables);
        if stop.is_set() {
            return Err(Error::new(Kind::Stopped, format!("copy of {what} was stopped")));
        }
        if !std::mem::replace(&mut told, true) {
            log::info!("copy of {what} waits for a lock of another session on the {side}");
        }
        transaction.batch_execute("rollback to attempt; release attempt").map_err(context)?;
    }
    Ok(())
}

/// Milliseconds after which a lock is asked for anew: longer than the server takes to look who holds it, since that is when
/// it ends an autovacuum that does.
pub(super) fn lock_timeout(client: &mut Client) -> std::result::Result<i32, postgres::Error> {
    let looks_after = "extract(epoch from current_setting('deadlock_timeout')::interval) * 1000";
    Ok(client.query_one(&format!("select ({looks_after} + 1000)::int"), &[])?.get(0))
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Master,
    Slave,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Master => "master",
            Side::Slave => "slave",
        })
    }
}

/// Rows that were there before would collide with the copy or, worse, stay beside it.
fn refuse_filled(to: &mut Transaction, only: &str, table: &CapturedTable, slave_name: &str) -> Result<()> {
    let filled: bool = to
        .query_one(&format!("select exists (select from {only}{})", table.quoted()), &[])
        .map_err(|e| {
            Error::from_pg(
                format!("could not read table \"{}\" on slave \"{slave_name}\"", table.full_name()),
                e,
            )
        })?
        .get(0);
    if !filled {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("table \"{}\" on slave \"{slave_name}\" already holds rows", table.full_name()),
    )
    .with_sqlstate("55000")
    .detail("The initial copy does not mix its rows with others.")
    .hint(
        "TRUNCATE the table on the slave, or use \"replica_agent copy\", which empties all captured tables \
         there, or set initial = \"current\" if both sides are in step.",
    ))
}

/// What an attempt before this one has left in an empty table would stay in it; and VACUUM, should it come while the table is
/// copied, would take it for empty however large it becomes, and the planner would believe that. TRUNCATE leaves neither.
/// Where it may not be used, or somebody reads the table, they do no harm but that.
fn drop_dead_rows(to: &mut Transaction, job: &Job) -> std::result::Result<(), postgres::Error> {
    let name = job.there.quoted();
    let bytes: i64 = to
        .query_one(
            "select coalesce(sum(pg_relation_size(relid)), 0)::int8
               from (select $1::text::regclass as relid
                     union select relid from pg_partition_tree($1::text::regclass)) r",
            &[&name],
        )?
        .get(0);
    if bytes == 0 {
        return Ok(());
    }
    let mut attempt = to.savepoint("dead_rows")?;
    let truncate =
        format!("lock table {name} in access exclusive mode nowait; truncate table {}{name}", job.only);
    match attempt.batch_execute(&truncate) {
        Ok(()) => attempt.commit(),
        Err(e) => {
            log::debug!("dead rows are left in table {name}: {e}");
            attempt.rollback()
        }
    }
}

/// With the table locked: another life of the agent may have copied and recorded it while we waited.
fn still_held(to: &mut Transaction, target: &Target, table: &CapturedTable) -> Result<()> {
    let recorded: bool = to
        .query_one(
            "select exists (select from pyreplica_agent.copied_table
                             where agent = $1 and slave = $2 and trigger_oid = $3)",
            &[&target.agent, &target.slave, &table.trigger_oid],
        )
        .map_err(|e| Error::from_pg(format!("could not copy table \"{}\" again", table.full_name()), e))?
        .get(0);
    match recorded {
        true => Err(stopped(&table.full_name())),
        false => Ok(()),
    }
}

/// Empties the tables. TRUNCATE may not do it (another table refers to one of them, or the right is lacking) where DELETE can,
/// as long as no foreign key carries the deletion on to other tables.
fn empty(to: &mut Transaction, jobs: &[Job]) -> std::result::Result<(), postgres::Error> {
    let names: Vec<String> = jobs.iter().map(|job| format!("{}{}", job.only, job.there.quoted())).collect();
    let mut attempt = to.savepoint("empty")?;
    let Err(e) = attempt.batch_execute(&format!("truncate table {}", names.join(", "))) else {
        return attempt.commit();
    };
    attempt.rollback()?;
    let refused = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INSUFFICIENT_PRIVILEGE];
    if !e.code().is_some_and(|code| refused.contains(code))
        || !to.query_one(session::IS_REPLICA, &[])?.get::<_, bool>(0)
    {
        return Err(e);
    }
    names.iter().try_for_each(|name| to.batch_execute(&format!("delete from {name}")))
}
