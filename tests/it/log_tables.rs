//! The chunk tables as PostgreSQL's own: their rows are written past its executor, and are to be as sound as others.

use std::thread;

use pyreplica_tests::db::{Db, Session};
use pyreplica_tests::trio::Setup;
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

/// WAL replay compares each page that it makes with the one that the master had.
fn replays_are_compared() -> Setup {
    let setup =
        Setup::new(TABLE).slaves(1).master_setting("wal_consistency_checking", "heap,heap2,btree,sequence");
    setup.master_setting("max_wal_size", "4GB").master_setting("wal_keep_size", "4GB")
}

/// Writers at the same time: small transactions, bulks that spill, rolled back in part or as a whole, and prepared.
fn write(master: &Db) {
    thread::scope(|scope| {
        for i in 0..4 {
            scope.spawn(move || {
                let mut session = master.session();
                session.run("set pyreplica.buffer_size = '64kB'");
                for round in 0..3 {
                    let first = 1_000_000 * i + 100_000 * round;
                    let one = |id: i32| format!("insert into t values ({first} - {id}, 'small')");
                    let bulk = format!(
                        "insert into t select {first} + i, repeat(md5(i::text), 3) from generate_series(1, 3000) i"
                    );
                    (1..50).for_each(|id| session.run(&one(id)));
                    session.run(&format!("begin; {}; savepoint s; {bulk}; rollback to s", one(0)));
                    session.run(if round == 1 { "rollback" } else { "commit" });
                    session.run(&bulk);
                    session.run(&format!("begin; {}; prepare transaction '{first}'", one(50)));
                    session.run(&format!("commit prepared '{first}'"));
                    if i == 0 && round == 0 {
                        session.run("checkpoint");
                    }
                }
            });
        }
    });
}

/// Fails where PostgreSQL finds a table damaged, or an index that lacks a row of it.
fn assert_sound(db: &Db) {
    for table in (0..3).map(|i| format!("pyreplica.log_{i}")) {
        assert!(db.rows(&format!("select * from verify_heapam('{table}')")).is_empty(), "{table}");
        db.run(&format!(
            "select bt_index_check(indexrelid, true) from pg_index where indrelid = '{table}'::regclass"
        ));
    }
}

#[test]
fn a_crash_of_the_master_leaves_them_sound() {
    let mut trio = replays_are_compared().start();
    trio.master.run("create extension amcheck");
    trio.agent.stop();
    write(&trio.master);
    trio.master.server.crash();
    trio.master.server.boot();
    assert_sound(&trio.master);
    trio.agent.start();
    trio.catch_up_and_compare();
}

#[test]
fn a_standby_has_them_too_and_goes_on_with_later_ids() {
    let trio = replays_are_compared().build();
    trio.once().expect_code(0);
    let master = &trio.master;
    master.run("create extension amcheck");
    let standby = master.server.standby().db(&master.name);
    write(master);
    master.run("insert into t values (-1000)");
    let end = master.value("select pg_current_wal_lsn()");
    wait_for("the standby", || {
        (standby.value(&format!("select pg_last_wal_replay_lsn() >= '{end}'")) == "t").then_some(())
    });
    assert_sound(&standby);
    let last = "select max(id) from pyreplica.log";
    let drawn: i64 = master.value(last).parse().expect("an id");
    assert_eq!(standby.value(last), drawn.to_string());
    standby.run("select pg_promote()");
    standby.run("insert into t values (-2000)");
    assert!(standby.value(last).parse::<i64>().expect("an id") > drawn);
    assert_sound(&standby);
}

/// What a checkpoint has written has to be logged again before it is drawn from.
#[test]
fn no_id_is_drawn_twice_however_the_master_ends() {
    let master = Setup::new(TABLE).own_servers().build().master;
    for round in 0..3 {
        for id in 0..4 {
            master.run(&format!("insert into t values ({round} * 4 + {id})"));
            if id == 1 {
                master.run("checkpoint");
            }
        }
        master.server.crash();
        master.server.boot();
    }
    master.run("insert into t values (-1)");
    assert_eq!(master.value("select count(distinct id) from pyreplica.log"), "13");
}

