//! A new agent takes a slave over while sessions of a killed one are still at work there.

use pyreplica_tests::db::Session;
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::{wait_for, wait_within, DEADLINE};

const TABLE: &str = "create table t (id int primary key, v int not null)";

/// On a slave: a change of t waits for an advisory lock, when it is made or when its transaction ends, as long as
/// there is a row in `held`. The server does not look meanwhile whether the agent is still there.
fn hold_up(deferred: bool) -> String {
    let timing = if deferred { "deferrable initially deferred" } else { "" };
    format!(
        "{TABLE};
         create table held (since timestamptz default clock_timestamp());
         create function hold_up() returns trigger language plpgsql as $$ begin
            if exists (select from public.held) then
                perform set_config('client_connection_check_interval', '0', true);
                perform pg_advisory_xact_lock_shared(1);
            end if;
            return null;
         end $$;
         create constraint trigger hold_up after insert on t {timing} for each row execute function hold_up();
         alter table t enable always trigger hold_up"
    )
}

/// The session of an agent on the first slave that waits for a lock of this kind.
fn waiting(trio: &Trio, event: &str) -> Option<String> {
    trio.slaves[0]
        .rows(&format!(
            "select pid from pg_stat_activity
              where datname = current_database() and application_name = 'replica_agent slave1'
                and wait_event_type = 'Lock' and wait_event = '{event}'"
        ))
        .pop()
}

fn lock_on_first_slave(trio: &Trio) -> Session {
    let mut lock = trio.slaves[0].session();
    lock.run("select pg_advisory_lock(1)");
    lock
}

fn outlives_its_agent(setup: Setup, deferred: bool) {
    let mut trio = setup.slave_schema(&hold_up(deferred)).build();
    trio.once().expect_code(0);
    let lock = lock_on_first_slave(&trio);
    trio.slaves[0].run("insert into held default values");
    // GIVEN agents that are killed one after the other while the first slave is held up
    let mut last = None;
    for round in 0..3 {
        trio.master.run(&format!("insert into t values ({round}, 0); update t set v = v + 1"));
        trio.agent.start();
        let held = wait_for("a session of the new agent that is held up", || {
            waiting(&trio, "advisory").filter(|pid| Some(pid) != last.as_ref())
        });
        trio.agent.kill();
        last = Some(held);
    }
    // WHEN another comes, which is not held up
    trio.slaves[0].run("delete from held");
    trio.agent.start();
    // THEN it does not wait for the session of the last one
    trio.catch_up_and_compare();
    drop(lock);
    trio.assert_nothing_prepared();
    assert_eq!(trio.conflicts(0), [""; 0]);
    assert_eq!(trio.conflicts(1), [""; 0]);
}

#[test]
fn a_change_outlives_its_agent() {
    outlives_its_agent(Setup::new(TABLE), false);
    outlives_its_agent(Setup::new(TABLE).atomic(), false);
}

#[test]
fn a_commit_outlives_its_agent() {
    outlives_its_agent(Setup::new(TABLE), true);
    outlives_its_agent(Setup::new(TABLE).atomic(), true);
    outlives_its_agent(Setup::new(TABLE).one_phase(), true);
}

/// Waits until three sessions of the agent, one after the other, have waited for the position that `other` has locked;
/// then prepares that batch. False if it is not settled.
fn prepare_late(trio: &Trio, other: &mut Session, gid: &str) -> bool {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let pid = wait_for("another session to wait for the position", || {
            waiting(trio, "transactionid").filter(|pid| !seen.contains(pid))
        });
        seen.push(pid);
    }
    other.run(&format!("prepare transaction '{gid}'"));
    let left = format!("select gid from pg_prepared_xacts where gid = '{gid}'");
    let settled = wait_within(DEADLINE, || other.rows(&left).is_empty().then_some(())).is_some();
    if !settled {
        other.run(&format!("rollback prepared '{gid}'")); // lest "once" waits for ever, and we for it
    }
    settled
}

fn prepared_late(setup: Setup, once: bool) {
    let atomic = setup.atomic;
    let verb = if atomic { "rollback" } else { "commit" };
    // GIVEN somebody who has locked the position, unseen by recovery
    let mut trio = setup.build();
    trio.once().expect_code(0);
    let mut other = trio.slaves[0].begin("update pyreplica_agent.position set batch = batch + 1");
    let batch = other.rows("select batch from pyreplica_agent.position").remove(0);
    let gid = format!("pyreplica:{}:slave1:{batch}", trio.agent_name);
    let line = format!("recovery: {verb} of batch {batch}, which was prepared");
    trio.master.run("insert into t values (1, 0)");
    // WHEN the batch is prepared after all
    let (settled, log) = if once {
        std::thread::scope(|scope| {
            let once = scope.spawn(|| trio.once());
            let settled = prepare_late(&trio, &mut other, &gid);
            (settled, once.join().expect("once").expect_code(0).text())
        })
    } else {
        trio.agent.start();
        let settled = prepare_late(&trio, &mut other, &gid);
        if atomic {
            trio.agent.wait_for_log(&line);
        }
        (settled, trio.agent.log())
    };
    // THEN it is settled like any other: by recovery or, unless a group decides, by the COMMIT that had been sent already
    assert!(settled && (!atomic || log.contains(&line)), "no \"{line}\" in:\n{log}");
    trio.catch_up_and_compare();
    trio.assert_nothing_prepared();
}

#[test]
fn a_batch_is_prepared_after_recovery_has_looked() {
    for once in [false, true] {
        prepared_late(Setup::new(TABLE), once);
        prepared_late(Setup::new(TABLE).atomic(), once);
    }
}
