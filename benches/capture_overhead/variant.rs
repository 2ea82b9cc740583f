//! Who captures: nobody, an empty trigger, ourselves, and others (`rivals`).

use pyreplica_benches::empty_trigger;
use pyreplica_tests::db::Db;

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

const PYREPLICA: Variant = Variant {
    name: "pyreplica",
    about: "this extension, conflict detection on",
    install: |db| install_pyreplica(db, ""),
    log: &["pyreplica.log_0", "pyreplica.log_1", "pyreplica.log_2"],
    payload: "select coalesce(sum(octet_length(payload)), 0) from pyreplica.log",
    clean: "truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2",
    ..NOTHING
};

pub const VARIANTS: [Variant; 12] = [
    NOTHING,
    Variant { name: "empty", about: "an empty C function as AFTER ROW trigger", install: install_empty, ..NOTHING },
    PYREPLICA,
    Variant {
        name: "filter-nothing",
        about: "this extension, with a row filter that nothing passes",
        install: |db| install_pyreplica(db, ", row_filter => 'id < 0'"),
        ..PYREPLICA
    },
    Variant {
        name: "filter-all",
        about: "this extension, with a row filter that everything passes",
        install: |db| install_pyreplica(db, ", row_filter => 'id >= 0'"),
        ..PYREPLICA
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

fn install_pyreplica(db: &Db, arguments: &str) {
    db.run("create extension pyreplica");
    for table in TABLES {
        db.run(&format!("select pyreplica.add_table('{table}'{arguments})"));
    }
}

fn install_empty(db: &Db) {
    empty_trigger::create(db);
    for table in TABLES {
        empty_trigger::attach(db, table);
    }
}
