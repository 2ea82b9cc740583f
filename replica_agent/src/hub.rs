//! What one slave's reader has read from the master, for the others: a log is read once, not once for each slave.
//!
//! In: where a reader stands. Out: its turn: a batch that was read before, or to read, or to wait for who reads.
//! Never waits for anybody.
//!
//! # The chain
//!
//! What a read under a snapshot gives depends on the position only, not on the slave. So a batch that was read at
//! position P and leads to Q is right for every slave that stands at P, and nobody else is given it: nothing is lost,
//! nothing comes twice. Kept are the last batches that follow each other:
//!
//! ```text
//! P0 -> P1 -> P2 -> head        the reader that has the seat reads on at the head; who stands there waits for it
//! ```
//!
//! A batch is kept when its reader's session has confirmed it: the master had dropped nothing after P, and cannot lose
//! what is in it. Both are true of the batch, whoever applies it. A slave that the master gives up meanwhile hears it
//! with its next report.
//!
//! # How slaves come together
//!
//! A position is a rank and a snapshot, and slaves that have applied the same differ in their snapshots. A reader at
//! (K, S) reads up to the head (K', S') if K <= K' and S' includes S, as if the head were its target: the late ones
//! with a rank <= K that S' sees and S does not, and all with a rank in (K, K'] that S' sees. Together with what it
//! had, that is exactly what the head stands for, so it may go on from there. This also holds where nothing was read.
//!
//! A reader that is beyond the head becomes the new head, and the others come to it. One that is neither before nor
//! beyond reads for itself, under a snapshot that is newer than the head's. When it finds nothing more, no transaction
//! that its snapshot sees has a rank above its own, so it may take a greater rank, the head's, and is beyond it.
//!
//! A read that finds nothing leaves the head where it is: its old snapshot leads to the same transactions.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::commit::MasterId;
use crate::plan::Window;
use crate::position::Position;
use crate::wake::Waker;

#[cfg(test)]
mod tests;

/// What the kept batches may take.
const KEPT_BYTES: usize = 16 * 1024 * 1024;
const KEPT_COUNT: usize = 256;
/// A larger batch is not kept: each slave reads it for itself, as it streams.
pub const BATCH_BYTES: usize = KEPT_BYTES / 2;
/// Who reads for the others and does not come back within this time is not waited for.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// What a reader is to do next.
#[derive(Debug)]
pub enum Turn {
    /// Somebody has read this.
    Take(Batch),
    /// Read at the head, for all who stand there. The number is that of the seat.
    Lead(u64),
    /// Somebody else does. `level`: it has found nothing more.
    Wait { level: bool },
    /// Read for yourself: up to the head, if that is given.
    Alone(Option<Position>),
}

/// A batch as it was planned, and the position it leads to.
#[derive(Clone, Debug)]
pub struct Batch {
    pub windows: Vec<Arc<Window>>,
    pub end: Position,
}

/// What the readers of an agent share.
#[derive(Default)]
pub struct Hub {
    chain: Mutex<Chain>,
    moved: Waker,
}

/// The right to read at the head; given back when it is dropped.
pub struct Seat<'a> {
    hub: &'a Hub,
    number: u64,
}

impl Hub {
    /// Becomes ready when the head has moved, or nobody reads there.
    pub fn subscribe(&self) -> Receiver<()> {
        self.moved.subscribe()
    }

    /// What was read from another master, or from the same on another timeline, is forgotten.
    pub fn join(&self, master: &MasterId) {
        if self.chain().master.as_ref() != Some(master) {
            self.forget();
            self.chain().master = Some(master.clone());
        }
    }

    /// The master may not come back as it was.
    pub fn forget(&self) {
        self.chain().set_head(None);
        self.moved.wake_all();
    }

    /// The turn of a reader of this master; `None` if the others read from another one.
    pub fn turn(&self, master: &MasterId, at: &Position) -> Option<Turn> {
        let mut chain = self.chain();
        if chain.master.as_ref() != Some(master) {
            return None;
        }
        let (turn, moved) = chain.turn(at, Instant::now());
        drop(chain);
        if moved {
            self.moved.wake_all();
        }
        Some(turn)
    }

