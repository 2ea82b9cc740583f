//! Signs of life of the threads, for the watchdog: whoever sleeps says until when, and is late when it does not wake.
//!
//! In: intentions to sleep. Out: the thread that overslept, if any. A statement on a server may take any time, so a
//! thread that is at work is never late: that a server does not answer is the business of keepalives and timeouts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::wake::Stop;

/// All threads of the process that are watched.
#[derive(Clone)]
pub struct Pulses(Arc<Shared>);

struct Shared {
    began: Instant,
    threads: Mutex<Vec<Weak<Thread>>>,
}

struct Thread {
    name: String,
    /// Milliseconds after the beginning at which it is awake again; 0: at work.
    wakes: AtomicU64,
}

/// One thread; it is no longer watched when this is dropped.
pub struct Pulse {
    all: Pulses,
    thread: Arc<Thread>,
}

impl Default for Pulses {
    fn default() -> Self {
        Pulses(Arc::new(Shared { began: Instant::now(), threads: Mutex::default() }))
    }
}

impl Pulses {
    pub fn watch(&self, name: &str) -> Pulse {
        let thread = Arc::new(Thread { name: name.to_owned(), wakes: AtomicU64::new(0) });
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| thread.strong_count() > 0);
        threads.push(Arc::downgrade(&thread));
        Pulse { all: self.clone(), thread }
    }

    /// A thread that should have been awake that long ago.
    pub fn late(&self, by: Duration) -> Option<String> {
        let now = self.millis(Duration::ZERO);
        let threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().filter_map(Weak::upgrade).find_map(|thread| {
            let wakes = thread.wakes.load(Ordering::Relaxed);
            (wakes > 0 && wakes + by.as_millis() as u64 <= now).then(|| thread.name.clone())
        })
    }

    fn millis(&self, later: Duration) -> u64 {
        (self.0.began.elapsed() + later).as_millis() as u64
    }
}

impl Pulse {
    /// Runs what waits at most that long.
    pub fn asleep<T>(&self, at_most: Duration, wait: impl FnOnce() -> T) -> T {
        self.thread.wakes.store(self.all.millis(at_most).max(1), Ordering::Relaxed);
        let result = wait();
        self.thread.wakes.store(0, Ordering::Relaxed);
        result
    }

    /// Waits for the order to stop, at most that long; true if it was given.
    pub fn wait(&self, stop: &Stop, at_most: Duration) -> bool {
        self.asleep(at_most, || stop.wait(at_most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_oversleeps_is_late() {
        let pulses = Pulses::default();
        let (one, two) = (pulses.watch("one"), pulses.watch("two"));
        assert_eq!(pulses.late(Duration::ZERO), None);
        one.asleep(Duration::from_secs(60), || assert_eq!(pulses.late(Duration::ZERO), None));
        two.asleep(Duration::ZERO, || {
            std::thread::park_timeout(Duration::from_millis(5));
            assert_eq!(pulses.late(Duration::ZERO), Some("two".to_owned()));
            assert_eq!(pulses.late(Duration::from_secs(60)), None);
        });
        assert_eq!(pulses.late(Duration::ZERO), None);
        two.asleep(Duration::ZERO, || {
            std::thread::park_timeout(Duration::from_millis(5));
            drop(one);
            assert!(pulses.late(Duration::ZERO).is_some());
        });
        drop(two);
        assert_eq!(pulses.late(Duration::ZERO), None);
    }
}
