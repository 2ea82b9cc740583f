//! How fast a backlog is taken in by a slave that is far from the agent, and by an agent that is far from the master,
//! beside one where all are in one place.
//!
//! A proxy delays what is sent, in each direction; a round trip takes twice the distance. While a backlog is written all
//! agents stand still (SIGSTOP); then each is let go by itself, and the time runs until the last transaction is visible.
//! They have taken in some transactions of that kind before: what a session prepares once is no part of it.
//!
//! How far away something is shows once, before the first batch is there, and in the rate from then on. So three figures:
//! milliseconds until the first batch is visible; changes a second of all that is committed after it; and of the whole
//! backlog in the whole time.
//! `live` measures how long a commit takes to be visible instead, at a steady pace, beyond what the way takes.
//! Words choose workloads and places by parts of their names without spaces (`slave100`); the near place is always there.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::{wait, Consumer, Distances, SERVER};
use pyreplica_benches::live::latencies;
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::check;
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::{Db, Session};

const SCHEMA: &str = "
    create table rows (id serial primary key, a text, b float8, c timestamp, d boolean);
    create index rows_a on rows (a);
    create table hot (id int primary key, n int);
    create table branches (bid int primary key, bbalance int);
    create table tellers (tid int primary key, tbalance int);
    create table accounts (aid int primary key, abalance int, filler char(84));
    create table history (hid bigserial primary key, tid int, bid int, aid int, delta int, mtime timestamp);
    create table t (n int primary key, v text);
    create table done (n int primary key)";

const DATA: &str = "
    insert into hot select i, 0 from generate_series(1, 100) i;
    insert into branches select i, 0 from generate_series(1, 10) i;
    insert into tellers select i, 0 from generate_series(1, 100) i;
    insert into accounts select i, 0, '' from generate_series(1, 100000) i";

const TABLES: [&str; 6] = ["rows", "hot", "branches", "tellers", "accounts", "history"];

/// Name, transactions, changed rows in each, statements of the `tx`th transaction, in PL/pgSQL.
type Workload = (&'static str, u32, u32, &'static str);

const INSERT: &str = "insert into rows (a, b, c, d)
    select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 1000) i";
const UPDATE: &str = "update rows set b = b + 1 where id > (tx - 1) * 1000 and id <= tx * 1000";
const DELETE: &str = "delete from rows where id > (tx - 1) * 1000 and id <= tx * 1000";
const HOT: &str = "for i in 1 .. 10 loop update hot set n = n + 1; end loop";
const TPCB: &str = "
    with r as (select 1 + (tx::bigint * 7919) % 100000 as aid, 1 + tx % 100 as tid, 1 + tx % 10 as bid, tx % 997 as d),
         a as (update accounts set abalance = abalance + d from r where accounts.aid = r.aid),
         t as (update tellers set tbalance = tbalance + d from r where tellers.tid = r.tid),
         b as (update branches set bbalance = bbalance + d from r where branches.bid = r.bid)
    insert into history (tid, bid, aid, delta, mtime) select tid, bid, aid, d, now() from r";

/// UPDATE and DELETE take the rows of INSERT.
const NET: &[Workload] = &[
    ("INSERT, 1000 rows a transaction", 2000, 1000, INSERT),
    ("UPDATE, 1000 rows a transaction", 2000, 1000, UPDATE),
    ("one UPDATE of all rows", 1, 2_000_000, "update rows set b = b + 1"),
    ("DELETE, 1000 rows a transaction", 2000, 1000, DELETE),
    ("UPDATE of 100 hot rows, 10 times a transaction", 1500, 1000, HOT),
    ("TPC-B", 200_000, 4, TPCB),
];
/// With `apply = "exact"`.
const EXACT: &[Workload] = &[
    ("exact: INSERT, 1000 rows a transaction", 100, 1000, INSERT),
    ("exact: UPDATE, 1000 rows a transaction", 100, 1000, UPDATE),
    ("exact: DELETE, 1000 rows a transaction", 100, 1000, DELETE),
    ("exact: TPC-B", 25_000, 4, TPCB),
];

/// Commits a second, and seconds.
const PACES: &[(u32, u32)] = &[(50, 8), (1000, 8)];

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
    let places = [&PLACES[..1], &chosen(&PLACES[1..], &of_places, |place| place.0)].concat();
    if of_workloads == ["live"] {
        return live(&places);
    }
    println!(
        "{:<48} {:<14} {:>9} {:>10} {:>7} {:>13} {:>7}",
        "backlog", "", "first ms", "then /s", "ratio", "in all /s", "ratio"
    );
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
            measure(&workloads, &places, lines);
        }
    }
    println!("medians of {} rounds; ratios to here are medians within a round", rounds());
}

/// Those with a name that contains a word, spaces left out; all if there are no words.
fn chosen<T: Copy>(all: &[T], words: &[String], name: impl Fn(&T) -> &str) -> Vec<T> {
    let is_named = |one: &&T| {
        words.is_empty() || words.iter().any(|word| name(one).replace(' ', "").contains(word.as_str()))
    };
    all.iter().filter(is_named).copied().collect()
}

/// A master, and a slave with an agent of its own for each place.
fn start(places: &[Place], slave_lines: &str) -> (Db, Vec<Consumer>) {
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run(DATA);
    master.run("select pyreplica.add_all_tables('public')");
    let consumers = places
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
    (master, consumers)
}

