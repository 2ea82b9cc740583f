//! A master, its slaves and an agent between them: what nearly every test needs.
//!
//! Tests share three servers and get a database of their own on each; `Setup::own_servers` gives a test that stops
//! or crashes servers its own. The agent runs only when a test starts it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::agent::{Agent, Finished};
use crate::check;
use crate::cluster::Cluster;
use crate::db::Db;
use crate::proxy::Proxy;
use crate::wait;

pub struct Trio {
    /// Ends before the databases do.
    pub agent: Agent,
    pub master: Db,
    pub slaves: Vec<Db>,
    /// Name of the agent; its slaves are slave1, slave2 ...
    pub agent_name: String,
    /// To the master and to each slave, where they are far.
    pub proxies: Vec<Option<Proxy>>,
    setup: Setup,
}

/// How a trio is to be; the default is two slaves of independent commit, copied, on shared servers.
#[derive(Clone)]
pub struct Setup {
    schema: String,
    slave_schema: Option<String>,
    encoding: String,
    slaves: usize,
    own_servers: bool,
    master_settings: Vec<(&'static str, &'static str)>,
    pub atomic: bool,
    pub two_phase: bool,
    pub initial: &'static str,
    pub schema_from_master: bool,
    timer_seconds: &'static str,
    /// From the agent to the master, and to the slaves.
    distances: [Duration; 2],
    /// Further lines of section [agent].
    pub agent_lines: String,
    /// Further lines of each [[slave]].
    slave_lines: String,
}

impl Setup {
    /// `schema` is run on the master, where all tables of public are then captured, and on the slaves.
    pub fn new(schema: &str) -> Self {
        Self {
            schema: schema.to_owned(),
            slave_schema: None,
            encoding: String::new(),
            slaves: 2,
            own_servers: false,
            master_settings: Vec::new(),
            atomic: false,
            two_phase: true,
            initial: "copy",
            schema_from_master: false,
            timer_seconds: "1",
            distances: [Duration::ZERO; 2],
            agent_lines: String::new(),
            slave_lines: String::new(),
        }
    }

    /// Another schema on the slaves.
    pub fn slave_schema(mut self, schema: &str) -> Self {
        self.slave_schema = Some(schema.to_owned());
        self
    }

    /// Options of CREATE DATABASE on the master.
    pub fn master_encoding(mut self, options: &str) -> Self {
        self.encoding = options.to_owned();
        self
    }

    pub fn slaves(mut self, count: usize) -> Self {
        self.slaves = count;
        self
    }

    pub fn own_servers(mut self) -> Self {
        self.own_servers = true;
        self
    }

    /// A setting of the master; gives it servers of its own.
    pub fn master_setting(mut self, name: &'static str, value: &'static str) -> Self {
        self.master_settings.push((name, value));
        self.own_servers()
    }

    pub fn atomic(mut self) -> Self {
        self.atomic = true;
        self
    }

    pub fn one_phase(mut self) -> Self {
        self.two_phase = false;
        self
    }

    pub fn initial(mut self, initial: &'static str) -> Self {
        self.initial = initial;
        self
    }

    /// The agent makes the tables of the slaves.
    pub fn schema(mut self) -> Self {
        self.schema_from_master = true;
        self
    }

    pub fn timer_seconds(mut self, seconds: &'static str) -> Self {
        self.timer_seconds = seconds;
        self
    }

    /// The slaves are so far from the agent: a round trip takes twice as long.
    pub fn far_slaves(mut self, distance: Duration) -> Self {
        self.distances[1] = distance;
        self
    }

    pub fn far_master(mut self, distance: Duration) -> Self {
        self.distances[0] = distance;
        self
    }

    pub fn agent_line(mut self, line: &str) -> Self {
        self.agent_lines.push_str(line);
        self.agent_lines.push('\n');
        self
    }

    pub fn slave_line(mut self, line: &str) -> Self {
        self.slave_lines.push_str(line);
        self.slave_lines.push('\n');
        self
    }

