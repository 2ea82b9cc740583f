//! Runs pg_dump and pg_restore.
//!
//! In: the master's connection, what to dump. Out: an archive, its table of contents, the SQL of chosen entries.
//! Passwords and all else about the connection go by the environment, where `ps` does not show them.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::dsn::Dsn;
use crate::error::{Error, Kind, Result};
use crate::wake::Stop;

pub(super) const PROGRAMS: [&str; 2] = ["pg_dump", "pg_restore"];

/// What the names of our directories begin with, and a file in each.
const PREFIX: &str = "replica_agent-schema-";
const IN_USE: &str = "in-use";

/// A directory that only we may read, removed in the end.
pub(super) struct Workshop<'a> {
    dir: PathBuf,
    stop: &'a Stop,
    /// Locked while we live.
    _in_use: File,
}

/// A line of an archive's table of contents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The catalog and the OID there of what it makes; zeros for what has none of its own.
    pub object: (u32, u32),
    pub line: String,
}

impl<'a> Workshop<'a> {
    pub fn open(stop: &'a Stop) -> Result<Workshop<'a>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        let failed = |e| {
            Error::new(Kind::Refused, format!("could not create directory \"{}\"", dir.display())).source(e)
        };
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        let in_use =
            File::create(dir.join(IN_USE)).and_then(|file| file.lock().map(|()| file)).map_err(failed)?;
        let workshop = Workshop { dir, stop, _in_use: in_use };
        workshop.remove_left_behind();
        Ok(workshop)
    }

    /// What a killed agent has left: nobody has it locked. What cannot be looked at belongs to somebody else.
    fn remove_left_behind(&self) {
        let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        for dir in entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)).map(|e| e.path()) {
            let is_left =
                dir != self.dir && File::open(dir.join(IN_USE)).is_ok_and(|file| file.try_lock().is_ok());
            if is_left {
                log::info!("removes \"{}\", which a killed agent has left", dir.display());
                remove(&dir);
            }
        }
    }

    /// Dumps definitions to an archive of that name; `what` are the options that say which.
    pub fn dump(&self, master: &Dsn, archive: &str, what: &[String]) -> Result<()> {
        let mut command = Command::new(PROGRAMS[0]);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command
            .envs(master.environment())
            .args(["--format=custom", "--schema-only", "--encoding=UTF8", "--no-password"])
            .args(["--no-publications", "--no-subscriptions", "--no-security-labels", "--no-tablespaces"])
            .arg("--file")
            .arg(self.dir.join(archive))
            .args(what);
        self.run(command).map(drop)
    }

    pub fn contents(&self, archive: &str) -> Result<Vec<Entry>> {
        let mut command = Command::new(PROGRAMS[1]);
        command.arg("--list").arg(self.dir.join(archive));
        Ok(self.run(command)?.lines().filter_map(entry).collect())
    }

    /// The SQL of these entries, of all sections or of one.
    pub fn sql(&self, archive: &str, entries: &[&Entry], section: Option<&str>) -> Result<String> {
        let list = self.dir.join("list");
        let lines: String = entries.iter().map(|entry| format!("{}\n", entry.line)).collect();
        fs::write(&list, lines).map_err(|e| {
            Error::new(Kind::Refused, format!("could not write file \"{}\"", list.display())).source(e)
        })?;
        let mut command = Command::new(PROGRAMS[1]);
        command.args(["--no-owner", "--no-privileges", "--file=-", "--use-list"]).arg(list);
        command.args(section.map(|section| format!("--section={section}")));
        command.arg(self.dir.join(archive));
        self.run(command)
    }

    /// Gives what the program prints. An order to stop kills it.
    fn run(&self, mut command: Command) -> Result<String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |e: std::io::Error| {
            Error::new(Kind::Refused, format!("could not run {program}")).source(e).hint(INSTALL)
        };
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).map_err(failed)?)
            .stderr(File::create(&err).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if self.stop.wait(Duration::from_millis(10)) {
                child.kill().map_err(failed)?;
                child.wait().map_err(failed)?;
                return Err(Error::new(Kind::Stopped, format!("{program} was stopped")));
            }
        };
        let read =
            |path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).map_err(failed);
        let said = read(&err)?;
        if !status.success() {
            return Err(Error::new(Kind::Refused, format!("{program} failed: {}", said.trim())));
        }
        said.lines().for_each(|line| log::debug!("{line}"));
        read(&out)
    }
}

impl Drop for Workshop<'_> {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

fn remove(dir: &Path) {
    if let Err(e) = fs::remove_dir_all(dir) {
        log::warn!("could not remove directory \"{}\": {e}", dir.display());
    }
}

pub(super) const INSTALL: &str = "Install PostgreSQL's client programs of the master's version or a later one, with \
                                  pg_dump and pg_restore on the agent's PATH, or create the tables on the slave \
                                  yourself and set schema = false.";

/// `4; 1259 16385 TABLE public t owner`, comments begin with a semicolon.
fn entry(line: &str) -> Option<Entry> {
    let (_, rest) = line.split_once("; ").filter(|(id, _)| id.parse::<u32>().is_ok())?;
    let mut words = rest.split(' ');
    let mut number = || words.next().and_then(|word| word.parse().ok());
    Some(Entry { object: (number()?, number()?), line: line.to_owned() })
}

/// The major version of a program: `pg_dump (PostgreSQL) 15.3 (Debian 15.3-1)`.
pub(super) fn version(program: &str) -> Result<u32> {
    let failed = |e| Error::new(Kind::Refused, format!("could not run {program}")).source(e).hint(INSTALL);
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    major(&text).ok_or_else(|| {
        Error::new(Kind::Refused, format!("{program} --version says \"{}\"", text.trim())).hint(INSTALL)
    })
}

fn major(text: &str) -> Option<u32> {
    let number = text.split(' ').nth(2)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents() {
        let toc = |line| entry(line).map(|entry| entry.object);
        assert_eq!(toc("; Archive created at 2020-01-01"), None);
        assert_eq!(toc(";     Format: CUSTOM"), None);
        assert_eq!(toc("218; 1259 16501 TABLE public t; x owner"), Some((1259, 16501)));
        assert_eq!(toc("3333; 0 0 SEQUENCE OWNED BY public s owner"), Some((0, 0)));
    }

    #[test]
    fn versions() {
        assert_eq!(major("pg_dump (PostgreSQL) 15.3 (Debian 15.3-1)\n"), Some(15));
        assert_eq!(major("pg_restore (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("nonsense"), None);
    }
}
