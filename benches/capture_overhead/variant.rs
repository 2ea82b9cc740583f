//! Who captures: nobody, an empty trigger, ourselves, and others (`rivals`).

use std::path::PathBuf;
use std::process::Command;

use pyreplica_tests::cluster::run;
use pyreplica_tests::db::Db;
use pyreplica_tests::keeper;

use crate::rivals;
use crate::workload::TABLES;

pub struct Variant {
    pub name: &'static str,
    pub about: &'static str,
    /// On the server with `wal_level = logical`.
    pub logical: bool,
    /// Debian's packages that it comes with, and whether they are there.
    pub packages: &'static str,
    pub is_there: fn(&Db) -> bool,
    /// Starts capture of `TABLES`.
    pub install: fn(&Db),
    /// The tables of its log.
    pub log: &'static [&'static str],
    /// Query for the bytes of the changes in the log, without what PostgreSQL's rows, pages and indexes add.
    pub payload: &'static str,
    /// Empties the log.
    pub clean: &'static str,
}

const NOTHING: Variant = Variant {
    name: "none",
    about: "no trigger",
    logical: false,
    packages: "",
    is_there: |_| true,
    install: |_| {},
    log: &[],
    payload: "select 0",
    clean: "",
};

pub const VARIANTS: [Variant; 10] = [
    NOTHING,
    Variant { name: "empty", about: "an empty C function as AFTER ROW trigger", install: install_empty, ..NOTHING },
    Variant {
        name: "pyreplica",
        about: "this extension, conflict detection on",
        install: install_pyreplica,
        log: &["pyreplica.log_0", "pyreplica.log_1", "pyreplica.log_2"],
        payload: "select coalesce(sum(octet_length(payload)), 0) from pyreplica.log",
        clean: "truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2",
        ..NOTHING
    },
    rivals::JSONB,
    rivals::PLPYTHON,
    rivals::SLONY,
    rivals::PGQ,
    rivals::BUCARDO,
    Variant { name: "none-logical", about: "no trigger, wal_level = logical", logical: true, ..NOTHING },
    Variant {
        name: "native",
        about: "wal_level = logical, a publication and a slot that nobody reads; ratio to none-logical",
        logical: true,
        install: |db| {
            db.run("create publication bench for all tables");
            db.run("select pg_create_logical_replication_slot('bench', 'pgoutput')");
        },
        // Lets the server reuse its WAL.
        clean: "select pg_drop_replication_slot('bench'), pg_create_logical_replication_slot('bench', 'pgoutput')",
        ..NOTHING
    },
];

pub fn names() -> Vec<&'static str> {
    VARIANTS.iter().map(|v| v.name).collect()
}

impl Variant {
    /// What the others on its server are compared with.
    pub fn is_base(&self) -> bool {
        self.name.starts_with("none")
    }
}

fn install_pyreplica(db: &Db) {
    db.run("create extension pyreplica");
    let refused = db.rows("select * from pyreplica.add_all_tables('public') where not added");
    assert!(refused.is_empty(), "not all tables could be added: {refused:?}");
}

fn install_empty(db: &Db) {
    create_empty_trigger(db);
    for table in TABLES {
        attach_empty_trigger(db, table);
    }
}

/// Builds the empty trigger function and makes it known to a database.
pub fn create_empty_trigger(db: &Db) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/capture_overhead/empty_trigger.c");
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

pub fn attach_empty_trigger(db: &Db, table: &str) {
    db.run(&format!(
        "create trigger log after insert or update or delete on {table} for each row execute function empty_trigger()"
    ));
}
