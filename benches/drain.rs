//! How fast a slave takes in a backlog: ours beside a native subscription of the same tables on the same master.
//!
//! While a backlog is written both consumers stand still (SIGSTOP to the agent, and to the subscriber's apply worker).
//! Then each is let go by itself, and the time runs until the last transaction of the backlog is visible on its slave.
//! Fair: same master, tables, transactions, server settings; who goes first changes from round to round; afterwards both
//! slaves are compared with the master. In native replication's favour: its subscriber commits asynchronously, which is
//! its default, while ours is a two-phase commit. In ours: the log is written with the transactions, before the time runs.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::{wait, Consumer, SERVER};
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::check;
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::Db;

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

fn main() {
    let rounds = rounds();
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let workloads: Vec<_> = WORKLOADS
        .iter()
        .filter(|(name, ..)| only.is_empty() || only.iter().any(|word| name.contains(word.as_str())))
        .collect();
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run(DATA);
    master.run(
        "select pyreplica.add_all_tables('public'); create publication bench for tables in schema public",
    );
    let consumers = [Consumer::ours("ours", &master, SCHEMA, ""), Consumer::native(&master, SCHEMA)];
    for consumer in &consumers {
        let copied = "select count(*) = 1000000 from accounts";
        wait(&mut consumer.slave.session(), copied, Duration::from_secs(120));
        consumer.slave.run("vacuum analyze");
    }
    master.run("vacuum analyze");

    // Seconds by workload, consumer, round.
    let mut seconds = vec![[Vec::new(), Vec::new()]; workloads.len()];
    let mut marker = 0;
    for round in 0..rounds {
        for (workload, (_, transactions, _, statement)) in workloads.iter().enumerate() {
            consumers.iter().for_each(Consumer::stand_still);
            marker += 1;
            write_backlog(&master, *transactions, statement, marker);
            for consumer in turns(consumers.len(), round) {
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
            wait(&mut consumer.slave.session(), &is_done(marker), Duration::from_secs(120));
        }
    }

    println!("{:<48} {:>12} {:>12} {:>7}", "backlog", "ours", "native", "ratio");
    for ((name, transactions, rows, _), [ours, native]) in workloads.iter().zip(seconds) {
        let ratio = paired(&ours, &native, |ours, native| native / ours);
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

/// How long the consumer takes until the marker is visible on its slave.
fn drain(consumer: &Consumer, marker: u32) -> Duration {
    let mut session = consumer.slave.session();
    let began = Instant::now();
    consumer.go_on();
    wait(&mut session, &is_done(marker), Duration::from_secs(120));
    began.elapsed()
}

fn is_done(marker: u32) -> String {
    format!("select exists (select from done where n = {marker})")
}
