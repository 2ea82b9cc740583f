//! How fast a backlog is taken in by a slave that is far from the agent, and by an agent that is far from the master,
//! beside one where all are in one place.
//!
//! A proxy delays what is sent, in each direction; a round trip takes twice the distance. While a backlog is written all
//! agents stand still (SIGSTOP); then each is let go by itself, and the time runs until the last transaction is visible.
//! They have taken in some transactions of that kind before: what a session prepares once is no part of it.
//! Words choose workloads and places by parts of their names without spaces (`slave100`); the near place is always there.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::{wait, Consumer, Distances, SERVER};
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::check;
use pyreplica_tests::cluster::Cluster;

const SCHEMA: &str = "
    create table rows (id serial primary key, a text, b float8, c timestamp, d boolean);
    create index rows_a on rows (a);
    create table hot (id int primary key, n int);
    create table branches (bid int primary key, bbalance int);
    create table tellers (tid int primary key, tbalance int);
    create table accounts (aid int primary key, abalance int, filler char(84));
    create table history (hid bigserial primary key, tid int, bid int, aid int, delta int, mtime timestamp);
    create table done (n int primary key)";

const DATA: &str = "
    insert into hot select i, 0 from generate_series(1, 100) i;
    insert into branches select i, 0 from generate_series(1, 10) i;
    insert into tellers select i, 0 from generate_series(1, 100) i;
    insert into accounts select i, 0, '' from generate_series(1, 100000) i";

const TABLES: [&str; 6] = ["rows", "hot", "branches", "tellers", "accounts", "history"];

/// Name, transactions, changed rows in each, statement of the `$i`th transaction.
type Workload = (&'static str, u32, u32, &'static str);

const INSERT: &str = "insert into rows (a, b, c, d)
    select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 1000) i";
const UPDATE: &str = "update rows set b = b + 1 where id > ($i - 1) * 1000 and id <= $i * 1000";
const DELETE: &str = "delete from rows where id > ($i - 1) * 1000 and id <= $i * 1000";
const HOT: &str = "do 'begin for i in 1 .. 10 loop update hot set n = n + 1; end loop; end'";
const TPCB: &str = "
    with r as (select 1 + ($i * 7919) % 100000 as aid, 1 + $i % 100 as tid, 1 + $i % 10 as bid, $i % 997 as d),
         a as (update accounts set abalance = abalance + d from r where accounts.aid = r.aid),
         t as (update tellers set tbalance = tbalance + d from r where tellers.tid = r.tid),
         b as (update branches set bbalance = bbalance + d from r where branches.bid = r.bid)
    insert into history (tid, bid, aid, delta, mtime) select tid, bid, aid, d, now() from r";

/// UPDATE and DELETE take the rows of INSERT.
const NET: &[Workload] = &[
    ("INSERT, 1000 rows a transaction", 500, 1000, INSERT),
    ("UPDATE, 1000 rows a transaction", 500, 1000, UPDATE),
    ("one UPDATE of all rows", 1, 500_000, "update rows set b = b + 1"),
    ("DELETE, 1000 rows a transaction", 500, 1000, DELETE),
    ("UPDATE of 100 hot rows, 10 times a transaction", 500, 1000, HOT),
    ("TPC-B", 20_000, 4, TPCB),
];
/// With `apply = "exact"`.
const EXACT: &[Workload] = &[
    ("exact: INSERT, 1000 rows a transaction", 10, 1000, INSERT),
    ("exact: UPDATE, 1000 rows a transaction", 10, 1000, UPDATE),
    ("exact: DELETE, 1000 rows a transaction", 10, 1000, DELETE),
    ("exact: TPC-B", 2500, 4, TPCB),
];

