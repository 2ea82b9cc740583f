//! Nodes that are masters and slaves of each other: a change goes everywhere once, and never back.

use std::sync::atomic::{AtomicU32, Ordering};

use pyreplica_tests::db::Db;
use pyreplica_tests::nodes::Nodes;
use pyreplica_tests::wait::wait_for;

const TABLE: &str =
    "create table t (id int primary key, v int not null default 0); create table u (id int primary key)";

/// Transactions of each writer.
const TRANSACTIONS: u32 = 120;

/// Changes that show it when one is lost or done twice: an UPDATE would meet other old values, a row another one.
fn write(db: &Db, number: u32, done: &AtomicU32) {
    let mut session = db.session();
    for i in 0..TRANSACTIONS {
        let (new, last) = (i * 10 + number, i.saturating_sub(1) * 10 + number);
        session.run(&format!(
            "begin; insert into t values ({new}); insert into u values ({new});
             update t set v = v + 1 where id % 10 = {number} and id > {new} - 60;
             delete from u where id = {last} and {i} % 3 = 0; commit"
        ));
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// All nodes are written to at the same time, by a writer each, while agents are killed one after the other.
fn written_to_everywhere(mut nodes: Nodes) {
    nodes.settle();
    nodes.start();
    let dbs: Vec<Db> = nodes.dbs().cloned().collect();
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (number, db) in dbs.iter().enumerate() {
            let done = &done;
            scope.spawn(move || write(db, number as u32, done));
        }
        let total = TRANSACTIONS * dbs.len() as u32;
        let kills = 6;
        for kill in 1..=kills {
            wait_for("the writers", || {
                (done.load(Ordering::Relaxed) >= total * kill / (kills + 1)).then_some(())
            });
            let count = nodes.arrows.len();
            let agent = &mut nodes.arrows[kill as usize % count].agent;
            agent.kill();
            agent.start();
        }
    });
    nodes.settle();
    assert_eq!(nodes.assert_same("t"), u64::from(TRANSACTIONS) * dbs.len() as u64);
    nodes.assert_same("u");
    nodes.assert_no_conflicts();
    let prepared = "select gid from pg_prepared_xacts where database = current_database()";
    nodes.dbs().for_each(|db| assert_eq!(db.rows(prepared), [""; 0]));
}

#[test]
fn two_nodes() {
    written_to_everywhere(Nodes::new("a<>b", TABLE));
}

#[test]
fn a_chain_of_three() {
    written_to_everywhere(Nodes::new("a<>b b<>c", TABLE).forwarding("b"));
}

/// The middle of a chain sends what it makes itself and what it forwards through the same filter.
#[test]
fn a_node_that_forwards_may_send_a_part() {
    let table = "create table t (id int primary key, v text, secret text)";
    let mut nodes = Nodes::new("a>b b>c", table).forwarding("b");
    nodes.db('b').run(
        "select pyreplica.remove_table('t');
         select pyreplica.add_table('t', columns => '{id,v}', row_filter => 'v <> ''hidden''')",
    );
    nodes.settle();
    nodes.db('a').run(
        "insert into t select i, case when i % 2 = 0 then 'hidden' else 'shown' end, 's' from generate_series(1, 20) i;
         update t set v = 'hidden' where id in (1, 3); update t set v = 'shown' where id in (2, 4);
         update t set secret = 'x'; update t set id = id + 100 where id > 15; delete from t where id in (4, 5, 6)",
    );
    nodes.db('b').run("insert into t values (1000, 'shown', 'own'), (1001, 'hidden', 'own')");
    nodes.settle();
    let sent = "select id, v from t where v <> 'hidden' order by id";
    assert_eq!(nodes.db('c').rows("select id, v from t order by id"), nodes.db('b').rows(sent));
    assert_eq!(nodes.db('c').value("select count(*) from t where secret is not null"), "0");
    assert_eq!(nodes.db('b').value("select count(*) from t"), "19");
    nodes.assert_no_conflicts();
    nodes.arrow('b', 'c').agent.run(&["verify"]).expect_code(0);
}

#[test]
fn a_ring() {
    written_to_everywhere(Nodes::new("a>b b>c c>a", TABLE).forwarding("abc"));
}

#[test]
fn a_mesh_without_forwarding() {
    written_to_everywhere(Nodes::new("a<>b b<>c a<>c", TABLE));
}

/// What the log of a node holds of the rows, each with the letters of the nodes that it came through.
fn log_of(nodes: &Nodes, letter: char) -> Vec<String> {
    let names: Vec<String> =
        nodes.dbs().map(|db| db.value("select id || ' ' || name from pyreplica.node")).collect();
    let log = "select concat_ws(' ', op, new->>'id', origin) from pyreplica.replica_log order by id";
    let letters = |mut line: String| {
        for name in &names {
            let (id, letter) = name.split_once(' ').expect("two words");
            line = line.replace(id, letter);
        }
        line
    };
    nodes.db(letter).rows(log).into_iter().map(letters).collect()
}

