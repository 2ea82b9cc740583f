//! What `docs/topologies.md` says, as it is printed there; sequences of several nodes.

use pyreplica_tests::agent::Agent;
use pyreplica_tests::db::Db;
use pyreplica_tests::doc::example;
use pyreplica_tests::nodes::Nodes;
use pyreplica_tests::trio::{shared_servers, Setup};
use pyreplica_tests::wait::wait_for;

const FILE: &str = "topologies.md";

/// An example with the databases of the test in place of those that it names.
fn here(name: &str, db1: &Db, db2: &Db) -> String {
    [("db1", db1), ("db2", db2)].iter().fold(example(FILE, name), |text, (name, db)| {
        text.replace(&format!("host={name} dbname=shop user=pyreplica"), &db.dsn())
    })
}

#[test]
fn two_nodes_as_they_are_documented() {
    // GIVEN a database with rows, and an empty one with the same tables
    let servers = shared_servers();
    let [db1, db2] = [(0, "shop1"), (1, "shop2")].map(|(n, name)| servers[n].create_db(name, ""));
    for db in [&db1, &db2] {
        db.run("create table orders (id int generated always as identity primary key, item text)");
        db.run(&example(FILE, "pair-nodes"));
    }
    db1.run("insert into orders (item) select 'old' from generate_series(1, 10)");
    // WHEN it is done as written
    let mut agents = ["pair-1-to-2", "pair-2-to-1"].map(|name| Agent::new(&here(name, &db1, &db2)));
    agents[0].start();
    let count = |db: &Db, rows: &str| {
        wait_for("the rows", || (db.value("select count(*) from orders") == rows).then_some(()))
    };
    count(&db2, "10");
    agents[1].start();
    assert_eq!(db1.rows(&example(FILE, "spread-1")), ["orders_id_seq|11|2"]);
    assert_eq!(db2.rows(&example(FILE, "spread-2")), ["orders_id_seq|12|2"]);
    // THEN rows of both go to both
    for db in [&db1, &db2] {
        db.run("insert into orders (item) select current_database() from generate_series(1, 5)");
    }
    count(&db1, "20");
    count(&db2, "20");
    let rows = "select id, item from orders order by id";
    assert_eq!(db1.rows(rows), db2.rows(rows));
    agents[0].run(&["check"]).expect_code(0).expect_text(&["0 errors, 0 warnings"]);
    agents[0].run(&["verify"]).expect_code(0).expect_text(&["gives values between the master's"]);
    assert_eq!([next(&db1, "orders_id_seq", 1), next(&db2, "orders_id_seq", 1)], ["21", "22"]);
}

/// One node wins by both its own agent and that of the other: then they are equal again.
#[test]
fn two_nodes_of_which_one_wins_end_equal() {
    let mut nodes = Nodes::new("a<>b", "create table t (id int primary key, v text)");
    let (db1, db2) = (nodes.db('a').clone(), nodes.db('b').clone());
    for (from, to, name, of_doc) in
        [('a', 'b', "db1-wins-at-db2", "db2"), ('b', 'a', "db1-wins-at-db1", "db1")]
    {
        let slave = here(name, &db1, &db2)
            .replace(&format!("name = \"{of_doc}\""), &format!("name = \"{}\"", nodes.db(to).name));
        let arrow = nodes.arrows.iter().find(|arrow| (arrow.from, arrow.to) == (from, to)).expect("an arrow");
        let config = nodes.config(arrow);
        let (head, _) = config.split_once("[[slave]]").expect("a slave");
        arrow.agent.configure(&format!("{head}{slave}"));
    }
    nodes.settle();
    db1.run("insert into t values (1, 'of a')");
    db2.run("insert into t values (1, 'of b')");
    nodes.settle();
    nodes.assert_same("t");
    db1.run("update t set v = 'by a'");
    db2.run("update t set v = 'by b'");
    nodes.settle();
    nodes.assert_same("t");
    assert_eq!(db2.rows("select v from t"), ["by a"]);
    let conflicts = ["insert_exists public.t (id)=(1)", "update_differs public.t (id)=(1)"];
    assert_eq!([nodes.conflicts('a'), nodes.conflicts('b')], [conflicts, conflicts]);
}

