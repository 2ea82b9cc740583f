//! When a reader that has read all there was may sleep, and for how long. Does no I/O and reads no clock.
//!
//! In: that something was read; the state of the master's log. Out: read, nap, or sleep until NOTIFY.
//! Always true: who sleeps is armed, and all that may have committed unheard before it was armed has been read; or it
//! knows who still may, and looks for them at growing intervals.
//!
//! NOTIFY serialises commits, so a busy master should see none. Busy is a master on which somebody is about to commit,
//! or one that had the reader woken at once: there it naps, and looks by itself. Such a look is cheap.

use std::time::{Duration, Instant};

use crate::error::Result;

const FIRST_NAP: Duration = Duration::from_micros(500);
const LONGEST_NAP: Duration = Duration::from_millis(2);
/// Who has been about to commit for so long is slow; the reader sleeps all the same.
const PATIENCE: Duration = Duration::from_millis(32);
/// A sleep that was shorter was not worth its NOTIFY: then there is no other until nothing came for so long.
const SHORT_SLEEP: Duration = Duration::from_millis(4);

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
    /// What it says when it was given these `slow` transactions, or was not to arm.
    pub fn new(state: String, slow: Option<&[String]>) -> Self {
        let only = |slow: &[String]| writers(&state).all(|writer| slow.iter().any(|s| s == writer));
        Probe { armed: slow.is_some_and(only), state }
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
    /// Wait for so long or for news, then ask again.
    Nap(Duration),
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
    nap: Duration,
    /// Nothing has come since.
    quiet: Instant,
    asleep: Option<Instant>,
    short: bool,
    /// By a NOTIFY, which a session sends once for each time that we are armed.
    woken: bool,
}

impl Rest {
    /// No sleep is longer than `timer`.
    pub fn new(timer: Duration, now: Instant) -> Self {
        Rest {
            timer,
            state: String::new(),
            slow: Vec::new(),
            look: PATIENCE,
            nap: FIRST_NAP,
            quiet: now,
            asleep: None,
            short: false,
            woken: false,
        }
    }

    /// Something was read.
    pub fn news(&mut self, now: Instant) {
        self.quiet = now;
        self.nap = FIRST_NAP;
        if let Some(asleep) = self.asleep.take() {
            self.short = now.saturating_duration_since(asleep) < SHORT_SLEEP;
        }
    }

    /// A NOTIFY came.
    pub fn woken(&mut self) {
        self.woken = true;
    }

    /// All there was has been read, by a reader that is `armed` or not. `arm` asks for the state of the log; given
    /// slow transactions it arms the reader, unless others are about to commit.
    pub fn next(
        &mut self,
        armed: bool,
        now: Instant,
        arm: impl FnOnce(Option<&[String]>) -> Result<Probe>,
    ) -> Result<Step> {
        if armed && self.slow.is_empty() && !std::mem::take(&mut self.woken) {
            return Ok(self.sleep(now, self.timer));
        }
        let quiet = now.saturating_duration_since(self.quiet);
        let may_sleep = armed || !self.short || quiet >= SHORT_SLEEP;
        self.woken = false;
        let probe = arm(may_sleep.then_some(&self.slow))?;
        let changed = probe.state != self.state;
        self.state = probe.state;
        self.slow.retain(|slow| writers(&self.state).any(|writer| writer == slow));
        if changed {
            return Ok(Step::Read);
        }
        if probe.armed {
            let wait = if self.slow.is_empty() { self.timer } else { self.look };
            self.look = (self.look * 2).min(self.timer);
            return Ok(self.sleep(now, wait.min(self.timer)));
        }
        if quiet >= PATIENCE {
            self.slow = writers(&self.state).map(str::to_owned).collect();
            self.look = PATIENCE;
        }
        let nap = self.nap.min(self.timer);
        self.nap = (nap * 2).min(LONGEST_NAP);
        Ok(Step::Nap(nap))
    }

    fn sleep(&mut self, now: Instant, at_most: Duration) -> Step {
        self.asleep.get_or_insert(now);
        Step::Sleep(at_most)
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
            if let Step::Nap(wait) | Step::Sleep(wait) = step {
                *now += wait;
            }
            step
        }

        fn news(&mut self, state: &str) {
            self.state = state.to_owned();
            self.armed = false;
            self.rest.news(self.now);
        }

        /// How long it naps until it sleeps, and for how long.
        fn naps(&mut self) -> (Duration, Duration) {
            let mut napped = Duration::ZERO;
            loop {
                match self.next() {
                    Step::Read => {}
                    Step::Nap(wait) => napped += wait,
                    Step::Sleep(wait) => return (napped, wait),
                }
            }
        }
    }

    #[test]
    fn on_a_quiet_master_it_arms_reads_and_sleeps() {
        let mut reader = Reader::new("1:");
        for state in ["2:", "3:", "5:"] {
            assert_eq!(reader.next(), Step::Read);
            assert!(reader.armed);
            assert_eq!(reader.next(), Step::Sleep(TIMER));
            assert_eq!(reader.next(), Step::Sleep(TIMER));
            reader.news(state);
        }
    }

    #[test]
    fn while_others_are_about_to_commit_it_naps() {
        let mut reader = Reader::new("1:1/1");
        for state in ["2:2/1", "3:1/2", "4:2/2"] {
            assert_eq!(reader.next(), Step::Read);
            assert_eq!(reader.next(), Step::Nap(FIRST_NAP));
            assert_eq!(reader.next(), Step::Nap(2 * FIRST_NAP));
            assert!(!reader.armed);
            reader.news(state);
        }
    }

    #[test]
    fn after_a_short_sleep_it_naps_first() {
        let mut reader = Reader::new("1:");
        assert_eq!(reader.naps(), (Duration::ZERO, TIMER));
        reader.now = reader.rest.asleep.unwrap() + SHORT_SLEEP / 2;
        reader.news("2:");
        let (napped, wait) = reader.naps();
        assert!(napped >= SHORT_SLEEP && wait == TIMER, "{napped:?}");
        reader.news("3:");
        assert_eq!(reader.naps(), (Duration::ZERO, TIMER));
    }

    #[test]
    fn slow_ones_do_not_keep_it_from_sleeping_and_are_looked_for() {
        let mut reader = Reader::new("9:1/1,2/7");
        let (napped, wait) = reader.naps();
        assert!(reader.armed && napped >= PATIENCE && wait == PATIENCE, "{napped:?} {wait:?}");
        for expected in [64, 128, 256, 512, 1024, 2048, 4096, 5000, 5000] {
            assert_eq!(reader.next(), Step::Sleep(Duration::from_millis(expected)));
        }
        // One ends: what did it commit?
        reader.state = "9:2/7".to_owned();
        assert_eq!(reader.next(), Step::Read);
        assert_eq!(reader.next(), Step::Sleep(TIMER));
        // Others come meanwhile: they notify.
        reader.news("10:2/7");
        assert_eq!(reader.next(), Step::Read);
        assert_eq!(reader.next(), Step::Sleep(TIMER));
        assert!(reader.armed);
        // All have ended.
        reader.state = "10:".to_owned();
        assert_eq!(reader.next(), Step::Read);
        assert_eq!(reader.next(), Step::Sleep(TIMER));
        assert!(reader.rest.slow.is_empty());
    }
}
