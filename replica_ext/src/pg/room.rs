//! Room for a bulk of chunks: pages added to a chunk table together.
//!
//! Each chunk of a bulk takes a page. Added one by one, each is a turn at the table's extension lock, for which writers
//! of bulks were seen waiting, mostly for one that had lost the processor while it held it. Who adds many leaves them
//! in the free space map, where the others find them meanwhile.

use pgrx::pg_sys;

use super::raw;

/// More than a spill needs are of no use, and the lock is held for all.
const PAGES_MAX: u32 = 128;

/// Adds empty pages to the end of a table; false when somebody else is at it.
///
/// # Safety
/// Inside a guard; `heap` is open, and locked as for an INSERT.
pub unsafe fn add_pages(heap: pg_sys::Relation, pages: u32) -> bool {
    // SAFETY: this is how hio.c adds pages for others who wait. A page of zeros is one that heap_insert knows to
    // initialize, and one that a crash may leave.
    unsafe {
        let lock = pg_sys::ExclusiveLock as i32;
        if !raw::ConditionalLockRelationForExtension(heap, lock) {
            return false;
        }
        let mut first = pg_sys::InvalidBlockNumber;
        let mut behind = 0;
        for _ in 0..pages.min(PAGES_MAX) {
            let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
            let mode = pg_sys::ReadBufferMode::RBM_ZERO_AND_LOCK;
            let buffer = raw::ReadBufferExtended(heap, fork, P_NEW, mode, std::ptr::null_mut());
            let block = raw::BufferGetBlockNumber(buffer);
            raw::UnlockReleaseBuffer(buffer);
            raw::RecordPageWithFreeSpace(heap, block, EMPTY_PAGE);
            first = first.min(block);
            behind = block + 1;
        }
        raw::UnlockRelationForExtension(heap, lock);
        raw::FreeSpaceMapVacuumRange(heap, first, behind);
        true
    }
}

/// storage/bufmgr.h
const P_NEW: pg_sys::BlockNumber = pg_sys::InvalidBlockNumber;
/// What a page has free behind its header.
const EMPTY_PAGE: usize = pg_sys::BLCKSZ as usize - std::mem::offset_of!(pg_sys::PageHeaderData, pd_linp);
