//! The order of the transaction: where among the logged changes a change belongs.
//!
//! What is logged while its statement runs comes in order. A row trigger that is called (where a filter may run what is the
//! users') is so at the end of its statement. When a user's trigger of one row changes further rows, these
//! nested changes are logged first, although all rows of the outer statement changed before them:
//!
//! ```text
//! insert rows 1 and 2    ours: INSERT 1    user's trigger of row 1: update row 2 -> ours: UPDATE 2    ours: INSERT 2
//! ```
//!
//! Command ids tell: INSERT 2 was made by an older command than UPDATE 2. A [`Run`] is a stretch of messages of
//! one command. A change of an older command than the last run's is *late*, and [`Buffer::place`] finds its place:
//! behind the last change of its own command, which an earlier row of the same statement has logged. That one was
//! logged before any of the user's AFTER triggers fired, since ours is the first (sql/40_capture.sql sees to it).
//!
//! The first change of a statement can be late as well: then what was logged before it was changed while the
//! statement still ran, by a BEFORE trigger that deletes a row with the same key, say, or by a function that the
//! statement calls. It stays behind these changes, unless one of them
//! * changed the very row version that it wrote (the version's cmax names that command), or
//! * took the primary key that it had given up;
//!
//! either can only have happened after it.
//!
//! To put something into its place a [`Segment`] is split in two. Segments are the order of the transaction:
//! each has a number, `seq` in the log, so that a segment already spilled can still be added to.

use super::{Buffer, Place, Segment};
use crate::decode::{self, Malformed, Messages, Value};
use crate::encode::{self, tag};

/// Distance between the numbers of neighbouring segments: room for 32 splits between two.
const SEQ_GAP: i64 = 1 << 32;

/// Runs that a segment remembers. Past it the oldest are joined; only functions that write while the statement
/// that calls them still runs could notice.
const RUNS_MAX: usize = 4096;

/// Command id, as in tuple headers.
pub type Cid = u32;

/// Where in the course of the transaction a change was made.
#[derive(Clone, Copy, Default)]
pub struct Spot {
    pub cid: Cid,
    /// Nesting of triggers when it is logged: 1 in a statement of the client.
    pub depth: i32,
    /// The command that has already changed the row version that this change wrote.
    pub superseded_by: Option<Cid>,
}

/// The primary key of a row, as encoded values in key order.
pub type Key = Vec<Option<Vec<u8>>>;

/// The primary key that a change gives up.
#[derive(Default, PartialEq)]
pub struct KeyChange {
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    pub released: Option<Key>,
}

/// The place of a change is in the middle of what was spilled.
#[derive(Debug, PartialEq)]
pub struct SpilledTooEarly;

/// A stretch of messages of one command.
#[derive(Clone, Copy)]
pub(super) struct Run {
    cid: Cid,
    pub(super) depth: i32,
    /// Offset of its first message, while it is in memory.
    pub(super) start: usize,
    pub(super) spilled: bool,
}

/// Index of a segment and of a run in it.
pub(super) type RunAt = (usize, usize);

impl Buffer {
    /// Whether the last message is of this command.
    #[inline]
    pub fn continues(&self, cid: Cid) -> bool {
        self.segments.last().and_then(|s| s.runs.last()).is_some_and(|r| r.cid == cid)
    }

    /// The end of the buffer.
    #[inline]
    pub fn last_place(&self) -> Place {
        Place(self.segments.len() - 1)
    }

    /// The end of the buffer for something that is logged when it happens.
    pub fn place_last(&mut self, cid: Cid, depth: i32) -> Place {
        self.append(Spot { cid, depth, superseded_by: None })
    }

    /// Where a change belongs; `key` is asked for only when that is in doubt.
    #[inline]
    pub fn place(&mut self, spot: Spot, key: impl FnOnce() -> KeyChange) -> Result<Place, SpilledTooEarly> {
        match self.segments.last().and_then(|s| s.runs.last()) {
            Some(last) if last.cid >= spot.cid => self.place_late(spot, key),
            _ => Ok(self.append(spot)),
        }
    }

