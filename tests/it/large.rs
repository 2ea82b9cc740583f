//! Values too large for the agent's memory: they travel in pieces, and arrive as any other.

use pyreplica_tests::trio::{Setup, Trio};

const TABLE: &str = "
    create table t (id int primary key, v text, b bytea, j jsonb, l int[], c varchar, n numeric);
    alter table t alter v set storage external, alter b set storage external";
/// Some megabytes that differ with their seed.
const LARGE: &str = "
    create function large(seed text) returns text language sql as
        $$ select string_agg(md5(seed || i) || ' äß', '') from generate_series(1, 80000) i $$";

fn trio(setup: Setup) -> Trio {
    let trio = setup.build();
    trio.master.run(LARGE);
    trio.once().expect_code(0);
    trio
}

fn once_and_compare(trio: &Trio) {
    trio.once().expect_code(0);
    trio.assert_same();
}

fn check(setup: Setup) {
    let trio = trio(setup);
    for sql in [
        // Alone in its column, in several, beside small ones, and none.
        "insert into t values (1, large('a')), (2, 'small'); insert into t values (3, large('b'), convert_to(large('c'), 'UTF8'))",
        "insert into t values (4, null, null, to_jsonb(large('d')), null, large('e'), 1.50); insert into t values (5)",
        "insert into t select 6, 'v', null, null, array_agg(i) from generate_series(1, 600000) i",
        // Updates: old and new large, only one of them, a value that only the server can make from its bytes.
        "update t set v = large('f') where id = 1; update t set v = large('g'), n = 2.00 where id = 2",
        "update t set v = null, b = convert_to(v, 'UTF8'), c = 'c' where id = 3",
        "update t set j = jsonb_build_object('k', large('h')), c = left(c, 100) where id = 4",
        "update t set l = l || 1, v = large('i') where id = 6",
        // The key too: what does not change comes along.
        "update t set id = 10, n = 3 where id = 1; update t set id = 30, b = null where id = 3",
        // All in one transaction, with what comes before and after.
        "begin; insert into t values (7, large('j')); update t set v = v || 'x' where id = 7; update t set n = 7 where id = 7;
         insert into t values (8, 'v'); update t set v = large('k') where id = 8; delete from t where id = 7; commit",
        "delete from t",
    ] {
        trio.master.run(sql);
        once_and_compare(&trio);
    }
    for slave in 0..trio.slaves.len() {
        assert_eq!(trio.conflicts(slave), [""; 0]);
        assert_eq!(trio.slaves[slave].value("select count(*) from pyreplica_agent.piece"), "0");
    }
    trio.assert_nothing_prepared();
}

#[test]
fn they_arrive_whatever_is_done_to_them() {
    check(Setup::new(TABLE));
}

#[test]
fn they_arrive_in_a_group_change_by_change() {
    check(Setup::new(TABLE).atomic().slave_line("apply = \"exact\""));
}

#[test]
fn they_arrive_where_the_slave_has_other_types() {
    let slave = "create table t (n numeric(10, 1), v varchar, b bytea, l int[], j json, c text, id bigint primary key)";
    let trio = trio(Setup::new(TABLE).slave_schema(slave).slaves(1));
    trio.master.run("insert into t values (1, large('a'), null, '[1]', null, large('b'), 1)");
    trio.once().expect_code(0);
    trio.master.run("update t set v = large('c'), j = to_jsonb(large('d')), c = large('e') where id = 1");
    trio.once().expect_code(0);
    let row = "select id, md5(v), md5(j::jsonb::text), md5(c) from t";
    assert_eq!(trio.slaves[0].rows(row), trio.master.rows(row));
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn rows_that_are_not_as_expected_are_named() {
    let trio = trio(Setup::new(TABLE).slaves(1));
    trio.master.run("insert into t select i, large('a') from generate_series(1, 3) i");
    trio.once().expect_code(0);
    trio.slaves[0]
        .run("update t set v = v || 'x' where id = 1; delete from t where id = 2; insert into t values (4)");
    trio.master.run("update t set v = large('b'), n = 1 where id = 1");
    trio.master.run("update t set v = large('b') where id = 2");
    trio.once().expect_code(0);
    assert_eq!(trio.conflicts(0), ["update_differs|public.t|(id)=(1)", "update_missing|public.t|(id)=(2)"]);
    let detail = "select detail from pyreplica_agent.conflict where conflict = 'update_differs'";
    assert!(trio.slaves[0].value(detail).ends_with("differ in \"v\"."), "{}", trio.slaves[0].value(detail));
    trio.slaves[0].run("insert into t select 2, v from t where id = 1");

    trio.master.run("insert into t values (4, large('c'))");
    trio.once().expect_code(1).expect_text(&["insert_exists", "key (id)=(4)"]);
    trio.slaves[0].run("delete from t where id = 4");
    once_and_compare(&trio);
}

#[test]
fn tables_that_are_added_meanwhile_bring_theirs() {
    let mut trio = trio(Setup::new(TABLE));
    trio.agent.start();
    let table = "create table later (id int primary key, v text)";
    trio.master.run(table);
    trio.slaves.iter().for_each(|slave| slave.run(table));
    trio.master.run("select pyreplica.add_table('later'); insert into later values (1, large('a'))");
    trio.master.run("update later set v = large('b')");
    trio.catch_up_and_compare();
}

#[test]
fn they_arrive_by_other_names_or_are_left_out() {
    let lines = "[[slave.table]]
        name = \"public.t\"
        to = \"public.other\"
        columns = { v = \"words\", b = false, j = false, l = false, n = false }";
    let slave = "create table other (id int primary key, words text, c varchar)";
    let trio = trio(Setup::new(TABLE).slave_schema(slave).slave_line(lines).slaves(1));
    trio.master.run("insert into t values (1, large('a'), convert_to(large('b'), 'UTF8'), null, null, 'c')");
    trio.once().expect_code(0);
    trio.master.run("update t set v = large('c'), b = convert_to(large('d'), 'UTF8')");
    trio.master.run("update t set b = convert_to(large('e'), 'UTF8'); update t set id = 2, c = 'd'");
    trio.once().expect_code(0);
    let same = trio.master.rows("select id, md5(v), c from t");
    assert_eq!(trio.slaves[0].rows("select id, md5(words), c from other"), same);
    assert_eq!(trio.conflicts(0), [""; 0]);
}
