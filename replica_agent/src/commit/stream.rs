//! Batches sent to the slave one behind the other, without waiting for its answers.
//!
//! In: windows in order. Out: batches that the slave has committed, in order; whatever does not go well is done again
//! step by step, as `commit` has it.
//!
//! # Why nothing may be waited for
//!
//! All that a commit depends on is checked by the server: a statement fails unless it finds exactly its rows, the position
//! moves only from the batch before. What fails aborts its transaction, so its PREPARE or COMMIT is a rollback; then the
//! next batch does not find the position that it moves from, and fails too, and so do all behind it. So the slave has
//! committed the batches up to the one that failed, and nothing of what came after.
//!
//! One thing could break that chain: a BEGIN that fails (somebody cancels it) and changes behind it that succeed, each by
//! itself. So outside of a transaction that says otherwise the session is read only while it is used this way.
//!
//! Only COMMIT PREPARED may fail with the outcome settled. Then the session is given up, and recovery commits the batch.
//!
//! # Doing it again
//!
//! The windows of a batch are kept until its commit is answered, without their plans, which are made anew. When they take
//! too much those that are applied are let go, and that batch is prepared only when all of it is applied: until then what
//! fails goes back to the savepoint before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flush_ahead::FlushAhead;
use super::recovery::gid;
use super::{Phase, SlaveSession};
use crate::applier::Applied;
use crate::bind::Owned;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::pipe::{Mark, FAR};
use crate::plan::Window;
use crate::quote;
use crate::reader::End;
use crate::stages::Stages;
use crate::wake::Stop;

/// What the windows that are kept may take together; the slave should not run out of work in a round trip.
const KEPT_BYTES: usize = 4 * 1024 * 1024;
const KEPT_BYTES_FAR: std::ops::RangeInclusive<usize> = 8 * 1024 * 1024..=16 * 1024 * 1024;
/// More for each millisecond of a round trip: what a slave takes in meanwhile.
const KEPT_BYTES_MS: usize = 40 * 1024;
const KEPT_COUNT: usize = 256;
/// Batches that a slave nearby has before it. A batch costs it about the same however many transactions are joined in
/// it: while it is busy with these, what comes gathers. One farther away has one more for each such part of the way.
const BATCHES_AHEAD: u128 = 2;
const PART_OF_THE_WAY: Duration = Duration::from_micros(500);
/// Waiting for a lock in the stream would keep what is behind it waiting too, unseen: step by step it waits as long as it
/// takes.
const LOCK_TIMEOUT: &str = "1s";

/// What has been sent that way.
#[derive(Default)]
pub(super) struct Stream {
    /// The session is set for it.
    on: bool,
    kept: VecDeque<Kept>,
    /// Some windows of the batch at hand are not kept.
    let_go: bool,
    /// Of them some were applied step by step, and may have had conflicts.
    stepped: bool,
    committed: VecDeque<Committed>,
}

/// A window that has been sent.
struct Kept {
    window: Arc<Window>,
    /// Of its batch.
    first: bool,
    batch: i64,
    /// Answered up to here it is applied; and if it is the last of its batch, that is prepared, and committed.
    applied: Mark,
    prepared: Mark,
    committed: Mark,
    /// PREPARE or COMMIT has been sent behind it.
    ended: bool,
    conflicts: u64,
    stages: Stages,
}

/// A batch that the slave has committed.
pub struct Committed {
    pub end: End,
    pub batch: i64,
    pub conflicts: u64,
    /// There was nothing in it for this slave, so it was not even begun.
    pub nothing: bool,
}

