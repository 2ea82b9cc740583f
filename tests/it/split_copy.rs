//! A large table is copied by several workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

use crate::copy::Ends;

const TABLE: &str = "create table t (id int primary key, v text)";
const ROWS: &str = "insert into t select i, 'x' from generate_series(1, 20000) i";

/// Every table is a large one. Each range takes the slave so long that other workers have come before the last.
fn split(setup: Setup) -> Trio {
    let trio = setup.slaves(1).agent_line("copy_jobs = 3").agent_line("copy_split_bytes = 1").build();
    trio.slaves[0].run(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.05); return null; end $$;
         create trigger slow after insert on t execute function slow();
         alter table t enable always trigger slow",
    );
    trio
}

fn assert_in_step(trio: &mut Trio) {
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
    assert_eq!(trio.slaves[0].value("select count(*) from pyreplica_agent.copy_request"), "0");
}

#[test]
fn a_large_table_is_copied_by_several_workers_under_concurrent_writes() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic(), Setup::new(TABLE).one_phase()] {
        let mut trio = split(setup);
        trio.master.run(ROWS);
        let (done, master) = (AtomicBool::new(false), trio.master.clone());
        std::thread::scope(|scope| {
            let (master, done) = (&master, &done);
            scope.spawn(move || {
                let mut session = master.session();
                for i in (0..300).take_while(|_| !done.load(Ordering::Relaxed)) {
                    session.run(&format!(
                        "update t set v = v || '{i}' where id % 1000 = {i} % 1000; insert into t values (50000 + {i});
                         update t set id = -id where id = {i} * 7; delete from t where id % 5000 = {i}"
                    ));
                }
            });
            let _ends = Ends(done);
            trio.agent.start();
            trio.agent.wait_for_log("copied table public.t by 3 workers");
        });
        trio.slaves[0].run("drop trigger slow on t");
        assert_in_step(&mut trio);
    }
}

#[test]
fn partitions_parts_and_transformed_rows_are_split_as_well() {
    let partitioned = "create table t (id int primary key, v text) partition by range (id);
         create table t1 partition of t for values from (0) to (100);
         create table t2 partition of t for values from (100) to (30000)";
    let mut trio = split(Setup::new(partitioned).slave_schema(TABLE));
    trio.master.run(ROWS);
    trio.agent.start();
    trio.agent.wait_for_log("copied table public.t by 3 workers: 20000 rows");
    assert_in_step(&mut trio);

    let mut trio = split(
        Setup::new(TABLE).slave_line("[[slave.table]]\nname = \"public.t\"\nvalues = { v = \"upper(v)\" }"),
    );
    trio.master.run("select pyreplica.remove_table('t')");
    trio.master.run("select pyreplica.add_table('t', row_filter => 'new.id % 2 = 0 or new.id < 10')");
    trio.master.run(ROWS);
    trio.agent.start();
    trio.agent.wait_for_log("copied table public.t by 3 workers: 10005 rows");
    trio.catch_up();
    assert_eq!(trio.slaves[0].rows("select count(*), count(distinct id), min(v) from t"), ["10005|10005|X"]);
}

#[test]
fn a_killed_copy_of_a_large_table_begins_anew() {
    for failpoint in ["copy.after_range:1", "copy.after_range:10", "copy.before_commit", "copy.after_commit"]
    {
        eprintln!("failpoint {failpoint}");
        let mut trio = split(Setup::new(TABLE));
        trio.master.run(ROWS);
        trio.agent.start_to_die_at(failpoint);
        assert!(!trio.agent.wait_exit().success());
        trio.master.run("delete from t where id % 7 = 0; insert into t values (0)");
        trio.agent.start();
        assert_in_step(&mut trio);
    }
}

/// What it has left is not in step, whatever the configuration says.
#[test]
fn a_killed_copy_of_a_large_table_is_finished_with_initial_current_too() {
    let mut trio = split(Setup::new(TABLE));
    trio.master.run(ROWS);
    trio.agent.start_to_die_at("copy.after_range:3");
    assert!(!trio.agent.wait_exit().success());
    trio.agent.configure(&trio.config().replace("initial = \"copy\"", "initial = \"current\""));
    assert_in_step(&mut trio);
}

#[test]
fn an_error_of_one_worker_ends_the_copy_of_the_table() {
    let mut trio = split(Setup::new(TABLE));
    trio.master.run(ROWS);
    trio.slaves[0].run("alter table t add check (id <> 12345)");
    trio.once().expect_code(1).expect_text(&["public.t", "t_id_check"]);
    assert_eq!(trio.slaves[0].value("select count(*) between 1 and 19999 from t"), "t");
    trio.slaves[0].run("alter table t drop constraint t_id_check");
    trio.agent.run(&["check"]).expect_code(0);
    assert_in_step(&mut trio);
}

/// Who waits for a strong lock on the master's table lets no other worker pass, and waits for the first one.
#[test]
fn a_worker_does_not_wait_for_who_waits_for_the_copy() {
    let mut trio = split(Setup::new(TABLE));
    trio.master.run(ROWS);
    let mut holder = trio.slaves[0].session();
    holder.run("begin; lock table t in row exclusive mode");
    trio.agent.start();
    trio.agent.wait_for_log("waits for a lock of another session on the slave");
    let master = trio.master.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| master.run("begin; lock table t in access exclusive mode; commit"));
        let waits = "select count(*) from pg_locks where relation = 't'::regclass and not granted";
        wait_for("a waiting lock", || (master.value(waits) == "1").then_some(()));
        holder.run("commit");
        trio.agent.wait_for_log("copied table public.t by 1 workers");
    });
    assert_in_step(&mut trio);
}

/// The same of an index. Far workers come when the first one is at work.
#[test]
fn a_worker_does_not_wait_for_who_builds_an_index_anew() {
    let mut trio = split(Setup::new(TABLE).far_slaves(Duration::from_millis(30)));
    trio.master.run(ROWS);
    trio.agent.start();
    wait_for("some rows", || (trio.slaves[0].value("select count(*) > 0 from t") == "t").then_some(()));
    let master = trio.master.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| master.run("set statement_timeout = '50s'; reindex index t_pkey"));
        trio.agent.wait_for_log("copied table public.t by");
    });
    assert_in_step(&mut trio);
}

/// Whoever reads a table while it is copied again finds the rows that it had.
#[test]
fn a_table_that_is_copied_again_is_not_split() {
    let mut trio = split(Setup::new(TABLE));
    trio.master.run(ROWS);
    trio.catch_up();
    let copied = trio.agent.run(&["copy", "--table", "public.t"]).expect_code(0);
    assert!(copied.text().contains("copied table public.t: 20000 rows"), "{}", copied.text());
    trio.agent.start();
    trio.catch_up();
    trio.agent.run(&["copy", "--table", "public.t"]).expect_code(0);
    trio.agent.wait_for_log("copied table public.t: 20000 rows");
    assert_in_step(&mut trio);
}
