//! What ends a wait: the order to stop, and news on the master.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender};

/// The order to stop; set once (by SIGTERM or SIGINT), seen by all clones, never taken back.
#[derive(Clone, Debug)]
pub struct Stop(Arc<StopInner>);

#[derive(Debug)]
struct StopInner {
    set: AtomicBool,
    // Nothing is ever sent: dropping the sender is what makes the receiver ready, for all who wait on it.
    sender: Mutex<Option<Sender<()>>>,
    receiver: Receiver<()>,
}

impl Stop {
    pub fn new() -> Self {
        let (sender, receiver) = bounded(0);
        Stop(Arc::new(StopInner { set: AtomicBool::new(false), sender: Mutex::new(Some(sender)), receiver }))
    }

    pub fn set(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        self.0.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub fn is_set(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// Becomes ready (disconnected) when the order is given: for `select!`.
    pub fn receiver(&self) -> &Receiver<()> {
        &self.0.receiver
    }

    /// Waits at most so long; true if the order was given meanwhile.
    pub fn wait(&self, timeout: Duration) -> bool {
        matches!(self.0.receiver.recv_timeout(timeout), Err(RecvTimeoutError::Disconnected))
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_wakes_all_clones() {
        let stop = Stop::new();
        assert!(!stop.wait(Duration::from_millis(1)));
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.set();
        assert!(waiter.join().unwrap());
        assert!(stop.is_set() && stop.wait(Duration::ZERO));
    }
}
