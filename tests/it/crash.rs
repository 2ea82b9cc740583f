//! kill -9 between each two steps: nothing is lost, nothing is done twice.

use pyreplica_tests::cluster::send_signal;
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str =
    "create table t (id int primary key, v int not null); create table u (id int primary key)";

/// Failpoints of the agent that a batch meets, and whether only an atomic group meets them.
const FAILPOINTS: &[(&str, bool)] = &[
    ("commit.after_begin", false),
    ("commit.after_apply", false),
    ("commit.after_position", false),
    ("commit.after_prepare", false),
    ("group.after_decision", true),
    ("group.after_first_commit", true),
    ("commit.after_commit", false),
    ("report.before", false),
];

/// Only a slave by itself has batches under way that are not answered.
const SENT: &str = "commit.sent";

/// Changes that show it when one is lost or done twice: the second UPDATE would meet other old values.
fn change(trio: &Trio, round: i32) {
    trio.master.run(&format!("insert into t values ({round}, 0); insert into u values ({round})"));
    trio.master.run("update t set v = v + 1");
    trio.master.run(&format!("delete from u where id = {round} - 1"));
}

fn dies_and_recovers(setup: Setup, failpoint: &str) {
    // GIVEN slaves in step
    let mut trio = setup.build();
    change(&trio, 0);
    trio.once().expect_code(0);
    for (round, count) in [(1, 1), (2, 2), (3, 3)] {
        // WHEN the agent dies at this point, the n-th time it gets there
        trio.agent.start_to_die_at(&format!("{failpoint}:{count}"));
        change(&trio, round * 2);
        // Further batches, so that it gets there often enough.
        for i in 0.. {
            if !trio.agent.is_running() {
                break;
            }
            assert!(i < 500, "the agent never came to {failpoint}:{count}");
            trio.master.run("update t set v = v + 1");
            pyreplica_tests::wait::wait_within(std::time::Duration::from_millis(100), || {
                (!trio.agent.is_running()).then_some(())
            });
        }
        assert!(!trio.agent.wait_exit().success());
        change(&trio, round * 2 + 1);
        // THEN another one brings everything to the end
        trio.agent.start();
        trio.catch_up();
        trio.assert_same();
        assert_eq!(trio.agent.stop().code(), Some(0));
    }
    trio.assert_nothing_prepared();
    assert_eq!(trio.conflicts(0), [""; 0]);
    assert_eq!(trio.conflicts(1), [""; 0]);
    assert_eq!(trio.master.value("select count(*) from pyreplica.decision"), "0");
}

#[test]
fn agent_dies_at_each_step_of_independent_commit() {
    let independent = FAILPOINTS.iter().filter(|(_, group)| !group).map(|(name, _)| *name);
    for failpoint in independent.chain([SENT]) {
        eprintln!("failpoint {failpoint}");
        dies_and_recovers(Setup::new(TABLE), failpoint);
    }
}

#[test]
fn agent_dies_at_each_step_of_atomic_commit() {
    for (failpoint, _) in FAILPOINTS {
        eprintln!("failpoint {failpoint}");
        dies_and_recovers(Setup::new(TABLE).atomic(), failpoint);
    }
}

#[test]
fn agent_dies_at_each_step_of_one_phase_commit() {
    for failpoint in [
        "commit.after_begin",
        "commit.after_apply",
        "commit.after_position",
        "commit.after_commit",
        SENT,
        "report.before",
    ] {
        eprintln!("failpoint {failpoint}");
        dies_and_recovers(Setup::new(TABLE).one_phase(), failpoint);
    }
}

#[test]
fn sessions_of_the_agent_are_terminated_at_any_time() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic()] {
        let mut trio = setup.start();
        for round in 0..10 {
            change(&trio, round);
            let db = if round % 3 == 2 { &trio.master } else { &trio.slaves[round as usize % 2] };
            db.run("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()");
        }
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
        assert_eq!(trio.conflicts(0), [""; 0]);
    }
}

#[test]
fn servers_crash_under_the_agent() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic()] {
        let mut trio = setup.own_servers().start();
        change(&trio, 1);
        // a slave stops immediately
        trio.slaves[0].server.crash();
        change(&trio, 2);
        trio.slaves[0].server.boot();
        change(&trio, 3);
        // the master stops immediately
        trio.master.server.crash();
        trio.master.server.boot();
        change(&trio, 4);
        // a backend of the agent on a slave is killed, which makes the server restart itself
        let backend = "select pid from pg_stat_activity where datname = current_database() and application_name like 'replica_agent%' limit 1";
        let pid = wait_for("a session of the agent", || trio.slaves[1].rows(backend).pop());
        let mut witness = trio.slaves[1].session();
        send_signal(pid.parse().expect("a pid"), "KILL");
        wait_for("the slave to end all sessions", || witness.client.batch_execute("select").err());
        wait_for("the slave to be back", || {
            trio.slaves[1].server.config("postgres").connect(postgres::NoTls).ok()
        });
        change(&trio, 5);
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert_eq!(trio.conflicts(1), [""; 0]);
    }
}
