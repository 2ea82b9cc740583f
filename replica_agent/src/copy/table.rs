//! Copies one table: locks, emptiness, the rows, and its `copied_table` row, in one transaction on either side.

use std::sync::Arc;

use postgres::error::SqlState;
use postgres::{Client, IsolationLevel, Transaction};

use super::mapped::transfer_mapped;
use super::progress::TableProgress;
use super::transfer::{transfer, Columns, Ends};
use super::{CapturedTable, CopiedTable};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::mapping::Mapping;
use crate::sequences::{self, Follower};
use crate::session;
use crate::wake::Stop;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Rows that are there already are somebody's: refused.
    First,
    /// Rows that are there are replaced.
    Again,
    /// The same, while a stream goes on that leaves the table alone: its owner records the copy.
    Aside,
}

/// Whose slave it is that gets the table.
pub(super) struct Target<'a> {
    pub agent: &'a str,
    pub slave: &'a str,
    pub manner: Manner,
    pub mapping: &'a Arc<Mapping>,
    /// Whether the slave's sequences follow the master's.
    pub sequences: bool,
}

/// Copies one captured table under its own snapshot and commits it with its `copied_table` row on the slave.
pub(super) fn copy_table(
    master: &mut Client,
    slave: &mut Client,
    target: &Target,
    table: &CapturedTable,
    stop: &Stop,
    mut progress: TableProgress,
) -> Result<CopiedTable> {
    let name = table.full_name();
    let ends = Ends { table: &name, slave: target.slave };
    let on_master = |e| ends.on_master(e);
    let on_slave = |e| ends.on_slave(e);

    let mut from = begin_locked(master, table, Side::Master, stop, &on_master)?;
    let snapshot: String =
        from.query_one("select pg_current_snapshot()::text", &[]).map_err(on_master)?.get(0);
    from.execute("select pyreplica.flush_wal()", &[]).map_err(on_master)?;

    let there = target.mapping.on_slave(table);
    let (only, table_oid) = only_if_plain(slave, &there, target.slave)?;
    let rule = target.mapping.rule(&table.schema, &table.name);
    let is_transform = rule.is_some_and(|rule| rule.is_transform());
    let columns = match is_transform {
        true => None,
        false => {
            let rule = rule.map(|rule| &**rule);
            Some(Columns::choose(&mut from, slave, (table, &there), rule).map_err(on_master)?)
        }
    };
    let mut to = begin_locked(slave, &there, Side::Slave, stop, &on_slave)?;
    match target.manner {
        Manner::First => refuse_filled(&mut to, only, &there, target.slave)?,
        Manner::Again => empty(&mut to, only, &there).map_err(on_slave)?,
        Manner::Aside => {
            still_held(&mut to, target, table)?;
            empty(&mut to, only, &there).map_err(on_slave)?;
        }
    }

    let only = if table.partitioned { "" } else { "only " };
    let rows_of = table.part.source(&format!("{only}{}", table.quoted()));
    let sent = match columns {
        None => {
            let source = (table, rows_of.as_str());
            transfer_mapped(&mut from, &mut to, source, target.mapping, &ends, stop, &mut progress)?
        }
        Some(Columns { list, names, source, format }) => {
            let source = match table.partitioned || source != names || table.part.condition().is_some() {
                true => format!("(select {source} from {rows_of})"),
                false => format!("{} ({names})", table.quoted()),
            };
            let option = format.option();
            let reader = from.copy_out(&format!("copy {source} to stdout{option}")).map_err(on_master)?;
            let into = format!("copy {} ({list}) from stdin{option}", there.quoted());
            let writer = to.copy_in(&into).map_err(on_slave)?;
            transfer(reader, writer, format, &ends, stop, &mut progress)?
        }
    };
    let filtered = rule.is_some_and(|rule| rule.row_filter.is_some());
    if sent.stored != sent.rows && !filtered {
        return Err(Error::new(
            Kind::Apply,
            format!(
                "table \"{name}\" on slave \"{}\" stored {} of {} rows",
                target.slave, sent.stored, sent.rows
            ),
        )
        .hint("A trigger there drops rows: disable it, or take ENABLE ALWAYS or ENABLE REPLICA from it."));
    }

    let rows = i64::try_from(sent.stored).unwrap_or(i64::MAX);
    if target.manner != Manner::Aside {
        to.execute(
            include_str!("../sql/copied_table.sql"),
            &[
                &target.agent,
                &target.slave,
                &table.schema,
                &table.name,
                &table.trigger_oid,
                &snapshot,
                &rows,
                &table_oid,
            ],
        )
        .map_err(on_slave)?;
    }
    if target.sequences {
        // Before anybody sees the rows; read after them.
        let sequences = sequences::on_master(&mut from, Some(&table.quoted()))?;
        let mut follower = Follower::silent(target.slave, target.mapping);
        follower.hear(&sequences.into_iter().map(|(moved, _)| moved).collect::<Vec<_>>());
        follower.catch_up_now(&mut to)?;
    }
    failpoint::hit("copy.before_commit");
    to.commit().map_err(on_slave)?;
    failpoint::hit("copy.after_commit");
    from.commit().map_err(on_master)?;
    log::info!("slave \"{}\": copied table {name}: {}", target.slave, progress.finish());
    Ok(CopiedTable { table: table.clone(), snapshot, rows: sent.stored, table_oid })
}