    /// Databases, schema, extension, captured tables, agent.toml. The agent does not run yet.
    pub fn build(self) -> Trio {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut servers = if self.own_servers { servers(&self.master_settings) } else { shared_servers() };
        let create = |server: &Arc<Cluster>, name: &str, options: &str| {
            let db = server.create_db(name, options);
            if self.own_servers {
                db
            } else {
                db.temporary()
            }
        };
        let master = create(&servers.remove(0), &name, &self.encoding);
        let slave_schema = self.slave_schema.as_ref().unwrap_or(&self.schema);
        // With more slaves than servers, some share one.
        let slaves: Vec<Db> = (0..self.slaves)
            .map(|i| {
                let db = create(&servers[i % servers.len()], &format!("{name}_{}", i + 1), "");
                db.run(slave_schema);
                db
            })
            .collect();
        master.run("create extension pyreplica");
        master.run(&self.schema);
        let refused = master.rows("select * from pyreplica.add_all_tables('public') where not added");
        assert!(refused.is_empty(), "not all tables could be added: {refused:?}");
        self.of(master, slaves)
    }

    /// A trio of databases that are there already.
    pub fn of(self, master: Db, slaves: Vec<Db>) -> Trio {
        let agent_name = master.name.clone();
        let [to_master, to_slaves] = self.distances;
        let proxies = std::iter::once((&master, to_master))
            .chain(slaves.iter().map(|slave| (slave, to_slaves)))
            .map(|(db, distance)| (!distance.is_zero()).then(|| Proxy::start(&db.server, distance)))
            .collect();
        let trio = Trio { agent: Agent::new(""), master, slaves, agent_name, proxies, setup: self };
        trio.configure();
        trio
    }

    /// A trio as `build` makes it, with the agent running and the slaves in step.
    pub fn start(self) -> Trio {
        let mut trio = self.build();
        trio.agent.start();
        trio.catch_up();
        trio
    }
}

impl Trio {
    /// Two slaves with the defaults, the agent running and all in step.
    pub fn start(schema: &str) -> Self {
        Setup::new(schema).start()
    }

    /// The agent.toml of this trio.
    pub fn config(&self) -> String {
        let mut text = format!(
            "[master]\ndsn = \"{}\"\n\n[agent]\nname = \"{}\"\ncommit = \"{}\"\ntimer_seconds = {}\n{}",
            self.way_to(0, &self.master),
            self.agent_name,
            if self.setup.atomic { "atomic" } else { "independent" },
            self.setup.timer_seconds,
            self.setup.agent_lines
        );
        for (i, slave) in self.slaves.iter().enumerate() {
            text.push_str(&format!(
                "\n[[slave]]\nname = \"slave{}\"\ndsn = \"{}\"\ninitial = \"{}\"\nschema = {}\ntwo_phase = {}\n{}",
                i + 1,
                self.way_to(i + 1, slave),
                self.setup.initial,
                self.setup.schema_from_master,
                self.setup.two_phase,
                self.setup.slave_lines
            ));
        }
        text
    }

    /// The dsn by which the agent reaches the master (0) or a slave.
    fn way_to(&self, number: usize, db: &Db) -> String {
        self.proxies[number].as_ref().map_or_else(|| db.dsn(), |proxy| proxy.dsn(&db.name))
    }

    /// Writes agent.toml.
    pub fn configure(&self) {
        self.agent.configure(&self.config());
    }

    pub fn once(&self) -> Finished {
        self.agent.run(&["once"])
    }

    /// Brings all slaves to what the master has now: waits for a running agent, else runs `once`.
    #[track_caller]
    pub fn catch_up(&mut self) {
        if self.agent.is_running() {
            for i in 0..self.slaves.len() {
                self.wait_for_slave(i);
            }
        } else {
            self.once().expect_code(0);
        }
    }

    /// Waits until a slave has everything that is committed on the master now.
    #[track_caller]
    pub fn wait_for_slave(&mut self, slave: usize) {
        let needed = self.snapshot();
        let mut lacks = None;
        let caught_up = wait::wait_within(wait::DEADLINE, || {
            lacks = self.slave_lacks(slave, &needed);
            assert!(
                lacks.is_none() || self.agent.is_running(),
                "the agent ended while slave{} lacks {lacks:?}",
                slave + 1
            );
            lacks.is_none().then_some(())
        });
        if caught_up.is_none() {
            panic!(
                "slave{} does not catch up, it lacks {lacks:?}\nslave_status: {:#?}",
                slave + 1,
                self.master.rows("select * from pyreplica.slave_status")
            );
        }
    }

