//! The statements that section bulk measures, and the tables they work on.

use pyreplica_tests::db::{Db, Session};

/// Rows go into it, and into the tables of `fill`, while no trigger fires.
pub const TABLES: [&str; 3] = ["t", "wide", "toasted"];

pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub rows: u32,
    table: &'static str,
    /// Brings the table to the state that the statement needs.
    fill: &'static str,
    statement: &'static str,
}

const EMPTY: &str = "truncate t restart identity";
const FULL: &str = "truncate t restart identity;
    insert into t (a, b, c, d)
    select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 100000) i";

pub const WORKLOADS: [Workload; 7] = [
    Workload {
        name: "insert",
        about: "100,000 INSERTs of one row in one transaction (the original's own benchmark)",
        rows: 100_000,
        table: "t",
        fill: EMPTY,
        statement: "do $$ begin for i in 1 .. 100000 loop
                        insert into t (a, b, c, d) values ('hello' || i, i * 0.5, '2020-01-01', i % 2 = 0);
                    end loop; end $$",
    },
    Workload {
        name: "insert-select",
        about: "INSERT ... SELECT of 300,000 rows",
        rows: 300_000,
        table: "t",
        fill: EMPTY,
        statement: "insert into t (a, b, c, d)
                    select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 300000) i",
    },
    Workload {
        name: "copy",
        about: "COPY of 300,000 rows from a file of the server",
        rows: 300_000,
        table: "t",
        fill: EMPTY,
        statement: "copy t (a, b, c, d) from '$file'",
    },
    Workload {
        name: "update",
        about: "UPDATE of one column of 100,000 rows",
        rows: 100_000,
        table: "t",
        fill: FULL,
        statement: "update t set b = b + 1",
    },
    Workload {
        name: "delete",
        about: "DELETE of 100,000 rows",
        rows: 100_000,
        table: "t",
        fill: FULL,
        statement: "delete from t",
    },
    Workload {
        name: "wide",
        about: "UPDATE of one of 100 columns of 20,000 rows",
        rows: 20_000,
        table: "wide",
        fill: "truncate wide; select fill_wide()",
        statement: "update wide set n = n + 1",
    },
    Workload {
        name: "toasted",
        about: "10 UPDATEs of an integer of 200 rows that also hold 100 kB of TOASTed text",
        rows: 2_000,
        table: "toasted",
        fill: "insert into toasted
               select i, 0, (select string_agg(md5(random()::text), '') from generate_series(1, 3200) where i > 0)
                 from generate_series(1, 200) i where not exists (select from toasted)",
        statement: "do $$ begin for i in 1 .. 10 loop update toasted set n = n + 1; end loop; end $$",
    },
];

pub fn names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|w| w.name).collect()
}

/// Makes the tables, and the file that is copied from.
pub fn create_tables(db: &Db) {
    db.run("create table t (id serial primary key, a text, b float8, c timestamp, d boolean)");
    // 49 integers and 49 texts besides key and counter.
    let columns: Vec<String> = (1..=49).map(|i| format!("i{i} int, t{i} text")).collect();
    let values: Vec<String> = (1..=49).map(|i| format!("r + {i}, 'text' || r + {i}")).collect();
    db.run(&format!("create table wide (id int primary key, n int, {})", columns.join(", ")));
    db.run(&format!(
        "create function fill_wide() returns void language sql as $$
             insert into wide select r, 0, {} from generate_series(1, 20000) r $$",
        values.join(", ")
    ));
    db.run(
        "create table toasted (id int primary key, n int, body text);
            alter table toasted alter body set storage external",
    );
    db.run(&format!(
        "copy (select 'hello' || i, i * 0.5, '2020-01-01', i % 2 = 0 from generate_series(1, 300000) i) to '{}'",
        copied_file(&mut db.session())
    ));
}

/// Brings table and processor caches to where the statement begins; nothing of this is captured.
pub fn prepare(session: &mut Session, workload: &Workload) {
    session.run(&format!(
        "set session_replication_role = replica; {}; set session_replication_role = origin",
        workload.fill
    ));
    // Hint bits: else the first reader pays.
    session.run(&format!("vacuum {}", workload.table));
}

/// The statement as this session is to run it.
pub fn statement(session: &mut Session, workload: &Workload) -> String {
    workload.statement.replace("$file", &copied_file(session))
}

fn copied_file(session: &mut Session) -> String {
    session.rows("select current_setting('data_directory') || '/copied'").join("")
}