impl Stream {
    fn is_full(&self, round_trip: Duration) -> bool {
        let ahead = BATCHES_AHEAD + round_trip.as_micros() / PART_OF_THE_WAY.as_micros();
        let batches = self.kept.iter().filter(|kept| kept.ended).count();
        // Of the batch at hand, and of all. What is applied of the former can be let go, so it needs no more than a
        // window at a time needs; the others wait for their commits.
        let of_open = self.kept.iter().rev().take_while(|kept| !kept.ended);
        let open: usize = of_open.map(|kept| kept.window.bytes()).sum();
        let bytes: usize = self.kept.iter().map(|kept| kept.window.bytes()).sum();
        let (open_at_most, at_most) = match round_trip >= FAR {
            true => {
                let more = usize::try_from(round_trip.as_millis()).unwrap_or(usize::MAX);
                let (least, most) = KEPT_BYTES_FAR.into_inner();
                (least, least.saturating_add(more.saturating_mul(KEPT_BYTES_MS)).min(most))
            }
            false => (KEPT_BYTES, KEPT_BYTES),
        };
        let bytes_full = open > open_at_most || bytes > at_most;
        batches as u128 > ahead || self.kept.len() > 1 && (self.kept.len() > KEPT_COUNT || bytes_full)
    }

    /// The windows that nobody else has need their plans no more, unless they fail.
    fn drop_plans(&mut self) {
        for kept in &mut self.kept {
            if let Some(window) = Arc::get_mut(&mut kept.window) {
                window.drop_plan();
            }
        }
    }
}

impl SlaveSession {
    /// Applies a window, and commits the batch if it is its last: sends it if that can be, without waiting for more than
    /// there is room for.
    pub fn take(&mut self, window: &Arc<Window>, stop: &Stop) -> Result<Applied> {
        self.stream.drop_plans();
        if !self.can_send(window)? {
            let applied = self.settle(stop)?;
            return if applied == Applied::Done { self.step(window, stop) } else { Ok(applied) };
        }
        if let Err(e) = self.send(window, stop) {
            // What was sent before may have failed, and this because of that.
            self.client.await_all();
            return match self.client.settle(self.client.sent()) {
                Err((failed, first)) => self.failed_at(failed, first, stop),
                Ok(()) => self.redo(self.stream.kept.len() - 1, e, stop),
            };
        }
        let mut applied = Applied::Done;
        let ends_with_origin = self.ends_with_origin();
        if let Some(end) = window.end.as_ref().filter(|end| end.whole || ends_with_origin) {
            if self.stream.let_go {
                applied = self.settle(stop)?;
            }
            // Unless it had to be done again, and so is committed.
            if applied == Applied::Done && self.phase == Phase::Open {
                match self.stream.stepped {
                    true => self.commit_step(end)?,
                    false => self.send_commit(end)?,
                }
            }
        }
        self.client.turn();
        self.flush_ahead();
        failpoint::hit("commit.sent");
        while applied == Applied::Done && self.stream.is_full(self.client.round_trip()) {
            applied = self.make_room(stop)?;
        }
        Ok(applied)
    }

    /// Waits for the first window that is kept, or for its batch if that has ended.
    fn make_room(&mut self, stop: &Stop) -> Result<Applied> {
        let Some(&Kept { batch, committed, .. }) = self.stream.kept.front() else { return Ok(Applied::Done) };
        let ended = self.stream.kept.iter().find(|kept| kept.batch == batch && kept.ended);
        if let Some(committed) = ended.map(|kept| kept.committed) {
            return self.settle_to(committed, stop);
        }
        let applied = self.settle_to(committed, stop)?;
        // Unless it had to be done again.
        if self.stream.kept.front().is_some_and(|kept| kept.committed == committed) {
            let kept = self.stream.kept.pop_front();
            kept.iter().for_each(|kept| self.stages.add(&kept.stages));
            self.stream.let_go = true;
        }
        Ok(applied)
    }

    /// Waits until all that was sent is applied, and a look at the slave is answered.
    pub fn settle(&mut self, stop: &Stop) -> Result<Applied> {
        let applied = self.settle_to(self.client.sent(), stop)?;
        self.client.await_all();
        Ok(applied)
    }

