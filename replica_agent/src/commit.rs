//! The slave's transaction: begins it, moves the position in it, commits it, and settles what a crash left prepared.
//! The only module that moves a position.
//!
//! In: chunks and the position after them. Out: the slave moved from one position to the next, whole or not at all.
//!
//! # Protocol
//!
//! 1. `begin`, and a lock on the position row: a second agent that does not yet know of us waits here, then finds
//!    another batch number and gives up.
//! 2. The changes, conflict rows, the position row with the next batch number.
//! 3. `PREPARE TRANSACTION 'pyreplica:<agent>:<slave>:<batch>'`. If it fails the transaction is rolled back.
//! 4. `COMMIT PREPARED`. With `two_phase = false` 3 and 4 are one COMMIT.
//!
//! A crash before 3 leaves the old position, one after 4 the new one. In between recovery settles it, before anything
//! else is applied: an independent slave commits, since nobody else has a say; in an atomic group the decision row on
//! the master says which. Whether an unanswered COMMIT took place the position row tells.
//!
//! Done step by step, as here, each answer is awaited; `stream` sends the same without the lock of 1, the position being
//! moved only from the batch before.
//!
//! # A predecessor's session that outlives it
//!
//! The server carries out what a killed agent sent: whole batches, and the beginning of one, which is rolled back unless
//! its PREPARE has arrived. PREPARE, COMMIT and COMMIT PREPARED may succeed at any time until the session ends. What
//! recovery saw, or the position said, before that is worth nothing; so a session first ends the one before it, and waits
//! for its end (`recovery`). With this, what is prepared is all there when recovery looks, and the position moves by us
//! alone.
//!
//! Should a batch be prepared later all the same, by whoever does not hold the advisory lock, then the lock on the
//! position row keeps us from applying anything beside it: both cannot hold it, so there is never a second batch of one
//! number, in a group neither prepared nor decided. `begin` gives up waiting for the row after a second; the next
//! session's recovery then settles what holds it.

use std::collections::HashSet;
use std::time::Instant;

use postgres::{SimpleQueryMessage, Statement};

use crate::applier::{Applied, Applier, Forwards, Target};
use crate::config::{Apply, Slave};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::identity::Admitted;
use crate::node::Route;
use crate::pipe::Pipe;
use crate::plan::{Plan, Window};
use crate::position::Position;
use crate::quote;
use crate::references;
use crate::retry;
use crate::sequences::{Follower, Moved};
use crate::session;
use crate::skip::Skips;
use crate::stages::{Stages, Total};
use crate::tables::Tables;
use crate::tell::Teller;
use crate::wake::{Cancelable, Cancels, Stop};
use recovery::{gid, take_over};
use stream::Stream;

pub use stream::Committed;

mod recovery;
mod stream;

/// The master that a position belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterId {
    pub system_identifier: String,
    pub timeline: i32,
}

/// Where a slave stands, by its own word.
#[derive(Clone, Debug)]
pub struct Standing {
    pub master: MasterId,
    pub position: Position,
    pub batch: i64,
}

/// One slave's session and what is known of the slave.
pub struct SlaveSession {
    client: Pipe,
    pub name: String,
    pub tables: Tables,
    /// `None` where they are left alone.
    sequences: Option<Follower>,
    /// Of the last batch committed, or at hand and prepared.
    pub batch: i64,
    agent: String,
    route: Route,
    /// Triggers and foreign keys of the slave rest.
    replica: bool,
    /// Nodes that are noted as having made changes that came here.
    sources: HashSet<String>,
    /// In the transaction at hand, or the last one, the slave logged what was applied.
    forwards: bool,
    two_phase: bool,
    /// No crash of the slave can undo what is committed.
    durable: bool,
    /// Whether net effects may be applied: nothing here waits for each single change.
    net: bool,
    /// The same, but that triggers and constraints do not rest: then only what they refuse one by one.
    constrained: bool,
    /// The transaction at hand has a savepoint.
    savepoint: bool,
    applier: Applier,
    mover: Statement,
    /// The same for the stream.
    move_on: Statement,
    timeline: i32,
    phase: Phase,
    stream: Stream,
    /// Of the batch at hand, and of all before it.
    stages: Stages,
    total: Total,
    _cancelable: Cancelable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    Prepared,
}

