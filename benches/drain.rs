//! How fast a slave takes in a backlog: ours beside a native subscription of the same tables on the same master.
//!
//! While a backlog is written both consumers stand still (SIGSTOP to the agent, and to the subscriber's apply worker).
//! Then each is let go by itself, and the time runs until the last transaction of the backlog is visible on its slave.
//! Fair: same master, tables, transactions, server settings; who goes first changes from round to round; afterwards both
//! slaves are compared with the master. In native replication's favour: its subscriber commits asynchronously, which is
//! its default, while ours is a two-phase commit. In ours: the log is written with the transactions, before the time runs.

use std::time::{Duration, Instant};

use pyreplica_benches::{median, rounds};
use pyreplica_tests::agent::Agent;
use pyreplica_tests::check;
use pyreplica_tests::cluster::{send_signal, Cluster};
use pyreplica_tests::db::{Db, Session};

const SERVER: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("wal_level", "logical"),
    ("wal_writer_delay", "200ms"),
    ("autovacuum", "off"),
];

const SCHEMA: &str = "
    create table rows (id serial primary key, a text, b float8, c timestamp, d boolean);
    create index rows_a on rows (a);
    create table hot (id int primary key, n int);
    create table done (n int primary key);
    create table branches (bid int primary key, bbalance int, filler char(88));
    create table tellers (tid int primary key, bid int, tbalance int, filler char(84));
    create table accounts (aid int primary key, bid int, abalance int, filler char(84));
    create table history (hid bigserial primary key, tid int, bid int, aid int, delta int, mtime timestamp)";

const DATA: &str = "
    insert into hot select i, 0 from generate_series(1, 100) i;
    insert into branches select i, 0, '' from generate_series(1, 10) i;
    insert into tellers select i, 1 + i / 11, 0, '' from generate_series(1, 100) i;
    insert into accounts select i, 1 + i % 10, 0, '' from generate_series(1, 1000000) i";

/// Name, transactions, changed rows in each, statement of the `$i`th transaction.
const WORKLOADS: &[(&str, u32, u32, &str)] = &[
    (
        "INSERT, 1000 rows a transaction",
        100,
        1000,
        "insert into rows (a, b, c, d)
         select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 1000) i",
    ),
    ("UPDATE, 1000 rows a transaction", 100, 1000, "update rows set b = b + 1 where id > ($i - 1) * 1000 and id <= $i * 1000"),
    ("DELETE, 1000 rows a transaction", 100, 1000, "delete from rows where id > ($i - 1) * 1000 and id <= $i * 1000"),
    ("UPDATE of 100 hot rows, 10 times a transaction", 100, 1000,
        "do 'begin for i in 1 .. 10 loop update hot set n = n + 1; end loop; end'"),
    (
        "TPC-B",
        20_000,
        4,
        "with r as (select 1 + ($i * 7919) % 1000000 as aid, 1 + $i % 100 as tid, 1 + $i % 10 as bid, $i % 997 as d),
              a as (update accounts set abalance = abalance + d from r where accounts.aid = r.aid),
              t as (update tellers set tbalance = tbalance + d from r where tellers.tid = r.tid),
              b as (update branches set bbalance = bbalance + d from r where branches.bid = r.bid)
         insert into history (tid, bid, aid, delta, mtime) select tid, bid, aid, d, now() from r",
    ),
];

const TABLES: [&str; 6] = ["rows", "hot", "branches", "tellers", "accounts", "history"];

/// One of the two, and the process that stands still while a backlog is written.
struct Consumer {
    name: &'static str,
    slave: Db,
    pid: u32,
}

