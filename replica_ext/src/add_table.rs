//! `add_table` and `remove_table`: who may call them, and under whose rights they work.
//!
//! What they do is in sql/40_capture.sql; `add_table` begins in pg/expression.rs, which reads its row filter.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, Spi};

use crate::pg::session;
use crate::{error, guc};

/// The second half of `add_table`: the caller owns the table, and its row filter is read.
pub fn attach(arguments: &[DatumWithOid]) {
    as_extension_owner("select pyreplica.attach($1, $2, $3, $4, $5, $6)", arguments);
}

#[pg_extern(sql = false)]
fn remove_table(relation: Option<Oid>) {
    let relation = owned_by_caller(relation, "table");
    as_extension_owner("select pyreplica.detach($1)", &[relation.into()]);
}

/// The relation, after the caller was found to own the table (or `what` it is).
pub fn owned_by_caller(relation: Option<Oid>, what: &str) -> Oid {
    let Some(relation) = relation else {
        error::raise(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            format!("{} must not be null", if what == "table" { "relation" } else { what }),
            &format!("Name the {what} as schema.{what}."),
        )
    };
    let name = || {
        Spi::get_one_with_args::<String>(
            "select $1::pg_catalog.regclass::pg_catalog.text",
            &[relation.into()],
        )
        .ok()
        .flatten()
        .unwrap_or_else(|| relation.to_u32().to_string())
    };
    let exists = "select exists (select from pg_catalog.pg_class where oid = $1)";
    let exists = Spi::get_one_with_args::<bool>(exists, &[relation.into()]);
    if exists != Ok(Some(true)) {
        error::raise(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation with OID {} does not exist", relation.to_u32()),
            &format!("Name the {what} as schema.{what}."),
        );
    }
    if !session::owns_relation(relation) {
        error::raise(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("must be owner of {what} {}", name()),
            &format!("Only the owner of a {what}, or a member of that role, can have it replicated."),
        );
    }
    relation
}

/// Calls the private half of a function under the rights of the extension's owner, who alone may attach the trigger
/// function.
pub fn as_extension_owner(statement: &str, arguments: &[DatumWithOid]) {
    let owner = "select nspowner from pg_catalog.pg_namespace where nspname = 'pyreplica'";
    let Ok(Some(owner)) = Spi::get_one::<Oid>(owner) else { error::no_log() };
    let done = session::as_role(owner, || Spi::run_with_args(statement, arguments));
    if let Err(e) = done {
        error::internal(&format!("could not change capture: {e}"))
    }
}

/// The limit of the log, for pyreplica.rotate_log.
#[pg_extern(sql = false)]
fn max_log_bytes() -> i64 {
    guc::max_log_bytes()
}

/// Makes what is visible durable, for the agent.
#[pg_extern(sql = false)]
fn flush_wal() -> i64 {
    session::flush_wal() as i64
}
