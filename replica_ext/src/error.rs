//! What can go wrong in capture, for the user: message, SQLSTATE, hint.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// Raises an ERROR, which aborts the user's transaction: a change that cannot be logged must not commit.
pub fn raise(code: PgSqlErrorCode, message: String, hint: &str) -> ! {
    ErrorReport::new(code, message, "").set_hint(hint).report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

pub fn internal(message: &str) -> ! {
    raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, message.into(), "")
}

pub fn no_log() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot log a change: the log of extension \"pyreplica\" is missing in this database".into(),
        "Create the extension, or drop the triggers named \"!pyreplica\" from the table.",
    )
}

pub fn no_primary_key(schema: &[u8], name: &[u8]) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("cannot log a change of table \"{}\": it has no primary key", qualified(schema, name)),
        "Add a primary key, or stop its replication with pyreplica.remove_table.",
    )
}

pub fn key_not_sent(schema: &[u8], name: &[u8]) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "cannot log a change of table \"{}\": its primary key has columns that are not sent",
            qualified(schema, name)
        ),
        "Remove it with pyreplica.remove_table, and add it again with the key among its columns.",
    )
}

pub fn lost_at_release() -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_TRANSACTION_ROLLBACK,
        "cannot log the transaction: an error came while a savepoint was released".into(),
        "Changes that were made before it are no longer known. Run the transaction again.",
    )
}

pub fn options_lost(schema: &[u8], name: &[u8]) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!(
            "cannot log a change of table \"{}\": the trigger that says what of it is sent was dropped",
            qualified(schema, name)
        ),
        "Remove the table with pyreplica.remove_table, and add it again.",
    )
}

pub fn spilled_too_early(schema: &[u8], name: &[u8]) -> ! {
    raise(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!(
            "cannot log a change of table \"{}\" in its place: a function called by the same statement has \
             changed the row, and that was written to the log already",
            qualified(schema, name)
        ),
        "Raise pyreplica.buffer_size.",
    )
}

/// Schema and name for messages.
pub fn qualified(schema: &[u8], name: &[u8]) -> String {
    format!("{}.{}", String::from_utf8_lossy(schema), String::from_utf8_lossy(name))
}
