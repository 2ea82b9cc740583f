//! Instructions of README.md and docs/operations.md, followed as they are printed.

use std::io::Write;
use std::process::Stdio;

use pyreplica_tests::agent::Agent;
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::db::Db;
use pyreplica_tests::doc::example;
use pyreplica_tests::trio::Setup;
use pyreplica_tests::wait::wait_for;

/// Runs statements one by one, as somebody who types them does.
fn typed(db: &Db, sql: &str) {
    let mut psql = db.server.client_program("psql", &db.name);
    let mut psql = psql
        .args(["-qXv", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("psql");
    psql.stdin.take().expect("a pipe").write_all(sql.as_bytes()).expect("psql reads");
    assert!(psql.wait().expect("psql ends").success(), "{sql}");
}

#[test]
fn the_five_minutes_of_the_readme() {
    let [db1, db2] = ["db1", "db2"].map(|name| {
        let server = Cluster::start(name, &[("max_prepared_transactions", "0")]);
        let db = server.create_db("shop", "");
        db.run("create table orders (id int generated always as identity primary key, item text)");
        db
    });
    db1.run("insert into orders (item) values ('before')");
    typed(&db1, &example("../README.md", "master"));
    typed(&db2, &example("../README.md", "slave"));
    // The server of a test has the setting on its command line, which goes before.
    assert_eq!(
        db2.value("select setting from pg_file_settings where name = 'max_prepared_transactions' and sourcefile ~ 'auto'"),
        "10"
    );
    let here = |text: String, (host, db, role): (&str, &Db, &str)| {
        let dsn = db.dsn().replace("user=postgres", &format!("user={role}"));
        text.replace(&format!("host={host} dbname=shop user={role}"), &dsn)
    };
    let ends = [("db1", &db1, "pyreplica_agent"), ("db2", &db2, "pyreplica_apply")];
    let config = ends.into_iter().fold(example("../README.md", "agent"), here);
    let mut agent = Agent::new(&format!("{config}two_phase = false\n"));
    agent.run(&["check"]).expect_code(0).expect_text(&["0 errors"]);
    agent.start();
    let rows = |rows: &str| {
        wait_for("the rows", || (db2.value("select count(*) from orders") == rows).then_some(()))
    };
    rows("1");
    db1.run("insert into orders (item) values ('later')");
    rows("2");
    agent.run(&["status"]).expect_code(0).expect_text(&["reports", "streaming"]);
    agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
}

#[test]
fn the_queries_of_the_operations_manual() {
    let trio = Setup::new("create table t (id int primary key)").slaves(1).build();
    trio.once().expect_code(0);
    let name = trio.master.value("select name from pyreplica.slave_status");
    trio.master.run("insert into t values (1)");
    trio.slaves[0].run("insert into t values (2)");
    trio.master.run("set session_replication_role = replica; insert into t values (2); reset session_replication_role; delete from t where id = 2");
    trio.slaves[0].run("delete from t");
    trio.once().expect_code(0);
    let first = |db: &Db, query: &str| db.rows(&example("operations.md", query)).remove(0);
    assert!(first(&trio.master, "slave-status").starts_with(&format!("{name}|")));
    assert!(first(&trio.slaves[0], "conflicts").contains("delete_missing|public.t|DELETE|(id)=(2)"));
    assert!(first(&trio.master, "log-size").starts_with("log_0|"));
    assert!(first(&trio.master, "bytes-behind").starts_with(&format!("{name}|")));
    for query in ["prepared", "sleepers"] {
        trio.master.run(&example("operations.md", query));
    }
    trio.master.run("create role pyreplica");
    trio.master.run(&example("topologies.md", "allow-agent"));
}
