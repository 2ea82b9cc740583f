//! TRUNCATE, also of several tables at once.

use pyreplica_tests::trio::{Setup, Trio};

#[test]
fn truncate_takes_its_place_in_the_transaction() {
    let mut trio = Trio::start("create table t (id int primary key); create table u (id int primary key)");
    trio.master.run("insert into t values (1), (2); insert into u values (1)");
    trio.master.run("begin; insert into t values (3); truncate t, u; insert into t values (3); savepoint a; truncate t; rollback to a; commit");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select id from t"), "3");
}

#[test]
fn truncate_cascade_and_restart_identity_are_kept() {
    let mut trio = Trio::start(
        "create table parent (id int primary key); create table child (id serial primary key, p int references parent);
         create table own (id int generated always as identity primary key)",
    );
    trio.master.run("insert into parent values (1); insert into child (p) values (1), (1); insert into own default values");
    trio.catch_up();
    trio.slaves[0].run("select setval('own_id_seq', 77)");
    trio.master.run("truncate parent cascade; truncate own restart identity; insert into parent values (2)");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select last_value, is_called from own_id_seq"), "1|f");
}

/// A table that is still to be copied may refer to one that is emptied with it, which TRUNCATE alone does not allow.
#[test]
fn what_is_emptied_with_a_table_that_is_not_copied_yet_arrives() {
    let trio = Setup::new(
        "create table a (id serial primary key); create table b (id int primary key, a int references a)",
    )
    .build();
    trio.master.run("select pyreplica.remove_table('b'); insert into a values (1)");
    trio.once().expect_code(0);
    trio.master.run("select pyreplica.add_table('b'); insert into b values (1, 1)");
    trio.master.run("truncate a, b restart identity; insert into a values (5); insert into b values (1, 5)");
    trio.once().expect_code(0);
    trio.assert_same();
}
