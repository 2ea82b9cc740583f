//! Several workers that copy a slave's tables, the largest first; or one, where foreign keys are looked at, and then what
//! these connect is copied together.
//!
//! In: tables, and a session on the master of whoever asks. Out: each table copied, or the first error. A worker is a pair
//! of sessions; the caller's is one of the first pair, the others last as long as the copy.
//!
//! After an error the other workers finish the tables at hand, which the next attempt then need not copy again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::Client;

use super::progress::{Progress, Size};
use super::table::{Manner, Target};
use super::together::copy_together;
use super::{CapturedTable, CopiedTable};
use crate::commit::mark_copying;
use crate::config::{Config, Slave};
use crate::error::{Error, Kind, Result};
use crate::logging;
use crate::node::Route;
use crate::quote;
use crate::references::{self, Connected};
use crate::session;
use crate::wake::{Cancelable, Cancels, Stop};

/// What a copy needs to know of the agent and the slave.
pub struct Crew<'a> {
    pub config: &'a Config,
    pub slave: &'a Slave,
    pub stop: &'a Stop,
    pub cancels: &'a Cancels,
    /// Of a moment that is held: the snapshot of the copy. Else each has its own.
    pub snapshot: Option<&'a str>,
}

/// A table that is to be copied.
pub(super) struct Planned {
    pub table: CapturedTable,
    pub manner: Manner,
    pub size: Size,
}

type Queue = VecDeque<Connected<Planned>>;

/// What the workers share.
struct Work<'a> {
    crew: &'a Crew<'a>,
    left: Mutex<Queue>,
    copied: Mutex<Vec<CopiedTable>>,
    error: Mutex<Option<Error>>,
    progress: Progress,
}

impl Crew<'_> {
    /// Copies all these tables; those that are copied are handed out even if another fails.
    pub fn copy(
        &self,
        master: &mut Client,
        tables: Vec<(CapturedTable, Manner)>,
    ) -> (Vec<CopiedTable>, Result<()>) {
        if tables.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let planned = self.open_slave(master).and_then(|(mut slave, cancelable)| {
            let plan = self.plan(master, &mut slave, tables)?;
            Ok((plan, slave, cancelable))
        });
        let ((queue, workers), mut slave, _cancelable) = match planned {
            Ok(planned) => planned,
            Err(e) => return (Vec::new(), Err(e)),
        };
        let sizes: Vec<Size> = queue.iter().flat_map(|one| &one.tables).map(|one| one.size).collect();
        let work = Work {
            crew: self,
            left: Mutex::new(queue),
            copied: Mutex::default(),
            error: Mutex::default(),
            progress: Progress::new(&self.slave.name, &sizes),
        };
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(logging::inherit(|| work.help()));
            }
            work.run(master, &mut slave);
        });
        let left = !lock(&work.left).is_empty();
        let copied = work.copied.into_inner().unwrap_or_else(PoisonError::into_inner);
        let error = work.error.into_inner().unwrap_or_else(PoisonError::into_inner);
        let stopped = || Error::new(Kind::Stopped, "copy was stopped, some tables are left");
        let error = error.or_else(|| (left && self.stop.is_set()).then(stopped));
        (copied, error.map_or(Ok(()), Err))
    }

    fn open_slave(&self, master: &mut Client) -> Result<(Client, Cancelable)> {
        let mut client: Client = session::connect_slave(self.slave)?;
        Route::find(master, &mut client, &self.slave.name)?;
        mark_copying(master, &mut client, self.config.agent_name(), &self.slave.name)?;
        let cancelable = self.cancels.add(&self.slave.dsn, &client)?;
        Ok((client, cancelable))
    }

    /// The order of the tables, and how many workers there are to be. Where foreign keys are looked at, a table that another
    /// worker copied meanwhile, under another snapshot, could lack what a row refers to.
    fn plan(
        &self,
        master: &mut Client,
        slave: &mut Client,
        tables: Vec<(CapturedTable, Manner)>,
    ) -> Result<(Queue, usize)> {
        let schemas: Vec<_> = tables.iter().map(|(table, _)| table.schema.as_str()).collect();
        let names: Vec<_> = tables.iter().map(|(table, _)| table.name.as_str()).collect();
        let rows = master
            .query(include_str!("../sql/copy_sizes.sql"), &[&schemas, &names])
            .map_err(|e| Error::from_pg("could not ask the master for the sizes of tables", e))?;
        let count = |row: &postgres::Row, i| u64::try_from(row.get::<_, i64>(i)).unwrap_or(0);
        let sizes = rows.iter().map(|row| Size { bytes: count(row, 0), rows: count(row, 1) });
        let planned = |((table, manner), size)| Planned { table, manner, size };
        let mut tables: Vec<_> = tables.into_iter().zip(sizes).map(planned).collect();
        let silent = session::is_replica(slave).map_err(|e| {
            Error::from_pg(format!("could not read the settings of slave \"{}\"", self.slave.name), e)
        })?;
        if !silent {
            let queue = references::connected(slave, tables, |Planned { table, .. }| {
                let (schema, name) = self.slave.mapping.target(&table.schema, &table.name);
                quote::qualified(&schema, &name)
            })?;
            return Ok((queue.into(), 1));
        }
        tables.sort_by_key(|planned| std::cmp::Reverse(planned.size.bytes));
        let workers = self.config.agent.copy_jobs.min(tables.len());
        let alone = |planned| Connected { tables: vec![planned], circular: false };
        Ok((tables.into_iter().map(alone).collect(), workers))
    }
}

impl Work<'_> {
    /// A worker with sessions of its own. What it cannot do the others do.
    fn help(&self) {
        let Crew { config, slave, cancels, .. } = self.crew;
        let master_dsn = &config.master.dsn;
        let opened = || -> Result<_> {
            let mut master: Client = session::connect_master(master_dsn, "copy")?;
            let cancelable = cancels.add(master_dsn, &master)?;
            let slave = self.crew.open_slave(&mut master)?;
            Ok((master, cancelable, slave))
        };
        match opened() {
            Ok((mut master, _cancelable, (mut client, _cancelable_too))) => {
                self.run(&mut master, &mut client);
            }
            Err(e) => log::warn!("slave \"{}\": copying with fewer sessions: {e:#}", slave.name),
        }
    }

    fn run(&self, master: &mut Client, slave: &mut Client) {
        let target = Target {
            agent: self.crew.config.agent_name(),
            slave: &self.crew.slave.name,
            user: self.crew.slave.dsn.user(),
            mapping: &self.crew.slave.mapping,
            sequences: self.crew.slave.sequences,
            snapshot: self.crew.snapshot,
        };
        while let Some(connected) = self.next() {
            match copy_together(master, slave, &target, &connected, self.crew.stop, &self.progress) {
                Ok(copied) => lock(&self.copied).extend(copied),
                Err(e) => {
                    let mut first = lock(&self.error);
                    if first.is_none() && e.kind() != Kind::Stopped && !lock(&self.left).is_empty() {
                        log::warn!("slave \"{}\": {e:#}; tables at hand are finished", target.slave);
                    }
                    first.get_or_insert(e);
                    return;
                }
            }
        }
    }

    fn next(&self) -> Option<Connected<Planned>> {
        let over = self.crew.stop.is_set() || lock(&self.error).is_some();
        if over {
            None
        } else {
            lock(&self.left).pop_front()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
