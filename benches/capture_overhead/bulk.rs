//! Section bulk: each workload under each variant; time, processor time of the backend, log and WAL.

use std::sync::Arc;

use pyreplica_benches::arguments::Arguments;
use pyreplica_benches::process::cpu_seconds;
use pyreplica_benches::report::Section;
use pyreplica_benches::table::Table;
use pyreplica_benches::{median, paired, rounds, time, turns};
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::{Db, Session};
use serde_json::json;

use crate::variant::{self, Variant, VARIANTS};
use crate::workload::{self, Workload, WORKLOADS};
use crate::{medians_of, start_server, SETTINGS};

/// A variant, set up in a database of its own, and the session that runs the statements.
struct Contestant {
    variant: &'static Variant,
    session: Session,
    pid: u32,
    /// Which contestant it is compared with.
    base: usize,
}

/// One run of a statement.
struct Sample {
    seconds: f64,
    cpu: f64,
    wal: f64,
    log: f64,
    payload: f64,
}

pub fn run(arguments: &Arguments) -> Section {
    let workloads: Vec<&Workload> =
        WORKLOADS.iter().filter(|w| arguments.wants(w.name, &workload::names())).collect();
    let (mut contestants, missing, servers) = set_up(arguments);
    let rounds = rounds();
    // By workload, contestant, round.
    let mut samples: Vec<Vec<Vec<Sample>>> =
        workloads.iter().map(|_| contestants.iter().map(|_| Vec::new()).collect()).collect();
    for round in 0..rounds {
        for (workload, samples) in workloads.iter().zip(&mut samples) {
            eprintln!("bulk: round {} of {rounds}, {}", round + 1, workload.name);
            servers.iter().for_each(|server| server.db("postgres").run("checkpoint"));
            for i in turns(contestants.len(), round) {
                samples[i].push(measure(&mut contestants[i], workload));
            }
        }
    }
    section(rounds, &workloads, &contestants, &samples, missing)
}

/// Makes servers, databases, tables and triggers. Also says which variants are missing.
fn set_up(arguments: &Arguments) -> (Vec<Contestant>, Vec<String>, Vec<Arc<Cluster>>) {
    let wanted = |variant: &Variant| arguments.wants(variant.name, &variant::names());
    let mut servers = vec![start_server("bench", &[])];
    if VARIANTS.iter().any(|v| v.logical && wanted(v)) {
        servers.push(start_server("logical", &[("wal_level", "logical")]));
    }
    let mut contestants: Vec<Contestant> = Vec::new();
    let mut missing = Vec::new();
    for variant in &VARIANTS {
        let Some(server) = servers.get(usize::from(variant.logical)) else { continue };
        if !variant.is_base() && !wanted(variant) {
            continue;
        }
        eprintln!("bulk: setting up {}", variant.name);
        let db = server.create_db(&format!("bench_{}", variant.name.replace('-', "_")), "");
        if let Some(command) = lacks(variant, &db) {
            let line = format!("{} is not installed: {command}", variant.name);
            println!("{line}");
            missing.push(line);
            continue;
        }
        workload::create_tables(&db);
        (variant.install)(&db);
        let mut session = db.session();
        if !variant.clean.is_empty() {
            session.run(variant.clean);
        }
        let pid = session.rows("select pg_backend_pid()").join("").parse().expect("pid");
        let is_base = |c: &Contestant| c.variant.is_base() && c.variant.logical == variant.logical;
        let base = contestants.iter().position(is_base).unwrap_or(contestants.len());
        contestants.push(Contestant { variant, session, pid, base });
    }
    (contestants, missing, servers)
}

/// The command that installs what a variant lacks.
fn lacks(variant: &Variant, db: &Db) -> Option<String> {
    (!(variant.is_there)(db))
        .then(|| format!("make bench-peers, or apt-get install --no-install-recommends {}", variant.packages))
}

fn measure(contestant: &mut Contestant, workload: &Workload) -> Sample {
    const WAL: &str = "select pg_current_wal_insert_lsn() - '0/0'";
    let Contestant { variant, session, pid, .. } = contestant;
    let sizes: Vec<String> =
        variant.log.iter().map(|t| format!(" + pg_total_relation_size('{t}')")).collect();
    let log_size = format!("select 0{}", sizes.concat());
    workload::prepare(session, workload);
    let statement = workload::statement(session, workload);

    let log_before = number(session, &log_size);
    let wal_before = number(session, WAL);
    let cpu_before = cpu_seconds(*pid);
    let seconds = time(|| session.run(&statement)).as_secs_f64();
    let sample = Sample {
        seconds,
        cpu: cpu_seconds(*pid) - cpu_before,
        wal: number(session, WAL) - wal_before,
        log: number(session, &log_size) - log_before,
        payload: number(session, variant.payload),
    };
    if !variant.clean.is_empty() {
        session.run(variant.clean);
    }
    sample
}

