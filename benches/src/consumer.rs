//! Slaves that take in what a master writes: ours, and a native subscription; each can be made to stand still.
//!
//! SIGSTOP to the agent, or to the subscriber's apply worker: their sessions stay open, and the backlog waits on the
//! master.

use std::time::{Duration, Instant};

use pyreplica_tests::agent::Agent;
use pyreplica_tests::cluster::{send_signal, Cluster};
use pyreplica_tests::db::{Db, Session};

/// Settings of master and slaves alike.
pub const SERVER: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "8GB"),
    ("wal_level", "logical"),
    ("wal_writer_delay", "200ms"),
    ("autovacuum", "off"),
];

pub struct Consumer {
    pub name: &'static str,
    pub slave: Db,
    pid: u32,
    _agent: Option<Agent>,
}

impl Consumer {
    /// A new server with an agent of its own, whose first copy is under way.
    pub fn ours(name: &'static str, master: &Db, schema: &str, slave_lines: &str) -> Consumer {
        let slave = server_for(name, schema);
        let mut agent = Agent::new(&format!(
            "[master]\ndsn = \"{}\"\n[agent]\nname = \"{name}\"\n[[slave]]\nname = \"{name}\"\ndsn = \"{}\"\n{slave_lines}",
            master.dsn(),
            slave.dsn()
        ));
        agent.start();
        Consumer { name, slave, pid: agent.pid(), _agent: Some(agent) }
    }

    /// A new server that subscribes to publication `bench`.
    pub fn native(master: &Db, schema: &str) -> Consumer {
        let slave = server_for("native", schema);
        let dsn = master.dsn().replace('\'', "''");
        slave.run(&format!("create subscription bench connection '{dsn}' publication bench"));
        wait(
            &mut slave.session(),
            "select bool_and(srsubstate = 'r') from pg_subscription_rel",
            Duration::from_secs(120),
        );
        let worker =
            slave.value("select pid from pg_stat_subscription where subname = 'bench' and relid is null");
        let pid = worker.parse().expect("the apply worker");
        Consumer { name: "native", slave, pid, _agent: None }
    }

    pub fn stand_still(&self) {
        send_signal(self.pid, "STOP");
    }

    pub fn go_on(&self) {
        send_signal(self.pid, "CONT");
    }
}

fn server_for(name: &str, schema: &str) -> Db {
    let db = Cluster::start(name, SERVER).create_db("bench", "");
    db.run(schema);
    db
}

/// Looks every millisecond.
pub fn wait(session: &mut Session, condition: &str, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    while session.rows(condition) != ["t"] {
        assert!(Instant::now() < deadline, "waited {at_most:?} in vain for {condition}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
