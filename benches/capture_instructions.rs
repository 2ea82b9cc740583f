//! Instructions that capture adds, for each row or transaction, counted by callgrind: they do not depend on how busy
//! the machine is.
//!
//! A backend without a server (`postgres --single`) runs a statement for few and for many rows, so that what it does
//! once drops out. Counted is all that the backend does until it ends, the log and its WAL included.
//! With the word `guard` it runs what capture_instructions.json has figures of, and fails where one has grown by
//! more than a tenth; `accept` writes that file anew.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{exit, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use pyreplica_benches::arguments::Arguments;
use pyreplica_benches::empty_trigger;
use pyreplica_benches::report::{Report, Section};
use pyreplica_benches::table::Table;
use pyreplica_tests::cluster::{run, Cluster};
use pyreplica_tests::keeper;
use serde_json::{json, Map, Value};

struct Workload {
    name: &'static str,
    about: &'static str,
    /// Rows, or transactions, of the two runs.
    counts: [u32; 2],
    /// The line or lines that the backend reads; `$n` is the count. Repeated for each of the count where `each`.
    input: &'static str,
    each: bool,
}

const WORKLOADS: [Workload; 8] = [
    Workload {
        name: "insert",
        about: "INSERTs of one row in one transaction, each row",
        counts: [2000, 6000],
        input: "do $$ begin for i in 1 .. $n loop insert into t (a, b, c, d) values ('hello' || i, i * 0.5, '2020-01-01', i % 2 = 0); end loop; end $$\n",
        each: false,
    },
    Workload {
        name: "insert-select",
        about: "INSERT ... SELECT, each row",
        counts: [4000, 12_000],
        input: "insert into t (a, b, c, d) select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, $n) i\n",
        each: false,
    },
    Workload {
        name: "update",
        about: "UPDATE of one column, each row",
        counts: [4000, 12_000],
        input: "update filled set b = b + 1 where id <= $n\n",
        each: false,
    },
    Workload {
        name: "delete",
        about: "DELETE, each row",
        counts: [4000, 12_000],
        input: "delete from filled where id <= $n\n",
        each: false,
    },
    Workload {
        name: "wide",
        about: "UPDATE of one of 100 columns, each row",
        counts: [1000, 3000],
        input: "update wide set n = n + 1 where id <= $n\n",
        each: false,
    },
    Workload {
        name: "transaction",
        about: "three UPDATEs and an INSERT as in TPC-B, each transaction",
        counts: [50, 250],
        input: "begin\nupdate account set balance = balance + 1 where id = $i\nupdate teller set balance = balance + 1 where id = 1\nupdate branch set balance = balance + 1 where id = 1\ninsert into history (tid, bid, aid, delta, mtime) values (1, 1, $i, 1, '2020-01-01')\nend\n",
        each: true,
    },
    Workload {
        name: "routed",
        about: "INSERTs of one row that is routed to a partition, each row",
        counts: [500, 1500],
        input: "do $$ begin for i in 1 .. $n loop insert into parts values (i, 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0); end loop; end $$\n",
        each: false,
    },
    Workload {
        name: "filtered",
        about: "INSERT, UPDATE and DELETE of a row that a filter leaves out, each row; empty: a disabled trigger",
        counts: [500, 2500],
        input: "do $$ begin for i in 1 .. $n loop insert into filtered values (-i, 'hello', i * 0.5, '2020-01-01', false); update filtered set b = b + 1 where id = i; delete from filtered where id = i; end loop; end $$\n",
        each: false,
    },
];

