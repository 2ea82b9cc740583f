//! The cheapest row trigger there can be: what PostgreSQL's trigger queue itself costs.

use std::path::PathBuf;
use std::process::Command;

use pyreplica_tests::cluster::run;
use pyreplica_tests::db::Db;
use pyreplica_tests::keeper;

/// Builds the empty trigger function and makes it known to a database.
pub fn create(db: &Db) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/empty_trigger.c");
    let library: PathBuf = keeper::dir().join("empty_trigger.so");
    let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
    let headers = run(Command::new(pg_config).arg("--includedir-server"));
    let mut gcc = Command::new("gcc");
    run(gcc.args(["-O2", "-fPIC", "-shared", "-I", headers.trim(), "-o"]).arg(&library).arg(source));
    db.run(&format!(
        "create function empty_trigger() returns trigger language c as '{}', 'empty_trigger'",
        library.display()
    ));
}

pub fn attach(db: &Db, table: &str) {
    db.run(&format!(
        "create trigger log after insert or update or delete on {table} for each row execute function empty_trigger()"
    ));
}
