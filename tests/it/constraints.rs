//! Slaves on which the agent may not set session_replication_role: their foreign keys and constraints look at each
//! statement, as the master's did.

use std::sync::atomic::{AtomicBool, Ordering};

use pyreplica_tests::db::Db;
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

use crate::copy::Ends;

/// The role of the agent on the slave may change rows and nothing else.
fn constrained(schema: &str, role: &str) -> Trio {
    constrain(Setup::new(schema).slaves(1), role)
}

/// The same, on all slaves.
fn constrain(setup: Setup, role: &str) -> Trio {
    let trio = setup.build();
    for slave in &trio.slaves {
        slave.run(&format!(
            "do $$ begin create role {role} login; exception when duplicate_object or unique_violation then null; end $$;
             grant create on database \"{}\" to {role}; grant create on schema public to {role};
             grant select, insert, update, delete, truncate on all tables in schema public to {role}",
            slave.name
        ));
    }
    let (before, after) =
        trio.config().split_once("[[slave]]").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a slave");
    trio.agent
        .configure(&format!("{before}[[slave]]{}", after.replace("user=postgres", &format!("user={role}"))));
    trio
}

fn assert_all_arrive(trio: &Trio, statements: &[&str]) {
    trio.once().expect_code(0);
    for sql in statements {
        trio.master.run(sql);
        trio.once().expect_code(0);
        trio.assert_same();
    }
    // In one batch, too.
    statements.iter().for_each(|sql| trio.master.run(sql));
    trio.once().expect_code(0);
    trio.assert_same();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn rows_of_a_statement_may_refer_to_each_other() {
    let trio = constrained("create table t (id int primary key, parent int references t)", "c_self");
    assert_all_arrive(
        &trio,
        &[
            "insert into t values (4, 5), (5, null), (6, 4)",
            "update t set parent = 6",
            "delete from t",
            "begin; insert into t values (1, 2), (2, 1); update t set id = id + 10, parent = parent + 10; commit", "delete from t",
        ],
    );
}

#[test]
fn tables_that_refer_to_each_other_change_in_the_order_of_their_keys() {
    let trio = constrained(
        "create table child (id int primary key);
         create table parent (id int primary key, parent int references parent);
         alter table child add parent int references parent",
        "c_two",
    );
    assert_all_arrive(
        &trio,
        &[
            "begin; insert into parent values (2, 3), (3, null); insert into child values (1, 2), (2, 3), (3, 3); commit",
            "begin; delete from child; delete from parent;
             insert into parent values (12, 13), (13, null); insert into child values (7, 12), (8, 13); commit",
            "begin; delete from child; delete from parent; commit",
        ],
    );
}

/// The larger table, and the first by its name, is the one that refers.
#[test]
fn what_is_referred_to_is_copied_first() {
    let trio = constrained(
        "create table parent (id int primary key); create table a_child (id int primary key, parent int references parent)",
        "c_copy",
    );
    trio.master.run("insert into parent select generate_series(1, 10); insert into a_child select i, 1 + i % 10 from generate_series(1, 1000) i");
    trio.once().expect_code(0);
    trio.assert_same();
}

const FAMILY: &str =
    "create table z_parent (id int primary key); create table a_child (id int primary key, p int not null references z_parent)";

/// Parents that come with their children, as long as `work` goes on.
fn while_families_come(master: &Db, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&done);
        scope.spawn(|| {
            let mut session = master.session();
            for i in (100_000..).take_while(|_| !done.load(Ordering::Relaxed)) {
                session.run(&format!(
                    "begin; insert into z_parent values ({i}); insert into a_child values ({i}, {i}); commit"
                ));
            }
        });
        wait_for("the first of them", || {
            (master.value("select max(id) > 100000 from a_child") == "t").then_some(())
        });
        work();
    });
}

