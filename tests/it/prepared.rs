//! Two-phase transactions of users on the master.

use pyreplica_tests::trio::Trio;

#[test]
fn prepared_transactions_arrive_when_they_commit() {
    // GIVEN two prepared transactions
    let mut trio = Trio::start("create table t (id int primary key, v text)");
    trio.master.run(
        "begin; insert into t select i from generate_series(1, 100) i; prepare transaction 'prepared yes'",
    );
    trio.master.run("begin; insert into t values (1000); prepare transaction 'prepared no'");
    // WHEN others commit, they arrive before
    trio.master.run("insert into t values (2000)");
    trio.catch_up();
    assert_eq!(trio.slaves[0].value("select id from t"), "2000");
    // THEN one arrives with its commit, the other never
    trio.master.run("commit prepared 'prepared yes'");
    trio.master.run("rollback prepared 'prepared no'");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from t"), "101");
}
