//! INSERT INTO replica_log (sql) queues a statement for all slaves.

use pyreplica_tests::trio::Trio;

#[test]
fn statements_run_in_their_place() {
    let mut trio = Trio::start("create table t (id int primary key, v text)");
    trio.master.run(
        "begin; insert into t values (1, 'a');
         alter table t add n int;
         insert into pyreplica.replica_log (sql) values ('alter table public.t add n int');
         update t set n = 5; commit; insert into t values (2, 'b', 6)",
    );
    trio.catch_up_and_compare();
    trio.master.run("set search_path = public; insert into pyreplica.replica_log (sql) values ('create index t_n on t (n); comment on table t is ''it''''s''')");
    trio.catch_up();
    assert_eq!(trio.slaves[1].value("select obj_description('t'::regclass), to_regclass('t_n')"), "it's|t_n");
}

#[test]
fn statements_of_a_transaction_that_rolls_back_are_gone() {
    let mut trio = Trio::start("create table t (id int primary key)");
    trio.master
        .run("begin; insert into pyreplica.replica_log (sql) values ('drop table public.t'); rollback");
    trio.master.run("insert into t values (1)");
    trio.catch_up_and_compare();
}

#[test]
fn a_failing_statement_stops_the_slave_and_is_shown() {
    let mut trio = Trio::start("create table t (id int primary key)");
    trio.agent.stop();
    trio.master
        .run("insert into pyreplica.replica_log (sql) values ('alter table public.nowhere add n int')");
    trio.once().expect_code(1).expect_text(&["nowhere"]);
    let status =
        "select state, sqlstate, last_error like '%nowhere%' from pyreplica.slave where name = 'slave1'";
    assert_eq!(trio.master.value(status), "error|42P01|t");
}