fn number(session: &mut Session, sql: &str) -> f64 {
    session.rows(sql).join("").parse().expect("a number")
}

fn section(
    rounds: usize,
    workloads: &[&Workload],
    contestants: &[Contestant],
    samples: &[Vec<Vec<Sample>>],
    missing: Vec<String>,
) -> Section {
    let mut about = vec![SETTINGS.to_owned(), medians_of(rounds), "No agent runs.".to_owned()];
    about.extend(workloads.iter().map(|w| format!("* {}: {}.", w.name, w.about)));
    about.extend(contestants.iter().map(|c| format!("* {}: {}.", c.variant.name, c.variant.about)));
    about.extend(missing);

    let cells = |title: &str, cell: &dyn Fn(usize, usize) -> String| {
        let names: Vec<&str> = workloads.iter().map(|w| w.name).collect();
        let mut table = Table::new(title, &[&["variant"], &names[..]].concat());
        for (i, contestant) in contestants.iter().enumerate() {
            let figures = (0..workloads.len()).map(|w| cell(w, i));
            table.row(std::iter::once(contestant.variant.name.to_owned()).chain(figures).collect());
        }
        table
    };
    let middle =
        |w: usize, i: usize, of: &dyn Fn(&Sample) -> f64| median(samples[w][i].iter().map(of).collect());
    // Against the base of the same round; the base itself is shown in seconds.
    let ratio = |w: usize, i: usize, of: &dyn Fn(&Sample) -> f64| match contestants[i].base {
        base if base == i => format!("{:.3} s", middle(w, i, of)),
        base => format!("{:.2}", paired(&samples[w][i], &samples[w][base], |s, b| of(s) / of(b))),
    };
    let per_row = |w: usize, i: usize, of: &dyn Fn(&Sample) -> f64| match middle(w, i, of)
        / f64::from(workloads[w].rows)
    {
        0.0 => "-".to_owned(),
        bytes => format!("{bytes:.0}"),
    };
    let more = |w: usize, i: usize, of: &dyn Fn(&Sample) -> f64| {
        let base = &samples[w][contestants[i].base];
        1e6 * paired(&samples[w][i], base, |s, b| of(s) - of(b)) / f64::from(workloads[w].rows)
    };
    let more_cell = |w: usize, i: usize, of: &dyn Fn(&Sample) -> f64| match contestants[i].base {
        base if base == i => "-".to_owned(),
        _ => format!("{:.2}", more(w, i, of)),
    };
    let tables = vec![
        cells("Time, as a ratio to no trigger", &|w, i| ratio(w, i, &|s| s.seconds)),
        cells("Processor time of the backend, as a ratio to no trigger", &|w, i| ratio(w, i, &|s| s.cpu)),
        cells("More time per row, microseconds", &|w, i| more_cell(w, i, &|s| s.seconds)),
        cells("More processor time per row, microseconds", &|w, i| more_cell(w, i, &|s| s.cpu)),
        cells("Log, bytes per row: tables with their indexes", &|w, i| per_row(w, i, &|s| s.log)),
        cells("Log, bytes per row: the changes alone", &|w, i| per_row(w, i, &|s| s.payload)),
        cells("WAL, bytes per row, that of the table itself included", &|w, i| per_row(w, i, &|s| s.wal)),
    ];
    let mut figures = Vec::new();
    for (w, workload) in workloads.iter().enumerate() {
        for (i, contestant) in contestants.iter().enumerate() {
            let series = |of: &dyn Fn(&Sample) -> f64| samples[w][i].iter().map(of).collect::<Vec<f64>>();
            figures.push(json!({
                "workload": workload.name, "variant": contestant.variant.name, "rows": workload.rows,
                "base": contestants[contestant.base].variant.name,
                "ratio": paired(&samples[w][i], &samples[w][contestant.base], |s, b| s.seconds / b.seconds),
                "cpu_ratio": paired(&samples[w][i], &samples[w][contestant.base], |s, b| s.cpu / b.cpu),
                "more_microseconds_per_row": more(w, i, &|s| s.seconds),
                "more_cpu_microseconds_per_row": more(w, i, &|s| s.cpu),
                "seconds": series(&|s| s.seconds), "cpu_seconds": series(&|s| s.cpu),
                "wal_bytes": series(&|s| s.wal), "log_bytes": series(&|s| s.log),
                "payload_bytes": series(&|s| s.payload),
            }));
        }
    }
    Section { name: "bulk", about, tables, json: json!(figures) }
}
