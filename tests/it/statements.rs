//! Statements in their place among the changes: `replicate_ddl`, and INSERT INTO replica_log (sql) for the slaves only.

use pyreplica_tests::doc::example;
use pyreplica_tests::trio::{shared_servers, Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

#[test]
fn statements_run_in_their_place() {
    let mut trio = Trio::start(TABLE);
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

/// What a captured table may go through between two rows of one transaction.
const CHANGES: &str = "
    begin;
    insert into t values (1, 'a');
    select pyreplica.replicate_ddl('alter table t add n int default 7; create index t_n on t (n)');
    insert into t values (2, 'b', 8);
    update t set n = 9 where id = 1;
    select pyreplica.replicate_ddl('alter table t rename v to w');
    update t set w = 'c' where id = 2;
    select pyreplica.replicate_ddl('alter table t alter n type text using n || ''!''');
    insert into t values (3, 'd', 'ten');
    select pyreplica.replicate_ddl('alter table t drop w');
    delete from t where id = 1;
    select pyreplica.replicate_ddl('create type mood as enum (''fine''); alter table t add m mood');
    insert into t values (4, 'x', 'fine');
    commit";

#[test]
fn captured_tables_are_altered_between_two_rows_of_a_transaction() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic(), Setup::new(TABLE).one_phase()] {
        let mut trio = setup.start();
        trio.master.run(CHANGES);
        // A new value may be used by the next transaction: so the slave has to commit in between.
        trio.master.run("select pyreplica.replicate_ddl('alter type mood add value ''better''')");
        trio.master.run("insert into t values (5, 'y', 'better')");
        trio.catch_up_and_compare();
        assert_eq!(trio.slaves[1].rows("select * from t where id = 5"), ["5|y|better"]);
        assert_eq!(trio.slaves[0].value("select to_regclass('t_n')"), "t_n");
        assert_eq!(trio.conflicts(0), [""; 0]);
    }
}

#[test]
fn rows_in_a_replicated_statement_arrive_once() {
    let mut trio = Trio::start(TABLE);
    trio.master.run(
        "select pyreplica.replicate_ddl('alter table t add n int; insert into t values (1, ''a'', 1), (2, ''b'', 2);
                                         update t set n = n + 1; delete from t where id = 2;
                                         create table plain (id int); insert into plain values (3)')",
    );
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].rows("select * from t"), ["1|a|2"]);
    assert_eq!(trio.slaves[0].rows("select * from plain"), ["3"]);
    let error = trio.master.error("select pyreplica.replicate_ddl('do $$ begin update t set n = 0; end $$')");
    assert_eq!(error.code().code(), "0A000");
    assert_eq!(trio.master.value("select n from t"), "2");
}

#[test]
fn what_cannot_be_part_of_a_transaction_is_refused() {
    let trio = Setup::new(TABLE).build();
    for (sql, state) in [
        ("commit", "0A000"),
        ("create table u (id int); rollback", "0A000"),
        ("savepoint a", "0A000"),
        ("copy t from stdin", "0A000"),
        ("vacuum t", "25001"),
        ("create index concurrently on t (v)", "25001"),
        ("drop database nosuch", "25001"),
        ("", "22004"),
        (" ; ", "22004"),
        ("alter tabel t", "42601"),
        ("alter table nowhere add n int", "42P01"),
    ] {
        let error = trio.master.error(&format!("select pyreplica.replicate_ddl('{sql}')"));
        assert_eq!(error.code().code(), state, "{sql}: {error}");
    }
    assert_eq!(trio.master.error("select pyreplica.replicate_ddl(null)").code().code(), "22004");
    assert_eq!(trio.master.value("select count(*) from pyreplica.log"), "0");
    assert_eq!(trio.master.value("select to_regclass('u')"), "null");
}