#[test]
fn what_is_connected_is_copied_as_of_one_moment() {
    let trio = constrained(FAMILY, "c_moment");
    trio.master.run("insert into z_parent select generate_series(1, 50000); insert into a_child select id, id from z_parent");
    while_families_come(&trio.master.clone(), || {
        trio.once().expect_code(0);
    });
    trio.once().expect_code(0);
    trio.assert_same();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn what_is_added_is_copied_as_of_the_moment_that_the_others_have_come_to() {
    for setup in [Setup::new(FAMILY).slaves(1), Setup::new(FAMILY).slaves(1).atomic()] {
        let mut trio = constrain(setup, "c_added");
        trio.master.run("select pyreplica.remove_table('a_child')");
        trio.agent.start();
        trio.catch_up();
        while_families_come(&trio.master.clone(), || {
            trio.master.run("select pyreplica.add_table('a_child')");
            wait_for("its copy", || {
                (trio.slaves[0].value("select count(*) from pyreplica_agent.copied_table") == "2")
                    .then_some(())
            });
        });
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert!(!trio.agent.log().contains("violates"), "{}", trio.agent.log());
    }
}

/// Each slave of the group comes to a moment of its own with the new table.
#[test]
fn a_table_that_is_added_while_a_group_is_copied_does_not_part_it() {
    let mut trio = constrain(Setup::new(FAMILY).slaves(2).atomic(), "c_parted");
    trio.master.run("select pyreplica.remove_table('a_child')");
    let mut holder = trio.slaves[1].session();
    holder.run("begin; lock table z_parent in row exclusive mode");
    while_families_come(&trio.master.clone(), || {
        trio.agent.start();
        trio.agent.wait_for_log("waits for a lock of another session on the slave");
        trio.master.run("select pyreplica.add_table('a_child')");
        holder.run("commit");
        let copied =
            |trio: &Trio| trio.slaves[0].value("select count(*) from pyreplica_agent.copied_table") == "2";
        wait_for("its copy", || copied(&trio).then_some(()));
    });
    trio.catch_up_and_compare();
    assert!(!trio.agent.log().contains("panicked"), "{}", trio.agent.log());
}

/// Ends with an error where it would wait for ever.
fn run_soon(master: &Db, sql: &str) {
    let mut session = master.session();
    session.run("set statement_timeout = '30s'");
    session.run(sql);
}

/// It waits for the copy. No session of the agent may wait behind it, or none of the three would ever go on.
#[test]
fn the_master_may_empty_what_is_copied_as_of_a_moment() {
    let schema = "create table seen (id int primary key); create table a_big (id int primary key);
                  create table z (id int primary key) partition by range (id);
                  create table z_1 partition of z for values from (0) to (10)";
    let setup = Setup::new(schema);
    // Who reads the filter or the partitions of a table locks them.
    let filter = ", row_filter => 'id > 0'";
    for (setup, filter, empty) in [
        (setup.clone().slaves(1), "", "truncate z"),
        (setup.clone().slaves(1), filter, "truncate z_1"),
        (setup.clone().atomic(), "", "truncate z_1"),
        (setup.atomic(), filter, "truncate z"),
    ] {
        let mut trio = constrain(setup, "c_empty");
        trio.master.run("select pyreplica.remove_table('a_big'); select pyreplica.remove_table('z')");
        for slave in &trio.slaves {
            slave.run(
                "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.02); return new; end $$;
                 create trigger slow before insert on a_big for each row execute function slow()",
            );
        }
        trio.agent.start();
        trio.catch_up();
        trio.master.run(&format!(
            "insert into a_big select generate_series(1, 150); insert into z values (1);
             select pyreplica.add_table('a_big'); select pyreplica.add_table('z'{filter})"
        ));
        wait_for("its copy", || {
            let copying = "select count(*) from pg_stat_activity
                            where datname = current_database() and state = 'active' and query ~ '^copy .*a_big'";
            (trio.slaves[0].value(copying) == "1").then_some(())
        });
        run_soon(&trio.master, empty);
        trio.catch_up_and_compare();
        for slave in 0..trio.slaves.len() {
            assert_eq!(trio.slaves[slave].value("select count(*) from z"), "0");
            assert_eq!(trio.conflicts(slave), [""; 0]);
        }
        assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
    }
}

#[test]
fn tables_are_copied_together_with_those_that_are_added_while_the_stream_comes_to_them() {
    let schema = "create table seen (id int primary key, v text); create table z (id int primary key);
                  create table a (id int primary key, z int not null references z)";
    for setup in [Setup::new(schema).slaves(1), Setup::new(schema).slaves(1).atomic()] {
        let trio = constrain(setup, "c_later");
        trio.master.run(
            "insert into seen values (1); select pyreplica.remove_table('a'); select pyreplica.remove_table('z')",
        );
        trio.once().expect_code(0);
        // GIVEN a table that was added, and a stream that is held up
        trio.master
            .run("insert into z values (1); select pyreplica.add_table('z'); update seen set v = 'new'");
        let in_the_way = trio.slaves[0].begin("select from seen for update");
        std::thread::scope(|scope| {
            let once = scope.spawn(|| trio.once());
            wait_for("the stream", || {
                let waiting = "select count(*) from pg_stat_activity
                                where datname = current_database() and wait_event_type = 'Lock'";
                (trio.slaves[0].value(waiting) == "1").then_some(())
            });
            // WHEN another one is added
            trio.master.run("select pyreplica.add_table('a'); insert into a values (1, 1)");
            in_the_way.commit();
            // THEN both are there, and nothing had to be begun anew
            let done = once.join().expect("no panic").expect_code(0);
            assert_eq!(done.text().matches("stands at log id").count(), 1, "{}", done.text());
        });
        trio.assert_same();
        assert_eq!(trio.conflicts(0), [""; 0]);
    }
}

/// pg_dump locks them in a session of its own.
#[test]
fn the_master_may_empty_what_is_made_on_the_slave() {
    let setup = Setup::new("create table seen (id int primary key)").slaves(1).schema();
    let mut trio = constrain(setup, "c_made");
    trio.once().expect_code(0);
    trio.master.run(
        "create table z (id int primary key); insert into z values (1); select pyreplica.add_table('z')",
    );
    let waiting = |sessions: &str| {
        wait_for("sessions that wait for the table", || {
            let waiting = "select count(*) from pg_locks where relation = 'z'::regclass and not granted";
            (trio.master.value(waiting) == sessions).then_some(())
        });
    };
    let before = trio.master.begin("lock table z");
    trio.agent.start();
    std::thread::scope(|scope| {
        waiting("1");
        scope.spawn(|| run_soon(&trio.master, "truncate z"));
        waiting("2");
        before.commit();
    });
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from z"), "0");
}

#[test]
fn a_table_that_was_made_before_a_kill_is_copied() {
    for failpoint in ["schema.after_commit", "copy.before_commit", "copy.after_commit"] {
        let setup = Setup::new("create table seen (id int primary key)").slaves(1).schema();
        let mut trio = constrain(setup, "c_made");
        trio.once().expect_code(0);
        trio.master.run(
            "create table z (id int primary key, s int references seen); insert into seen values (1);
             insert into z values (1, 1); select pyreplica.add_table('z')",
        );
        trio.agent.start_to_die_at(failpoint);
        assert!(!trio.agent.wait_exit().success());
        trio.master.run("insert into seen values (2); insert into z values (2, 2)");
        trio.agent.start();
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0]);
    }
}