#[test]
fn a_node_forwards_as_it_is_documented() {
    let mut nodes = Nodes::new("a>b b>c", "create table t (id int primary key)");
    nodes.settle();
    nodes.db('a').run("insert into t values (1)");
    nodes.settle();
    assert_eq!(nodes.db('c').value("select count(*) from t"), "0");
    nodes.db('b').run(&example(FILE, "chain-forward"));
    nodes.db('a').run("insert into t values (2)");
    nodes.settle();
    assert_eq!(nodes.db('c').rows("select id from t"), ["2"]);
    nodes.db('b').run("select pyreplica.forward(false)");
    nodes.db('a').run("insert into t values (3)");
    nodes.settle();
    assert_eq!(nodes.db('c').rows("select id from t"), ["2"]);
}

/// A database with the extension and nothing else.
fn database(name: &str) -> Db {
    let db = shared_servers()[0].create_db(name, "");
    db.run("create extension pyreplica");
    db
}

/// The next values of a sequence.
fn next(db: &Db, sequence: &str, count: u32) -> String {
    db.value(&format!("select string_agg(nextval('{sequence}')::text, ' ') from generate_series(1, {count})"))
}

#[test]
fn sequences_of_several_nodes_never_meet() {
    let db = database("spread");
    db.run(
        "create sequence plain; create sequence down increment -1 minvalue -10000 start -5;
         create sequence round minvalue 1 maxvalue 7 cycle;
         create table t (id bigserial primary key, n int generated always as identity);
         insert into t values (41) returning id; select nextval('plain')",
    );
    let spread = |node, nodes| {
        db.rows(&format!("select * from pyreplica.spread_sequences('public', {node}, {nodes})"))
    };
    assert_eq!(spread(2, 3), ["down|-7|-3", "plain|2|3", "round|2|3", "t_id_seq|44|3", "t_n_seq|2|3"]);
    assert_eq!(next(&db, "plain", 3), "2 5 8");
    assert_eq!(next(&db, "down", 3), "-7 -10 -13");
    assert_eq!(next(&db, "round", 4), "2 5 2 5", "a cycle begins with a value of its own");
    assert_eq!(db.value("insert into t default values returning id || ' ' || n"), "44 2");
    // Again, for more nodes: beyond all that was given.
    db.run("drop sequence round");
    assert_eq!(spread(1, 10)[1..], ["plain|11|10", "t_id_seq|51|10", "t_n_seq|11|10"]);
    db.run("truncate t restart identity");
    assert_eq!(db.value("insert into t default values returning id % 10 || ' ' || n % 10"), "1 1");
}

#[test]
fn what_cannot_be_spread_is_refused() {
    let db = database("spread_not");
    db.run("create sequence s maxvalue 5; select nextval('s') from generate_series(1, 4)");
    let refused =
        |arguments: &str| db.error(&format!("select pyreplica.spread_sequences({arguments})")).to_string();
    for (arguments, text) in [
        ("'public', 2, 2", "sequence public.s has no value left for node 2 of 2"),
        ("'public', 3, 2", "node_offset must be between 1 and nodes, which is 2"),
        ("'public', 0, 2", "node_offset must be between 1 and nodes"),
        ("'public', 1, 0", "nodes must be 1 or more"),
        ("'nowhere', 1, 2", "schema nowhere does not exist"),
    ] {
        assert!(refused(arguments).contains(text), "{arguments}: {}", refused(arguments));
    }
    assert_eq!(next(&db, "s", 1), "5", "nothing was changed");
    db.run(
        "do $$ begin create role m_nobody login; exception when duplicate_object or unique_violation then null; end $$",
    );
    let error = db.session_of("m_nobody").error("select pyreplica.spread_sequences('public', 1, 2)");
    assert_eq!(error.message(), "must be owner of sequence s");
}

/// The agent knew the sequence as it was before.
#[test]
fn a_sequence_that_is_altered_while_the_agent_runs_keeps_to_its_own_values() {
    let mut trio = Setup::new("create table t (id serial primary key)").slaves(1).start();
    let slave = trio.slaves[0].clone();
    trio.master.run("insert into t default values");
    trio.catch_up();
    // WHEN it counts otherwise than the master's THEN it follows by values of its own
    slave.run("alter sequence t_id_seq increment 10 start 5 restart 5");
    trio.master.run("insert into t select from generate_series(1, 22)");
    trio.catch_up();
    assert_eq!(next(&slave, "t_id_seq", 2), "25 35");
    // WHEN it counts between the master's THEN it goes its own way
    trio.master
        .run("alter sequence t_id_seq increment 10 start 101 restart 101; insert into t default values");
    trio.catch_up();
    assert_eq!(next(&slave, "t_id_seq", 1), "45");
}
