//! What a session tells about itself: its user, its settings, its place in the transaction.

use std::ffi::{CStr, CString};

use pgrx::{pg_sys, GucSetting};

use super::{undeclared, unguarded, version};

/// Name of the channel on which the agent listens.
const CHANNEL: &CStr = c"replicas";

/// `synchronous_commit` is off: the transaction becomes visible before it is durable.
pub fn commits_asynchronously() -> bool {
    // SAFETY: a plain int that only this thread writes.
    unsafe { pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 }
}

/// `session_replication_role` is replica: the session applies what was changed elsewhere.
#[inline]
pub fn is_replica() -> bool {
    // SAFETY: a plain int that only this thread writes.
    unsafe { pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32 }
}

/// Whether a setting holds more than an empty string.
#[inline]
pub fn has_text(setting: &GucSetting<Option<CString>>) -> bool {
    // SAFETY: guc.c keeps NULL or a C string there, and only this thread writes it.
    unsafe {
        let value = *setting.as_ptr();
        !value.is_null() && *value != 0
    }
}

/// Whether the current role is an agent's (pyreplica.allow_agent).
pub fn is_agent() -> bool {
    let Some(schema) = schema_oid("pyreplica") else { return false };
    // SAFETY: C strings and oids; what is not found, or dropped meanwhile, gives no right.
    unsafe {
        let slave = pg_sys::get_relname_relid(c"slave".as_ptr(), schema);
        slave != pg_sys::InvalidOid
            && pg_sys::pg_class_aclcheck(slave, pg_sys::GetUserId(), version::ACL_INSERT)
                == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Depth of nested subtransactions; 1 is the transaction itself.
#[inline]
pub fn nest_level() -> i32 {
    // SAFETY: reads the transaction state, which a backend always has.
    unsafe { unguarded::GetCurrentTransactionNestLevel() }
}

/// The command now running; it counts as one that changes something.
pub fn command_id() -> u32 {
    // SAFETY: called inside a transaction, from a trigger.
    unsafe { pg_sys::GetCurrentCommandId(true) }
}

/// How many triggers are firing, one inside the other.
pub fn trigger_depth() -> i32 {
    // SAFETY: it takes no argument, looks at no call, and reads a counter.
    unsafe { unguarded::pg_trigger_depth(std::ptr::null_mut()) }.value() as i32
}

/// The current role.
pub fn role() -> pg_sys::Oid {
    // SAFETY: reads a variable, which is set inside a transaction.
    unsafe { unguarded::GetUserId() }
}

/// Name of a role in the encoding of the database; None when it was dropped in this transaction.
pub fn role_name(role: pg_sys::Oid) -> Option<Vec<u8>> {
    // SAFETY: with noerr the result is NULL or a palloc'd C string, which is copied.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_bytes().to_vec())
    }
}

/// What the text of a statement means depends on these: which objects its names are, which values its literals are,
/// and which text its casts give. Not lc_*: a slave's system may lack the locale.
const OF_MEANING: [&CStr; 14] = [
    c"search_path",
    c"DateStyle",
    c"IntervalStyle",
    c"TimeZone",
    c"timezone_abbreviations",
    c"standard_conforming_strings",
    c"backslash_quote",
    c"transform_null_equals",
    c"array_nulls",
    c"xmloption",
    c"xmlbinary",
    c"bytea_output",
    c"extra_float_digits",
    c"default_text_search_config",
];

/// Name and value of a setting.
pub type Setting = (&'static [u8], Vec<u8>);

/// The session's settings on which the meaning of a statement depends.
pub fn settings_of_meaning() -> Vec<Setting> {
    let value = |name: &CStr| {
        // SAFETY: the setting exists in every server; the string belongs to guc.c and is copied.
        let value = unsafe { CStr::from_ptr(pg_sys::GetConfigOption(name.as_ptr(), false, false)) };
        super::types::to_utf8(value.to_bytes()).into_owned()
    };
    OF_MEANING.iter().map(|name| (name.to_bytes(), value(name))).collect()
}

/// Queues the wake-up of the agents for commit. Equal notifications of one transaction collapse.
pub fn notify_agents() {
    undeclared::notify(CHANNEL, c"");
}

/// Makes everything that is visible now durable; returns the WAL position up to which it is.
pub fn flush_wal() -> u64 {
    // SAFETY: they only read and write the state of the WAL; the segment size is fixed since the start.
    unsafe {
        let end = wal_end(pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64);
        pg_sys::XLogFlush(end);
        end
    }
}

/// The end of the last record, given where the next one begins: where a page is full that is behind the header of
/// the next page, which is not there yet and cannot be flushed (XLogBytePosToEndRecPtr).
pub fn wal_end(next: u64, segment_size: u64) -> u64 {
    const PAGE: u64 = pg_sys::XLOG_BLCKSZ as u64;
    // SizeOfXLogLongPHD at the beginning of a segment, else SizeOfXLogShortPHD.
    let header = if next % segment_size < PAGE { 40 } else { 24 };
    if next % PAGE == header {
        next - header
    } else {
        next
    }
}

/// Whether the current role owns the relation, or is a member of the role that does.
pub fn owns_relation(relation: pg_sys::Oid) -> bool {
    version::owns_relation(relation, role())
}

/// Tells all sessions that something about the relation has changed, once this transaction is committed.
pub fn invalidate(relation: pg_sys::Oid) {
    // SAFETY: an oid without a relation is reported as an error, not followed.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) }
}

/// Runs `f` as another role, as a SECURITY DEFINER function would.
pub fn as_role<T>(role: pg_sys::Oid, f: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: two out parameters; on an ERROR in `f` the abort of the (sub)transaction restores both.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
    }
    let result = f();
    // SAFETY: puts back what was read above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// Settings under which output functions write the same text in every session.
const PINNED: [(&CStr, &CStr); 8] = [
    (c"datestyle", c"ISO"),
    (c"intervalstyle", c"postgres"),
    (c"extra_float_digits", c"1"),
    (c"bytea_output", c"hex"),
    (c"lc_monetary", c"C"),
    (c"timezone", c"GMT"),
    (c"search_path", c"pg_catalog"),
    (c"quote_all_identifiers", c"off"),
];

/// The pinned settings, in force until this is dropped.
pub struct Pinned(i32);

impl Pinned {
    pub fn set() -> Pinned {
        // SAFETY: names and values are C strings that guc.c copies. On an ERROR the abort of the
        // (sub)transaction unwinds the nest level.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in PINNED {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Pinned(level)
        }
    }

    /// Puts the session's own settings back. Not in Drop: after an ERROR the abort does it.
    pub fn restore(self) {
        // SAFETY: the level is the one that `set` began.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) }
    }
}

/// Oid of a schema by its name.
pub fn schema_oid(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: a C string; missing_ok, so there is no error.
    let oid = unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}