fn main() {
    let rounds = rounds();
    let server = |name| Cluster::start(name, SERVER);
    let master = server("master").create_db("bench", "");
    let [ours, native] = ["ours", "native"].map(|name| server(name).create_db("bench", ""));
    master.run("create extension pyreplica");
    for db in [&master, &ours, &native] {
        db.run(SCHEMA);
    }
    master.run(DATA);
    master.run(
        "select pyreplica.add_all_tables('public'); create publication bench for tables in schema public",
    );

    let mut agent = Agent::new(&format!(
        "[master]\ndsn = \"{}\"\n[[slave]]\nname = \"ours\"\ndsn = \"{}\"\n",
        master.dsn(),
        ours.dsn()
    ));
    agent.start();
    native.run(&format!(
        "create subscription bench connection '{}' publication bench",
        master.dsn().replace('\'', "''")
    ));
    for db in [&master, &ours, &native] {
        wait(&mut db.session(), "select count(*) = 1000000 from accounts", Duration::from_secs(120));
        db.run("vacuum analyze");
    }
    let worker =
        "select pid from pg_stat_subscription where subname = 'bench' and relid is null and pid is not null";
    let consumers = [
        Consumer { name: "ours", slave: ours, pid: agent.pid() },
        Consumer {
            name: "native",
            pid: native.value(worker).parse().expect("the apply worker"),
            slave: native,
        },
    ];

    // Seconds by workload, consumer, round.
    let mut seconds = vec![[Vec::new(), Vec::new()]; WORKLOADS.len()];
    let mut marker = 0;
    for round in 0..rounds {
        for (workload, (_, transactions, _, statement)) in WORKLOADS.iter().enumerate() {
            consumers.iter().for_each(|c| send_signal(c.pid, "STOP"));
            marker += 1;
            write_backlog(&master, *transactions, statement, marker);
            for turn in 0..consumers.len() {
                let consumer = (turn + round) % consumers.len();
                seconds[workload][consumer].push(drain(&consumers[consumer], marker).as_secs_f64());
            }
        }
        for consumer in &consumers {
            for table in TABLES {
                if let Err(difference) = check::compare(&master, &consumer.slave, table) {
                    panic!("{}: {difference}", consumer.name);
                }
            }
        }
        marker += 1;
        master.run(&format!("truncate rows restart identity; insert into done values ({marker})"));
        for consumer in &consumers {
            wait_done(&mut consumer.slave.session(), marker);
        }
    }

    println!("{:<48} {:>12} {:>12} {:>7}", "backlog", "ours", "native", "ratio");
    for ((name, transactions, rows, _), [ours, native]) in WORKLOADS.iter().zip(seconds) {
        let ratio = median(ours.iter().zip(&native).map(|(o, n)| n / o).collect());
        let (unit, count) = match rows {
            4 => ("tx/s", *transactions),
            rows => ("rows/s", transactions * rows),
        };
        let rate = |seconds| f64::from(count) / median(seconds);
        println!("{name:<48} {:>7.0} {unit} {:>7.0} {unit} {ratio:>6.2}", rate(ours), rate(native));
    }
    println!("medians of {rounds} rounds; the ratio is the median within a round");
}

fn write_backlog(master: &Db, transactions: u32, statement: &str, marker: u32) {
    let mut session = master.session();
    session.run("set synchronous_commit = off");
    for i in 1..=transactions {
        session.run(&statement.replace("$i", &i.to_string()));
    }
    session.run(&format!("set synchronous_commit = on; insert into done values ({marker})"));
}

fn drain(consumer: &Consumer, marker: u32) -> Duration {
    let mut session = consumer.slave.session();
    let began = Instant::now();
    send_signal(consumer.pid, "CONT");
    wait_done(&mut session, marker);
    began.elapsed()
}

fn wait_done(session: &mut Session, marker: u32) {
    wait(session, &format!("select exists (select from done where n = {marker})"), Duration::from_secs(120));
}

/// Looks every millisecond.
fn wait(session: &mut Session, condition: &str, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    while session.rows(condition) != ["t"] {
        assert!(Instant::now() < deadline, "waited {at_most:?} in vain for {condition}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