const SCHEMA: &str = "
    create table t (id serial primary key, a text, b float8, c timestamp, d boolean);
    create table filled (like t including all);
    insert into filled select i, 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 12000) i;
    create table parts (id int primary key, a text, b float8, c timestamp, d boolean) partition by range (id);
    create table parts_1 partition of parts for values from (0) to (1000000);
    create table filtered (like t including all);
    insert into filtered select i, 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 2500) i;
    create table wide (id int primary key, n int);
    do $$ begin for i in 1 .. 49 loop
        execute format('alter table wide add i%s int default %s, add t%s text default %L', i, i, i, 'text' || i);
    end loop; end $$;
    insert into wide select i, 0 from generate_series(1, 3000) i;
    create table account (id int primary key, bid int, balance int, filler char(84));
    insert into account select i, 1, 0, '' from generate_series(1, 250) i;
    create table teller (id int primary key, bid int, balance int, filler char(84));
    insert into teller values (1, 1, 0, '');
    create table first (id int primary key);
    create table branch (id int primary key, balance int, filler char(88));
    insert into branch values (1, 0, '');
    create table history (id bigserial primary key, tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))";

/// What each run begins with: a session's first change of a captured table costs it more than the others.
const FIRST: &str = "insert into first values (1)\n";

/// Databases with these names.
const VARIANTS: [&str; 3] = ["none", "empty", "pyreplica"];

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/capture_instructions.json");
/// What the guard allows.
const GROWTH: f64 = 1.10;

fn main() {
    let names = WORKLOADS.map(|workload| workload.name);
    let arguments = Arguments::parse(&[&names[..], &["guard", "accept"]].concat());
    let workloads: Vec<&Workload> = WORKLOADS.iter().filter(|w| arguments.wants(w.name, &names)).collect();
    let guarding = arguments.any(&["guard"]);
    let variants: &[usize] = if guarding { &[0, 2] } else { &[0, 1, 2] };
    let counted = count(&workloads, variants);
    if arguments.any(&["accept"]) {
        accept(&workloads, &counted);
    }
    if guarding {
        guard(&workloads, &counted);
    } else {
        Report::new("capture_instructions", arguments.results).add(section(&workloads, &counted));
    }
}

/// Instructions for each row or transaction, by workload and variant; 0 for variants that are not wanted.
fn count(workloads: &[&Workload], variants: &[usize]) -> Vec<[f64; 3]> {
    let server = Cluster::start("counted", &[]);
    for variant in VARIANTS {
        let db = server.create_db(variant, "");
        db.run(SCHEMA);
        match variant {
            "empty" => {
                empty_trigger::create(&db);
                for table in db.rows("select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace") {
                    empty_trigger::attach(&db, &table);
                }
                db.run("alter table filtered disable trigger all");
            }
            "pyreplica" => db.run(
                "create extension pyreplica; select pyreplica.add_all_tables('public');
                 select pyreplica.remove_table('filtered'),
                        pyreplica.add_table('filtered', row_filter => 'id > 1000000 and a <> ''x''')",
            ),
            _ => {}
        }
        db.run("vacuum analyze");
    }
    server.stop();

    // Workload, variant, which of the two counts; several at a time.
    let mut tasks = Vec::new();
    for w in 0..workloads.len() {
        tasks.extend(variants.iter().flat_map(|&v| [(w, v, 0), (w, v, 1)]));
    }
    let tasks = Mutex::new(tasks);
    let totals = Mutex::new(vec![[[0.0; 2]; 3]; workloads.len()]);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| loop {
                let Some((w, v, c)) = tasks.lock().expect("tasks").pop() else { break };
                let instructions = run_counted(&server, workloads[w], VARIANTS[v], workloads[w].counts[c]);
                totals.lock().expect("totals")[w][v][c] = instructions;
            });
        }
    });
    let totals = totals.into_inner().expect("totals");
    let per_unit = |workload: &Workload, [few, many]: [f64; 2]| {
        (many - few) / f64::from(workload.counts[1] - workload.counts[0])
    };
    workloads.iter().zip(totals).map(|(workload, totals)| totals.map(|t| per_unit(workload, t))).collect()
}