    /// Hears which batches have been committed, without waiting for more; `waited`: nothing else was done for so long.
    ///
    /// Of that time nobody knows what the slave did meanwhile, so it counts as that of the commit.
    pub fn take_in_answers(&mut self, waited: Duration, stop: &Stop) -> Result<Applied> {
        let answered = self.client.answered();
        if let Some(kept) = self.stream.kept.iter_mut().find(|kept| kept.committed > answered) {
            kept.stages.seconds.commit += waited.as_secs_f64();
        }
        self.client.turn();
        self.flush_ahead();
        self.settle_to(self.client.answered(), stop)
    }

    /// Applies a window step by step, and commits the batch if it is its last. Nothing may be under way.
    pub fn step(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        if self.stream.on && self.phase == Phase::Open {
            self.run("set local lock_timeout = 0")?;
        }
        let applied = self.apply(window, stop)?;
        // This window is not kept, so the batch at hand is not whole.
        self.let_kept_go();
        self.stream.let_go = self.phase == Phase::Open;
        self.stream.stepped = self.stream.let_go;
        let end = window.end.as_ref().filter(|end| end.whole || self.ends_with_origin());
        match (&applied, end) {
            (Applied::Done, Some(end)) if self.phase == Phase::Idle => {
                let (end, batch) = (end.clone(), self.batch);
                self.stream.committed.push_back(Committed { end, batch, conflicts: 0, nothing: true });
            }
            (Applied::Done, Some(end)) => self.commit_step(end)?,
            _ => {}
        }
        Ok(applied)
    }

    fn commit_step(&mut self, end: &End) -> Result<()> {
        self.let_kept_go();
        // Unless the last window was applied step by step, they have not been heard of.
        if let Some(sequences) = &mut self.sequences {
            sequences.hear(&end.sequences);
        }
        self.prepare(&end.position, self.batch + 1)?;
        let conflicts = self.commit()?;
        (self.stream.let_go, self.stream.stepped) = (false, false);
        let (end, batch) = (end.clone(), self.batch);
        self.stream.committed.push_back(Committed { end, batch, conflicts, nothing: false });
        Ok(())
    }

    fn let_kept_go(&mut self) {
        for kept in std::mem::take(&mut self.stream.kept) {
            self.stages.add(&kept.stages);
        }
    }

    /// The next batch that has been committed.
    pub fn next_committed(&mut self) -> Option<Committed> {
        self.stream.committed.pop_front()
    }

    /// Something has been sent and not been answered.
    pub fn is_waiting(&self) -> bool {
        self.client.answered() < self.client.sent() || self.stream.kept.iter().any(|kept| kept.ended)
    }

    /// Ends the use of the session for the stream. Between two batches.
    pub(super) fn step_by_step(&mut self) -> Result<()> {
        if self.stream.on {
            self.run("set default_transaction_read_only = off; set lock_timeout = 0")?;
            self.stream.on = false;
        }
        Ok(())
    }

    /// Whether a window can be sent; then the session is set for it.
    fn can_send(&mut self, window: &Window) -> Result<bool> {
        if !self.net || !(self.stream.on || self.phase == Phase::Idle) {
            return Ok(false);
        }
        let goes = self.goes_to_a_node(window);
        let SlaveSession { client, tables, applier, .. } = self;
        let can = window.large.is_none()
            && goes
            && self.sources.contains(self.route.source(window.origin()))
            && !applier.sets_aside_any_of(&window.chunks)
            && match &window.plan {
                // An error comes up again step by step, or belongs to what is under way.
                Some(plan) => applier.targets(client, plan, tables).is_ok_and(|targets| targets.is_some()),
                None => window.chunks.is_empty(),
            };
        if can && !self.stream.on {
            self.run(&format!(
                "set default_transaction_read_only = on; set lock_timeout = '{LOCK_TIMEOUT}'"
            ))?;
            self.stream.on = true;
        }
        Ok(can)
    }

