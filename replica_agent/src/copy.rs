//! Copies tables from the master to a slave, each under a snapshot of its own.
//!
//! In: a captured table. Out: its rows on the slave, and in the same slave transaction a row of
//! `pyreplica_agent.copied_table` with the snapshot `Sc` under which they were read.
//!
//! # Hand-over to the stream
//!
//! A change made by a transaction that `Sc` sees is in the copy; any other is not. So the applier skips the first
//! kind and applies the second, and no writer has to wait. That holds for TRUNCATE too, which no snapshot
//! protects from: the table is locked before the snapshot is taken, so it cannot be emptied in between.
//!
//! Invariants: a table that is not named in `copied_table` holds nothing of ours (a killed copy begins anew with the
//! table at hand and keeps those done); memory does not depend on the size of a table; what a crash of the
//! master could still lose is not copied (`flush_wal` after the snapshot).

use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, CopyInWriter, CopyOutReader, IsolationLevel, Transaction};

use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::quote;
use crate::wake::Stop;

const REPORT_EVERY: Duration = Duration::from_secs(10);

/// A table that the master captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedTable {
    pub schema: String,
    pub name: String,
    /// Another one under the same name means that the table was removed and added again.
    pub trigger_oid: u32,
    pub key_columns: Vec<String>,
    pub partitioned: bool,
}

impl CapturedTable {
    /// As people write it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    pub(crate) fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.name)
    }
}

/// What `copied_table` says of a table now.
#[derive(Clone, Debug)]
pub struct CopiedTable {
    pub schema: String,
    pub name: String,
    pub trigger_oid: u32,
    /// Text of a `pg_snapshot`: the transactions it sees are in the copy.
    pub snapshot: String,
    pub rows: u64,
    pub bytes: u64,
}

/// The tables that the master captures, in the order of their names.
pub fn captured_tables(master: &mut Client) -> Result<Vec<CapturedTable>> {
    let rows = master
        .query(include_str!("sql/captured_tables.sql"), &[])
        .map_err(|e| Error::from_pg("could not read the list of captured tables on the master", e))?;
    Ok(rows
        .iter()
        .map(|row| CapturedTable {
            schema: row.get(0),
            name: row.get(1),
            trigger_oid: row.get(2),
            // A primary key may have been dropped since.
            key_columns: row.get::<_, Option<Vec<String>>>(3).unwrap_or_default(),
            partitioned: row.get(4),
        })
        .collect())
}

