//! The slave's transaction step by step: begun, prepared with its position, committed, or undone. An atomic group goes
//! these steps, and so does whatever the stream cannot send.

use std::time::Instant;

use postgres::SimpleQueryMessage;

use super::recovery::gid;
use super::{Phase, SlaveSession};
use crate::applier::Forwards;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::failure;
use crate::pipe::Pipe;
use crate::position::{Position, Rank, Xid};
use crate::quote;
use crate::retry;
use crate::stages::Stages;

impl SlaveSession {
    /// Who holds the position row may have prepared a batch since recovery looked: the wait is short, and trying again
    /// (55P03) looks again.
    ///
    /// At a node the transaction is held to be of the origin of its first window. That is so where it is asked for:
    /// as long as the slave forwards, which `pyreplica.forward` does not change within a transaction, each ends where
    /// the origin changes.
    pub(super) fn begin(&mut self, origin: Option<&str>) -> Result<()> {
        if self.phase != Phase::Idle {
            return Ok(());
        }
        let failed =
            |name: &str, e| Error::from_pg(format!("could not begin a batch on slave \"{name}\""), e);
        let whose = format!(
            "p.agent = {} and p.slave = {} for update of p",
            quote::literal(&self.agent),
            quote::literal(&self.name)
        );
        let origin = self.route.through(origin)?;
        let row = match self.route.ends_at_a_node() {
            true => format!(
                "select pg_advisory_xact_lock_shared(1887007333, 1); \
                 select p.batch, n.forwards, \
                        case when n.forwards or not {} then set_config('pyreplica.origin', {}, true) end \
                   from pyreplica_agent.position p, pyreplica.node n where {whose}",
                self.replica,
                quote::literal(&origin)
            ),
            false => format!("select p.batch from pyreplica_agent.position p where {whose}"),
        };
        let rows = self
            .client
            .simple_query(&format!(
                "begin read write; set local lock_timeout = '1s'; {row}; set local lock_timeout = 0"
            ))
            .map_err(|e| failed(&self.name, e))?;
        self.phase = Phase::Open;
        self.savepoint = false;
        self.applier.begin_batch();
        let row = rows.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let batch = row.and_then(|row| row.get(0)?.parse::<i64>().ok());
        self.hold_origin(origin, row.is_some_and(|row| row.len() > 1 && row.get(1) == Some("t")));
        // In a group whose batch numbers were just aligned ours may be ahead of the row.
        if batch.is_none_or(|batch| batch > self.batch) {
            self.rollback()?;
            return Err(moved_by_another(&self.name)
                .detail(format!("Expected batch {}, found {batch:?}.", self.batch)));
        }
        failpoint::hit("commit.after_begin");
        Ok(())
    }

    /// What begins a transaction of the stream. At a node it fails unless that is the one it was, and forwards, or does not,
    /// as it did last; SQL has no other way to raise an error than a cast that fails.
    pub(super) fn send_begin(&mut self, origin: Option<&str>) -> Result<()> {
        let mut begin = "begin read write".to_owned();
        if let (Some(node), Some(forwards)) = (self.route.slave(), self.forwards) {
            let origin = self.route.through(origin)?;
            let set = match forwards || !self.replica {
                true => {
                    format!("pg_catalog.set_config('pyreplica.origin', {}, true)", quote::literal(&origin))
                }
                false => "null".to_owned(),
            };
            begin += &format!(
                "; select pg_advisory_xact_lock_shared(1887007333, 1); \
                 select case when n.id = {} and n.forwards = {forwards} then {set} \
                             else cast(concat(n.id, ' is not the node that PyReplica expects, which now looks again') as int)::text \
                        end from (select) one left join pyreplica.node n on true",
                quote::literal(node)
            );
            self.hold_origin(origin, forwards);
        }
        self.client.send_batch(begin);
        self.phase = Phase::Open;
        self.savepoint = false;
        self.applier.begin_batch();
        Ok(())
    }

    fn hold_origin(&mut self, origin: String, forwards: bool) {
        self.forwards = Some(forwards);
        self.applier.forwards = forwards.then_some(Forwards { origin, replica: self.replica });
    }

    /// Does more in the transaction at hand, beginning it if there is none.
    pub fn also(&mut self, work: &mut dyn FnMut(&mut Pipe) -> Result<()>) -> Result<()> {
        self.begin(None)?;
        work(&mut self.client).inspect_err(|_| self.let_go())
    }

