//! The `pyreplica.*` settings, their bounds and texts.

use std::ffi::CString;

use crate::pg::session;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// On whose behalf the session writes; every chunk carries it.
static ORIGIN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Past this a transaction's changes spill to the log. 1 MiB holds some 10,000 changes: nearly every transaction is
/// written at its commit, and a thousand sessions at the limit take a gigabyte.
static BUFFER_SIZE_KB: GucSetting<i32> = GucSetting::<i32>::new(1024);

/// Checked by pyreplica.rotate_log. No limit by default: dropping a slave is for the administrator to decide.
static MAX_LOG_SIZE_MB: GucSetting<i32> = GucSetting::<i32>::new(0);

/// So that the two ways can be compared, and one left if need be.
static LOG_AT_ONCE: GucSetting<bool> = GucSetting::<bool>::new(true);

pub fn register() {
    GucRegistry::define_string_guc(
        c"pyreplica.origin",
        c"On whose behalf the session writes: the nodes that its changes have been through, or any word.",
        c"Every logged change carries it. Empty for changes made here.",
        &ORIGIN,
        GucContext::Userset,
        GucFlags::IS_NAME, // a chunk row has room for a name
    );
    GucRegistry::define_int_guc(
        c"pyreplica.buffer_size",
        c"Memory for the changes of a transaction before they are written to the log.",
        c"A larger transaction is written in parts.",
        &BUFFER_SIZE_KB,
        64,
        1024 * 1024,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"pyreplica.log_at_once",
        c"Log the changes of a statement while it runs, not when it ends.",
        c"Costs less; the log is the same but for the place of what functions change that the statement calls.",
        &LOG_AT_ONCE,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pyreplica.max_log_size",
        c"Size of the log at which the slave that is farthest behind is given up.",
        c"It is put to state \"needs copy\". 0 is no limit.",
        &MAX_LOG_SIZE_MB,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_MB,
    );
}

pub fn log_at_once() -> bool {
    LOG_AT_ONCE.get()
}

/// 0 is no limit.
pub fn max_log_bytes() -> i64 {
    i64::from(MAX_LOG_SIZE_MB.get()) * 1024 * 1024
}

pub fn buffer_size() -> usize {
    BUFFER_SIZE_KB.get() as usize * 1024
}

/// Whether there is an origin; asked for every row.
#[inline]
pub fn has_origin() -> bool {
    session::has_text(&ORIGIN)
}

/// In the encoding of the database; None when it is not set.
pub fn origin() -> Option<Vec<u8>> {
    ORIGIN.get().map(CString::into_bytes).filter(|o| !o.is_empty())
}
