//! Writers notify while a reader of the log sleeps, and only then; one that dozes they wake by its latch.
//!
//! Of slaves that are in step one reads, and sleeps, for all.
//! The agents' safety timer is an hour here: what arrives was not found by it.

use std::thread::JoinHandle;

use postgres::fallible_iterator::FallibleIterator;
use pyreplica_tests::cluster::send_signal;
use pyreplica_tests::db::{Db, Session};
use pyreplica_tests::trio::Setup;
use pyreplica_tests::wait::wait_for;

use crate::late::StoppedWriter;

const TABLE: &str = "create table t (id int primary key, v text)";

fn setup() -> Setup {
    Setup::new(TABLE).timer_seconds("3600")
}

/// Waits until so many sessions sleep.
fn wait_for_sleepers(master: &Db, count: usize) {
    wait_for(&format!("{count} sleepers"), || (sleepers(master) == count).then_some(()));
}

fn sleepers(master: &Db) -> usize {
    marks(master, 3)
}

/// Sessions that have marked themselves as resting; 3: that sleep, 5: that sleep or doze.
fn marks(master: &Db, kind: u32) -> usize {
    let locks = format!(
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database
          where d.datname = current_database() and l.locktype = 'advisory' and l.objsubid = {kind}"
    );
    master.value(&locks).parse().expect("a number")
}

/// A session that dozes in a thread of its own until it is woken. Without waking, the server ends it with an error.
fn doze(mut session: Session) -> JoinHandle<Session> {
    session.run("set statement_timeout = '60 s'");
    std::thread::spawn(move || {
        session.run("select pyreplica.doze(3600000)");
        session
    })
}

/// The number of the last sleep that began.
const SLEEP: &str = "select last_value from pyreplica.log_sleep";

/// A session that hears every NOTIFY replicas of its database.
struct Listener(Session);

impl Listener {
    fn new(master: &Db) -> Self {
        let mut session = master.session();
        session.run("listen replicas; listen marker");
        Listener(session)
    }

    /// How many there were since the last call, of transactions that have ended.
    fn count(&mut self) -> usize {
        // They come in the order of the commits.
        self.0.run("notify marker");
        let mut count = 0;
        let mut notifications = self.0.client.notifications();
        let mut all = notifications.blocking_iter();
        while all.next().expect("the session lives").expect("the marker comes").channel() == "replicas" {
            count += 1;
        }
        count
    }
}

#[test]
fn each_commit_wakes_the_slaves_of_an_idle_master() {
    for setup in [setup(), setup().atomic()] {
        // GIVEN two slaves, by themselves or as a group, in step
        let mut trio = setup.start();
        let mut listener = Listener::new(&trio.master);
        let mut notified = 0;
        for id in 0..20 {
            wait_for_sleepers(&trio.master, 1);
            listener.count();
            // WHEN a transaction commits
            trio.master.run(&format!("insert into t values ({id})"));
            // THEN it wakes them, unless they are about to look by themselves
            let count = listener.count();
            assert!(count <= 1, "{count}");
            notified += count;
            trio.catch_up();
        }
        assert_ne!(notified, 0);
        trio.assert_same();
    }
}

#[test]
fn a_notify_by_hand_and_a_queued_statement_wake_too() {
    let mut trio = setup().start();
    wait_for_sleepers(&trio.master, 1);
    trio.master
        .run("insert into pyreplica.replica_log (sql) values ('alter table public.t add n int default 7')");
    trio.catch_up();
    assert_eq!(trio.slaves[1].value("select count(n) from t"), "0");
    wait_for_sleepers(&trio.master, 1);
    let last_query = "select max(query_start) from pg_stat_activity
                       where datname = current_database() and application_name = 'replica_agent read'";
    let before = trio.master.value(last_query);
    trio.master.run("notify replicas");
    wait_for("a look at the log", || (trio.master.value(last_query) != before).then_some(()));
}

