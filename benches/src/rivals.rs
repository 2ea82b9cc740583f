//! Other replicators that take in what a master writes, as Debian packages them and as their own manuals set them up.
//!
//! In: a master and the schema that a new server gets. Out: a consumer that is in step. Where the packages are missing,
//! the words that install them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use pyreplica_tests::cluster::{run, Cluster};
use pyreplica_tests::db::Db;
use pyreplica_tests::keeper;

use crate::consumer::{wait, Consumer, Held, SERVER};

/// What is left out where it is not installed.
pub const INSTALL: &str =
    "\"make bench-peers\" installs it (postgresql-15-pglogical, slony1-2-bin and postgresql-15-slony1-2)";

const COPY_WITHIN: Duration = Duration::from_secs(600);

pub fn has_pglogical() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
        let share = run(Command::new(pg_config).arg("--sharedir"));
        Path::new(share.trim()).join("extension/pglogical.control").exists()
    })
}

pub fn has_slony() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
    has("slon") && has("slonik")
}

/// The settings of a server that pglogical may work on.
pub fn settings() -> Vec<(&'static str, &'static str)> {
    let preload = has_pglogical().then_some(("shared_preload_libraries", "pglogical"));
    SERVER.iter().copied().chain(preload).chain([("max_worker_processes", "20")]).collect()
}

/// Its conflict resolution and the commits of its subscriber are as they come: `apply_remote`, asynchronous.
pub fn pglogical(master: &Db, schema: &str) -> Consumer {
    let slave = Cluster::start("pglogical", &settings()).create_db("bench", "");
    slave.run(schema);
    // Later minor versions of PostgreSQL ask for it.
    if master.value("select count(*) from pg_settings where name = 'output_plugin_libraries'") == "1" {
        master.run("alter system set output_plugin_libraries = pgoutput, test_decoding, pglogical_output");
        master.run("select pg_reload_conf()");
    }
    let quoted = |db: &Db| db.dsn().replace('\'', "''");
    master.run(&format!(
        "create extension pglogical; select pglogical.create_node('master', '{}');
         select pglogical.replication_set_add_all_tables('default', array['public'])",
        quoted(master)
    ));
    slave.run(&format!(
        "create extension pglogical; select pglogical.create_node('slave', '{}')",
        quoted(&slave)
    ));
    slave.run(&format!(
        "select pglogical.create_subscription('bench', '{}', synchronize_structure := false, synchronize_data := true)",
        quoted(master)
    ));
    let in_step =
        "select coalesce(bool_and(status = 'replicating'), false) from pglogical.show_subscription_status()";
    wait(&mut slave.session(), in_step, COPY_WITHIN);
    let worker = slave.value("select pid from pg_stat_activity where backend_type like 'pglogical apply%'");
    Consumer::new("pglogical", slave, Held::Process(worker.parse().expect("the apply worker")))
}

/// Needs a master of its own: what its trigger writes to the log, the others' servers would have to decode.
/// SYNC every 100 ms and at most 100 of them at once, which drains a backlog faster than its defaults.
pub fn slony(master: &Db, tables: &[&str], schema: &str) -> Consumer {
    let slave = Cluster::start("slony", SERVER).create_db("bench", "");
    slave.run(schema);
    let nodes = [conninfo(master), conninfo(&slave)];
    let head = format!(
        "cluster name = bench;\nnode 1 admin conninfo = '{}';\nnode 2 admin conninfo = '{}';\n",
        nodes[0], nodes[1]
    );
    let mut script =
        "init cluster (id = 1, comment = 'master');\ncreate set (id = 1, origin = 1, comment = 'all');\n"
            .to_owned();
    for (i, table) in tables.iter().enumerate() {
        script += &format!(
            "set add table (set id = 1, origin = 1, id = {}, fully qualified name = 'public.{table}');\n",
            i + 1
        );
    }
    script += &format!(
        "store node (id = 2, comment = 'slave', event node = 1);\n\
         store path (server = 1, client = 2, conninfo = '{}');\nstore path (server = 2, client = 1, conninfo = '{}');\n",
        nodes[0], nodes[1]
    );
    slonik(&format!("{head}{script}"));
    let daemons = nodes.each_ref().map(|node| slon(node));
    slonik(&format!("{head}subscribe set (id = 1, provider = 1, receiver = 2, forward = no);\n"));
    let active = "select coalesce(bool_and(sub_active), false) from _bench.sl_subscribe";
    wait(&mut slave.session(), active, COPY_WITHIN);
    let held = Held::Group(daemons[1].0.id());
    Consumer::new("slony", slave, held).with(daemons.into())
}

fn slonik(script: &str) {
    let path = keeper::subdir("slonik").join("script");
    std::fs::write(&path, script).expect("slonik script");
    run(Command::new("slonik").arg(path));
}

/// A process group that ends with what it is for, or with this process.
pub struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        Held::Group(self.0.id()).signal("KILL");
        self.0.wait().expect("a daemon is our child");
    }
}

/// The daemon of a node, which forks.
fn slon(conninfo: &str) -> Daemon {
    let dir = keeper::subdir("slon");
    let log = std::fs::File::create(dir.join("log")).expect("log of slon");
    let mut command = Command::new("slon");
    command.args(["-s", "100", "-g", "100", "bench", conninfo]).current_dir(&dir).process_group(0);
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log of slon"))
        .stderr(log)
        .spawn()
        .expect("slon");
    std::fs::write(dir.join("agent.pid"), format!("-{}", child.id())).expect("pid file");
    Daemon(child)
}

fn conninfo(db: &Db) -> String {
    let host = db.rows("show unix_socket_directories").join("");
    format!("host={host} port={} user=postgres dbname={}", db.server.port, db.name)
}
