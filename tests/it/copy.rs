//! The initial copy.

use std::sync::atomic::{AtomicBool, Ordering};

use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

#[test]
fn copy_hands_over_to_the_stream_under_concurrent_writes() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic()] {
        // GIVEN writers that never rest
        let mut trio = setup.build();
        trio.master.run("insert into t select i, 'start' from generate_series(1, 50000) i");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let (master, done) = (&trio.master, &done);
                scope.spawn(move || {
                    let mut session = master.session();
                    for i in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        session.run(&format!(
                            "insert into t values ({}, 'new'); update t set v = v || '{i}' where id = {i} % 1000 + 1;
                             delete from t where id = {} + {i}",
                            100_000 + writer * 1_000_000 + i,
                            10_000 + writer * 20_000
                        ));
                    }
                });
            }
            // WHEN the slaves are copied meanwhile
            trio.agent.start();
            for slave in 0..2 {
                wait_for("the copy", || {
                    trio.is_in_step(slave).then_some(()).or_else(|| {
                        let sql = "select to_regclass('pyreplica_agent.copied_table') is not null";
                        (trio.slaves[slave].value(sql) == "t"
                            && trio.slaves[slave].value("select count(*) from pyreplica_agent.copied_table")
                                == "1")
                            .then_some(())
                    })
                });
            }
            done.store(true, Ordering::Relaxed);
        });
        // THEN no row is lost or doubled
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0]);
        assert_eq!(trio.conflicts(1), [""; 0]);
    }
}

#[test]
fn a_table_that_already_holds_rows_is_refused() {
    let trio = Setup::new(TABLE).build();
    trio.slaves[0].run("insert into t values (1, 'mine')");
    trio.once().expect_code(1).expect_text(&["public.t", "already", "slave1"]);
    assert_eq!(trio.slaves[0].value("select v from t"), "mine");
    // The other slave is none the worse.
    assert_eq!(trio.slaves[1].value("select count(*) from pyreplica_agent.copied_table"), "1");
    trio.slaves[0].run("truncate t");
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn the_copy_command_makes_a_slave_anew() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("insert into t select i, 'x' from generate_series(1, 1000) i");
    trio.once().expect_code(0);
    trio.slaves[0].run("delete from t where id % 2 = 0; update t set v = 'wrong' where id < 10");
    trio.master.run("insert into t values (0, 'not yet there')");
    trio.agent.run(&["copy", "--slave", "slave1"]).expect_code(0);
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn the_copy_command_refuses_while_an_agent_runs() {
    let trio = Setup::new(TABLE).start();
    trio.agent.run(&["copy"]).expect_code(1);
}

const TWO_TABLES: &str =
    "create table t (id int primary key, v text); create table u (id int primary key, v text)";

#[test]
fn one_table_is_copied_again_without_an_agent() {
    for setup in [Setup::new(TWO_TABLES), Setup::new(TWO_TABLES).atomic()] {
        let mut trio = setup.build();
        trio.agent.run(&["copy", "--table", "public.t"]).expect_code(1).expect_text(&["no initial copy"]);
        trio.master.run(
            "insert into t select i, 'x' from generate_series(1, 1000) i; insert into u select * from t",
        );
        trio.once().expect_code(0);
        trio.slaves[0].run("update t set v = 'wrong'; delete from t where id < 10; insert into t values (0)");
        trio.master.run("update t set v = v || 'y'; update u set v = 'new'; delete from t where id = 1000");
        trio.agent.run(&["copy", "--slave", "slave1", "--table", "public.t"]).expect_code(0);
        trio.master.run("update t set v = v || 'z'");
        trio.catch_up_and_compare();
        assert_eq!(trio.conflicts(0), [""; 0]);
        trio.agent
            .run(&["copy", "--slave", "slave1", "--table", "public.\"u\""])
            .expect_code(0)
            .expect_text(&["copied table public.u"]);
        trio.agent
            .run(&["copy", "--table", "public.nothing"])
            .expect_code(2)
            .expect_text(&["public.nothing", "not captured"]);
    }
}

/// Also when an assertion fails: the writers are to end.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes to both tables, rows numbered from `first` on, and queues statements as long as `work` goes on.
fn while_written<T>(trio: &mut Trio, first: usize, work: impl FnOnce(&mut Trio) -> T) -> T {
    let done = AtomicBool::new(false);
    let master = trio.master.clone();
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (master, done) = (&master, &done);
            scope.spawn(move || {
                let mut session = master.session();
                for i in (first + writer..).step_by(2) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    // A steady load that leaves the copy its share of the machine.
                    session.run(&format!(
                        "begin; update t set v = v || '{i}' where id = {i} % 1000 + 1;
                         update u set v = v || '{i}' where id = {i} % 1000 + 1; commit;
                         insert into t values ({i} + 10000); delete from u where id = {i} - 20 + 10000;
                         insert into u values ({i} + 10000); select pg_sleep(0.003)"
                    ));
                    if i % 50 < 2 {
                        session.run("insert into pyreplica.replica_log (sql) values ('update public.ran set n = n + 1'); insert into ran_here values (default)");
                    }
                }
            });
        }
        let _ends = Ends(&done);
        work(trio)
    })
}

