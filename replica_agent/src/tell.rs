//! What becomes of what a slave's threads report: the state for the process's own status, and events for alerts.
//!
//! In: states, errors, conflicts, signs of life. Out: events; an outage gives one at its beginning and one at its end,
//! however often it is tried again meanwhile. Everything here outlives the sessions of a slave, and waits for nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::alerts::Alerts;
use crate::error::{Error, Kind};
use crate::event::{Event, EventKind, Note};
use crate::report::State;

/// All slaves of an agent.
#[derive(Clone, Default)]
pub struct Tellers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    agent: String,
    alerts: Alerts,
    slaves: Mutex<BTreeMap<String, Told>>,
}

/// What was told of a slave last.
#[derive(Default)]
struct Told {
    state: &'static str,
    outage: Option<Outage>,
}

struct Outage {
    since: Instant,
    message: String,
    /// It was told as a lost connection; when something else turns out to be wrong, that is news.
    connection: bool,
}

/// One slave of an agent; with an empty name, its atomic group.
#[derive(Clone, Default)]
pub struct Teller {
    all: Tellers,
    slave: String,
}

impl Tellers {
    pub fn new(agent: &str, alerts: Alerts) -> Tellers {
        Tellers(Arc::new(Inner { agent: agent.to_owned(), alerts, slaves: Mutex::default() }))
    }

    pub fn of(&self, slave: &str) -> Teller {
        Teller { all: self.clone(), slave: slave.to_owned() }
    }

    /// Something that concerns the agent as a whole.
    pub fn tell(&self, kind: EventKind, message: &str) {
        self.0.alerts.send(Event::new(kind, &self.0.agent, None, message));
    }

    /// The slave is served no longer.
    pub fn forget(&self, slave: &str) {
        self.slaves().remove(slave);
    }

    /// How many slaves are in each state.
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for (_, told) in self.slaves().iter().filter(|(name, _)| !name.is_empty()) {
            *states.entry(if told.outage.is_some() { "error" } else { told.state }).or_default() += 1;
        }
        states
    }

    fn slaves(&self) -> MutexGuard<'_, BTreeMap<String, Told>> {
        self.0.slaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, event: Event) {
        self.0.alerts.send(event);
    }
}

impl Teller {
    fn name(&self) -> Option<&str> {
        Some(self.slave.as_str()).filter(|name| !name.is_empty())
    }

    pub fn state(&self, state: State) {
        self.all.slaves().entry(self.slave.clone()).or_default().state = state.name();
    }

    /// The slave stands still. Told once in each outage, and once more if at first only a connection was lost.
    pub fn error(&self, e: &Error) {
        let connection = e.kind() == Kind::Connection;
        let mut slaves = self.all.slaves();
        let told = slaves.entry(self.slave.clone()).or_default();
        match &mut told.outage {
            Some(outage) if connection || !outage.connection => return,
            Some(outage) => outage.connection = false,
            None => {
                told.outage = Some(Outage { since: Instant::now(), message: format!("{e:#}"), connection })
            }
        }
        drop(slaves);
        self.all.send(Event::of_error(&self.all.0.agent, self.name(), e));
    }

    /// A batch was applied, or there was none: what stood still goes on. So does the group that the slave belongs to.
    pub fn well(&self) {
        let mut ended = Vec::new();
        let mut slaves = self.all.slaves();
        for name in [self.slave.as_str(), ""] {
            if let Some(outage) = slaves.get_mut(name).and_then(|told| told.outage.take()) {
                ended.push((name, outage));
            }
        }
        drop(slaves);
        for (name, outage) in ended {
            let slave = Some(name).filter(|name| !name.is_empty());
            let message = match slave {
                Some(name) => format!("slave \"{name}\" goes on"),
                None => "the slaves go on".to_owned(),
            };
            let detail =
                format!("It stood still for {} s: {}.", outage.since.elapsed().as_secs(), outage.message);
            self.all.send(Event {
                detail: Some(detail),
                ..Event::new(EventKind::Recovery, &self.all.0.agent, slave, message)
            });
        }
    }

    /// So many conflicts were committed with a batch.
    pub fn conflicts(&self, count: u64, notes: Vec<Note>) {
        if count > 0 {
            self.all.send(Event::of_conflicts(&self.all.0.agent, &self.slave, count, notes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::tests::collecting;

    #[test]
    fn an_outage_is_told_at_its_beginning_and_its_end() {
        let (alerts, events) = collecting();
        let tellers = Tellers::new("shop", alerts);
        let reports = tellers.of("reports");
        reports.well();
        for kind in [Kind::Connection, Kind::Connection, Kind::Apply, Kind::Apply, Kind::Connection] {
            reports.error(&Error::new(kind, format!("{kind:?}")));
        }
        tellers.of("archive").well();
        assert_eq!(tellers.states(), BTreeMap::from([("error", 1)]));
        reports.well();
        reports.well();
        reports.error(&Error::new(Kind::Apply, "again"));
        assert_eq!(
            events(),
            ["error Connection", "error Apply", "recovery slave \"reports\" goes on", "error again"]
        );
    }

    #[test]
    fn a_member_that_goes_on_ends_the_outage_of_its_group() {
        let (alerts, events) = collecting();
        let tellers = Tellers::new("shop", alerts);
        tellers.of("").error(&Error::new(Kind::Connection, "no master"));
        tellers.of("one").well();
        tellers.of("two").well();
        assert_eq!(events(), ["error no master", "recovery the slaves go on"]);
    }
}