    /// Begins a run at the end.
    fn append(&mut self, spot: Spot) -> Place {
        if self.segments.is_empty() {
            self.insert_segment(0);
        } else if spot.depth <= 1 && self.segments.len() > 16 {
            // No statement is open that could add to what was spilled.
            let (first, last) = (self.first_of_level(), self.segments.len() - 1);
            let mut i = 0;
            self.segments.retain(|s| {
                i += 1;
                i <= first || i > last || !s.bytes.is_empty()
            });
        }
        self.begin_run(self.segments.len() - 1, spot)
    }

    fn begin_run(&mut self, segment: usize, spot: Spot) -> Place {
        let runs = &mut self.segments[segment].runs;
        if runs.last().is_none_or(|r| r.cid != spot.cid || r.spilled) {
            if runs.len() >= RUNS_MAX {
                runs.drain(1..RUNS_MAX / 2);
            }
            let start = self.segments[segment].bytes.len();
            self.segments[segment].runs.push(Run { cid: spot.cid, depth: spot.depth, start, spilled: false });
        }
        Place(segment)
    }

    fn place_late(&mut self, spot: Spot, key: impl FnOnce() -> KeyChange) -> Result<Place, SpilledTooEarly> {
        // What its own and younger commands have logged at the end of the buffer, the last first: a larger index
        // is an earlier place.
        let runs: Vec<RunAt> = self.runs_back().take_while(|&at| self.run(at).cid >= spot.cid).collect();
        let nested = runs.iter().take_while(|&&at| self.run(at).cid > spot.cid).count();
        let usual = if nested == 0 {
            None
        } else if nested < runs.len() {
            // Behind the last change of its own command.
            Some(nested - 1)
        } else {
            let key = key();
            runs.iter().rposition(|&at| self.takes_over(at, &key))
        };
        let superseded =
            spot.superseded_by.and_then(|by| runs.iter().rposition(|&at| self.run(at).cid >= by));
        match usual.max(superseded) {
            Some(i) => self.before(runs[i], spot),
            None => Ok(self.append(spot)),
        }
    }