/// A slave in step, with a table that counts the statements it has run.
fn written_to() -> Trio {
    let mut trio = Setup::new(TWO_TABLES).slaves(1).build();
    trio.slaves[0].run("create table ran (n int); insert into ran values (0)");
    trio.master.run("create table ran_here (id serial); insert into t select i, 'x' from generate_series(1, 1000) i; insert into u select * from t");
    trio.agent.start();
    trio.catch_up();
    trio
}

fn assert_nothing_twice(trio: &mut Trio) {
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
    assert_eq!(trio.slaves[0].value("select n from ran"), trio.master.value("select count(*) from ran_here"));
    assert_eq!(trio.slaves[0].value("select count(*) from pyreplica_agent.copy_request"), "0");
}

/// Two writers pass each other all the time, in rank and in number.
#[test]
fn a_stream_of_two_writers_loses_nothing() {
    let mut trio = written_to();
    while_written(&mut trio, 0, |trio| {
        let written = || (trio.master.value("select count(*) > 2500 from t") == "t").then_some(());
        wait_for("some rows", written);
    });
    assert_nothing_twice(&mut trio);
}

#[test]
fn one_table_is_copied_again_while_the_others_flow() {
    let mut trio = written_to();
    while_written(&mut trio, 0, |trio| {
        for table in ["public.t", "public.u", "public.t"] {
            trio.agent.run(&["copy", "--table", table]).expect_code(0);
        }
    });
    assert_nothing_twice(&mut trio);
    // The log is not kept for ever after.
    trio.agent.stop();
    trio.once().expect_code(0);
    assert_nothing_twice(&mut trio);
}

/// Longer than the agent takes to look after a slave.
#[test]
fn one_table_is_copied_again_however_long_that_takes() {
    let mut trio = written_to();
    let mut holder = trio.slaves[0].session();
    holder.run("begin; lock table t in row exclusive mode");
    std::thread::scope(|scope| {
        let copy = scope.spawn(|| trio.agent.run(&["copy", "--table", "public.t"]).expect_code(0));
        trio.agent.wait_for_log("copying table public.t again");
        let began = trio.slaves[0].value("select clock_timestamp()");
        let looks = format!("select clock_timestamp() > '{began}'::timestamptz + interval '3 s'");
        wait_for("some looks", || (trio.slaves[0].value(&looks) == "t").then_some(()));
        holder.run("commit");
        copy.join().expect("copied");
    });
    assert_nothing_twice(&mut trio);
}

/// PostgreSQL ends it only for a session that waits for longer than `deadlock_timeout`.
#[test]
fn an_autovacuum_on_the_slave_gives_way_to_a_copy() {
    let trio = Setup::new(TWO_TABLES).slaves(1).own_servers().build();
    trio.master.run("insert into t select i, 'x' from generate_series(1, 20000) i");
    trio.once().expect_code(0);
    let slave = &trio.slaves[0];
    slave.run(
        "alter table t set (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                                  autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0)",
    );
    slave.run("update t set id = id");
    slave.run("alter system set autovacuum_naptime = '1s'");
    slave.run("alter system set autovacuum = on");
    slave.run("select pg_reload_conf()");
    let at_work = "select count(*) from pg_stat_activity
                    where backend_type = 'autovacuum worker' and query like '%VACUUM%public.t%'";
    wait_for("an autovacuum", || (slave.value(at_work) == "1").then_some(()));
    trio.agent.run(&["copy", "--table", "public.t"]).expect_code(0);
    trio.assert_same();
}

