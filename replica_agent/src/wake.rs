//! What ends a wait: the order to stop, and news on the master.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, Sender, TrySendError};
use fallible_iterator::FallibleIterator;
use postgres::Client;

use crate::dsn::Dsn;
use crate::error::{Error, Kind, Result};
use crate::logging;
use crate::retry::Backoff;
use crate::session::{self, Canceller, Session};
use crate::skip_command::RETRY_CHANNEL;

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

/// The sessions that may hang in a statement (behind a lock, say) when the order to stop comes.
#[derive(Clone, Default)]
pub struct Cancels(Arc<Mutex<HashMap<u64, Arc<Canceller>>>>);

/// Takes a session from the list when it ends.
pub struct Cancelable(Cancels, u64);

impl Cancels {
    pub fn add(&self, dsn: &Dsn, client: &impl Session) -> Result<Cancelable> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let canceller = Arc::new(Canceller::new(dsn, client)?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, canceller);
        Ok(Cancelable(self.clone(), number))
    }

    /// Cancels what they run, at the same time. Waits for none of them long: its server may be one that does not answer.
    /// What cannot be cancelled ends with our process.
    pub fn cancel(&self) {
        const A_MOMENT: Duration = Duration::from_secs(1);
        let cancellers: Vec<Arc<Canceller>> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let (done, all_done) = bounded::<()>(0);
        for canceller in cancellers {
            let done = done.clone();
            let cancel = logging::inherit(move || {
                let _dropped_when_done = done;
                if let Err(e) = canceller.cancel() {
                    log::debug!("{e:#}");
                }
            });
            if let Err(e) = std::thread::Builder::new().name("cancel".to_owned()).spawn(cancel) {
                log::debug!("could not start a thread: {e}");
            }
        }
        drop(done);
        all_done.recv_timeout(A_MOMENT).ok();
    }
}

impl Drop for Cancelable {
    fn drop(&mut self) {
        let Cancelable(cancels, number) = self;
        cancels.0.lock().unwrap_or_else(PoisonError::into_inner).remove(number);
    }
}

/// Tells all readers of an agent that there is news on the master.
#[derive(Clone, Default)]
pub struct Waker(Arc<Mutex<Vec<Sender<()>>>>);

impl Waker {
    /// Holds one token: news that comes while the reader is busy is not forgotten.
    pub fn subscribe(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    pub fn wake_all(&self) {
        let full_is_fine =
            |sender: &Sender<()>| !matches!(sender.try_send(()), Err(TrySendError::Disconnected(())));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(full_is_fine);
    }
}

/// Listens for `NOTIFY replicas`, and for the word to try again at once, on a session of its own, so that no queue of the
/// master waits for a busy reader. Returns when it is told to stop.
pub fn listen(dsn: &Dsn, waker: &Waker, retries: &Waker, stop: &Stop) {
    /// How soon a listener notices the order to stop.
    const GLANCE: Duration = Duration::from_millis(500);
    let mut backoff = Backoff::new();
    while !stop.is_set() {
        let listened = listen_until(dsn, (waker, retries), GLANCE, stop, &mut backoff);
        if let Err(e) = listened {
            // Readers meet the same trouble and report it; until then their timer wakes them.
            log::debug!("could not listen on the master: {e:#}");
            stop.wait(backoff.delay());
        }
    }
}

fn listen_until(
    dsn: &Dsn,
    (waker, retries): (&Waker, &Waker),
    glance: Duration,
    stop: &Stop,
    backoff: &mut Backoff,
) -> Result<()> {
    let failed = |e| Error::from_pg("could not listen for news of the master", e);
    let mut client: Client = session::connect_master(dsn, "listen")?;
    client.batch_execute(&format!("listen replicas; listen {RETRY_CHANNEL}")).map_err(failed)?;
    backoff.reset();
    // What was notified before we listened.
    waker.wake_all();
    while !stop.is_set() {
        let notified = client.notifications().timeout_iter(glance).next().map_err(failed)?;
        if let Some(notification) = notified {
            match notification.channel() {
                RETRY_CHANNEL => retries.wake_all(),
                _ => waker.wake_all(),
            }
        } else if client.is_closed() {
            return Err(Error::new(Kind::Connection, "lost the session that listens on the master"));
        }
    }
    Ok(())
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