/// Foreign keys of a single partition, and to one.
#[test]
fn partitions_connect_the_tables_that_they_are_of() {
    let trio = constrained(
        "create table z_parent (id int primary key);
         create table part (id int, r int, p int, primary key (id, r)) partition by list (r);
         create table part_a partition of part for values in (1);
         create table part_b partition of part for values in (2) partition by list (id);
         create table part_b_all partition of part_b default;
         alter table part_a add foreign key (p) references z_parent;
         create table a_ref (id int primary key, r int, foreign key (id, r) references part_b_all (id, r))",
        "c_partition",
    );
    trio.master.run(
        "insert into z_parent select generate_series(1, 100);
         insert into part select i, r, i from generate_series(1, 100) i, generate_series(1, 2) r;
         insert into a_ref select i, 2 from generate_series(1, 100) i",
    );
    trio.once().expect_code(0);
    trio.assert_same();
}

/// What the slave computes comes in several statements.
#[test]
fn rows_that_are_changed_on_the_way_may_refer_to_later_ones() {
    let setup = Setup::new("create table tree (id int primary key, up int references tree, v text)")
        .slaves(1)
        .slave_line("[[slave.table]]\nname = \"public.tree\"\nvalues = { v = \"upper(v)\" }");
    let trio = constrain(setup, "c_tree");
    trio.master.run("insert into tree select i, 20001 - i, 'v' from generate_series(1, 20000) i");
    trio.once().expect_code(1).expect_text(&["tree_up_fkey", "DEFERRABLE", "GRANT SET ON PARAMETER"]);
    trio.slaves[0].run("alter table tree alter constraint tree_up_fkey deferrable");
    trio.once().expect_code(0);
    assert_eq!(trio.slaves[0].value("select count(*), sum(up), max(v) from tree"), "20000|200010000|V");
}

#[test]
fn tables_in_a_circle_are_copied_if_one_of_the_keys_can_wait() {
    let trio = constrained(
        "create table c1 (id int primary key, r int not null);
         create table c2 (id int primary key, r int not null references c1);
         alter table c1 add constraint c1_r foreign key (r) references c2 deferrable initially deferred",
        "c_circle",
    );
    trio.master.run("begin; insert into c1 select i, i from generate_series(1, 100) i; insert into c2 select * from c1; commit");
    // GIVEN a slave on which none can
    trio.slaves[0].run("alter table c1 alter constraint c1_r not deferrable");
    trio.once().expect_code(1).expect_text(&["c1_r", "DEFERRABLE", "GRANT SET ON PARAMETER"]);
    trio.slaves[0].run("alter table c1 alter constraint c1_r deferrable");
    trio.once().expect_code(0);
    trio.assert_same();
    // All of the circle again.
    trio.slaves[0].run(
        "set session_replication_role = replica; delete from c1 where id < 10; insert into c2 values (0, 0)",
    );
    trio.agent.run(&["copy", "--table", "public.c1", "--table", "public.c2"]).expect_code(0);
    trio.assert_same();
}

