//! What reading the log costs the master as slaves are added, and what the agent takes: 1, 2, 4 and 8 of them.
//!
//! Processor time of the sessions that read, and of the agent, under a steady load and while a backlog is drained.
//! Words are numbers of slaves. `PYREPLICA_AGENT` names another agent to measure: two of them are compared by running
//! this in turns.

use std::time::{Duration, Instant};

use pyreplica_benches::consumer::wait;
use pyreplica_benches::process::{cpu_seconds, threads_cpu_seconds};
use pyreplica_benches::{arguments::Arguments, median, rounds, turns};
use pyreplica_tests::agent::Agent;
use pyreplica_tests::cluster::{send_signal, Cluster};
use pyreplica_tests::db::Db;

const SCHEMA: &str =
    "create table history (n int primary key, tid int, delta int, mtime timestamptz, filler char(22))";
const COUNTS: [&str; 4] = ["1", "2", "4", "8"];
/// Commits a second, and how many.
const STEADY: (u32, u32) = (200, 2000);
const BACKLOG: u32 = 20_000;
/// Only processor time is measured: nothing here depends on the disk.
const SERVER: &[(&str, &str)] = &[("fsync", "off"), ("autovacuum", "off")];

fn main() {
    let arguments = Arguments::parse(&COUNTS);
    let counts: Vec<usize> = COUNTS
        .iter()
        .filter(|count| arguments.wants(count, &COUNTS))
        .map(|count| count.parse().expect("a number"))
        .collect();
    let master = Cluster::start("master", SERVER).create_db("bench", "");
    master.run("create extension pyreplica");
    master.run(SCHEMA);
    master.run("select pyreplica.add_all_tables('public')");
    let servers = [Cluster::start("slaves1", SERVER), Cluster::start("slaves2", SERVER)];
    let slaves: Vec<Db> = (0..counts.iter().copied().max().unwrap_or(0))
        .map(|i| {
            let slave = servers[i % servers.len()].create_db(&format!("bench{i}"), "");
            slave.run(SCHEMA);
            slave
        })
        .collect();

    // Seconds (reading, agent) by count and load, of each round.
    let mut figures = vec![[Vec::new(), Vec::new()]; counts.len()];
    let mut last = 0;
    let rounds = rounds();
    for round in 0..rounds {
        for turn in turns(counts.len(), round) {
            let name = format!("bench{round}_{turn}");
            let measured = measure(&master, &slaves[..counts[turn]], &name, &mut last);
            for (figures, measured) in figures[turn].iter_mut().zip(measured) {
                figures.push(measured);
            }
        }
    }

    let loads = [
        format!("{} commits, {} a second", STEADY.1, STEADY.0),
        format!("backlog of {BACKLOG} transactions"),
    ];
    println!("{:<32} {:>7} {:>12} {:>8} {:>9}", "load", "slaves", "reading s", "ratio", "agent s");
    for (load, name) in loads.iter().enumerate() {
        let middle =
            |count: usize, of: fn(&(f64, f64)) -> f64| median(figures[count][load].iter().map(of).collect());
        for (i, count) in counts.iter().enumerate() {
            let reading = middle(i, |figure| figure.0);
            let ratio = reading / middle(0, |figure| figure.0);
            println!(
                "{name:<32} {count:>7} {reading:>12.3} {ratio:>8.2} {:>9.2}",
                middle(i, |figure| figure.1)
            );
        }
    }
    println!("processor seconds, medians of {rounds} rounds; the ratio is to the first line of a load");
}

/// Seconds (reading, agent) of each load.
fn measure(master: &Db, slaves: &[Db], name: &str, last: &mut u32) -> [(f64, f64); 2] {
    let mut config = format!("[master]\ndsn = \"{}\"\n[agent]\nname = \"{name}\"\n", master.dsn());
    for (i, slave) in slaves.iter().enumerate() {
        config.push_str(&format!(
            "[[slave]]\nname = \"slave{i}\"\ndsn = \"{}\"\ninitial = \"current\"\n",
            slave.dsn()
        ));
    }
    let mut agent = Agent::new(&config);
    agent.start();
    let streaming = format!(
        "select count(*) = {} from pyreplica.slave where agent = '{name}' and state = 'streaming'",
        slaves.len()
    );
    wait(&mut master.session(), &streaming, Duration::from_secs(60));
    // A few, so that everything is connected, prepared and in step.
    write(master, last, 20, None);
    wait_for_all(slaves, *last);

    let steady = cost(master, &agent, || {
        write(master, last, STEADY.1, Some(STEADY.0));
        wait_for_all(slaves, *last);
    });
    send_signal(agent.pid(), "STOP");
    write(master, last, BACKLOG, None);
    let backlog = cost(master, &agent, || {
        send_signal(agent.pid(), "CONT");
        wait_for_all(slaves, *last);
    });
    agent.stop();
    // The log is not kept for them.
    master.run(&format!("delete from pyreplica.slave where agent = '{name}'; select pyreplica.rotate_log()"));
    // Another agent may bring them the same tables now.
    slaves.iter().for_each(|slave| slave.run("delete from pyreplica_agent.position"));
    [steady, backlog]
}

/// Commits so many rows, at a pace or as fast as it goes.
fn write(master: &Db, last: &mut u32, count: u32, a_second: Option<u32>) {
    let mut session = master.session();
    session.run("set synchronous_commit = off");
    let began = Instant::now();
    for i in 0..count {
        *last += 1;
        session.run(&format!("insert into history values ({last}, {i} % 100, {i} % 997, now(), '')"));
        if let Some(a_second) = a_second {
            let due = began + Duration::from_secs(1) * (i + 1) / a_second;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

fn wait_for_all(slaves: &[Db], last: u32) {
    for slave in slaves {
        let there = format!("select exists (select from history where n = {last})");
        wait(&mut slave.session(), &there, Duration::from_secs(120));
    }
}

/// Seconds that the sessions which read, and the agent, take for this.
fn cost(master: &Db, agent: &Agent, f: impl FnOnce()) -> (f64, f64) {
    let readers = || {
        master.rows(
            "select pid from pg_stat_activity where application_name = 'replica_agent read' order by pid",
        )
    };
    let seconds =
        |pids: &[String]| pids.iter().map(|pid| cpu_seconds(pid.parse().expect("a pid"))).sum::<f64>();
    let pids = readers();
    let before = (seconds(&pids), threads_cpu_seconds(agent.pid()));
    f();
    assert_eq!(readers(), pids, "a reader has ended: what it took is not known");
    (seconds(&pids) - before.0, threads_cpu_seconds(agent.pid()) - before.1)
}
