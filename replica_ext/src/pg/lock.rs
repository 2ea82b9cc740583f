//! PostgreSQL's lock table as flags: who sleeps, which writers may not have seen it, and which of them have chunks.

use pgrx::pg_sys::{self, Oid, LOCKTAG};

use super::heap::LogTables;

/// SQL's own advisory locks have class 1 or 2.
const SLEEPERS: u16 = 3;
const HAVE_CHUNKS: u16 = 4;

/// The lock that sleepers hold; the log's sequence of ids makes it one of this log.
fn sleep_tag(ids: Oid) -> LOCKTAG {
    flag_tag(ids, SLEEPERS)
}

/// The lock that transactions hold which have a chunk and will have another.
fn chunks_tag(ids: Oid) -> LOCKTAG {
    flag_tag(ids, HAVE_CHUNKS)
}

fn flag_tag(ids: Oid, class: u16) -> LOCKTAG {
    LOCKTAG {
        // SAFETY: set when the backend connected to its database.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: ids.to_u32(),
        locktag_field3: 0,
        locktag_field4: class,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Those who hold a flag do not exclude each other.
const FLAG_MODE: i32 = pg_sys::ShareLock as i32;

/// Whether any session sleeps.
pub fn anybody_sleeps(ids: Oid) -> bool {
    // SAFETY: looks the tag up under the lock table's own lock, and takes nothing.
    unsafe { pg_sys::LockWaiterCount(&sleep_tag(ids)) > 0 }
}

/// This session sleeps until `wake`, or its end.
pub fn sleep(ids: Oid) {
    let tag = sleep_tag(ids);
    // SAFETY: a session lock, held once; nobody holds a mode that conflicts.
    unsafe {
        if !pg_sys::LockHeldByMe(&tag, FLAG_MODE) {
            pg_sys::LockAcquire(&tag, FLAG_MODE, true, false);
        }
    }
}

/// This session sleeps no more; false when it did not.
pub fn wake(ids: Oid) -> bool {
    let tag = sleep_tag(ids);
    // SAFETY: releases what this session holds.
    unsafe { pg_sys::LockHeldByMe(&tag, FLAG_MODE) && pg_sys::LockRelease(&tag, FLAG_MODE, true) }
}

/// The (sub)transaction at hand writes a chunk that is not its last. The lock goes where that goes: with a rollback of
/// both, or to the parent.
pub fn has_chunks(ids: Oid) {
    // SAFETY: a lock of the transaction; nobody holds a mode that conflicts.
    unsafe { pg_sys::LockAcquire(&chunks_tag(ids), FLAG_MODE, false, false) };
}

/// Transactions that have written to the log and not ended, as `backend/number`; prepared ones too. A `+` follows where
/// they have chunks that are not their last.
pub fn writers(log: &LogTables) -> Vec<String> {
    let mut writers = Vec::new();
    for table in &log.tables {
        // A writer's lock conflicts with this mode.
        holders(&table_tag(table.heap), pg_sys::ShareLock, |x| {
            writers.push(format!("{}/{}", x.backendId, x.localTransactionId));
        });
    }
    holders(&chunks_tag(log.ids), pg_sys::ExclusiveLock, |x| {
        let name = format!("{}/{}", x.backendId, x.localTransactionId);
        writers.iter_mut().filter(|writer| **writer == name).for_each(|writer| writer.push('+'));
    });
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

/// The transactions that hold a lock in a mode that conflicts with this one.
fn holders(tag: &LOCKTAG, mode: u32, each: impl FnMut(&pg_sys::VirtualTransactionId)) {
    let mut count = 0;
    // SAFETY: gives a palloc'd array of so many.
    unsafe {
        let found = pg_sys::GetLockConflicts(tag, mode as i32, &mut count);
        std::slice::from_raw_parts(found, count as usize).iter().for_each(each);
        pg_sys::pfree(found.cast());
    }
}
