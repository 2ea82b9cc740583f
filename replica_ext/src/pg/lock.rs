//! PostgreSQL's lock table as a flag: who sleeps, and which writers may not have seen it.

use pgrx::pg_sys::{self, Oid, LOCKTAG};

use super::heap::LogTables;

/// SQL's own advisory locks have 1 or 2 here.
const CLASS: u16 = 3;

/// The lock that sleepers hold; the log's sequence of ids makes it one of this log.
fn sleep_tag(ids: Oid) -> LOCKTAG {
    LOCKTAG {
        // SAFETY: set when the backend connected to its database.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: ids.to_u32(),
        locktag_field3: 0,
        locktag_field4: CLASS,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Sleepers do not exclude each other; writers only look.
const SLEEP_MODE: i32 = pg_sys::ShareLock as i32;

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
        if !pg_sys::LockHeldByMe(&tag, SLEEP_MODE) {
            pg_sys::LockAcquire(&tag, SLEEP_MODE, true, false);
        }
    }
}

/// This session sleeps no more; false when it did not.
pub fn wake(ids: Oid) -> bool {
    let tag = sleep_tag(ids);
    // SAFETY: releases what this session holds.
    unsafe { pg_sys::LockHeldByMe(&tag, SLEEP_MODE) && pg_sys::LockRelease(&tag, SLEEP_MODE, true) }
}

/// Transactions that have written to the log and not ended, as `backend/number`; prepared ones too.
pub fn writers(log: &LogTables) -> Vec<String> {
    let mut writers = Vec::new();
    for table in &log.tables {
        let tag = LOCKTAG {
            // SAFETY: as above.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: table.heap.to_u32(),
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        let mut count = 0;
        // SAFETY: gives a palloc'd array of `count` transactions that hold a lock which conflicts with this mode,
        // as that of a writer does.
        unsafe {
            let found = pg_sys::GetLockConflicts(&tag, pg_sys::ShareLock as i32, &mut count);
            let name = |x: &pg_sys::VirtualTransactionId| format!("{}/{}", x.backendId, x.localTransactionId);
            writers.extend(std::slice::from_raw_parts(found, count as usize).iter().map(name));
            pg_sys::pfree(found.cast());
        }
    }
    writers
}