#[test]
fn an_idle_master_is_left_alone() {
    let trio = setup().start();
    wait_for("an agent that is silent", || {
        let silence =
            "select coalesce(min(clock_timestamp() - greatest(query_start, state_change)) > '5 s', false)
                         from pg_stat_activity
                        where datname = current_database() and application_name like 'replica_agent%'";
        (trio.master.value(silence) == "t").then_some(())
    });
    assert_eq!(sleepers(&trio.master), 1);
}

#[test]
fn a_busy_master_sees_no_notify() {
    let mut trio = setup().start();
    let mut listener = Listener::new(&trio.master);
    let mut round = 0;
    // Where the agent gets no processor it cannot say in time that it has woken: so, once in a while.
    wait_for("200 commits with hardly a NOTIFY", || {
        listener.count();
        round += 1;
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let mut session = trio.master.session();
                scope.spawn(move || {
                    for i in 0..50 {
                        session.run(&format!("insert into t values ({})", (round * 4 + writer) * 50 + i));
                    }
                });
            }
        });
        (listener.count() < 20).then_some(())
    });
    trio.catch_up_and_compare();
}

#[test]
fn sleepers_do_not_wake_each_other() {
    let trio = setup().build();
    let mut listener = Listener::new(&trio.master);
    let mut commits = 0;
    let mut notified = || {
        commits += 1;
        trio.master.run(&format!("insert into t values ({commits})"));
        listener.count()
    };
    // GIVEN nobody who sleeps
    assert_eq!(notified(), 0);
    // WHEN one does, twice, and another one THEN writers notify, until both have woken or gone
    let (mut one, mut other) = (trio.master.session(), trio.master.session());
    let arm = "select pyreplica.arm('{}')";
    assert_eq!(one.rows(arm).len(), 1);
    assert_eq!(notified(), 1);
    assert_eq!((one.rows(arm).len(), other.rows(arm).len()), (1, 1));
    assert_eq!(notified(), 1);
    assert_eq!(one.rows("select pyreplica.disarm(), pyreplica.disarm()"), ["t|f"]);
    assert_eq!(notified(), 1);
    drop(other);
    wait_for_sleepers(&trio.master, 0);
    assert_eq!(notified(), 0);
}

/// What the end of a database does to every session of the server.
fn wake_all_sessions(server: &Db) {
    server.run("create database dropped_at_once");
    server.run("drop database dropped_at_once");
}

#[test]
fn a_commit_wakes_who_dozes_and_notifies_nobody() {
    let trio = setup().build();
    let mut listener = Listener::new(&trio.master);
    let mut dozer = trio.master.session();
    // The first call cannot know what was there before.
    dozer.run("select pyreplica.doze(3600000)");
    for id in 0..3 {
        // GIVEN a session that dozes
        let dozing = doze(dozer);
        wait_for("a dozer", || (marks(&trio.master, 5) == 1).then_some(()));
        // WHEN something is undone, or the server wakes all its sessions, THEN it dozes on
        trio.master.run("begin; insert into t values (-1); rollback");
        wake_all_sessions(&trio.master);
        assert_eq!(marks(&trio.master, 5), 1);
        // WHEN something is committed THEN it is woken, and sees that
        trio.master.run(&format!("insert into t values ({id})"));
        dozer = dozing.join().expect("woken");
        assert_eq!(dozer.rows("select max(id) from t"), [id.to_string()]);
        // AND knows what is committed before it dozes again
        trio.master.run(&format!("insert into t values ({id} + 100); delete from t where id = {id} + 100"));
        dozer.run("select pyreplica.doze(3600000)");
    }
    assert_eq!((listener.count(), marks(&trio.master, 5)), (0, 0));
}

