//! Rows on a slave that are not what a change expects.

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text, n int)";

fn with_rows() -> Trio {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)");
    trio.catch_up();
    trio
}

#[test]
fn a_missing_row_is_reported_and_passed_over() {
    let mut trio = with_rows();
    trio.slaves[0].run("delete from t where id in (1, 2)");
    trio.master.run(
        "update t set v = 'x' where id = 1; delete from t where id = 2; update t set v = 'z' where id = 3",
    );
    trio.catch_up();
    assert_eq!(trio.slaves[0].rows("select id, v from t"), ["3|z"]);
    let found = trio.slaves[0]
        .rows("select conflict, relation, op, applied from pyreplica_agent.conflict order by id");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("update_missing|public.t|") && found[0].ends_with("|f"), "{found:?}");
    assert!(found[1].starts_with("delete_missing|public.t|") && found[1].ends_with("|f"), "{found:?}");
    assert_eq!(trio.conflicts(1), [""; 0]);
    assert!(trio.agent.log().contains("update_missing"), "the log names the conflict");
}

/// Also of one row, in one transaction.
#[test]
fn every_change_that_is_left_out_is_recorded() {
    let trio = Setup::new(TABLE).slaves(1).build();
    trio.master.run("insert into t values (1, 'a', 1), (3, 'c', 3)");
    trio.once().expect_code(0);
    trio.slaves[0].run("delete from t where id = 3");
    let update = "update t set n = n + 1;";
    trio.master.run(&format!("begin; {update} {update} {update} commit"));
    trio.once().expect_code(0);
    assert_eq!(trio.conflicts(0), ["update_missing|public.t|(id)=(3)"; 3]);
    assert_eq!(trio.slaves[0].rows("select id, n from t"), ["1|4"]);
}

#[test]
fn other_old_values_are_reported_and_overwritten() {
    let mut trio = with_rows();
    trio.slaves[1].run("update t set v = 'mine' where id = 1; update t set n = 99 where id = 2");
    // v of row 2 is as expected, and n is not touched by the change: no conflict
    trio.master.run("update t set v = 'master' where id in (1, 2)");
    trio.catch_up();
    assert_eq!(
        trio.slaves[1].rows("select id, v, n from t order by id"),
        ["1|master|1", "2|master|99", "3|c|3"]
    );
    let found = trio.conflicts(1);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("update_differs|public.t|"), "{found:?}");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn an_existing_row_stops_the_slave_until_it_is_gone() {
    let mut trio = with_rows();
    // GIVEN a row of its own on one slave
    trio.slaves[0].run("insert into t values (10, 'mine', 0)");
    // WHEN the master inserts the same key
    trio.master.run("insert into t values (9, 'nine', 9); insert into t values (10, 'ten', 10)");
    // THEN that slave stops and says why, the other goes on
    trio.wait_for_slave(1);
    let status = wait_for("the error in slave_status", || {
        let row = trio
            .master
            .value("select state, sqlstate, last_error, hint from pyreplica.slave where name = 'slave1'");
        row.starts_with("error|").then_some(row)
    });
    for part in ["23505", "public.t", "10"] {
        assert!(status.contains(part), "no {part} in {status}");
    }
    assert!(!trio.is_in_step(0));
    // and since when, however often it is tried again
    let since = "select error_since, state_since from pyreplica.slave_status where name = 'slave1'";
    let first = trio.master.value(since);
    let updated = "select updated_at from pyreplica.slave_status where name = 'slave1'";
    let seen = trio.master.value(updated);
    wait_for("another attempt", || (trio.master.value(updated) != seen).then_some(()));
    assert_eq!(trio.master.value(since), first);
    let log = trio.agent.log();
    assert!(log.contains("insert_exists") && log.contains("slave1"), "{log}");
    // and goes on when the row is gone
    trio.slaves[0].run("delete from t where id = 10");
    trio.catch_up_and_compare();
    assert_eq!(trio.master.value("select count(*) from pyreplica.slave where last_error is not null"), "0");
}

/// Transactions are joined to batches; an error in one of them must not undo those before it again and again, or a
/// slave could never be mended between two transactions that need different schemas.
fn transactions_before_the_one_that_fails_are_kept(atomic: bool) {
    let mut setup = Setup::new(TABLE);
    setup.atomic = atomic;
    let trio = setup.build();
    trio.once().expect_code(0);
    trio.slaves[0].run("insert into t values (2)");
    for id in 1..=3 {
        trio.master.run(&format!("insert into t values ({id})"));
    }
    trio.once().expect_code(1).expect_text(&["slave1", "public.t"]);
    assert_eq!(trio.slaves[0].value("select string_agg(id::text, ' ' order by id) from t"), "1 2");
    trio.slaves[0].run("delete from t where id = 2");
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn transactions_before_the_one_that_fails_are_kept_by_each_slave() {
    transactions_before_the_one_that_fails_are_kept(false);
}

#[test]
fn transactions_before_the_one_that_fails_are_kept_by_a_group() {
    transactions_before_the_one_that_fails_are_kept(true);
}

#[test]
fn once_ends_with_the_error() {
    let trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.slaves[0].run("insert into t values (1)");
    trio.master.run("insert into t values (1)");
    trio.once().expect_code(1).expect_text(&["slave1", "public.t"]);
    assert_eq!(trio.slaves[1].value("select count(*) from t"), "1");
}

/// A trigger of the slave that is set to fire all the same and uses NOTIFY makes PREPARE TRANSACTION impossible.
#[test]
fn a_trigger_that_prevents_prepare_is_named() {
    let trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.slaves[0].run(
        "create function tell() returns trigger language plpgsql as $$ begin notify told; return new; end $$;
         create trigger teller after insert on t for each row execute function tell(); alter table t enable always trigger teller",
    );
    trio.master.run("insert into t values (1)");
    trio.once().expect_code(1).expect_text(&["NOTIFY", "two_phase = false"]);
}