/// A new index is filled, and gets what is written until it takes the place of the old one.
#[test]
fn their_indexes_may_be_rebuilt_while_others_write() {
    let mut trio = Setup::new(TABLE).start();
    let master = trio.master.clone();
    master.run("create extension amcheck");
    // GIVEN a new index that is filled, and waits for an old snapshot
    let old = master.begin("set transaction isolation level repeatable read; select 1");
    let mut rebuilding = master.session();
    let pid = rebuilding.rows("select pg_backend_pid()").join("");
    let rebuild = thread::spawn(move || rebuilding.run("reindex table concurrently pyreplica.log_0"));
    let waits = format!("select phase from pg_stat_progress_create_index where pid = {pid}");
    wait_for("a new index", || (master.value(&waits) == "waiting for old snapshots").then_some(()));
    // WHEN others write, of one chunk and of several
    master.run("insert into t values (1)");
    master.run("insert into t select i, md5(i::text) from generate_series(1000, 3000) i");
    old.commit();
    rebuild.join().expect("reindex");
    master.run("insert into t values (2)");
    // THEN all of it is found
    assert_sound(&master);
    trio.catch_up_and_compare();
}

/// A writer that knew the old index when its transaction began, and commits when the new one has taken its place: while
/// the old one still gets what is written, no longer gets it, and is gone.
#[test]
fn an_index_that_was_replaced_is_not_written_to() {
    let mut trio = Setup::new(TABLE).slaves(1).build();
    let master = trio.master.clone();
    master.run("create extension amcheck");
    let mut writers: Vec<Session> = (0..6).map(|_| master.session()).collect();
    for (i, writer) in (0..).zip(&mut writers) {
        writer.run(&format!("insert into t values ({i})"));
        writer.run(&format!("begin; insert into t values ({i} + 10)"));
        if i % 2 == 0 {
            writer.run(&format!("insert into t select i, md5(i::text) from generate_series({i} * 1000 + 1000, {i} * 1000 + 1900) i"));
        }
    }
    let mut writers = writers.into_iter();
    let mut two_commit = || writers.by_ref().take(2).for_each(Session::commit);
    let read = || master.begin("lock table pyreplica.log_0 in access share mode");
    let mut rebuilding = master.session();
    let pid = rebuilding.rows("select pg_backend_pid()").join("");
    let phase = format!("select phase from pg_stat_progress_create_index where pid = {pid}");
    let is = |expected: &str| wait_for(expected, || (master.value(&phase) == expected).then_some(()));

    let reader = read();
    let rebuild = thread::spawn(move || rebuilding.run("reindex table concurrently pyreplica.log_0"));
    is("waiting for readers before marking dead");
    two_commit();
    let another = read();
    reader.commit();
    is("waiting for readers before dropping");
    two_commit();
    another.commit();
    rebuild.join().expect("reindex");
    two_commit();
    assert_sound(&master);
    trio.catch_up_and_compare();
}

/// PostgreSQL lets a transaction become one that only reads when it has written.
#[test]
fn a_transaction_that_is_read_only_in_the_end_is_logged() {
    let mut trio = Setup::new(TABLE).start();
    for id in 0..40 {
        trio.master.run(&format!("begin; insert into t values ({id}); set transaction read only; commit"));
    }
    trio.catch_up_and_compare();
}

#[test]
fn they_are_heaps_whatever_the_default_is() {
    let db = Setup::new("").own_servers().build().master;
    let other = db.server.create_db("other", "");
    other.run("create access method other type table handler heap_tableam_handler");
    other.run("set default_table_access_method = other; create extension pyreplica");
    let tables = "select count(*) from pg_class join pg_am a on a.oid = relam
                   where relname like 'log__' and relkind = 'r' and amname = 'heap'";
    assert_eq!(other.value(tables), "3");
}
