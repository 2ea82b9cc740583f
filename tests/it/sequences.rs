//! Sequences of a slave follow the master's: never behind what the rows have used, never set back.

use pyreplica_tests::doc::example;
use pyreplica_tests::trio::{shared_servers, Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id serial primary key, n bigint generated always as identity)";

fn state(db: &pyreplica_tests::db::Db, sequence: &str) -> String {
    db.value(&format!("select last_value, is_called from {sequence}"))
}

#[track_caller]
fn wait_for_state(trio: &Trio, sequence: &str, expected: &str) {
    for slave in &trio.slaves {
        wait_for(&format!("{sequence} at {expected}"), || (state(slave, sequence) == expected).then_some(()));
    }
}

/// The log draws its ids from a sequence, in the commit of a user's session.
#[test]
fn lastval_is_what_the_session_itself_has_drawn() {
    let setup = Setup::new(TABLE).build();
    setup.master.run("alter sequence t_n_seq restart 1000; create role clerk login");
    setup.master.run("grant insert on t to clerk; grant usage on sequence t_id_seq, t_n_seq to clerk");
    let mut clerk = setup.master.session_of("clerk");
    clerk.run("insert into t default values");
    assert_eq!(clerk.rows("select lastval()"), ["1000"]);
}

#[test]
fn those_of_captured_tables_come_with_the_copy_and_the_rows() {
    for setup in [Setup::new(TABLE), Setup::new(TABLE).atomic(), Setup::new(TABLE).one_phase()] {
        let mut trio = setup.build();
        trio.master.run("insert into t select from generate_series(1, 5); select nextval('t_id_seq')");
        trio.agent.start();
        trio.catch_up_and_compare();
        assert_eq!(
            (state(&trio.slaves[0], "t_id_seq"), state(&trio.slaves[1], "t_n_seq")),
            ("6|t".into(), "5|t".into())
        );
        trio.master.run("insert into t select from generate_series(1, 10)");
        trio.catch_up_and_compare();
        // No wait: whoever sees the rows sees the sequences.
        assert_eq!(
            (state(&trio.slaves[0], "t_id_seq"), state(&trio.slaves[1], "t_n_seq")),
            ("16|t".into(), "15|t".into())
        );
        // What leaves no row is found by the timer.
        trio.master.run("select nextval('t_id_seq')");
        wait_for_state(&trio, "t_id_seq", "17|t");
        trio.agent.run(&["verify"]).expect_code(0).expect_text(&["sequence public.t_id_seq: 17, equal"]);
    }
}

#[test]
fn a_visible_row_has_its_sequence_beyond_it() {
    let trio = Setup::new(TABLE).timer_seconds("60").start();
    let mut writer = trio.master.session();
    let mut readers: Vec<_> = trio.slaves.iter().map(|slave| slave.session()).collect();
    let mut seen = 0;
    for round in 0..300 {
        writer.run(if round % 10 == 0 {
            "begin; insert into t default values; rollback"
        } else {
            "insert into t default values"
        });
        for reader in &mut readers {
            // The row first, then the sequence.
            let id: i64 = reader.rows("select coalesce(max(id), 0) from t")[0].parse().expect("a number");
            let last: i64 = reader
                .rows("select case when is_called then last_value else 0 end from t_id_seq")[0]
                .parse()
                .expect("a number");
            assert!(last >= id, "row {id} is there, and the sequence at {last}");
            seen = seen.max(id);
        }
    }
    wait_for("rows", || {
        (readers[0].rows("select max(id) from t") == writer.rows("select max(id) from t")).then_some(())
    });
    assert!(seen > 0);
}