    /// If the slave is a node: it is known whether it forwards, and the window is for it.
    fn goes_to_a_node(&self, window: &Window) -> bool {
        let origin = window.origin();
        let nothing = self.phase == Phase::Idle && window.chunks.is_empty();
        !self.route.ends_at_a_node()
            || self.forwards.is_some()
                && !nothing
                && !self.route.leads_back(origin)
                && self.route.through(origin).is_ok()
    }

    /// Sends a window, which is then the last that is kept, also after an error.
    fn send(&mut self, window: &Arc<Window>, stop: &Stop) -> Result<()> {
        let began = Instant::now();
        let first = self.phase == Phase::Idle;
        let mut begun = Ok(());
        if first {
            begun = self.send_begin(window.origin());
            self.point("commit.after_begin");
        } else {
            self.savepoint();
        }
        let SlaveSession { client, tables, applier, .. } = self;
        let sent = begun.and_then(|()| match &window.plan {
            Some(plan) => applier.targets(client, plan, tables).and_then(|targets| {
                let targets = targets.unwrap_or_default();
                applier.carry_out(client, &window.chunks, plan, &targets, stop)
            }),
            None => Ok(()),
        });
        let mark = self.client.sent();
        let mut stages = Stages::default();
        stages.window(window);
        stages.seconds.apply = began.elapsed().as_secs_f64();
        self.stream.kept.push_back(Kept {
            window: Arc::clone(window),
            first,
            batch: self.batch + 1,
            applied: mark,
            prepared: mark,
            committed: mark,
            ended: false,
            conflicts: 0,
            stages,
        });
        sent
    }

    /// Sends the end of the batch at hand: position, PREPARE and COMMIT.
    fn send_commit(&mut self, End { position, sequences: moved, .. }: &End) -> Result<()> {
        let batch = self.batch + 1;
        self.point("commit.after_apply");
        if let Some(sequences) = &mut self.sequences {
            sequences.hear(moved);
            sequences.catch_up(&mut self.client)?;
        }
        let position = vec![
            Owned::Text(Some(self.agent.clone())),
            Owned::Text(Some(self.name.clone())),
            Owned::Int4(self.timeline),
            Owned::Int8(position.rank),
            Owned::Text(Some(position.snapshot.to_string())),
            Owned::Text(position.last_xid.map(|x| x.to_string())),
            Owned::Time(position.last_ts),
            Owned::Int8(batch),
        ];
        self.client.send(&self.move_on, position);
        self.point("commit.after_position");
        let mut commit = "commit".to_owned();
        if self.two_phase {
            let gid = quote::literal(&gid(&self.agent, &self.name, batch)?);
            self.client.send_batch(format!("prepare transaction {gid}"));
            self.point("commit.after_prepare");
            commit = format!("commit prepared {gid}");
        }
        let prepared = self.client.sent();
        self.client.send_batch(commit);
        self.point("commit.after_commit");
        (self.phase, self.batch, self.durable) = (Phase::Idle, batch, self.two_phase);
        self.stream.let_go = false;
        let conflicts = self.applier.end_batch();
        if let Some(last) = self.stream.kept.back_mut() {
            (last.prepared, last.committed, last.ended) = (prepared, self.client.sent(), true);
            last.conflicts = conflicts;
        }
        Ok(())
    }

    /// A failpoint, with all before it carried out.
    fn point(&mut self, name: &str) {
        if failpoint::is_chosen(name) {
            self.client.await_all();
        }
        failpoint::hit(name);
    }

    /// Waits for the answers up to a mark. What did not go well is done again.
    fn settle_to(&mut self, mark: Mark, stop: &Stop) -> Result<Applied> {
        let mut at = 0;
        while let Some(kept) = self.stream.kept.get(at).filter(|kept| kept.committed <= mark) {
            let waits = [kept.applied, kept.prepared, kept.committed];
            let mut waited = [0.0; 3];
            for (mark, waited) in waits.into_iter().zip(&mut waited) {
                let began = Instant::now();
                let settled = self.client.settle(mark);
                *waited = began.elapsed().as_secs_f64();
                if let Err((failed, e)) = settled {
                    return self.failed_at(failed, e, stop);
                }
            }
            let seconds = &mut self.stream.kept[at].stages.seconds;
            seconds.apply += waited[0];
            seconds.prepare += waited[1];
            seconds.commit += waited[2];
            at += 1;
            self.flush_ahead();
        }
        self.land(at);
        Ok(Applied::Done)
    }

