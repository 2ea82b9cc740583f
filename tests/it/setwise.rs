//! Many changes at once: applied as their net effect, or one by one where that is not the same.

use pyreplica_tests::every_type::{ROWS, SCHEMA, UPDATES};
use pyreplica_tests::trio::{Setup, Trio};

const TABLE: &str = "create table t (id int primary key, v text unique, n bigint)";
const ROWS_1000: &str = "insert into t select i, 'v' || i, i from generate_series(1, 1000) i";

/// Runs `once`, and tells whether something had to be applied one by one.
fn once_one_by_one(trio: &Trio) -> bool {
    let finished = trio.agent.run_with(&["once"], &[("RUST_LOG", "replica_agent=debug")]).expect_code(0);
    finished.stderr.contains("change by change")
}

fn with_rows() -> Trio {
    let trio = Setup::new(TABLE).build();
    trio.once().expect_code(0);
    trio.master.run(ROWS_1000);
    assert!(!once_one_by_one(&trio));
    trio
}

#[test]
fn every_type_goes_in_bulk() {
    let trio = Setup::new(SCHEMA).build();
    trio.once().expect_code(0);
    let mut session = trio.master.session();
    ROWS.iter().for_each(|sql| session.run(sql));
    session.run("create temp table more as select * from every_type; update more set id = id + 1000");
    let ten_times = "do $$ begin for i in 1 .. 10 loop
        insert into every_type select * from more; update more set id = id + 1000;
        end loop; end $$";
    session.run(ten_times);
    assert!(!once_one_by_one(&trio));
    trio.assert_same();
    for sql in UPDATES {
        session.run(sql);
        let all = sql.rfind(" where ").map_or(*sql, |at| &sql[..at]);
        session.run(all);
        assert!(!once_one_by_one(&trio), "{all}");
        trio.assert_same();
    }
    session.run("delete from every_type");
    assert!(!once_one_by_one(&trio));
    trio.assert_same();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn rows_that_are_changed_again_arrive_as_they_end() {
    let trio = with_rows();
    trio.master.run(
        "begin;
         update t set n = n + 1; update t set v = v || 'x' where id % 2 = 0; update t set n = n + 1 where id % 3 = 0;
         delete from t where id % 10 = 0; insert into t select i, 'again' || i, i from generate_series(10, 500, 10) i;
         update t set id = id + 10000 where id % 7 = 0; update t set n = -n where id > 10000;
         delete from t where id = 10007; insert into t values (7, 'seven', 7), (8000, 'x', 1); delete from t where id = 8000;
         commit",
    );
    assert!(!once_one_by_one(&trio));
    trio.assert_same();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn values_that_change_places_are_applied_one_by_one() {
    let trio = with_rows();
    trio.master.run("begin; update t set v = 'w' || id; update t set v = 'v' || (1 + id % 1000); commit");
    assert!(once_one_by_one(&trio));
    trio.assert_same();
}

#[test]
fn a_row_that_differs_among_many_is_named() {
    let trio = with_rows();
    trio.slaves[0].run("update t set n = 0 where id = 77; delete from t where id in (78, 900)");
    trio.master.run("begin; update t set n = n + 1 where id <= 500; delete from t where id > 500; commit");
    assert!(once_one_by_one(&trio));
    let found = trio.conflicts(0);
    assert_eq!(found.len(), 3, "{found:?}");
    for (found, expected) in
        found.iter().zip(["update_differs|public.t|", "update_missing|public.t|", "delete_missing|public.t|"])
    {
        assert!(found.starts_with(expected), "{found}");
    }
    assert_eq!(trio.conflicts(1), [""; 0]);
    trio.slaves[0].run("insert into t values (78, 'v78', 79)");
    trio.assert_same();
}

#[test]
fn a_row_that_is_there_already_stops_the_slave() {
    let trio = with_rows();
    trio.slaves[0].run("insert into t values (1500, 'mine', 0)");
    trio.master.run("insert into t select i, 'v' || i, i from generate_series(1001, 2000) i");
    trio.once().expect_code(1).expect_text(&["insert_exists", "key (id)=(1500)"]);
    trio.slaves[0].run("delete from t where id = 1500");
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn a_trigger_that_fires_always_sees_each_change() {
    let mut trio = with_rows();
    trio.agent.start();
    trio.slaves[0].run(
        "create table seen (n bigint);
         create function see() returns trigger language plpgsql as
             $$ begin insert into public.seen values (new.n); return null; end $$;
         create trigger see after update on t for each row execute function see();
         alter table t enable always trigger see",
    );
    trio.master.run("begin; update t set n = -1 where id <= 50; update t set n = -2 where id <= 50; commit");
    trio.catch_up();
    assert_eq!(trio.slaves[0].rows("select n, count(*) from seen group by n order by n"), ["-2|50", "-1|50"]);
    trio.assert_same_rows("t");
}

#[test]
fn exact_applies_each_change() {
    for (apply, versions_gone) in [("net", "0"), ("exact", "20")] {
        let trio = Setup::new(TABLE).slave_line(&format!("apply = \"{apply}\"")).build();
        trio.once().expect_code(0);
        trio.master.run(
            "begin; insert into t select i, i, i from generate_series(1, 20) i; update t set n = 0; commit",
        );
        trio.once().expect_code(0);
        // Each row that was updated has left its first place.
        let gone = "select 20 - count(*) from t where ctid <= '(0,20)'";
        assert_eq!(trio.slaves[1].value(gone), versions_gone, "{apply}");
        trio.assert_same();
    }
}

/// The bytes of a bigint are as many as those of a float8.
#[test]
fn a_column_altered_on_the_slave_meanwhile_gets_the_right_values() {
    let mut trio = with_rows();
    trio.agent.start();
    trio.master.run("insert into t select i, 'v' || i, i from generate_series(1001, 2000) i");
    trio.catch_up();
    trio.slaves[0].run("alter table t alter n type float8");
    trio.master.run(
        "insert into t select i, 'v' || i, i from generate_series(2001, 3000) i; update t set n = n + 1",
    );
    trio.catch_up();
    assert_eq!(
        trio.slaves[0].value("select sum(n::bigint) from t"),
        trio.master.value("select sum(n) from t")
    );
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn an_altered_key_type_on_the_slave_is_no_hindrance() {
    let trio = Setup::new(TABLE)
        .slave_schema("create table t (n numeric, extra text default 'here', v varchar(100) unique, id bigint primary key)")
        .build();
    trio.once().expect_code(0);
    trio.master.run(ROWS_1000);
    trio.master.run("update t set n = n * 2, id = id + 5000 where id > 300; delete from t where id < 100");
    assert!(!once_one_by_one(&trio));
    let both = [&trio.master, &trio.slaves[0]].map(|db| db.rows("select id, v, n from t order by id"));
    assert_eq!(both[0], both[1]);
    assert_eq!(trio.slaves[0].value("select count(*) from t where extra = 'here'"), "901");
}

/// Each keeps what it has in the columns that an update of many sets to themselves, and its place in the page.
#[test]
fn many_updates_leave_alone_what_they_do_not_change() {
    let table = "create table t (id int primary key, v text, n bigint, g int generated always as (id + 1) stored,
                                 always int generated always as identity) with (fillfactor = 40);
                 create index on t (v); create index on t (g); create index on t (always); create index on t (n, v);
                 create index on t (lower(v))";
    let slave = format!("{table}; alter table t add here text default 'own'; create index on t (here)");
    let trio = Setup::new(table).slave_schema(&slave).slaves(1).build();
    trio.master.run("insert into t (id, v) select i, 'v' || i % 10 from generate_series(1, 3000) i");
    trio.once().expect_code(0);
    trio.slaves[0].run("update t set here = id where id % 2 = 0");
    for update in ["n = id", "v = v || 'x'", "n = -n, v = 'z' || v where id <= 2000", "v = null"] {
        trio.master.run(&format!("update t set {update}"));
        assert!(!once_one_by_one(&trio), "{update}");
    }
    let both =
        [&trio.master, &trio.slaves[0]].map(|db| db.rows("select id, v, n, g, always from t order by id"));
    assert_eq!(both[0], both[1]);
    let own = "select count(*) from t where here = case id % 2 when 0 then id::text else 'own' end";
    assert_eq!(trio.slaves[0].value(own), "3000");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

const TWO_TABLES: &str = "create table t (id int primary key, u int unique, v text);
                          create table l (id int primary key, v text)";

/// A slave that has 6000 rows, and a transaction of this statement behind more inserts than a window holds.
fn behind_many_inserts(statement: &str, on_slave: &str) -> Trio {
    let trio = Setup::new(TWO_TABLES).slaves(1).build();
    trio.master.run("insert into t select i, i, 'v' from generate_series(1, 6000) i");
    trio.once().expect_code(0);
    trio.slaves[0].run(on_slave);
    trio.master.run(&format!(
        "begin; insert into l select i, 'v' from generate_series(1, 30000) i; {statement}; commit"
    ));
    trio
}

#[test]
fn what_fails_before_a_copy_in_a_large_transaction_is_done_one_by_one() {
    let swap = "update t set u = -u where id <= 100; update t set u = 101 + u where id <= 100";
    let trio = behind_many_inserts(swap, "");
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn a_conflict_before_a_copy_in_a_large_transaction_is_named() {
    let change =
        "update t set v = v || 'x'; insert into t select i, i, 'v' from generate_series(6001, 9000) i";
    let trio = behind_many_inserts(change, "delete from t where id = 5");
    trio.once().expect_code(0);
    assert_eq!(trio.conflicts(0), ["update_missing|public.t|(id)=(5)"]);
    trio.master.run("delete from t where id = 5");
    trio.assert_same();
}

#[test]
fn a_copy_that_the_slave_refuses_says_why() {
    let role = "do $$ begin create role s_apply login; exception when duplicate_object or unique_violation then null; end $$";
    let trio = Setup::new(TWO_TABLES).slaves(1).build();
    let slave = &trio.slaves[0];
    let rights = "select, insert, update, delete, truncate on all tables in schema public to s_apply";
    slave.run(role);
    slave.run(&format!("grant create on database \"{}\" to s_apply; grant {rights}", slave.name));
    slave.run("grant set on parameter session_replication_role to s_apply");
    let dsn = slave.dsn();
    trio.agent.configure(&trio.config().replace(&dsn, &dsn.replace("user=postgres", "user=s_apply")));
    trio.once().expect_code(0);
    for (refuse, allow, says) in [
        ("revoke insert on l from s_apply", &*format!("grant {rights}"), "permission denied for table l"),
        (
            "alter table l enable row level security",
            "alter table l disable row level security",
            "row-level security policy for table \"l\"",
        ),
    ] {
        slave.run(refuse);
        trio.master.run(
            "insert into l select (select coalesce(max(id), 0) from l) + i, 'v' from generate_series(1, 500) i",
        );
        trio.once().expect_code(1).expect_text(&[says, "public.l", "HINT"]);
        slave.run(allow);
        trio.once().expect_code(0);
        trio.assert_same();
    }
}
