//! The chunk tables are emptied once every slave has passed them.

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";
const SIZE: &str =
    "select sum(pg_total_relation_size(('pyreplica.log_' || i)::regclass)) from generate_series(0, 2) i";

/// More than one chunk table takes before writers go on to the next.
fn write_much(trio: &Trio, from: i32) {
    for part in 0..4 {
        let first = from + part * 2_500;
        trio.master.run(&format!("insert into t select i, repeat(md5(i::text), 80) from generate_series({first}, {first} + 2499) i"));
    }
}

#[test]
fn the_log_does_not_grow_while_slaves_follow() {
    let mut trio = Trio::start(TABLE);
    let mut largest = 0;
    for round in 0..6 {
        write_much(&trio, round * 100_000);
        trio.catch_up();
        trio.master.run("select pyreplica.rotate_log()");
        largest = largest.max(trio.master.value(SIZE).parse::<u64>().expect("a number"));
    }
    let written = 6 * 4 * 2_500 * 2_560;
    assert!(largest < written * 2 / 3, "{largest} bytes of log for {written} bytes written");
    trio.catch_up_and_compare();
    wait_for("the log to shrink when nothing happens", || {
        trio.master.run("select pyreplica.rotate_log()");
        (trio.master.value(SIZE).parse::<u64>().expect("a number") < written / 3).then_some(())
    });
}

#[test]
fn a_slave_that_is_away_keeps_its_changes() {
    // GIVEN two slaves that know their place, of which nobody reads on
    let mut trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    for round in 0..3 {
        write_much(&trio, round * 100_000);
        trio.master.run("select pyreplica.rotate_log()");
    }
    // WHEN they come back THEN nothing is lost
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[1].value("select count(*) from t"), "30000");
}

#[test]
fn an_open_writer_keeps_its_chunks() {
    let mut trio = Trio::start(TABLE);
    let open = trio
        .master
        .begin("insert into t select i, repeat(md5(i::text), 20) from generate_series(-2000, -1) i");
    for round in 0..3 {
        write_much(&trio, round * 100_000);
        trio.catch_up();
        trio.master.run("select pyreplica.rotate_log()");
    }
    open.commit();
    trio.catch_up_and_compare();
}

#[test]
fn a_log_over_its_limit_gives_a_slave_up() {
    let trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.master.run(&format!("alter database \"{}\" set pyreplica.max_log_size = '10MB'", trio.master.name));
    write_much(&trio, 0);
    // One at a time, so that what it held is emptied before another one is given up.
    for given_up in 1..=2 {
        trio.master.run("select pyreplica.rotate_log()");
        let states =
            "select count(*), sqlstate from pyreplica.slave where state = 'needs copy' group by sqlstate";
        assert_eq!(trio.master.value(states), format!("{given_up}|53400"));
    }
    // While the log still holds what it lacks a slave that was given up may go on; afterwards it may not.
    trio.master.run("select pyreplica.rotate_log()");
    trio.once().expect_code(1).expect_text(&["replica_agent copy"]);
    // The way out
    trio.master.run(&format!("alter database \"{}\" reset pyreplica.max_log_size", trio.master.name));
    trio.agent.run(&["copy"]).expect_code(0);
    trio.master.run("insert into t values (-1)");
    trio.once().expect_code(0);
    trio.assert_same();
}
