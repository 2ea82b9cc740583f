//! The main job before your eyes: a master under load, two slaves that follow, and the proof that all are equal.
//!
//! Run by `make demo`. Exit status 0 only when every table is equal on both slaves.

#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyreplica_tests::check;
use pyreplica_tests::cluster::{run, Cluster};
use pyreplica_tests::db::Db;
use pyreplica_tests::every_type;
use pyreplica_tests::keeper;
use pyreplica_tests::trio::{Setup, Trio};

const SCALE: &str = "10";
const CLIENTS: &str = "4";
const SECONDS: &str = "20";

/// Between two commits of the probe; 50 a second load nothing.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Between two looks for the probe on a slave: the resolution of the latencies.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// Servers as an installation has them: durable, the usual delays.
const SETTINGS: &[(&str, &str)] =
    &[("fsync", "on"), ("shared_buffers", "128MB"), ("wal_writer_delay", "200ms")];

fn main() -> ExitCode {
    let started = Instant::now();
    println!("== servers: a master and two slaves");
    let servers = ["master", "slave1", "slave2"].map(|name| Cluster::start(name, SETTINGS));
    for server in &servers {
        println!("   {:7} port {}", server.name, server.port);
    }
    let [master, slave1, slave2] = servers.map(|server| server.create_db("shop", ""));

    println!("== master: pgbench tables of scale {SCALE}, a table with a column of every type");
    run(master.server.client_program("pgbench", "shop").args(["-i", "-q", "-s", SCALE]));
    master.run("alter table pgbench_history add column id bigint generated always as identity primary key");
    master.run(every_type::SCHEMA);
    every_type::ROWS.iter().for_each(|sql| master.run(sql));
    master.run("create table probe (id int primary key)");

    println!("== slaves: the schema, by pg_dump");
    let file = keeper::dir().join("schema.sql");
    run(master.server.client_program("pg_dump", "shop").args(["--schema-only", "-f"]).arg(&file));
    for slave in [&slave1, &slave2] {
        let mut psql = slave.server.client_program("psql", "shop");
        run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file));
    }

    println!("== master: create extension pyreplica; select pyreplica.add_all_tables('public')");
    master.run("create extension pyreplica");
    let added = "select format('%s: %s', relation, coalesce(reason, 'added')) from pyreplica.add_all_tables('public')";
    master.rows(added).iter().for_each(|row| println!("   {row}"));

    println!("== agent: starts, copies the tables");
    let copying = Instant::now();
    let mut trio = Setup::new("").of(master, vec![slave1, slave2]);
    trio.agent.start();
    trio.catch_up();
    println!("   copied in {:.1} s", copying.elapsed().as_secs_f64());

    println!("== load: pgbench with {CLIENTS} clients for {SECONDS} s");
    println!("   second   master tps   delay of slave1   of slave2");
    let (result, latencies) = load(&trio);

    println!("== load has ended: waiting until nothing is behind");
    let waiting = Instant::now();
    trio.catch_up();
    println!("   after {:.2} s", waiting.elapsed().as_secs_f64());

    println!("== replica_agent verify");
    let verified = trio.agent.run(&["verify"]);
    verified.text().lines().skip(1).for_each(|line| println!("   {line}"));
    let mut equal = verified.code == Some(0);

    println!("== comparison row by row, by a program of its own");
    for table in trio.master.rows("select relation from pyreplica.replicated_table order by relation::text") {
        for slave in &trio.slaves {
            match check::compare(&trio.master, slave, &table) {
                Ok(rows) => println!("   {table:20} {:7} equal, {rows} rows", slave.server.name),
                Err(difference) => {
                    equal = false;
                    println!("   {difference}");
                }
            }
        }
    }
    let exit = trio.agent.stop();
    println!("== summary");
    println!("   master: {}", result);
    for (slave, mut latencies) in trio.slaves.iter().zip(latencies) {
        println!(
            "   {}: commit on the master to visible here: {}",
            slave.server.name,
            percentiles(&mut latencies)
        );
    }
    println!("   agent stopped with {exit}; {:.0} s in all", started.elapsed().as_secs_f64());
    if equal && exit.success() {
        println!("   EQUAL: every row of every table is the same on both slaves");
        ExitCode::SUCCESS
    } else {
        println!("   NOT EQUAL; the agent's log:\n{}", trio.agent.log());
        ExitCode::FAILURE
    }
}

