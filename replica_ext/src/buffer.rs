//! The changes of the current transaction, bounded, in the order in which rows really changed.
//!
//! In: encoded messages, each with the command that made the change. Out: chunks for the log.
//! Pure: it knows neither PostgreSQL nor the log table; [`Buffer::spill`] and [`Buffer::finish`] hand chunks to a
//! closure.
//!
//! # Savepoints
//!
//! A [`Level`] marks where a subtransaction began. Rolling it back cuts the buffer to the mark; what was spilled
//! since then is rolled back by PostgreSQL, because a spill writes only what is past the innermost mark: a
//! parent's changes must not be written under the xid of a child.
//!
//! # Order
//!
//! A row trigger fires at the end of its statement. When a user's trigger of one row changes further rows, these
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

use crate::decode::{self, Malformed, Messages, Value};
use crate::encode::{self, tag};

/// Payload of a chunk row. A tuple of a page has at most 8160 bytes, of which the other columns take 74 besides
/// origin and user name, which are names of at most 63 bytes each.
pub const CHUNK_BYTES: usize = 7900;

/// A subtransaction past the limit is not spilled before it fills a chunk, or this much more is in memory:
/// else each of its changes would become a chunk row.
const SPILL_SLACK: usize = 256 * 1024;

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

/// The primary key that a change gives up, as encoded values in key order.
#[derive(Default, PartialEq)]
pub struct KeyChange {
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    pub released: Option<Vec<Option<Vec<u8>>>>,
}

/// A chunk to be written to the log.
pub struct Chunk<'a> {
    pub seq: i64,
    pub payload: &'a [u8],
}

/// What survives so far of the transaction, in memory or spilled.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Totals {
    pub changes: u64,
    /// Chunk rows in the log table.
    pub rows: u64,
}

#[derive(Default)]
pub struct Buffer {
    /// In the order of the transaction.
    segments: Vec<Segment>,
    /// Open subtransactions that have changes, outermost first.
    levels: Vec<Level>,
    pub totals: Totals,
    last_serial: u64,
    spare: Vec<u8>,
}

struct Segment {
    seq: i64,
    bytes: Vec<u8>,
    /// Offsets at which chunks begin; the last one is open.
    chunks: Vec<usize>,
    runs: Vec<Run>,
    /// Relations introduced in the open chunk.
    relations: u32,
    /// Names the open chunk: what was introduced under another serial is not known in it.
    serial: u64,
}

/// A stretch of messages of one command.
#[derive(Clone, Copy)]
struct Run {
    cid: Cid,
    depth: i32,
    /// Offset of its first message, while it is in memory.
    start: usize,
    spilled: bool,
}

struct Level {
    nest: i32,
    segments: usize,
    bytes: usize,
    chunks: usize,
    relations: u32,
    totals: Totals,
}

/// New messages go to the end of this segment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place(usize);

/// The place of a change is in the middle of what was spilled.
#[derive(Debug, PartialEq)]
pub struct SpilledTooEarly;

/// A chunk that takes a message.
pub struct Open<'a> {
    pub bytes: &'a mut Vec<u8>,
    /// Names the chunk.
    pub serial: u64,
    /// Relations introduced in it.
    pub relations: &'a mut u32,
    /// Where the message begins, with what it introduces.
    pub start: usize,
}

/// Index of a segment and of a run in it.
type RunAt = (usize, usize);

