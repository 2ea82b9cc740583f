//! The unsafe border: everything that touches PostgreSQL's memory, and nothing else.
//!
//! Rules: each function is safe to call or says what the caller vouches for; each block names the fact it rests
//! on; PostgreSQL's pointers do not leave this folder without a lifetime. Every call into PostgreSQL is guarded
//! by pgrx, so that its ERROR unwinds as a Rust panic and runs destructors; but for those of `unguarded`, and those of
//! `raw`, of which several have one guard together.

/// What PostgreSQL asks of a function in C before its first call: that it is called by the convention of version 1.
macro_rules! finfo {
    ($($name:ident),+ $(,)?) => {
        $(#[no_mangle]
        pub extern "C" fn $name() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        })+
    };
}

mod chunk;
mod executor;
pub mod expression;
pub mod filter;
pub mod heap;
mod immediate;
pub mod latch;
pub mod lock;
mod log_now;
mod raw;
pub mod relation;
mod room;
pub mod row_change;
pub mod sequence;
pub mod session;
pub mod statements;
pub mod trigger;
pub mod tuple;
pub mod types;
mod version;
mod when;
mod whole;
pub mod xact;

/// Has PostgreSQL call this library where transactions end and statements begin, from now on. Once for each backend.
pub fn register() {
    xact::register();
    executor::register();
}

/// Functions that raise nothing and allocate nothing, called for every row or transaction: pgrx's guard, a sigsetjmp,
/// would cost more than they do.
mod unguarded {
    use pgrx::pg_sys::{
        CommandId, Datum, FunctionCallInfo, HeapTupleHeader, Oid, TimestampTz, TransactionId, LOCKTAG,
    };

    unsafe extern "C" {
        /// access/xact.h: reads the transaction state.
        pub fn GetCurrentTransactionNestLevel() -> core::ffi::c_int;
        /// access/xact.h: searches the transaction state.
        pub fn TransactionIdIsCurrentTransactionId(xid: TransactionId) -> bool;
        /// access/htup_details.h: reads the header, and the combo ids in memory.
        pub fn HeapTupleHeaderGetCmin(header: HeapTupleHeader) -> CommandId;
        /// Likewise.
        pub fn HeapTupleHeaderGetCmax(header: HeapTupleHeader) -> CommandId;
        /// utils/adt/trigfuncs.c: reads a counter.
        pub fn pg_trigger_depth(fcinfo: FunctionCallInfo) -> Datum;
        /// miscadmin.h: reads a variable.
        pub fn GetUserId() -> Oid;
        /// utils/timestamp.h: reads the clock.
        pub fn GetCurrentTimestamp() -> TimestampTz;
        /// storage/lock.h: looks a tag of a lock method that there is up in shared memory.
        pub fn LockWaiterCount(locktag: *const LOCKTAG) -> core::ffi::c_int;
    }
}

/// What PostgreSQL exports and pgrx does not declare.
mod undeclared {
    use std::ffi::CStr;

    use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
    use pgrx::pg_sys::{Latch, List, Oid};

    mod c {
        use pgrx::pg_sys::{List, Oid, PGPROC};

        unsafe extern "C-unwind" {
            /// commands/async.h
            pub fn Async_Notify(channel: *const core::ffi::c_char, payload: *const core::ffi::c_char);
            /// catalog/partition.h
            pub fn get_partition_ancestors(relid: Oid) -> *mut List;
            /// storage/procarray.h; storage/sinvaladt.h before 17
            #[cfg_attr(any(feature = "pg15", feature = "pg16"), link_name = "BackendIdGetProc")]
            pub fn ProcNumberGetProc(backend: core::ffi::c_int) -> *mut PGPROC;
        }
    }

    pub fn notify(channel: &CStr, payload: &CStr) {
        // SAFETY: async.c copies both C strings.
        unsafe { pg_guard_ffi_boundary(|| c::Async_Notify(channel.as_ptr(), payload.as_ptr())) }
    }

    /// A list of oids, nearest first, of a relation that is a partition.
    pub fn partition_ancestors(relation: Oid) -> *mut List {
        // SAFETY: scans pg_inherits; a relation without a parent there is an ERROR.
        unsafe { pg_guard_ffi_boundary(|| c::get_partition_ancestors(relation)) }
    }
    /// The latch of a backend; `None` when it has ended.
    pub fn latch_of(backend: i32) -> Option<*mut Latch> {
        // SAFETY: reads the shared array of backends under its lock; a PGPROC is in shared memory and stays there.
        unsafe {
            let proc = pg_guard_ffi_boundary(|| c::ProcNumberGetProc(backend));
            (!proc.is_null()).then(|| &raw mut (*proc).procLatch)
        }
    }
}
