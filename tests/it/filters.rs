//! Tables of which the master sends some columns, rows or operations only.

use std::process::Stdio;

use pyreplica_tests::cluster::run;
use pyreplica_tests::db::Db;
use pyreplica_tests::doc;
use pyreplica_tests::random::{seeds, Random};
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

/// A trio whose only table is `t`, of which a part is captured, with the agent running.
fn started(schema: &str, arguments: &str) -> Trio {
    let mut trio = built(schema, arguments);
    trio.agent.start();
    trio.catch_up();
    trio
}

fn built(schema: &str, arguments: &str) -> Trio {
    let trio = Setup::new(schema).build();
    trio.master.run(&format!("select pyreplica.remove_table('t'), pyreplica.add_table('t', {arguments})"));
    trio
}

/// What the slaves hold is what a query on the master gives.
#[track_caller]
fn assert_holds(trio: &mut Trio, on_master: &str, on_slave: &str) {
    trio.catch_up();
    let expected = trio.master.rows(on_master);
    assert!(!expected.is_empty(), "nothing to compare: {on_master}");
    for slave in 0..trio.slaves.len() {
        assert_eq!(trio.slaves[slave].rows(on_slave), expected, "slave{}", slave + 1);
        assert_eq!(trio.conflicts(slave), [""; 0], "slave{}", slave + 1);
    }
}

const PEOPLE: &str = "create table t (id int primary key, region text, mail text not null default '', n int)";
const WORK: &str = "insert into t select i, (array['EU', 'US', null])[i % 3 + 1], 'm' || i, i from generate_series(1, 60) i;
    begin; update t set n = n + 1 where id < 20; savepoint a; update t set region = 'EU' where id < 10;
    rollback to a; update t set region = 'US' where id between 10 and 14; commit;
    update t set id = id + 100, region = case region when 'EU' then 'US' else 'EU' end where id between 20 and 30;
    update t set mail = 'none'; delete from t where id % 7 = 0";

#[test]
fn rows_move_in_and_out() {
    let mut trio = started(PEOPLE, "row_filter => 'region = ''EU'''");
    trio.master.run(WORK);
    assert_holds(&mut trio, "select * from t where region = 'EU' order by id", "select * from t order by id");
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
}

#[test]
fn copy_check_and_verify_hold_the_filter() {
    // GIVEN slaves without the columns that are not sent
    let mut trio = Setup::new(PEOPLE).slave_schema("create table t (n int, id int primary key)").build();
    trio.master.run("select pyreplica.remove_table('t')");
    trio.master
        .run("select pyreplica.add_table('t', columns => '{id,n}', row_filter => 'lower(region) = ''eu'' and n > 5')");
    trio.master.run(WORK);
    trio.agent.run(&["check"]).expect_code(0);
    // WHEN they are copied
    trio.agent.start();
    let on_master = "select id, n from t where region = 'EU' and n > 5 order by id";
    let on_slave = "select id, n from t order by id";
    // THEN they have the rows, and follow
    assert_holds(&mut trio, on_master, on_slave);
    trio.master.run("update t set n = n - 3; update t set mail = 'x', region = 'EU' where id > 110");
    assert_holds(&mut trio, on_master, on_slave);
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
    trio.agent.run(&["copy", "--table", "public.t", "--slave", "slave1"]).expect_code(0);
    assert_holds(&mut trio, on_master, on_slave);
    // AND differences are seen
    trio.slaves[0]
        .run("insert into t values (1, 1000); delete from t where n = (select max(n) from t where n < 1000)");
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&["only on the slave", "missing on the slave"]);
}

#[test]
fn check_names_a_column_that_nobody_fills() {
    let trio = Setup::new("create table t (id int primary key, v text not null)").build();
    trio.master.run("select pyreplica.remove_table('t'), pyreplica.add_table('t', '{id}')");
    let checked = trio.agent.run(&["check"]).expect_code(1);
    checked.expect_text(&[
        "column \"v\" of table public.t is NOT NULL without a default, and the master does not send it",
    ]);
}

