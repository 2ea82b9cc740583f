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
//! parent's changes must not be written under the xid of a child. They may be when the child is about to commit
//! ([`Buffer::release`]), which is when many small subtransactions one after the other give their memory back.
//! Where a change belongs is told in `order.rs`.

pub mod order;

use crate::encode;
use order::{copy_introductions, Run};
pub use order::{Key, KeyChange, Spot};

/// Payload of a chunk row. A tuple of a page has at most 8160 bytes, of which the other columns take 74 besides
/// origin and user name, which are names of at most 63 bytes each.
pub const CHUNK_BYTES: usize = 7900;

/// A subtransaction past the limit is not spilled before it fills a chunk, or this much more is in memory:
/// else each of its changes would become a chunk row.
const SPILL_SLACK: usize = 256 * 1024;

/// How much is added between two looks at the size of the buffer.
const GROWTH: usize = 4096;

/// Up to this the room for a limit is made at once.
const ROOM_MAX: usize = 4 * 1024 * 1024;

/// What is kept for the next transaction: more than most of them need.
const SPARE_BYTES: usize = 64 * 1024;

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
    /// The first segment of the transaction before, for its memory.
    spare: Segment,
    /// Bytes added since `has_grown` last said so.
    grown: usize,
    /// The subtransaction that was taken to have committed before it has; 0 is none.
    released: i32,
    /// It has not: what was spilled as its parent's is gone.
    lost: bool,
}

#[derive(Default)]
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

struct Level {
    nest: i32,
    segments: usize,
    bytes: usize,
    chunks: usize,
    runs: usize,
    relations: u32,
    totals: Totals,
}

/// New messages go to the end of this segment.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place(usize);

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

impl Buffer {
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    #[cfg(test)]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Bytes in memory.
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
            runs: last.runs.len(),
            relations: last.relations,
            totals: self.totals,
        });
    }

    /// The subtransaction `nest` is about to commit: beyond the limit it is taken to have done so. True: its parent has
    /// changes to be spilled now, under the xid of `nest`.
    pub fn release(&mut self, nest: i32, limit: usize) -> bool {
        if self.bytes() <= limit {
            return false;
        }
        self.commit_level(nest);
        self.released = nest;
        // What is of an ancestor farther away would be lost with the parent.
        self.levels.last().map_or(1, |l| l.nest) == nest - 1 && self.own_bytes() >= CHUNK_BYTES
    }

    /// Whether a subtransaction was rolled back after it had been released, which takes an error in between: what its
    /// parent had spilled is no longer known.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The subtransaction `nest` has committed: its changes are its parent's.
    pub fn commit_level(&mut self, nest: i32) {
        self.released = 0;
        let Some(last) = self.levels.last_mut().filter(|l| l.nest == nest) else { return };
        last.nest = nest - 1;
        let marks = self.levels.len();
        if nest == 2 || marks > 1 && self.levels[marks - 2].nest == nest - 1 {
            self.levels.pop();
        }
    }

    /// The subtransaction `nest` was rolled back.
    pub fn abort_level(&mut self, nest: i32) {
        self.lost |= self.released == nest;
        while let Some(level) = self.levels.pop_if(|l| l.nest >= nest) {
            self.segments.truncate(level.segments);
            let serial = self.next_serial();
            if let Some(last) = self.segments.last_mut() {
                last.bytes.truncate(level.bytes);
                last.chunks.truncate(level.chunks);
                last.runs.truncate(level.runs);
                last.runs.retain(|r| r.spilled || r.start < level.bytes);
                last.relations = level.relations;
                last.serial = serial;
            }
            self.totals = level.totals;
        }
    }

    /// Index of the first segment that is all the innermost level's own.
    fn first_of_level(&self) -> usize {
        self.levels.last().map_or(0, |l| l.segments)
    }

    fn insert_segment(&mut self, index: usize) {
        let serial = self.next_serial();
        let seq = self.seq_for(index);
        let Segment { bytes, mut chunks, runs, .. } = std::mem::take(&mut self.spare);
        chunks.push(0);
        self.segments.insert(index, Segment { seq, bytes, chunks, runs, relations: 0, serial });
    }

    fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
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
        self.grown += segment.bytes.len() - start;
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

    /// Whether so much was added that `wants_spill`, which looks at all segments, is to be asked again.
    #[inline]
    pub fn has_grown(&mut self) -> bool {
        let grown = self.grown >= GROWTH;
        if grown {
            self.grown = 0;
        }
        grown
    }

    /// Whether the innermost level has enough to be worth spilling at this limit.
    pub fn wants_spill(&self, limit: usize) -> bool {
        let total = self.bytes();
        total > limit && (self.own_bytes() >= CHUNK_BYTES || total > limit + SPILL_SLACK)
    }

    /// Gives a buffer that fills the room that it may need: growing by and by, it would leave as much behind in the heap.
    /// What is not used takes addresses and no memory.
    pub fn make_room(&mut self, limit: usize) {
        let wanted = limit.min(ROOM_MAX) + 2 * GROWTH;
        let Some(Segment { bytes, .. }) = self.segments.last_mut() else { return };
        if bytes.len() > SPARE_BYTES / 2 && bytes.capacity() < wanted {
            bytes.reserve_exact(wanted - bytes.len());
        }
    }

    /// Bytes of the innermost level.
    fn own_bytes(&self) -> usize {
        let own = |l: &Level| {
            let in_marked = self.segments[l.segments - 1].bytes.len() - l.bytes;
            in_marked + self.segments[l.segments..].iter().map(|s| s.bytes.len()).sum::<usize>()
        };
        self.levels.last().map_or_else(|| self.bytes(), own)
    }

    /// About how many chunks a spill would write.
    pub fn chunks_to_spill(&self) -> u64 {
        (self.own_bytes() / CHUNK_BYTES) as u64
    }

    /// Hands all of the innermost level to `write`, in order. `depth` is the nesting of triggers: statements
    /// outside may yet add late changes before what is nested in them.
    pub fn spill<E>(&mut self, depth: i32, mut write: impl FnMut(Chunk) -> Result<(), E>) -> Result<(), E> {
        let mut first = self.first_of_level();
        if let Some((segment, bytes)) = self.levels.last().map(|l| (l.segments - 1, l.bytes)) {
            let runs = &self.segments[segment].runs;
            if bytes == 0 {
                // All that it holds is the level's own: else each savepoint that spills would leave a segment.
                first = segment;
            } else if let Some(run) = runs.iter().position(|r| !r.spilled && r.start >= bytes) {
                self.split(segment, run);
            }
        }
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
        (self.released, self.lost) = (0, false);
        if let Some(first) = self.segments.drain(..).next().filter(|s| s.bytes.capacity() <= SPARE_BYTES) {
            self.spare = first;
            self.spare.bytes.clear();
            self.spare.chunks.clear();
            self.spare.runs.clear();
        }
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
