//! Section memory: how much a backend takes for its own in transactions of many rows or savepoints.

use pyreplica_benches::empty_trigger;
use pyreplica_benches::process::peak_memory;
use pyreplica_benches::report::Section;
use pyreplica_benches::table::Table;
use pyreplica_tests::db::{Db, Session};
use serde_json::json;

use crate::start_server;

const VARIANTS: [&str; 3] = ["none", "empty", "pyreplica"];

struct Workload {
    name: &'static str,
    about: &'static str,
    run: fn(&mut Session),
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "rows",
        about: "10,000,000 rows in one transaction, 10,000 in each statement",
        run: |session| {
            for i in 0..1000 {
                session.run(&format!(
                    "insert into m select i, 'row ' || i from generate_series({i} * 10000, {i} * 10000 + 9999) i"
                ));
            }
        },
    },
    Workload {
        name: "released",
        about: "100,000 savepoints in one transaction, each with a row, each released",
        run: |session| {
            for i in 0..100 {
                savepoints(session, i, "; release s");
            }
        },
    },
    Workload {
        name: "open",
        about: "10,000 savepoints in one transaction, each with a row, all left open inside each other",
        run: |session| {
            for i in 0..10 {
                savepoints(session, i, "");
            }
        },
    },
];

/// The `i`th thousand of savepoints.
fn savepoints(session: &mut Session, i: u32, end: &str) {
    let statements: Vec<String> = (i * 1000..(i + 1) * 1000)
        .map(|row| format!("savepoint s; insert into m values ({row}, 'row'){end}"))
        .collect();
    session.run(&statements.join("; "));
}

pub fn run() -> Section {
    let server = start_server("memory", &[("max_locks_per_transaction", "128")]);
    let dbs = VARIANTS.map(|variant| create(server.create_db(variant, ""), variant));
    // By workload, variant: bytes.
    let peaks = WORKLOADS.each_ref().map(|workload| {
        dbs.each_ref().map(|db| {
            eprintln!("memory: {} under {}", workload.name, db.name);
            measure(db, workload)
        })
    });
    let mut session = dbs[2].session();
    session.run("load 'pyreplica'");
    let limit = session.rows("show pyreplica.buffer_size").join("");
    let mut about = vec![
        "Most memory that is the backend's own (RssAnon), in MiB, at one run each.".to_owned(),
        format!("pyreplica.buffer_size is {limit}."),
    ];
    about.extend(WORKLOADS.iter().map(|w| format!("* {}: {}.", w.name, w.about)));
    about.push("An empty trigger has PostgreSQL's trigger queue in memory, as ours has.".to_owned());
    let mut table = Table::new(
        "Memory",
        &["workload", "none", "empty", "pyreplica", "more than empty", "more than none"],
    );
    let mut figures = Vec::new();
    for (workload, peaks) in WORKLOADS.iter().zip(&peaks) {
        let mebibytes = |bytes: f64| format!("{:.1}", bytes / 1048576.0);
        let [none, empty, ours] = peaks.map(|bytes| bytes as f64);
        let cells = [none, empty, ours, ours - empty, ours - none].map(mebibytes);
        table.row(std::iter::once(workload.name.to_owned()).chain(cells).collect());
        figures.push(
            json!({"workload": workload.name, "bytes": {"none": none, "empty": empty, "pyreplica": ours}}),
        );
    }
    Section { name: "memory", about, tables: vec![table], json: json!(figures) }
}

fn create(db: Db, variant: &str) -> Db {
    db.run("create table m (id int primary key, a text)");
    match variant {
        "empty" => {
            empty_trigger::create(&db);
            empty_trigger::attach(&db, "m");
        }
        "pyreplica" => db.run("create extension pyreplica; select pyreplica.add_table('m')"),
        _ => {}
    }
    db
}

/// The peak of a new session, whose first change was made before.
fn measure(db: &Db, workload: &Workload) -> u64 {
    let mut session = db.session();
    let pid = session.rows("select pg_backend_pid()").join("").parse().expect("pid");
    session.run("insert into m values (-1, 'first')");
    session.run("begin");
    let peak = peak_memory(pid, || {
        (workload.run)(&mut session);
        session.run("commit");
    });
    db.run("truncate m");
    if db.name == "pyreplica" {
        db.run("truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2");
    }
    peak
}
