//! Concurrent commits, triggers, foreign keys, rules: whatever happens on the master, the slave ends equal.

use pyreplica_tests::trio::{Setup, Trio};

/// T1 logs first and commits last: its row must still arrive, and only once.
#[test]
fn late_commit_is_not_skipped() {
    for setup in [
        Setup::new("create table t (id int primary key, v text)"),
        Setup::new("create table t (id int primary key, v text)").atomic(),
    ] {
        let mut trio = setup.start();
        // GIVEN a transaction whose changes are in the log (spilled) before another one's
        let t1 =
            trio.master.begin("insert into t select i, repeat('x', 100) from generate_series(1, 20000) i");
        trio.master.run("insert into t values (-1)");
        // WHEN the other one commits first
        trio.catch_up();
        assert_eq!(trio.slaves[0].value("select count(*) from t"), "1");
        // THEN both arrive
        t1.commit();
        trio.catch_up_and_compare();
        assert_eq!(trio.slaves[1].value("select count(*) from t"), "20001");
    }
}

#[test]
fn a_long_transaction_delays_only_itself() {
    let mut trio = Trio::start("create table t (id int primary key, v int)");
    let long = trio.master.begin("insert into t values (0, 0)");
    for i in 1..50 {
        trio.master
            .run(&format!("insert into t values ({i}, 0); update t set v = v + 1 where id = {i} / 2 + 1"));
        if i % 10 == 0 {
            trio.catch_up();
            assert_eq!(trio.slaves[0].value("select count(*) from t"), i.to_string());
        }
    }
    long.commit();
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

/// Writers of one row wait for each other; their changes must apply in the order in which they committed.
#[test]
fn transactions_that_waited_for_each_other_keep_their_order() {
    let mut trio = Trio::start("create table t (id int primary key, v text)");
    trio.master.run("insert into t values (1, '')");
    trio.catch_up();
    trio.agent.stop();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let master = &trio.master;
            scope.spawn(move || {
                let mut session = master.session();
                for i in 0..50 {
                    session.run(&format!("update t set v = right(v || '{writer}:{i} ', 100) where id = 1"));
                }
            });
        }
    });
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

/// Triggers of users, whose names sort before and after ours, change the same row, another row of the same
/// statement, and another captured table.
#[test]
fn changes_made_by_triggers_apply_in_their_true_order() {
    for name in ["aaa", "!", " first", "zzz"] {
        let schema = format!(
            "create table t (id int primary key, v text);
             create table audit (n serial primary key, id int, v text);
             create function act() returns trigger language plpgsql as $$
             begin
                 if tg_op = 'DELETE' then
                     insert into audit (id, v) values (old.id, 'deleted');
                     return old;
                 end if;
                 insert into audit (id, v) values (new.id, new.v);
                 if pg_trigger_depth() = 1 then
                     update t set v = v || ' by ' || new.id where id = new.id + 1;
                     update t set v = v || ' itself' where id = new.id;
                     delete from t where id = new.id + 2 and v like '%drop%';
                 end if;
                 return new;
             end $$;
             create trigger \"{name}\" after insert or update or delete on t for each row execute function act()"
        );
        let mut trio = Trio::start(&schema);
        trio.master.run("insert into t values (1, 'a'), (2, 'b'), (3, 'drop'), (4, 'd'), (5, 'e')");
        trio.master.run("update t set v = upper(v)");
        trio.master.run("update t set v = 'drop' where id > 3; update t set v = v || '.' where id < 3");
        trio.master.run("delete from t where id in (1, 2)");
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0], "trigger {name:?}");
    }
}

#[test]
fn triggers_on_the_slave_do_not_fire() {
    let schema = "create table t (id int primary key, v text);
                  create function double() returns trigger language plpgsql as $$ begin new.v := new.v || new.v; return new; end $$;
                  create trigger d before insert or update on t for each row execute function double()";
    let mut trio = Trio::start(schema);
    trio.master.run("insert into t values (1, 'x'); update t set v = 'y' where id = 1");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select v from t"), "yy");
}

#[test]
fn foreign_key_actions_arrive_once() {
    let mut trio = Trio::start(
        "create table parent (id int primary key, v text);
         create table child (id int primary key, parent int references parent on delete cascade on update cascade);
         create table grand (id int primary key, child int references child on delete set null);
         create table later (id int primary key, parent int references parent deferrable initially deferred)",
    );
    trio.master.run(
        "begin; insert into later values (1, 1); insert into parent values (1), (2), (3); commit;
         insert into child select i, i % 3 + 1 from generate_series(1, 30) i;
         insert into grand select i, i from generate_series(1, 30) i;",
    );
    trio.master.run("update parent set id = id + 10 where id > 1; delete from parent where id = 12; delete from later; delete from parent where id = 1");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[1].value("select count(*), count(child) from grand"), "30|10");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn statements_that_touch_a_row_twice_arrive() {
    let mut trio = Trio::start(
        "create table t (id int primary key, v int default 0); create table u (id int primary key, v int);
         create table log (n serial primary key, id int);
         create rule also as on update to u do also insert into log (id) values (new.id);
         create rule instead_of_delete as on delete to u do instead update u set v = -1 where id = old.id",
    );
    trio.master.run("insert into t values (1), (2) on conflict (id) do update set v = t.v + 1");
    trio.master.run("insert into t values (2), (3) on conflict (id) do update set v = t.v + 1; insert into t values (1) on conflict do nothing");
    trio.master.run(
        "merge into t using (values (1, 5), (4, 6), (2, null)) s (id, v) on t.id = s.id
         when matched and s.v is null then delete when matched then update set v = s.v when not matched then insert values (s.id, s.v)",
    );
    trio.master.run(
        "with gone as (delete from t where id = 1 returning *), added as (insert into u select * from gone returning *),
              moved as (update t set id = id + 100 where id = 3 returning id)
         insert into u select id, 7 from moved",
    );
    trio.master.run("update u set v = v + 1; delete from u where id = 1");
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn unique_values_may_swap_between_rows() {
    let mut trio = Trio::start("create table t (id int primary key, u int unique deferrable, v text)");
    trio.master.run("insert into t values (1, 1), (2, 2), (3, 3)");
    trio.master.run("update t set u = 4 - u; update t set u = u % 3 + 1");
    trio.master.run("begin; set constraints all deferred; update t set u = 2 where id = 1; update t set u = 1 where u = 2 and id <> 1; update t set u = 3 where id = 2 and u = 1; rollback");
    trio.catch_up_and_compare();
}

#[test]
fn deferred_triggers_are_captured() {
    let schema = "create table t (id int primary key, v text); create table u (id int primary key);
                  create function act() returns trigger language plpgsql as $$
                  begin insert into u values (new.id); update t set v = 'seen' where id = new.id; return null; end $$;
                  create constraint trigger c after insert on t deferrable initially deferred for each row execute function act()";
    let mut trio = Trio::start(schema);
    trio.master.run("begin; insert into t values (1), (2); insert into t values (3); commit");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from u"), "3");
}

#[test]
fn procedures_may_commit_in_the_middle() {
    let mut trio = Trio::start(
        "create table t (id int primary key);
         create procedure fill() language plpgsql as $$
         begin for i in 1..10 loop insert into t values (i); if i % 3 = 0 then rollback; else commit; end if; end loop; end $$",
    );
    trio.master.run("call fill()");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from t"), "7");
}
