//! What /proc tells of server processes: processor time and memory.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pyreplica_tests::cluster::run;

/// Between two looks of `meanwhile`.
pub const INTERVAL: Duration = Duration::from_millis(2);

/// Seconds that one process has been on a processor, to the nanosecond.
pub fn cpu_seconds(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("could not read {path}: {e}"));
    let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds.unwrap_or_else(|| panic!("no time in {path}: {text}")) / 1e9
}

/// Seconds of a server: of its first process, of the children that live and of those that have ended; to the
/// clock tick (10 ms).
pub fn server_cpu_seconds(postmaster: u32) -> f64 {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while we look.
        let Some(fields) = stat(pid) else { continue };
        if pid == postmaster {
            ticks += fields[TIMES].iter().sum::<u64>();
        } else if fields[PARENT] == u64::from(postmaster) {
            ticks += fields[OWN_TIMES].iter().sum::<u64>();
        }
    }
    ticks as f64 / ticks_per_second()
}

/// Seconds of all threads of a process, ended ones too; to the clock tick (10 ms).
pub fn threads_cpu_seconds(pid: u32) -> f64 {
    let fields = stat(pid).unwrap_or_else(|| panic!("process {pid} has ended"));
    fields[OWN_TIMES].iter().sum::<u64>() as f64 / ticks_per_second()
}

const PARENT: usize = 1;
/// User and system time.
const OWN_TIMES: std::ops::Range<usize> = 11..13;
/// With those of ended children.
const TIMES: std::ops::Range<usize> = 11..15;

/// What /proc/<pid>/stat says behind the name, which is in brackets; 0 for what is no number.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<u64> =
        stat[stat.rfind(')')? + 2..].split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    (fields.len() >= TIMES.end).then_some(fields)
}

fn ticks_per_second() -> f64 {
    let text = run(std::process::Command::new("getconf").arg("CLK_TCK"));
    text.trim().parse().expect("clock ticks per second")
}

/// Runs `f`, and `look` again and again in another thread meanwhile, at least once.
pub fn meanwhile(mut look: impl FnMut() + Send, f: impl FnOnce()) {
    /// Ends the looking also when `f` panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| loop {
            look();
            if ended.load(Ordering::Relaxed) {
                break;
            }
            thread::sleep(INTERVAL);
        });
        let _end = End(&ended);
        f();
    });
}

/// Runs `f`; gives the most memory of its own (not shared, in bytes) that the process had meanwhile.
pub fn peak_memory(pid: u32, f: impl FnOnce()) -> u64 {
    let mut peak = 0;
    meanwhile(|| peak = peak.max(own_memory(pid)), f);
    peak
}

/// Bytes that only this process has in memory.
fn own_memory(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("could not read {path}: {e}"));
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("no RssAnon in {path}")) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn looking_ends_with_a_panic() {
        // Of the thread that looks, as of what it watches: nothing hangs.
        meanwhile(|| panic!("looking"), || {});
    }

    #[test]
    #[should_panic(expected = "watched")]
    fn looking_ends_when_the_watched_panics() {
        meanwhile(|| {}, || panic!("watched"));
    }

    #[test]
    fn this_process_has_time_and_memory() {
        let own = std::process::id();
        assert!(cpu_seconds(own) > 0.0);
        assert!(server_cpu_seconds(own) >= 0.0);
        assert!(threads_cpu_seconds(own) >= 0.0);
        let peak = peak_memory(own, || drop(std::hint::black_box(vec![1u8; 64 << 20])));
        assert!(peak > 0);
    }
}
