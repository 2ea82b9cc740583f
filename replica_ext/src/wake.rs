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
/// Where transactions come faster than one by one can be read, they gather: so many times as long as reading takes.
const GATHER: u32 = 16;
const LONGEST_GATHER: Duration = Duration::from_millis(10);
/// What takes longer is waiting, for a slave or a processor. So what comes less often never gathers.
const LONGEST_READING: Duration = Duration::from_micros(800);

thread_local! {
    static LAST: RefCell<Option<Doze>> = const { RefCell::new(None) };
}

/// A doze that has ended.
struct Doze {
    begun: Instant,
    /// The id drawn last when it began.
    last_id: i64,
    /// The log when it ended: what was committed by then, the next statement sees.
    state: State,
    ended: Instant,
    pace: Pace,
}

/// How long it was lately from one id to the next, and from the end of a doze, through reading, to the next one.
#[derive(Clone, Copy, Default)]
struct Pace {
    interval: Duration,
    reading: Duration,
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
    let (begun, last_id) = (Instant::now(), log.last_id());
    let last = LAST.take();
    let pace = last.as_ref().map(|last| last.pace_until(begun, last_id)).unwrap_or_default();
    // What sets it from here on is waited for.
    latch::reset();
    let gather = pace.gather();
    if !gather.is_zero() {
        latch::wait(gather);
    }
    lock::doze(log.ids);
    let mut state = State::of(&log);
    if last.is_some_and(|last| state.is_still(&last.state)) {
        state = wait(&log, &state, Duration::from_millis(at_most.max(0) as u64));
    }
    lock::end_doze(log.ids);
    let text = state.to_string();
    LAST.set(Some(Doze { begun, last_id, state, ended: Instant::now(), pace }));
    text
}

impl Doze {
    /// The pace when the next doze begins, at an id.
    fn pace_until(&self, now: Instant, last_id: i64) -> Pace {
        let ids = u32::try_from(last_id - self.last_id).unwrap_or(u32::MAX).max(1);
        let lately = |before: Duration, last: Duration| (before * 3 + last) / 4;
        Pace {
            interval: lately(self.pace.interval, (now - self.begun) / ids),
            reading: lately(self.pace.reading, LONGEST_READING.min(now - self.ended)),
        }
    }
}

impl Pace {
    /// For so long transactions gather.
    fn gather(self) -> Duration {
        match self.interval < self.reading {
            true => LONGEST_GATHER.min(self.reading * GATHER),
            false => Duration::ZERO,
        }
    }
}

/// Until a writer wakes us, or one of those of the log as it was `seen`, who may not have seen us, has ended; gives the log
/// as it is then.
fn wait(log: &LogTables, seen: &State, at_most: Duration) -> State {
    let end = Instant::now() + at_most;
    let mut look = FIRST_LOOK;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let wait = if seen.writers.is_empty() { left } else { left.min(look) };
        if wait.is_zero() {
            return State::of(log);
        }
        if latch::wait(wait) {
            // What comes after the look sets it again.
            latch::reset();
            let state = State::of(log);
            // The server sets it too: when a database is dropped, say.
            if !state.is_still(seen) {
                return state;
            }
        } else if !still_there(&seen.writers, &lock::writers(log)) {
            return State::of(log);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How long they gather in the end, where an id is drawn at each interval, and read after so long at the soonest.
    fn check(reads: u32, interval: Duration, reading: Duration, expected: Duration) {
        let cycle = interval.max(reading);
        let ids = i64::try_from(cycle.as_nanos() / interval.as_nanos()).unwrap();
        let begun = Instant::now();
        let state = || State { last_id: 0, writers: Vec::new() };
        let mut last = Doze { begun, last_id: 0, state: state(), ended: begun, pace: Pace::default() };
        for _ in 0..reads {
            last.ended = last.begun + (cycle - reading);
            let (begun, last_id) = (last.begun + cycle, last.last_id + ids);
            last =
                Doze { begun, last_id, state: state(), ended: begun, pace: last.pace_until(begun, last_id) };
        }
        let gather = last.pace.gather();
        assert!(gather.abs_diff(expected) < MS / 100, "{gather:?}");
    }

    #[test]
    fn what_comes_faster_than_it_is_read_gathers() {
        check(50, MS, MS / 4, Duration::ZERO);
        check(50, MS / 4, MS, LONGEST_GATHER);
        check(50, MS / 8, MS / 4, MS * 4);
        // Not for a slave that keeps the reader waiting.
        check(50, MS, MS * 5, Duration::ZERO);
    }
}
