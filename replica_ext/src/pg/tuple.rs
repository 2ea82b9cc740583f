//! Tuples: their columns, and what their headers say about who wrote them.

use pgrx::pg_sys::{self, Datum, HeapTuple, TupleDesc};

/// The columns of a row, taken apart; reused from row to row.
#[derive(Default)]
pub struct Row {
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Row {
    /// Takes a tuple apart.
    ///
    /// # Safety
    /// `tuple` is of `descriptor`, and outlives the use of what [`Row::get`] returns.
    pub(super) unsafe fn deform(&mut self, tuple: HeapTuple, descriptor: TupleDesc) {
        // SAFETY: the caller vouches for both; the arrays get as many places as there are attributes.
        unsafe {
            let natts = (*descriptor).natts as usize;
            self.values.resize(natts, Datum::null());
            self.nulls.resize(natts, true);
            pg_sys::heap_deform_tuple(tuple, descriptor, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
        }
    }

    /// A column by its index in the tuple; None is NULL.
    #[inline]
    pub(super) fn get(&self, attribute: usize) -> Option<Datum> {
        (!self.nulls[attribute]).then(|| self.values[attribute])
    }
}

/// A row of a relation while the trigger call that has its tuple lasts.
pub struct RowOf<'a> {
    pub(super) row: &'a Row,
    pub(super) relation: u32,
}

/// The command that wrote this row version.
///
/// # Safety
/// The tuple was inserted by the current transaction.
pub unsafe fn written_by(tuple: HeapTuple) -> u32 {
    // SAFETY: the caller vouches for the tuple; combo ids are known to the transaction that made them.
    unsafe { pg_sys::HeapTupleHeaderGetCmin((*tuple).t_data) }
}

/// The command of the current transaction that deleted or replaced this row version, if one did.
///
/// # Safety
/// `tuple` is a heap tuple as the trigger manager fetched it.
#[inline]
pub unsafe fn ended_by(tuple: HeapTuple) -> Option<u32> {
    // SAFETY: reads the header; the slow part only when some xmax is set.
    unsafe {
        let header = (*tuple).t_data;
        let mask = u32::from((*header).t_infomask);
        if mask & pg_sys::HEAP_XMAX_INVALID != 0 {
            return None;
        }
        // HEAP_XMAX_IS_LOCKED_ONLY(infomask)
        let locked_only = mask & pg_sys::HEAP_XMAX_LOCK_ONLY != 0
            || mask & (pg_sys::HEAP_XMAX_IS_MULTI | pg_sys::HEAP_LOCK_MASK) == pg_sys::HEAP_XMAX_EXCL_LOCK;
        if locked_only {
            return None;
        }
        // HeapTupleHeaderGetUpdateXid(tup)
        let xmax = if mask & pg_sys::HEAP_XMAX_IS_MULTI != 0 {
            pg_sys::HeapTupleGetUpdateXid(header)
        } else {
            (*header).t_choice.t_heap.t_xmax
        };
        pg_sys::TransactionIdIsCurrentTransactionId(xmax).then(|| pg_sys::HeapTupleHeaderGetCmax(header))
    }
}
