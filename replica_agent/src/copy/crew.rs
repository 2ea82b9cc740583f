//! Several workers that copy a slave's tables, the largest first, and one that is more than a worker's share all together;
//! or one worker, where foreign keys are looked at, and then what these connect is copied together.
//!
//! In: tables, and a session on the master of whoever asks, which may hold a moment. Out: each table copied, or the first
//! error. A worker is a pair of sessions; the caller's is one of the first pair, the others last as long as the copy.
//! Where a moment is held there is one worker, as it is that session that reads.
//!
//! After an error the other workers finish the tables at hand, which the next attempt then need not copy again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::Client;

use super::moment::Master;
use super::progress::{Progress, Size};
use super::split::copy_split;
use super::table::{Job, Manner, Target};
use super::together::copy_together;
use super::{CapturedTable, CopiedTable};
use crate::commit::Claim;
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
    pub claim: &'a Claim,
}

/// A table that is to be copied.
pub(super) struct Planned {
    pub table: CapturedTable,
    pub manner: Manner,
    pub size: Size,
}

struct Plan {
    /// Each by all workers.
    split: Vec<Planned>,
    /// Each by one.
    queue: VecDeque<Connected<Planned>>,
    workers: usize,
}

/// A worker's sessions.
pub(super) struct Pair {
    pub master: Client,
    pub slave: Client,
    _cancelables: [Cancelable; 2],
}

/// What the workers share.
struct Work<'a> {
    crew: &'a Crew<'a>,
    left: Mutex<VecDeque<Connected<Planned>>>,
    copied: Mutex<Vec<CopiedTable>>,
    error: Mutex<Option<Error>>,
    progress: Progress,
}

