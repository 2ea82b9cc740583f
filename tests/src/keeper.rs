//! Owns the temporary directory of this process, and what must end with it.
//!
//! Everything that tests start lives in this directory and is found by a pid file in it. A shell beside us
//! reads a pipe that only we hold: when we are gone, by exit, panic, Ctrl-C or kill -9, the pipe closes, and the
//! shell ends the servers and agents that are left and removes the directory. Nothing depends on `Drop`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

/// Reads to the end of the pipe; then QUIT for servers (an immediate stop), KILL for agents.
const KEEPER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for file in "$1"/*/postmaster.pid; do
    [ -f "$file" ] && kill -QUIT "$(cat "$file")" 2>/dev/null
done
for file in "$1"/*/agent.pid; do
    [ -f "$file" ] && kill -KILL "$(cat "$file")" 2>/dev/null
done
tries=0
until rm -rf "$1" 2>/dev/null || [ $tries -ge 50 ]; do
    tries=$((tries + 1))
    sleep 0.2
done
"#;

struct Keeper {
    dir: PathBuf,
    /// Holds the pipe, which closes with this process.
    _shell: Child,
}

/// The directory of this process; made on first use.
pub fn dir() -> &'static Path {
    static KEEPER_OF_PROCESS: OnceLock<Keeper> = OnceLock::new();
    &KEEPER_OF_PROCESS.get_or_init(start).dir
}

/// A new directory `<name>.<n>` in it.
pub fn subdir(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = dir().join(format!("{name}.{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).unwrap_or_else(|e| panic!("could not create {}: {e}", path.display()));
    path
}

fn start() -> Keeper {
    // Short, because the path of a unix socket may have 107 bytes only.
    let mut base = std::env::temp_dir();
    if base.as_os_str().len() > 60 {
        base = PathBuf::from("/tmp");
    }
    let dir = base.join(format!("pyreplica-{}", std::process::id()));
    // A process with our id may have left one behind when the machine went down.
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap_or_else(|e| panic!("could not create {}: {e}", dir.display()));
    // Servers run as another user when we are root, and must get through.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("own directory");

    // In a process group of its own, so that Ctrl-C in a terminal does not end it with us. It keeps our standard
    // error open: whoever reads that to its end knows that all is cleaned up.
    let shell = Command::new("/bin/sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("could not start /bin/sh");
    Keeper { dir, _shell: shell }
}
