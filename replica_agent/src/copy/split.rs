//! Copies one large table by several workers, each a range of its pages at a time.
//!
//! In: a table that nobody reads on the slave yet. Out: all its rows, under one snapshot, and its `copied_table` row.
//!
//! Each range is a transaction of the slave. So a copy that is cut off leaves some of the rows, and a `copy_request`
//! that was there before the first of them: it goes with the row in `copied_table`, and who finds it empties the table.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use postgres::{Client, IsolationLevel, Transaction};

use super::crew::{lock, Crew, Planned};
use super::progress::{Progress, TableProgress};
use super::table::{stopped, Job, Target};
use super::together::{begin_reading, begin_writing};
use super::CopiedTable;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::logging;
use crate::wake::Stop;

/// For each worker, so that none waits long for the last of the others. Of the indexes that a table has already, each is
/// filled at as many places as there are workers.
const RANGES: u64 = 8;

/// How long a helper waits for its locks. Whoever has asked for a stronger one waits for the whole copy, and it behind them.
const LOCK_TIMEOUT: &str = "1s";

/// What the workers share.
struct Ranges<'a> {
    job: &'a Job<'a>,
    target: &'a Target<'a>,
    stop: &'a Stop,
    progress: TableProgress<'a>,
    pages: u64,
    step: u64,
    next: AtomicU64,
    rows: AtomicU64,
    workers: AtomicU64,
    error: Mutex<Option<Error>>,
}

/// Copies the table by as many workers as the crew has.
pub(super) fn copy_split(
    crew: &Crew,
    master: &mut Client,
    slave: &mut Client,
    target: &Target,
    planned: &Planned,
    progress: &Progress,
) -> Result<CopiedTable> {
    let table = &planned.table;
    let name = table.full_name();
    let on_master = |e| Error::from_pg(format!("could not copy table \"{name}\" from the master"), e);
    let on_slave =
        |e| Error::from_pg(format!("could not copy table \"{name}\" to slave \"{}\"", target.slave), e);

    let (mut from, snapshot) = begin_reading(master, &[table], crew.stop, &on_master)?;
    let id: String = from.query_one("select pg_export_snapshot()", &[]).map_err(on_master)?.get(0);
    let jobs = [Job::new(&mut from, slave, target, planned)?];
    let mut to = begin_writing(slave, &jobs, target, crew.stop, &on_slave)?;
    to.execute(
        include_str!("../sql/request_copy.sql"),
        &[&target.agent, &target.slave, &table.schema, &table.name],
    )
    .map_err(on_slave)?;
    to.commit().map_err(on_slave)?;

    let [job] = &jobs;
    let workers = crew.config.agent.copy_jobs;
    let ranges = Ranges {
        job,
        target,
        stop: crew.stop,
        progress: progress.table(planned.size),
        pages: planned.size.pages,
        step: planned.size.pages.div_ceil(RANGES * workers as u64).max(1),
        next: AtomicU64::new(0),
        rows: AtomicU64::new(0),
        workers: AtomicU64::new(0),
        error: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(logging::inherit(|| ranges.help(crew, &id)));
        }
        ranges.run(&mut from, slave);
    });
    let Ranges { progress, rows, workers, error, .. } = ranges;
    if let Some(e) = error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(e);
    }
    let mut to = slave.transaction().map_err(on_slave)?;
    let copied = job.record(&mut from, &mut to, target, &snapshot, rows.into_inner())?;
    failpoint::hit("copy.before_commit");
    to.commit().map_err(on_slave)?;
    failpoint::hit("copy.after_commit");
    from.commit().map_err(on_master)?;
    let (summary, workers) = (progress.finish(), workers.into_inner());
    log::info!("slave \"{}\": copied table {name} by {workers} workers: {summary}", target.slave);
    Ok(copied)
}

impl Ranges<'_> {
    /// What selects the next range that nobody has taken. The last one has no end: the table may have grown.
    fn next(&self) -> Option<String> {
        let first = self.next.fetch_add(self.step, Ordering::Relaxed);
        let end = first + self.step;
        match first {
            _ if first >= self.pages => None,
            _ if end >= self.pages => Some(format!("ctid >= '({first},0)'")),
            _ => Some(format!("ctid >= '({first},0)' and ctid < '({end},0)'")),
        }
    }

    fn run(&self, from: &mut Transaction, slave: &mut Client) {
        let mut took = false;
        while let Some(range) = self.next() {
            if !std::mem::replace(&mut took, true) {
                self.workers.fetch_add(1, Ordering::Relaxed);
            }
            if let Err(e) = self.copy(from, slave, &range) {
                self.next.store(self.pages, Ordering::Relaxed);
                lock(&self.error).get_or_insert(e);
            }
        }
    }

    fn copy(&self, from: &mut Transaction, slave: &mut Client, range: &str) -> Result<()> {
        let name = self.job.table.full_name();
        if self.stop.is_set() {
            return Err(stopped(&name));
        }
        let on_slave = |e| {
            Error::from_pg(format!("could not copy table \"{name}\" to slave \"{}\"", self.target.slave), e)
        };
        let mut to = slave.transaction().map_err(on_slave)?;
        let rows = self.job.rows(from, &mut to, self.target, Some(range), self.stop, &self.progress)?;
        to.commit().map_err(on_slave)?;
        failpoint::hit("copy.after_range");
        self.rows.fetch_add(rows, Ordering::Relaxed);
        Ok(())
    }

    /// A worker with sessions of its own. What it cannot do the others do.
    fn help(&self, crew: &Crew, snapshot: &str) {
        let helped = crew.open_pair().and_then(|mut pair| {
            let failed = |e| Error::from_pg("could not read under the snapshot of another session", e);
            let begin = pair
                .master
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true);
            let mut from = begin.start().map_err(failed)?;
            // To plan a query takes locks of indexes and partitions, which REINDEX, say, may wait for.
            from.batch_execute(&format!(
                "set local lock_timeout = '{LOCK_TIMEOUT}'; lock table {name} in access share mode; \
                 set transaction snapshot '{snapshot}'; select from {name} limit 0; set local lock_timeout = 0",
                name = self.job.table.quoted()
            ))
            .map_err(failed)?;
            self.run(&mut from, &mut pair.slave);
            Ok(())
        });
        if let Err(e) = helped {
            log::warn!("slave \"{}\": copying with fewer sessions: {e:#}", self.target.slave);
        }
    }
}
