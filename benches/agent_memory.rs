//! The most memory that the agent takes for what is large: many rows, many savepoints, large rows. Fails when it is more
//! than it may be.
//!
//! Peak RSS (VmHWM) of an agent that was started for it and applies the workload to one slave, to two, to four, and to two
//! that are as far away as the master: what is under way is kept.
//! Words are names of workloads.

use std::time::Duration;

use pyreplica_benches::arguments::Arguments;
use pyreplica_benches::consumer::wait;
use pyreplica_tests::agent::Agent;
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::Db;
use pyreplica_tests::proxy::Proxy;

/// A fixed part, and one for each slave, in MiB; nothing for the size of rows and transactions.
const LIMIT: (u64, u64) = (64, 16);
const SLAVES: usize = 4;
/// Slaves, and how far they and the master are.
const PLACES: [(usize, Duration); 4] =
    [(1, Duration::ZERO), (2, Duration::ZERO), (SLAVES, Duration::ZERO), (2, FAR)];
const FAR: Duration = Duration::from_millis(100);
const SCHEMA: &str =
    "create table t (id int primary key, v text); alter table t alter v set storage external;
                      create table done (n int primary key)";
/// Only memory is measured: nothing here depends on the disk.
const SERVER: &[(&str, &str)] = &[("fsync", "off"), ("autovacuum", "off"), ("max_wal_size", "4GB")];
const NAMES: [&str; 4] = ["rows", "savepoints", "large", "documents"];

/// What is run on the master, each text as one transaction.
fn statements(workload: &str) -> (&str, &[&str]) {
    match workload {
        "rows" => (
            "one transaction of 10,000,000 rows, then one that deletes them",
            &[
                "do 'begin for n in 0 .. 99 loop
                     insert into t select n * 100000 + i, ''hello'' || i from generate_series(1, 100000) i;
                 end loop; end'",
                "delete from t",
            ],
        ),
        "savepoints" => (
            "one transaction of 1,000,000 savepoints with a row each",
            &["do 'begin for n in 1 .. 1000000 loop
                   begin insert into t values (n, ''hello''); exception when others then raise; end;
               end loop; end'"],
        ),
        "large" => (
            "4 rows of 100 MB in one transaction, then an update of new and old values",
            &[
                "insert into t select i, repeat(i || '23456789', 100000000 / 9) from generate_series(1, 4) i",
                "update t set v = repeat(id || '3456789x', 100000000 / 9)",
            ],
        ),
        _ => (
            "200 rows of 900 kB in one transaction, an update of all, and 200 of one each",
            &[
                "insert into t select i, repeat(i::text, 900000 / length(i::text)) from generate_series(1, 200) i",
                "update t set v = 'x' || v",
                "do 'begin for n in 1 .. 200 loop update t set v = ''y'' || v where id = n; commit; end loop; end'",
            ],
        ),
    }
}

fn main() {
    let arguments = Arguments::parse(&NAMES);
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run("select pyreplica.add_all_tables('public')");
    let slaves: Vec<Db> = (1..=SLAVES)
        .map(|i| {
            let slave = Cluster::start(&format!("slave{i}"), SERVER).create_db("bench", "");
            slave.run(SCHEMA);
            slave
        })
        .collect();
    let mut done = 0;
    let mut over = Vec::new();
    println!("{:<80} {:>6} {:>9} {:>7}", "workload", "slaves", "peak MiB", "limit");
    for name in NAMES.iter().filter(|name| arguments.wants(name, &NAMES)) {
        for (count, distance) in PLACES {
            let (about, statements) = statements(name);
            done += 1;
            let peak = measure(&master, &slaves[..count], statements, done, distance);
            let limit = LIMIT.0 + LIMIT.1 * count as u64;
            let far = if distance.is_zero() { "" } else { "far" };
            println!("{about:<80} {count:>2} {far:<3} {peak:>9} {limit:>7}");
            if peak > limit {
                over.push(name);
            }
        }
    }
    assert!(over.is_empty(), "the agent took more than it may: {over:?}");
}

/// The peak of an agent that takes in the statements, from empty tables to empty tables.
fn measure(master: &Db, slaves: &[Db], statements: &[&str], done: u32, distance: Duration) -> u64 {
    let mut ways = Vec::new();
    let mut dsn = |db: &Db| {
        if distance.is_zero() {
            return db.dsn();
        }
        ways.push(Proxy::start(&db.server, distance));
        ways[ways.len() - 1].dsn(&db.name)
    };
    let mut config = format!("[master]\ndsn = \"{}\"\n[agent]\nname = \"memory{done}\"\n", dsn(master));
    for (i, slave) in slaves.iter().enumerate() {
        slave.run("truncate t, done");
        config +=
            &format!("[[slave]]\nname = \"slave{i}\"\ndsn = \"{}\"\ninitial = \"current\"\n", dsn(slave));
    }
    master.run("truncate t, done");
    let mut agent = Agent::new(&config);
    agent.run(&["once"]).expect_code(0);
    agent.start();
    for statement in statements {
        master.run(statement);
    }
    master.run(&format!("insert into done values ({done})"));
    for slave in slaves {
        let arrived = format!("select exists (select from done where n = {done})");
        wait(&mut slave.session(), &arrived, Duration::from_secs(1800));
    }
    let peak = agent.peak_mebibytes();
    agent.stop();
    // Nobody waits for this agent's slaves any more, and another one may bring them the same tables.
    master.run("delete from pyreplica.slave");
    slaves.iter().for_each(|slave| slave.run("delete from pyreplica_agent.position"));
    peak
}
