//! `schema = true`: the agent makes the tables of a slave.

use pyreplica_tests::trio::{Setup, Trio};

/// A bit of everything that a table needs, and what a slave must not get.
const SCHEMA: &str = r#"
    create schema "Sh op";
    create type mood as enum ('sad', 'ok');
    create domain price as numeric(8, 2) check (value >= 0);
    create type pair as (a int, b mood);
    create sequence loose;
    create function twice(n int) returns int language sql immutable begin atomic; select case when n > 0 then n * 2 end; end;
    create function note() returns trigger language plpgsql as $$ begin raise exception 'the slave; fires'; end $$;
    create table parent (id serial primary key, m mood[] not null default '{ok}', p price, pp pair,
                         n int default nextval('loose'), g int generated always as (twice(1)) stored);
    create table child (id int generated always as identity primary key, parent int not null references parent,
                        v text default 'a;''b' unique, check (v <> ';'));
    create index "odd ; index" on child (lower(v)) where v > ';';
    create trigger own after delete on child for each row execute function note();
    create table "Sh op"."T.a" (id int primary key, c int references child) partition by range (id);
    create table part_1 partition of "Sh op"."T.a" for values from (0) to (100);
    create table part_2 partition of "Sh op"."T.a" default;
    select pyreplica.add_table('"Sh op"."T.a"');
    comment on table child is 'select; $$ -- "';
    create table other (id int primary key)"#;

fn setup() -> Trio {
    let trio = Setup::new("create table seen (id int primary key)").slave_schema("").schema().build();
    // GIVEN a master with tables that need much, one of them with a foreign key to what is not captured
    trio.master.run(SCHEMA);
    trio.master.run("select pyreplica.add_table('parent'); select pyreplica.add_table('child')");
    trio.master.run(
        "create table refers (id int primary key references other); select pyreplica.add_table('refers')",
    );
    trio.master.run(
        r#"insert into seen values (1); insert into parent (p) select i from generate_series(1, 100) i;
           insert into child (parent, v) select i, i from generate_series(1, 100) i;
           insert into "Sh op"."T.a" select i * 3, i from generate_series(1, 100) i;
           insert into other values (1); insert into refers values (1)"#,
    );
    trio
}

/// What a table is, without what is ours. (From PostgreSQL 18 on, attnotnull has a constraint as well.)
const SHAPE: &str = "
    select 'column', attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated
      from pg_attribute where attnum > 0 and attrelid in (select oid from pg_class where relnamespace in
           (select oid from pg_namespace where nspname in ('public', 'Sh op')) and relname <> 'other' and relname <> 'other_pkey')
    union all
    select 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), '', indisunique, '', '' from pg_index
     where indrelid::regclass::text !~ 'pg_|pyreplica|other'
    union all
    select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated, '', '' from pg_constraint
     where conrelid::regclass::text !~ 'pg_|pyreplica|other' and conname <> 'refers_id_fkey' and contype <> 'n'
    union all
    select 'trigger', tgrelid::regclass::text, tgname, '', true, '', '' from pg_trigger
     where not tgisinternal and tgname !~ 'pyreplica'
    order by 1, 2, 3, 4";

fn assert_made(trio: &Trio) {
    for slave in &trio.slaves {
        assert_eq!(trio.master.rows(SHAPE), slave.rows(SHAPE));
        assert_eq!(slave.value("select count(*) from pg_trigger where tgname ~ 'pyreplica'"), "0");
        assert_eq!(slave.value("select to_regclass('other') is null"), "t");
        assert_eq!(slave.value("select count(*) from pyreplica_agent.pending_schema"), "0");
        assert_eq!(slave.value("select obj_description('child'::regclass)"), "select; $$ -- \"");
        assert_eq!(slave.value("select count(*) from pg_extension where extname = 'pyreplica'"), "0");
    }
}

