//! The real agent as a process: its configuration file, start, signals, kill, exit status, log.
//!
//! The binary is the one PYREPLICA_AGENT names, else `replica_agent` beside the test's own build.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::cluster::{send_signal, tail};
use crate::keeper;
use crate::wait;

pub struct Agent {
    dir: PathBuf,
    /// What --config names: agent.toml or, with several replications, the directory of their files.
    config: PathBuf,
    program: PathBuf,
    process: Option<Child>,
}

/// What a command of the agent printed, and its exit status.
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// For assertions: all there is to see.
    pub fn text(&self) -> String {
        format!("exit {:?}\n{}{}", self.code, self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text());
        self
    }

    /// Asserts that one message says all of that.
    #[track_caller]
    pub fn expect_text(self, parts: &[&str]) -> Self {
        let text = self.text();
        for part in parts {
            assert!(text.contains(part), "no \"{part}\" in:\n{text}");
        }
        self
    }
}

impl Agent {
    /// An agent that is not running yet, with this agent.toml.
    pub fn new(config: &str) -> Self {
        let dir = keeper::subdir("agent");
        let agent = Self { config: dir.join("agent.toml"), dir, program: binary(), process: None };
        agent.configure(config);
        agent
    }

    /// An agent whose configuration is a directory of such files.
    pub fn of_directory(files: &[(&str, &str)]) -> Self {
        let dir = keeper::subdir("agent");
        let agent = Self { config: dir.join("conf.d"), dir, program: binary(), process: None };
        fs::create_dir(&agent.config).expect("own directory");
        for (name, text) in files {
            agent.write(name, text);
        }
        agent
    }

    /// From now on it is this program.
    pub fn is_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Writes a file of the directory.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.config.join(name), text).expect("own directory");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.config.join(name)).expect("a file that was written before");
    }

    /// Writes agent.toml anew.
    pub fn configure(&self, config: &str) {
        fs::write(self.config_path(), config).expect("agent.toml");
    }

    pub fn config_path(&self) -> PathBuf {
        self.config.clone()
    }

    /// A directory for whatever a test wants to lay beside it; removed with the agent.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends a signal to the running agent.
    pub fn signal(&self, name: &str) {
        send_signal(self.pid(), name);
    }

    /// Sends SIGHUP and waits until the configuration was read again.
    pub fn reload(&self) {
        let reads = || self.log().matches("SIGHUP: the configuration was read again").count();
        let before = reads();
        self.signal("HUP");
        wait::wait_for("the configuration to be read again", || (reads() > before).then_some(()));
    }

    /// Starts `run`.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts `run` so that it kills itself at a failpoint (`name` or `name:count`).
    pub fn start_to_die_at(&mut self, failpoint: &str) {
        self.start_with(&[("PYREPLICA_FAILPOINT", failpoint)]);
    }

    pub fn start_with(&mut self, environment: &[(&str, &str)]) {
        self.start_as(&["run"], environment);
    }

    /// Starts another command, which logs like `run`.
    pub fn start_as(&mut self, arguments: &[&str], environment: &[(&str, &str)]) {
        assert!(self.process.is_none(), "the agent is running");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("agent log");
        let child = self
            .command(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("agent log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("could not start {}: {e}", self.program.display()));
        fs::write(self.pid_path(), child.id().to_string()).expect("pid file");
        self.process = Some(child);
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.try_wait().expect("agent is our child").is_none())
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the agent was started").id()
    }

    /// The most that it has had in memory so far (VmHWM), in MiB.
    pub fn peak_mebibytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number").div_ceil(1024)
    }

    /// SIGTERM; gives the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        send_signal(self.pid(), "TERM");
        self.wait_exit()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("agent is our child");
            child.wait().expect("agent is our child");
            fs::remove_file(self.pid_path()).expect("pid file");
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("the agent was started");
        let ended = wait::wait_within(wait::DEADLINE, || child.try_wait().expect("agent is our child"));
        match ended {
            Some(status) => {
                fs::remove_file(self.pid_path()).expect("pid file");
                status
            }
            None => {
                self.process = Some(child);
                panic!("the agent did not end");
            }
        }
    }

    /// Runs one command to its end: `once`, `check`, `status` ...
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.run_with(arguments, &[])
    }

    pub fn run_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
        finish(self.command(arguments).envs(environment.iter().copied()))
    }

    /// Everything `run` has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn wait_for_log(&self, text: &str) {
        wait::wait_for(&format!("\"{text}\" in the agent's log"), || self.log().contains(text).then_some(()));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare_command(&self.program);
        command.arg("--config").arg(self.config_path()).args(arguments);
        command
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    fn pid_path(&self) -> PathBuf {
        self.dir.join("agent.pid")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- last lines of the agent:\n{}", tail(&self.log(), 40));
        }
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs the agent with these arguments only.
pub fn run_bare(arguments: &[&str]) -> Finished {
    finish(bare_command(&binary()).args(arguments))
}

fn bare_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("PG")) {
        command.env_remove(key);
    }
    command.env("PGPASSFILE", "/dev/null");
    command
}

fn finish(command: &mut Command) -> Finished {
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("could not run {command:?}: {e}"));
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Tests run as target/<profile>/deps/it-<hash>, the demo as target/<profile>/demo.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PYREPLICA_AGENT") {
        return path.into();
    }
    let own = std::env::current_exe().expect("path of this program");
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("replica_agent"))
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            panic!("no replica_agent beside {}: build it, or set PYREPLICA_AGENT", own.display())
        })
}