#[test]
fn it_runs_under_the_same_search_path_and_role() {
    for server in shared_servers() {
        server.db("postgres").run(
            "do $$ begin create role s_owner login; exception when duplicate_object or unique_violation then null; end $$",
        );
    }
    let mut trio = Setup::new("create schema app; grant create, usage on schema app to public").start();
    trio.master.run("grant insert on pyreplica.replica_log to s_owner");
    let mut owner = trio.master.session_of("s_owner");
    owner.run(
        "set search_path = app; select pyreplica.replicate_ddl('create table mine (id int primary key)')",
    );
    // Settings do not outlive it.
    owner.run("select pyreplica.replicate_ddl('set search_path = app, pg_temp; create table mine2 (id int primary key)')");
    owner.run("select pyreplica.add_table('app.mine'); insert into app.mine values (1)");
    trio.catch_up_and_compare();
    for slave in &trio.slaves {
        let owners = "select relname, relowner::regrole from pg_class where relname ~ '^mine.?$' order by 1";
        assert_eq!(slave.rows(owners), ["mine|s_owner", "mine2|s_owner"]);
    }
    // Only for who may queue.
    trio.master.run("revoke insert on pyreplica.replica_log from s_owner");
    let error = trio.master.session_of("s_owner").error("select pyreplica.replicate_ddl('select 1')");
    assert_eq!(error.code().code(), "42501");
}

#[test]
fn a_statement_means_what_it_means_on_the_master() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t values (1, 'a')");
    trio.master.run(
        r"set datestyle = 'SQL, DMY'; set timezone = 'Asia/Tokyo'; set intervalstyle = 'sql_standard';
          set standard_conforming_strings = off; set escape_string_warning = off; set bytea_output = 'escape';
          set extra_float_digits = 0; set default_text_search_config = 'pg_catalog.german';
          select pyreplica.replicate_ddl($$alter table t add d date default '01/02/2020',
              add tz timestamptz default '2020-01-01 12:00', add iv interval default '-1 2:00:00',
              add s text default 'a\\b\'c', add f text default (0.1::float8 + 0.2::float8)::text,
              add b text default 'x'::bytea::text, add w tsvector default to_tsvector('die Katzen')$$);
          select pyreplica.replicate_ddl($$set datestyle = 'ISO, MDY'; alter table t add d2 date default '01/02/2020'$$);
          insert into t (id) values (2)",
    );
    // What the statement needed is gone with it.
    trio.master.run("insert into t (id, d, tz, s) values (3, '2020-03-04', '2020-01-01 12:00+01', 'd\\e')");
    trio.catch_up_and_compare();
    let slave = &trio.slaves[0];
    slave.run("insert into t (id) values (4)");
    let shown = "select d, d2, tz = '2020-01-01 12:00+09', iv = '-26:00', s from t where id = 4";
    assert_eq!(slave.value(shown), r"2020-02-01|2020-01-02|t|t|a\b'c");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_table_may_be_made_added_and_filled_at_once() {
    for setup in [
        Setup::new(TABLE),
        Setup::new(TABLE).atomic(),
        Setup::new(TABLE).initial("current"),
        Setup::new(TABLE).schema(),
    ] {
        let mut trio = setup.start();
        // In one transaction ...
        trio.master.run(
            "begin; select pyreplica.replicate_ddl('create table public.u (id int primary key, v text)');
             select pyreplica.add_table('u'); insert into u values (1, 'a'); insert into t values (1, 'x');
             update u set v = 'b'; commit",
        );
        trio.catch_up_and_compare();
        // ... and in several, with rows before it is added, and a change of it behind.
        trio.master.run("select pyreplica.replicate_ddl('create table public.w (id int primary key)')");
        trio.master.run("select pyreplica.add_table('w'); insert into w select generate_series(1, 10)");
        trio.master.run("select pyreplica.replicate_ddl('alter table public.w add n int'); insert into w values (11, 11); delete from w where id < 5");
        trio.catch_up_and_compare();
        assert_eq!(trio.slaves[0].value("select count(*) from w"), "7");
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert_eq!(trio.conflicts(1), [""; 0]);
        assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
    }
}

/// Waits until the copy of a table that a slave has on record is that of the master's table of now.
fn wait_for_record(trio: &Trio, table: &str) {
    let trigger =
        format!("select oid from pg_trigger where tgrelid = '{table}'::regclass and tgname = '!pyreplica'");
    let trigger = trio.master.value(&trigger);
    let record = format!("select trigger_oid from pyreplica_agent.copied_table where table_name = '{table}'");
    for slave in &trio.slaves {
        wait_for("the record of the new table", || (slave.value(&record) == trigger).then_some(()));
    }
}