#[test]
fn a_killed_copy_leaves_all_that_is_connected_or_nothing() {
    for (failpoint, copied) in [("copy.before_commit", "0"), ("copy.after_commit", "2")] {
        let mut trio = constrained(FAMILY, "c_killed");
        trio.master.run("insert into z_parent values (1); insert into a_child values (1, 1)");
        trio.agent.start_to_die_at(failpoint);
        assert!(!trio.agent.wait_exit().success());
        let tables = "select count(*) from pyreplica_agent.copied_table";
        let rows = "select count(*) from (select from z_parent union all select from a_child) r";
        for sql in [tables, rows] {
            assert_eq!(trio.slaves[0].value(sql), copied, "{failpoint}: {sql}");
        }
        trio.master
            .run("delete from a_child; insert into z_parent values (2); insert into a_child values (2, 2)");
        trio.agent.start();
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0]);
    }
}

#[test]
fn deferrable_constraints_wait_for_the_end() {
    let trio = constrained(
        "create table t (id int primary key, u int unique deferrable initially immediate);
         create table r (id int primary key, t int references t deferrable initially immediate)",
        "c_deferred",
    );
    assert_all_arrive(
        &trio,
        &[
            "insert into t select i, i from generate_series(1, 500) i",
            "update t set u = u + 1",
            "begin; set constraints all deferred; insert into r values (1, 1000); insert into t values (1000, 1000); commit",
            "delete from r; delete from t",
        ],
    );
}

/// A foreign key waits for a row that comes later, and unique values pass from row to row through others.
#[test]
fn one_transaction_may_need_the_order_of_its_changes_and_deferred_constraints() {
    let trio = constrained(
        "create table p (id int primary key);
         create table c (id int primary key, p int references p deferrable initially immediate, u int unique)",
        "c_both",
    );
    assert_all_arrive(
        &trio,
        &[
            "insert into p select generate_series(1, 10); insert into c select i, i, i from generate_series(1, 10) i",
            "begin; set constraints all deferred; insert into c values (11, 11, 11); update c set u = -u;
             update c set u = 12 + u; insert into p values (11); commit",
            "delete from c; delete from p",
        ],
    );
}

/// Neither TRUNCATE nor a queued statement has a net effect, and with apply = "exact" nothing has.
#[test]
fn constraints_wait_for_the_end_around_truncate_and_statements_and_with_exact() {
    let schema = "create table p (id int primary key);
         create table c (id int primary key, p int references p deferrable initially immediate, u int unique deferrable);
         create table other (id int primary key)";
    for (role, slave_line) in [("c_around", ""), ("c_exact", "apply = \"exact\"")] {
        let trio = constrain(Setup::new(schema).slaves(1).slave_line(slave_line), role);
        assert_all_arrive(
            &trio,
            &[
                "begin; set constraints all deferred; truncate other; insert into c values (1, 1, 1), (2, 2, 2);
                 insert into p values (1), (2); commit",
                "begin; truncate other; set constraints all deferred; update c set u = 2 where id = 1;
                 update c set u = 1 where id = 2; commit",
                "begin; truncate other; with x as (insert into c values (3, 3, 3) returning p) insert into p select p from x; commit",
                "begin; set constraints all deferred; select pyreplica.replicate_ddl('select 1'); insert into c values (4, 4, 4);
                 insert into p values (4); commit",
                "begin; delete from c; delete from p; commit",
            ],
        );
    }
}

/// On the master it had fired before; PostgreSQL empties no table of which one has still to fire.
#[test]
fn deferred_triggers_fire_before_a_table_is_emptied_or_altered() {
    let trio = constrained(
        "create table p (id int primary key);
         create table c (id int primary key, p int references p deferrable initially deferred)",
        "c_pending",
    );
    trio.slaves[0].run("alter table c owner to c_pending");
    assert_all_arrive(
        &trio,
        &[
            "begin; insert into p values (1); insert into c values (1, 1); set constraints all immediate; truncate c;
             set constraints all deferred; insert into c values (2, 2); insert into p values (2); commit",
            "begin; insert into c values (3, 1); set constraints all immediate;
             select pyreplica.replicate_ddl('alter table public.c add if not exists x int'); insert into c values (4, 2, 4); commit",
            "begin; delete from c; delete from p; commit",
        ],
    );
}

/// What is no matter of order is a conflict as ever, and names its row.
#[test]
fn a_row_in_the_way_is_named() {
    let trio = constrained(
        "create table t (id int primary key, u int unique deferrable initially immediate)",
        "c_way",
    );
    trio.once().expect_code(0);
    trio.slaves[0].run("insert into t values (9, 30)");
    trio.master.run("insert into t values (1, 10), (2, 20), (3, 30)");
    trio.once().expect_code(1).expect_text(&["t_u_key", "conflict=insert_exists", "(id)=(3)"]);
    trio.slaves[0].run("delete from t where id = 9");
    trio.once().expect_code(0);
    trio.assert_same();
}