    /// Runs from the last to the first.
    pub(super) fn runs_back(&self) -> impl Iterator<Item = RunAt> + '_ {
        let segments = self.segments.iter().enumerate().rev();
        segments.flat_map(|(i, s)| (0..s.runs.len()).rev().map(move |j| (i, j)))
    }

    pub(super) fn run(&self, at: RunAt) -> Run {
        self.segments[at.0].runs[at.1]
    }

    /// Makes a place before a run.
    fn before(&mut self, (segment, run): RunAt, spot: Spot) -> Result<Place, SpilledTooEarly> {
        if run > 0 {
            if self.segments[segment].runs[run].spilled {
                return Err(SpilledTooEarly);
            }
            self.split(segment, run);
            return Ok(self.begin_run(segment, spot));
        }
        let before_it = segment.checked_sub(1).filter(|&s| s + 1 >= self.first_of_level());
        match before_it {
            Some(previous) => Ok(self.begin_run(previous, spot)),
            None => {
                self.insert_segment(segment);
                Ok(self.begin_run(segment, spot))
            }
        }
    }

    /// Moves what begins with a run into a segment of its own, right behind.
    pub(super) fn split(&mut self, index: usize, run: usize) {
        let offset = self.segments[index].runs[run].start;
        let serial = self.next_serial();
        let seq = self.seq_for(index + 1);
        let head = &mut self.segments[index];
        let chunk_no = head.chunks.iter().rposition(|&c| c <= offset).unwrap_or(0);
        let chunk = head.chunks[chunk_no];
        // The new segment's first chunk has to introduce again what its messages refer to.
        let mut bytes = Vec::with_capacity(head.bytes.len() - offset + 64);
        let mut introduced = 0;
        if offset > chunk + 1 {
            bytes.push(encode::VERSION);
            introduced = copy_introductions(&head.bytes[chunk..offset], &mut bytes);
        }
        let moved_from = if offset > chunk + 1 { offset } else { chunk };
        let shift = |at: usize, base: usize| if at <= offset { 0 } else { at - moved_from + base };
        let base = bytes.len();
        bytes.extend_from_slice(&head.bytes[moved_from..]);
        let tail = Segment {
            seq,
            chunks: std::iter::once(0)
                .chain(head.chunks[chunk_no + 1..].iter().map(|&c| shift(c, base)))
                .collect(),
            runs: head.runs[run..].iter().map(|r| Run { start: shift(r.start, base), ..*r }).collect(),
            relations: head.relations,
            serial: head.serial,
            bytes,
        };
        head.bytes.truncate(moved_from);
        head.chunks.truncate(chunk_no + 1);
        head.runs.truncate(run);
        head.relations = introduced;
        head.serial = serial;
        self.segments.insert(index + 1, tail);
    }

    /// A number between those of the segments before and behind a new one.
    pub(super) fn seq_for(&self, index: usize) -> i64 {
        let before = index.checked_sub(1).map(|i| self.segments[i].seq);
        match (before, self.segments.get(index).map(|s| s.seq)) {
            (None, None) => 0,
            (Some(b), None) => b + SEQ_GAP,
            (None, Some(n)) => n - SEQ_GAP,
            (Some(b), Some(n)) => b + (n - b) / 2,
        }
    }

    /// Whether a message of the run takes the primary key that a change gives up. A spilled run cannot tell.
    fn takes_over(&self, (index, run): RunAt, change: &KeyChange) -> bool {
        let segment = &self.segments[index];
        if segment.runs[run].spilled || change.released.is_none() {
            return false;
        }
        let end = segment.runs.get(run + 1).map_or(segment.bytes.len(), |r| r.start);
        takers(segment, segment.runs[run].start, end).any(|taker| taker == *change)
    }
}

/// Copies the messages of a chunk that introduce relations and columns; returns the number of relations.
pub(super) fn copy_introductions(chunk: &[u8], out: &mut Vec<u8>) -> u32 {
    let mut relations = 0;
    each_message(chunk, |start, end, _, _| {
        if matches!(chunk[start], tag::RELATION | tag::COLUMN) {
            out.extend_from_slice(&chunk[start..end]);
            relations += u32::from(chunk[start] == tag::RELATION);
        }
    });
    relations
}

/// The keys that the messages in a stretch of a segment take, as changes that would have given them up.
fn takers(segment: &Segment, from: usize, to: usize) -> impl Iterator<Item = KeyChange> {
    let mut found = Vec::new();
    let ends = segment.chunks.iter().skip(1).copied().chain([segment.bytes.len()]);
    for (start, end) in segment.chunks.iter().copied().zip(ends).filter(|&(s, e)| s < to && e > from) {
        each_message(&segment.bytes[start..end], |at, _, message, relations| {
            let Some((relation, key)) = decode::key_taken(message, relations) else { return };
            if (from..to).contains(&(start + at)) {
                found.push(KeyChange {
                    schema: relations[relation].schema.to_vec(),
                    name: relations[relation].name.to_vec(),
                    released: Some(key.into_iter().map(|v: Value| v.map(<[u8]>::to_vec)).collect()),
                });
            }
        });
    }
    found.into_iter()
}

/// Calls `each` with start, end, the message and what was introduced so far.
fn each_message<'a>(
    chunk: &'a [u8],
    mut each: impl FnMut(usize, usize, &decode::Message<'a>, &[decode::Relation<'a>]),
) {
    let mut walk = || -> Result<(), Malformed> {
        let mut messages = Messages::new(chunk)?;
        let mut start = messages.offset();
        while let Some(message) = messages.next()? {
            each(start, messages.offset(), &message, &messages.relations);
            start = messages.offset();
        }
        Ok(())
    };
    walk().expect("the buffer holds what encode wrote");
}