impl Crew<'_> {
    /// Copies all these tables; those that are copied are handed out even if another fails.
    pub fn copy(
        &self,
        mut master: Master,
        tables: Vec<(CapturedTable, Manner)>,
    ) -> (Vec<CopiedTable>, Result<()>) {
        if tables.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let planned = self.open_slave(master.client()).and_then(|(mut slave, cancelable)| {
            let plan = self.plan(&mut master, &mut slave, tables)?;
            Ok((plan, slave, cancelable))
        });
        let (Plan { split, queue, workers }, mut slave, _cancelable) = match planned {
            Ok(planned) => planned,
            Err(e) => return (Vec::new(), Err(e)),
        };
        let sizes: Vec<Size> =
            split.iter().chain(queue.iter().flat_map(|one| &one.tables)).map(|one| one.size).collect();
        let work = Work {
            crew: self,
            left: Mutex::new(queue),
            copied: Mutex::default(),
            error: Mutex::default(),
            progress: Progress::new(&self.slave.name, &sizes),
        };
        for planned in &split {
            match copy_split(self, master.client(), &mut slave, &self.target(), planned, &work.progress) {
                Ok(copied) => lock(&work.copied).push(copied),
                Err(e) => return (std::mem::take(&mut lock(&work.copied)), Err(e)),
            }
        }
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(logging::inherit(|| work.help()));
            }
            work.run(&mut master, &mut slave);
        });
        let left = !lock(&work.left).is_empty();
        let copied = work.copied.into_inner().unwrap_or_else(PoisonError::into_inner);
        let error = work.error.into_inner().unwrap_or_else(PoisonError::into_inner);
        let stopped = || Error::new(Kind::Stopped, "copy was stopped, some tables are left");
        let error = error.or_else(|| (left && self.stop.is_set()).then(stopped));
        (copied, error.map_or(Ok(()), Err))
    }

    fn open_slave(&self, master: &mut Client) -> Result<(Client, Cancelable)> {
        let (mut client, cancelable) = self.claim.open(self.slave, self.cancels)?;
        Route::find(master, &mut client, &self.slave.name)?;
        Ok((client, cancelable))
    }

    pub(super) fn open_pair(&self) -> Result<Pair> {
        let dsn = &self.config.master.dsn;
        let mut master: Client = session::connect_master(dsn, "copy")?;
        let cancelable = self.cancels.add(dsn, &master)?;
        let (slave, slave_cancelable) = self.open_slave(&mut master)?;
        Ok(Pair { master, slave, _cancelables: [cancelable, slave_cancelable] })
    }

    fn target(&self) -> Target<'_> {
        Target {
            agent: self.config.agent_name(),
            slave: &self.slave.name,
            user: self.slave.dsn.user(),
            mapping: &self.slave.mapping,
            sequences: self.slave.sequences,
        }
    }

    /// Who copies what, in which order. Where foreign keys are looked at, a table that another worker copied meanwhile,
    /// under another snapshot, could lack what a row refers to.
    fn plan(
        &self,
        master: &mut Master,
        slave: &mut Client,
        tables: Vec<(CapturedTable, Manner)>,
    ) -> Result<Plan> {
        let schemas: Vec<_> = tables.iter().map(|(table, _)| table.schema.as_str()).collect();
        let names: Vec<_> = tables.iter().map(|(table, _)| table.name.as_str()).collect();
        let rows = master
            .client()
            .query(include_str!("../sql/copy_sizes.sql"), &[&schemas, &names])
            .map_err(|e| Error::from_pg("could not ask the master for the sizes of tables", e))?;
        let count = |row: &postgres::Row, i| u64::try_from(row.get::<_, i64>(i)).unwrap_or(0);
        let sizes =
            rows.iter().map(|row| Size { bytes: count(row, 0), rows: count(row, 1), pages: count(row, 2) });
        let planned = |((table, manner), size)| Planned { table, manner, size };
        let mut tables: Vec<_> = tables.into_iter().zip(sizes).map(planned).collect();
        let silent = session::is_replica(slave).map_err(|e| {
            Error::from_pg(format!("could not read the settings of slave \"{}\"", self.slave.name), e)
        })?;
        if !silent || matches!(master, Master::Held(_)) {
            let name = |Planned { table, .. }: &Planned| {
                let (schema, name) = self.slave.mapping.target(&table.schema, &table.name);
                quote::qualified(&schema, &name)
            };
            let target = self.target();
            let queue = references::connected(slave, tables, name, |one| Job::is_mapped(one, &target))?;
            return Ok(Plan { split: Vec::new(), queue: queue.into(), workers: 1 });
        }
        tables.sort_by_key(|planned| std::cmp::Reverse(planned.size.bytes));
        let rest = tables.split_off(self.larger_than_a_share(&tables));
        let workers = self.config.agent.copy_jobs.min(rest.len());
        let alone = |planned| Connected { tables: vec![planned], circular: false };
        Ok(Plan { split: tables, queue: rest.into_iter().map(alone).collect(), workers })
    }

    /// How many of the tables, the largest first, would each keep one worker at work for half as long again as it takes all
    /// to share what is left. Others are better copied side by side.
    fn larger_than_a_share(&self, tables: &[Planned]) -> usize {
        let jobs = self.config.agent.copy_jobs as u64;
        let mut left: u64 = tables.iter().map(|planned| planned.size.bytes).sum();
        let is_split = |Planned { manner, size, .. }: &&Planned| {
            let enough = (left / jobs * 3 / 2).max(self.config.agent.copy_split_bytes);
            left -= size.bytes;
            let unread = matches!(manner, Manner::First | Manner::Anew);
            jobs > 1 && unread && size.pages > 1 && size.bytes > enough
        };
        tables.iter().take_while(is_split).count()
    }
}

impl Work<'_> {
    /// A worker with sessions of its own. What it cannot do the others do.
    fn help(&self) {
        match self.crew.open_pair() {
            Ok(mut pair) => self.run(&mut Master::Free(&mut pair.master), &mut pair.slave),
            Err(e) => {
                log::warn!("slave \"{}\": copying with fewer sessions: {e:#}", self.crew.slave.name);
            }
        }
    }

    fn run(&self, master: &mut Master, slave: &mut Client) {
        let target = self.crew.target();
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
