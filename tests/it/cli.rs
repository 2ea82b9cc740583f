//! Each bad input has one clear error; `check` reports all of them at once.

use pyreplica_tests::agent::run_bare;
use pyreplica_tests::trio::{Setup, Trio};

const TABLE: &str = "create table t (id int primary key, v text)";

/// A trio whose agent.toml was changed by hand.
fn with_config(change: impl Fn(String) -> String) -> Trio {
    let trio = Setup::new(TABLE).build();
    trio.agent.configure(&change(trio.config()));
    trio
}

#[test]
fn help_names_commands_and_exit_codes() {
    run_bare(&["--help"])
        .expect_code(0)
        .expect_text(&["run", "once", "check", "copy", "verify", "status", "--config"]);
    run_bare(&["--version"]).expect_code(0);
}

#[test]
fn wrong_usage_exits_2() {
    run_bare(&["frobnicate"]).expect_code(2).expect_text(&["frobnicate"]);
    run_bare(&["--no-such-flag"]).expect_code(2).expect_text(&["--no-such-flag"]);
}

#[test]
fn a_missing_configuration_is_named() {
    run_bare(&["--config", "/nowhere/agent.toml", "once"])
        .expect_code(2)
        .expect_text(&["/nowhere/agent.toml"]);
}

#[test]
fn an_unreadable_configuration_is_named() {
    // A directory, because root may read every file.
    run_bare(&["--config", "/proc", "once"]).expect_code(2).expect_text(&["/proc"]);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let trio = with_config(|config| config.replace("commit =", "comit ="));
    trio.once().expect_code(2).expect_text(&["comit", "commit"]);
    let trio = with_config(|config| config.replacen("initial =", "inital =", 1));
    trio.once().expect_code(2).expect_text(&["inital", "initial"]);
}

#[test]
fn what_is_no_toml_names_the_line() {
    with_config(|config| config.replace("[agent]", "[agent")).once().expect_code(2).expect_text(&["line 4"]);
}

#[test]
fn two_slaves_of_one_name_are_refused() {
    with_config(|config| config.replace("slave2", "slave1")).once().expect_code(2).expect_text(&["slave1"]);
}

#[test]
fn a_bad_dsn_is_refused_with_its_place() {
    let trio = with_config(|config| config.replacen("port=", "prot=", 2));
    trio.once().expect_code(2).expect_text(&["prot", "port"]);
}

#[test]
fn a_wrong_password_is_told_and_not_shown() {
    let trio = Setup::new(TABLE).build();
    trio.slaves[0].run("do $$ begin create role p_password login password 'right'; exception when duplicate_object then null; end $$");
    let dsn = format!(
        "host=127.0.0.1 port={} user=p_password password=wrong-secret dbname={}",
        trio.slaves[0].server.port, trio.slaves[0].name
    );
    trio.agent.configure(&trio.config().replace(&trio.slaves[0].dsn(), &dsn));
    for command in ["once", "check"] {
        let finished = trio.agent.run(&[command]).expect_code(1).expect_text(&[
            "slave1",
            "p_password",
            "password authentication failed",
        ]);
        assert!(!finished.text().contains("wrong-secret"), "{}", finished.text());
    }
}

#[test]
fn a_master_without_the_extension_is_told() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("drop extension pyreplica cascade");
    for command in ["once", "check"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&["CREATE EXTENSION pyreplica"]);
    }
}

#[test]
fn an_extension_of_another_version_is_told() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("update pg_extension set extversion = '99.9' where extname = 'pyreplica'");
    for command in ["once", "check"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&["99.9"]);
    }
}

#[test]
fn a_slave_without_the_database_is_told() {
    let trio = with_config(|config| config.replacen("_1'", "_nowhere'", 1));
    for command in ["once", "check"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&["slave1", "_nowhere"]);
    }
}

#[test]
fn a_slave_without_a_table_is_told() {
    let trio = Setup::new(TABLE).build();
    trio.slaves[0].run("drop table t");
    for command in ["once", "check"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&["slave1", "public.t"]);
    }
}

#[test]
fn a_slave_without_a_column_is_told() {
    let trio = Setup::new(TABLE).build();
    trio.slaves[1].run("alter table t drop v");
    trio.agent.run(&["check"]).expect_code(1).expect_text(&["slave2", "public.t", "v"]);
}

#[test]
fn a_slave_without_privileges_is_told() {
    let trio = Setup::new(TABLE).build();
    trio.slaves[0]
        .run("do $$ begin create role p_nothing login; exception when duplicate_object then null; end $$");
    let dsn = trio.slaves[0].dsn();
    trio.agent.configure(&trio.config().replace(&dsn, &dsn.replace("user=postgres", "user=p_nothing")));
    trio.agent.run(&["check"]).expect_code(1).expect_text(&["slave1", "p_nothing", "public.t"]);
}

#[test]
fn a_slave_that_is_the_master_is_refused() {
    for initial in ["copy", "current"] {
        let mut setup = Setup::new(TABLE).slaves(1);
        setup.initial = initial;
        let trio = setup.build();
        // The same socket by another path.
        let other_way = trio.master.dsn().replacen(" port", "/. port", 1);
        trio.agent.configure(&trio.config().replace(&trio.slaves[0].dsn(), &other_way));
        for command in ["once", "check"] {
            trio.agent.run(&[command]).expect_code(1).expect_text(&["slave \"slave1\" is the master itself"]);
        }
        let schema = "select count(*) from pg_namespace where nspname = 'pyreplica_agent'";
        assert_eq!(trio.master.value(schema), "0");
    }
}