#[test]
fn added_ones_follow_whatever_they_are() {
    let sequences = "create table t (id int primary key);
        create sequence up; create sequence down increment -3 minvalue -1000 maxvalue 100 start 50;
        create sequence round minvalue 1 maxvalue 3 cycle; create sequence large start 9223372036854775800;
        create sequence small increment -1 start -9223372036854775800; create sequence \"Odd one\" cache 10;
        create sequence restarted; create sequence left_alone";
    let mut trio = Setup::new(sequences).start();
    trio.master.run(
        "select pyreplica.add_sequence(s::regclass)
           from unnest('{up,down,round,large,small,\"\\\"Odd one\\\"\",restarted}'::text[]) s",
    );
    let rows = "select relation, owned_by from pyreplica.replicated_sequence order by relation::text";
    assert_eq!(trio.master.rows(rows).len(), 7);
    trio.master.run(
        "select nextval('up'), nextval('down'), nextval('down'), nextval('round'), nextval('round'), nextval('large'),
                nextval('small'), nextval('\"Odd one\"'), nextval('left_alone'), setval('restarted', 500, false)",
    );
    // A row of the same transaction's time carries them all.
    trio.master.run("insert into t values (1)");
    trio.catch_up();
    let all = |db: &pyreplica_tests::db::Db| {
        ["up", "down", "round", "large", "small", "\"Odd one\"", "restarted"].map(|s| state(db, s))
    };
    let expected = ["1|t", "47|t", "2|t", "9223372036854775800|t", "-9223372036854775800|t", "10|t", "500|f"];
    assert_eq!(all(&trio.slaves[0]), expected);
    assert_eq!(state(&trio.slaves[0], "left_alone"), "1|f");
    // Round the circle, and to the ends.
    trio.master.run("select nextval('round'), nextval('round'), setval('large', 9223372036854775807), setval('small', -9223372036854775807), setval('down', -1000)");
    wait_for_state(&trio, "round", "1|t");
    wait_for_state(&trio, "large", "9223372036854775807|t");
    wait_for_state(&trio, "small", "-9223372036854775807|t");
    wait_for_state(&trio, "down", "-1000|t");
    trio.agent.run(&["verify"]).expect_code(0);
    // One that is removed is followed no more.
    trio.master.run("select pyreplica.remove_sequence('up'), nextval('up'); insert into t values (2)");
    trio.catch_up();
    assert_eq!(state(&trio.slaves[1], "up"), "1|t");
}

#[test]
fn none_is_set_back() {
    let mut trio =
        Setup::new("create table t (id serial primary key); create sequence down increment -1").start();
    trio.master.run("select pyreplica.add_sequence('down')");
    for slave in &trio.slaves {
        slave.run("select setval('t_id_seq', 1000); alter sequence down restart -1000");
    }
    trio.master.run("insert into t select from generate_series(1, 10); select nextval('down'); insert into t default values");
    trio.catch_up_and_compare();
    assert_eq!(
        (state(&trio.slaves[0], "t_id_seq"), state(&trio.slaves[1], "down")),
        ("1000|t".into(), "-1000|f".into())
    );
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["1000, not behind the master's 11"]);
    // Set back on the master, ahead on the slaves.
    trio.master.run("select setval('t_id_seq', 2000); insert into t default values");
    trio.catch_up();
    trio.master.run("select setval('t_id_seq', 100); insert into t default values");
    trio.catch_up_and_compare();
    assert_eq!(state(&trio.slaves[0], "t_id_seq"), "2001|t");
}

#[test]
fn truncate_restarts_them_in_their_place() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t select from generate_series(1, 50)");
    trio.catch_up();
    trio.master.run("truncate t restart identity; insert into t default values");
    trio.catch_up_and_compare();
    assert_eq!(
        (state(&trio.slaves[0], "t_id_seq"), state(&trio.slaves[1], "t_n_seq")),
        ("1|t".into(), "1|t".into())
    );
}

/// The master stood there already when the slave began with what came before.
#[test]
fn a_restart_in_a_backlog_does_not_leave_them_behind() {
    let trio = Setup::new("create table t (id serial primary key, n int)").build();
    trio.once().expect_code(0);
    trio.master.run("insert into t select from generate_series(1, 50)");
    trio.master.run("begin; truncate t restart identity; insert into t default values; insert into t default values; commit");
    trio.once().expect_code(0);
    assert_eq!(trio.slaves.iter().map(|slave| state(slave, "t_id_seq")).collect::<Vec<_>>(), ["2|t", "2|t"]);
    trio.master.run(
        "select pyreplica.replicate_ddl('alter sequence public.t_id_seq restart with 1000');
         insert into t default values;
         select pyreplica.replicate_ddl('alter sequence public.t_id_seq restart with 500')",
    );
    trio.once().expect_code(0);
    assert_eq!(state(&trio.slaves[0], "t_id_seq"), "500|f");
}

