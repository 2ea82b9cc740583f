//! `replica_agent skip`: what a slave cannot apply is set aside, by name, and on record.

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

/// Queues a statement that fails on the slaves, between two rows; gives its transaction.
fn queue_bad(trio: &Trio) -> String {
    trio.master.value(
        "begin; insert into t values (1, 'before');
         insert into pyreplica.replica_log (sql) values ('alter table public.nowhere add n int');
         insert into t values (2, 'after'); select pg_current_xact_id(); commit",
    )
}

fn set_aside(trio: &Trio, slave: usize) -> Vec<String> {
    trio.slaves[slave]
        .rows("select conflict, op, applied, xid, detail from pyreplica_agent.conflict order by id")
}

fn is_set_aside(trio: &mut Trio) {
    // GIVEN a statement that stops the slaves
    trio.catch_up();
    let xid = queue_bad(trio);
    trio.once().expect_code(1).expect_text(&["nowhere", "skip --slave slave"]);

    // WHEN nothing is named, THEN it is shown and nothing is set aside
    let shown = trio.agent.run(&["skip", "--slave", "slave1"]).expect_code(1);
    shown.expect_text(&["statement 1: alter table public.nowhere add n int", "2 INSERT of public.t", &xid]);
    trio.once().expect_code(1);

    // WHEN it is named, THEN it is left out, once and on record, and the rows beside it are there
    for slave in ["slave1", "slave2"] {
        trio.agent
            .run(&["skip", "--slave", slave, "--transaction", &xid])
            .expect_code(0)
            .expect_text(&["nowhere"]);
    }
    // Killed in the middle it is no different.
    trio.agent.start_to_die_at("commit.after_prepare");
    trio.agent.wait_exit();
    trio.catch_up_and_compare();
    for slave in 0..2 {
        let on_record = format!(
            "set_aside|STATEMENT|f|{xid}|Set aside by postgres. alter table public.nowhere add n int"
        );
        assert_eq!(set_aside(trio, slave), [on_record]);
    }
    trio.agent.run(&["skip", "--slave", "slave1"]).expect_code(1).expect_text(&["has applied all there is"]);
    trio.assert_nothing_prepared();
}

#[test]
fn a_statement_is_set_aside() {
    is_set_aside(&mut Setup::new(TABLE).build());
}

#[test]
fn a_statement_is_set_aside_in_an_atomic_group() {
    is_set_aside(&mut Setup::new(TABLE).atomic().build());
}

#[test]
fn a_running_agent_goes_on_at_once() {
    let mut trio = Setup::new(TABLE).one_phase().start();
    let xid = queue_bad(&trio);
    for slave in ["slave1", "slave2"] {
        let error = format!("select sqlstate from pyreplica.slave where name = '{slave}'");
        wait_for("the error", || (trio.master.value(&error) == "42P01").then_some(()));
        trio.agent.run(&["skip", "--slave", slave, "--transaction", &xid]).expect_code(0);
    }
    trio.catch_up_and_compare();
    assert_eq!(set_aside(&trio, 0).len(), 1);
}

#[test]
fn a_whole_transaction_only_when_that_is_said() {
    let mut trio = Setup::new(TABLE).slaves(1).build();
    trio.catch_up();
    trio.slaves[0].run("insert into t values (2, 'own')");
    let xid = trio
        .master
        .value("begin; insert into t values (1, 'a'), (2, 'b'); select pg_current_xact_id(); commit");
    trio.master.run("insert into t values (3, 'c')");
    trio.once().expect_code(1);
    let skip =
        |more: &[&str]| trio.agent.run(&[&["skip", "--slave", "slave1", "--transaction"], more].concat());
    skip(&[&xid]).expect_code(2).expect_text(&["has no queued statement", "--whole-transaction"]);
    skip(&["12"])
        .expect_code(2)
        .expect_text(&["transaction 12 is not what slave \"slave1\" has to apply next", &xid]);
    skip(&[&xid, "--whole-transaction"]).expect_code(0).expect_text(&["2 INSERT of public.t"]);
    trio.catch_up();
    assert_eq!(trio.slaves[0].rows("select * from t order by id"), ["2|own", "3|c"]);
    assert_eq!(
        set_aside(&trio, 0).last(),
        Some(&format!("set_aside|TRANSACTION|f|{xid}|Set aside by postgres."))
    );
}

#[test]
fn of_several_statements_the_named_one() {
    let mut trio = Setup::new(TABLE).slaves(1).build();
    trio.catch_up();
    let xid = trio.master.value(
        "begin; insert into pyreplica.replica_log (sql)
           values ('create table public.a (id int)'), ('select 1/0'), ('create table public.b (id int)');
         select pg_current_xact_id(); commit",
    );
    trio.once().expect_code(1).expect_text(&["division by zero"]);
    let skip = |more: &[&str]| {
        trio.agent.run(&[&["skip", "--slave", "slave1", "--transaction", &xid], more].concat())
    };
    skip(&[]).expect_code(2).expect_text(&["several queued statements", "statement 2: select 1/0"]);
    skip(&["--statement", "4"]).expect_code(2);
    skip(&["--statement", "2"]).expect_code(0);
    trio.catch_up();
    assert_eq!(trio.slaves[0].value("select to_regclass('a'), to_regclass('b')"), "a|b");
}