#[test]
fn two_slaves_that_are_one_database_are_refused() {
    let trio = Setup::new(TABLE).build();
    let other_way = trio.slaves[0].dsn().replacen(" port", "/. port", 1);
    trio.agent.configure(&trio.config().replace(&trio.slaves[1].dsn(), &other_way));
    for command in ["once", "check"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&["are the same database"]);
    }
}

#[test]
fn no_prepared_transactions_names_server_and_setting() {
    let trio = Setup::new(TABLE).own_servers().slaves(1).build();
    trio.slaves[0].run("alter system set max_prepared_transactions = 0");
    let server = pyreplica_tests::cluster::Cluster::start("plain", &[("max_prepared_transactions", "0")]);
    let slave = server.create_db("plain", "");
    slave.run(TABLE);
    trio.agent.configure(&trio.config().replace(&trio.slaves[0].dsn(), &slave.dsn()));
    for command in ["once", "check"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&[
            "slave1",
            "max_prepared_transactions",
            "two_phase = false",
        ]);
    }
}

#[test]
fn tables_that_hold_rows_are_told_before_the_copy() {
    let trio = Setup::new(TABLE).build();
    trio.slaves[0].run("insert into t values (1)");
    trio.agent.run(&["check"]).expect_code(1).expect_text(&["slave1", "public.t", "rows"]);
}

#[test]
fn tables_that_cannot_be_replicated_say_why() {
    let trio = Setup::new(TABLE).build();
    trio.master.run(
        "create table nokey (id int); create view v as select 1; create materialized view m as select 1;
         create unlogged table u (id int primary key); create sequence s; create temp table tmp (id int primary key)",
    );
    for (table, code, hint) in [
        ("t", "42710", "remove_table"),
        ("nokey", "42P16", "PRIMARY KEY"),
        ("v", "42809", "tables"),
        ("m", "42809", "slave"),
        ("u", "42809", "LOGGED"),
        ("s", "42809", "tables"),
        ("pg_class", "42809", "replica_log"),
        ("pyreplica.slave", "42809", "your own"),
    ] {
        let error = trio.master.error(&format!("select pyreplica.add_table('{table}')"));
        assert_eq!(error.code().code(), code, "{table}: {error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{table}: {error:?}");
    }
    let error =
        trio.master.error("create temp table tmp (id int primary key); select pyreplica.add_table('tmp')");
    assert_eq!(error.code().code(), "42809");
    assert_eq!(
        trio.master.rows(
            "select relation, added, reason is null from pyreplica.add_all_tables('public') where not added"
        ),
        ["nokey|f|f", "t|f|f", "u|f|f"]
    );
}

#[test]
fn check_reports_everything_at_once() {
    let trio = Setup::new(&format!(
        "{TABLE}; create table a (id int primary key); create table b (id int primary key, n int)"
    ))
    .build();
    trio.agent.run(&["check"]).expect_code(0);
    // By somebody who means it.
    trio.master.run(
        "alter event trigger pyreplica_follow_ddl disable; alter table a disable trigger \"!pyreplica\"",
    );
    trio.slaves[0].run("drop table t; alter table b drop n");
    trio.slaves[1].run("alter table b alter n type point using null; insert into a values (1)");
    trio.agent
        .run(&["check"])
        .expect_code(1)
        .expect_text(&["public.a", "disabled", "slave1", "public.t", "public.b", "slave2"]);
}

#[test]
fn check_finds_that_the_master_is_behind_its_slave() {
    let mut trio = Setup::new(TABLE).slaves(1).start();
    trio.master.run("insert into t values (1)");
    trio.catch_up();
    trio.agent.stop();
    trio.agent.run(&["check"]).expect_code(0);
    trio.master
        .run("drop extension pyreplica cascade; create extension pyreplica; select pyreplica.add_table('t')");
    let finished = trio.agent.run(&["check"]).expect_code(1).expect_text(&["is behind its slave \"slave1\""]);
    assert!(!finished.text().contains("WARNING"), "{}", finished.text());
}

#[test]
fn check_names_generated_columns_that_are_ordinary_on_the_slave() {
    let generated = "create table t (id int primary key, g int generated always as (id + 1) stored)";
    let trio =
        Setup::new(generated).slave_schema("create table t (id int primary key, g int)").slaves(1).build();
    trio.agent
        .run(&["check"])
        .expect_code(0)
        .expect_text(&["column \"g\" of table public.t is generated on the master"]);
    trio.slaves[0].run("alter table t drop g; alter table t add g int generated always as (id + 1) stored");
    assert!(!trio.agent.run(&["check"]).text().contains("generated"));
}

#[test]
fn check_names_constraints_that_are_not_checked() {
    let trio = Setup::new("create table t (id int primary key, u int unique deferrable)").build();
    trio.agent.run(&["check"]).expect_code(0).expect_text(&["constraint t_u_key of table", "deferrable"]);
}

#[test]
fn status_is_for_people_and_scripts() {
    let trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.agent.run(&["status"]).expect_code(0).expect_text(&["slave1", "slave2"]);
    let json = trio.agent.run(&["status", "--json"]).expect_code(0);
    // Read by PostgreSQL, which knows JSON.
    let names = trio
        .master
        .value(&format!("select '{}'::jsonb::text like '%slave1%'", json.stdout.replace('\'', "''")));
    assert_eq!(names, "t");
}