    pub fn seat(&self, number: u64) -> Seat<'_> {
        Seat { hub: self, number }
    }

    /// There is nothing more to read for a reader that stands here and reads for itself.
    pub fn raise(&self, at: &mut Position) {
        self.chain().raise(at);
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat<'_> {
    /// Hands a batch to all who stand at the head, which moves behind it. `level`: it was all there was. False when
    /// the seat was lost before: nobody gets the batch.
    pub fn publish(&self, from: Position, batch: Batch, bytes: usize, level: bool) -> bool {
        let published = self.hub.chain().publish(self.number, Kept { from, batch, bytes }, level);
        if published {
            self.hub.moved.wake_all();
        }
        published
    }

    /// What is read is too large to be kept: the others are to read it for themselves.
    pub fn too_large(&self) {
        self.hub.chain().too_large(self.number);
        self.hub.moved.wake_all();
    }

    /// Nothing is there to read for now.
    pub fn level(&self) {
        if self.hub.chain().level(self.number) {
            self.hub.moved.wake_all();
        }
    }

    /// Will not be heard of for so long. False when the seat was lost: the head is elsewhere.
    pub fn rests(&self, wait: Duration) -> bool {
        self.hub.chain().rests(self.number, Instant::now() + wait)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.hub.chain().leave(self.number);
        self.hub.moved.wake_all();
    }
}

/// The batches and who reads on. Pure.
#[derive(Default)]
struct Chain {
    master: Option<MasterId>,
    kept: VecDeque<Kept>,
    head: Option<Position>,
    /// Nothing was there to read at the head.
    level: bool,
    /// The batch at the head is not for sharing.
    large: bool,
    leader: Option<Leader>,
    seats: u64,
}

struct Kept {
    from: Position,
    batch: Batch,
    bytes: usize,
}

struct Leader {
    number: u64,
    /// Said to be back by then.
    back: Instant,
}

impl Chain {
    /// The turn of who stands here, and whether that has moved the head.
    fn turn(&mut self, at: &Position, now: Instant) -> (Turn, bool) {
        if let Some(kept) = self.kept.iter().rev().find(|kept| kept.from.is_same(at)) {
            return (Turn::Take(kept.batch.clone()), false);
        }
        let mut moved = false;
        match &self.head {
            Some(head) if head.is_same(at) => {}
            Some(head) if head.includes(at) => return (Turn::Alone(Some(head.clone())), false),
            Some(head) if !at.includes(head) => return (Turn::Alone(None), false),
            _ => {
                self.set_head(Some(at.clone()));
                moved = true;
            }
        }
        let turn = match &self.leader {
            _ if self.large => Turn::Alone(None),
            None => {
                self.seats += 1;
                self.leader = Some(Leader { number: self.seats, back: now });
                Turn::Lead(self.seats)
            }
            Some(leader) if now > leader.back + PATIENCE => Turn::Alone(None),
            Some(_) => Turn::Wait { level: self.level },
        };
        (turn, moved)
    }

    /// A head that does not follow from the one before: nothing leads there, and nobody reads there yet.
    fn set_head(&mut self, head: Option<Position>) {
        self.kept.clear();
        self.leader = None;
        self.move_head(head);
    }

    fn move_head(&mut self, head: Option<Position>) {
        (self.head, self.level, self.large) = (head, false, false);
    }

    fn publish(&mut self, number: u64, kept: Kept, level: bool) -> bool {
        if !self.is_led_by(number) {
            return false;
        }
        self.move_head(Some(kept.batch.end.clone()));
        self.level = level;
        self.kept.push_back(kept);
        let mut bytes: usize = self.kept.iter().map(|kept| kept.bytes).sum();
        while bytes > KEPT_BYTES || self.kept.len() > KEPT_COUNT {
            bytes -= self.kept.pop_front().map_or(bytes, |oldest| oldest.bytes);
        }
        true
    }

    fn too_large(&mut self, number: u64) {
        self.large |= self.is_led_by(number);
        self.leave(number);
    }

    /// True if that is news.
    fn level(&mut self, number: u64) -> bool {
        self.is_led_by(number) && !std::mem::replace(&mut self.level, true)
    }

    fn rests(&mut self, number: u64, back: Instant) -> bool {
        match &mut self.leader {
            Some(leader) if leader.number == number => leader.back = back,
            _ => return false,
        }
        true
    }

    fn leave(&mut self, number: u64) {
        if self.is_led_by(number) {
            self.leader = None;
        }
    }

    fn is_led_by(&self, number: u64) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.number == number)
    }

    fn raise(&self, at: &mut Position) {
        if let Some(head) = self.head.as_ref().filter(|head| head.rank > at.rank) {
            (at.rank, at.last_xid, at.last_ts) = (head.rank, head.last_xid, head.last_ts);
        }
    }
}
