//! Two nodes before your eyes, both written to at the same time, and the proof that they end equal.
//!
//! Run by `make demo-multimaster`. Exit status 0 only when every table is equal on both and nobody met a conflict.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::Db;
use pyreplica_tests::nodes::Nodes;

const CLIENTS: usize = 2;
const SECONDS: u64 = 20;

/// Servers as an installation has them: durable, the usual delays.
const SETTINGS: &[(&str, &str)] =
    &[("fsync", "on"), ("shared_buffers", "128MB"), ("wal_writer_delay", "200ms")];

const SCHEMA: &str = "
    create table customer (id bigint generated always as identity primary key, name text not null,
                           orders int not null default 0);
    create table item (id bigserial primary key, customer bigint not null references customer,
                       price numeric(10, 2) not null, at timestamptz not null default clock_timestamp());
    create index on customer (name, id);
    create index on item (customer)";

/// What a client does again and again, with customers that nobody else touches.
const TRANSACTION: &str = "
    with c as (insert into customer (name) values (current_setting('demo.client')) returning id)
    insert into item (customer, price) select id, random() * 100 from c, generate_series(1, 3);
    update customer set orders = orders + 1
     where id in (select id from customer where name = current_setting('demo.client') order by id desc limit 2);
    delete from item where id in (select i.id from item i join customer c on c.id = i.customer
                                   where c.name = current_setting('demo.client') order by i.id limit 1)";

fn main() -> ExitCode {
    println!("== servers: two nodes");
    let [a, b] = ["a", "b"].map(|name| {
        let server = Cluster::start(name, SETTINGS);
        println!("   {name} port {}", server.port);
        server.create_db("shop", "")
    });
    println!("== on both: the tables; create extension pyreplica; select pyreplica.add_all_tables('public')");
    for db in [&a, &b] {
        db.run(SCHEMA);
        db.run("create extension pyreplica");
        let added = "select format('%s: %s', relation, coalesce(reason, 'added')) from pyreplica.add_all_tables('public')";
        db.rows(added).iter().for_each(|row| println!("   {}: {row}", db.server.name));
    }
    for (node, db) in [(1, &a), (2, &b)] {
        let spread = format!("select pyreplica.spread_sequences('public', {node}, 2)");
        db.run(&spread);
        println!("   {}: {spread}", db.server.name);
    }
    println!("== two agents: a to b, and b to a");
    let mut nodes = Nodes::of(vec![('a', a.clone()), ('b', b.clone())], "a<>b");
    nodes.start();
    nodes.settle();

    println!("== load: {CLIENTS} clients on each node for {SECONDS} s");
    println!("   second        a tps        b tps");
    load(&a, &b);
    println!("== load has ended: waiting until nothing is behind");
    let waiting = Instant::now();
    nodes.settle();
    println!("   after {:.2} s", waiting.elapsed().as_secs_f64());

    println!("== comparison row by row");
    let mut equal = true;
    for table in ["public.customer", "public.item"] {
        match pyreplica_tests::check::compare(&a, &b, table) {
            Ok(rows) => println!("   {table:16} equal, {rows} rows"),
            Err(difference) => {
                equal = false;
                println!("   {difference}");
            }
        }
    }
    for letter in ['a', 'b'] {
        let conflicts = nodes.conflicts(letter);
        println!("   {letter}: {} conflicts", conflicts.len());
        equal &= conflicts.is_empty();
    }
    let stopped = nodes.arrows.iter_mut().all(|arrow| arrow.agent.stop().success());
    if equal && stopped {
        println!("   EQUAL: every row of every table is the same on both nodes");
        ExitCode::SUCCESS
    } else {
        nodes
            .arrows
            .iter()
            .for_each(|arrow| println!("   NOT EQUAL; an agent's log:\n{}", arrow.agent.log()));
        ExitCode::FAILURE
    }
}

fn load(a: &Db, b: &Db) {
    let ended = AtomicBool::new(false);
    let done = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for (db, done) in [(a, &done[0]), (b, &done[1])] {
            for client in 0..CLIENTS {
                let ended = &ended;
                scope.spawn(move || {
                    let mut session = db.session();
                    session.run(&format!("set demo.client = 'client {client} of {}'", db.server.name));
                    while !ended.load(Ordering::Relaxed) {
                        session.run(TRANSACTION);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        let count = || [0, 1].map(|n| done[n].load(Ordering::Relaxed));
        let mut before = count();
        for second in 1..=SECONDS {
            std::thread::sleep(Duration::from_secs(1));
            let now = count();
            println!("   {second:>6} {:>12} {:>12}", now[0] - before[0], now[1] - before[1]);
            before = now;
        }
        ended.store(true, Ordering::Relaxed);
    });
    println!(
        "   transactions: {} on a, {} on b",
        done[0].load(Ordering::Relaxed),
        done[1].load(Ordering::Relaxed)
    );
}
