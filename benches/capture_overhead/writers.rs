//! Section writers: concurrent bulk inserts, each into a table of its own, and what they are seen waiting for.

use std::collections::BTreeMap;
use std::thread;

use pyreplica_benches::process::{meanwhile, INTERVAL};
use pyreplica_benches::report::Section;
use pyreplica_benches::table::Table;
use pyreplica_benches::{median, paired, rounds, time, turns};
use pyreplica_tests::db::Db;
use serde_json::json;

use crate::{medians_of, start_server, SETTINGS};

const WRITERS: [usize; 4] = [1, 2, 4, 8];
const STATEMENTS: usize = 3;
const ROWS: usize = 100_000;
const VARIANTS: [&str; 2] = ["none", "pyreplica"];

/// A backend that waits for nothing.
const RUNNING: &str = "running";

/// The wait event of each active backend, and which lock of ours, if any, it waits for: on a relation of our schema,
/// or on the database, which NOTIFY takes.
const LOOK: &str = "
    select coalesce(wait_event_type || ' ' || wait_event, 'running'),
           coalesce((select coalesce(locktype || ' of ' || relname, 'NOTIFY')
                       from pg_locks l left join pg_class c on c.oid = relation
                      where l.pid = a.pid and not granted
                        and (relnamespace = to_regnamespace('pyreplica') or classid = 'pg_database'::regclass)), '')
      from pg_stat_activity a
     where datname = current_database() and state = 'active' and pid <> pg_backend_pid()";

/// How often each wait was seen, by its name.
type Waits = BTreeMap<String, u64>;

pub fn run() -> Section {
    let server = start_server("writers", &[]);
    let dbs = VARIANTS.map(|variant| create(server.create_db(variant, ""), variant == "pyreplica"));
    let rounds = rounds();
    // By number of writers, variant: rows per second of each round; waits of all rounds; those for our relations.
    let mut rates = vec![[Vec::new(), Vec::new()]; WRITERS.len()];
    let mut waits = vec![[Waits::new(), Waits::new()]; WRITERS.len()];
    let mut ours = vec![Waits::new(); WRITERS.len()];
    for round in 0..rounds {
        eprintln!("writers: round {} of {rounds}", round + 1);
        for (w, writers) in WRITERS.iter().enumerate() {
            server.db("postgres").run("checkpoint");
            for i in turns(VARIANTS.len(), round) {
                let seconds =
                    time(|| measure(&dbs[i], *writers, &mut waits[w][i], &mut ours[w])).as_secs_f64();
                rates[w][i].push((writers * STATEMENTS * ROWS) as f64 / seconds);
                empty(&dbs[i], i == 1);
            }
        }
    }
    section(rounds, &rates, &waits, &ours)
}

fn create(db: Db, captured: bool) -> Db {
    for i in 0..WRITERS[WRITERS.len() - 1] {
        db.run(&format!(
            "create table w{i} (id serial primary key, a text, b float8, c timestamp, d boolean)"
        ));
    }
    if captured {
        db.run("create extension pyreplica; select * from pyreplica.add_all_tables('public')");
    }
    db
}

fn empty(db: &Db, captured: bool) {
    let tables: Vec<String> = (0..WRITERS[WRITERS.len() - 1]).map(|i| format!("w{i}")).collect();
    db.run(&format!("set session_replication_role = replica; truncate {}", tables.join(", ")));
    if captured {
        db.run("truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2");
    }
}

fn measure(db: &Db, writers: usize, waits: &mut Waits, ours: &mut Waits) {
    let mut sampler = db.session();
    let look = || {
        for row in sampler.rows(LOOK) {
            let (event, lock) = row.split_once('|').unwrap_or((&row, ""));
            *waits.entry(event.to_owned()).or_default() += 1;
            if !lock.is_empty() {
                *ours.entry(lock.to_owned()).or_default() += 1;
            }
        }
    };
    meanwhile(look, || {
        thread::scope(|scope| {
            for i in 0..writers {
                let mut session = db.session();
                scope.spawn(move || {
                    for _ in 0..STATEMENTS {
                        session.run(&format!(
                            "insert into w{i} (a, b, c, d) select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0
                               from generate_series(1, {ROWS}) i"
                        ));
                    }
                });
            }
        });
    });
}

fn section(rounds: usize, rates: &[[Vec<f64>; 2]], waits: &[[Waits; 2]], ours: &[Waits]) -> Section {
    let about = vec![
        format!("{STATEMENTS} INSERT ... SELECT of {ROWS} rows by each writer into a table of its own."),
        SETTINGS.to_owned(),
        medians_of(rounds),
        format!("Waits: a look every {} ms, all rounds together.", INTERVAL.as_millis()),
        "Ours are waits for a lock on a relation of schema pyreplica, or for the one that NOTIFY takes."
            .to_owned(),
    ];
    let mut speed = Table::new(
        "Rows per second of all writers together",
        &["writers", "none", "pyreplica", "time, as a ratio to no trigger"],
    );
    let mut waiting =
        Table::new("Waits, in per cent of the looks at a writer", &["writers and variant", "waits", "ours"]);
    let mut figures = Vec::new();
    for (w, writers) in WRITERS.iter().enumerate() {
        let [plain, captured] = &rates[w];
        speed.row(vec![
            writers.to_string(),
            format!("{:.0}", median(plain.clone())),
            format!("{:.0}", median(captured.clone())),
            format!("{:.2}", paired(plain, captured, |p, c| p / c)),
        ]);
        for (i, variant) in VARIANTS.iter().enumerate() {
            let total = waits[w][i].values().sum();
            let ours = if i == 0 { "-".to_owned() } else { shares(&ours[w], total, 0.0) };
            waiting.row(vec![format!("{writers}, {variant}"), shares(&waits[w][i], total, 1.0), ours]);
        }
        figures.push(json!({
            "writers": writers, "rows_per_second": {"none": plain, "pyreplica": captured},
            "waits": {"none": waits[w][0], "pyreplica": waits[w][1]}, "waits_for_our_locks": ours[w],
        }));
    }
    Section { name: "writers", about, tables: vec![speed, waiting], json: json!(figures) }
}

/// The waits of at least `least` per cent of `total` looks, most frequent first.
fn shares(waits: &Waits, total: u64, least: f64) -> String {
    let percent = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
    let mut sorted: Vec<(&str, f64)> =
        waits.iter().map(|(event, count)| (&event[..], percent(*count))).collect();
    sorted.retain(|(event, share)| *event != RUNNING && *share >= least);
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
    let texts: Vec<String> = sorted.iter().map(|(event, share)| format!("{event} {share:.1}")).collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}