impl Buffer {
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes in memory.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|s| s.bytes.len()).sum()
    }

    /// Called before a change is added: marks the beginning of the subtransaction `nest` (1 is the transaction
    /// itself) unless it has a mark.
    #[inline]
    pub fn enter(&mut self, nest: i32) {
        if nest > 1 && self.levels.last().is_none_or(|l| l.nest < nest) {
            self.mark(nest);
        }
    }

    fn mark(&mut self, nest: i32) {
        if self.segments.is_empty() {
            self.insert_segment(0);
        }
        let last = &self.segments[self.segments.len() - 1];
        self.levels.push(Level {
            nest,
            segments: self.segments.len(),
            bytes: last.bytes.len(),
            chunks: last.chunks.len(),
            relations: last.relations,
            totals: self.totals,
        });
    }

    /// The subtransaction `nest` has committed: its changes are its parent's.
    pub fn commit_level(&mut self, nest: i32) {
        let Some(last) = self.levels.last_mut().filter(|l| l.nest == nest) else { return };
        last.nest = nest - 1;
        let marks = self.levels.len();
        if nest == 2 || marks > 1 && self.levels[marks - 2].nest == nest - 1 {
            self.levels.pop();
        }
    }

    /// The subtransaction `nest` was rolled back.
    pub fn abort_level(&mut self, nest: i32) {
        while let Some(level) = self.levels.pop_if(|l| l.nest >= nest) {
            self.segments.truncate(level.segments);
            let serial = self.next_serial();
            if let Some(last) = self.segments.last_mut() {
                last.bytes.truncate(level.bytes);
                last.chunks.truncate(level.chunks);
                last.runs.retain(|r| r.spilled || r.start < level.bytes);
                last.relations = level.relations;
                last.serial = serial;
            }
            self.totals = level.totals;
        }
    }

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
    fn runs_back(&self) -> impl Iterator<Item = RunAt> + '_ {
        let segments = self.segments.iter().enumerate().rev();
        segments.flat_map(|(i, s)| (0..s.runs.len()).rev().map(move |j| (i, j)))
    }

    fn run(&self, at: RunAt) -> Run {
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

    /// Index of the first segment that is all the innermost level's own.
    fn first_of_level(&self) -> usize {
        self.levels.last().map_or(0, |l| l.segments)
    }

    /// Moves what begins with a run into a segment of its own, right behind.
    fn split(&mut self, index: usize, run: usize) {
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
    fn seq_for(&self, index: usize) -> i64 {
        let before = index.checked_sub(1).map(|i| self.segments[i].seq);
        match (before, self.segments.get(index).map(|s| s.seq)) {
            (None, None) => 0,
            (Some(b), None) => b + SEQ_GAP,
            (None, Some(n)) => n - SEQ_GAP,
            (Some(b), Some(n)) => b + (n - b) / 2,
        }
    }

    fn insert_segment(&mut self, index: usize) {
        let serial = self.next_serial();
        let seq = self.seq_for(index);
        let bytes = std::mem::take(&mut self.spare);
        let segment = Segment { seq, bytes, chunks: vec![0], runs: Vec::new(), relations: 0, serial };
        self.segments.insert(index, segment);
    }

    fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
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

    /// The end of the place's open chunk.
    #[inline]
    pub fn open(&mut self, place: Place) -> Open<'_> {
        let segment = &mut self.segments[place.0];
        if segment.chunks.last() == Some(&segment.bytes.len()) {
            segment.bytes.push(encode::VERSION);
        }
        let start = segment.bytes.len();
        Open { bytes: &mut segment.bytes, serial: segment.serial, relations: &mut segment.relations, start }
    }

    /// Ends the message that began at `start`. False: its chunk has no room for it; it was taken back and a new
    /// chunk was begun, so write it again.
    #[inline]
    pub fn close(&mut self, place: Place, start: usize) -> bool {
        let segment = &mut self.segments[place.0];
        let chunk = segment.chunks.last().copied().unwrap_or(0);
        if segment.bytes.len() - chunk <= CHUNK_BYTES {
            self.totals.changes += 1;
            return true;
        }
        let fits_nowhere = start <= chunk + 1;
        if fits_nowhere {
            // It stays alone in its chunk, which the log cuts into pieces.
            self.totals.changes += 1;
        } else {
            segment.bytes.truncate(start);
        }
        segment.chunks.push(segment.bytes.len());
        segment.relations = 0;
        self.last_serial += 1;
        segment.serial = self.last_serial;
        fits_nowhere
    }

    /// Takes back the last message of a place, which began at `start`.
    pub fn take_back(&mut self, place: Place, start: usize) {
        let serial = self.next_serial();
        let segment = &mut self.segments[place.0];
        segment.bytes.truncate(start);
        segment.chunks.retain(|&c| c <= start);
        segment.serial = serial;
        let chunk = segment.chunks.last().copied().unwrap_or(0);
        segment.relations = copy_introductions(&segment.bytes[chunk..], &mut Vec::new());
        self.totals.changes -= 1;
    }

    /// End of the last segment: equal as long as nothing was added.
    pub fn end(&self) -> (u64, usize) {
        self.segments.last().map_or((0, 0), |s| (s.serial, s.bytes.len()))
    }

    /// Whether the innermost level has enough to be worth spilling at this limit.
    #[inline]
    pub fn wants_spill(&self, limit: usize) -> bool {
        let total = self.bytes();
        total > limit && (self.own_bytes() >= CHUNK_BYTES || total > limit + SPILL_SLACK)
    }

    /// Bytes of the innermost level.
    fn own_bytes(&self) -> usize {
        let own = |l: &Level| {
            let in_marked = self.segments[l.segments - 1].bytes.len() - l.bytes;
            in_marked + self.segments[l.segments..].iter().map(|s| s.bytes.len()).sum::<usize>()
        };
        self.levels.last().map_or_else(|| self.bytes(), own)
    }

    /// Hands all of the innermost level to `write`, in order. `depth` is the nesting of triggers: statements
    /// outside may yet add late changes before what is nested in them.
    pub fn spill<E>(&mut self, depth: i32, mut write: impl FnMut(Chunk) -> Result<(), E>) -> Result<(), E> {
        if let Some((segment, bytes)) = self.levels.last().map(|l| (l.segments - 1, l.bytes)) {
            let runs = &self.segments[segment].runs;
            if let Some(run) = runs.iter().position(|r| !r.spilled && r.start >= bytes) {
                self.split(segment, run);
            }
        }
        let first = self.first_of_level();
        for outer in 1..depth {
            let deeper =
                self.runs_back().take_while(|&at| at.0 >= first && self.run(at).depth > outer).last();
            if let Some((segment, run)) = deeper.filter(|&at| at.1 > 0 && !self.run(at).spilled) {
                self.split(segment, run);
            }
        }
        for i in first..self.segments.len() {
            let serial = self.next_serial();
            let segment = &mut self.segments[i];
            for chunk in chunks(segment) {
                self.totals.rows += pieces(chunk.payload);
                write(chunk)?;
            }
            segment.bytes.clear();
            segment.chunks = vec![0];
            segment.relations = 0;
            segment.serial = serial;
            segment.runs.iter_mut().for_each(|r| r.spilled = true);
        }
        Ok(())
    }

    /// Changes and rows of the transaction when `finish` will have written what is left. When all was spilled
    /// before, or all that is left was rolled back, an empty chunk is written to be the last.
    pub fn totals_at_end(&self) -> Totals {
        let left: u64 = self.left().map(|c| pieces(c.payload)).sum();
        let closing = u64::from(left == 0 && self.totals.rows > 0);
        Totals { rows: self.totals.rows + left + closing, ..self.totals }
    }

    fn left(&self) -> impl Iterator<Item = Chunk<'_>> {
        self.segments.iter().flat_map(chunks)
    }

    /// Hands what is left to `write`, which is told when a chunk is the last of the transaction, and empties the
    /// buffer.
    pub fn finish<E>(&mut self, mut write: impl FnMut(Chunk, bool) -> Result<(), E>) -> Result<(), E> {
        let empty = Chunk { seq: self.segments.last().map_or(0, |s| s.seq), payload: &[] };
        let mut chunks = self.left().peekable();
        if chunks.peek().is_none() && self.totals.rows > 0 {
            write(empty, true)?;
        }
        while let Some(chunk) = chunks.next() {
            let last = chunks.peek().is_none();
            write(chunk, last)?;
        }
        drop(chunks);
        self.clear();
        Ok(())
    }

    /// Forgets everything, but keeps a little memory for the next transaction.
    pub fn clear(&mut self) {
        self.levels.clear();
        self.totals = Totals::default();
        let first = self.segments.drain(..).next();
        self.spare = first.map(|s| s.bytes).filter(|b| b.capacity() <= 64 * 1024).unwrap_or_default();
        self.spare.clear();
    }
}

/// Rows of the log that a payload takes.
pub fn pieces(payload: &[u8]) -> u64 {
    payload.len().div_ceil(CHUNK_BYTES).max(1) as u64
}

/// The chunks of a segment that hold anything.
fn chunks(segment: &Segment) -> impl Iterator<Item = Chunk<'_>> {
    let ends = segment.chunks.iter().skip(1).copied().chain([segment.bytes.len()]);
    let seq = segment.seq;
    let bounds = segment.chunks.iter().copied().zip(ends).filter(|(start, end)| end - start > 1);
    bounds.map(move |(start, end)| Chunk { seq, payload: &segment.bytes[start..end] })
}

/// Copies the messages of a chunk that introduce relations and columns; returns the number of relations.
fn copy_introductions(chunk: &[u8], out: &mut Vec<u8>) -> u32 {
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