/// When each probe was committed on the master and seen on each slave.
struct Probe {
    sent: Mutex<Vec<Instant>>,
    seen: Vec<Mutex<Vec<Duration>>>,
    ended: AtomicBool,
}

impl Probe {
    /// How long the oldest probe that the slave has not is under way, or how long the last one took.
    fn delay(&self, slave: usize) -> Duration {
        let sent = self.sent.lock().expect("probe");
        let seen = self.seen[slave].lock().expect("probe");
        let under_way = sent.get(seen.len()).map(Instant::elapsed).unwrap_or_default();
        under_way.max(seen.last().copied().unwrap_or_default())
    }
}

/// Runs pgbench and the probe, prints a line each second; gives pgbench's own result and the slaves' latencies.
fn load(trio: &Trio) -> (String, Vec<Vec<Duration>>) {
    let probe = Arc::new(Probe {
        sent: Mutex::default(),
        seen: trio.slaves.iter().map(|_| Mutex::default()).collect(),
        ended: AtomicBool::new(false),
    });
    let mut bench: Child = trio
        .master
        .server
        .client_program("pgbench", "shop")
        .args(["-n", "-c", CLIENTS, "-j", "2", "-T", SECONDS, "-P", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("could not start pgbench");

    let result = std::thread::scope(|scope| {
        scope.spawn(|| send(&trio.master, &probe));
        for (number, slave) in trio.slaves.iter().enumerate() {
            let probe = &probe;
            scope.spawn(move || look(slave, number, probe));
        }
        scope.spawn(|| every_type::UPDATES.iter().for_each(|sql| trio.master.run(sql)));

        // pgbench says every second how far it is: that is our clock.
        let progress = BufReader::new(bench.stderr.take().expect("stderr is a pipe"));
        for line in progress.lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["progress:", second, "s,", tps, "tps,", ..] = words.as_slice() {
                let delays: Vec<String> = (0..trio.slaves.len())
                    .map(|i| format!("{:>9.1} ms", milliseconds(probe.delay(i))))
                    .collect();
                println!("   {second:>6} {tps:>12} {:>17} {:>11}", delays[0], delays[1]);
            } else if !line.starts_with("pgbench (") {
                println!("   {line}");
            }
        }
        let output = bench.wait_with_output().expect("pgbench is our child");
        probe.ended.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "pgbench ended with {}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let line = |start: &str| result.lines().find(|l| l.starts_with(start)).unwrap_or_default();
    let summary = format!(
        "{}; {}",
        line("tps = "),
        line("number of transactions actually processed")
            .replace("number of transactions actually processed: ", "transactions: ")
    );
    let latencies = probe.seen.iter().map(|seen| seen.lock().expect("probe").clone()).collect();
    (summary, latencies)
}

/// Commits one row after the other on the master, until the load has ended.
fn send(master: &Db, probe: &Probe) {
    let mut session = master.session();
    for id in 1_i32.. {
        if probe.ended.load(Ordering::Relaxed) {
            return;
        }
        session.client.execute("insert into probe values ($1)", &[&id]).expect("probe on the master");
        probe.sent.lock().expect("probe").push(Instant::now());
        std::thread::sleep(PROBE_INTERVAL);
    }
}

/// Looks for them on a slave, until all have come.
fn look(slave: &Db, number: usize, probe: &Probe) {
    let mut session = slave.session();
    let rows = session.client.prepare("select count(*) from probe where id > $1").expect("probe on a slave");
    let mut seen = 0;
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let new: i64 = session.client.query_one(&rows, &[&(seen as i32)]).expect("probe on a slave").get(0);
        let now = Instant::now();
        let sent = probe.sent.lock().expect("probe");
        let mut latencies = probe.seen[number].lock().expect("probe");
        // A row that is seen before its sender was told of the commit counts at the next look.
        for at in sent.iter().skip(seen).take(new as usize) {
            latencies.push(now.saturating_duration_since(*at));
            seen += 1;
        }
        if (probe.ended.load(Ordering::Relaxed) && seen == sent.len()) || now > deadline {
            return;
        }
        drop((sent, latencies));
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn percentiles(latencies: &mut [Duration]) -> String {
    latencies.sort_unstable();
    let Some(last) = latencies.len().checked_sub(1) else { return "nothing was measured".to_owned() };
    let at = |percent: usize| milliseconds(latencies[last * percent / 100]);
    format!("p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(50), at(90), at(99), at(100))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
