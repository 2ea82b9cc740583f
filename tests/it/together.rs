//! Slaves that follow side by side read the log together, and none waits for another.

use pyreplica_tests::cluster::send_signal;
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

/// More commits than are kept for a slave that is behind.
const MANY: i32 = 400;

fn four() -> Trio {
    Setup::new(TABLE).slaves(4).start()
}

fn insert(trio: &Trio, ids: std::ops::Range<i32>) {
    let mut session = trio.master.session();
    session.run("set synchronous_commit = off");
    for id in ids {
        session
            .run(&format!("insert into t values ({id}, 'x'); update t set v = v || '.' where id = {id} - 1"));
    }
}

fn end_in_step(trio: &mut Trio) {
    trio.catch_up_and_compare();
    for slave in 0..trio.slaves.len() {
        assert_eq!(trio.conflicts(slave), [""; 0]);
    }
    trio.assert_nothing_prepared();
}

#[test]
fn one_reads_for_all() {
    // GIVEN slaves in step
    let mut trio = four();
    insert(&trio, 0..20);
    trio.catch_up();
    // THEN one session sleeps for all, and the others look at nothing
    let sleepers = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                     where d.datname = current_database() and l.locktype = 'advisory' and l.objsubid = 3";
    wait_for("one sleeper", || (trio.master.value(sleepers) == "1").then_some(()));
    let at_rest = "select count(*) from pg_stat_activity
                    where datname = current_database() and application_name = 'replica_agent read'
                      and clock_timestamp() - query_start > '5 s'";
    wait_for("three readers at rest", || (trio.master.value(at_rest) == "3").then_some(()));
    // WHEN more comes THEN all get it
    insert(&trio, 20..40);
    end_in_step(&mut trio);
}

#[test]
fn a_slave_that_hangs_keeps_nobody_waiting_and_comes_back() {
    let mut trio = four();
    // WHEN one slave waits for a lock, and the backend that serves another one is stopped
    let lock = trio.slaves[1].begin("lock table t");
    let backend = "select pid from pg_stat_activity
                    where datname = current_database() and application_name = 'replica_agent slave3'";
    let pid: u32 =
        wait_for("the agent's session", || trio.slaves[2].rows(backend).pop()).parse().expect("a pid");
    send_signal(pid, "STOP");
    insert(&trio, 0..MANY);
    // THEN the others go on
    trio.wait_for_slave(0);
    trio.wait_for_slave(3);
    assert_eq!((trio.is_in_step(1), trio.is_in_step(2)), (false, false));
    // WHEN they are back THEN so are their rows
    send_signal(pid, "CONT");
    lock.commit();
    insert(&trio, MANY..MANY + 20);
    end_in_step(&mut trio);
}

#[test]
fn a_slave_with_a_row_that_fails_stays_behind_alone() {
    let mut trio = four();
    trio.slaves[3].run("alter table t add constraint not_seven check (id <> 7)");
    insert(&trio, 0..MANY);
    for slave in 0..3 {
        trio.wait_for_slave(slave);
    }
    assert!(!trio.is_in_step(3));
    trio.slaves[3].run("alter table t drop constraint not_seven");
    insert(&trio, MANY..MANY + 20);
    end_in_step(&mut trio);
}

#[test]
fn a_slave_joins_late() {
    // GIVEN a slave that is not served for a while, and one that is new
    let mut trio = Setup::new(TABLE).slaves(4).build();
    let new = trio.slaves.pop().expect("four slaves");
    trio.configure();
    trio.agent.start();
    trio.catch_up();
    let away = trio.slaves.pop().expect("three slaves");
    trio.agent.stop();
    trio.configure();
    trio.agent.start();
    insert(&trio, 0..MANY);
    trio.catch_up();
    trio.agent.stop();
    // WHEN they are served while writers go on
    trio.slaves.extend([away, new]);
    trio.configure();
    trio.agent.start();
    insert(&trio, MANY..2 * MANY);
    // THEN they come to the others
    end_in_step(&mut trio);
}

#[test]
fn readers_that_die_are_replaced() {
    let mut trio = four();
    for round in 0..4 {
        // WHEN sessions that read end, that of who reads for all among them, or the agent is killed
        match round {
            3 => {
                trio.agent.kill();
                trio.agent.start();
            }
            _ => trio.master.run(
                "select pg_terminate_backend(pid) from (
                   select pid from pg_stat_activity
                    where datname = current_database() and application_name = 'replica_agent read'
                    order by query_start desc limit 2) last",
            ),
        }
        insert(&trio, round * 50..round * 50 + 50);
        // THEN nothing is lost, and nothing comes twice
        end_in_step(&mut trio);
    }
}

#[test]
fn large_and_small_transactions_in_turn() {
    // GIVEN slaves that start anew before transactions that are too large to be shared, and small ones
    let mut trio = four();
    trio.agent.stop();
    for round in 0..3 {
        insert(&trio, round * 100_000..round * 100_000 + 20);
        trio.master.run(&format!(
            "insert into t select {round} * 100000 + 100 + i, repeat(md5(i::text), 10) from generate_series(1, 40000) i"
        ));
    }
    // WHEN they are read THEN each slave gets all of it, in order
    trio.agent.start();
    insert(&trio, 50..100);
    end_in_step(&mut trio);
}
