//! Commit, prepare, abort and savepoints: PostgreSQL's callbacks, handed on as safe calls.
//!
//! An error may be raised before the commit, where it aborts the transaction; never in a commit or abort
//! callback, which take the server down: those only drop memory.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_guard;
use pgrx::pg_sys::{self, Oid};

use super::executor;
use crate::capture;

/// Whether `STALE` holds anything: looked at for every row. A backend is one thread.
static ANY_STALE: AtomicBool = AtomicBool::new(false);

/// Whether any relation has changed since `take_changed` said so.
static CHANGED: AtomicBool = AtomicBool::new(true);

thread_local! {
    /// Relations whose cached description is stale; InvalidOid stands for all.
    static STALE: RefCell<Vec<Oid>> = const { RefCell::new(Vec::new()) };
}

/// How many stale relations are remembered one by one.
const STALE_MAX: usize = 256;

/// Registers the callbacks.
pub(super) fn register() {
    // SAFETY: the functions live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
        pg_sys::CacheRegisterRelcacheCallback(Some(at_invalidation), pg_sys::Datum::null());
        for names in [pg_sys::SysCacheIdentifier::AUTHOID, pg_sys::SysCacheIdentifier::NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(
                names as i32,
                Some(at_change_of_name),
                pg_sys::Datum::null(),
            );
        }
    }
}

/// Whether relations have changed since the last call of [`take_stale`].
#[inline]
pub fn any_stale() -> bool {
    ANY_STALE.load(Ordering::Relaxed)
}

/// Relations that have changed since the last call.
pub fn take_stale() -> Vec<Oid> {
    ANY_STALE.store(false, Ordering::Relaxed);
    STALE.take()
}

/// Whether relations have changed since the last call; for those who keep something that may follow from any of them.
pub fn take_changed() -> bool {
    CHANGED.swap(false, Ordering::Relaxed)
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT => capture::before_commit(true),
        // A transaction that notifies cannot be prepared: the agent looks for it.
        XACT_EVENT_PRE_PREPARE => capture::before_commit(false),
        XACT_EVENT_COMMIT => {
            capture::committed();
            capture::forget();
            executor::end_of_transaction();
        }
        XACT_EVENT_PREPARE | XACT_EVENT_ABORT => {
            capture::forget();
            executor::end_of_transaction();
        }
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _sub: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::*;
    match event {
        SUBXACT_EVENT_PRE_COMMIT_SUB => capture::before_subtransaction_commit(),
        SUBXACT_EVENT_COMMIT_SUB => capture::subtransaction_committed(),
        SUBXACT_EVENT_ABORT_SUB => capture::subtransaction_aborted(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_invalidation(_arg: pg_sys::Datum, relation: Oid) {
    STALE.with_borrow_mut(|stale| {
        if stale.len() >= STALE_MAX {
            stale.clear();
            stale.push(pg_sys::InvalidOid);
        } else if stale.last() != Some(&relation) {
            stale.push(relation);
        }
    });
    ANY_STALE.store(true, Ordering::Relaxed);
    CHANGED.store(true, Ordering::Relaxed);
    executor::forget(relation);
}

/// Names of roles and schemas are cached as well; they change seldom. That of a schema is part of what is known of its
/// tables, which are not told.
#[pg_guard]
unsafe extern "C-unwind" fn at_change_of_name(arg: pg_sys::Datum, _cache: core::ffi::c_int, _hash: u32) {
    // SAFETY: it uses no argument but the oid.
    unsafe { at_invalidation(arg, pg_sys::InvalidOid) }
}