impl SlaveSession {
    /// Connects, takes the slave over and makes sure that the agent's schema is there, once `admit` has found the
    /// database to be right and named the master's.
    pub fn open(
        slave: &Slave,
        agent: &str,
        cancels: &Cancels,
        admit: impl FnOnce(&mut Pipe) -> Result<Admitted>,
    ) -> Result<Self> {
        let mut client: Pipe = session::connect_slave(slave)?;
        let Admitted { master, route } = admit(&mut client)?;
        let cancelable = cancels.add(&slave.dsn, &client)?;
        let name = &slave.name;
        take_over(&mut client, agent, name, &master)?;
        create_schema(&mut client, name)?;
        if slave.two_phase {
            check_two_phase(&mut client, slave)?;
        } else {
            // Visible at once; what a crash undoes is applied again, since the master does not yet know of it.
            client.batch_execute("set synchronous_commit = off").map_err(|e| {
                Error::from_pg(format!("could not set up the session on slave \"{name}\""), e)
            })?;
        }
        let replica = session::is_replica(&mut client)
            .map_err(|e| Error::from_pg(format!("could not read the settings of slave \"{name}\""), e))?;
        let may_join = slave.apply == Apply::Net;
        let (net, constrained) = (may_join && replica, may_join && !replica);
        if net {
            session::plan_by_index(&mut client).map_err(|e| {
                Error::from_pg(format!("could not set up the session on slave \"{name}\""), e)
            })?;
        }
        let mut prepare = |sql| {
            client.prepare(sql).map_err(|e| {
                Error::from_pg(format!("could not prepare to move the position of slave \"{name}\""), e)
            })
        };
        let mover = prepare(include_str!("sql/move_position.sql"))?;
        let move_on = prepare(include_str!("sql/move_on.sql"))?;
        let skips = Skips::load(&mut client, agent, name)?;
        let mut session = SlaveSession {
            tables: Tables::load(&mut client, agent, name, slave.initial, &slave.mapping)?,
            client,
            name: name.clone(),
            sequences: slave.sequences.then(|| Follower::new(name, &slave.mapping)),
            batch: 0,
            agent: agent.to_owned(),
            route,
            replica,
            sources: HashSet::new(),
            forwards: false,
            two_phase: slave.two_phase,
            durable: slave.two_phase,
            net,
            constrained,
            savepoint: false,
            applier: Applier::new(agent, slave, skips),
            mover,
            move_on,
            timeline: 0,
            phase: Phase::Idle,
            stream: Stream::default(),
            stages: Stages::default(),
            total: Total::default(),
            _cancelable: cancelable,
        };
        session.note_source(None)?;
        Ok(session)
    }

    /// Reads the position; `None` before the first start.
    pub fn standing(&mut self) -> Result<Option<Standing>> {
        let row =
            self.client.query_opt(include_str!("sql/position.sql"), &[&self.agent, &self.name]).map_err(
                |e| Error::from_pg(format!("could not read the position of slave \"{}\"", self.name), e),
            )?;
        let Some(row) = row else { return Ok(None) };
        self.batch = row.get("batch");
        let standing = Standing {
            master: MasterId {
                system_identifier: row.get("system_identifier"),
                timeline: row.get("timeline"),
            },
            position: Position {
                rank: row.get("rank"),
                snapshot: row.get::<_, &str>("snapshot").parse()?,
                settled: row.get("settled"),
                last_xid: row.get::<_, Option<&str>>("last_xid").and_then(|x| x.parse().ok()),
                last_ts: row.get("last_ts"),
            },
            batch: self.batch,
        };
        self.timeline = standing.master.timeline;
        Ok(Some(standing))
    }

    /// Writes the first position.
    pub fn first_position(&mut self, master: &MasterId, position: &Position) -> Result<()> {
        self.timeline = master.timeline;
        self.client
            .execute(
                include_str!("sql/insert_position.sql"),
                &[
                    &self.agent,
                    &self.name,
                    &master.system_identifier,
                    &master.timeline,
                    &position.rank,
                    &position.snapshot.to_string(),
                    &position.last_xid.map(|x| x.to_string()),
                    &position.last_ts,
                    &position.settled,
                ],
            )
            .map_err(|e| {
                Error::from_pg(format!("could not write the first position of slave \"{}\"", self.name), e)
            })?;
        Ok(())
    }

    /// The master was recognised on another timeline: positions written from now on name it.
    pub fn set_timeline(&mut self, timeline: i32) {
        self.timeline = timeline;
    }

    /// Where to add up what batches took.
    pub fn count_to(&mut self, total: Total) {
        self.total = total;
    }

    /// Whom to tell of conflicts.
    pub fn tell_to(&mut self, teller: Teller) {
        self.applier.tell_to(teller);
    }

