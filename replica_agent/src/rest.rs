//! How a reader rests that has read all there was. Does no I/O and reads no clock.
//!
//! In: that something was read; the state of the master's log. Out: read, doze, or sleep until NOTIFY.
//! Always true: who sleeps is armed, and all that may have committed unheard before it was armed has been read; or it
//! knows who still may, and looks for them at growing intervals.
//!
//! NOTIFY serialises commits, and goes a long way. So a reader dozes first, in its session on the master, where a commit
//! costs no more than a signal to wake it; it sleeps, which leaves the master alone, when nothing has come for a while.

use std::time::{Duration, Instant};

use crate::error::Result;

/// From then on it sleeps. No doze is longer either, so who dozes is never long in coming.
const DOZE_FOR: Duration = Duration::from_millis(100);
/// Who has been about to commit for so long is slow; the reader sleeps all the same.
const PATIENCE: Duration = Duration::from_millis(32);

/// What `pyreplica.arm` said.
#[derive(Debug)]
pub struct Probe {
    /// Writers notify from now on.
    pub armed: bool,
    /// The last id and the transactions that may commit without having seen us, as `id:writer,writer`. While it is
    /// the same, nothing has been committed.
    pub state: String,
}

impl Probe {
    /// What it says when it was given these `slow` transactions.
    pub fn new(state: String, slow: &[String]) -> Self {
        let armed = writers(&state).all(|writer| slow.iter().any(|s| s == writer));
        Probe { armed, state }
    }
}

fn writers(state: &str) -> impl Iterator<Item = &str> {
    let (_, writers) = state.split_once(':').unwrap_or_default();
    writers.split(',').filter(|writer| !writer.is_empty())
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Read,
    /// Read as soon as there may be something, at the latest after so long.
    Doze(Duration),
    /// Wait for so long or for news, then read.
    Sleep(Duration),
}

pub struct Rest {
    timer: Duration,
    /// The log when it was last asked for; all that was committed then has been read.
    state: String,
    /// They may commit without a NOTIFY.
    slow: Vec<String>,
    /// Until the next look for what they have committed.
    look: Duration,
    /// Nothing has come since.
    quiet: Instant,
    /// By a NOTIFY, which a session sends once for each time that we are armed.
    woken: bool,
}

impl Rest {
    /// No sleep is longer than `timer`.
    pub fn new(timer: Duration, now: Instant) -> Self {
        Rest { timer, state: String::new(), slow: Vec::new(), look: PATIENCE, quiet: now, woken: false }
    }

    /// Something was read.
    pub fn news(&mut self, now: Instant) {
        self.quiet = now;
    }

    /// A NOTIFY came.
    pub fn woken(&mut self) {
        self.woken = true;
    }

    /// All there was has been read, by a reader that is `armed` or not. `arm` asks for the state of the log, and arms
    /// the reader, unless others than these slow transactions are about to commit.
    pub fn next(
        &mut self,
        armed: bool,
        now: Instant,
        arm: impl FnOnce(&[String]) -> Result<Probe>,
    ) -> Result<Step> {
        let woken = std::mem::take(&mut self.woken);
        if armed && self.slow.is_empty() && !woken {
            return Ok(Step::Sleep(self.timer));
        }
        let quiet = now.saturating_duration_since(self.quiet);
        if !armed && quiet < DOZE_FOR {
            return Ok(Step::Doze(DOZE_FOR - quiet));
        }
        let probe = arm(&self.slow)?;
        let changed = probe.state != self.state;
        self.state = probe.state;
        self.slow.retain(|slow| writers(&self.state).any(|writer| writer == slow));
        if changed {
            return Ok(Step::Read);
        }
        if probe.armed {
            let wait = if self.slow.is_empty() { self.timer } else { self.look };
            self.look = (self.look * 2).min(self.timer);
            return Ok(Step::Sleep(wait.min(self.timer)));
        }
        self.slow = writers(&self.state).map(str::to_owned).collect();
        self.look = PATIENCE;
        Ok(Step::Doze(PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER: Duration = Duration::from_secs(5);

    /// A reader, and a log with its writers.
    struct Reader {
        rest: Rest,
        armed: bool,
        now: Instant,
        state: String,
    }

    impl Reader {
        fn new(state: &str) -> Self {
            let now = Instant::now();
            Reader { rest: Rest::new(TIMER, now), armed: false, now, state: state.to_owned() }
        }

        /// The next step; time passes as it says.
        fn next(&mut self) -> Step {
            let Reader { rest, armed, now, state } = self;
            let step = rest.next(*armed, *now, |slow| {
                let probe = Probe::new(state.clone(), slow);
                *armed = probe.armed;
                Ok(probe)
            });
            let step = step.unwrap();
            if let Step::Doze(wait) | Step::Sleep(wait) = step {
                *now += wait;
            }
            step
        }

        fn news(&mut self, state: &str) {
            self.state = state.to_owned();
            self.armed = false;
            self.rest.news(self.now);
        }

        /// How long it dozes until it sleeps, and for how long.
        fn dozes(&mut self) -> (Duration, Duration) {
            let mut dozed = Duration::ZERO;
            loop {
                match self.next() {
                    Step::Read => {}
                    Step::Doze(wait) => dozed += wait,
                    Step::Sleep(wait) => return (dozed, wait),
                }
            }
        }
    }

    #[test]
    fn while_something_comes_it_dozes() {
        let mut reader = Reader::new("1:");
        for state in ["2:", "3:1/4", "5:"] {
            assert_eq!(reader.next(), Step::Doze(DOZE_FOR));
            assert!(!reader.armed);
            reader.news(state);
        }
    }

    #[test]
    fn when_nothing_comes_it_arms_reads_and_sleeps() {
        let mut reader = Reader::new("1:");
        for state in ["2:", "3:", "5:"] {
            assert_eq!(reader.next(), Step::Doze(DOZE_FOR));
            assert_eq!(reader.next(), Step::Read);
            assert!(reader.armed);
            assert_eq!(reader.next(), Step::Sleep(TIMER));
            assert_eq!(reader.next(), Step::Sleep(TIMER));
            reader.news(state);
        }
    }

    #[test]
    fn woken_for_nothing_it_arms_again() {
        let mut reader = Reader::new("1:");
        assert_eq!(reader.dozes(), (DOZE_FOR, TIMER));
        reader.rest.woken();
        reader.armed = false;
        assert_eq!(reader.next(), Step::Sleep(TIMER));
        assert!(reader.armed);
    }

    #[test]
    fn slow_ones_do_not_keep_it_from_sleeping_and_are_looked_for() {
        let mut reader = Reader::new("9:1/1,2/7");
        assert_eq!(reader.dozes(), (DOZE_FOR + PATIENCE, PATIENCE));
        assert!(reader.armed);
        for expected in [64, 128, 256, 512, 1024, 2048, 4096, 5000, 5000] {
            assert_eq!(reader.next(), Step::Sleep(Duration::from_millis(expected)));
        }
        // One ends: what did it commit?
        reader.state = "9:2/7".to_owned();
        assert_eq!(reader.next(), Step::Read);
        assert_eq!(reader.next(), Step::Sleep(TIMER));
        // Others come meanwhile: they wake it.
        reader.news("10:2/7");
        assert_eq!(reader.dozes(), (DOZE_FOR, TIMER));
        assert!(reader.armed);
        // All have ended.
        reader.state = "10:".to_owned();
        assert_eq!(reader.next(), Step::Read);
        assert_eq!(reader.next(), Step::Sleep(TIMER));
        assert!(reader.rest.slow.is_empty());
    }
}
