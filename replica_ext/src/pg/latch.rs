//! Latches: this session's own, which it waits for, and those of others, set when a transaction of ours has ended.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, Latch};

use super::undeclared;

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// To be set when the transaction at hand has ended.
    static AT_END: RefCell<Vec<*mut Latch>> = const { RefCell::new(Vec::new()) };
}

/// Forgets that our latch was set.
pub fn reset() {
    // SAFETY: MyLatch is this session's own from its beginning to its end.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) }
}

/// Waits for our latch; true if it was set within so long. Below a millisecond it waits as long as it is told.
pub fn wait(at_most: Duration) -> bool {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: as above; is_set is read as the server itself reads it.
    let set = unsafe {
        if at_most < Duration::from_millis(1) {
            pg_sys::pg_usleep(at_most.as_micros() as core::ffi::c_long);
            (*pg_sys::MyLatch).is_set != 0
        } else {
            let at_most = at_most.as_millis() as core::ffi::c_long;
            let happened =
                pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, at_most, pg_sys::PG_WAIT_EXTENSION);
            happened as u32 & pg_sys::WL_LATCH_SET != 0
        }
    };
    pgrx::check_for_interrupts!();
    set
}

/// Sets the latches of these backends when the transaction at hand has committed, is visible and holds no lock any
/// more. To set one for nothing does no harm, so it does not matter who has their places by then.
pub fn set_at_end(backends: impl Iterator<Item = i32>) {
    if !REGISTERED.replace(true) {
        // SAFETY: the function lives as long as the library, which is never unloaded.
        unsafe { pg_sys::RegisterResourceReleaseCallback(Some(at_release), std::ptr::null_mut()) }
    }
    AT_END.with_borrow_mut(|at_end| {
        at_end.clear();
        at_end.extend(backends.filter_map(undeclared::latch_of));
    });
}

/// Raises nothing: setting a latch is a store and perhaps a signal.
#[pg_guard]
unsafe extern "C-unwind" fn at_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    is_commit: bool,
    is_top_level: bool,
    _arg: *mut core::ffi::c_void,
) {
    if phase != pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level {
        return;
    }
    for latch in AT_END.take() {
        if is_commit {
            // SAFETY: it is in the shared memory of the server, in a place that each backend leaves to the next.
            unsafe { pg_sys::SetLatch(latch) }
        }
    }
}
