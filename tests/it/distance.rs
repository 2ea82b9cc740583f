//! Slaves far from the agent, and an agent far from the master: batches are under way one behind the other.

use std::time::Duration;

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str =
    "create table t (id int primary key, v int not null); create table u (id int primary key)";
const FAR: Duration = Duration::from_millis(40);

/// Far slaves, and batches so small that many of them are under way.
fn setup() -> Setup {
    Setup::new(TABLE).agent_line("batch_rows = 20").far_slaves(FAR)
}

/// Transactions whose changes show it when one is lost, done twice or out of order.
fn write(trio: &Trio, count: u32) {
    let mut session = trio.master.session();
    for i in 0..count {
        session.run(&format!(
            "insert into t select coalesce(max(id), 0) + 1, 0 from t; update t set v = v + 1 where id % 7 = {i} % 7"
        ));
        session.run("delete from u; insert into u select max(id) from t");
    }
}

fn positions_moved(trio: &Trio, slave: usize, than: &str) -> bool {
    trio.slaves[slave].value("select sum(batch) from pyreplica_agent.position") != than
}

#[test]
fn follows_over_a_distance() {
    for setup in [setup(), setup().one_phase(), setup().atomic(), setup().far_master(FAR)] {
        let mut trio = setup.slaves(1).build();
        trio.once().expect_code(0);
        write(&trio, 30);
        trio.agent.start();
        write(&trio, 10);
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
        assert_eq!(trio.conflicts(0), [""; 0]);
    }
}

#[test]
fn connections_break_while_batches_are_under_way() {
    for setup in [setup(), setup().one_phase()] {
        // GIVEN a backlog
        let mut trio = setup.build();
        trio.once().expect_code(0);
        write(&trio, 60);
        trio.agent.start();
        for _ in 0..2 {
            // WHEN a slave has moved on, and its connections are cut
            let before = trio.slaves[0].value("select sum(batch) from pyreplica_agent.position");
            wait_for("a slave to move on", || positions_moved(&trio, 0, &before).then_some(()));
            trio.proxies.iter().flatten().for_each(|proxy| proxy.cut());
            write(&trio, 20);
        }
        // THEN nothing is lost, nothing is done twice
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert_eq!(trio.conflicts(1), [""; 0]);
    }
}

#[test]
fn the_agent_is_killed_while_batches_are_under_way() {
    for setup in [setup(), setup().one_phase()] {
        let mut trio = setup.build();
        trio.once().expect_code(0);
        for count in [1, 5, 9] {
            write(&trio, 60);
            trio.agent.start_to_die_at(&format!("commit.sent:{count}"));
            assert!(!trio.agent.wait_exit().success());
        }
        trio.agent.start();
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert_eq!(trio.conflicts(1), [""; 0]);
    }
}

#[test]
fn a_conflict_in_the_middle_of_what_is_under_way() {
    for setup in [setup(), setup().one_phase(), Setup::new(TABLE).agent_line("batch_rows = 20")] {
        // GIVEN a slave that lacks a row
        let mut trio = setup.slaves(1).build();
        trio.master.run("insert into t select i, 0 from generate_series(1, 300) i");
        trio.once().expect_code(0);
        trio.slaves[0].run("delete from t where id = 150");
        // WHEN changes of many rows are under way, among them those of that row
        let mut session = trio.master.session();
        for id in 1..=300 {
            session.run(&format!("update t set v = v + 1 where id = {id}; insert into u values ({id})"));
        }
        session.run("update t set v = v + 1 where id <> 150; delete from u where id % 2 = 0");
        trio.agent.start();
        trio.catch_up();
        // THEN it is reported, once, and all else is applied
        assert_eq!(trio.conflicts(0), ["update_missing|public.t|(id)=(150)"]);
        assert_eq!(trio.slaves[0].value("select count(*), sum(v) from t"), "299|598");
        assert_eq!(trio.slaves[0].value("select count(*) from u"), "150");
        trio.assert_nothing_prepared();
    }
}

#[test]
fn a_conflict_in_a_large_transaction_under_way() {
    // GIVEN a slave that lacks a row
    let trio = Setup::new(TABLE).slaves(1).build();
    trio.master.run("insert into t select i, 0 from generate_series(1, 400000) i");
    trio.once().expect_code(0);
    trio.slaves[0].run("delete from t where id = 390000");
    // WHEN a transaction of more than is kept changes it near its end
    trio.master.run("update t set v = id; insert into u values (1)");
    trio.once().expect_code(0);
    // THEN only that row differs
    assert_eq!(trio.conflicts(0), ["update_missing|public.t|(id)=(390000)"]);
    assert_eq!(trio.slaves[0].value("select count(*), sum(v - id) from t"), "399999|0");
}
