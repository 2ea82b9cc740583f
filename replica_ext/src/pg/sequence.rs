//! Sequences, read and drawn from without a call of SQL, whatever the rights of the current role.

use pgrx::pg_sys::{self, Datum, Oid};

use super::raw::{self, guarded};
use super::version::{self, RelFileLocator};

/// The tuple of a sequence (FormData_pg_sequence_data).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SequenceData {
    pub last_value: i64,
    log_cnt: i64,
    pub is_called: bool,
}

/// How far ahead a record is of what was drawn (SEQ_LOG_VALS), and what kind of record that is; commands/sequence.
const LOGGED_AHEAD: i64 = 32;
const XLOG_SEQ_LOG: u8 = 0;

/// The beginning of a row of pg_sequence (FormData_pg_sequence).
#[repr(C)]
struct SequenceForm {
    seqrelid: Oid,
    seqtypid: Oid,
    seqstart: i64,
    seqincrement: i64,
}

/// A sequence of the log.
pub fn read(oid: Oid) -> SequenceData {
    let mut data = [None];
    read_all(&[oid], &mut data);
    data[0].unwrap_or_else(|| crate::error::no_log())
}

/// Last value of each sequence, and whether it was used; None when there is no such sequence (any more).
pub fn states(oids: &[Oid]) -> Vec<Option<(i64, bool)>> {
    let mut data = vec![None; oids.len()];
    read_all(oids, &mut data);
    data.into_iter().map(|data| data.map(|data| (data.last_value, data.is_called))).collect()
}

/// Many at once, under one guard.
fn read_all(oids: &[Oid], data: &mut [Option<SequenceData>]) {
    // SAFETY: nothing in it has a destructor. A sequence that exists has one page with one tuple of this form at the
    // first line pointer; it is read under the buffer's share lock, as read_seq_tuple does.
    unsafe {
        guarded(|| {
            for (oid, data) in oids.iter().zip(data) {
                let relation = raw::try_relation_open(*oid, pg_sys::AccessShareLock as i32);
                if relation.is_null() {
                    continue;
                }
                if (*(*relation).rd_rel).relkind == pg_sys::RELKIND_SEQUENCE as core::ffi::c_char {
                    let buffer = raw::ReadBuffer(relation, 0);
                    raw::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
                    let page = pg_sys::BufferGetPage(buffer);
                    *data = Some(*data_of(pg_sys::PageGetItem(page, pg_sys::PageGetItemId(page, 1))));
                    raw::UnlockReleaseBuffer(buffer);
                }
                raw::relation_close(relation, pg_sys::AccessShareLock as i32);
            }
        });
    }
}

/// The next value.
pub fn draw(oid: Oid) -> i64 {
    // SAFETY: an oid that is no sequence is an ERROR.
    unsafe { guarded(|| raw::nextval_internal(oid, false)) }
}

/// The next id of the log, as nextval would draw it, but that the session's lastval() and whether it may write are left
/// alone: this is in the middle of a user's session. Without a lock: whoever drops the sequence drops the chunk tables.
///
/// # Safety
/// Inside a guard; `oid` is the log's sequence of ids, which rises by one, and a chunk table is locked.
pub unsafe fn draw_id(oid: Oid) -> i64 {
    // SAFETY: the page as in `read_all`, under the buffer's exclusive lock; changed and logged as nextval_internal does:
    // within a critical section, by a record that is ahead, for this value and those that follow; the first one after a
    // checkpoint has a record again, since recovery begins there.
    unsafe {
        let relation = raw::relation_open(oid, pg_sys::NoLock as i32);
        let buffer = raw::ReadBuffer(relation, 0);
        raw::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
        let page = pg_sys::BufferGetPage(buffer);
        let pointer = pg_sys::PageGetItemId(page, 1);
        let item = pg_sys::PageGetItem(page, pointer);
        let data = data_of(item);
        let lsn = &raw mut (*page.cast::<pg_sys::PageHeaderData>()).pd_lsn;
        let SequenceData { last_value, log_cnt, is_called } = *data;
        let id = last_value + i64::from(is_called);
        let logged = u64::from((*lsn).xlogid) << 32 | u64::from((*lsn).xrecoff);
        let log = !is_called || log_cnt < 1 || logged <= raw::GetRedoRecPtr();
        let left = if log { LOGGED_AHEAD } else { log_cnt - 1 };
        pg_sys::CritSectionCount += 1;
        raw::MarkBufferDirty(buffer);
        if log {
            *data = SequenceData { last_value: id + LOGGED_AHEAD, log_cnt: 0, is_called: true };
            raw::XLogBeginInsert();
            raw::XLogRegisterBuffer(0, buffer, pg_sys::REGBUF_WILL_INIT as u8);
            // xl_seq_rec
            let locator = version::locator(relation);
            raw::XLogRegisterData(locator.cast(), size_of::<RelFileLocator>() as i32);
            raw::XLogRegisterData(item, (*pointer).lp_len() as i32);
            let end = raw::XLogInsert(pg_sys::RmgrIds::RM_SEQ_ID as u8, XLOG_SEQ_LOG);
            *lsn = pg_sys::PageXLogRecPtr { xlogid: (end >> 32) as u32, xrecoff: end as u32 };
        }
        *data = SequenceData { last_value: id, log_cnt: left, is_called: true };
        pg_sys::CritSectionCount -= 1;
        raw::UnlockReleaseBuffer(buffer);
        raw::relation_close(relation, pg_sys::NoLock as i32);
        id
    }
}

/// The state in the tuple of a sequence.
///
/// # Safety
/// `item` is that tuple.
unsafe fn data_of(item: pg_sys::Item) -> *mut SequenceData {
    // SAFETY: the data of a tuple begins t_hoff behind its header.
    unsafe { item.add((*item.cast::<pg_sys::HeapTupleHeaderData>()).t_hoff as usize).cast() }
}

/// Start and increment of a sequence; None when there is no such sequence (any more).
pub fn definition(oid: Oid) -> Option<(i64, i64)> {
    // SAFETY: a row of pg_sequence exists for each sequence; the form is read before the tuple is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::SEQRELID as i32, Datum::from(oid));
        if tuple.is_null() {
            return None;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<SequenceForm>();
        let definition = ((*form).seqstart, (*form).seqincrement);
        pg_sys::ReleaseSysCache(tuple);
        Some(definition)
    }
}

/// Whether the next value of a sequence is its first.
pub fn is_at_start(oid: Oid) -> bool {
    let Some((start, _)) = definition(oid) else { return false };
    let data = read(oid);
    !data.is_called && data.last_value == start
}
