//! Triggers of a slave that are set to fire for replicated changes, and what they may do to them.

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

/// One slave whose table t has a trigger with this body, before each change.
fn with_trigger(body: &str) -> Trio {
    let trio = Setup::new("create table t (id int primary key, v text)").slaves(1).build();
    trio.once().expect_code(0);
    trio.slaves[0].run(&format!(
        "create table audit (id int primary key, what text);
         create function act() returns trigger language plpgsql as $$ begin {body} end $$;
         create trigger act before insert or update on t for each row execute function act();
         alter table t enable always trigger act",
    ));
    trio
}

/// The table that is missing is not the one that is replicated.
#[test]
fn what_fails_inside_of_one_is_said_to_fail_there() {
    let trio = with_trigger("insert into audit values (new.id, tg_op); return new;");
    trio.master.run("insert into t values (1, 'a')");
    trio.once().expect_code(1).expect_text(&[
        "relation \"audit\" does not exist",
        "key (id)=(1), raised in PL/pgSQL function public.act() line 1 at SQL statement.",
        "search_path = pg_catalog",
    ]);
    trio.slaves[0].run("alter function act() set search_path = public");
    trio.once().expect_code(0);
    trio.assert_same();
}

/// Nor is the row that is in the way.
#[test]
fn what_collides_inside_of_one_is_no_conflict() {
    let trio = with_trigger("insert into public.audit values (new.id, tg_op); return new;");
    trio.slaves[0].run("insert into audit values (1, 'mine')");
    trio.master.run("insert into t values (1, 'a')");
    trio.once().expect_code(1).expect_text(&["audit_pkey", "raised in PL/pgSQL function public.act()"]);
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn an_update_that_one_leaves_out_is_reported_and_stops_nothing() {
    let trio = with_trigger("if tg_op = 'UPDATE' and new.id = 1 then return null; end if; return new;");
    trio.master.run("insert into t values (1, 'a'), (2, 'b')");
    trio.once().expect_code(0);
    trio.master.run("update t set v = 'x'");
    trio.once().expect_code(0);
    assert_eq!(trio.slaves[0].rows("select id, v from t order by id"), ["1|a", "2|x"]);
    assert_eq!(
        trio.slaves[0].rows("select conflict, key, applied, detail from pyreplica_agent.conflict"),
        ["update_differs|(id)=(1)|f|A trigger or rule of the slave keeps the row as it is."]
    );
}

#[test]
fn one_that_is_made_while_changes_flow_sees_each_of_them_soon() {
    let mut trio = Setup::new("create table t (id int primary key, n int)").slaves(1).start();
    trio.master.run("insert into t values (1, 0)");
    let twice = "begin; update t set n = n + 1; update t set n = n + 1; commit";
    let seen = |trio: &mut Trio| {
        trio.master.run(twice);
        trio.catch_up();
        trio.slaves[0].rows("delete from steps returning n")
    };
    trio.catch_up();
    trio.master.run(twice);
    trio.catch_up();
    trio.slaves[0].run(
        "create table steps (n int);
         create function note() returns trigger language plpgsql as $$ begin insert into public.steps values (new.n - old.n); return null; end $$;
         create trigger note after update on t for each row execute function note();
         alter table t enable always trigger note",
    );
    wait_for("each change", || (seen(&mut trio) == ["1", "1"]).then_some(()));
    assert_eq!(seen(&mut trio), ["1", "1"]);
    trio.slaves[0].run("drop trigger note on t");
    assert_eq!(seen(&mut trio), [""; 0]);
    trio.catch_up_and_compare();
}

/// At PREPARE TRANSACTION, or COMMIT, when nobody knows any more which change called it.
#[test]
fn what_fails_in_a_deferred_one_is_said_to_fail_there() {
    for phases in ["two_phase = true", "two_phase = false"] {
        let mut trio = Setup::new("create table t (id int primary key)").slaves(1).build();
        trio.agent.configure(&trio.config().replace("two_phase = true", phases));
        trio.once().expect_code(0);
        trio.slaves[0].run(
            "create function act() returns trigger language plpgsql as
                 $$ begin if new.id = 13 then raise 'no thirteen'; end if; return null; end $$;
             create constraint trigger act after insert on t initially deferred for each row execute function act();
             alter table t enable always trigger act",
        );
        trio.master.run("insert into t values (12)");
        trio.master.run("insert into t values (13)");
        let xid = trio.master.value("select max(xid::text::bigint) from pyreplica.log");
        trio.agent.start();
        let error = wait_for("the error in slave_status", || {
            let error = trio.master.value("select last_error from pyreplica.slave");
            (error != "null").then_some(error)
        });
        for part in
            ["no thirteen", &format!("origin transaction {xid}"), "raised in PL/pgSQL function public.act()"]
        {
            assert!(error.contains(part), "no {part} in {error}");
        }
        trio.slaves[0].run("drop trigger act on t");
        trio.catch_up_and_compare();
    }
}

#[test]
fn one_of_a_single_partition_sees_each_change() {
    let trio = Setup::new(
        "create table t (id int primary key, n int) partition by range (id);
         create table t1 partition of t for values from (0) to (100);
         create table t2 partition of t for values from (100) to (200)",
    )
    .slaves(1)
    .build();
    trio.once().expect_code(0);
    trio.slaves[0].run(
        "create table steps (what text);
         create function note() returns trigger language plpgsql as
             $$ begin insert into public.steps values (tg_op); return null; end $$;
         create trigger note after insert or update on t1 for each row execute function note();
         alter table t1 enable always trigger note",
    );
    trio.master.run("insert into t values (1, 0), (101, 0); update t set n = 1; update t set n = 2");
    trio.once().expect_code(0);
    trio.assert_same();
    assert_eq!(trio.slaves[0].rows("select what from steps"), ["INSERT", "UPDATE", "UPDATE"]);
}