    /// Whether a slave has everything that is committed on the master now.
    pub fn is_in_step(&self, slave: usize) -> bool {
        self.slave_lacks(slave, &self.snapshot()).is_none()
    }

    /// Asserts that a table is the same everywhere.
    #[track_caller]
    pub fn assert_same_rows(&self, table: &str) {
        for slave in &self.slaves {
            if let Err(difference) = check::compare(&self.master, slave, table) {
                panic!("{difference}");
            }
        }
    }

    /// Asserts it of all captured tables.
    #[track_caller]
    pub fn assert_same(&self) {
        for table in self.master.rows("select relation from pyreplica.replicated_table order by 1") {
            self.assert_same_rows(&table);
        }
    }

    #[track_caller]
    pub fn catch_up_and_compare(&mut self) {
        self.catch_up();
        self.assert_same();
    }

    /// No prepared transaction of this trio is left anywhere.
    pub fn assert_nothing_prepared(&self) {
        for db in std::iter::once(&self.master).chain(&self.slaves) {
            let left = db.rows("select gid from pg_prepared_xacts where database = current_database()");
            assert!(left.is_empty(), "{} still has prepared transactions: {left:?}", db.server.name);
        }
    }

    /// Conflicts that a slave has recorded, as `name relation key`.
    pub fn conflicts(&self, slave: usize) -> Vec<String> {
        self.slaves[slave].rows("select conflict, relation, key from pyreplica_agent.conflict order by id")
    }

    /// What is committed on the master now.
    fn snapshot(&self) -> String {
        self.master.value("select pg_current_snapshot()")
    }

    fn slave_lacks(&self, slave: usize, needed: &str) -> Option<String> {
        let name = format!("slave{}", slave + 1);
        lacks(&self.master, &self.slaves[slave], &self.agent_name, &name, needed)
    }
}

/// What a slave's own position says it has not got yet of what the master's snapshot `needed` sees.
pub fn lacks(master: &Db, slave: &Db, agent: &str, name: &str, needed: &str) -> Option<String> {
    let (mut there, mut here) = (slave.session(), master.session());
    if there.rows("select to_regclass('pyreplica_agent.copied_table') is null") == ["t"] {
        return Some("a position".to_owned());
    }
    let of_slave = format!("agent = '{}' and slave = '{name}'", agent.replace('\'', "''"));
    let copied = there.rows(&format!(
        "select schema_name || '.' || table_name from pyreplica_agent.copied_table where {of_slave}"
    ));
    let tables = here.rows("select schema_name || '.' || table_name from pyreplica.replicated_table");
    if let Some(table) = tables.iter().find(|t| !copied.contains(t)) {
        return Some(format!("table {table}"));
    }
    let position = there.rows(&format!(
        "select format('%s, %L::pg_snapshot', rank, snapshot) from pyreplica_agent.position where {of_slave}"
    ));
    let [position] = position.as_slice() else { return Some("a position".to_owned()) };
    let missing = here.rows(&format!(
        "select l.id || ' of xid ' || l.xid from pyreplica.log l, (values ({position})) p (rank, snapshot)
          where final and pg_visible_in_snapshot(xid, '{needed}')
            and (id > rank or not pg_visible_in_snapshot(xid, p.snapshot))
          limit 5"
    ));
    (!missing.is_empty()).then(|| format!("the transactions of rank {missing:?}"))
}

/// Servers that all tests of the process share: a master and two for slaves.
pub fn shared_servers() -> Vec<Arc<Cluster>> {
    static SHARED: OnceLock<Vec<Arc<Cluster>>> = OnceLock::new();
    SHARED.get_or_init(|| servers(&[])).clone()
}

/// The same, new ones.
fn servers(master_settings: &[(&str, &str)]) -> Vec<Arc<Cluster>> {
    vec![
        Cluster::start("master", master_settings),
        Cluster::start("slave1", &[]),
        Cluster::start("slave2", &[]),
    ]
}
