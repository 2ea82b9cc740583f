//! Section tpcb: pgbench's TPC-B without capture, with it, and with an agent that feeds a slave of another data
//! directory; transactions per second, and the processor time of the master's processes for each; and what many clients
//! are seen waiting for.

use std::process::Command;

use pyreplica_benches::arguments::Arguments;
use pyreplica_benches::empty_trigger;
use pyreplica_benches::process::server_cpu_seconds;
use pyreplica_benches::report::Section;
use pyreplica_benches::table::Table;
use pyreplica_benches::{median, paired, rounds, turns};
use pyreplica_tests::cluster::{run as run_program, send_signal};
use pyreplica_tests::db::Db;
use pyreplica_tests::keeper;
use pyreplica_tests::trio::{Setup, Trio};
use serde_json::json;

use crate::waits::Waits;
use crate::{medians_of, start_server, SETTINGS};

const SCALE: u32 = 10;
const CLIENTS: [u32; 3] = [1, 4, 16];
const TABLES: [&str; 4] = ["branches", "tellers", "accounts", "history"];
/// Of each run.
const SECONDS: u32 = 5;

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    None,
    Empty,
    Captured,
    Paused,
    Agent,
    Notify,
}

const VARIANTS: [(Variant, &str, &str); 6] = [
    (Variant::None, "none", "no capture"),
    (Variant::Empty, "empty", "an empty C function as AFTER ROW trigger of each table"),
    (Variant::Captured, "captured", "capture, no agent"),
    (Variant::Paused, "paused", "capture and an agent that was in step and is stopped by SIGSTOP"),
    (Variant::Agent, "agent", "capture and an agent that feeds one slave on this machine"),
    (Variant::Notify, "notify", "capture, no agent; each transaction says NOTIFY itself"),
];

struct Sample {
    tps: f64,
    /// Of all processes of the master, for each transaction.
    cpu: f64,
}

/// Sums over the transactions that were captured.
#[derive(Default)]
struct Logged {
    transactions: f64,
    payload: f64,
    size: f64,
}

pub fn names() -> Vec<&'static str> {
    VARIANTS.iter().map(|(_, name, _)| *name).collect()
}

pub fn run(arguments: &Arguments) -> Section {
    let wanted: Vec<usize> =
        (0..VARIANTS.len()).filter(|&i| i == 0 || arguments.wants(VARIANTS[i].1, &names())).collect();
    let server = start_server("master", &[]);
    let plain = create(server.create_db("plain", ""));
    let empty = create(server.create_db("empty", ""));
    empty_trigger::create(&empty);
    TABLES.iter().for_each(|table| empty_trigger::attach(&empty, &format!("pgbench_{table}")));
    let captured = capture(create(server.create_db("captured", "")));
    let followed = wanted.iter().any(|&i| matches!(VARIANTS[i].0, Variant::Paused | Variant::Agent));
    let mut trio = followed.then(|| with_agent(capture(create(server.create_db("agent", "")))));
    let notify = notify_script(&plain);

    let rounds = rounds();
    // By number of clients, variant, round.
    let mut samples: Vec<Vec<Vec<Sample>>> =
        CLIENTS.iter().map(|_| VARIANTS.iter().map(|_| Vec::new()).collect()).collect();
    let mut logged = Logged::default();
    let mut waits = [Waits::default(), Waits::default()];
    for round in 0..rounds {
        for (clients, samples) in CLIENTS.iter().zip(&mut samples) {
            eprintln!("tpcb: round {} of {rounds}, {clients} clients", round + 1);
            for turn in turns(wanted.len(), round) {
                let i = wanted[turn];
                let variant = VARIANTS[i].0;
                let db = match variant {
                    Variant::None => &plain,
                    Variant::Empty => &empty,
                    Variant::Captured | Variant::Notify => &captured,
                    Variant::Paused | Variant::Agent => &trio.as_ref().expect("an agent").master,
                };
                if let (Variant::Paused, Some(trio)) = (variant, &trio) {
                    send_signal(trio.agent.pid(), "STOP");
                }
                samples[i].push(measure(db, *clients, (variant == Variant::Notify).then_some(&notify)));
                match (variant, &mut trio) {
                    (Variant::Captured | Variant::Notify, _) => empty_log(&captured, &mut logged),
                    (Variant::Paused | Variant::Agent, Some(trio)) => {
                        send_signal(trio.agent.pid(), "CONT");
                        trio.catch_up();
                    }
                    _ => {}
                }
            }
        }
        if arguments.any(&names()) {
            continue;
        }
        // Runs of their own: to look takes processor time.
        for (db, waits) in [&plain, &captured].into_iter().zip(&mut waits) {
            waits.watch(db, || {
                measure(db, CLIENTS[CLIENTS.len() - 1], None);
            });
        }
        empty_log(&captured, &mut logged);
    }
    if let Some(trio) = &trio {
        trio.assert_same();
    }
    section(rounds, &wanted, &samples, &logged, &waits)
}

/// The tables of pgbench with rows.
fn create(db: Db) -> Db {
    create_tables(&db, "dtgvp");
    db
}

fn capture(db: Db) -> Db {
    db.run("create extension pyreplica");
    let refused = db.rows("select * from pyreplica.add_all_tables('public') where not added");
    assert!(refused.is_empty(), "not all tables could be added: {refused:?}");
    db
}

/// The tables by these steps of pgbench; the history gets the key that capture needs.
fn create_tables(db: &Db, steps: &str) {
    let mut pgbench = db.server.client_program("pgbench", &db.name);
    run_program(pgbench.args(["-i", "-q", "-s", &SCALE.to_string(), "-I", steps]));
    db.run("alter table pgbench_history add column id bigint generated always as identity primary key");
}

