//! Slaves that take in what a master writes: ours, a native subscription, `rivals`; each can be made to stand still.
//!
//! SIGSTOP to the agent, to the subscriber's apply worker, to the daemon of the slave: their sessions stay open, and the backlog waits on the
//! master.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pyreplica_tests::agent::Agent;
use pyreplica_tests::cluster::{run, Cluster};
use pyreplica_tests::db::{Db, Session};
use pyreplica_tests::proxy::Proxy;

use crate::rivals::Daemon;

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
    held: Held,
    _agent: Option<Agent>,
    _ways: [Option<Proxy>; 2],
    _daemons: Vec<Daemon>,
}

/// What stands still.
#[derive(Clone, Copy)]
pub enum Held {
    Process(u32),
    /// With all its processes.
    Group(u32),
}

/// How far the agent is from the master, and from the slave.
pub type Distances = [Duration; 2];

impl Consumer {
    /// A new server with an agent of its own, whose first copy is under way.
    pub fn ours(name: &'static str, master: &Db, schema: &str, slave_lines: &str) -> Consumer {
        Self::far(name, master, schema, slave_lines, Distances::default())
    }

    /// The same at a distance.
    pub fn far(
        name: &'static str,
        master: &Db,
        schema: &str,
        slave_lines: &str,
        [to_master, to_slave]: Distances,
    ) -> Consumer {
        Self::of_program(None, name, master, schema, slave_lines, [to_master, to_slave])
    }

    /// One more whose agent is the program that `PYREPLICA_OTHER_AGENT` names, if it does: to compare two agents.
    pub fn other(master: &Db, schema: &str, slave_lines: &str) -> Option<Consumer> {
        let program = PathBuf::from(std::env::var_os("PYREPLICA_OTHER_AGENT")?);
        let near = Distances::default();
        Some(Self::of_program(Some(program), "other", master, schema, slave_lines, near))
    }

    fn of_program(
        program: Option<PathBuf>,
        name: &'static str,
        master: &Db,
        schema: &str,
        slave_lines: &str,
        [to_master, to_slave]: Distances,
    ) -> Consumer {
        let slave = server_for(name, schema);
        let way =
            |db: &Db, distance: Duration| (!distance.is_zero()).then(|| Proxy::start(&db.server, distance));
        let ways = [way(master, to_master), way(&slave, to_slave)];
        let dsn =
            |way: &Option<Proxy>, db: &Db| way.as_ref().map_or_else(|| db.dsn(), |way| way.dsn(&db.name));
        let mut agent = Agent::new(&format!(
            "[master]\ndsn = \"{}\"\n[agent]\nname = \"{name}\"\n[[slave]]\nname = \"{name}\"\ndsn = \"{}\"\n{slave_lines}",
            dsn(&ways[0], master),
            dsn(&ways[1], &slave)
        ));
        program.into_iter().for_each(|program| agent.is_program(program));
        agent.start();
        let mut consumer = Consumer::new(name, slave, Held::Process(agent.pid()));
        (consumer._agent, consumer._ways) = (Some(agent), ways);
        consumer
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
        Consumer::new("native", slave, Held::Process(worker.parse().expect("the apply worker")))
    }

    pub fn new(name: &'static str, slave: Db, held: Held) -> Consumer {
        Consumer { name, slave, held, _agent: None, _ways: [None, None], _daemons: Vec::new() }
    }

    /// Keeps what ends with it.
    pub fn with(mut self, daemons: Vec<Daemon>) -> Consumer {
        self._daemons = daemons;
        self
    }

    pub fn stand_still(&self) {
        self.held.signal("STOP");
    }

    pub fn go_on(&self) {
        self.held.signal("CONT");
    }
}

impl Held {
    pub fn signal(self, signal: &str) {
        let whom = match self {
            Held::Process(pid) => pid.to_string(),
            Held::Group(pid) => format!("-{pid}"),
        };
        run(Command::new("sh").args(["-c", "kill -\"$1\" \"$2\"", "kill", signal, &whom]));
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