#[test]
fn check_names_a_filter_that_the_agent_may_not_evaluate() {
    let trio = Setup::new("create table t (id int primary key)").build();
    trio.master.run(
        "create function f(int) returns boolean language plpgsql as 'begin return true; end';
         revoke execute on function f from public;
         select pyreplica.remove_table('t'), pyreplica.add_table('t', row_filter => 'f(id)');
         create role careful login; select pyreplica.allow_agent('careful'); grant select on t to careful",
    );
    trio.agent.configure(&trio.config().replacen("user=postgres", "user=careful", 1));
    let checked = trio.agent.run(&["check"]).expect_code(1);
    checked.expect_text(&[
        "the row filter of table public.t cannot be evaluated",
        "permission denied for function f",
    ]);
}

#[test]
fn schema_true_makes_the_table_whole() {
    let mut trio = Setup::new("create table seen (id int primary key)").slave_schema("").schema().build();
    trio.master.run(
        "create table t (id int primary key, v text not null, w text not null unique, d int not null default 7);
         insert into t values (1, 'a', 'x'), (2, 'b', 'y');
         select pyreplica.add_table('t', columns => '{v,id}', row_filter => 'w <> ''x''')",
    );
    trio.agent.start();
    assert_holds(&mut trio, "select id, v, null, 7 from t where id = 2", "select id, v, w, d from t");
}

#[test]
fn partitions_are_filtered_as_a_whole() {
    let mut trio = started(
        "create table t (id int primary key, region text, n int) partition by range (id);
         create table t_1 (n int, id int not null, region text); alter table t attach partition t_1 for values from (0) to (50);
         create table t_2 (gone int, region text, id int not null, n int); alter table t_2 drop gone;
         alter table t attach partition t_2 for values from (50) to (1000)",
        "columns => '{id,n}', row_filter => 'region = ''EU'''",
    );
    trio.master.run(
        "insert into t select i, (array['EU', 'US'])[i % 2 + 1], i from generate_series(1, 99) i;
         update t set id = id + 500 where id < 20 or id > 80; update t set region = 'EU' where n % 5 = 0;
         update t_1 set region = null where id % 3 = 0; delete from t_2 where n % 4 = 0; truncate t_1;
         insert into t values (7, 'EU', 0), (8, 'US', 0)",
    );
    assert_holds(
        &mut trio,
        "select id, n from t where region = 'EU' order by id",
        "select id, n from t order by id",
    );
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
}

#[test]
fn operations_that_are_not_sent_are_no_differences() {
    // GIVEN an archive that keeps what the master deletes
    let mut trio = started(PEOPLE, "operations => '{insert,update}'");
    trio.master.run("insert into t values (1, 'EU', 'a', 1), (2, 'US', 'b', 2); delete from t where id = 1");
    assert_holds(&mut trio, "select id from (values (1), (2)) v (id)", "select id from t order by id");
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
    trio.slaves[0].run("update t set n = 3 where id = 2");
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&["differs in n"]);
}

#[test]
fn a_condition_on_changes_is_not_verified() {
    let mut trio = started(PEOPLE, "row_filter => 'new.n > coalesce(old.n, 0)'");
    trio.master.run("insert into t values (1, 'EU', 'a', 1), (2, 'US', 'b', 0); update t set n = n - 1; update t set n = 5 where id = 1; delete from t");
    assert_holds(&mut trio, "select 1, 5", "select id, n from t");
    trio.agent
        .run(&["verify"])
        .expect_code(0)
        .expect_text(&["not compared, its row filter is a condition on changes"]);
}

