//! Sequences, read and drawn from without a call of SQL, whatever the rights of the current role.

use pgrx::pg_sys::{self, Datum, Oid};

use super::raw::{self, guarded};

/// The tuple of a sequence (FormData_pg_sequence_data).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SequenceData {
    pub last_value: i64,
    log_cnt: i64,
    pub is_called: bool,
}

/// The beginning of a row of pg_sequence (FormData_pg_sequence).
#[repr(C)]
struct SequenceForm {
    seqrelid: Oid,
    seqtypid: Oid,
    seqstart: i64,
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
                    let item = pg_sys::PageGetItem(page, pg_sys::PageGetItemId(page, 1));
                    let header = item.cast::<pg_sys::HeapTupleHeaderData>();
                    *data = Some(*item.add((*header).t_hoff as usize).cast::<SequenceData>());
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

/// The same for who has a guard. A transaction that has become read-only since it wrote may draw as well.
///
/// # Safety
/// Inside a guard; an oid that is no sequence is an ERROR.
pub unsafe fn draw_in_guard(oid: Oid) -> i64 {
    // SAFETY: where nextval raises an ERROR the flag ends with the (sub)transaction, whose own it is.
    unsafe {
        let read_only = pg_sys::XactReadOnly;
        pg_sys::XactReadOnly = false;
        let value = raw::nextval_internal(oid, false);
        pg_sys::XactReadOnly = read_only;
        value
    }
}

/// Whether the next value of a sequence is its first.
pub fn is_at_start(oid: Oid) -> bool {
    // SAFETY: a row of pg_sequence exists for each sequence; the form is read before the tuple is released.
    let start = unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::SEQRELID as i32, Datum::from(oid));
        if tuple.is_null() {
            return false;
        }
        let start = (*pg_sys::GETSTRUCT(tuple).cast::<SequenceForm>()).seqstart;
        pg_sys::ReleaseSysCache(tuple);
        start
    };
    let data = read(oid);
    !data.is_called && data.last_value == start
}