#[test]
fn a_table_may_be_dropped_and_made_anew() {
    let make = "select pyreplica.replicate_ddl('create table public.n (id int primary key, v text)');
                select pyreplica.add_table('n'); insert into n values (1, 'a')";
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic()] {
        let mut trio = setup.start();
        trio.master.run(make);
        trio.catch_up_and_compare();
        // In one transaction, and in several.
        trio.master
            .run(&format!("begin; select pyreplica.replicate_ddl('drop table public.n'); {make}; commit"));
        wait_for_record(&trio, "n");
        trio.catch_up_and_compare();
        trio.master.run("select pyreplica.replicate_ddl('drop table public.n')");
        make.split_inclusive(';').for_each(|statement| trio.master.run(statement));
        trio.master.run("insert into n values (2, 'b'); insert into t values (1, 'a')");
        wait_for_record(&trio, "n");
        trio.catch_up_and_compare();
        // And while no agent runs.
        trio.agent.stop();
        trio.master.run(&format!("select pyreplica.replicate_ddl('drop table public.n'); {make}"));
        trio.catch_up_and_compare();
        trio.master.run("insert into n values (3, 'c')");
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
    }
}

#[test]
fn a_table_may_be_renamed_away_and_made_anew() {
    for running in [true, false] {
        let mut trio = Trio::start(TABLE);
        trio.master.run("insert into t select i, 'old' from generate_series(1, 5) i");
        trio.catch_up();
        if !running {
            trio.agent.stop();
        }
        trio.master.run(
            "update t set v = 'x' where id < 4; insert into t values (6, 'y'); delete from t where id = 5",
        );
        trio.master.run(
            "begin; select pyreplica.replicate_ddl('alter table public.t rename to t_old;
                                                    create table public.t (id int primary key, v text)');
             select pyreplica.add_table('t'); insert into t values (100, 'new'); commit",
        );
        if running {
            wait_for_record(&trio, "t");
        }
        trio.catch_up_and_compare();
        trio.master.run("update t_old set v = 'z'; update t set v = 'z'");
        trio.catch_up_and_compare();
        assert_eq!(trio.slaves[0].value("select count(*) from t_old where v = 'z'"), "5");
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
    }
}

#[test]
fn tables_are_made_and_added_one_after_the_other() {
    let mut trio = Trio::start(TABLE);
    for i in 0..20 {
        trio.master.run(&format!(
            "select pyreplica.replicate_ddl('create table public.u{i} (id int primary key)'); select pyreplica.add_table('u{i}')"
        ));
        trio.master.run(&format!("insert into u{i} values (1)"));
    }
    trio.catch_up_and_compare();
    assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
}

#[test]
fn a_table_made_while_no_agent_ran_is_copied_when_it_is_there() {
    let mut trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.master.run("select pyreplica.replicate_ddl('create table public.u as select 1 as id; alter table public.u add primary key (id)')");
    trio.master.run("select pyreplica.add_table('u'); insert into u values (2)");
    trio.master.run("select pyreplica.replicate_ddl('alter table public.u rename to w'); update w set id = 3 where id = 2");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].rows("select id from w order by 1"), ["1", "3"]);
}

#[test]
fn a_new_table_that_no_statement_makes_stops_the_slave() {
    let mut trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.master.run("create table u (id int primary key); select pyreplica.add_table('u'); insert into u values (1); insert into t values (1)");
    trio.once().expect_code(1).expect_text(&["table \"public.u\" does not exist on slave"]);
    trio.slaves
        .iter()
        .for_each(|slave| slave.run("create table u (id int primary key); insert into u values (7)"));
    trio.once().expect_code(1).expect_text(&["already holds rows"]);
    trio.slaves.iter().for_each(|slave| slave.run("truncate u"));
    trio.catch_up_and_compare();
}

#[test]
fn the_examples_of_the_documentation_run() {
    let mut trio = Setup::new("create table orders (id int primary key, state text)").start();
    trio.master.run("insert into orders values (1, 'new')");
    for name in ["alter", "new-table", "slaves-only"] {
        trio.master.run(&example("statements.md", name));
    }
    trio.catch_up_and_compare();
    let slave = &trio.slaves[0];
    assert_eq!(slave.value("select count(*) from orders where paid is not null"), "1");
    assert_eq!(slave.value("select to_regclass('orders_state')"), "orders_state");
    assert_eq!(trio.master.value("select to_regclass('orders_state')"), "null");
    assert_eq!(slave.value("select count(*) from invoices"), "1");
}
