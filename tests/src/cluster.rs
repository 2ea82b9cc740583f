//! A throw-away PostgreSQL server: initdb, start, stop, crash, its log.
//!
//! In: the binaries that PG_CONFIG names, or SLAVE_BINDIR for slaves; settings. Out: a server on a unix socket and a loopback port.
//! It runs as the user PYREPLICA_RUN_AS (default postgres) when we are root, because it refuses root; otherwise as
//! ourselves. Unix sockets are trusted; TCP asks for a password. Dropped, or left by a process that died (see
//! `keeper`), it stops at once and its files are removed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use crate::db::Db;
use crate::keeper;
use crate::wait;

/// Settings of every server; those of `start` come after them.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "off"), // a crash of the server loses nothing all the same, only one of the machine
    ("max_connections", "200"), // tests share servers
    ("max_prepared_transactions", "100"),
    ("shared_buffers", "32MB"),
    ("max_wal_size", "128MB"), // a machine of CI has little disk
    ("log_line_prefix", "%m [%p] %d %a "),
    ("log_min_messages", "warning"),
    ("wal_writer_delay", "10s"), // what is committed asynchronously stays in memory until somebody flushes it
    ("timezone", "UTC"),
    ("lc_messages", "C"),
];

pub struct Cluster {
    pub name: String,
    pub port: u16,
    dir: PathBuf,
    settings: Vec<(String, String)>,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// A new running server. `settings` are configuration parameters besides the usual ones.
    pub fn start(name: &str, settings: &[(&str, &str)]) -> Arc<Self> {
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let cluster = Self::new(name, settings);
        run(cluster.command("initdb").arg("-D").arg(cluster.data()).args([
            "--no-sync",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
        ]));
        cluster.boot();
        Arc::new(cluster)
    }

    /// A hot standby of a running server, which streams its WAL; with the same settings.
    pub fn standby(&self) -> Arc<Self> {
        let standby = Self::new(&format!("{}-standby", self.name), self.settings.clone());
        let primary = format!("host={} port={} user=postgres", self.dir.display(), self.port);
        let mut backup = standby.command("pg_basebackup");
        run(backup
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-d", &primary, "-D"])
            .arg(standby.data()));
        standby.boot();
        Arc::new(standby)
    }

    /// A place for a server.
    fn new(name: &str, settings: Vec<(String, String)>) -> Self {
        let cluster = Self {
            name: name.to_owned(),
            port: free_port(),
            settings,
            server: Mutex::new(None),
            dir: keeper::subdir(name),
        };
        if let Some(user) = run_as() {
            run(Command::new("chown").arg(user).arg(&cluster.dir));
        }
        cluster
    }

    /// Stops in order (fast mode), as `pg_ctl stop` does.
    pub fn stop(&self) {
        self.end("INT");
    }

    /// Stops at once (immediate mode): what was not flushed is lost, the next start recovers.
    pub fn crash(&self) {
        self.end("QUIT");
    }

