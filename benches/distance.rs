//! How fast a backlog is taken in by a slave that is far from the agent, and by an agent that is far from the master,
//! beside one where all are in one place.
//!
//! A proxy delays what is sent, in each direction; a round trip takes twice the distance. While a backlog is written all
//! agents stand still (SIGSTOP); then each is let go by itself, and the time runs until the last transaction is visible.
//! They have taken in one transaction of that kind before: what a session prepares once is no part of it.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::{wait, Consumer, Distances, SERVER};
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::check;
use pyreplica_tests::cluster::Cluster;

const SCHEMA: &str = "
    create table rows (id serial primary key, a text, b float8, c timestamp, d boolean);
    create index rows_a on rows (a);
    create table accounts (aid int primary key, abalance int, filler char(84));
    create table history (hid bigserial primary key, aid int, delta int, mtime timestamp);
    create table done (n int primary key)";

/// Name, transactions, changed rows in each, statement of the `$i`th transaction.
const WORKLOADS: &[(&str, u32, u32, &str)] = &[
    (
        "INSERT, 1000 rows a transaction",
        300,
        1000,
        "insert into rows (a, b, c, d)
         select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 1000) i",
    ),
    (
        "UPDATE, 1000 rows a transaction",
        300,
        1000,
        "update rows set b = b + 1 where id > ($i - 1) * 1000 and id <= $i * 1000",
    ),
    (
        "2 rows a transaction",
        20_000,
        2,
        "with a as (update accounts set abalance = abalance + $i % 997 where aid = 1 + ($i * 7919) % 100000)
         insert into history (aid, delta, mtime) select 1 + ($i * 7919) % 100000, $i % 997, now()",
    ),
    ("one transaction of 300,000 rows", 1, 300_000, "update rows set b = b + 1"),
];

/// Milliseconds to the master and to the slave.
const DISTANCES: &[(&str, u64, u64)] = &[
    ("here", 0, 0),
    ("slave 10 ms", 0, 10),
    ("slave 100 ms", 0, 100),
    ("master 10 ms", 10, 0),
    ("master 100 ms", 100, 0),
];

fn main() {
    let rounds = rounds();
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|word| name.contains(word.as_str()));
    let workloads: Vec<_> = WORKLOADS.iter().filter(|(name, ..)| wanted(name)).collect();
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run("insert into accounts select i, 0, '' from generate_series(1, 100000) i");
    master.run("select pyreplica.add_all_tables('public')");
    let consumers: Vec<Consumer> = DISTANCES
        .iter()
        .map(|&(name, to_master, to_slave)| {
            let distances: Distances = [to_master, to_slave].map(Duration::from_millis);
            // The name is part of agent.toml and of a directory.
            let name: &'static str = name.replace(' ', "_").leak();
            let consumer = Consumer::far(name, &master, SCHEMA, "", distances);
            let streams = format!("select state = 'streaming' from pyreplica.slave where name = '{name}'");
            wait(&mut master.session(), &streams, Duration::from_secs(120));
            consumer
        })
        .collect();

    // Seconds by workload, consumer, round.
    let mut seconds = vec![vec![Vec::new(); consumers.len()]; workloads.len()];
    let mut marker = 0;
    for round in 0..rounds {
        for (workload, (_, transactions, _, statement)) in workloads.iter().enumerate() {
            consumers.iter().for_each(Consumer::go_on);
            let mut session = master.session();
            if *transactions > 1 {
                marker += 1;
                session.run(&statement.replace("$i", "1"));
                session.run(&format!("insert into done values ({marker})"));
                consumers.iter().for_each(|consumer| wait_for_marker(consumer, marker));
            }
            consumers.iter().for_each(Consumer::stand_still);
            session.run("set synchronous_commit = off");
            for i in 1..=*transactions {
                session.run(&statement.replace("$i", &i.to_string()));
            }
            marker += 1;
            session.run(&format!("set synchronous_commit = on; insert into done values ({marker})"));
            for turn in turns(consumers.len(), round) {
                let began = Instant::now();
                consumers[turn].go_on();
                wait_for_marker(&consumers[turn], marker);
                seconds[workload][turn].push(began.elapsed().as_secs_f64());
            }
        }
        for consumer in &consumers {
            for table in ["rows", "accounts", "history"] {
                if let Err(difference) = check::compare(&master, &consumer.slave, table) {
                    panic!("{}: {difference}", consumer.name);
                }
            }
        }
        marker += 1;
        master.run(&format!("truncate rows restart identity; insert into done values ({marker})"));
        consumers.iter().for_each(|consumer| wait_for_marker(consumer, marker));
    }

    println!("{:<36} {:<16} {:>12} {:>8}", "backlog", "", "rows/s", "ratio");
    for ((name, transactions, rows, _), figures) in workloads.iter().zip(seconds) {
        for ((place, ..), far) in DISTANCES.iter().zip(&figures) {
            let ratio = paired(far, &figures[0], |far, here| here / far);
            let rate = f64::from(transactions * rows) / median(far.clone());
            println!("{name:<36} {place:<16} {rate:>12.0} {ratio:>8.2}");
        }
    }
    println!("medians of {rounds} rounds; the ratio to here is the median within a round");
}

fn wait_for_marker(consumer: &Consumer, marker: u32) {
    let is_there = format!("select exists (select from done where n = {marker})");
    wait(&mut consumer.slave.session(), &is_there, Duration::from_secs(300));
}