#[test]
fn a_table_added_again_with_other_arguments_is_copied_anew() {
    let mut trio = started(PEOPLE, "row_filter => 'n > 0'");
    trio.master.run("insert into t values (1, 'EU', 'a', 1), (2, 'US', 'b', 0)");
    trio.catch_up();
    trio.agent.stop();
    trio.slaves.iter().for_each(|slave| slave.run("truncate t"));
    trio.master.run("select pyreplica.remove_table('t'), pyreplica.add_table('t', row_filter => 'n = 0')");
    trio.master.run("insert into t values (3, 'US', 'c', 0)");
    trio.agent.start();
    for slave in &trio.slaves {
        wait_for("the copy", || (slave.value("select count(*) from t") != "0").then_some(()));
    }
    assert_holds(&mut trio, "select id from t where n = 0 order by id", "select id from t order by id");
}

#[test]
fn a_bad_filter_is_refused_when_the_table_is_added() {
    let trio = Setup::new(PEOPLE).slaves(1).build();
    trio.master.run("select pyreplica.remove_table('t')");
    for (arguments, expected) in [
        ("row_filter => 'nosuch > 1'", "column \"nosuch\" does not exist"),
        ("row_filter => 'n + 1'", "argument of row_filter must be type boolean, not type integer"),
        ("columns => '{region}'", "column \"id\" belongs to the primary key"),
        ("operations => '{merge}'", "unknown operation 'merge'"),
    ] {
        let error = trio.master.error(&format!("select pyreplica.add_table('t', {arguments})"));
        assert!(error.message().starts_with(expected), "{arguments}: {error}");
    }
    assert_eq!(trio.master.value("select count(*) from pyreplica.replicated_table"), "0");
}

/// A copy of a database on the same server, by pg_dump and psql.
pub fn restored(db: &Db) -> Db {
    let copy = db.server.create_db(&format!("{}_restored", db.name), "");
    let mut dump =
        db.server.client_program("pg_dump", &db.name).stdout(Stdio::piped()).spawn().expect("pg_dump runs");
    let mut restore = db.server.client_program("psql", &copy.name);
    restore
        .args(["-qXv", "ON_ERROR_STOP=1"])
        .stdin(dump.stdout.take().expect("a pipe"))
        .stdout(Stdio::null());
    assert!(restore.status().expect("psql runs").success());
    assert!(dump.wait().expect("pg_dump ends").success());
    copy
}

#[test]
fn a_dump_of_the_master_keeps_the_filter() {
    let trio =
        built(PEOPLE, "columns => '{id,n}', row_filter => 'region in (''EU'', ''UK'')', whole_rows => true");
    let restored = restored(&trio.master);
    let part = "select columns, row_filter, operations, whole_rows, enabled from pyreplica.replicated_table";
    assert_eq!(restored.rows(part), trio.master.rows(part));
    restored.run("insert into t values (1, 'EU', 'a', 1), (2, 'US', 'b', 2); update t set region = null");
    assert_eq!(
        restored.rows("select sql from pyreplica.replica_log"),
        ["INSERT INTO public.t (id, n) VALUES (1, 1)", "DELETE FROM public.t WHERE id = 1"]
    );
}

/// It begins with dropping the triggers, and ends with making them anew.
#[test]
fn a_dump_is_restored_over_captured_tables_by_who_says_so() {
    let trio = built(PEOPLE, "row_filter => 'id > 0'");
    let master = &trio.master;
    let file = trio.agent.dir().join("dump");
    run(master.server.client_program("pg_dump", &master.name).arg("-Fc").arg("-f").arg(&file));
    let restore = |options: &str| {
        let mut restore = master.server.client_program("pg_restore", &master.name);
        restore.args(["--clean", "--if-exists", "--single-transaction", "-d", &master.name]).arg(&file);
        restore.env("PGOPTIONS", options).output().expect("pg_restore runs")
    };
    let part = "select relation, row_filter, enabled from pyreplica.replicated_table";
    let before = master.rows(part);
    let refused = String::from_utf8(restore("").stderr).expect("text");
    assert!(refused.contains("is replicated, and this would drop"), "{refused}");
    assert!(refused.contains("set pyreplica.drops_triggers = on"), "{refused}");
    let restored = restore("-c pyreplica.drops_triggers=on");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(master.rows(part), before);
    master.run("insert into t values (1, 'EU', 'a', 1)");
    assert_eq!(master.value("select count(*) from pyreplica.replica_log"), "1");
}