/// All instructions of a backend that runs a workload on a copy of the data directory.
fn run_counted(server: &Cluster, workload: &Workload, database: &str, count: u32) -> f64 {
    let name = format!("{}-{database}-{count}", workload.name);
    let dir = keeper::subdir(&name);
    let data = dir.join("data");
    run(Command::new("cp").arg("-a").arg(server.data()).arg(&data));
    let input: String = if workload.each {
        (1..=count).map(|i| workload.input.replace("$i", &i.to_string())).collect()
    } else {
        workload.input.replace("$n", &count.to_string())
    };
    let input_path = dir.join("input.sql");
    fs::write(&input_path, FIRST.to_owned() + &input).expect("input");
    let wrapper = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"].map(str::to_owned);
    let output = server
        .single_backend(&wrapper, &data, database)
        .stdin(Stdio::from(fs::File::open(&input_path).expect("input")))
        .output()
        .unwrap_or_else(|e| panic!("could not run valgrind: {e}"));
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && !text.contains("ERROR:"),
        "{name} ended with {}:\n{text}",
        output.status
    );
    fs::remove_dir_all(&dir).expect("own directory");
    text.lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .unwrap_or_else(|| panic!("callgrind has not counted:\n{text}"))
}

/// What capture adds to what the statement costs without it.
fn added(counted: &[f64; 3]) -> f64 {
    (counted[2] - counted[0]).round()
}

fn baseline() -> Map<String, Value> {
    let text = fs::read_to_string(BASELINE).unwrap_or_else(|e| panic!("{BASELINE}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{BASELINE}: {e}"))
}

fn accept(workloads: &[&Workload], counted: &[[f64; 3]]) {
    let mut figures = if Path::new(BASELINE).exists() { baseline() } else { Map::new() };
    for (workload, counted) in workloads.iter().zip(counted) {
        figures.insert(workload.name.to_owned(), json!(added(counted) as u64));
    }
    let path = PathBuf::from(BASELINE);
    fs::write(&path, format!("{:#}\n", Value::Object(figures))).unwrap_or_else(|e| panic!("{BASELINE}: {e}"));
    println!("brought up to date: {}", path.display());
}

/// Exits with 1 where a figure has grown too much.
fn guard(workloads: &[&Workload], counted: &[[f64; 3]]) {
    let baseline = baseline();
    let mut table = Table::new("Instructions that capture adds", &["workload", "before", "now", "ratio"]);
    let mut grown = Vec::new();
    for (workload, counted) in workloads.iter().zip(counted) {
        let before = baseline.get(workload.name).and_then(Value::as_f64);
        let before = before.unwrap_or_else(|| panic!("no figure of {} in {BASELINE}", workload.name));
        let ratio = added(counted) / before;
        table.row(vec![
            workload.name.to_owned(),
            format!("{before:.0}"),
            format!("{:.0}", added(counted)),
            format!("{ratio:.2}"),
        ]);
        if ratio > GROWTH {
            grown.push(workload.name);
        }
    }
    print!("{}", table.text());
    if !grown.is_empty() {
        println!(
            "capture costs more than a tenth more than in {BASELINE}: {}\n\
             If that is what you want: make bench BENCH=capture_instructions ONLY=accept",
            grown.join(", ")
        );
        exit(1);
    }
}

fn section(workloads: &[&Workload], counted: &[[f64; 3]]) -> Section {
    let mut about = vec!["Instructions of a backend, counted by callgrind; \
                          ratio is that to no trigger, added what ours has more."
        .to_owned()];
    about.extend(workloads.iter().map(|w| format!("* {}: {}.", w.name, w.about)));
    let mut table = Table::new(
        "Instructions",
        &["workload", "none", "empty", "pyreplica", "ratio empty", "ratio pyreplica", "added"],
    );
    let mut figures = Vec::new();
    for (workload, counted) in workloads.iter().zip(counted) {
        let [none, empty, ours] = *counted;
        let mut cells = vec![workload.name.to_owned()];
        cells.extend([none, empty, ours].map(|n| format!("{n:.0}")));
        cells.extend([empty / none, ours / none].map(|r| format!("{r:.3}")));
        cells.push(format!("{:.0}", added(counted)));
        table.row(cells);
        figures.push(json!({"workload": workload.name, "none": none, "empty": empty, "pyreplica": ours}));
    }
    Section { name: "instructions", about, tables: vec![table], json: json!(figures) }
}