#[test]
fn who_dozes_finds_what_did_not_see_it() {
    // GIVEN a transaction that had written all it writes before a session dozes
    let trio = setup().build();
    trio.master.run("begin; insert into t values (1); prepare transaction 'before the doze'");
    let mut dozer = trio.master.session();
    dozer.run("select pyreplica.doze(3600000)");
    let dozing = doze(dozer);
    wait_for("a dozer", || (marks(&trio.master, 5) == 1).then_some(()));
    // WHEN it is committed THEN the session sees it
    trio.master.run("commit prepared 'before the doze'");
    assert_eq!(dozing.join().expect("woken").rows("select id from t"), ["1"]);
}

/// A reader in step reads 100 transactions at once.
#[test]
fn more_comes_at_once_than_a_reader_in_step_asks_for() {
    let mut trio = setup().start();
    let mut session = trio.master.session();
    for count in [99, 100, 101, 250] {
        wait_for_sleepers(&trio.master, 1);
        send_signal(trio.agent.pid(), "STOP");
        for id in 0..count {
            session.run(&format!("insert into t values ({count} * 1000 + {id})"));
        }
        send_signal(trio.agent.pid(), "CONT");
        trio.catch_up_and_compare();
    }
}

#[test]
fn who_has_written_to_the_log_keeps_others_from_sleeping() {
    // GIVEN a transaction that has written a part to the log, and one that has not
    let trio = setup().build();
    let mut writer = trio.master.session();
    writer.run("set pyreplica.buffer_size = '64kB'; begin");
    writer.run("insert into t select i, repeat('x', 100) from generate_series(1, 2000) i");
    let _idle = trio.master.begin("insert into t values (0)");
    // WHEN somebody wants to sleep THEN it may not
    let mut sleeper = trio.master.session();
    let mut arm = |slow: &str| sleeper.rows(&format!("select split_part(pyreplica.arm({slow}), ':', 2)"));
    let in_flight = arm("'{}'").remove(0);
    assert!(in_flight.contains('/') && !in_flight.contains(','), "{in_flight}");
    assert_eq!(sleepers(&trio.master), 0);
    // unless it knows of that one
    let known = format!("'{{{in_flight}}}'");
    assert_eq!((arm("null"), sleepers(&trio.master)), (vec![in_flight.clone()], 0));
    assert_eq!((arm(&known), sleepers(&trio.master)), (vec![in_flight], 1));
    // WHEN it ends THEN it is named no more
    writer.run("rollback");
    assert_eq!((arm("'{}'"), sleepers(&trio.master)), (vec![String::new()], 1));
}

#[test]
fn a_writer_that_did_not_see_the_sleepers_is_found_when_it_commits() {
    for setup in [setup(), setup().atomic()] {
        // GIVEN a writer stopped in its commit at a time when nobody slept
        let mut trio = setup.own_servers().start();
        trio.agent.stop();
        let master = trio.master.clone();
        wait_for_sleepers(&master, 0);
        let writer = StoppedWriter::inserts(&master, "t");
        let before = master.value(LAST);
        // WHEN the agent goes to sleep meanwhile
        trio.agent.start();
        wait_for_sleepers(&master, 1);
        // THEN other commits come at once
        master.run("insert into t values (-1)");
        trio.catch_up_and_compare();
        wait_for_sleepers(&master, 1);
        // and the writer's when it ends, although it does not notify
        let mut listener = Listener::new(&master);
        writer.goes_on();
        assert_ne!(master.value(LAST), before);
        trio.catch_up_and_compare();
        assert_eq!(listener.count(), 0);
        assert_eq!(trio.slaves[1].value(LAST), master.value(LAST));
    }
}

#[test]
fn transactions_that_fill_a_batch_each_do_not_wait_for_the_timer() {
    let mut trio = setup().agent_line("batch_rows = 3").start();
    trio.agent.stop();
    for id in 0..10 {
        trio.master
            .run(&format!("insert into t select {id} * 10 + i from generate_series(1, 3 + {id} % 2) i"));
    }
    trio.agent.start();
    trio.catch_up_and_compare();
}

