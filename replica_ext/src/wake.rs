//! Waking: writers notify only when a reader of the log sleeps.
//!
//! In: the agent's calls before it sleeps and when it wakes. Out: the state of the log at that moment.
//!
//! A writer locks its chunk table, draws an id, writes, and then looks for sleepers; of the last sleep that began it
//! takes the number, and notifies once for each number. `arm` goes the same way: first it numbers the sleep and puts
//! the sleeper, then it reads the last id, then it lists who holds that lock. So a writer that did not see the sleeper
//! is in the list, or has ended: then every later snapshot knows how. And where neither the last id nor the list has
//! changed since an earlier call, nobody has committed who was not seen by a snapshot taken after that.
//!
//! So a sleeper that does not wake (its machine is gone, its process is stopped) costs each session one NOTIFY. Who had
//! notified for that number and keeps silent is no other case than who has not seen the sleeper: a sleeper that heard
//! the one NOTIFY reads, and takes a new number before it goes on to sleep.
//!
//! The lock that marks a sleeper belongs to its session: no other can take it away, and it ends with the session.

use pgrx::prelude::*;

use crate::error;
use crate::pg::{heap::LogTables, lock};

/// Returns the last id and the transactions that have written to the log and not ended, as `id:writer,writer`.
/// Given an array it lets the session sleep, unless others than these are among the writers.
#[pg_extern(sql = false)]
fn arm(slow: Option<Vec<String>>) -> String {
    let Some(log) = LogTables::find() else { error::no_log() };
    if slow.is_some() {
        log.begin_sleep();
        lock::sleep(log.ids);
    }
    let last_id = log.last_id();
    let writers = lock::writers(&log);
    if slow.is_some_and(|slow| !writers.iter().all(|writer| slow.contains(writer))) {
        lock::wake(log.ids);
    }
    format!("{last_id}:{}", writers.join(","))
}

/// The session has woken; false when it did not sleep.
#[pg_extern(sql = false)]
fn disarm() -> bool {
    let Some(log) = LogTables::find() else { error::no_log() };
    lock::wake(log.ids)
}