    /// While batches of several windows are under way.
    fn flush_ahead(&mut self) {
        let is_part = |kept: &Kept| !(kept.first && kept.window.end.is_some());
        if self.stream.let_go || self.stream.kept.iter().any(is_part) {
            self.flush_ahead.iter_mut().for_each(FlushAhead::nudge);
        }
    }

    /// The answer to what was sent as this tells of a failure; it is the first.
    fn failed_at(&mut self, mark: Mark, e: postgres::Error, stop: &Stop) -> Result<Applied> {
        if self.look.as_ref().is_some_and(|look| look.mark() == mark) {
            return Err(self.look_failed(e));
        }
        let at = self.stream.kept.iter().position(|kept| mark <= kept.committed).unwrap_or(0);
        let settled = self.stream.kept.get(at).is_some_and(|kept| kept.ended && mark == kept.committed);
        if settled && self.two_phase {
            return Err(Error::from_pg(format!("could not commit a batch on slave \"{}\"", self.name), e));
        }
        let at = at - self.land(at);
        let e = self.batch_failed(e);
        self.redo(at, e, stop)
    }

    /// The first so many windows are applied: hands out the batches that are whole. Gives how many windows that took.
    fn land(&mut self, applied: usize) -> usize {
        let whole =
            self.stream.kept.iter().take(applied).rposition(|kept| kept.ended).map_or(0, |last| last + 1);
        for kept in self.stream.kept.drain(..whole).collect::<Vec<_>>() {
            self.stages.add(&kept.stages);
            if let Some(end) = kept.window.end.clone() {
                self.batch_done(kept.batch);
                let Kept { batch, conflicts, .. } = kept;
                self.stream.committed.push_back(Committed { end, batch, conflicts, nothing: false });
            }
        }
        whole
    }

    /// One of the windows that are kept has failed: does it again, and all that was sent behind it, step by step.
    fn redo(&mut self, failed: usize, e: Error, stop: &Stop) -> Result<Applied> {
        // What was sent behind it fails too, or goes with its transaction.
        self.client.await_all();
        while self.client.settle(self.client.sent()).is_err() {}
        self.applier.forget();
        if stop.is_set() || e.kind() != Kind::Apply {
            self.let_go();
            return Err(e);
        }
        log::debug!("slave \"{}\": step by step after: {e:#}", self.name);
        let Kept { batch, first, .. } = self.stream.kept[failed];
        let ended = self.stream.kept.iter().any(|kept| kept.batch == batch && kept.ended);
        let from = match ended {
            true => self.stream.kept.iter().position(|kept| kept.batch == batch).unwrap_or(failed),
            false => failed,
        };
        if ended && !self.stream.kept[from].first {
            return Err(e);
        }
        let again = self.stream.kept.split_off(from);
        self.stream.kept.clear();
        if ended || first {
            // Of a batch that has not ended, be it this one or one behind it.
            self.rollback()?;
            self.applier.end_batch();
            (self.stream.let_go, self.stream.stepped) = (false, false);
        } else {
            self.run("rollback to savepoint a_window")?;
            self.stream.let_go = true;
        }
        self.batch = batch - 1;
        for mut kept in again {
            if let Some(window) = Arc::get_mut(&mut kept.window) {
                window.plan_again();
            }
            let applied = self.step(&kept.window, stop)?;
            if applied != Applied::Done {
                return Ok(applied);
            }
        }
        Ok(Applied::Done)
    }
}