/// Between two nodes that both forward there are others behind each.
#[test]
fn a_change_goes_down_a_chain_of_four_and_never_back() {
    let mut nodes = Nodes::new("a<>b b<>c c<>d", TABLE).forwarding("bc");
    nodes.settle();
    nodes.db('a').run("insert into t values (1)");
    nodes.db('c').run("insert into t values (3)");
    nodes.settle();
    assert_eq!(nodes.assert_same("t"), 2);
    assert_eq!(log_of(&nodes, 'a'), ["INSERT 1"]);
    let mut of_b = log_of(&nodes, 'b');
    of_b.sort();
    assert_eq!(of_b, ["INSERT 1 a", "INSERT 3 c"]);
    let mut of_c = log_of(&nodes, 'c');
    of_c.sort();
    assert_eq!(of_c, ["INSERT 1 a b", "INSERT 3"]);
    assert_eq!(log_of(&nodes, 'd'), [""; 0]);
    nodes.assert_no_conflicts();
}

/// What comes without an origin would go back.
#[test]
fn a_node_that_has_lost_its_name_is_not_written_to() {
    let mut nodes = Nodes::new("a>b", TABLE).forwarding("b");
    nodes.settle();
    nodes.start();
    nodes.db('a').run("insert into t values (1)");
    nodes.settle();
    nodes.db('b').run("delete from pyreplica.node");
    nodes.db('a').run("insert into t values (2)");
    nodes.wait_for_value('a', "select state from pyreplica.slave", "error");
    assert_eq!(nodes.db('b').rows("select id from t"), ["1"]);
}

/// Transactions are joined to batches, of which each change keeps its own origin.
#[test]
fn a_node_that_forwards_keeps_origins_apart() {
    let mut nodes = Nodes::new("a>b b>c", TABLE).forwarding("b");
    nodes.settle();
    let batch = "select batch from pyreplica_agent.position";
    let batches = |nodes: &Nodes| -> [i64; 2] {
        ['b', 'c'].map(|letter| nodes.db(letter).value(batch).parse().expect("a number"))
    };
    let before = batches(&nodes);
    for (id, origin) in [(1, ""), (2, "import"), (3, "import"), (4, ""), (5, "by hand")] {
        nodes.db('a').run(&format!("set pyreplica.origin = '{origin}'; insert into t values ({id})"));
    }
    nodes.db('a').run("insert into t values (6)");
    nodes.settle();
    assert_eq!(
        log_of(&nodes, 'b'),
        [
            "INSERT 1 a",
            "INSERT 2 import a",
            "INSERT 3 import a",
            "INSERT 4 a",
            "INSERT 5 by hand a",
            "INSERT 6 a",
        ]
    );
    assert_eq!(nodes.assert_same("t"), 6);
    let moved = [0, 1].map(|n| batches(&nodes)[n] - before[n]);
    assert!(moved[0] >= 5 && moved[1] <= 2, "c takes a batch whole, b one for each origin: {moved:?}");
}

#[test]
fn truncate_and_statements_go_round_once() {
    let mut nodes = Nodes::new("a>b b>c c>a", TABLE).forwarding("abc");
    nodes.settle();
    nodes.db('a').run("insert into t values (1)");
    nodes.settle();
    nodes.db('b').run("truncate t");
    nodes.settle();
    assert_eq!(nodes.assert_same("t"), 0);
    // A statement is for the slaves; what it does to rows is not logged besides.
    nodes.db('c').run("insert into u values (1), (2)");
    nodes.settle();
    nodes.db('c').run("delete from u where id = 1");
    nodes.settle();
    nodes.db('c').run(
        "set session_replication_role = replica; insert into t values (7); alter table u add w int;
         set session_replication_role = origin;
         insert into pyreplica.replica_log (sql) values ('insert into public.t values (7)'),
                                                        ('alter table public.u add w int')",
    );
    nodes.settle();
    assert_eq!((nodes.assert_same("t"), nodes.assert_same("u")), (1, 1));
    let statements = |letter| log_of(&nodes, letter).iter().filter(|line| line.starts_with("SQL")).count();
    assert_eq!(['a', 'b', 'c'].map(statements), [2, 2, 2]);
    nodes.assert_no_conflicts();
}

/// b gives c what c has from a.
#[test]
fn what_would_come_by_two_ways_is_told_before_and_then() {
    let mut nodes = Nodes::new("a>b a>c b>c", TABLE).initial('b', 'c', "oldest").forwarding("b");
    for (from, to) in [('a', 'b'), ('a', 'c')] {
        nodes.arrow(from, to).agent.run(&["once"]).expect_code(0);
    }
    nodes.db('a').run("insert into t values (1)");
    for (from, to) in [('a', 'b'), ('a', 'c')] {
        nodes.arrow(from, to).agent.run(&["check"]).expect_code(0).expect_text(&["0 warnings"]);
        nodes.arrow(from, to).agent.run(&["once"]).expect_code(0);
    }
    let by_a = format!("come by agent {} as well", nodes.db('a').name);
    nodes.arrow('b', 'c').agent.run(&["check"]).expect_code(0).expect_text(&[&by_a]);
    nodes.arrow('b', 'c').agent.run(&["once"]).expect_code(1).expect_text(&[&by_a, "insert_exists"]);
}

