//! What the extension must do: pure tests of buffer and format, and `#[pg_test]`s of capture in a server.

#[cfg(test)]
mod buffer;
#[cfg(test)]
mod golden;

mod arguments;
mod capture;
mod filters;
mod forward;
mod ordering;
mod replay;
mod savepoints;
mod sequences;
mod speed;
mod statements;
mod tables;
mod types;
#[cfg(test)]
mod wal;

use pgrx::prelude::*;

/// Runs the statements, writes what they logged as a commit would, and returns the log as statements.
fn log_of(statements: &str) -> Vec<String> {
    Spi::run(statements).expect("the statements run");
    crate::capture::before_commit(true);
    crate::capture::forget();
    let rows = "select coalesce(array_agg(sql), '{}') from pyreplica.replica_log";
    Spi::get_one::<Vec<String>>(rows).expect("the log can be read").expect("an array")
}

/// A table that is captured.
fn captured(name: &str, columns: &str) {
    Spi::run(&format!("create table {name} ({columns}); select pyreplica.add_table('{name}')"))
        .expect("the table can be added");
}
