//! A new agent takes a slave over while sessions of another one, beside the one that served it, are at work there or are
//! yet to come: they make the schema, or empty tables.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pyreplica_tests::agent::Agent;
use pyreplica_tests::db::{Db, Session};
use pyreplica_tests::proxy::Proxy;
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v int); create index on t (v)";

fn without_schema(schema: &str) -> Trio {
    let trio = Setup::new(schema).slave_schema("").slaves(1).schema().build();
    trio.master.run("insert into t select generate_series(1, 100)");
    trio
}

/// Starts an agent that stays in pg_dump until it is let go.
fn start_in_pg_dump(master: &Db, agent: &mut Agent) {
    let dir = agent.dir().join("bin");
    let program = master.server.client_program("pg_dump", "");
    fs::create_dir(&dir).expect("own directory");
    fs::write(dir.join("hold"), "").expect("own directory");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) ;; *) touch '{0}/at-work'; while [ -e '{0}/hold' ]; do sleep 0.1; done ;; esac\n\
         exec '{1}' \"$@\"\n",
        dir.display(),
        program.get_program().to_string_lossy()
    );
    fs::write(dir.join("pg_dump"), script).expect("own directory");
    fs::set_permissions(dir.join("pg_dump"), fs::Permissions::from_mode(0o755)).expect("own file");
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default());
    agent.start_with(&[("PATH", &path)]);
}

fn wait_for_pg_dump(agent: &Agent) {
    let at_work = agent.dir().join("bin/at-work");
    wait_for("pg_dump", || at_work.exists().then_some(()));
}

fn let_pg_dump_go(agent: &Agent) {
    fs::remove_file(agent.dir().join("bin/hold")).expect("own file");
}

/// The sessions on the master of the agents that run now.
fn sessions_on_master(trio: &Trio) -> String {
    let pids = trio.master.rows(
        "select pid from pg_stat_activity
          where datname = current_database() and application_name like 'replica_agent %'",
    );
    pids.join(", ")
}

/// The agent that has these loses its election.
fn end_on_master(trio: &Trio, sessions: &str) {
    trio.master.run(&format!("select pg_terminate_backend(pid) from unnest(array[{sessions}]) pid"));
}

/// Keys and indexes come after the rows.
fn assert_finished(trio: &Trio) {
    let slave = &trio.slaves[0];
    let left = "select count(*) from pyreplica_agent.pending_schema";
    wait_for("the end of the schema", || (slave.value(left) == "0").then_some(()));
    trio.assert_same();
    assert_eq!(slave.value("select count(*) from pg_index where indrelid = 't'::regclass"), "2");
}

/// Two agents run pg_dump for the same tables; the first one has lost its election meanwhile.
fn two_make_the_tables(late: bool) {
    let mut trio = without_schema(TABLE);
    let mut first = Agent::new(&trio.config());
    start_in_pg_dump(&trio.master, &mut first);
    wait_for_pg_dump(&first);
    let lost = sessions_on_master(&trio);
    match late {
        true => trio.agent.start(),
        false => start_in_pg_dump(&trio.master, &mut trio.agent),
    }
    end_on_master(&trio, &lost);
    if late {
        // WHEN it goes on after the second one has made everything
        trio.catch_up_and_compare();
        let_pg_dump_go(&first);
        first.wait_for_log("standing by");
    } else {
        // WHEN it goes on while the second one is still in pg_dump
        wait_for_pg_dump(&trio.agent);
        let_pg_dump_go(&first);
        first.wait_for_log("standing by");
        let_pg_dump_go(&trio.agent);
    }
    // THEN the tables are made once
    trio.catch_up_and_compare();
    assert_finished(&trio);
    first.stop();
    trio.agent.stop();
    trio.once().expect_code(0);
}

#[test]
fn a_schema_is_made_once_though_two_agents_are_at_it() {
    two_make_the_tables(false);
}

#[test]
fn a_schema_is_not_made_again_by_an_agent_that_comes_late() {
    two_make_the_tables(true);
}