/// Name, and milliseconds to the master and to the slave.
type Place = (&'static str, u64, u64);

const PLACES: &[Place] = &[
    ("here", 0, 0),
    ("slave 10 ms", 0, 10),
    ("slave 100 ms", 0, 100),
    ("master 10 ms", 10, 0),
    ("master 100 ms", 100, 0),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let (of_places, of_workloads): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.contains("slave") || word.contains("master"));
    let places = chosen(&PLACES[1..], &of_places, |place| place.0);
    println!("{:<48} {:<14} {:>10} {:>7}", "backlog", "", "rows/s", "ratio");
    let (of_exact, of_net): (Vec<String>, Vec<String>) =
        of_workloads.into_iter().partition(|word| word.starts_with("exact"));
    for (lines, workloads, words, others) in
        [("", NET, &of_net, &of_exact), ("apply = \"exact\"", EXACT, &of_exact, &of_net)]
    {
        if words.is_empty() && !others.is_empty() {
            continue;
        }
        let workloads = chosen(workloads, words, |workload| workload.0);
        if !workloads.is_empty() {
            measure(&workloads, &[&PLACES[..1], &places].concat(), lines);
        }
    }
    println!("medians of {} rounds; the ratio to here is the median within a round", rounds());
}

/// Those with a name that contains a word, spaces left out; all if there are no words.
fn chosen<T: Copy>(all: &[T], words: &[String], name: impl Fn(&T) -> &str) -> Vec<T> {
    let is_named = |one: &&T| {
        words.is_empty() || words.iter().any(|word| name(one).replace(' ', "").contains(word.as_str()))
    };
    all.iter().filter(is_named).copied().collect()
}

fn measure(workloads: &[Workload], places: &[Place], slave_lines: &str) {
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run(DATA);
    master.run("select pyreplica.add_all_tables('public')");
    let consumers: Vec<Consumer> = places
        .iter()
        .map(|&(name, to_master, to_slave)| {
            let distances: Distances = [to_master, to_slave].map(Duration::from_millis);
            // The name is part of agent.toml and of a directory.
            let name: &'static str = name.replace(' ', "_").leak();
            let consumer = Consumer::far(name, &master, SCHEMA, slave_lines, distances);
            let streams = format!("select state = 'streaming' from pyreplica.slave where name = '{name}'");
            wait(&mut master.session(), &streams, Duration::from_secs(120));
            consumer
        })
        .collect();

    // Seconds by workload, consumer, round.
    let mut seconds = vec![vec![Vec::new(); consumers.len()]; workloads.len()];
    let mut marker = 0;
    for round in 0..rounds() {
        for (workload, (_, transactions, _, statement)) in workloads.iter().enumerate() {
            let mut session = master.session();
            consumers.iter().for_each(Consumer::stand_still);
            if *transactions > 1 {
                marker += 1;
                for i in 0..20 {
                    session.run(&statement.replace("$i", &(transactions + i).to_string()));
                }
                session.run(&format!("insert into done values ({marker})"));
                consumers.iter().for_each(Consumer::go_on);
                consumers.iter().for_each(|consumer| wait_for_marker(consumer, marker));
                consumers.iter().for_each(Consumer::stand_still);
            }
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
        consumers.iter().for_each(Consumer::go_on);
        for consumer in &consumers {
            for table in TABLES {
                if let Err(difference) = check::compare(&master, &consumer.slave, table) {
                    panic!("{}: {difference}", consumer.name);
                }
            }
        }
        marker += 1;
        master.run(&format!("truncate rows restart identity; insert into done values ({marker})"));
        consumers.iter().for_each(|consumer| wait_for_marker(consumer, marker));
    }

    for ((name, transactions, rows, _), figures) in workloads.iter().zip(seconds) {
        for ((place, ..), far) in places.iter().zip(&figures) {
            let ratio = paired(far, &figures[0], |far, here| here / far);
            let rate = f64::from(transactions * rows) / median(far.clone());
            println!("{name:<48} {place:<14} {rate:>10.0} {ratio:>7.2}");
        }
    }
}

fn wait_for_marker(consumer: &Consumer, marker: u32) {
    let is_there = format!("select exists (select from done where n = {marker})");
    wait(&mut consumer.slave.session(), &is_there, Duration::from_secs(300));
}
