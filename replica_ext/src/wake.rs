//! Waking: writers wake a reader of the log that dozes or sleeps, and do nothing else where none does.
//!
//! In: the agent's calls before it rests and when it wakes. Out: the state of the log at that moment.
//!
//! A writer locks its chunk table, draws an id, writes, and then looks for who rests. Who rests goes the same way: first
//! it puts its mark, then it reads the last id, then it lists who holds that lock. So a writer that did not see it is in
//! the list, or has ended: then every later snapshot knows how. And where neither the last id has changed since an
//! earlier state nor anybody has left its list, nobody has committed who was not seen by a snapshot taken after that.
//!
//! A *dozer* waits in the server, in a statement of its own, and is woken by its latch, which a writer sets when it
//! is visible and off the list. That costs a writer a signal at most, so a reader dozes as long as something may come
//! soon.
//!
//! A *sleeper* is idle until it hears a NOTIFY, which serialises commits; so a writer takes the number of the last
//! sleep that began, and notifies once for each number. A sleeper that does not wake (its machine is gone, its process
//! is stopped) costs each session one NOTIFY. Who had notified for that number and keeps silent is no other case than
//! who has not seen the sleeper: a sleeper that heard the one NOTIFY reads, and takes a new number before it goes on to
//! sleep.
//!
//! The lock that marks a sleeper belongs to its session: no other can take it away, and it ends with the session.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::error;
use crate::pg::heap::LogTables;
use crate::pg::latch;
use crate::pg::lock::{self, Holder};

/// How soon a dozer looks for writers that did not see it; from then on at intervals that double.
const FIRST_LOOK: Duration = Duration::from_micros(100);
/// On a master so busy that there is always something, batches gather for so long.
const GATHER: Duration = Duration::from_micros(500);

thread_local! {
    static LAST: RefCell<Option<Doze>> = const { RefCell::new(None) };
}

/// The log when a doze ended: what was committed by then, the next statement sees.
struct Doze {
    state: State,
    /// It had something to look at from the beginning.
    short: bool,
}

struct State {
    last_id: i64,
    writers: Vec<Holder>,
}

impl State {
    fn of(log: &LogTables) -> State {
        let last_id = log.last_id();
        State { last_id, writers: lock::writers(log) }
    }

    /// Nobody has committed since `earlier`.
    fn is_still(&self, earlier: &State) -> bool {
        self.last_id == earlier.last_id && still_there(&earlier.writers, &self.writers)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.last_id)?;
        for (i, writer) in self.writers.iter().enumerate() {
            write!(f, "{}{writer}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

fn still_there(earlier: &[Holder], now: &[Holder]) -> bool {
    earlier.iter().all(|writer| now.iter().any(|other| other.is_same(writer)))
}

/// Waits until something may have been committed that a statement after the last call has not seen, at most so many
/// milliseconds; returns the state of the log as `arm` does.
#[pg_extern(sql = false)]
fn doze(at_most: i32) -> String {
    let Some(log) = LogTables::find() else { error::no_log() };
    // What sets it from here on is waited for.
    latch::reset();
    lock::doze(log.ids);
    let mut state = State::of(&log);
    let last = LAST.take();
    let short = last.as_ref().is_none_or(|last| !state.is_still(&last.state));
    if !short {
        wait(&log, &state.writers, Duration::from_millis(at_most.max(0) as u64));
        state = State::of(&log);
    } else if last.is_some_and(|last| last.short) {
        latch::wait(GATHER);
        state = State::of(&log);
    }
    lock::end_doze(log.ids);
    let text = state.to_string();
    LAST.set(Some(Doze { state, short }));
    text
}

/// Until we are woken, or one of these writers, who may not have seen us, has ended.
fn wait(log: &LogTables, unaware: &[Holder], at_most: Duration) {
    let end = Instant::now() + at_most;
    let mut look = FIRST_LOOK;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = if unaware.is_empty() { left } else { left.min(look) };
        if wait.is_zero() || latch::wait(wait) || !still_there(unaware, &lock::writers(log)) {
            return;
        }
        look *= 2;
    }
}

/// Returns the last id and the transactions that have written to the log and not ended, as `id:writer,writer`.
/// Given an array it lets the session sleep, unless others than these are among the writers.
#[pg_extern(sql = false)]
fn arm(slow: Option<Vec<String>>) -> String {
    let Some(log) = LogTables::find() else { error::no_log() };
    if slow.is_some() {
        log.begin_sleep();
        lock::sleep(log.ids);
    }
    let state = State::of(&log);
    if slow.is_some_and(|slow| !state.writers.iter().all(|writer| slow.contains(&writer.to_string()))) {
        lock::wake(log.ids);
    }
    state.to_string()
}

/// The session has woken; false when it did not sleep.
#[pg_extern(sql = false)]
fn disarm() -> bool {
    let Some(log) = LogTables::find() else { error::no_log() };
    lock::wake(log.ids)
}
