//! What a slave gets, by which names, and what becomes of the rows on the way.

use pyreplica_tests::trio::{Setup, Trio};

const PEOPLE: &str = "create table people (id int primary key, name text, mail text, born date, note text)";
const ROWS_100: &str =
    "insert into people select i, 'First' || i || ' Last' || i, 'p' || i || '@example.org',
    date '1970-01-01' + i, 'note ' || i from generate_series(1, 100) i";

/// A master and one slave with a mapping, in step.
fn mapped(master: &str, slave: &str, lines: &str) -> Trio {
    let trio = Setup::new(master).slave_schema(slave).slaves(1).slave_line(lines).build();
    trio.once().expect_code(0);
    trio
}

/// What the slave holds is what a query on the master says it should hold, and `verify` finds so too.
#[track_caller]
fn assert_holds(trio: &Trio, on_master: &str, on_slave: &str) {
    assert_eq!(trio.slaves[0].rows(on_slave), trio.master.rows(on_master), "{on_slave}");
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
}

const OTHER_NAMES: &str = "schemas = { public = \"shop\" }
    [[slave.table]]
    name = \"public.people\"
    to = 'crm.\"The People\"'
    columns = { id = \"no\", mail = \"e-mail\", note = false }";
const OTHER_SCHEMA: &str = "create schema shop; create schema crm; create table shop.t (id int primary key, v text);
    create table crm.\"The People\" (born date, \"e-mail\" text, note text default 'own', name text, no int primary key)";

#[test]
fn tables_and_columns_have_other_names() {
    for apply in ["net", "exact"] {
        let lines = format!("apply = \"{apply}\"\n{OTHER_NAMES}");
        let schema = format!("{PEOPLE}; create table t (id int primary key, v text)");
        let trio = Setup::new(&schema).slave_schema(OTHER_SCHEMA).slaves(1).slave_line(&lines).build();
        trio.master.run(ROWS_100);
        trio.agent.run(&["check"]).expect_code(0);
        trio.once().expect_code(0);
        let same = || {
            assert_holds(
                &trio,
                "select id, name, mail, born, 'own' from people order by id",
                "select no, name, \"e-mail\", born, note from crm.\"The People\" order by no",
            );
            assert_holds(&trio, "select * from t order by id", "select * from shop.t order by id");
        };
        same();
        trio.master.run(
            "insert into t values (1, 'a'), (2, 'b'); update t set v = 'c' where id = 2;
             insert into people select i, 'x', 'y', null, 'z' from generate_series(101, 200) i;
             update people set mail = upper(mail), note = null where id % 3 = 0; update people set note = 'n';
             update people set id = id + 1000 where id % 10 = 7; delete from people where id < 30;
             insert into people values (1, 'again', 'a@b', null, null); update people set name = 'N' where id = 1",
        );
        trio.once().expect_code(0);
        same();
        assert_eq!(trio.conflicts(0), [""; 0]);
        trio.master.run("truncate t, people");
        trio.once().expect_code(0);
        same();
    }
}

#[test]
fn a_conflict_is_found_by_other_names_too() {
    let trio = mapped(PEOPLE, OTHER_SCHEMA, OTHER_NAMES);
    trio.master.run(ROWS_100);
    trio.once().expect_code(0);
    trio.slaves[0].run(
        "update crm.\"The People\" set \"e-mail\" = 'own' where no = 7; delete from crm.\"The People\" where no = 8",
    );
    trio.agent
        .run(&["verify"])
        .expect_code(1)
        .expect_text(&["100 rows, 2 differ", "(id)=(7): differs in mail"]);
    trio.master.run("update people set mail = 'new'");
    trio.once().expect_code(0);
    let found = trio.conflicts(0);
    assert_eq!(found, ["update_differs|public.people|(id)=(7)", "update_missing|public.people|(id)=(8)"]);
    trio.agent.run(&["copy", "--table", "public.people"]).expect_code(0);
    assert_holds(
        &trio,
        "select id, mail from people order by 1",
        "select no, \"e-mail\" from crm.\"The People\" order by 1",
    );
}

#[test]
fn tables_are_left_out_and_taken_in_later() {
    let schema = format!(
        "{PEOPLE}; create table audit_a (id int primary key); create table audit_b (id int primary key)"
    );
    let slave = format!("{PEOPLE}; create table audit_b (id int primary key)");
    let lines = "tables = [\"public.*\", \"!public.audit_*\"]";
    let mut trio = mapped(&schema, &slave, lines);
    let config = trio.config();
    let change = "insert into audit_a values (default_id()); insert into audit_b values (default_id())";
    trio.master.run(
        "create sequence s; create function default_id() returns int language sql as 'select nextval(''s'')::int'",
    );
    trio.master.run(change);
    trio.master.run(ROWS_100);
    trio.agent.run(&["check"]).expect_code(0);
    trio.once().expect_code(0);
    assert_holds(&trio, "select count(*) from people", "select count(*) from people");
    assert_eq!(trio.slaves[0].value("select count(*) from audit_b"), "0");
    trio.agent.run(&["copy", "--table", "public.audit_b"]).expect_code(2).expect_text(&["audit_b"]);

    // WHEN one of them is taken in, THEN it is copied, and follows.
    trio.agent.configure(&config.replace("!public.audit_*", "!public.audit_a"));
    trio.agent.start();
    trio.master.run(change);
    pyreplica_tests::wait::wait_for("the rows of audit_b", || {
        (trio.slaves[0].value("select count(*) from audit_b") == "2").then_some(())
    });
    trio.agent.stop();

    // WHEN it is left out again, THEN it stands still, and does not come back with a gap.
    trio.agent.configure(&config);
    trio.master.run(change);
    trio.once().expect_code(0);
    assert_eq!(trio.slaves[0].value("select count(*) from audit_b"), "2");
    trio.agent.configure(&config.replace("!public.audit_*", "!public.audit_a"));
    trio.once().expect_code(1).expect_text(&["public.audit_b", "already holds rows"]);
    trio.slaves[0].run("truncate audit_b");
    trio.once().expect_code(0);
    assert_holds(&trio, "select count(*) from audit_b", "select count(*) from audit_b");
}

#[test]
fn two_tables_do_not_become_one() {
    let schema =
        "create table a (id int primary key); create schema s; create table s.a (id int primary key)";
    let trio =
        Setup::new(schema).slaves(1).slave_line("schemas = { s = \"public\", nosuch = \"x\" }").build();
    trio.master.run("select pyreplica.add_table('s.a')");
    let both = "tables public.a and s.a of the master would both be public.a there";
    trio.agent.run(&["check"]).expect_code(1).expect_text(&[both, "\"nosuch\""]);
    trio.once().expect_code(1).expect_text(&[both]);
}