    /// Applies a window in the transaction at hand, beginning it if there is none.
    pub fn apply(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        if let (Some(sequences), Some(end)) = (&mut self.sequences, &window.end) {
            sequences.hear(&end.sequences);
        }
        let began = Instant::now();
        let applied = self.apply_window(window, stop)?;
        self.stages.seconds.apply += began.elapsed().as_secs_f64();
        self.stages.window(window);
        Ok(applied)
    }

    fn apply_window(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        let empty = window.chunks.is_empty() && window.large.is_none();
        if empty || self.route.leads_back(window.origin()) {
            return Ok(Applied::Done);
        }
        let first = self.phase == Phase::Idle;
        self.begin(window.origin())?;
        self.note_source(window.origin())?;
        let plan = window.plan.as_ref().filter(|_| !self.applier.sets_aside_any_of(&window.chunks));
        match plan {
            Some(plan) if self.net => {
                self.savepoint_before_all_but(first);
                if self.carry_out(window, plan, first, stop)? {
                    return Ok(Applied::Done);
                }
                self.one_by_one(window, stop)
            }
            Some(plan) if self.constrained => self.under_constraints(window, plan, first, stop),
            _ => self.one_by_one(window, stop),
        }
    }

    fn one_by_one(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        let SlaveSession { client, tables, applier, .. } = self;
        let mut chunks = window.chunks.iter().map(|chunk| applier.apply(client, chunk, tables, stop));
        let mut applied =
            chunks.find(|applied| !matches!(applied, Ok(Applied::Done))).unwrap_or(Ok(Applied::Done));
        if let (Ok(Applied::Done), Some(large)) = (&applied, &window.large) {
            applied = self.applier.apply_large(&mut self.client, large, &mut self.tables, stop);
        }
        match &applied {
            Ok(Applied::Done | Applied::Refused) => {}
            Ok(_) => self.rollback()?,
            Err(_) => self.let_go(),
        }
        applied
    }

    /// Foreign keys and deferrable constraints do not rest here, and the master looked at them after whole statements or
    /// transactions: what the changes break one by one may hold for the net effect of all. If it does not, the change
    /// that breaks it is named.
    fn under_constraints(
        &mut self,
        window: &Window,
        plan: &Plan,
        first: bool,
        stop: &Stop,
    ) -> Result<Applied> {
        self.savepoint_before_all_but(first);
        let before = self.applier.attempt();
        let applied = self.one_by_one(window, stop);
        self.applier.attempted();
        if !matches!(applied, Ok(Applied::Refused)) {
            return applied;
        }
        self.undo_window(window, first)?;
        self.applier.back_to(before);
        self.run("set constraints all deferred").inspect_err(|_| self.let_go())?;
        if self.carry_out(window, plan, first, stop)? && self.holds(window)? {
            return Ok(Applied::Done);
        }
        self.undo_window(window, first)?;
        self.one_by_one(window, stop)
    }

    /// Do the slave's constraints hold where transactions end?
    fn holds(&mut self, window: &Window) -> Result<bool> {
        if window.end.is_none() {
            return Ok(true);
        }
        match self.run("set constraints all immediate") {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == Kind::Apply && !is_transient(&e) => Ok(false),
            Err(e) => {
                self.let_go();
                Err(e)
            }
        }
    }

    /// What comes by two ways comes twice, and shows as conflicts: so it is told where the second one begins.
    fn note_source(&mut self, origin: Option<&str>) -> Result<()> {
        let (node, master) = (self.route.source(origin), self.route.master());
        if self.sources.contains(node) {
            return Ok(());
        }
        let others: Option<String> = self
            .client
            .query_one(include_str!("sql/note_source.sql"), &[&self.agent, &self.name, &master, &node])
            .map_err(|e| {
                Error::from_pg(format!("could not note whose changes come to slave \"{}\"", self.name), e)
            })?
            .get(0);
        if let Some(others) = others {
            log::warn!(
                "slave \"{}\": changes made on node \"{node}\" come by agent {others} as well: unless they are of \
                 different tables they come twice",
                self.name
            );
        }
        self.sources.insert(node.to_owned());
        Ok(())
    }

    /// Applies the net effect of a window; false when that cannot be, and then the transaction is where it was before.
    /// `first`: there is nothing else in it; else it has a savepoint.
    fn carry_out(&mut self, window: &Window, plan: &Plan, first: bool, stop: &Stop) -> Result<bool> {
        let Some(targets) = self.targets(plan).inspect_err(|_| self.let_go())? else {
            self.run(&session::plan_as_usual())?;
            return Ok(false);
        };
        let SlaveSession { client, applier, .. } = self;
        let sent = applier.carry_out(client, &window.chunks, plan, &targets, stop);
        let Err(e) = self.answered().and(sent) else { return Ok(true) };
        if stop.is_set() || e.kind() != Kind::Apply || is_transient(&e) {
            self.let_go();
            return Err(e);
        }
        log::debug!("slave \"{}\": change by change after: {e:#}", self.name);
        self.undo_window(window, first)?;
        Ok(false)
    }