#[test]
fn a_copy_that_is_tried_again_leaves_no_dead_rows() {
    let trio = Setup::new(TWO_TABLES).slaves(1).build();
    trio.master.run("insert into t select i, 'x' from generate_series(1, 20000) i");
    trio.slaves[0].run("alter table t add check (id < 20000)");
    trio.once().expect_code(1);
    let bytes: u64 = trio.slaves[0].value("select pg_relation_size('t')").parse().unwrap();
    assert!(bytes > 0);
    trio.once().expect_code(1);
    trio.slaves[0].run("alter table t drop constraint t_id_check");
    trio.once().expect_code(0);
    trio.assert_same();
    // The attempts ended with the last row but one.
    assert_eq!(trio.slaves[0].value(&format!("select pg_relation_size('t') < 1.5 * {bytes}")), "t");
}

/// The session on the slave commits after its agent was killed, and after the next one has begun.
#[test]
fn the_late_commit_of_a_killed_copy_loses_nothing() {
    let mut trio = Setup::new(TWO_TABLES).slaves(1).build();
    trio.master.run("insert into t select i, 'x' from generate_series(1, 1000) i");
    trio.slaves[0].run(
        "create function slow() returns trigger language plpgsql as
             $$ begin perform pg_sleep(2); return null; end $$;
         create constraint trigger slow after insert on t initially deferred
             for each row when (new.id = 1) execute function slow();
         alter table t enable always trigger slow",
    );
    trio.agent.start();
    let committing = "select count(*) from pg_stat_activity
                       where datname = current_database() and state = 'active' and query = 'COMMIT'";
    wait_for("a COMMIT", || (trio.slaves[0].value(committing) == "1").then_some(()));
    trio.agent.kill();
    trio.master.run("insert into t select i, 'x' from generate_series(1001, 1100) i");
    trio.agent.start();
    trio.catch_up_and_compare();
}

#[test]
fn a_copy_that_fails_leaves_the_table_in_step() {
    let mut trio = written_to();
    trio.slaves[0].run("alter table t add check (id <> 5000)");
    trio.master.run("set session_replication_role = replica; insert into t values (5000)");
    while_written(&mut trio, 0, |trio| {
        trio.agent.run(&["copy", "--table", "public.t"]).expect_code(1).expect_text(&["t_id_check"]);
    });
    trio.master.run("set session_replication_role = replica; delete from t where id = 5000");
    assert_nothing_twice(&mut trio);
}

/// The error is the agent's, and who has to act is the user of the command.
#[test]
fn a_copy_that_fails_says_as_much_with_an_agent_as_without() {
    let mut trio = Setup::new(TWO_TABLES).slaves(1).start();
    trio.slaves[0].run("alter table t add check (id <> 5000)");
    trio.master.run("set session_replication_role = replica; insert into t values (5000)");
    let error = |trio: &Trio| {
        let copied = trio.agent.run(&["copy", "--table", "public.t"]).expect_code(1);
        let copied = copied.expect_text(&["ERROR:  ", "t_id_check", "DETAIL:  Failing row contains"]);
        copied.stderr[copied.stderr.find("ERROR:  ").expect("an error")..].to_owned()
    };
    let with = error(&trio);
    trio.agent.stop();
    assert_eq!(with, error(&trio));
}

#[test]
fn an_agent_that_dies_while_it_copies_again_loses_nothing() {
    for failpoint in [
        "again.after_hold",
        "again.after_copy",
        "again.before_commit",
        "again.after_commit",
        "copy.after_commit",
    ] {
        eprintln!("failpoint {failpoint}");
        let mut trio = written_to();
        trio.agent.stop();
        trio.agent.start_to_die_at(failpoint);
        trio.catch_up();
        while_written(&mut trio, 0, |trio| {
            // Nobody serves the slave any more: the command does it itself.
            trio.agent.run(&["copy", "--table", "public.t"]).expect_code(0);
        });
        assert!(!trio.agent.wait_exit().success());
        trio.agent.start();
        assert_nothing_twice(&mut trio);

        // The same when another agent finds it.
        trio.agent.stop();
        trio.agent.start_to_die_at(failpoint);
        trio.catch_up();
        while_written(&mut trio, 1_000_000, |trio| {
            trio.slaves[0].run(&format!("insert into pyreplica_agent.copy_request (agent, slave, schema_name, table_name) values ('{}', 'slave1', 'public', 'u')", trio.agent_name));
            assert!(!trio.agent.wait_exit().success());
            trio.agent.start();
        });
        assert_nothing_twice(&mut trio);
    }
}

