//! Tables that change, come and go while they are replicated.

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

#[test]
fn alter_table_between_write_and_read() {
    // GIVEN changes logged before and after each change of the table, with no agent running
    let mut trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.master.run("insert into t values (1, 'old'); alter table t add n int default 7; insert into t values (2, 'new', 8)");
    trio.master.run("alter table t drop v; update t set n = 9 where id = 1; alter table t add v text; update t set v = 'again'");
    trio.master.run("alter table t alter n type numeric; insert into t values (3, 0.10, 'x')");
    // WHEN the slaves have the final shape
    for slave in &trio.slaves {
        slave.run("alter table t add n numeric default 7; alter table t drop v; alter table t add v text");
    }
    // THEN all of it applies
    trio.catch_up_and_compare();
}

#[test]
fn a_column_that_a_slave_lacks_is_named() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("alter table t add \"new Column\" int; insert into t values (1, 'x', 5)");
    // GIVEN a slave without the column, WHEN the change arrives, THEN the error names it and the slave waits
    let error = wait_for("the error in slave_status", || {
        let error = trio.master.value("select last_error from pyreplica.slave_status where name = 'slave1'");
        (error != "null").then_some(error)
    });
    assert!(error.contains("new Column"), "{error}");
    for slave in &trio.slaves {
        slave.run("alter table t add \"new Column\" int");
    }
    trio.catch_up_and_compare();
}

#[test]
fn columns_may_stand_in_another_order_or_be_more_on_the_slave() {
    let mut trio = Setup::new(TABLE)
        .slave_schema("create table t (own text default 'mine', v text, gone int, id int primary key); alter table t drop gone")
        .start();
    trio.master.run("insert into t values (1, 'a'), (2, 'b'); update t set v = 'c' where id = 2; delete from t where id = 1");
    trio.catch_up();
    assert_eq!(trio.slaves[0].rows("select id, v, own from t"), ["2|c|mine"]);
}

#[test]
fn column_types_may_be_wider_on_the_slave() {
    let mut trio =
        Setup::new("create table t (id int primary key, a int2, b varchar(10), c float4, d timestamp)")
            .slave_schema("create table t (id bigint primary key, a numeric, b text, c float8, d timestamp)")
            .start();
    trio.master.run(
        "insert into t values (1, 7, 'x', 0.5, '2020-01-01'); update t set a = -1, b = 'y' where id = 1",
    );
    trio.catch_up();
    assert_eq!(trio.slaves[1].value("select * from t"), "1|-1|y|0.5|2020-01-01 00:00:00");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_table_added_later_is_copied_and_followed() {
    let mut trio = Trio::start(TABLE);
    let more = "create table later (id int primary key, v text)";
    trio.slaves.iter().for_each(|slave| slave.run(more));
    trio.master.run(&format!("{more}; insert into later select i, 'before' from generate_series(1, 100) i"));
    trio.master.run("select pyreplica.add_table('later'); update later set v = 'after' where id < 10; insert into t values (1)");
    trio.catch_up_and_compare();
    trio.master.run("delete from later where id > 50; insert into later values (1000, 'new')");
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_removed_table_is_left_alone() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t values (1)");
    trio.master.run("select pyreplica.remove_table('t'); insert into t values (2)");
    trio.catch_up();
    assert_eq!(trio.slaves[0].value("select count(*) from t"), "1");
    assert_eq!(trio.master.value("select count(*) from pg_trigger where tgrelid = 't'::regclass"), "0");
}

#[test]
fn a_table_dropped_in_the_transaction_that_wrote_it_does_no_harm() {
    let mut trio = Trio::start(&format!("{TABLE}; create table u (id int primary key)"));
    trio.master.run(
        "begin; create table brief (id int primary key); select pyreplica.add_table('brief');
         insert into brief values (1); insert into t values (1); drop table brief; commit; insert into t values (2)",
    );
    trio.slaves.iter().for_each(|slave| slave.run("create table brief (id int primary key)"));
    trio.catch_up_and_compare();
}

/// As pg_restore --disable-triggers does.
#[test]
fn what_is_loaded_without_triggers_is_captured_all_the_same() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("alter table t disable trigger all");
    trio.master.run("insert into t values (1)");
    trio.master.run("alter table t enable trigger all");
    trio.master.run("truncate t; insert into t values (2)");
    trio.catch_up_and_compare();
    trio.master.run(
        "select pyreplica.remove_table('t'); select pyreplica.add_table('t', columns => '{id}', row_filter => 'id > 0');
         alter table t disable trigger all; alter table t enable trigger all",
    );
    let enabled =
        "select string_agg(distinct tgenabled::text, ' ') from pg_trigger where tgname like '!pyreplica_%'";
    assert_eq!(trio.master.value(&format!("{enabled} and tgname <> '!pyreplica_options'")), "O");
    assert_eq!(trio.master.value(&format!("{enabled} and tgname = '!pyreplica_options'")), "D");
}