/// Two that write the same row: each gets the other's values, and both say so.
#[test]
fn conflicting_writers_are_reported_on_both_sides() {
    let mut nodes = Nodes::new("a<>b", TABLE);
    nodes.db('a').run("insert into t values (1), (2), (3)");
    nodes.db('b').run("set session_replication_role = replica; insert into t values (1), (2), (3)");
    nodes.settle();
    nodes
        .db('a')
        .run("update t set v = 1 where id = 1; delete from t where id = 2; update t set v = 1 where id = 3");
    nodes
        .db('b')
        .run("update t set v = 2 where id = 1; update t set v = 2 where id = 2; delete from t where id = 3");
    nodes.settle();
    assert_eq!(
        nodes.conflicts('a'),
        ["update_differs public.t (id)=(1)", "update_missing public.t (id)=(2)"]
    );
    assert_eq!(
        nodes.conflicts('b'),
        ["update_differs public.t (id)=(1)", "update_missing public.t (id)=(3)"]
    );
    nodes.db('a').run("insert into t values (4)");
    nodes.db('b').run("insert into t values (5)");
    nodes.settle();
    for letter in ['a', 'b'] {
        assert_eq!(nodes.db(letter).value("select count(*) from t where id in (4, 5)"), "2");
    }
}

/// Where the agent may not be a replica the triggers fire for what it writes.
#[test]
fn without_session_replication_role_nothing_comes_back_either() {
    let role = "m_plain";
    let mut nodes = Nodes::new("a<>b b<>c", TABLE).forwarding("b");
    nodes.settle();
    for db in nodes.dbs() {
        db.run(&format!(
            "do $$ begin create role {role} login; exception when duplicate_object or unique_violation then null; end $$;
             grant usage on schema pyreplica_agent to {role};
             grant select, insert, update, delete, truncate on all tables in schema pyreplica_agent to {role};
             grant select, insert, update, delete, truncate on all tables in schema public to {role}"
        ));
    }
    nodes = nodes.as_role(role);
    // Its log is read, so what comes from elsewhere has to be told from what is written here.
    nodes.arrow('b', 'a').agent.run(&["check"]).expect_code(1).expect_text(&["pyreplica.allow_agent"]);
    nodes.dbs().for_each(|db| db.run("select pyreplica.allow_agent('m_plain')"));
    nodes.settle();
    for (id, letter) in [(1, 'a'), (2, 'b'), (3, 'c')] {
        nodes.db(letter).run(&format!("insert into t values ({id}); update t set v = 1 where id = {id}"));
    }
    nodes.settle();
    assert_eq!(nodes.assert_same("t"), 3);
    nodes.assert_no_conflicts();
    assert_eq!(nodes.db('a').value("select count(*) from pyreplica.replica_log"), "2");
    assert_eq!(nodes.db('b').value("select count(*) from pyreplica.replica_log"), "6");
}

/// A chain grows while it is written to: c is copied from b, and another table comes.
#[test]
fn a_slave_of_a_slave_is_copied_while_all_go_on() {
    let mut nodes =
        Nodes::new("a>b b>c", TABLE).initial('a', 'b', "copy").initial('b', 'c', "copy").forwarding("b");
    nodes.db('a').run("insert into t select i, 0 from generate_series(10001, 12000) i");
    let done = AtomicU32::new(0);
    let writer = nodes.db('a').clone();
    std::thread::scope(|scope| {
        scope.spawn(|| write(&writer, 9, &done));
        wait_for("the writer", || (done.load(Ordering::Relaxed) > 10).then_some(()));
        nodes.arrow('a', 'b').agent.start();
        nodes.wait_for_value('b', "select count(*) >= 2000 from t", "t");
        nodes.arrow('b', 'c').agent.start();
    });
    nodes.settle();
    nodes.assert_same("t");
    nodes.assert_same("u");
    // Added on b first, so that what is copied there goes on to c.
    for letter in ['c', 'b', 'a'] {
        nodes.db(letter).run("create table added (id int primary key)");
    }
    nodes.db('a').run("insert into added select generate_series(1, 100)");
    nodes.db('b').run("select pyreplica.add_table('added')");
    nodes.wait_for_value(
        'c',
        "select count(*) from pyreplica_agent.copied_table where table_name = 'added'",
        "1",
    );
    nodes.db('a').run("select pyreplica.add_table('added')");
    nodes.settle();
    assert_eq!(nodes.assert_same("added"), 100);
    nodes.assert_no_conflicts();
}
