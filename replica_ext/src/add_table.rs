//! `add_table` and `remove_table`: who may call them, and under whose rights they work.

use pgrx::prelude::*;
use pgrx::{pg_sys, PgSqlErrorCode, Spi};

use crate::pg::session;
use crate::{error, guc};

#[pg_extern(sql = false)]
fn add_table(relation: pg_sys::Oid) {
    as_extension_owner(relation, "table", "select pyreplica.attach($1)");
}

#[pg_extern(sql = false)]
fn remove_table(relation: pg_sys::Oid) {
    as_extension_owner(relation, "table", "select pyreplica.detach($1)");
}

/// Calls the private half of a function under the rights of the extension's owner, who alone may attach the
/// trigger function, after the caller was found to own the table (or `what` it is).
pub fn as_extension_owner(relation: pg_sys::Oid, what: &str, statement: &str) {
    let name = |oid: pg_sys::Oid| {
        Spi::get_one_with_args::<String>("select $1::pg_catalog.regclass::pg_catalog.text", &[oid.into()])
            .ok()
            .flatten()
            .unwrap_or_else(|| oid.to_u32().to_string())
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
            format!("must be owner of {what} {}", name(relation)),
            &format!("Only the owner of a {what}, or a member of that role, can have it replicated."),
        );
    }
    let owner = "select nspowner from pg_catalog.pg_namespace where nspname = 'pyreplica'";
    let Ok(Some(owner)) = Spi::get_one::<pg_sys::Oid>(owner) else { error::no_log() };
    let done = session::as_role(owner, || Spi::run_with_args(statement, &[relation.into()]));
    if let Err(e) = done {
        error::raise(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, format!("could not change capture: {e}"), "")
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
