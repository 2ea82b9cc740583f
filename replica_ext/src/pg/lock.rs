//! PostgreSQL's lock table as flags: who sleeps or dozes, which writers may not have seen it, and which of them have
//! chunks.

use std::fmt;

use pgrx::pg_sys::{self, Oid, LOCKTAG};

use super::heap::{LogTable, LogTables};
use super::{unguarded, version};

/// A transaction as the lock table names it.
#[derive(Clone, Copy)]
pub struct Holder {
    pub backend: i32,
    /// Of the transactions of that backend; of a prepared one, its xid.
    number: u32,
    /// It has chunks that are not its last.
    pub has_chunks: bool,
}

impl Holder {
    pub fn is_same(&self, other: &Holder) -> bool {
        (self.backend, self.number) == (other.backend, other.number)
    }
}

/// As `backend/number`, and a `+` where it has chunks that are not its last.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.backend, self.number, if self.has_chunks { "+" } else { "" })
    }
}

/// Marks of a log. SQL's own advisory locks have 1 or 2 in their place.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Mark {
    /// Held by who sleeps.
    Sleep = 3,
    /// Held by transactions that have a chunk and will have another.
    HasChunks = 4,
    /// Held by who sleeps or dozes, so that a writer looks once where nobody does.
    Rest = 5,
}

/// Who holds these does not exclude anybody; writers only look.
const CHUNKS_MODE: i32 = pg_sys::ShareLock as i32;
const SLEEP_MODE: i32 = pg_sys::RowShareLock as i32;
const DOZE_MODE: i32 = pg_sys::RowExclusiveLock as i32;
/// Nobody holds it. It conflicts with dozers and not with sleepers.
const NOT_DOZE_MODE: i32 = pg_sys::ShareLock as i32;
const NO_CHUNKS_MODE: i32 = pg_sys::ExclusiveLock as i32;
/// It conflicts with the lock that a writer has on its chunk table.
const NO_WRITE_MODE: i32 = pg_sys::ShareLock as i32;

impl Mark {
    /// The log's sequence of ids makes it one of this log.
    fn tag(self, ids: Oid) -> LOCKTAG {
        LOCKTAG {
            // SAFETY: set when the backend connected to its database.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: ids.to_u32(),
            locktag_field3: 0,
            locktag_field4: self as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }

    fn is_held(self, ids: Oid) -> bool {
        // SAFETY: looks the tag up under the lock table's own lock, and takes nothing.
        unsafe { unguarded::LockWaiterCount(&self.tag(ids)) > 0 }
    }
}

/// Whether any session sleeps or dozes.
pub fn anybody_rests(ids: Oid) -> bool {
    Mark::Rest.is_held(ids)
}

/// Whether any session sleeps.
pub fn anybody_sleeps(ids: Oid) -> bool {
    Mark::Sleep.is_held(ids)
}

/// The sessions that doze.
pub fn dozers(ids: Oid) -> Vec<Holder> {
    conflicts(&Mark::Rest.tag(ids), NOT_DOZE_MODE)
}

/// This session dozes until `end_doze`, or the end of the transaction.
pub fn doze(ids: Oid) {
    // SAFETY: a lock of the transaction; nobody holds a mode that conflicts.
    unsafe { pg_sys::LockAcquire(&Mark::Rest.tag(ids), DOZE_MODE, false, false) };
}

pub fn end_doze(ids: Oid) {
    // SAFETY: releases what `doze` has taken.
    unsafe { pg_sys::LockRelease(&Mark::Rest.tag(ids), DOZE_MODE, false) };
}

/// This session sleeps until `wake`, or its end.
pub fn sleep(ids: Oid) {
    // The mark that is looked for first is put last, and taken away first.
    for mark in [Mark::Sleep, Mark::Rest] {
        let tag = mark.tag(ids);
        // SAFETY: a session lock, held once; nobody holds a mode that conflicts.
        unsafe {
            if !version::holds_lock(&tag, SLEEP_MODE) {
                pg_sys::LockAcquire(&tag, SLEEP_MODE, true, false);
            }
        }
    }
}

/// This session sleeps no more; false when it did not.
pub fn wake(ids: Oid) -> bool {
    let release = |mark: Mark| {
        let tag = mark.tag(ids);
        // SAFETY: releases what this session holds.
        unsafe { version::holds_lock(&tag, SLEEP_MODE) && pg_sys::LockRelease(&tag, SLEEP_MODE, true) }
    };
    release(Mark::Rest) & release(Mark::Sleep)
}

/// The (sub)transaction at hand writes a chunk that is not its last. The lock goes where that goes: with a rollback of
/// both, or to the parent.
pub fn has_chunks(ids: Oid) {
    // SAFETY: a lock of the transaction; nobody holds a mode that conflicts.
    unsafe { pg_sys::LockAcquire(&Mark::HasChunks.tag(ids), CHUNKS_MODE, false, false) };
}

/// Transactions that have written to the log and not ended; prepared ones too.
pub fn writers(log: &LogTables) -> Vec<Holder> {
    let of_table = |table: &LogTable| conflicts(&table_tag(table.heap), NO_WRITE_MODE);
    let mut writers: Vec<Holder> = log.tables.iter().flat_map(of_table).collect();
    if !writers.is_empty() {
        for holder in conflicts(&Mark::HasChunks.tag(log.ids), NO_CHUNKS_MODE) {
            let same = writers.iter_mut().filter(|writer| writer.is_same(&holder));
            same.for_each(|writer| writer.has_chunks = true);
        }
    }
    writers
}

fn table_tag(table: Oid) -> LOCKTAG {
    LOCKTAG {
        // SAFETY: as above.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: table.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

/// Transactions that hold a lock which conflicts with this mode, but for our own.
fn conflicts(tag: &LOCKTAG, mode: i32) -> Vec<Holder> {
    let mut count = 0;
    // SAFETY: gives a palloc'd array of `count` of them.
    unsafe {
        let found = pg_sys::GetLockConflicts(tag, mode, &mut count);
        let holder = |x: &pg_sys::VirtualTransactionId| Holder {
            backend: version::backend_of(x),
            number: x.localTransactionId,
            has_chunks: false,
        };
        let holders = std::slice::from_raw_parts(found, count as usize).iter().map(holder).collect();
        pg_sys::pfree(found.cast());
        holders
    }
}
