//! From the buffer to the log: chunk rows, early where the buffer is full, the last ones before the commit; and who rests is
//! woken.

use std::rc::Rc;

use pgrx::pg_sys::Oid;

use super::Capture;
use crate::buffer::{pieces, Chunk, CHUNK_BYTES};
use crate::pg::heap::{self, ChunkRow, LogTables, Writer};
use crate::pg::{latch, lock, session, xact};
use crate::{error, origin};

/// How long a session goes on with a chunk table, in microseconds: to look is a tenth of what capture costs a small
/// transaction, and who never looked would keep rotation from coming round.
const CURRENT_FOR: i64 = 1_000_000;

impl Capture {
    /// Writes what there is as chunks that are not the transaction's last; `depth` is the nesting of triggers.
    pub(super) fn spill(&mut self, depth: i32) {
        let mut log = self.open_log(true, self.buffer.chunks_to_spill());
        self.truncate = None;
        let written = self.buffer.spill(depth, |chunk| {
            log.write(chunk, None);
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = written;
    }

    pub(super) fn finish(&mut self, notify: bool) {
        if self.buffer.is_lost() {
            error::lost_at_release();
        }
        if self.buffer.is_empty() {
            return;
        }
        self.truncate = None;
        // A transaction of one chunk is looked for by its rank, for as long as a commit takes; a prepared one takes
        // longer, so it has several and is found by its xid.
        let prepares = !notify;
        if prepares {
            self.spill(session::trigger_depth());
        }
        let totals = self.buffer.totals_at_end();
        if totals.rows == 0 {
            self.buffer.clear();
            return;
        }
        let mut log = self.open_log(totals.rows > 1, totals.rows - self.buffer.totals.rows);
        let written = self.buffer.finish(|chunk, last| {
            log.write(chunk, last.then_some((totals.changes, totals.rows)));
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = written;
        // Only after the chunk table was locked and the id drawn: `wake` counts on that order.
        if let Some(log) = self.log.filter(|log| notify && lock::anybody_rests(log.ids)) {
            self.wake(&log);
        }
    }

    fn wake(&mut self, log: &LogTables) {
        latch::set_at_end(lock::dozers(log.ids).iter().map(|dozer| dozer.backend));
        if !lock::anybody_sleeps(log.ids) {
            return;
        }
        let sleep = log.last_sleep();
        if self.notified != sleep {
            session::notify_agents();
            self.notifies = sleep;
        }
    }

    /// Name of the current role; None when it was dropped in this transaction.
    fn role_name(&mut self) -> Option<Rc<[u8]>> {
        let current = session::role();
        match &self.role {
            Some((role, name)) if *role == current => name.clone(),
            _ => self.role.insert((current, session::role_name(current).map(Rc::from))).1.clone(),
        }
    }

    /// To write about so many chunks; `several`: the transaction has more than one.
    fn open_log(&mut self, several: bool, chunks: u64) -> OpenLog {
        if xact::any_stale() {
            self.drop_stale();
        }
        let Some(log) = self.log.or_else(LogTables::find) else { error::no_log() };
        self.log = Some(log);
        // All chunks of a transaction are in one table: rotation counts on it.
        let ts = heap::now();
        let table = *self.table.get_or_insert_with(|| match self.current {
            // Rotation does not mind: it empties no table that has a row or a writer.
            Some((table, looked)) if (0..CURRENT_FOR).contains(&(ts - looked)) => table,
            _ => self.current.insert((log.current(), ts)).0,
        });
        OpenLog {
            ids: log.ids,
            writer: Writer::open(
                log.tables[table],
                log.ids,
                several,
                u32::try_from(chunks).unwrap_or(u32::MAX),
            ),
            ts,
            asynchronous: session::commits_asynchronously(),
            origin: origin::of_session(),
            username: self.role_name(),
        }
    }
}

/// The log, open for writing chunks of the current transaction.
struct OpenLog {
    ids: Oid,
    writer: Writer,
    ts: i64,
    asynchronous: bool,
    origin: Option<Vec<u8>>,
    username: Option<Rc<[u8]>>,
}

impl OpenLog {
    /// Writes a chunk; the last one tells changes and rows of the transaction.
    fn write(&mut self, chunk: Chunk, totals: Option<(u64, u64)>) {
        let count = pieces(chunk.payload);
        let mut rest = chunk.payload;
        for no in 0..count {
            let (payload, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
            rest = after;
            let last = no + 1 == count;
            let totals = totals.filter(|_| last);
            if totals.is_none() {
                lock::has_chunks(self.ids);
            }
            let (changes, chunks) = totals.unwrap_or_default();
            self.writer.write(&ChunkRow {
                ts: self.ts,
                seq: chunk.seq,
                changes: i32::try_from(changes).unwrap_or(i32::MAX),
                chunks: i32::try_from(chunks).unwrap_or(i32::MAX),
                piece: match (no, last) {
                    (0, true) => 0,
                    (0, false) => 1,
                    (_, false) => 2,
                    (_, true) => 3,
                },
                last: totals.is_some(),
                asynchronous: self.asynchronous,
                origin: self.origin.as_deref(),
                username: self.username.as_deref(),
                payload,
            });
        }
    }
}
