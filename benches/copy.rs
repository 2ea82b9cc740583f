//! How fast the initial copy is: four tables beside pg_dump and pg_restore with two jobs each, one table beside psql's
//! COPY piped into psql's COPY, by one session and by two. All go to tables that are there, with their indexes.
//!
//! Fair: the same tables and servers, fsync on, text values nowhere compressed. Unfair to us: we also connect, take the
//! position, register the slave and end in order. Not measured: a network between the servers.
//! COPY_ROWS sets the rows of a table (1000000), ROUNDS the rounds.

use std::process::{Command, Stdio};
use std::sync::Arc;

use pyreplica_benches::{median, rounds, time};
use pyreplica_tests::cluster::{run, Cluster};
use pyreplica_tests::trio::{Setup, Trio};

const SETTINGS: &[(&str, &str)] = &[("fsync", "on"), ("shared_buffers", "512MB"), ("max_wal_size", "8GB")];

fn table(name: &str, rows: usize) -> String {
    format!(
        "create table {name} (id serial primary key, a text, b float8, c timestamp, d boolean);
         create index on {name} (c);
         insert into {name} (a, b, c, d)
         select 'hello' || i, i * 0.5, timestamp '2020-01-01' + i * interval '1 s', i % 2 = 0
           from generate_series(1, {rows}) i;"
    )
}

/// A database of that name on both servers, with so many captured tables, and an agent between them with two sessions for
/// the copy.
fn pair(
    master: &Arc<Cluster>,
    slave: &Arc<Cluster>,
    (name, line): (&str, &str),
    tables: usize,
    rows: usize,
) -> Trio {
    let source = master.create_db(name, "");
    let target = slave.create_db(name, "");
    for i in 1..=tables {
        source.run(&table(&format!("t{i}"), rows));
        target.run(&table(&format!("t{i}"), 0));
    }
    source.run("create extension pyreplica");
    source.run("select pyreplica.add_all_tables('public')");
    source.run("vacuum analyze");
    Setup::new("").agent_line("copy_jobs = 2").agent_line(line).of(source, vec![target])
}

/// Empties the slave, so that it is a new one.
fn reset(trio: &Trio) {
    let slave = &trio.slaves[0];
    for table in slave.rows("select format('%I', relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace") {
        slave.run(&format!("truncate {table}"));
    }
    slave.run("drop schema if exists pyreplica_agent cascade");
    slave.run("checkpoint");
}

fn ours(trio: &Trio) {
    trio.once().expect_code(0);
}

fn dump_and_restore(trio: &Trio) {
    let (master, slave) = (&trio.master, &trio.slaves[0]);
    let dir = std::env::temp_dir().join(format!("pyreplica-bench-dump-{}", std::process::id()));
    run(master
        .server
        .client_program("pg_dump", &master.name)
        .args(["--format=directory", "--jobs=2", "--compress=0", "--data-only", "--schema=public", "--file"])
        .arg(&dir));
    run(slave
        .server
        .client_program("pg_restore", &slave.name)
        .args(["--jobs=2", "--data-only", "--dbname", &slave.name])
        .arg(&dir));
    std::fs::remove_dir_all(&dir).expect("the dump was there");
}

fn piped(trio: &Trio) {
    let (master, slave) = (&trio.master, &trio.slaves[0]);
    let copy = |program: &mut Command, sql: &str| {
        program.args(["-qX", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    };
    let mut from = master.server.client_program("psql", &master.name);
    copy(&mut from, "copy t1 to stdout");
    let mut from = from.stdout(Stdio::piped()).spawn().expect("psql");
    let mut to = slave.server.client_program("psql", &slave.name);
    copy(&mut to, "copy t1 from stdin");
    run(to.stdin(from.stdout.take().expect("a pipe")));
    assert!(from.wait().expect("psql is our child").success());
}

/// What the slave has must be what the master has, or the figures are of something else.
fn check(trio: &Trio) {
    let tables = trio.master.rows("select relation from pyreplica.replicated_table");
    for table in tables {
        let sql = format!("select count(*) from {table}");
        assert_eq!(trio.master.value(&sql), trio.slaves[0].value(&sql), "rows of {table}");
    }
}

type Way = fn(&Trio);

fn main() {
    let rounds = rounds();
    let rows = std::env::var("COPY_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let master = Cluster::start("master", SETTINGS);
    let slave = Cluster::start("slave", SETTINGS);
    let pair = |name, line, tables| pair(&master, &slave, (name, line), tables, rows);
    let matches: [(&str, usize, Trio, &str, Way); 3] = [
        ("4 tables, 2 jobs", 4, pair("four", "", 4), "pg_dump, pg_restore", dump_and_restore),
        ("1 table", 1, pair("one", "", 1), "psql | psql", piped),
        ("1 table, split", 1, pair("split", "copy_split_bytes = 1", 1), "psql | psql", piped),
    ];
    println!("{:<18} {:<20} {:>9} {:>9} {:>12} {:>6}", "what", "beside", "theirs", "ours", "rows/s", "rate");
    for (what, tables, trio, beside, theirs) in &matches {
        let mut seconds = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            // Who goes first changes from round to round.
            for turn in 0..2 {
                let which = (turn + round) % 2;
                let way = [*theirs, ours as Way][which];
                reset(trio);
                seconds[which].push(time(|| way(trio)).as_secs_f64());
                check(trio);
            }
        }
        let [theirs, ours] = seconds;
        let rate = median(theirs.iter().zip(&ours).map(|(t, o)| t / o).collect());
        let (theirs, ours) = (median(theirs), median(ours));
        let per_second = (tables * rows) as f64 / ours;
        println!("{what:<18} {beside:<20} {theirs:>7.2} s {ours:>7.2} s {per_second:>12.0} {rate:>6.2}");
    }
    println!(
        "medians of {rounds} rounds of {rows} rows a table; rate: ours to theirs, median within a round"
    );
}