#[test]
fn temporary_tables_are_never_captured() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("create temp table t (id int primary key); insert into t values (1)");
    assert_eq!(trio.master.value("select count(*) from pyreplica.log"), "0");
}

#[test]
fn drop_extension_leaves_nothing_behind() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("insert into t values (1)");
    trio.master.run("drop extension pyreplica cascade");
    assert_eq!(trio.master.value("select count(*) from pg_trigger where not tgisinternal"), "0");
    assert_eq!(trio.master.value("select to_regnamespace('pyreplica') is null"), "t");
    trio.master.run("insert into t values (2)");
    trio.master.run("create extension pyreplica; select pyreplica.add_table('t'); insert into t values (3)");
    assert_eq!(trio.master.value("select count(*) from pyreplica.replica_log"), "1");
}

#[test]
fn a_renamed_table_goes_on_under_its_new_name() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t values (1)");
    trio.catch_up();
    for slave in &trio.slaves {
        slave.run("alter table t rename to renamed");
    }
    trio.master.run("alter table t rename to renamed; insert into renamed values (2)");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from renamed"), "2");
}

#[test]
fn rows_written_under_a_passing_name_are_not_lost() {
    let mut trio = Trio::start(
        "create table t (id int primary key, v int); create table other (id int primary key, v int);
         create table parts (id int primary key, v int) partition by range (id);
         create table part1 partition of parts for values from (0) to (100)",
    );
    trio.master.run(
        "begin; insert into t values (1, 1); alter table t rename to passing; insert into passing values (2, 2);
         update passing set v = 3 where id = 1; alter table passing rename to t; commit",
    );
    // Another table under the same name, and a schema that passes.
    trio.master.run(
        "begin; alter table other rename to passing; insert into passing values (7, 7); alter table passing rename to other;
         create schema elsewhere; alter table t set schema elsewhere; insert into elsewhere.t values (4, 4);
         alter table elsewhere.t set schema public; drop schema elsewhere; commit",
    );
    trio.master.run(
        "begin; alter table parts rename to passing; insert into passing values (5, 5);
         alter table passing rename to parts; insert into parts values (6, 6); commit",
    );
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from t"), "3");
    assert_eq!(trio.slaves[1].value("select id from other"), "7");
    assert_eq!(trio.slaves[0].value("select count(*) from parts"), "2");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_table_renamed_on_the_master_keeps_its_name_on_the_slave() {
    let mut trio = Setup::new(TABLE).atomic().start();
    trio.master
        .run("insert into t values (1); alter table t rename to renamed; insert into renamed values (2)");
    trio.master.run("update renamed set v = 'x' where id = 1; delete from renamed where id = 2");
    trio.catch_up();
    for slave in &trio.slaves {
        assert_eq!(slave.rows("select id, v from t"), ["1|x"]);
        slave.run("alter table t rename to renamed");
    }
    trio.master.run("truncate renamed; insert into renamed values (3)");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].rows("select id from renamed"), ["3"]);
}
