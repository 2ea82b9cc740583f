//! `replicate_ddl`: runs statements here, and queues them in their place in the log for the slaves.
//!
//! In: a text of one or more statements. Out: each of them run as the caller would have run it, and queued with the
//! role and the settings that it was run under.
//!
//! Nothing arrives twice: a statement whose purpose is rows is not queued when it changed rows of replicated tables,
//! or was there to change them: they travel as rows, in their place. One that is for rows of other tables as well would
//! arrive by half, and is refused. Any other statement that changes such rows (a DO block, a function) is refused too,
//! since the slaves would have both.

use std::ffi::{CStr, CString};

use pgrx::prelude::*;
use pgrx::{pg_sys::Oid, PgSqlErrorCode};

use crate::pg::statements::{self, Kind, Statement};
use crate::pg::{session, types};
use crate::{capture, error};

/// Text in the encoding of the database.
#[pg_extern(sql = false)]
fn replicate_ddl(statement: Option<&[u8]>) {
    may_queue();
    let text = CString::new(statement.unwrap_or_default()).unwrap_or_default();
    let statements = statements::parse(&text);
    if statements.is_empty() {
        error::raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "there is no statement to replicate".into(),
            "SELECT pyreplica.replicate_ddl('ALTER TABLE ...') runs a statement here and on all slaves.",
        );
    }
    statements.iter().for_each(replicate);
}

fn replicate(statement: &Statement) {
    match statement.kind {
        Kind::Transaction => refuse(
            &statement.sql,
            "it begins or ends a transaction",
            "All statements of a call belong to the transaction of the caller.",
        ),
        Kind::Session => refuse(
            &statement.sql,
            "it is for this session alone",
            "A slave runs it in the session of its agent. Run it by itself.",
        ),
        Kind::SelectInto => {
            refuse(&statement.sql, "it is a query that makes a table", "Write CREATE TABLE ... AS.")
        }
        _ => {}
    }
    // Of before: it may change either.
    let (settings, role) = (session::settings_of_meaning(), session::role_name(session::role()));
    let before = capture::changes();
    if !statements::run(&statement.sql) {
        refuse(
            &statement.sql,
            "it talks to the client",
            "COPY the rows outside of it: those of replicated tables arrive by themselves.",
        );
    }
    let rows = capture::changes() != before;
    match statement.kind {
        Kind::Setting => return,
        Kind::Rows if rows || statement.targets.iter().any(|&table| is_captured(table)) => {
            // Rows of a view are those of its tables.
            if statement.targets.iter().all(|&table| is_captured(table) || is_view(table)) {
                return;
            }
            refuse(
                &statement.sql,
                "it is for rows of replicated tables, which arrive on the slaves by themselves, and for others, which do not",
                "Change the others by a statement of their own, which changes no rows of replicated tables.",
            );
        }
        _ if rows => refuse(
            &statement.sql,
            "it changed rows of replicated tables, which arrive on the slaves by themselves",
            "Change rows outside of it, or by INSERT, UPDATE, DELETE, MERGE or TRUNCATE as statements of their own.",
        ),
        _ => {}
    }
    let role = role.map_or_else(Vec::new, |name| types::to_utf8(&name).into_owned());
    capture::queue_statement(&types::to_utf8(statement.sql.to_bytes()), &role, &settings);
}

/// Who may queue a statement for the slaves may also run it here.
fn may_queue() {
    let may = "select pg_catalog.has_any_column_privilege('pyreplica.replica_log', 'INSERT')";
    if Spi::get_one::<bool>(may) != Ok(Some(true)) {
        error::raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "permission denied to queue statements for the slaves".into(),
            "What is queued runs on the slaves: GRANT INSERT ON pyreplica.replica_log TO whoever may do that.",
        );
    }
}

fn is_captured(table: Oid) -> bool {
    let captured = "select exists (select from pg_catalog.pg_trigger
                     where tgrelid operator(pg_catalog.=) $1
                       and tgfoid operator(pg_catalog.=) 'pyreplica.log_change'::pg_catalog.regproc)";
    Spi::get_one_with_args::<bool>(captured, &[table.into()]) == Ok(Some(true))
}

fn is_view(table: Oid) -> bool {
    let view = "select relkind operator(pg_catalog.=) 'v' from pg_catalog.pg_class where oid operator(pg_catalog.=) $1";
    Spi::get_one_with_args::<bool>(view, &[table.into()]) == Ok(Some(true))
}

fn refuse(sql: &CStr, why: &str, hint: &str) -> ! {
    const SHOWN: usize = 80;
    let sql = types::to_utf8(sql.to_bytes());
    let text = String::from_utf8_lossy(&sql);
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if text.chars().nth(SHOWN).is_some() { " ..." } else { "" };
    error::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("cannot replicate statement \"{shown}{more}\": {why}"),
        hint,
    )
}
