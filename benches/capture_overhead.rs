//! What capture costs a writer: the same statements on a table without and with our trigger, on one server with
//! fsync on, in one session.
//!
//! Fair: the same table, statements and commit. Unfair to us: nothing reads the log, so its tables grow all through a
//! round, which they do not with an agent. Not measured here: concurrent writers, and other replicators.

use pyreplica_benches::{median, rounds, time};
use pyreplica_tests::cluster::Cluster;

/// The benchmark table of the original PyReplica.
const SCHEMA: &str = "
    create extension pyreplica;
    create table plain (id serial primary key, a text, b float8, c timestamp, d boolean);
    create table captured (id serial primary key, a text, b float8, c timestamp, d boolean);
    select pyreplica.add_table('captured')";

/// Name, rows, statement; `$t` is the table.
const WORKLOADS: &[(&str, u32, &str)] = &[
    (
        "INSERT, one row each, in one transaction",
        100_000,
        "do $$ begin for i in 1 .. 100000 loop
             insert into $t (a, b, c, d) values ('hello' || i, i * 0.5, '2020-01-01', i % 2 = 0);
         end loop; end $$",
    ),
    (
        "INSERT ... SELECT",
        300_000,
        "insert into $t (a, b, c, d)
         select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 300000) i",
    ),
    ("UPDATE of one column", 100_000, "update $t set b = b + 1 where id <= 100000"),
    ("DELETE", 100_000, "delete from $t where id > 300000"),
];

const TABLES: [&str; 2] = ["plain", "captured"];

fn main() {
    let rounds = rounds();
    let server =
        Cluster::start("bench", &[("fsync", "on"), ("shared_buffers", "1GB"), ("max_wal_size", "8GB")]);
    let db = server.create_db("bench", "");
    db.run(SCHEMA);
    let mut session = db.session();
    // Seconds by workload, table, round.
    let mut seconds = vec![[Vec::new(), Vec::new()]; WORKLOADS.len()];
    for round in 0..rounds {
        for (workload, (_, _, statement)) in WORKLOADS.iter().enumerate() {
            // Who goes first changes from round to round.
            for turn in 0..TABLES.len() {
                let table = (turn + round) % TABLES.len();
                let statement = statement.replace("$t", TABLES[table]);
                seconds[workload][table].push(time(|| session.run(&statement)).as_secs_f64());
            }
        }
        session.run("truncate plain, captured restart identity");
        session.run("truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2");
        session.run("checkpoint");
    }

    println!("{:<42} {:>9} {:>9} {:>7} {:>12}", "workload", "plain", "captured", "ratio", "more us/row");
    for ((name, rows, _), [plain, captured]) in WORKLOADS.iter().zip(seconds) {
        let ratio = median(plain.iter().zip(&captured).map(|(p, c)| c / p).collect());
        let more = median(plain.iter().zip(&captured).map(|(p, c)| c - p).collect());
        let (plain, captured) = (median(plain), median(captured));
        let per_row = more * 1e6 / f64::from(*rows);
        println!("{name:<42} {plain:>7.3} s {captured:>7.3} s {ratio:>7.2} {per_row:>12.2}");
    }
    println!("medians of {rounds} rounds; ratio and difference are medians within a round");
}
