//! Nodes that are masters and slaves of each other, with an agent for each arrow between two.
//!
//! Arrows are written as `a>b`, both ways as `a<>b`. A node is called by its letter, an agent by its master, and the
//! slave in its agent.toml by the node that it is. The agents run only when a test starts them.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::agent::Agent;
use crate::check;
use crate::db::Db;
use crate::trio::{lacks, shared_servers};
use crate::wait::{wait_for, wait_within, DEADLINE};

pub struct Nodes {
    /// Their agents end before the databases do.
    pub arrows: Vec<Arrow>,
    nodes: Vec<(char, Db)>,
}

pub struct Arrow {
    pub from: char,
    pub to: char,
    pub agent: Agent,
    /// For further lines of section [[slave]], and another role on the slave.
    initial: &'static str,
    slave_lines: String,
    user: &'static str,
}

impl Nodes {
    /// `schema` is run on each node, where all tables of public are then captured. What is there is taken to be equal.
    pub fn new(arrows: &str, schema: &str) -> Nodes {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut letters: Vec<char> = arrows.chars().filter(char::is_ascii_lowercase).collect();
        letters.sort_unstable();
        letters.dedup();
        let servers = shared_servers();
        let node = |(n, letter): (usize, &char)| {
            let db = servers[n % servers.len()].create_db(&format!("node{count}{letter}"), "").temporary();
            db.run("create extension pyreplica");
            db.run(schema);
            let refused = db.rows("select * from pyreplica.add_all_tables('public') where not added");
            assert!(refused.is_empty(), "not all tables could be added: {refused:?}");
            (*letter, db)
        };
        Nodes::of(letters.iter().enumerate().map(node).collect(), arrows)
    }

    /// Databases that are nodes already.
    pub fn of(dbs: Vec<(char, Db)>, arrows: &str) -> Nodes {
        let mut nodes = Nodes { nodes: dbs, arrows: Vec::new() };
        for (letter, db) in &nodes.nodes {
            db.run(&format!("update pyreplica.node set name = '{letter}'"));
        }
        for text in arrows.split(' ') {
            let letters: Vec<char> = text.chars().filter(char::is_ascii_lowercase).collect();
            let [from, to] = letters[..] else { panic!("no arrow between two nodes: {text}") };
            nodes.arrows.push(Arrow::new(from, to));
            if text.contains('<') {
                nodes.arrows.push(Arrow::new(to, from));
            }
        }
        nodes.configure();
        nodes
    }

    /// The nodes that forward.
    pub fn forwarding(self, letters: &str) -> Self {
        letters.chars().for_each(|letter| self.db(letter).run("select pyreplica.forward()"));
        self
    }

    /// How the slave at the end of an arrow begins.
    pub fn initial(mut self, from: char, to: char, initial: &'static str) -> Self {
        self.arrow(from, to).initial = initial;
        self.configure();
        self
    }

    /// A further line of the [[slave]] at the end of an arrow.
    pub fn slave_line(mut self, from: char, to: char, line: &str) -> Self {
        self.arrow(from, to).slave_lines.push_str(&format!("{line}\n"));
        self.configure();
        self
    }

    /// All agents write as this role.
    pub fn as_role(mut self, role: &'static str) -> Self {
        self.arrows.iter_mut().for_each(|arrow| arrow.user = role);
        self.configure();
        self
    }

    pub fn db(&self, letter: char) -> &Db {
        &self.nodes.iter().find(|(name, _)| *name == letter).expect("a node").1
    }

    pub fn dbs(&self) -> impl Iterator<Item = &Db> {
        self.nodes.iter().map(|(_, db)| db)
    }

    pub fn arrow(&mut self, from: char, to: char) -> &mut Arrow {
        self.arrows.iter_mut().find(|arrow| (arrow.from, arrow.to) == (from, to)).expect("an arrow")
    }

    pub fn config(&self, arrow: &Arrow) -> String {
        let (master, slave) = (self.db(arrow.from), self.db(arrow.to));
        let slave_dsn = slave.dsn().replace("user=postgres", &format!("user={}", arrow.user));
        format!(
            "[master]\ndsn = \"{}\"\n\n[agent]\nname = \"{}\"\ntimer_seconds = 1\n\n\
             [[slave]]\nname = \"{}\"\ndsn = \"{slave_dsn}\"\ninitial = \"{}\"\n{}",
            master.dsn(),
            master.name,
            slave.name,
            arrow.initial,
            arrow.slave_lines
        )
    }

    fn configure(&self) {
        self.arrows.iter().for_each(|arrow| arrow.agent.configure(&self.config(arrow)));
    }

    pub fn start(&mut self) {
        self.arrows.iter_mut().for_each(|arrow| arrow.agent.start());
    }

    /// Waits until every change has gone everywhere; without running agents it lets each arrow run `once` in turn.
    #[track_caller]
    pub fn settle(&mut self) {
        let ids = |nodes: &Nodes| -> Vec<String> {
            nodes.dbs().map(|db| db.value("select last_value from pyreplica.log_id")).collect()
        };
        let mut missing = None;
        let settled = wait_within(2 * DEADLINE, || {
            let before = ids(self);
            for arrow in &mut self.arrows {
                if !arrow.agent.is_running() {
                    arrow.agent.run(&["once"]).expect_code(0);
                }
            }
            missing = self.arrows.iter().find_map(|arrow| self.lacks(arrow));
            (missing.is_none() && ids(self) == before).then_some(())
        });
        assert!(settled.is_some(), "the nodes do not settle: {missing:?}");
    }

    fn lacks(&self, arrow: &Arrow) -> Option<String> {
        let (master, slave) = (self.db(arrow.from), self.db(arrow.to));
        let needed = master.value("select pg_current_snapshot()");
        let lacks = lacks(master, slave, &master.name, &slave.name, &needed)?;
        Some(format!("{} lacks of {}: {lacks}", arrow.to, arrow.from))
    }

    /// Waits until a query gives this on a node.
    #[track_caller]
    pub fn wait_for_value(&self, letter: char, sql: &str, expected: &str) {
        let what = format!("{expected:?} from {sql} on {letter}");
        wait_for(&what, || (self.db(letter).value(sql) == expected).then_some(()));
    }

    /// Asserts that a table is the same everywhere; gives its rows.
    #[track_caller]
    pub fn assert_same(&self, table: &str) -> u64 {
        let first = &self.nodes[0].1;
        let compared = self.dbs().skip(1).map(|db| check::compare(first, db, table));
        compared.map(|rows| rows.unwrap_or_else(|difference| panic!("{difference}"))).max().expect("nodes")
    }

    /// Conflicts that a node has recorded, as `name relation key`.
    pub fn conflicts(&self, letter: char) -> Vec<String> {
        self.db(letter).rows(
            "select conflict || ' ' || relation || ' ' || key from pyreplica_agent.conflict order by id",
        )
    }

    /// Asserts that nobody met anything that he did not expect.
    #[track_caller]
    pub fn assert_no_conflicts(&self) {
        for arrow in &self.arrows {
            assert_eq!(self.conflicts(arrow.to), [""; 0], "conflicts of {}", arrow.to);
        }
    }
}

impl Arrow {
    fn new(from: char, to: char) -> Arrow {
        let agent = Agent::new("");
        Arrow { from, to, agent, initial: "current", slave_lines: String::new(), user: "postgres" }
    }
}
