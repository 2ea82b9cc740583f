//! How long a commit on the master takes to be visible on a slave, at a steady pace.
//!
//! In: table `t (n int primary key, v text)` on both. A client commits single rows; a session on the slave looks at the
//! greatest number there about every tenth of a millisecond.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use pyreplica_tests::db::Db;

/// p50 and p99 in milliseconds of commits number `first + 1` to `first + count`.
pub fn latencies(master: &Db, slave: &Db, first: u32, count: u32, a_second: u32) -> (f64, f64) {
    let (sender, commits) = mpsc::channel();
    let mut writer = master.session();
    let mut watcher = slave.session();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let began = Instant::now();
            for i in 1..=count {
                let due = began + Duration::from_secs(1) * (i - 1) / a_second;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                writer.run(&format!("insert into t values ({}, 'some text')", first + i));
                sender.send(Instant::now()).expect("somebody listens");
            }
        });
        let mut visible = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(120);
        while visible.len() < count as usize {
            let greatest =
                watcher.rows("select coalesce(max(n), 0) from t").concat().parse::<u32>().expect("a number");
            visible.resize((greatest as usize).saturating_sub(first as usize), Instant::now());
            assert!(Instant::now() < deadline, "the slave does not follow");
            std::thread::sleep(Duration::from_micros(50));
        }
        let mut times: Vec<f64> = commits
            .iter()
            .zip(visible)
            // It may be visible before the client has heard of its commit.
            .map(|(commit, visible)| visible.saturating_duration_since(commit).as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[times.len() * 99 / 100])
    })
}
