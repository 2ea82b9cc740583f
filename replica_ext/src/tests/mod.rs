//! What the extension must do: pure tests of buffer and format, and `#[pg_test]`s of capture in a server.

#[cfg(test)]
mod buffer;
#[cfg(test)]
mod golden;

mod arguments;
mod at_once;
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

/// Runs a test as usual, and again where triggers log what changed when its statement has ended.
fn both_ways(test: impl Fn()) {
    for at_once in ["on", "off"] {
        Spi::run(&format!("set pyreplica.log_at_once = {at_once}")).expect("a setting");
        test();
        Spi::run(
            "do $$ declare statement text; begin
                for statement in
                    select format('drop table %s cascade', oid::regclass) from pg_class
                     where relkind in ('r', 'p') and not relispartition and relnamespace = 'public'::regnamespace
                    union all
                    select format('drop function %s cascade', oid::regprocedure) from pg_proc
                     where pronamespace = 'public'::regnamespace
                       and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'e')
                loop
                    execute statement;
                end loop;
                truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2;
             end $$",
        )
        .expect("what the test made can be dropped");
    }
}
