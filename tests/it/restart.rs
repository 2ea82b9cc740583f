//! Agent, master and slaves stop and come back.

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

/// One-phase commits are asynchronous on the slave; the servers of the tests leave them in memory.
#[test]
fn what_a_crash_of_a_slave_undoes_is_applied_again() {
    let mut trio = Setup::new("create table t (id int primary key)").own_servers().one_phase().start();
    trio.master.run("insert into t select generate_series(1, 100)");
    trio.catch_up();
    trio.slaves[0].server.crash();
    trio.slaves[0].server.boot();
    trio.catch_up_and_compare();
    // WHEN the master was told of it, and drops it
    trio.master.run("insert into t select generate_series(101, 200)");
    wait_for("the report", || {
        let reported = "select bool_and(rank >= (select max(id) from pyreplica.log)) from pyreplica.slave";
        (trio.master.value(reported) == "t").then_some(())
    });
    trio.master.run("truncate pyreplica.log_0, pyreplica.log_1, pyreplica.log_2");
    trio.slaves[0].server.crash();
    trio.slaves[0].server.boot();
    // THEN nothing was lost
    trio.catch_up_and_compare();
}

/// PostgreSQL writes a record in the WAL for one id in 33 only.
#[test]
fn a_crash_of_the_master_draws_no_id_again() {
    let trio = Setup::new("create table t (id serial primary key)").slaves(1).own_servers().build();
    let master = &trio.master;
    let last = "select max(id) from pyreplica.log";
    for (before, after_checkpoint) in [(1, 0), (33, 0), (5, 1), (40, 31), (3, 33)] {
        let mut session = master.session();
        (0..before).for_each(|_| session.run("insert into t values (default)"));
        session.run("checkpoint");
        (0..after_checkpoint).for_each(|_| session.run("insert into t values (default)"));
        drop(session);
        let drawn: u64 = master.value(last).parse().expect("an id");
        master.server.crash();
        master.server.boot();
        master.run("insert into t values (default)");
        assert!(master.value(last).parse::<u64>().expect("an id") > drawn);
        assert_eq!(
            master.value("select count(*) from pyreplica.log"),
            master.value("select count(distinct id) from pyreplica.log")
        );
    }
}

#[test]
fn the_agent_stops_on_sigterm_and_goes_on_later() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t values (1)");
    trio.catch_up();
    assert_eq!(trio.agent.stop().code(), Some(0));
    trio.assert_nothing_prepared();
    assert_eq!(trio.master.value("select distinct state from pyreplica.slave"), "stopped");
    trio.master.run("insert into t values (2)");
    trio.agent.start();
    trio.catch_up_and_compare();
}

#[test]
fn sigterm_in_a_big_batch_leaves_nothing_half_done() {
    // GIVEN a slave that is in the middle of a large transaction, held up by a lock
    let mut trio = Setup::new(TABLE).slaves(1).build();
    trio.once().expect_code(0);
    trio.master.run("insert into t select i, repeat('x', 100) from generate_series(1, 40000) i");
    let lock = trio.slaves[0].begin("insert into t values (20000)");
    trio.agent.start();
    wait_for("the slave to wait for the lock", || {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        (trio.slaves[0].value(waiting) != "0").then_some(())
    });
    // WHEN it is told to stop
    assert_eq!(trio.agent.stop().code(), Some(0));
    // THEN the transaction is all gone, and comes whole later
    assert_eq!(trio.slaves[0].value("select count(*) from t"), "0");
    trio.assert_nothing_prepared();
    drop(lock);
    trio.agent.start();
    trio.catch_up_and_compare();
}

#[test]
fn a_slave_that_is_down_holds_up_nobody_else() {
    let mut trio = Setup::new(TABLE).own_servers().start();
    // GIVEN one slave down
    trio.slaves[0].server.stop();
    trio.master.run("insert into t select i from generate_series(1, 100) i");
    // WHEN the master goes on THEN the other slave follows
    trio.wait_for_slave(1);
    wait_for("the state of the slave on the master", || {
        (trio.master.value("select state from pyreplica.slave where name = 'slave1'") == "error")
            .then_some(())
    });
    // and the first catches up when it is back
    trio.slaves[0].server.boot();
    trio.catch_up_and_compare();
}

#[test]
fn a_slave_that_is_down_stalls_an_atomic_group() {
    let mut trio = Setup::new(TABLE).atomic().own_servers().start();
    trio.slaves[0].server.stop();
    trio.master.run("insert into t values (1)");
    wait_for("the other slave to wait", || {
        (trio.master.value("select state from pyreplica.slave where name = 'slave2'") == "waiting")
            .then_some(())
    });
    assert_eq!(trio.slaves[1].value("select count(*) from t"), "0");
    trio.slaves[0].server.boot();
    trio.catch_up_and_compare();
    trio.assert_nothing_prepared();
}

#[test]
fn master_and_slave_may_restart_under_a_running_agent() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic()] {
        let mut trio = setup.own_servers().start();
        for round in 0..2 {
            trio.master.run(&format!("insert into t values ({round})"));
            trio.master.server.restart();
            trio.master.run(&format!("insert into t values ({round} + 10)"));
            trio.slaves[round].server.restart();
            trio.master.run(&format!("insert into t values ({round} + 20)"));
            trio.catch_up_and_compare();
        }
        trio.assert_nothing_prepared();
        let lines = trio.agent.log().lines().count();
        assert!(lines < 200, "{lines} lines of log for four restarts");
    }
}

#[test]
fn a_master_behind_its_slave_is_refused() {
    // GIVEN a slave that has applied what the master then forgot
    let mut trio = Setup::new(TABLE).slaves(1).build();
    trio.master.run("insert into t values (1)");
    trio.once().expect_code(0);
    trio.master.run("insert into t values (2)");
    trio.once().expect_code(0);
    trio.slaves[0].run("update pyreplica_agent.position set rank = rank + 1000000, last_xid = '4000000000'");
    // WHEN the agent runs THEN it refuses, with the way out
    trio.once().expect_code(1).expect_text(&["behind", "replica_agent copy"]);
    // and another server in place of the master is refused as well
    trio.slaves[0].run("update pyreplica_agent.position set system_identifier = '1'");
    trio.once().expect_code(1);
    trio.agent.run(&["copy"]).expect_code(0);
    trio.catch_up_and_compare();
}