/// Milliseconds from a commit until it is visible, less those that the way takes.
fn live(places: &[Place]) {
    let (master, consumers) = start(places, "");
    // (p50, p99) by pace, place, round.
    let mut figures = vec![vec![Vec::new(); places.len()]; PACES.len()];
    let mut n = 0;
    for round in 0..rounds() {
        for (pace, &(a_second, seconds)) in PACES.iter().enumerate() {
            for turn in turns(places.len(), round) {
                consumers.iter().for_each(Consumer::stand_still);
                let consumer = &consumers[turn];
                consumer.go_on();
                let caught_up = format!("select coalesce(max(n), 0) = {n} from t");
                wait(&mut consumer.slave.session(), &caught_up, Duration::from_secs(60));
                let count = a_second * seconds;
                let (_, to_master, to_slave) = places[turn];
                let way = (to_master + to_slave) as f64;
                let (p50, p99) = latencies(&master, &consumer.slave, n, count, a_second);
                figures[pace][turn].push((p50 - way, p99 - way));
                n += count;
                consumers.iter().for_each(Consumer::go_on);
            }
        }
    }
    println!("{:<12} {:<14} {:>16} {:>16}", "commits/s", "", "p50 ms more", "p99 ms more");
    for ((a_second, _), figures) in PACES.iter().zip(figures) {
        for ((place, ..), figures) in places.iter().zip(figures) {
            let (p50, p99): (Vec<f64>, Vec<f64>) = figures.into_iter().unzip();
            println!("{a_second:<12} {place:<14} {:>16.2} {:>16.2}", median(p50), median(p99));
        }
    }
    println!("medians of {} rounds", rounds());
}

fn measure(workloads: &[Workload], places: &[Place], slave_lines: &str) {
    let (master, consumers) = start(places, slave_lines);
    // By workload, consumer, round.
    let mut drained = vec![vec![Vec::new(); consumers.len()]; workloads.len()];
    let mut marker = 0;
    for round in 0..rounds() {
        for (workload, (_, transactions, _, statements)) in workloads.iter().enumerate() {
            let mut session = master.session();
            consumers.iter().for_each(Consumer::stand_still);
            if *transactions > 1 {
                marker += 1;
                write(&mut session, transactions..=&(transactions + 20), statements);
                session.run(&format!("insert into done values ({marker})"));
                consumers.iter().for_each(Consumer::go_on);
                consumers.iter().for_each(|consumer| wait_for_marker(consumer, marker));
                consumers.iter().for_each(Consumer::stand_still);
            }
            write(&mut session, &1..=transactions, statements);
            marker += 1;
            session.run(&format!("insert into done values ({marker})"));
            for turn in turns(consumers.len(), round) {
                let figures = drain(&master, &consumers[turn], marker);
                eprintln!("{}, {}: {figures:?}", workloads[workload].0, places[turn].0);
                drained[workload][turn].push(figures);
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

    for ((name, ..), drained) in workloads.iter().zip(drained) {
        let figures = |place: usize| {
            let of = |figure: fn(&Drained) -> f64| drained[place].iter().map(figure).collect::<Vec<f64>>();
            [of(|d| d.first * 1e3), of(|d| d.rate), of(|d| d.in_all)]
        };
        for (number, (place, ..)) in places.iter().enumerate() {
            let [first, rate, in_all] = figures(number);
            let [_, rate_here, in_all_here] = figures(0);
            let ratio = |far: &[f64], here: &[f64]| paired(far, here, |far, here| far / here);
            println!(
                "{name:<48} {place:<14} {:>9.0} {:>10.0} {:>7.2} {:>13.0} {:>7.2}",
                median(first),
                median(rate.clone()),
                ratio(&rate, &rate_here),
                median(in_all.clone()),
                ratio(&in_all, &in_all_here),
            );
        }
    }
}

/// How a backlog was taken in.
#[derive(Clone, Debug)]
struct Drained {
    /// Seconds until the first batch was visible.
    first: f64,
    /// Changes a second from then on, and in all.
    rate: f64,
    in_all: f64,
}

/// Transactions of these numbers.
fn write(session: &mut Session, numbers: std::ops::RangeInclusive<&u32>, statements: &str) {
    let (first, last) = numbers.into_inner();
    session.run("set synchronous_commit = off");
    session.run(&format!(
        "do $do$ begin for tx in {first} .. {last} loop {statements}; commit; end loop; end $do$"
    ));
    session.run("set synchronous_commit = on");
}

/// Lets an agent go, until the marker is visible.
fn drain(master: &Db, consumer: &Consumer, marker: u32) -> Drained {
    let mut session = consumer.slave.session();
    let mut look = |sql: &str| session.rows(sql).concat();
    let before = look(RANK);
    let is_there = format!("select exists (select from done where n = {marker})");
    let deadline = Instant::now() + Duration::from_secs(300);
    let began = Instant::now();
    consumer.go_on();
    let mut first = None;
    while look(&is_there) != "t" {
        assert!(Instant::now() < deadline, "{} does not take in the backlog", consumer.name);
        if first.is_none() {
            first = Some(look(RANK)).filter(|rank| *rank != before).map(|rank| (rank, began.elapsed()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let whole = began.elapsed();
    // What comes in one batch has no rate of its own.
    let (rank, first) = first.unwrap_or((before.clone(), Duration::ZERO));
    let changes_after = |rank: &str| {
        let changes =
            master.value(&format!("select sum(changes) from pyreplica.log where final and id > {rank}"));
        changes.parse::<f64>().expect("a number")
    };
    Drained {
        first: first.as_secs_f64(),
        rate: changes_after(&rank) / (whole - first).as_secs_f64(),
        in_all: changes_after(&before) / whole.as_secs_f64(),
    }
}

const RANK: &str = "select rank from pyreplica_agent.position";

fn wait_for_marker(consumer: &Consumer, marker: u32) {
    let is_there = format!("select exists (select from done where n = {marker})");
    wait(&mut consumer.slave.session(), &is_there, Duration::from_secs(300));
}
