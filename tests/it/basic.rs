//! Insert, update, delete; `run` and `once`; both kinds of commit.

use pyreplica_tests::trio::{Setup, Trio};

const TABLE: &str = "create table t (id int primary key, v text, n numeric)";

#[test]
fn changes_reach_all_slaves() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t select i, 'row ' || i, i / 3.0 from generate_series(1, 100) i");
    trio.master.run("update t set v = 'changed', n = null where id % 3 = 0");
    trio.master.run("delete from t where id % 10 = 7");
    trio.master.run("update t set id = id + 1000 where id < 5");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[1].value("select count(*), min(id), max(id) from t"), "90|5|1004");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn once_applies_what_was_committed_and_ends() {
    // GIVEN changes made before the agent has ever run, and others between two runs
    let mut trio = Setup::new(TABLE).build();
    trio.master.run("insert into t values (1, 'one')");
    trio.once().expect_code(0);
    trio.assert_same();
    trio.master.run("insert into t values (2, 'two'); update t set v = 'eins' where id = 1");
    // WHEN it runs again
    trio.catch_up();
    // THEN they are there
    assert_eq!(trio.slaves[0].rows("select id, v from t order by id"), ["1|eins", "2|two"]);
    trio.assert_same();
    trio.assert_nothing_prepared();
}

/// As many as a reader in step asks for, one less and one more; in a backlog, and while it runs.
#[test]
fn any_number_of_transactions_arrives() {
    let mut trio = Setup::new(TABLE).build();
    let insert = |trio: &Trio, count| {
        trio.master.run(&format!(
            "do 'begin for i in 1 .. {count} loop
                 insert into t select coalesce(max(id), 0) + 1 from t; commit;
             end loop; end'"
        ));
    };
    for count in [99, 100, 101, 1000] {
        insert(&trio, count);
        trio.once().expect_code(0);
        trio.assert_same();
    }
    trio.agent.start();
    trio.catch_up();
    for count in [99, 100, 101, 1000] {
        insert(&trio, count);
        trio.catch_up_and_compare();
    }
}

#[test]
fn what_is_rolled_back_never_arrives() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("begin; insert into t values (1, 'gone'); rollback");
    trio.master.run("insert into t values (2, 'stays')");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select id from t"), "2");
}

#[test]
fn an_update_of_nothing_logs_nothing() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("insert into t values (1, 'same', 1.0)");
    let before = trio.master.value("select count(*) from pyreplica.replica_log");
    trio.master.run("update t set v = 'same'");
    assert_eq!(trio.master.value("select count(*) from pyreplica.replica_log"), before);
    // 1.00 = 1.0, but it is another value
    trio.master.run("update t set n = 1.00");
    assert_ne!(trio.master.value("select count(*) from pyreplica.replica_log"), before);
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn session_replication_role_replica_logs_nothing() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("set session_replication_role = replica; insert into t values (1)");
    assert_eq!(trio.master.value("select count(*) from pyreplica.replica_log"), "0");
}

#[test]
fn atomic_slaves_get_the_same_batches() {
    let mut trio = Setup::new(TABLE).atomic().start();
    for i in 0..20 {
        trio.master.run(&format!("insert into t values ({i}, 'x'); update t set v = 'y' where id = {i} - 3"));
    }
    trio.catch_up_and_compare();
    trio.assert_nothing_prepared();
    let positions =
        |i: usize| trio.slaves[i].value("select rank, snapshot, batch from pyreplica_agent.position");
    assert_eq!(positions(0), positions(1));
    assert_eq!(trio.agent.stop().code(), Some(0));
    assert_eq!(trio.master.value("select count(*) from pyreplica.decision"), "0");
}

#[test]
fn one_phase_commit_is_enough_when_asked_for() {
    let mut trio = Setup::new(TABLE).one_phase().start();
    trio.master.run("insert into t select i from generate_series(1, 1000) i");
    trio.catch_up_and_compare();
}

#[test]
fn three_slaves_follow_as_well() {
    let mut trio = Setup::new(TABLE).slaves(3).start();
    trio.master.run("insert into t select i from generate_series(1, 10) i");
    trio.catch_up_and_compare();
}

#[test]
fn many_small_transactions_arrive_in_order() {
    let mut trio = Setup::new(TABLE).agent_line("batch_rows = 7").start();
    let mut session = trio.master.session();
    for i in 0..300 {
        session.run(&format!(
            "insert into t values ({i}); update t set v = coalesce(v, '') || '{i} ' where id = {i} / 2"
        ));
    }
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn slave_status_tells_where_slaves_stand() {
    let mut trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.master.run("insert into t select i from generate_series(1, 10) i");
    assert_eq!(
        trio.master.rows("select name, changes_behind, last_error from pyreplica.slave_status order by name"),
        ["slave1|10|null", "slave2|10|null"]
    );
    trio.catch_up();
    assert_eq!(
        trio.master
            .rows("select name, changes_behind, bytes_behind from pyreplica.slave_status order by name"),
        ["slave1|0|0", "slave2|0|0"]
    );
}
