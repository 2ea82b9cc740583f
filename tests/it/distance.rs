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
fn a_far_master_is_not_asked_for_each_batch() {
    // GIVEN a backlog of 300 batches on a far master
    let mut trio = setup().far_slaves(Duration::ZERO).far_master(FAR).slaves(1).build();
    trio.once().expect_code(0);
    for n in 0..300 {
        trio.master.run(&format!("insert into u select {n} * 20 + i from generate_series(1, 20) i"));
    }
    let questions = |trio: &Trio| trio.proxies[0].as_ref().expect("a far master").questions();
    let before = questions(&trio);
    // WHEN it is taken in
    trio.agent.start();
    trio.catch_up_and_compare();
    // THEN there are fewer questions than batches
    assert!(trio.slaves[0].value("select batch >= 300 from pyreplica_agent.position") == "t");
    let asked = questions(&trio) - before;
    assert!(asked < 250, "{asked} questions");
}

/// A slave, and one that is a node as well.
#[test]
fn batches_are_committed_of_which_no_answer_has_arrived() {
    for is_node in [false, true] {
        // GIVEN a far slave in step, each transaction a batch, and nothing but them to ask the slave
        let mut trio = setup().slaves(1).timer_seconds("60").build();
        if is_node {
            trio.slaves[0].run("create extension pyreplica");
        }
        let write = |trio: &Trio, numbers: std::ops::Range<u32>| {
            let sql = |n| format!("insert into u select {n} * 20 + i from generate_series(1, 20) i");
            numbers.for_each(|n| trio.master.run(&sql(n)));
        };
        trio.once().expect_code(0);
        trio.agent.start();
        write(&trio, 0..3);
        trio.catch_up();
        let way = trio.proxies[1].as_ref().expect("a far slave");
        // WHEN nothing that the slave says arrives
        way.hold_answers();
        write(&trio, 3..13);
        // THEN it has all the same
        let has_all = || trio.slaves[0].value("select count(*) from u") == "260";
        wait_for("batches that were sent ahead", || has_all().then_some(()));
        way.let_answers_go();
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
    }
}

#[test]
fn connections_break_while_batches_are_under_way() {
    for setup in [setup(), setup().one_phase(), setup().far_slaves(Duration::ZERO).far_master(FAR)] {
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
    for setup in [setup(), setup().one_phase(), setup().far_slaves(Duration::ZERO).far_master(FAR)] {
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

/// What fires on the slave for each row and for each statement, in its order; numbers from a sequence, which no rollback
/// gives back.
const TRIGGERS: &str = "
    create table t (id int primary key, v int not null, u int unique);
    create table w (id int primary key, v int not null);
    create table seen (n serial, what text);
    create function see() returns trigger language plpgsql as $$ begin
        insert into public.seen (what) values (concat_ws(' ', tg_table_name, tg_op, case when tg_level = 'ROW'
            then coalesce(to_jsonb(new), to_jsonb(old)) ->> 'id' end));
        return null;
    end $$;
    create trigger see after insert or update or delete on t for each row execute function see();
    create trigger see after insert or update or delete on w for each statement execute function see();
    alter table t enable always trigger see;
    alter table w enable always trigger see";

/// Slaves that apply one by one, near, far, and far where constraints and triggers do not rest.
fn one_by_one() -> [Setup; 4] {
    let exact = || {
        Setup::new(TABLES)
            .slave_schema(TRIGGERS)
            .slaves(1)
            .slave_line("apply = \"exact\"\ninsert_exists = \"keep\"")
    };
    let net = Setup::new(TABLES).slave_schema(TRIGGERS).slaves(1).slave_line("insert_exists = \"keep\"");
    [exact(), exact().far_slaves(FAR), exact().far_slaves(FAR).one_phase(), net.far_slaves(FAR)]
}

const TABLES: &str = "create table t (id int primary key, v int not null, u int unique);
    create table w (id int primary key, v int not null)";

#[test]
fn each_row_is_seen_once_and_in_order_whatever_is_in_the_way() {
    for setup in one_by_one() {
        // GIVEN a slave that lacks a row, has another value, and has rows of its own in the way
        let trio = setup.build();
        trio.master.run("insert into t select i, 0, i from generate_series(1, 100) i; insert into w values (1, 0), (2, 0)");
        trio.once().expect_code(0);
        trio.slaves[0].run(
            "delete from t where id = 10; update t set v = 99 where id = 20; insert into t values (105, 0, null), (999, 0, 107);
             delete from w where id = 1; truncate seen restart identity",
        );
        // WHEN rows around them are changed
        trio.master.run("update t set v = v + 1 where id <= 50; delete from t where id between 5 and 15; update w set v = 1");
        trio.master.run(
            "insert into t select i, 0, i from generate_series(101, 110) i; update t set v = 7 where id > 90",
        );
        trio.once().expect_code(0);
        // THEN each difference is named
        assert_eq!(
            trio.conflicts(0),
            [
                "update_missing|public.t|(id)=(10)",
                "update_differs|public.t|(id)=(20)",
                "delete_missing|public.t|(id)=(10)",
                "update_missing|public.w|(id)=(1)",
                "insert_exists|public.t|(id)=(105)",
                "insert_exists|public.t|(id)=(107)",
                "update_missing|public.t|(id)=(107)",
            ]
        );
        // and each change has been made, and seen, once and in its order
        let rows = |operation: &str, ids: &mut dyn Iterator<Item = u32>| -> Vec<String> {
            ids.map(|id| format!("t {operation} {id}")).collect()
        };
        let expected = [
            rows("UPDATE", &mut (1..=50).filter(|&id| id != 10)),
            rows("DELETE", &mut (5..=15).filter(|&id| id != 10)),
            vec!["w UPDATE".to_owned(); 2],
            rows("INSERT", &mut (101..=110).filter(|&id| id != 105 && id != 107)),
            rows("UPDATE", &mut (91..=110).filter(|&id| id != 107)),
        ]
        .concat();
        let numbered: Vec<String> = expected.iter().zip(1..).map(|(what, n)| format!("{n}|{what}")).collect();
        assert_eq!(trio.slaves[0].rows("select n, what from seen order by n"), numbered);
        trio.assert_nothing_prepared();
    }
}

#[test]
fn a_change_that_fails_among_many_is_named() {
    // GIVEN a slave that has a row of its own in the way
    for apply in ["net", "exact"] {
        let trio =
            Setup::new(TABLE).slaves(1).far_slaves(FAR).slave_line(&format!("apply = \"{apply}\"")).build();
        trio.once().expect_code(0);
        trio.slaves[0].run("insert into t values (150, 0)");
        // WHEN it is inserted among many others
        trio.master
            .run("insert into t select i, 1 from generate_series(1, 300) i; delete from t where id = 7");
        let failed = trio.once().expect_code(1);
        // THEN that is said, and nothing else is done
        assert!(failed.stderr.contains("conflict=insert_exists"), "{}", failed.stderr);
        assert!(failed.stderr.contains("INSERT, key (id)=(150)"), "{}", failed.stderr);
        assert_eq!(trio.slaves[0].value("select count(*) from t"), "1");
        // and once it is gone all is applied
        trio.slaves[0].run("delete from t");
        trio.once().expect_code(0);
        trio.assert_same();
    }
}
