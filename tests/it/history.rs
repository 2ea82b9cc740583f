//! Random histories: interleaved transactions, savepoints, rollbacks, prepared ones, kills of the agent.
//!
//! At every moment each slave holds a prefix of the master's history, and in the end both are equal. A failure
//! prints its seed; PYREPLICA_SEED=<n> replays the same operations.

use std::time::Duration;

use pyreplica_tests::db::Session;
use pyreplica_tests::random::{seeds, Random};
use pyreplica_tests::trio::{Setup, Trio};

const SESSIONS: u64 = 5;
const ACCOUNTS: u64 = 20;
const STEPS: u64 = 400;

/// Money moves between accounts, so that its sum never changes; `t` takes whatever happens; `clock` is one row that
/// some transactions advance and note in `tick`: its ticks have no gap in any prefix.
const SCHEMA: &str = "create table account (id int primary key, money int not null);
    create table t (id int primary key, v text, n numeric);
    create table clock (id int primary key, at int not null);
    create table tick (at int primary key, by text)";

/// A session of the history, and how deep it is in a transaction: 0 not at all, else its savepoints + 1.
struct Writer {
    session: Session,
    depth: u64,
}

impl Writer {
    /// Runs one step; what fails (a lock held by another, a key that exists) rolls the transaction back.
    fn step(&mut self, random: &mut Random, number: u64) {
        let (id, other) = (random.below(60), random.below(60));
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let amount = random.below(50);
        let sql = match random.below(22) {
            0..=2 => format!("insert into t values ({id}, 'step {number}', {amount} / 7.0)"),
            3 => format!("insert into t select i, repeat('x', 500) from generate_series({number} * 1000 + 1000, {number} * 1000 + 1000 + {amount} * 20) i"),
            4..=6 => format!("update t set v = v || '.', n = n + 1 where id between {id} and {id} + 5"),
            7 => format!("delete from t where id = {id} or id = {other} or id > 1000 and id % 7 = {}", id % 7),
            8 => format!("update t set id = id + 100 where id = {id}"),
            9..=11 => format!(
                "update account set money = money - {amount} where id = {from}; update account set money = money + {amount} where id = {to}"
            ),
            12..=13 => format!(
                "update clock set at = at + 1; insert into tick select at, 'step {number}' from clock"
            ),
            14 if self.depth > 0 => format!("savepoint s{}", self.depth),
            15 if self.depth > 1 => format!("rollback to s{}", 1 + random.below(self.depth - 1)),
            16 if self.depth == 1 => {
                let end = if amount.is_multiple_of(3) { "rollback" } else { "commit" };
                format!("prepare transaction 'history {number}'; {end} prepared 'history {number}'")
            }
            17 if amount == 0 => "truncate t".to_owned(),
            18 => "rollback".to_owned(),
            19 => format!("copy t (id) from program 'seq {number}0000 {number}{:04}'", amount * 20),
            20 => format!("set pyreplica.log_at_once = {}", amount.is_multiple_of(2)),
            _ => "commit".to_owned(),
        };
        let begins = self.depth == 0
            && !sql.starts_with("commit")
            && !sql.starts_with("rollback")
            && random.below(3) > 0;
        // Statements outside of a transaction are one of their own, as one simple query.
        for part in begins.then_some("begin").into_iter().chain(if self.depth == 0 && !begins {
            vec![sql.as_str()]
        } else {
            sql.split("; ").collect()
        }) {
            if self.session.client.batch_execute(part).is_err() {
                self.session.run("rollback");
                self.depth = 0;
                return;
            }
        }
        self.depth = match sql.split(' ').next() {
            Some("savepoint") => self.depth + 1,
            Some("rollback") if sql.starts_with("rollback to s") => {
                sql["rollback to s".len()..].parse::<u64>().expect("a number") + 1
            }
            Some("commit" | "rollback" | "prepare") => 0,
            _ if begins => 1,
            _ => self.depth,
        };
    }
}

/// What is true of every prefix of the history.
fn assert_prefix(trio: &Trio, seed: u64) {
    for slave in &trio.slaves {
        let state = slave.value(
            "select (select coalesce(sum(money), -1) from account),
                    (select max(at) from clock) = (select coalesce(max(at), 0) from tick),
                    (select count(*) = coalesce(max(at), 0) from tick)",
        );
        assert_eq!(
            state,
            format!("{}|t|t", ACCOUNTS * 1000),
            "{} is no prefix; seed {seed}",
            slave.server.name
        );
    }
}

fn play(setup: Setup, seed: u64) {
    eprintln!("history with PYREPLICA_SEED={seed}");
    let mut random = Random::new(seed);
    let mut trio = setup.build();
    trio.master.run(&format!(
        "insert into account select i, 1000 from generate_series(0, {ACCOUNTS} - 1) i; insert into clock values (1, 0)"
    ));
    trio.agent.start();
    trio.catch_up();
    let mut writers: Vec<Writer> = (0..SESSIONS)
        .map(|_| {
            let mut session = trio.master.session();
            session.run("set lock_timeout = '5ms'");
            Writer { session, depth: 0 }
        })
        .collect();
    for number in 0..STEPS {
        let writer = random.below(SESSIONS) as usize;
        writers[writer].step(&mut random, number);
        match random.below(40) {
            0 => {
                trio.agent.kill();
                trio.agent.start();
            }
            1..=5 => assert_prefix(&trio, seed),
            _ => {}
        }
    }
    for mut writer in writers {
        writer.session.run("commit");
    }
    trio.catch_up();
    assert_prefix(&trio, seed);
    trio.assert_same();
    assert_ne!(trio.master.value("select count(*) from tick"), "0", "nothing came of seed {seed}");
    trio.assert_nothing_prepared();
    for slave in 0..trio.slaves.len() {
        assert_eq!(trio.conflicts(slave), [""; 0], "seed {seed}");
    }
}

#[test]
fn independent_slaves_end_equal() {
    seeds().into_iter().for_each(|seed| play(Setup::new(SCHEMA), seed));
}

#[test]
fn small_batches_end_equal() {
    seeds().into_iter().for_each(|seed| play(Setup::new(SCHEMA).agent_line("batch_rows = 3"), seed));
}

#[test]
fn five_slaves_that_read_together_end_equal() {
    let setup = Setup::new(SCHEMA).slaves(5);
    for (seed, setup) in seeds().into_iter().zip([setup.clone(), setup.agent_line("batch_rows = 2")]) {
        play(setup, seed);
    }
}

#[test]
fn atomic_slaves_end_equal() {
    seeds().into_iter().for_each(|seed| play(Setup::new(SCHEMA).atomic(), seed));
}

#[test]
fn one_phase_slaves_end_equal() {
    seeds().into_iter().for_each(|seed| play(Setup::new(SCHEMA).one_phase(), seed));
}

/// Several batches come of one snapshot.
#[test]
fn slaves_of_a_far_master_end_equal() {
    let setup = Setup::new(SCHEMA).far_master(Duration::from_millis(5)).agent_line("batch_rows = 3");
    for (seed, setup) in seeds().into_iter().zip([setup.clone().slaves(1), setup]) {
        play(setup, seed);
    }
}