    /// Starts a stopped server again, on the same port.
    pub fn boot(&self) {
        let mut server = self.server.lock().expect("server");
        assert!(server.is_none(), "server {} is running", self.name);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("server log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.dir);
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        for (key, value) in SETTINGS {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        for (key, value) in &self.settings {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        // A process group of its own: Ctrl-C is for us; the keeper ends the server.
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("server log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("could not start postgres");
        fs::write(self.pid_path(), child.id().to_string()).expect("pid file");
        let child = server.insert(child);
        wait::wait_within(wait::DEADLINE, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("server {} ended with {status}:\n{}", self.name, self.log_tail());
            }
            self.config("postgres").connect(postgres::NoTls).ok()
        })
        .unwrap_or_else(|| panic!("server {} did not start:\n{}", self.name, self.log_tail()));
    }

    /// Stops and starts.
    pub fn restart(&self) {
        self.stop();
        self.boot();
    }

    /// The database of that name.
    pub fn db(self: &Arc<Self>, name: &str) -> Db {
        Db::new(self.clone(), name)
    }

    /// Makes an empty database. `options` go behind CREATE DATABASE.
    pub fn create_db(self: &Arc<Self>, name: &str, options: &str) -> Db {
        self.db("postgres").run(&format!("create database \"{name}\" template template0 {options}"));
        self.db(name)
    }

    /// How to reach a database as its superuser, through the socket.
    pub fn config(&self, database: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(&self.dir).port(self.port).user("postgres").dbname(database);
        config
    }

    /// The same as a connection string.
    pub fn dsn(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname='{database}'", self.dir.display(), self.port)
    }

    /// The socket of the server.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// A client program of the same PostgreSQL (pg_dump, pgbench, psql), with the environment to reach the server.
    pub fn client_program(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(bindir().join(program));
        command
            .env("PGHOST", &self.dir)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database);
        command
    }

    /// The first process of the running server.
    pub fn pid(&self) -> u32 {
        self.server.lock().expect("server").as_ref().expect("the server runs").id()
    }

    /// All the server has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of it.
    pub fn log_tail(&self) -> String {
        tail(&self.log(), 20)
    }

    /// A backend without a server (`postgres --single`) on a data directory of the stopped server or a copy of it;
    /// `wrapper` is the program, with arguments, that is to run it.
    pub fn single_backend(&self, wrapper: &[String], data: &Path, database: &str) -> Command {
        let mut command = self.wrapped_command(wrapper, "postgres");
        command.args(["--single", "-F", "-D"]).arg(data).arg(database);
        command
    }

    /// Where the programs of this server are. Slaves may be of another major version than the masters.
    fn bindir(&self) -> PathBuf {
        let other = std::env::var_os("SLAVE_BINDIR").filter(|dir| !dir.is_empty());
        match other {
            Some(dir) if self.name.starts_with("slave") => dir.into(),
            _ => bindir().to_owned(),
        }
    }

    fn end(&self, signal: &str) {
        let Some(mut child) = self.server.lock().expect("server").take() else { return };
        send_signal(child.id(), signal);
        child.wait().expect("server is our child");
        fs::remove_file(self.pid_path()).expect("pid file");
    }

    fn command(&self, program: &str) -> Command {
        self.wrapped_command(&[], program)
    }

    fn wrapped_command(&self, wrapper: &[String], program: &str) -> Command {
        // setpriv replaces itself by the program, so that the pid is the server's.
        let mut words: Vec<OsString> = match run_as() {
            Some(user) => {
                let user = [format!("--reuid={user}"), format!("--regid={user}")];
                ["setpriv", &user[0], &user[1], "--init-groups"].map(OsString::from).to_vec()
            }
            None => Vec::new(),
        };
        words.extend(wrapper.iter().map(OsString::from));
        words.push(self.bindir().join(program).into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        // The environment of whoever runs the tests must not reach into the server.
        for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("PG")) {
            command.env_remove(key);
        }
        command.current_dir("/");
        command
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn pid_path(&self) -> PathBuf {
        self.dir.join("postmaster.pid")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- last lines of server {}:\n{}", self.name, self.log_tail());
        }
        self.end("QUIT");
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Sends a signal by its name: INT, QUIT, TERM, KILL.
pub fn send_signal(pid: u32, signal: &str) {
    // The shell's own kill: the program is not on every machine.
    run(Command::new("sh").args(["-c", "kill -\"$1\" \"$2\"", "kill", signal, &pid.to_string()]));
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a program that must succeed; gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("could not run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the programs of the server are.
fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| {
        let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
        PathBuf::from(run(Command::new(pg_config).arg("--bindir")).trim_end())
    })
}

/// The user to run servers as; none when we are an ordinary user ourselves.
fn run_as() -> Option<String> {
    let root = fs::metadata(OsStr::new("/proc/self")).expect("/proc/self").uid() == 0;
    root.then(|| std::env::var("PYREPLICA_RUN_AS").unwrap_or_else(|_| "postgres".to_owned()))
}

/// A port nobody listens on now. Another process may still take it before the server does; that is rare enough
/// for the server's own message to do.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a loopback port").port()
}