#[test]
fn initial_current_takes_the_slave_as_it_is() {
    let mut trio = Setup::new(TABLE).initial("current").build();
    trio.master.run("insert into t values (1, 'before')");
    trio.slaves.iter().for_each(|slave| slave.run("insert into t values (1, 'before')"));
    trio.once().expect_code(0);
    trio.master.run("insert into t values (2, 'after'); update t set v = 'changed' where id = 1");
    trio.catch_up_and_compare();
}

#[test]
fn initial_oldest_replays_the_log() {
    let mut trio = Setup::new(TABLE).initial("oldest").build();
    trio.master.run("insert into t values (1, 'a'); update t set v = 'b'; insert into t values (2, 'c')");
    trio.catch_up_and_compare();
}

#[test]
fn a_killed_copy_goes_on() {
    let schema = "create table a (id int primary key); create table b (id int primary key); create table c (id int primary key)";
    for jobs in [1, 3] {
        for failpoint in ["copy.before_commit:3", "copy.after_commit:2", "copy.after_commit:4"] {
            let mut trio = Setup::new(schema).agent_line(&format!("copy_jobs = {jobs}")).build();
            trio.master.run("insert into a select generate_series(1, 1000); insert into b select * from a; insert into c select * from a");
            trio.agent.start_to_die_at(failpoint);
            assert!(!trio.agent.wait_exit().success());
            trio.master.run("delete from a where id < 10; insert into c values (5000)");
            trio.agent.start();
            trio.catch_up_and_compare();
            assert_eq!(trio.conflicts(0), [""; 0]);
            assert_eq!(trio.conflicts(1), [""; 0]);
        }
    }
}

/// It was asked for as long as its statement was to come.
#[test]
fn a_table_that_a_statement_makes_is_copied_once_though_the_agent_dies() {
    let mut trio = Setup::new(TABLE).slaves(1).build();
    trio.once().expect_code(0);
    trio.agent.start_to_die_at("copy.after_commit");
    trio.catch_up();
    trio.master.run(
        "select pyreplica.replicate_ddl('create table public.made (id int primary key)');
         select pyreplica.add_table('made'); insert into made values (1)",
    );
    assert!(!trio.agent.wait_exit().success());
    assert_eq!(trio.slaves[0].value("select count(*) from pyreplica_agent.copy_request"), "0");
    trio.agent.start();
    trio.catch_up_and_compare();
}

#[test]
fn an_error_of_one_table_does_not_undo_the_others() {
    let schema = "create table a (id int primary key); create table b (id int primary key); create table c (id int primary key)";
    let mut trio = Setup::new(schema).slaves(1).agent_line("copy_jobs = 2").build();
    // Not of the same size: the largest comes first.
    trio.master.run("insert into a select generate_series(1, 50000); insert into b select generate_series(1, 1000); insert into c values (1)");
    // GIVEN a table that the slave cannot take (preflight compares columns, not constraints)
    trio.slaves[0].run("alter table b add check (id < 500)");
    trio.once().expect_code(1).expect_text(&["public.b", "b_id_check"]);
    assert_eq!(trio.slaves[0].value("select count(*) from a"), "50000");
    trio.slaves[0].run("alter table b drop constraint b_id_check");
    trio.catch_up_and_compare();
}