/// A step of a random history.
fn step(random: &mut Random) -> String {
    let (id, n) = (random.below(40), random.below(10));
    let region = ["'EU'", "'US'", "null"][random.below(3) as usize];
    match random.below(12) {
        0..=2 => format!("insert into t values ({id}, {region}, 'm{n}', {n}) on conflict (id) do update set n = excluded.n + 1"),
        3..=4 => format!("update t set n = {n} where id between {id} and {id} + 6"),
        5..=6 => format!("update t set region = {region} where id % 5 = {}", id % 5),
        7 => format!("update t set id = id + 100, region = {region} where id = {id} and {id} + 100 not in (select id from t)"),
        8 => format!("delete from t where id = {id} or n = {n} and id > 30"),
        9 => format!("update t set mail = mail || 'x' where id < {id}"),
        10 => format!("begin; update t set n = n + 1; savepoint a; update t set region = {region}; rollback to a; delete from t where n > 12; commit"),
        _ if n == 0 => "truncate t".to_owned(),
        _ => format!("begin; update t set region = {region}, n = {n} where id > {id}; update t set region = 'EU' where n < 3; rollback"),
    }
}

/// Random histories against the model `select ... where filter`; a trigger of the user changes rows in between.
#[test]
fn random_histories_end_as_the_filter_says() {
    let nested = "create function next_row() returns trigger language plpgsql as $$ begin
             update t set n = n + 1, region = case when n % 2 = 0 then 'EU' end where id = new.id + 1 and pg_trigger_depth() = 1;
             return null; end $$;
         create trigger next_row after insert or update on t for each row execute function next_row();";
    for seed in seeds() {
        eprintln!("history with PYREPLICA_SEED={seed}");
        let mut random = Random::new(seed);
        let setup = Setup::new(PEOPLE);
        let setup = if seed % 2 == 0 { setup } else { setup.slave_line("apply = \"exact\"") };
        let mut trio = setup.build();
        trio.master.run(&format!(
            "select pyreplica.remove_table('t'),
                    pyreplica.add_table('t', columns => '{{id,n,mail}}', row_filter => 'region = ''EU'' and n < 8', whole_rows => {});
             {nested} insert into t select i, 'EU', i, i from generate_series(1, 20) i",
            seed % 3 == 0
        ));
        trio.agent.start();
        for _ in 0..150 {
            trio.master.run(&step(&mut random));
        }
        trio.master.run("insert into t values (1000, 'EU', 'last', 0)");
        let columns = "select id, n, mail";
        assert_holds(
            &mut trio,
            &format!("{columns} from t where region = 'EU' and n < 8 order by id"),
            &format!("{columns} from t order by id"),
        );
    }
}

#[test]
fn the_examples_of_the_documentation_work() {
    let example = |name| doc::example("filters.md", name);
    let mut trio = Setup::new(&example("schema")).slaves(1).build();
    trio.master.run("select pyreplica.remove_table(relation) from pyreplica.replicated_table");
    for name in ["columns", "rows", "changes", "operations", "view"] {
        trio.master.run(&example(name));
    }
    trio.agent.start();
    trio.catch_up();
    trio.master.run(&example("work"));
    trio.catch_up();
    assert_eq!(trio.slaves[0].rows("select id, name from customers order by id"), ["1|Anna", "2|Boris"]);
    assert_eq!(trio.slaves[0].rows("select id from orders order by id"), ["2", "3"]);
    assert_eq!(trio.slaves[0].rows("select id, price from prices order by id"), ["1|3"]);
    assert_eq!(trio.slaves[0].rows("select count(*) from journal"), ["2"]);
    trio.agent.run(&["verify"]).expect_code(0);
}