/// The index on the slave takes as long as a lock is held; that of whoever begins when `held` is gone does not.
const SLOW: &str = "
    create function hold_up(n int) returns int language plpgsql immutable as $$ begin
        if pg_catalog.to_regclass('public.held') is not null then
            perform pg_catalog.pg_advisory_xact_lock_shared(1);
        end if;
        return n;
    end $$;
    create table t (id int primary key, v int);
    create index on t (hold_up(id))";

/// A slave whose index is being made, and the lock that it waits for.
fn held_up_at_an_index() -> (Trio, Session) {
    let mut trio = without_schema(SLOW);
    let slave = &trio.slaves[0];
    slave.run("create table held ()");
    let mut lock = slave.session();
    lock.run("select pg_advisory_lock(1)");
    trio.agent.start();
    wait_for_session(&trio, "wait_event = 'advisory' and query like 'CREATE INDEX%'");
    (trio, lock)
}

fn wait_for_session(trio: &Trio, condition: &str) {
    let found = format!(
        "select count(*) from pg_stat_activity
          where datname = current_database() and application_name = 'replica_agent slave1' and {condition}"
    );
    wait_for(condition, || (trio.slaves[0].value(&found) == "1").then_some(()));
}

#[test]
fn an_index_that_a_killed_agent_is_making_is_not_waited_for() {
    let (mut trio, _lock) = held_up_at_an_index();
    trio.agent.kill();
    trio.slaves[0].run("drop table held");
    trio.agent.start();
    trio.catch_up_and_compare();
    assert_finished(&trio);
}

#[test]
fn an_index_that_a_stopped_agent_has_made_and_not_committed_is_not_waited_for() {
    let (mut trio, lock) = held_up_at_an_index();
    trio.agent.signal("STOP");
    drop(lock);
    wait_for_session(&trio, "state = 'idle in transaction'");
    trio.slaves[0].run("drop table held");
    end_on_master(&trio, &sessions_on_master(&trio));
    let second = Agent::new(&trio.config());
    let first = std::mem::replace(&mut trio.agent, second);
    trio.agent.start();
    trio.catch_up_and_compare();
    assert_finished(&trio);
    first.signal("CONT");
    first.wait_for_log("standing by");
}

/// An agent loses its election while it is between two sessions on the slave.
#[test]
fn a_session_that_comes_too_late_does_nothing() {
    let mut trio = without_schema(TABLE);
    let slave = &trio.slaves[0];
    let way = Proxy::start(&slave.server, Duration::ZERO);
    // Three sessions: one that serves the slave, one that makes the tables, one that copies. The next makes keys.
    way.admit(3);
    let to_slave = format!("{} connect_timeout=0", way.dsn(&slave.name));
    let mut first = Agent::new(&trio.config().replace(&slave.dsn(), &to_slave));
    first.start();
    wait_for("another session", || way.has_waiting().then_some(()));
    end_on_master(&trio, &sessions_on_master(&trio));
    trio.agent.start();
    trio.catch_up_and_compare();
    way.admit_all();
    first.wait_for_log("standing by");
    let log = first.log();
    assert!(
        log.contains("the session that served slave \"slave1\" has ended") && !log.contains("making indexes"),
        "{log}"
    );
    assert_finished(&trio);
}

/// The command waits for a lock to empty the tables; its session on the slave outlives it.
#[test]
fn a_killed_copy_command_empties_no_table_later() {
    let mut trio = Setup::new(TABLE).slaves(1).start();
    trio.master.run("insert into t select generate_series(1, 100)");
    trio.catch_up_and_compare();
    trio.agent.stop();
    let taken = "select copied_at from pyreplica_agent.copied_table";
    let before = trio.slaves[0].value(taken);
    let reader = trio.slaves[0].begin("select from t");
    trio.agent.start_as(&["copy"], &[]);
    wait_for_session(&trio, "wait_event_type = 'Lock' and query like 'truncate%'");
    trio.agent.kill();
    trio.agent.start();
    trio.master.run("insert into t values (101)");
    trio.wait_for_slave(0);
    reader.commit();
    trio.master.run("insert into t values (102)");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value(taken), before);
}