#[test]
fn values_are_copied_in_the_format_that_both_sides_understand() {
    let types = "create type mood as enum ('sad', 'ok'); create domain price as numeric(8, 2);
         create type pair as (a int, b mood);";
    // GIVEN types with the same binary form everywhere; types without; and a slave that has others
    let master = "create table same (id int primary key, n price, t text, a text[], j jsonb, r tstzrange, b bytea, f float8);
         create table own (id int primary key, m mood, p pair, c regclass, x xml);
         create table other (id int primary key, n int, t varchar(10));
         create table empty (id int primary key);
         create table parted (id int primary key, v text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (10);
         create table parted_2 partition of parted default;";
    let slave = "create table same (id int primary key, f float8, n price, t text, a text[], j jsonb, r tstzrange, b bytea, more text default 'x');
         create table own (id int primary key, m mood, p pair, c regclass, x xml);
         create table other (id bigint primary key, n numeric, t text);
         create table empty (id int primary key);
         create table parted (id int primary key, v text);";
    let mut trio = Setup::new(&format!("{types}{master}")).slave_schema(&format!("{types}{slave}")).build();
    trio.master.run("insert into same select i, i * 1.25, E'tab\\t line\\n \\\\N ' || i, array['a', null, '\"'], '{\"a\": 1}', '[2020-01-01, 2021-01-01)', '\\x00ff', 'NaN' from generate_series(1, 2000) i;
         insert into same (id) values (0);
         insert into own select i, 'ok', (i, 'sad')::pair, 'own'::regclass, '<a>&#228;</a>' from generate_series(1, 20) i;
         insert into other select i, i, 'x' from generate_series(1, 20) i;
         insert into parted select i, 'x' from generate_series(1, 20) i");
    trio.catch_up();
    for table in ["same", "own", "other", "parted"] {
        let sql = match table {
            "same" => "select id, n, t, a, j, r, b, f from same order by id".to_owned(),
            _ => format!("select * from {table} order by id"),
        };
        assert_eq!(trio.master.rows(&sql), trio.slaves[0].rows(&sql), "{table}");
    }
    assert_eq!(
        trio.slaves[0].rows("select table_name, rows from pyreplica_agent.copied_table order by 1"),
        ["empty|0", "other|20", "own|20", "parted|20", "same|2001"]
    );
}

#[test]
fn verify_sees_what_differs() {
    let trio = Setup::new(TABLE).build();
    trio.master.run("insert into t select i, 'x' from generate_series(1, 1000) i");
    trio.once().expect_code(0);
    trio.agent.run(&["verify"]).expect_code(0);
    trio.slaves[1].run(
        "update t set v = 'other' where id = 77; delete from t where id = 500; insert into t values (2000)",
    );
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&["77", "500", "2000", "slave2"]);
}

#[test]
fn verify_compares_the_other_tables_when_one_cannot_be_read() {
    let trio = Setup::new("create table a (id int primary key, v int); create table b (id int primary key)")
        .slaves(1)
        .slave_line("[[slave.table]]\nname = \"public.a\"\nvalues = { v = \"1 / id\" }")
        .build();
    trio.master.run("insert into b values (1)");
    trio.once().expect_code(0);
    trio.master.run("insert into a values (0)");
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&[
        "could not compute the rows of table public.a on the slave: division by zero",
        "table public.b: 1 rows, equal",
    ]);
}

#[test]
fn verify_names_rows_that_a_slave_has_twice() {
    let trio = Setup::new("create table a (id int primary key); create table b (id int primary key)")
        .slave_schema("create table a (id int); create table b (id int primary key)")
        .slaves(1)
        .build();
    trio.master.run("insert into a values (1), (2), (3); insert into b values (1)");
    trio.once();
    trio.slaves[0].run("insert into a values (2), (2)");
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&[
        "table public.a: 3 rows, 1 differ",
        "key (id)=(2): finds 3 rows on the slave",
        "table public.b: 1 rows, equal",
    ]);
}

#[test]
fn verify_works_while_replication_runs() {
    let mut trio = Setup::new(TABLE).start();
    trio.master.run("insert into t select i, 'x' from generate_series(1, 20000) i");
    trio.catch_up();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (master, done) = (&trio.master, &done);
        scope.spawn(move || {
            let mut session = master.session();
            for i in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                session.run(&format!("update t set v = v || 'y' where id = {i} % 20000 + 1"));
            }
        });
        let verified = trio.agent.run(&["verify"]);
        done.store(true, Ordering::Relaxed);
        verified.expect_code(0);
    });
}

/// The stream casts what it applies to the types of the slave, and so does the copy.
#[test]
fn a_copy_holds_the_same_values_as_the_stream_where_types_differ() {
    let mut trio = Setup::new(
        "create table t (id boolean primary key, b char(6), r real, n numeric(12, 3), v varchar(9))",
    )
    .slave_schema("create table t (id text primary key, b text, r float8, n numeric(15, 5), v char(12))")
    .build();
    trio.master.run("insert into t values (true, 'ab', 0.1, 1.5, 'x')");
    trio.agent.start();
    trio.catch_up();
    trio.master.run("insert into t values (false, 'ab', 0.1, 1.5, 'x')");
    trio.catch_up();
    assert_eq!(
        trio.slaves[0].rows("select id, '<' || b || '>', r, n, v::text || '>' from t order by id"),
        ["false|<ab>|0.10000000149011612|1.50000|x>", "true|<ab>|0.10000000149011612|1.50000|x>"]
    );
    trio.master.run("update t set b = 'cd', n = n + 1");
    trio.catch_up();
    assert_eq!(trio.conflicts(0), [""; 0]);
    assert_eq!(trio.slaves[0].value("select count(*) from t where b = 'cd'"), "2");
}