    fn targets<'w>(&mut self, plan: &'w Plan) -> Result<Option<Vec<Target<'w>>>> {
        let SlaveSession { client, tables, applier, .. } = self;
        let mut targets = applier.targets(client, plan, tables)?;
        if let Some(targets) = targets.as_mut().filter(|_| self.constrained) {
            references::sort(client, targets, |target| target.sql_name().to_owned())?;
        }
        Ok(targets)
    }

    /// Goes back to before the window at hand.
    fn undo_window(&mut self, window: &Window, first: bool) -> Result<()> {
        self.applier.forget();
        if !first {
            return self.run("rollback to savepoint a_window");
        }
        self.rollback()?;
        self.begin(window.origin())
    }

    /// Sends a savepoint before a window that is not the first.
    fn savepoint_before_all_but(&mut self, first: bool) {
        if !first {
            self.savepoint();
        }
    }

    /// One at a time, or they would nest.
    fn savepoint(&mut self) {
        let release = if self.savepoint { "release savepoint a_window; " } else { "" };
        self.client.send_batch(format!("{release}savepoint a_window"));
        self.savepoint = true;
    }

    /// Waits for the answers to all that was sent; the first failure, once there are no more to come.
    fn answered(&mut self) -> Result<()> {
        self.client.await_all();
        self.client.settle(self.client.sent()).map_err(|(_, e)| self.batch_failed(e))
    }

    fn batch_failed(&self, e: postgres::Error) -> Error {
        Error::from_pg(format!("could not apply a batch on slave \"{}\"", self.name), e)
    }

    fn run(&mut self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).map_err(|e| self.batch_failed(e))
    }

    /// Who holds the position row may have prepared a batch since recovery looked: the wait is short, and trying again
    /// (55P03) looks again.
    ///
    /// At a node the transaction is held to be of the origin of its first window. That is so where it is asked for:
    /// as long as the slave forwards, which `pyreplica.forward` does not change within a transaction, each ends where
    /// the origin changes.
    fn begin(&mut self, origin: Option<&str>) -> Result<()> {
        if self.phase != Phase::Idle {
            return Ok(());
        }
        self.step_by_step()?;
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
            .simple_query(&format!("begin; set local lock_timeout = '1s'; {row}; set local lock_timeout = 0"))
            .map_err(|e| failed(&self.name, e))?;
        self.phase = Phase::Open;
        self.savepoint = false;
        self.applier.begin_batch();
        let row = rows.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let batch = row.and_then(|row| row.get(0)?.parse::<i64>().ok());
        self.forwards = row.is_some_and(|row| row.len() > 1 && row.get(1) == Some("t"));
        self.applier.forwards = self.forwards.then_some(Forwards { origin, replica: self.replica });
        // In a group whose batch numbers were just aligned ours may be ahead of the row.
        if batch.is_none_or(|batch| batch > self.batch) {
            self.rollback()?;
            return Err(moved_by_another(&self.name)
                .detail(format!("Expected batch {}, found {batch:?}.", self.batch)));
        }
        failpoint::hit("commit.after_begin");
        Ok(())
    }

    /// The session and what is known of the slave's tables, for what is none of a batch. Nothing may be under way.
    pub fn parts(&mut self) -> Result<(&mut Pipe, &mut Tables)> {
        self.step_by_step()?;
        Ok((&mut self.client, &mut self.tables))
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
        if self.two_phase {
            let gid = gid(&self.agent, &self.name, batch)?;
            self.phase = Phase::Idle; // a PREPARE that fails is a rollback
            self.client
                .batch_execute(&format!("prepare transaction {}", quote::literal(&gid)))
                .map_err(|e| explain_prepare(&self.name, e))?;
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
                return Err(Error::from_pg(
                    format!("could not commit a batch on slave \"{}\"", self.name),
                    e,
                ));
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

    /// Nothing has been done since the last commit.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// The transaction at hand must not be joined by those of another origin.
    pub fn ends_with_origin(&self) -> bool {
        self.phase == Phase::Open && self.forwards
    }

    fn batch_done(&mut self, batch: i64) {
        let mut stages = std::mem::take(&mut self.stages);
        stages.batches = 1;
        log::debug!("slave \"{}\": batch {batch}: {stages}", self.name);
        self.total.add(&stages);
    }

    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Waits until no crash of the slave can undo what is committed: a later commit that waits for the disk does.
    ///
    /// False in the middle of a batch, when that cannot be.
    pub fn make_durable(&mut self) -> Result<bool> {
        if self.durable || self.phase != Phase::Idle {
            return Ok(self.durable);
        }
        self.step_by_step()?;
        let failed = |name: &str, e| {
            Error::from_pg(format!("could not make the position of slave \"{name}\" durable"), e)
        };
        self.client
            .batch_execute(&format!(
                "begin; set local synchronous_commit = on; \
                 update pyreplica_agent.position set applied_at = applied_at where agent = {} and slave = {}; commit",
                quote::literal(&self.agent),
                quote::literal(&self.name)
            ))
            .map_err(|e| failed(&self.name, e))?;
        self.durable = true;
        Ok(true)
    }

    pub fn follows_sequences(&self) -> bool {
        self.sequences.is_some()
    }

    /// Brings the sequences to where all those of the master stand, or beyond.
    pub fn catch_up_sequences(&mut self, all: &[Moved]) -> Result<()> {
        if self.phase == Phase::Idle {
            self.step_by_step()?;
        }
        let Some(sequences) = &mut self.sequences else { return Ok(()) };
        sequences.hear_all(all);
        sequences.catch_up(&mut self.client)?;
        self.answered()
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
    fn let_go(&mut self) {
        if let Err(e) = self.rollback() {
            log::debug!("{e:#}");
        }
    }

    /// Is the slave still there?
    pub fn ping(&mut self) -> Result<()> {
        self.client
            .batch_execute("select")
            .map_err(|e| Error::from_pg(format!("lost slave \"{}\"", self.name), e))
    }

    fn gid(&self) -> Result<String> {
        gid(&self.agent, &self.name, self.batch)
    }
}

fn moved_by_another(slave: &str) -> Error {
    // Tried again at once, with the position looked up: a predecessor's batch may have been prepared late.
    Error::new(Kind::Refused, format!("position of slave \"{slave}\" was moved by somebody else"))
        .with_sqlstate("40001")
        .hint("Does a second agent of this name run elsewhere? The agent looks at the position again and goes on.")
}

fn is_transient(e: &Error) -> bool {
    e.sqlstate().is_some_and(|state| retry::is_transient(state, e.message()))
}

/// CREATE SCHEMA needs a right that the agent may not have, even if the schema is there.
pub fn create_schema(client: &mut Pipe, slave: &str) -> Result<()> {
    let failed =
        |e| Error::from_pg(format!("could not create schema pyreplica_agent on slave \"{slave}\""), e);
    let there: bool = client
        .query_one(
            "select to_regclass('pyreplica_agent.piece') is not null
                    and to_regclass('pyreplica_agent.skip') is not null
                    and to_regclass('pyreplica_agent.source') is not null",
            &[],
        )
        .map_err(failed)?
        .get(0);
    if there {
        return Ok(());
    }
    let script = include_str!("sql/slave_schema.sql");
    client.batch_execute(&format!("begin; {script}; commit")).map_err(|e| {
        failed(e).hint("Grant CREATE on the database to the agent's role, or run replica_agent/src/sql/slave_schema.sql as its owner.")
    })
}

fn check_two_phase(client: &mut Pipe, slave: &Slave) -> Result<()> {
    let slots: i32 = client
        .query_one("select current_setting('max_prepared_transactions')::int", &[])
        .map_err(|e| Error::from_pg(format!("could not read the settings of slave \"{}\"", slave.name), e))?
        .get(0);
    if slots > 0 {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("max_prepared_transactions is 0 on slave \"{}\"", slave.name))
        .with_sqlstate("55000")
        .detail(format!("Two-phase commit needs it on the server of {}.", slave.dsn))
        .hint("Set max_prepared_transactions = 10 in its postgresql.conf and restart it, or set two_phase = false for this slave."))
}

/// The server says what it cannot prepare; who did it stands nowhere.
fn explain_prepare(slave: &str, e: postgres::Error) -> Error {
    let e = Error::from_pg(format!("could not prepare a batch on slave \"{slave}\""), e);
    match e.sqlstate() {
        Some("0A000") => e
            .detail("A trigger on one of the slave's tables, or a queued statement, used NOTIFY or a temporary table.")
            .hint("Disable the trigger (or take ENABLE ALWAYS or ENABLE REPLICA from it), or set two_phase = false for this slave."),
        Some("53400") => e.hint("Raise max_prepared_transactions on the server of the slave; each slave needs one."),
        _ => e,
    }
}
