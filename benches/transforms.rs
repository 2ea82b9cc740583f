//! What a transform costs a slave: how fast it takes in a backlog with computed values, or a row filter, beside a slave
//! that takes the same rows as they are.
//!
//! While a backlog is written all agents stand still (SIGSTOP). Then each is let go by itself, and the time runs until
//! the last transaction of the backlog is visible on its slave. Same master, same transactions, servers set up alike; who
//! goes first changes from round to round. The table with values has one column more to store than the plain one, and
//! longer texts; that with one value has as much to store, so it shows what the transform itself costs.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::{wait, Consumer, SERVER};
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::Db;

const SCHEMA: &str = "
    create table rows (id serial primary key, a text, b float8, c timestamp, d boolean);
    create index rows_c on rows (c);
    create table done (n int primary key)";

/// Name, further columns on the slave, lines of its `[[slave]]`.
const VARIANTS: &[(&str, &str, &str)] = &[
    ("plain", "", ""),
    (
        "values",
        "alter table rows add source text",
        "[[slave.table]]\nname = \"public.rows\"\nvalues = { a = \"md5(a)\", source = \"'shop'\" }",
    ),
    ("value", "", "[[slave.table]]\nname = \"public.rows\"\nvalues = { a = \"upper(a)\" }"),
    ("filter", "", "[[slave.table]]\nname = \"public.rows\"\nrow_filter = \"id > 0\""),
];

/// Name, statement of the `$i`th transaction.
const WORKLOADS: &[(&str, &str)] = &[
    (
        "INSERT, 1000 rows a transaction",
        "insert into rows (a, b, c, d)
         select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 1000) i",
    ),
    (
        "UPDATE, 1000 rows a transaction",
        "update rows set a = a || 'x' where id > ($i - 1) * 1000 and id <= $i * 1000",
    ),
    ("DELETE, 1000 rows a transaction", "delete from rows where id > ($i - 1) * 1000 and id <= $i * 1000"),
];
const TRANSACTIONS: u32 = 100;

fn main() {
    let rounds = rounds();
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run("select pyreplica.add_all_tables('public')");
    let consumers: Vec<Consumer> = VARIANTS
        .iter()
        .map(|(name, more, lines)| Consumer::ours(name, &master, &format!("{SCHEMA}; {more}"), lines))
        .collect();
    for consumer in &consumers {
        let copied = "select to_regclass('pyreplica_agent.copied_table') is not null";
        wait(&mut consumer.slave.session(), copied, Duration::from_secs(60));
        let copied = "select count(*) = 2 from pyreplica_agent.copied_table where table_name <> ''";
        wait(&mut consumer.slave.session(), copied, Duration::from_secs(60));
    }

    // Seconds by workload, consumer, round.
    let mut seconds = vec![vec![Vec::new(); consumers.len()]; WORKLOADS.len()];
    let mut marker = 0;
    for round in 0..rounds {
        for (workload, (_, statement)) in WORKLOADS.iter().enumerate() {
            consumers.iter().for_each(Consumer::stand_still);
            marker += 1;
            write_backlog(&master, statement, marker);
            for consumer in turns(consumers.len(), round) {
                seconds[workload][consumer].push(drain(&consumers[consumer], marker).as_secs_f64());
            }
        }
        marker += 1;
        master.run(&format!("truncate rows restart identity; insert into done values ({marker})"));
        for consumer in &consumers {
            let name = consumer.name;
            wait(&mut consumer.slave.session(), &is_done(marker), Duration::from_secs(120));
            let conflicts = consumer.slave.value("select count(*) from pyreplica_agent.conflict");
            assert_eq!(conflicts, "0", "conflicts of {name}");
        }
    }

    print!("{:<34} {:>8}", "backlog, rows/s", "plain");
    VARIANTS[1..].iter().for_each(|(name, ..)| print!(" {name:>15}"));
    println!();
    for ((name, _), figures) in WORKLOADS.iter().zip(&seconds) {
        let rate = |seconds: &Vec<f64>| f64::from(TRANSACTIONS * 1000) / median(seconds.clone());
        print!("{name:<34} {:>8.0}", rate(&figures[0]));
        for figures_of_variant in &figures[1..] {
            let ratio = paired(figures_of_variant, &figures[0], |seconds, plain| plain / seconds);
            print!(" {:>8.0} {ratio:>6.2}", rate(figures_of_variant));
        }
        println!();
    }
    println!("medians of {rounds} rounds; the ratio is the median within a round, plain = 1");
}

fn write_backlog(master: &Db, statement: &str, marker: u32) {
    let mut session = master.session();
    session.run("set synchronous_commit = off");
    for i in 1..=TRANSACTIONS {
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