#[test]
fn the_agent_makes_the_tables_and_what_they_need() {
    let mut trio = setup();
    trio.agent.run(&["check"]).expect_code(0);
    trio.catch_up_and_compare();
    assert_made(&trio);
    trio.agent.run(&["check"]).expect_code(0);
    // A table that is added later is made too.
    trio.agent.start();
    trio.master.run("create table later (id int primary key, m mood, parent int references parent); insert into later values (1, 'ok', 1);
                     select pyreplica.add_table('later'); insert into later values (2, 'sad', 2)");
    trio.catch_up_and_compare();
    trio.agent.stop();
    trio.catch_up_and_compare();
    assert_made(&trio);
}

#[test]
fn a_kill_while_the_schema_is_made_leaves_nothing_half_done() {
    for failpoint in [
        "schema.before_commit",
        "schema.after_commit",
        "copy.before_commit:2",
        "copy.after_commit:4",
        "schema.before_pending:1",
        "schema.before_pending:3",
        "schema.before_pending:12",
    ] {
        eprintln!("failpoint {failpoint}");
        let mut trio = setup();
        trio.agent.start_to_die_at(failpoint);
        let pid = trio.agent.pid();
        assert!(!trio.agent.wait_exit().success());
        trio.master.run(
            "delete from \"Sh op\".\"T.a\" where c = 100; insert into child (parent, v) values (5, 'x')",
        );
        trio.catch_up_and_compare();
        assert_made(&trio);
        assert_eq!(trio.conflicts(0), [""; 0]);
        let left = format!("replica_agent-schema-{pid}-");
        let entries = std::fs::read_dir(std::env::temp_dir()).expect("readable");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        assert_eq!(names.filter(|name| name.starts_with(&left)).collect::<Vec<_>>(), [""; 0]);
    }
}

/// A slave whose agent died when it had made the tables a and b, and copied one of them.
fn half_copied() -> Trio {
    let schema = "create table a (id int primary key, v int); create table b (id int primary key, v int)";
    let mut trio = Setup::new(schema).slave_schema("").slaves(1).schema().agent_line("copy_jobs = 1").build();
    trio.master
        .run("insert into a select i, 0 from generate_series(1, 100) i; insert into b select * from a");
    trio.agent.start_to_die_at("copy.after_commit:1");
    assert!(!trio.agent.wait_exit().success());
    assert_eq!(trio.slaves[0].value("select count(*) from pyreplica_agent.copied_table"), "1");
    trio
}

/// Without its primary key a table is looked through for each row that is changed.
#[test]
fn a_killed_copy_is_finished_before_changes_come() {
    let mut trio = half_copied();
    trio.master.run("update a set v = 1; update b set v = 1");
    trio.agent.start_to_die_at("schema.before_pending:1");
    assert!(!trio.agent.wait_exit().success());
    let slave = &trio.slaves[0];
    assert_eq!(slave.value("select count(*) from pyreplica_agent.copied_table"), "2");
    assert_eq!(slave.value("select count(*) from a natural full join b where v = 0"), "100");
    trio.catch_up_and_compare();
}

#[test]
fn a_killed_copy_waits_for_a_statement_that_alters_its_tables() {
    let mut trio = half_copied();
    trio.master.run(
        "select pyreplica.replicate_ddl('alter table a add w int not null default 7; alter table b add w int not null default 7');
         update a set v = 1; update b set v = 1; create table c (id int primary key); select pyreplica.add_table('c');
         insert into c values (1)",
    );
    trio.agent.start();
    trio.catch_up_and_compare();
    assert_eq!(
        trio.slaves[0]
            .value("select count(*) from pg_index where indrelid in ('a'::regclass, 'b'::regclass)"),
        "2"
    );
    let log = trio.agent.log();
    assert!(log.contains("could not go on with the copy"), "{log}");
}

#[test]
fn without_pg_dump_check_says_so() {
    let trio = setup();
    let empty = [("PATH", "/nowhere")];
    trio.agent.run_with(&["check"], &empty).expect_code(1).expect_text(&["pg_dump", "HINT"]);
    trio.agent.run_with(&["once"], &empty).expect_code(1).expect_text(&["pg_dump", "HINT"]);
}

/// A key that lacks room is no key to do without.
#[test]
fn what_lacks_room_on_the_slave_is_made_when_there_is_some() {
    let trio = Setup::new("create table t (id int primary key)").slave_schema("").slaves(1).schema().build();
    trio.master.run("insert into t select generate_series(1, 200000)");
    let slave = &trio.slaves[0];
    let set = |what| slave.run(&format!("alter database \"{}\" {what}", slave.name));
    set("set temp_file_limit = '64kB'");
    set("set maintenance_work_mem = '1MB'");
    let refused = trio.once().expect_code(1);
    let refused = refused.expect_text(&["temp_file_limit", "public.t", "tries again by itself"]);
    assert!(!refused.text().contains("To do without it"), "{}", refused.text());
    set("reset temp_file_limit");
    trio.once().expect_code(0);
    trio.assert_same();
    assert_eq!(slave.value("select to_regclass('t_pkey')"), "t_pkey");
}