/// Of the rows of one writer the last that is committed.
const LAST: &str = "select max(id) from t";

#[test]
fn a_prepared_transaction_that_was_there_before_is_found() {
    // GIVEN one that was prepared before the slaves went to sleep
    let mut trio = setup().start();
    trio.master.run("begin; insert into t values (1); prepare transaction 'before the sleep'");
    trio.master.run("insert into t values (2)");
    trio.catch_up();
    wait_for_sleepers(&trio.master, 1);
    // WHEN it commits THEN it is found without the timer
    trio.master.run("commit prepared 'before the sleep'");
    trio.catch_up_and_compare();
}

#[test]
fn a_prepared_transaction_that_comes_later_is_found_by_the_timer() {
    let mut trio = Setup::new(TABLE).start();
    wait_for_sleepers(&trio.master, 1);
    let mut listener = Listener::new(&trio.master);
    trio.master.run("begin; insert into t values (1); prepare transaction 'during the sleep'");
    trio.master.run("commit prepared 'during the sleep'");
    assert_eq!(listener.count(), 0);
    trio.catch_up_and_compare();
}

#[test]
fn an_agent_that_dies_asleep_leaves_nobody_to_notify() {
    let mut trio = setup().start();
    wait_for_sleepers(&trio.master, 1);
    trio.agent.kill();
    wait_for_sleepers(&trio.master, 0);
    let mut listener = Listener::new(&trio.master);
    trio.master.run("insert into t values (1)");
    assert_eq!(listener.count(), 0);
    trio.agent.start();
    trio.catch_up_and_compare();
}

#[test]
fn a_sleeper_that_does_not_wake_costs_each_session_one_notify() {
    let mut trio = setup().slaves(1).start();
    wait_for_sleepers(&trio.master, 1);
    let mut listener = Listener::new(&trio.master);
    send_signal(trio.agent.pid(), "STOP");
    // WHEN two sessions commit again and again, now and then in vain
    let mut sessions = [trio.master.session(), trio.master.session()];
    for i in 1..=10 {
        for (number, session) in sessions.iter_mut().enumerate() {
            session.run(&format!("begin; insert into t values ({}); rollback", i * 100 + number));
            session.run(&format!("insert into t values ({})", i * 100 + number));
        }
    }
    // THEN each has notified once, and the sleeper hears it
    assert_eq!(listener.count(), 2);
    let mut sleep = trio.master.value(SLEEP);
    send_signal(trio.agent.pid(), "CONT");
    trio.catch_up_and_compare();
    // AND from then on they wake it again, each time that it has begun another sleep
    for i in 1..=3 {
        wait_for("another sleep", || (trio.master.value(SLEEP) != sleep).then_some(()));
        wait_for_sleepers(&trio.master, 1);
        sleep = trio.master.value(SLEEP);
        sessions[0].run(&format!("insert into t values ({i})"));
        trio.catch_up_and_compare();
    }
    assert_eq!(listener.count(), 3);
}

#[test]
fn a_slave_that_hangs_does_not_make_writers_notify() {
    // GIVEN one slave whose table is locked
    let mut trio = setup().slaves(1).start();
    wait_for_sleepers(&trio.master, 1);
    let lock = trio.slaves[0].begin("lock table t");
    // WHEN there is more than it takes THEN its reader waits, and does not sleep
    let mut id = 0;
    wait_for("a reader that waits for its slave", || {
        id += 1;
        trio.master.run(&format!("insert into t values ({id})"));
        let waits = "select clock_timestamp() - state_change > '1 s' from pg_stat_activity
                      where datname = current_database() and application_name = 'replica_agent read'";
        (sleepers(&trio.master) == 0 && trio.master.value(waits) == "t").then_some(())
    });
    let mut listener = Listener::new(&trio.master);
    trio.master.run("insert into t values (0)");
    assert_eq!(listener.count(), 0);
    lock.commit();
    trio.catch_up_and_compare();
}