/// Its values are those of other remainders then; only what `spread_sequences` does makes a sequence go its own way.
#[test]
fn one_that_counts_in_steps_follows_wherever_it_was_set() {
    let trio = Setup::new("create sequence s increment 10 start 7; create table t (id int primary key default nextval('s')); alter sequence s owned by t.id").build();
    trio.once().expect_code(0);
    trio.master.run("insert into t default values; select setval('s', 2000); insert into t default values");
    trio.once().expect_code(0);
    assert_eq!(state(&trio.slaves[0], "s"), "2010|t");
}

#[test]
fn a_column_that_comes_later_brings_its_sequence() {
    let mut trio = Setup::new("create table t (id int primary key)").timer_seconds("60").start();
    trio.master.run("insert into t values (1)");
    trio.catch_up();
    trio.master.run(
        "select pyreplica.replicate_ddl('alter table public.t add k serial');
         insert into t values (2), (3), (4)",
    );
    trio.catch_up_and_compare();
    assert_eq!(state(&trio.slaves[0], "t_k_seq"), "4|t");
}

#[test]
fn a_slave_may_leave_them_alone_or_lack_them() {
    let mut trio =
        Setup::new(TABLE).slave_schema("create table t (id int primary key, n bigint)").slaves(1).build();
    let check = trio.agent.run(&["check"]).expect_code(0);
    check.expect_text(&["sequences do not exist", "public.t_id_seq, public.t_n_seq", "sequences = false"]);
    trio.master.run("insert into t default values");
    trio.catch_up_and_compare();
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["t_id_seq: is not there"]);

    let mut trio = Setup::new(TABLE).slave_line("sequences = false").start();
    trio.master.run("insert into t default values");
    trio.catch_up_and_compare();
    assert_eq!(state(&trio.slaves[0], "t_id_seq"), "1|f");
    let quiet = trio.agent.run(&["check"]).expect_code(0);
    assert!(!quiet.text().contains("sequence"), "{}", quiet.text());
}

#[test]
fn rights_are_asked_for_and_limits_are_kept() {
    for server in shared_servers() {
        server.db("postgres").run(
            "do $$ begin create role q_apply login; exception when duplicate_object or unique_violation then null; end $$",
        );
    }
    let trio = Setup::new("create table t (id serial primary key)").slaves(1).build();
    let slave = &trio.slaves[0];
    slave.run(&format!(
        "grant create on database \"{}\" to q_apply; grant select, insert, update, delete, truncate on t to q_apply;
         grant set on parameter session_replication_role to q_apply; alter sequence t_id_seq maxvalue 100",
        slave.name
    ));
    let (master, slaves) =
        trio.config().split_once("[[slave]]").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a slave");
    trio.agent.configure(&format!("{master}[[slave]]{}", slaves.replace("user=postgres", "user=q_apply")));
    trio.agent
        .run(&["check"])
        .expect_code(0)
        .expect_text(&["GRANT SELECT, UPDATE ON SEQUENCE \"public\".\"t_id_seq\" TO \"q_apply\""]);
    trio.master.run("insert into t default values");
    trio.once().expect_code(0).expect_text(&["does not follow the master", "SELECT, UPDATE"]);
    assert_eq!(state(slave, "t_id_seq"), "1|f");
    slave.run("grant select, update on t_id_seq to q_apply");
    trio.agent
        .run(&["check"])
        .expect_code(0)
        .expect_text(&["MAXVALUE 100 NO CYCLE, on the master", "ALTER SEQUENCE"]);
    trio.once().expect_code(0);
    assert_eq!(state(slave, "t_id_seq"), "1|t");
    // Beyond the slave's limit it stays where it is, and the rows go on.
    trio.master.run("select setval('t_id_seq', 200); insert into t default values");
    trio.once().expect_code(0).expect_text(&["does not reach 201"]);
    assert_eq!(state(slave, "t_id_seq"), "1|t");
    trio.assert_same();
}

#[test]
fn the_examples_of_the_documentation_run() {
    let mut trio = Setup::new("create table orders (id serial primary key); create sequence ticket").start();
    trio.master.run(&example("statements.md", "add-sequence"));
    trio.master.run("select nextval('ticket'); insert into orders default values");
    trio.catch_up();
    assert_eq!(
        (state(&trio.slaves[0], "ticket"), state(&trio.slaves[1], "orders_id_seq")),
        ("1|t".into(), "1|t".into())
    );
    assert_eq!(
        trio.master.rows(&example("statements.md", "view")),
        ["orders_id_seq|orders|id", "ticket|null|null"]
    );
}
