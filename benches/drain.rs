//! How fast a slave takes in a backlog: ours beside a native subscription of the same tables on the same master, and
//! where they are installed pglogical on that master, and Slony-I on one of its own.
//!
//! While a backlog is written all consumers stand still (SIGSTOP to the agent, the apply workers, the slave's slon).
//! Then each is let go by itself, and the time runs until the last transaction of the backlog is visible on its slave.
//! Fair: same tables, transactions, server settings; who goes first changes from round to round; afterwards the
//! slaves are compared with the master. In native replication's favour: its subscriber commits asynchronously, which is
//! its default, while ours is a two-phase commit. In ours: the log is written with the transactions, before the time runs.
//! `PYREPLICA_OTHER_AGENT` names another agent to measure beside.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::{wait, Consumer, SERVER};
use pyreplica_benches::process::server_cpu_seconds;
use pyreplica_benches::{median, paired, rivals, rounds, turns};
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

const AT_MOST: Duration = Duration::from_secs(600);

const TABLES_AND_MARKER: [&str; 7] = ["rows", "hot", "done", "branches", "tellers", "accounts", "history"];
const TABLES: [&str; 6] = ["rows", "hot", "branches", "tellers", "accounts", "history"];

fn main() {
    let rounds = rounds();
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let workloads: Vec<_> = WORKLOADS
        .iter()
        .filter(|(name, ..)| only.is_empty() || only.iter().any(|word| name.contains(word.as_str())))
        .collect();
    let master = master("master", &rivals::settings());
    master.run("create extension pyreplica");
    master.run(
        "select pyreplica.add_all_tables('public'); create publication bench for tables in schema public",
    );
    let mut consumers = vec![Consumer::ours("ours", &master, SCHEMA, ""), Consumer::native(&master, SCHEMA)];
    consumers.extend(Consumer::other(&master, SCHEMA, ""));
    let mut masters = vec![master];
    match rivals::has_pglogical() {
        true => consumers.push(rivals::pglogical(&masters[0], SCHEMA)),
        false => println!("without pglogical: {}", rivals::INSTALL),
    }
    match rivals::has_slony() {
        true => {
            masters.push(self::master("master-of-slony", SERVER));
            consumers.push(rivals::slony(&masters[1], &TABLES_AND_MARKER, SCHEMA));
        }
        false => println!("without Slony-I: {}", rivals::INSTALL),
    }
    for consumer in &consumers {
        let copied = "select count(*) = 1000000 from accounts";
        wait(&mut consumer.slave.session(), copied, AT_MOST);
        consumer.slave.run("vacuum analyze");
    }
    masters.iter().for_each(|master| master.run("vacuum analyze"));

    let mut drains = vec![vec![Vec::<Drain>::new(); consumers.len()]; workloads.len()];
    let mut marker = 0;
    for round in 0..rounds {
        for ((_, transactions, _, statement), drains) in workloads.iter().zip(&mut drains) {
            consumers.iter().for_each(Consumer::stand_still);
            marker += 1;
            masters.iter().for_each(|master| write_backlog(master, *transactions, statement, marker));
            for turn in turns(consumers.len(), round) {
                drains[turn].push(drain(&consumers[turn], marker));
            }
        }
        for consumer in &consumers {
            let master = if consumer.name == "slony" { &masters[1] } else { &masters[0] };
            for table in TABLES {
                if let Err(difference) = check::compare(master, &consumer.slave, table) {
                    panic!("{}: {difference}", consumer.name);
                }
            }
        }
        marker += 1;
        for master in &masters {
            master.run(&format!("truncate rows restart identity; insert into done values ({marker})"));
        }
        for consumer in &consumers {
            wait(&mut consumer.slave.session(), &is_done(marker), AT_MOST);
        }
    }
    let names: Vec<&str> = consumers.iter().map(|consumer| consumer.name).collect();
    for ((name, transactions, rows, _), drains) in workloads.iter().zip(&drains) {
        show(name, *transactions, *rows, &names, drains);
    }
    println!("\nmedians of {rounds} rounds; the ratios to native are medians within a round");
    println!("processor time is that of the slave's server");
}

fn master(name: &str, settings: &[(&str, &str)]) -> Db {
    let master = Cluster::start(name, settings).create_db("bench", "");
    master.run(SCHEMA);
    master.run(DATA);
    master
}

fn show(name: &str, transactions: u32, rows: u32, consumers: &[&str], drains: &[Vec<Drain>]) {
    let (unit, count) = match rows {
        4 => ("tx/s", transactions),
        rows => ("rows/s", transactions * rows),
    };
    let count = f64::from(count);
    println!("\n{name:<48} {unit:>9} {:>9} {:>12} {:>9}", "ratio", "slave's us", "ratio");
    let native = consumers.iter().position(|name| *name == "native").expect("native is always there");
    for (consumer, of) in consumers.iter().zip(drains) {
        let ratio = |figure: fn(&Drain) -> f64| paired(of, &drains[native], |a, b| figure(b) / figure(a));
        let middle = |figure: fn(&Drain) -> f64| median(of.iter().map(figure).collect());
        println!(
            "  {consumer:<46} {:>9.0} {:>9.2} {:>12.2} {:>9.2}",
            count / middle(|d| d.seconds),
            ratio(|d| d.seconds),
            middle(|d| d.processor) / count * 1e6,
            ratio(|d| d.processor)
        );
    }
}

fn write_backlog(master: &Db, transactions: u32, statement: &str, marker: u32) {
    let mut session = master.session();
    session.run("set synchronous_commit = off");
    for i in 1..=transactions {
        session.run(&statement.replace("$i", &i.to_string()));
    }
    session.run(&format!("set synchronous_commit = on; insert into done values ({marker})"));
}

/// What it takes until the marker is visible on the slave.
#[derive(Clone, Copy)]
struct Drain {
    seconds: f64,
    /// Of the slave's server.
    processor: f64,
}

fn drain(consumer: &Consumer, marker: u32) -> Drain {
    let mut session = consumer.slave.session();
    let server = consumer.slave.server.pid();
    let (before, began) = (server_cpu_seconds(server), Instant::now());
    consumer.go_on();
    wait(&mut session, &is_done(marker), AT_MOST);
    Drain { seconds: began.elapsed().as_secs_f64(), processor: server_cpu_seconds(server) - before }
}

fn is_done(marker: u32) -> String {
    format!("select exists (select from done where n = {marker})")
}