    /// First half: afterwards only a failure of the master's decision can undo the batch. Without two-phase commit
    /// nothing happens but the writing of the position.
    pub fn prepare(&mut self, position: &Position, batch: i64) -> Result<()> {
        let began = Instant::now();
        self.begin(None)?;
        failpoint::hit("commit.after_apply");
        let restarted = self.applier.restarted();
        if let Some(sequences) = &mut self.sequences {
            if restarted {
                sequences.set_back();
            }
            sequences.catch_up(&mut self.client)?;
            self.answered()?;
        }
        let failed =
            |name: &str, e| Error::from_pg(format!("could not move the position of slave \"{name}\""), e);
        let moved = self
            .client
            .execute(
                &self.mover,
                &[
                    &self.agent,
                    &self.name,
                    &self.timeline,
                    &position.rank,
                    &position.snapshot.to_string(),
                    &position.last_xid.map(|x| x.to_string()),
                    &position.last_ts,
                    &batch,
                    &position.settled,
                ],
            )
            .map_err(|e| failed(&self.name, e))?;
        if moved != 1 {
            self.let_go();
            return Err(moved_by_another(&self.name));
        }
        failpoint::hit("commit.after_position");
        self.last = position.last_xid.map(|xid| (position.rank, xid));
        if self.two_phase {
            let gid = gid(&self.agent, &self.name, batch)?;
            self.phase = Phase::Idle; // a PREPARE that fails is a rollback
            self.client
                .batch_execute(&format!("prepare transaction {}", quote::literal(&gid)))
                .map_err(|e| explain_prepare(&self.name, self.last, e))?;
            self.phase = Phase::Prepared;
            failpoint::hit("commit.after_prepare");
        }
        self.batch = batch;
        self.stages.seconds.prepare += began.elapsed().as_secs_f64();
        Ok(())
    }

    /// Second half. Gives the number of conflicts in the batch.
    pub fn commit(&mut self) -> Result<u64> {
        let began = Instant::now();
        let command = match self.phase {
            Phase::Prepared => format!("commit prepared {}", quote::literal(&self.gid()?)),
            _ => "commit".to_owned(),
        };
        self.phase = Phase::Idle;
        if let Err(e) = self.client.batch_execute(&command) {
            let gone = e.code().is_some_and(|state| retry::is_undefined_object(state.code()));
            let batch = self.batch;
            if !gone || self.standing()?.is_none_or(|standing| standing.batch < batch) {
                let e = Error::from_pg(format!("could not commit a batch on slave \"{}\"", self.name), e);
                return Err(failure::at_the_end(&self.name, self.last, e));
            }
            // Somebody else's recovery committed it.
        }
        // PREPARE TRANSACTION and COMMIT PREPARED wait for the disk.
        self.durable = self.two_phase;
        failpoint::hit("commit.after_commit");
        self.stages.seconds.commit += began.elapsed().as_secs_f64();
        self.batch_done(self.batch);
        Ok(self.applier.end_batch())
    }

    pub(super) fn batch_done(&mut self, batch: i64) {
        let mut stages = std::mem::take(&mut self.stages);
        stages.batches = 1;
        log::debug!("slave \"{}\": batch {batch}: {stages}", self.name);
        self.total.add(&stages);
    }

    /// Undoes the batch at hand, prepared or not.
    pub fn rollback(&mut self) -> Result<()> {
        self.stages = Stages::default();
        let command = match self.phase {
            Phase::Idle => return Ok(()),
            Phase::Open => "rollback".to_owned(),
            Phase::Prepared => format!("rollback prepared {}", quote::literal(&self.gid()?)),
        };
        self.phase = Phase::Idle;
        self.client
            .batch_execute(&command)
            .map_err(|e| Error::from_pg(format!("could not roll back a batch on slave \"{}\"", self.name), e))
    }

    /// Rolls back after an error, which the caller is about to report: one more would say nothing new.
    pub(super) fn let_go(&mut self) {
        if let Err(e) = self.rollback() {
            log::debug!("{e:#}");
        }
    }

    /// Waits until no crash of the slave can undo what is committed: a later commit that waits for the disk does.
    ///
    /// False in the middle of a batch, when that cannot be.
    pub fn make_durable(&mut self) -> Result<bool> {
        if self.durable || self.phase != Phase::Idle {
            return Ok(self.durable);
        }
        let failed = |name: &str, e| {
            Error::from_pg(format!("could not make the position of slave \"{name}\" durable"), e)
        };
        self.client
            .batch_execute(&format!(
                "begin read write; set local synchronous_commit = on; \
                 update pyreplica_agent.position set applied_at = applied_at where agent = {} and slave = {}; commit",
                quote::literal(&self.agent),
                quote::literal(&self.name)
            ))
            .map_err(|e| failed(&self.name, e))?;
        self.durable = true;
        Ok(true)
    }
}

fn moved_by_another(slave: &str) -> Error {
    // Tried again at once, with the position looked up: a predecessor's batch may have been prepared late.
    Error::new(Kind::Refused, format!("position of slave \"{slave}\" was moved by somebody else"))
        .with_sqlstate("40001")
        .hint("Does a second agent of this name run elsewhere? The agent looks at the position again and goes on.")
}

/// The server says what it cannot prepare; who did it stands nowhere.
fn explain_prepare(slave: &str, last: Option<(Rank, Xid)>, e: postgres::Error) -> Error {
    let e = Error::from_pg(format!("could not prepare a batch on slave \"{slave}\""), e);
    match e.sqlstate() {
        Some("0A000") => e
            .detail("A trigger on one of the slave's tables, or a queued statement, used NOTIFY or a temporary table.")
            .hint(format!(
                "Disable the trigger (or take ENABLE ALWAYS or ENABLE REPLICA from it), set the statement aside with \
                 \"replica_agent skip --slave {slave}\", or set two_phase = false for this slave."
            )),
        Some("53400") => e.hint("Raise max_prepared_transactions on the server of the slave; each slave needs one."),
        _ => failure::at_the_end(slave, last, e),
    }
}
