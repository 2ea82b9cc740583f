//! Alerts: events leave the process by mail and through a program, and replication never waits for either.
//!
//! In: events, from any thread. Out: what `mail` and `program` make of them. Each has a desk: a queue that is bounded by
//! itself and a thread that works it off, tries again after a failure, gives up after a while and says so in the log.

mod bundle;
pub mod mail;
pub mod program;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;
use crate::error::{Error, Kind, Result};
use crate::event::Event;
use crate::logging;
use crate::retry::Backoff;

/// To whom events are sent; a default one has nobody to tell.
#[derive(Clone, Default)]
pub struct Alerts(Vec<Arc<dyn Sink>>);

trait Sink: Send + Sync {
    fn take(&self, event: &Event);
}

impl Alerts {
    pub fn send(&self, event: Event) {
        for sink in &self.0 {
            sink.take(&event);
        }
    }
}

/// The desks of a replication.
pub struct Desks {
    mail: Arc<Desk<mail::Mails>>,
    program: Arc<Desk<program::Calls>>,
}

impl Desks {
    pub fn new(settings: &config::Alerts) -> Result<Desks> {
        let desks = Desks { mail: Arc::default(), program: Arc::default() };
        desks.configure(settings)?;
        Ok(desks)
    }

    pub fn alerts(&self) -> Alerts {
        Alerts(vec![self.mail.clone(), self.program.clone()])
    }

    /// What is still in a queue goes the new way.
    pub fn configure(&self, settings: &config::Alerts) -> Result<()> {
        self.mail.configure("mail", settings.mail.clone())?;
        self.program.configure("on_event", settings.on_event.clone())
    }

    /// Sends all that is left, at once; what cannot be sent until then is given up.
    pub fn finish(&self, deadline: Instant) {
        self.mail.close();
        self.program.close();
        for (name, ended) in [("mail", self.mail.wait(deadline)), ("on_event", self.program.wait(deadline))] {
            if !ended {
                log::warn!("gave up what {name} had left to send: it took too long");
            }
        }
    }
}

/// A queue of something that is to be delivered.
trait Queue: Default + Send + 'static {
    type Settings: Clone + Send;
    type Parcel;

    fn add(&mut self, event: &Event);
    fn next(&mut self, now: Instant, settings: &Self::Settings, closing: bool) -> Next<Self::Parcel>;
    fn deliver(parcel: &Self::Parcel, settings: &Self::Settings) -> Result<()>;
    /// How long to try again.
    fn patience(settings: &Self::Settings) -> Duration;
}

enum Next<P> {
    Deliver(P),
    /// Nothing is due before.
    At(Instant),
    Nothing,
}

struct Desk<Q: Queue> {
    state: Mutex<State<Q>>,
    news: Condvar,
}

struct State<Q: Queue> {
    queue: Q,
    settings: Option<Q::Settings>,
    has_thread: bool,
    closing: bool,
}

impl<Q: Queue> Default for Desk<Q> {
    fn default() -> Self {
        let state = State { queue: Q::default(), settings: None, has_thread: false, closing: false };
        Desk { state: Mutex::new(state), news: Condvar::new() }
    }
}

impl<Q: Queue> Sink for Desk<Q> {
    fn take(&self, event: &Event) {
        let mut state = self.state();
        if state.settings.is_some() {
            state.queue.add(event);
            self.news.notify_all();
        }
    }
}

impl<Q: Queue> Desk<Q> {
    fn state(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without settings nothing is sent.
    fn configure(self: &Arc<Self>, name: &str, settings: Option<Q::Settings>) -> Result<()> {
        let mut state = self.state();
        if settings.is_none() {
            state.queue = Q::default();
        }
        state.settings = settings;
        self.news.notify_all();
        if state.settings.is_some() && !state.has_thread {
            let desk = self.clone();
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(logging::inherit(move || desk.work()))
                .map_err(|e| Error::new(Kind::Refused, "could not start a thread").source(e))?;
            state.has_thread = true;
        }
        Ok(())
    }

    fn close(&self) {
        self.state().closing = true;
        self.news.notify_all();
    }

    /// Whether all was sent or given up in time.
    fn wait(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.news.wait_timeout_while(self.state(), left, |state| state.has_thread);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn work(&self) {
        while let Some(parcel) = self.next() {
            self.deliver(&parcel);
        }
        self.state().has_thread = false;
        self.news.notify_all();
    }

    /// Waits for what is to be delivered next; `None` when all is done and closed.
    fn next(&self) -> Option<Q::Parcel> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let State { queue, settings, closing, .. } = &mut *state;
            let next = match settings {
                Some(settings) => queue.next(now, settings, *closing),
                None => Next::Nothing,
            };
            state = match next {
                Next::Deliver(parcel) => return Some(parcel),
                Next::Nothing if state.closing => return None,
                Next::Nothing => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::At(due) => {
                    let wait = due.saturating_duration_since(now);
                    self.news.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn deliver(&self, parcel: &Q::Parcel) {
        let began = Instant::now();
        let mut backoff = Backoff::new();
        let mut attempts = 0;
        loop {
            // Read anew each time: the administrator may have corrected them meanwhile.
            let Some(settings) = self.state().settings.clone() else { return };
            let Err(e) = Q::deliver(parcel, &settings) else { return };
            attempts += 1;
            let patience = Q::patience(&settings);
            if self.state().closing || began.elapsed() >= patience {
                let tried = if attempts > 1 { format!(" after {attempts} attempts") } else { String::new() };
                log::error!("{}\nDETAIL:  Given up{tried}.", e.report());
                return;
            }
            match attempts {
                1 => log::warn!("{}\nDETAIL:  It is tried again for {} s.", e.report(), patience.as_secs()),
                _ => log::debug!("{e:#}"),
            }
            let waited = self.news.wait_timeout_while(self.state(), backoff.delay(), |state| !state.closing);
            drop(waited);
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    struct Collector(Mutex<Vec<String>>);

    impl Sink for Collector {
        fn take(&self, event: &Event) {
            self.0.lock().unwrap().push(format!("{} {}", event.kind.name(), event.message));
        }
    }

    /// Alerts that are kept, and what was sent so far.
    pub fn collecting() -> (Alerts, impl Fn() -> Vec<String>) {
        let collector = Arc::new(Collector(Mutex::default()));
        (Alerts(vec![collector.clone()]), move || collector.0.lock().unwrap().clone())
    }
}
