//! Section writers: concurrent bulk inserts, each into a table of its own, and what they are seen waiting for.

use std::thread;

use pyreplica_benches::process::INTERVAL;
use pyreplica_benches::report::Section;
use pyreplica_benches::table::Table;
use pyreplica_benches::{median, paired, rounds, time, turns};
use pyreplica_tests::db::Db;
use serde_json::json;

use crate::waits::Waits;
use crate::{medians_of, start_server, SETTINGS};

const WRITERS: [usize; 4] = [1, 2, 4, 8];
const STATEMENTS: usize = 3;
const ROWS: usize = 100_000;
const VARIANTS: [&str; 2] = ["none", "pyreplica"];

pub fn run() -> Section {
    let server = start_server("writers", &[]);
    let dbs = VARIANTS.map(|variant| create(server.create_db(variant, ""), variant == "pyreplica"));
    let rounds = rounds();
    // By number of writers, variant: rows per second of each round; waits of all rounds.
    let mut rates = vec![[Vec::new(), Vec::new()]; WRITERS.len()];
    let mut waits = vec![[Waits::default(), Waits::default()]; WRITERS.len()];
    for round in 0..rounds {
        eprintln!("writers: round {} of {rounds}", round + 1);
        for (w, writers) in WRITERS.iter().enumerate() {
            server.db("postgres").run("checkpoint");
            for i in turns(VARIANTS.len(), round) {
                let seconds = time(|| measure(&dbs[i], *writers, &mut waits[w][i])).as_secs_f64();
                rates[w][i].push((writers * STATEMENTS * ROWS) as f64 / seconds);
                empty(&dbs[i], i == 1);
            }
        }
    }
    section(rounds, &rates, &waits)
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

fn measure(db: &Db, writers: usize, waits: &mut Waits) {
    waits.watch(db, || {
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

fn section(rounds: usize, rates: &[[Vec<f64>; 2]], waits: &[[Waits; 2]]) -> Section {
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
            let ours = if i == 0 { "-".to_owned() } else { waits[w][i].ours(0.0) };
            waiting.row(vec![format!("{writers}, {variant}"), waits[w][i].all(1.0), ours]);
        }
        figures.push(json!({
            "writers": writers, "rows_per_second": {"none": plain, "pyreplica": captured},
            "waits": {"none": waits[w][0].json(), "pyreplica": waits[w][1].json()},
        }));
    }
    Section { name: "writers", about, tables: vec![speed, waiting], json: json!(figures) }
}
