//! What a filter that passes nothing costs a writer: processor time of the backend as a ratio to a table without
//! triggers, for statements of many rows and of one.
//!
//! Beside it the floor: the same table with one trigger that is disabled. Where a table has an AFTER ROW trigger at
//! all, PostgreSQL fetches the old row of each UPDATE and DELETE, and copies the definitions of its triggers for each statement.
#![forbid(unsafe_code)]

use pyreplica_benches::arguments::Arguments;
use pyreplica_benches::process::cpu_seconds;
use pyreplica_benches::report::{Report, Section};
use pyreplica_benches::table::Table;
use pyreplica_benches::{empty_trigger, paired, rounds, turns};
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::{Db, Session};
use serde_json::json;

const SCHEMA: &str = "create table t (id serial primary key, a text, b float8, c timestamp, d boolean)";
const EMPTY: &str = "truncate t restart identity";
const FULL: &str = "truncate t restart identity; insert into t (a, b, c, d)
    select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 50000) i";

/// Name, how the table is filled, statement.
const WORKLOADS: [(&str, &str, &str); 6] = [
    (
        "INSERT of 100,000 rows",
        EMPTY,
        "insert into t (a, b, c, d)
         select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 100000) i",
    ),
    (
        "100,000 INSERTs of one row",
        EMPTY,
        "do $$ begin for i in 1 .. 100000 loop
             insert into t (a, b, c, d) values ('hello' || i, i * 0.5, '2020-01-01', i % 2 = 0);
         end loop; end $$",
    ),
    ("UPDATE of 50,000 rows", FULL, "update t set b = b + 1"),
    (
        "50,000 UPDATEs of one row",
        FULL,
        "do $$ begin for i in 1 .. 50000 loop update t set b = b + 1 where id = i; end loop; end $$",
    ),
    ("DELETE of 50,000 rows", FULL, "delete from t"),
    (
        "50,000 DELETEs of one row",
        FULL,
        "do $$ begin for i in 1 .. 50000 loop delete from t where id = i; end loop; end $$",
    ),
];

/// Makes a database what its name says.
type Install = fn(&Db);

/// The first is what the others are compared with.
const VARIANTS: [(&str, Install); 4] = [
    ("none", |_| {}),
    ("floor", |db| {
        empty_trigger::create(db);
        empty_trigger::attach(db, "t");
        db.run("alter table t disable trigger all");
    }),
    ("builtin", |db| add(db, "id < 0 and a <> ''x''")),
    // What is evaluated is the function's body, which PostgreSQL puts in its place.
    ("function", |db| {
        db.run("create function is_sent(int) returns boolean immutable language sql as 'select $1 < 0'");
        add(db, "is_sent(id)");
    }),
];

fn add(db: &Db, filter: &str) {
    db.run(&format!("create extension pyreplica; select pyreplica.add_table('t', row_filter => '{filter}')"));
}

fn main() {
    let arguments = Arguments::parse(&[]);
    let server = Cluster::start("bench", &[("shared_buffers", "512MB"), ("autovacuum", "off")]);
    let mut sessions: Vec<(Session, u32)> = VARIANTS
        .iter()
        .map(|(name, install)| {
            let db = server.create_db(&format!("bench_{name}"), "");
            db.run(SCHEMA);
            install(&db);
            let mut session = db.session();
            let pid = session.rows("select pg_backend_pid()").join("").parse().expect("pid");
            (session, pid)
        })
        .collect();
    let rounds = rounds();
    // Seconds by workload, variant, round.
    let mut seconds = vec![vec![Vec::new(); VARIANTS.len()]; WORKLOADS.len()];
    for round in 0..rounds {
        for ((_, fill, statement), seconds) in WORKLOADS.iter().zip(&mut seconds) {
            for v in turns(VARIANTS.len(), round) {
                let (session, pid) = &mut sessions[v];
                session.run(&format!(
                    "set session_replication_role = replica; {fill}; set session_replication_role = origin"
                ));
                session.run("vacuum analyze t");
                let before = cpu_seconds(*pid);
                session.run(statement);
                seconds[v].push(cpu_seconds(*pid) - before);
            }
        }
    }
    let names = VARIANTS.map(|(name, _)| name);
    let mut table =
        Table::new("Processor time, as a ratio to no trigger", &[&["statement"], &names[1..]].concat());
    let mut figures = Vec::new();
    for ((workload, _, _), seconds) in WORKLOADS.iter().zip(&seconds) {
        let ratios: Vec<f64> = (1..VARIANTS.len())
            .map(|v| paired(&seconds[v], &seconds[0], |with, without| with / without))
            .collect();
        let cells = ratios.iter().map(|ratio| format!("{ratio:.2}"));
        table.row(std::iter::once(workload.to_string()).chain(cells).collect());
        figures.push(json!({"workload": workload, "variants": names, "seconds": seconds}));
    }
    let about = vec![
        format!("Medians of {rounds} rounds of the ratio within a round; no row passes the filter."),
        "* floor: an AFTER ROW trigger that is disabled.".to_owned(),
        "* builtin: a filter of PostgreSQL's own operators; function: one with a function of the user in SQL."
            .to_owned(),
    ];
    Report::new("filters", arguments.results).add(Section {
        name: "filters",
        about,
        tables: vec![table],
        json: json!(figures),
    });
}
