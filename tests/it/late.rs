//! Transactions that draw their rank early and commit late: others pass them, and none is forgotten.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use pyreplica_tests::cluster::send_signal;
use pyreplica_tests::db::Db;
use pyreplica_tests::trio::Setup;
use pyreplica_tests::wait::wait_for;

/// A session that has drawn its rank and is stopped before others see its commit.
pub struct StoppedWriter {
    pid: u32,
    writing: JoinHandle<()>,
}

impl StoppedWriter {
    /// It inserts rows (id) from 0 on, each a transaction, and is stopped in one of the first. The server is to be of
    /// the test's own.
    pub fn inserts(master: &Db, table: &str) -> Self {
        wait_for_standby(master, "nobody");
        let mut writer = master.session();
        let pid: u32 = writer.rows("select pg_backend_pid()").remove(0).parse().expect("a pid");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let insert = format!("insert into {table} values ");
        let writing = std::thread::spawn(move || {
            // The checkpointer puts the setting in force: the first commits may not wait yet.
            for id in 0.. {
                writer.run(&format!("{insert} ({id})"));
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let waits = format!("select wait_event from pg_stat_activity where pid = {pid}");
        wait_for("a commit that waits", || (master.value(&waits) == "SyncRep").then_some(()));
        stop.store(true, Ordering::Relaxed);
        send_signal(pid, "STOP");
        wait_for_standby(master, "");
        StoppedWriter { pid, writing }
    }

    /// It commits and ends.
    pub fn goes_on(self) {
        send_signal(self.pid, "CONT");
        self.writing.join().expect("the writer");
    }
}

/// Makes commits wait for a standby of this name, or for none.
fn wait_for_standby(master: &Db, name: &str) {
    master.run(&format!("alter system set synchronous_standby_names = '{name}'"));
    master.run("select pg_reload_conf()");
    let in_force = || (master.value("show synchronous_standby_names") == name).then_some(());
    wait_for("the setting", in_force);
}

#[test]
fn a_commit_that_others_pass_arrives_when_it_is_seen() {
    let schema = (0..3).map(|i| format!("create table t{i} (id int primary key);")).collect::<String>();
    let mut trio = Setup::new(&(schema + "create table other (id int primary key)")).own_servers().start();
    trio.agent.stop();
    let master = trio.master.clone();
    // GIVEN writers that are stopped in their commits
    let writers = [0, 1, 2].map(|i| {
        master.run(&format!("insert into other values ({i})"));
        StoppedWriter::inserts(&master, &format!("t{i}"))
    });
    trio.agent.start();
    for (i, writer) in writers.into_iter().enumerate() {
        // WHEN others commit meanwhile, of one chunk, of several and prepared, THEN they arrive
        let id = 1000 * (i + 1);
        master.run(&format!("insert into other values ({id})"));
        master.run(&format!("insert into other select {id} + j from generate_series(1, 900) j"));
        master.run(&format!("begin; insert into other values (-{id}); prepare transaction 'late {i}'"));
        trio.catch_up_and_compare();
        let sees = format!("select count(*) from t{i}");
        let before = master.value(&sees);
        assert_eq!(trio.slaves[1].value(&sees), before);
        // WHEN one is seen, also by an agent that has not met it, THEN it arrives
        if i == 1 {
            trio.agent.kill();
            trio.agent.start();
            trio.catch_up();
        }
        writer.goes_on();
        assert_ne!(master.value(&sees), before);
        trio.catch_up_and_compare();
        master.run(&format!("commit prepared 'late {i}'"));
        trio.catch_up_and_compare();
    }
}

#[test]
fn the_log_is_kept_for_a_commit_that_others_passed() {
    let mut trio = Setup::new("create table t (id int primary key); create table other (id int primary key)")
        .slaves(1)
        .own_servers()
        .start();
    trio.agent.stop();
    let master = trio.master.clone();
    let writer = StoppedWriter::inserts(&master, "t");
    trio.agent.start();
    master.run("insert into other values (1)");
    trio.catch_up();
    // GIVEN a slave that is known to have the others, and a commit that it lacks
    trio.agent.stop();
    let last = "select rank = (select max(id) from pyreplica.log) from pyreplica.slave";
    assert_eq!(master.value(last), "t");
    writer.goes_on();
    // WHEN its chunk table could be emptied but for that
    master.run("select setval('pyreplica.log_current', 1), pyreplica.rotate_log()");
    trio.agent.start();
    trio.catch_up_and_compare();
}

/// What had a transaction id before it commits with a higher rank: no snapshot of then has the late one in progress.
#[test]
fn a_commit_that_only_older_ones_pass_arrives_too() {
    let mut trio = Setup::new("create table t (id int primary key); create table other (id int primary key)")
        .own_servers()
        .start();
    // While it sleeps a writer notifies, which keeps others from committing until it has committed itself.
    trio.agent.stop();
    let master = trio.master.clone();
    let mut older = master.session();
    older.run("begin; insert into other values (1)");
    let writer = StoppedWriter::inserts(&master, "t");
    older.run("commit");
    trio.agent.start();
    trio.catch_up_and_compare();
    writer.goes_on();
    trio.catch_up_and_compare();
}