/// A slave with the same tables, and an agent that has brought it in step.
fn with_agent(master: Db) -> Trio {
    let slave = start_server("slave", &[]).create_db("agent", "");
    create_tables(&slave, "dtp");
    let mut trio = Setup::new("").of(master, vec![slave]);
    trio.agent.start();
    trio.catch_up();
    trio
}

/// pgbench's own transaction with a NOTIFY before its end.
fn notify_script(db: &Db) -> std::path::PathBuf {
    let mut pgbench = db.server.client_program("pgbench", &db.name);
    let output = pgbench.arg("--show-script=tpcb-like").output().expect("pgbench");
    // It goes to the error output.
    let script = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(script.contains("\nEND;"), "not the script of TPC-B: {script}");
    let path = keeper::dir().join("notify.pgbench");
    std::fs::write(&path, script.replace("\nEND;", "\nNOTIFY replicas;\nEND;")).expect("script");
    path
}

fn measure(db: &Db, clients: u32, script: Option<&std::path::PathBuf>) -> Sample {
    for table in TABLES {
        db.run(&format!("vacuum pgbench_{table}"));
    }
    db.run("checkpoint");
    let mut pgbench: Command = db.server.client_program("pgbench", &db.name);
    pgbench.args(["-n", "-c", &clients.to_string(), "-j", "2", "-T", &SECONDS.to_string()]);
    if let Some(script) = script {
        pgbench.arg("-s").arg(SCALE.to_string()).arg("-f").arg(script);
    }
    let before = server_cpu_seconds(db.server.pid());
    let output = run_program(&mut pgbench);
    let cpu = server_cpu_seconds(db.server.pid()) - before;
    let number = |label: &str| -> f64 {
        let line = output.lines().find_map(|line| line.strip_prefix(label));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no \"{label}\" in:\n{output}"))
    };
    Sample { tps: number("tps = "), cpu: cpu / number("number of transactions actually processed: ") }
}

/// Adds up what the log holds, and empties it.
fn empty_log(db: &Db, logged: &mut Logged) {
    let row = db.value(
        "select count(*) filter (where final) || ' ' || sum(octet_length(payload)) || ' '
                || (select sum(pg_total_relation_size('pyreplica.log_' || i)) from generate_series(0, 2) i)
           from pyreplica.log",
    );
    let numbers: Vec<f64> = row.split(' ').map(|n| n.parse().expect("a number")).collect();
    logged.transactions += numbers[0];
    logged.payload += numbers[1];
    logged.size += numbers[2];
    db.run("truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2");
}

fn section(
    rounds: usize,
    wanted: &[usize],
    samples: &[Vec<Vec<Sample>>],
    logged: &Logged,
    waits: &[Waits; 2],
) -> Section {
    let shown = || wanted.iter().map(|&i| (i, VARIANTS[i].1));
    let (payload, size) = (logged.payload / logged.transactions, logged.size / logged.transactions);
    let mut about = vec![
        format!("pgbench, TPC-B of scale {SCALE}, {SECONDS} s each."),
        SETTINGS.to_owned(),
        "pgbench, agent and slave share the machine's processors with the master.".to_owned(),
        medians_of(rounds),
    ];
    about.extend(shown().map(|(i, name)| format!("* {name}: {}.", VARIANTS[i].2)));
    if logged.transactions > 0.0 {
        about.push(format!(
            "A transaction logs {payload:.0} bytes of changes, which take {size:.0} bytes with the log's rows and indexes."
        ));
    }
    let table = |title: &str, of: &dyn Fn(&Sample) -> f64, unit: &dyn Fn(f64) -> String| {
        let header: Vec<String> = CLIENTS.iter().map(|n| format!("clients: {n}")).collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut table = Table::new(title, &[&["variant"], &header[..]].concat());
        for (i, name) in shown() {
            let cells = samples.iter().map(|samples| match i {
                0 => unit(median(samples[0].iter().map(of).collect())),
                _ => format!("{:.3}", paired(&samples[i], &samples[0], |s, b| of(s) / of(b))),
            });
            table.row(std::iter::once((*name).to_owned()).chain(cells).collect());
        }
        table
    };
    let mut waiting = Table::new(
        &format!("Waits of {} clients, in per cent of the looks at one", CLIENTS[CLIENTS.len() - 1]),
        &["variant", "waits", "ours"],
    );
    for (variant, waits) in ["none", "captured"].into_iter().zip(waits) {
        waiting.row(vec![variant.to_owned(), waits.all(0.5), waits.ours(0.0)]);
    }
    let mut tables = vec![
        table("Transactions per second, as a ratio to no capture", &|s| s.tps, &|tps| {
            format!("{tps:.0} tps")
        }),
        table("Processor time of the master per transaction, as a ratio to no capture", &|s| s.cpu, &|cpu| {
            format!("{:.0} us", cpu * 1e6)
        }),
    ];
    if wanted.len() == VARIANTS.len() {
        tables.push(waiting);
    }
    let mut figures = Vec::new();
    for (clients, samples) in CLIENTS.iter().zip(samples) {
        for (i, name) in shown() {
            let samples = &samples[i];
            figures.push(json!({
                "clients": clients, "variant": name,
                "tps": samples.iter().map(|s| s.tps).collect::<Vec<_>>(),
                "cpu_seconds_per_transaction": samples.iter().map(|s| s.cpu).collect::<Vec<_>>(),
            }));
        }
    }
    let json = json!({"runs": figures, "waits": {"none": waits[0].json(), "captured": waits[1].json()}, "payload_bytes_per_transaction": payload, "log_bytes_per_transaction": size});
    Section { name: "tpcb", about, tables, json }
}