/// Copies one captured table under its own snapshot and commits it with its `copied_table` row on the slave.
pub fn copy_table(
    master: &mut Client,
    slave: &mut Client,
    agent: &str,
    slave_name: &str,
    table: &CapturedTable,
    stop: &Stop,
) -> Result<CopiedTable> {
    let name = table.full_name();
    let on_master = |e| Error::from_pg(format!("could not copy table \"{name}\" from the master"), e);
    let on_slave = |e| on_slave(&name, slave_name, e);

    let mut from = begin_locked(master, table, Side::Master, stop, &on_master)?;
    let snapshot: String =
        from.query_one("select pg_current_snapshot()::text", &[]).map_err(on_master)?.get(0);
    from.execute("select pyreplica.flush_wal()", &[]).map_err(on_master)?;
    let columns = columns(&mut from, table).map_err(on_master)?;

    let only = only_if_plain(slave, table, slave_name)?;
    let mut to = begin_locked(slave, table, Side::Slave, stop, &on_slave)?;
    refuse_filled(&mut to, only, table, slave_name)?;

    let source = if table.partitioned {
        format!("(select {columns} from {})", table.quoted())
    } else {
        format!("{} ({columns})", table.quoted())
    };
    let reader = from.copy_out(&format!("copy {source} to stdout")).map_err(on_master)?;
    let writer = to.copy_in(&format!("copy {} ({columns}) from stdin", table.quoted())).map_err(on_slave)?;
    let sent = stream(reader, writer, &name, slave_name, stop)?;
    if sent.stored != sent.rows {
        return Err(Error::new(
            Kind::Apply,
            format!(
                "table \"{name}\" on slave \"{slave_name}\" stored {} of {} rows",
                sent.stored, sent.rows
            ),
        )
        .hint("A trigger there drops rows: disable it, or take ENABLE ALWAYS or ENABLE REPLICA from it."));
    }

    let rows = i64::try_from(sent.rows).unwrap_or(i64::MAX);
    to.execute(
        include_str!("sql/copied_table.sql"),
        &[&agent, &slave_name, &table.schema, &table.name, &table.trigger_oid, &snapshot, &rows],
    )
    .map_err(on_slave)?;
    failpoint::hit("copy.before_commit");
    to.commit().map_err(on_slave)?;
    from.commit().map_err(on_master)?;
    log::info!("slave \"{slave_name}\": copied table {name}: {}", sent.summary());
    Ok(CopiedTable {
        schema: table.schema.clone(),
        name: table.name.clone(),
        trigger_oid: table.trigger_oid,
        snapshot,
        rows: sent.rows,
        bytes: sent.bytes,
    })
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

fn stopped(name: &str) -> Error {
    Error::new(Kind::Stopped, format!("copy of table \"{name}\" was stopped"))
}

/// The columns that are copied; generated ones are computed again on the slave.
fn columns(from: &mut Transaction, table: &CapturedTable) -> std::result::Result<String, postgres::Error> {
    let rows = from.query(include_str!("sql/copied_columns.sql"), &[&table.schema, &table.name])?;
    let names: Vec<_> = rows.iter().map(|row| quote::ident(row.get(0))).collect();
    Ok(names.join(", "))
}

/// `only ` for an ordinary table, whose inheritance children are tables of their own; an error if it is none.
fn only_if_plain(slave: &mut Client, table: &CapturedTable, slave_name: &str) -> Result<&'static str> {
    let kind: Option<i8> = slave
        .query_opt(
            "select c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where n.nspname = $1 and c.relname = $2",
            &[&table.schema, &table.name],
        )
        .map_err(|e| {
            Error::from_pg(
                format!("could not look for table \"{}\" on slave \"{slave_name}\"", table.full_name()),
                e,
            )
        })?
        .map(|row| row.get(0));
    match kind.map(|kind| kind as u8) {
        Some(b'r') => Ok("only "),
        Some(b'p') => Ok(""),
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

/// What went over the line.
struct Sent {
    /// Lines that the master sent.
    rows: u64,
    /// Rows that the slave says it stored.
    stored: u64,
    bytes: u64,
    took: Duration,
}

impl Sent {
    fn summary(&self) -> String {
        let (rows, seconds) = (self.rows, self.took.as_secs_f64());
        let megabytes = self.bytes as f64 / 1e6;
        // A rate over a moment says nothing.
        match seconds > 0.1 {
            true => format!(
                "{rows} rows, {megabytes:.1} MB in {seconds:.1} s ({:.0} rows/s)",
                rows as f64 / seconds
            ),
            false => format!("{rows} rows, {megabytes:.1} MB"),
        }
    }
}

/// Passes rows on as they come; the server on either side holds the other back.
fn stream(
    mut reader: CopyOutReader,
    mut writer: CopyInWriter,
    name: &str,
    slave_name: &str,
    stop: &Stop,
) -> Result<Sent> {
    let started = Instant::now();
    let mut progress = Progress::new(name, slave_name);
    let mut sent = Sent { rows: 0, stored: 0, bytes: 0, took: Duration::ZERO };
    loop {
        if stop.is_set() {
            return Err(stopped(name));
        }
        let data = reader.fill_buf().map_err(|e| {
            unwrap_pg(e, |e| Error::from_pg(format!("could not copy table \"{name}\" from the master"), e))
        })?;
        if data.is_empty() {
            break;
        }
        writer.write_all(data).map_err(|e| unwrap_pg(e, |e| on_slave(name, slave_name, e)))?;
        // A row is a line: line ends inside values are escaped.
        sent.rows += data.iter().filter(|byte| **byte == b'\n').count() as u64;
        sent.bytes += data.len() as u64;
        let length = data.len();
        reader.consume(length);
        sent.took = started.elapsed();
        progress.show(&sent);
    }
    sent.stored = writer.finish().map_err(|e| on_slave(name, slave_name, e))?;
    sent.took = started.elapsed();
    Ok(sent)
}

fn on_slave(name: &str, slave_name: &str, e: postgres::Error) -> Error {
    Error::from_pg(format!("could not copy table \"{name}\" to slave \"{slave_name}\""), e)
}

/// The streams of COPY hide the server's error in one of I/O.
fn unwrap_pg(e: std::io::Error, context: impl FnOnce(postgres::Error) -> Error) -> Error {
    match e.into_inner().map(|inner| inner.downcast::<postgres::Error>()) {
        Some(Ok(e)) => context(*e),
        Some(Err(e)) => Error::new(Kind::Connection, format!("copy was interrupted: {e}")),
        None => Error::new(Kind::Connection, "copy was interrupted"),
    }
}

/// A line on the terminal, or one in the log now and then.
struct Progress {
    bar: Option<indicatif::ProgressBar>,
    place: String,
    last: Instant,
}

impl Progress {
    fn new(name: &str, slave_name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(indicatif::ProgressBar::new_spinner);
        Progress { bar, place: format!("slave \"{slave_name}\": copying table {name}"), last: Instant::now() }
    }

    fn show(&mut self, sent: &Sent) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{}: {}", self.place, sent.summary()));
                bar.tick();
            }
            None if self.last.elapsed() >= REPORT_EVERY => {
                log::info!("{}: {} so far", self.place, sent.summary());
                self.last = Instant::now();
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