/// Begins a transaction and locks the table before the first snapshot, however long that takes unless stopped.
fn begin_locked<'a>(
    client: &'a mut Client,
    table: &CapturedTable,
    side: Side,
    stop: &Stop,
    context: &dyn Fn(postgres::Error) -> Error,
) -> Result<Transaction<'a>> {
    let (mut transaction, mode) = match side {
        Side::Master => {
            let begin =
                client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
            (begin.start().map_err(context)?, "access share")
        }
        Side::Slave => (client.transaction().map_err(context)?, "share row exclusive"),
    };
    // LOCK takes no snapshot, nor do savepoints. A partitioned table is locked with its partitions.
    let lock = format!(
        "savepoint attempt; set local lock_timeout = '1s'; lock table {} in {mode} mode; \
         set local lock_timeout = 0; release attempt",
        table.quoted()
    );
    while let Err(e) = transaction.batch_execute(&lock) {
        if e.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
            return Err(context(e));
        }
        if stop.is_set() {
            return Err(stopped(&table.full_name()));
        }
        log::debug!("table {} is locked, waiting", table.full_name());
        transaction.batch_execute("rollback to attempt").map_err(context)?;
    }
    Ok(transaction)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Master,
    Slave,
}

pub(super) fn stopped(name: &str) -> Error {
    Error::new(Kind::Stopped, format!("copy of table \"{name}\" was stopped"))
}

/// `only ` for an ordinary table, whose inheritance children are tables of their own; an error if it is none. And
/// its oid.
fn only_if_plain(slave: &mut Client, table: &CapturedTable, slave_name: &str) -> Result<(&'static str, u32)> {
    let found: Option<(i8, u32)> = slave
        .query_opt(
            "select c.relkind, c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where n.nspname = $1 and c.relname = $2",
            &[&table.schema, &table.name],
        )
        .map_err(|e| {
            Error::from_pg(
                format!("could not look for table \"{}\" on slave \"{slave_name}\"", table.full_name()),
                e,
            )
        })?
        .map(|row| (row.get(0), row.get(1)));
    match found.map(|(kind, oid)| (kind as u8, oid)) {
        Some((b'r', oid)) => Ok(("only ", oid)),
        Some((b'p', oid)) => Ok(("", oid)),
        Some(_) => Err(Error::new(
            Kind::Refused,
            format!("\"{}\" on slave \"{slave_name}\" is not a table", table.full_name()),
        )
        .with_sqlstate("42809")),
        None => Err(Error::new(
            Kind::Refused,
            format!("table \"{}\" does not exist on slave \"{slave_name}\"", table.full_name()),
        )
        .with_sqlstate("42P01")
        .hint("Create it as on the master; pg_dump --schema-only writes the statements.")),
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

/// Empties the table. TRUNCATE may not do it (another table refers to this one, or the right is lacking) where DELETE can,
/// as long as no foreign key carries the deletion on to other tables.
fn empty(
    to: &mut Transaction,
    only: &str,
    table: &CapturedTable,
) -> std::result::Result<(), postgres::Error> {
    let name = table.quoted();
    let mut attempt = to.savepoint("empty")?;
    let Err(e) = attempt.batch_execute(&format!("truncate table {only}{name}")) else {
        return attempt.commit();
    };
    attempt.rollback()?;
    let refused = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INSUFFICIENT_PRIVILEGE];
    if !e.code().is_some_and(|code| refused.contains(code))
        || !to.query_one(session::IS_REPLICA, &[])?.get::<_, bool>(0)
    {
        return Err(e);
    }
    to.batch_execute(&format!("delete from {only}{name}"))
}
