//! Which events become one mail, and when it is sent. Pure: the clock is an argument.
//!
//! In: events. Out: a bundle of events of one kind when it is due. What comes together is one bundle; when they keep
//! coming, the next of its kind waits for an interval, which then doubles. What is kept is bounded: some events of each
//! kind are named, all are counted.

use std::time::{Duration, Instant};

use super::Next;
use crate::event::{Event, EventKind};

/// Events that a bundle holds; more are counted.
const EVENTS_MAX: usize = 20;
/// However long they keep coming, a mail an hour says so.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Events of one kind that are told together.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    pub kind: EventKind,
    pub events: Vec<Event>,
    /// With those that are not held.
    pub count: u64,
}

/// What waits to be told, by kind.
#[derive(Default)]
pub struct Bundles([Slot; EventKind::ALL.len()]);

#[derive(Default)]
struct Slot {
    events: Vec<Event>,
    count: u64,
    /// Of the first and the last event that waits.
    came: Option<(Instant, Instant)>,
    /// When the last bundle was sent, and how many went before it without a quiet time between.
    sent: Option<(Instant, u32)>,
}

/// How long a bundle waits for an event to follow, and how long at most. Conflicts come in many batches.
fn patience(kind: EventKind) -> (Duration, Duration) {
    match kind {
        EventKind::Warning => (Duration::from_secs(5), Duration::from_secs(30)),
        _ => (Duration::from_secs(2), Duration::from_secs(10)),
    }
}

/// How long to wait after the last of so many bundles in a row. A second outage is told at once, since somebody may just
/// have thought that all is well; conflicts are for looking at later.
fn wait(kind: EventKind, in_a_row: u32, interval: Duration) -> Duration {
    let at_once = if kind == EventKind::Warning { 0 } else { 2 };
    match in_a_row.checked_sub(at_once) {
        None => Duration::ZERO,
        Some(times) => interval.saturating_mul(1 << times.min(16)).min(INTERVAL_MAX.max(interval)),
    }
}

impl Bundles {
    pub fn add(&mut self, event: &Event, now: Instant) {
        let slot = &mut self.0[event.kind as usize];
        slot.came = Some((slot.came.map_or(now, |(first, _)| first), now));
        slot.count += event.count;
        if slot.events.iter_mut().any(|held| held.absorb(event)) {
            return;
        }
        if slot.events.len() < EVENTS_MAX {
            slot.events.push(event.clone());
        }
    }

    /// The bundle that is due; `all`: they are due now.
    pub fn next(&mut self, now: Instant, interval: Duration, all: bool) -> Next<Bundle> {
        let due = |kind: &EventKind| Some((self.0[*kind as usize].due(*kind, interval)?, *kind));
        let Some((due, kind)) = EventKind::ALL.iter().filter_map(due).min() else { return Next::Nothing };
        if due > now && !all {
            return Next::At(due);
        }
        Next::Deliver(self.0[kind as usize].take(kind, now, interval))
    }
}

impl Slot {
    fn due(&self, kind: EventKind, interval: Duration) -> Option<Instant> {
        let (first, last) = self.came?;
        let (quiet, most) = patience(kind);
        let gathered = (last + quiet).min(first + most);
        Some(
            self.sent
                .map_or(gathered, |(sent, in_a_row)| gathered.max(sent + wait(kind, in_a_row, interval))),
        )
    }

    fn take(&mut self, kind: EventKind, now: Instant, interval: Duration) -> Bundle {
        let in_a_row = match self.sent {
            Some((sent, before)) if now < sent + wait(kind, before, interval).max(interval) * 2 => before + 1,
            _ => 0,
        };
        self.sent = Some((now, in_a_row));
        self.came = None;
        Bundle { kind, events: std::mem::take(&mut self.events), count: std::mem::take(&mut self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn event(kind: EventKind, slave: &str) -> Event {
        match kind {
            EventKind::Warning => Event::of_conflicts("shop", slave, 1, Vec::new()),
            _ => Event::new(kind, "shop", Some(slave), "x"),
        }
    }

    /// When bundles are sent of events that come at these seconds, and how many events each has.
    fn sent(kind: EventKind, comes: &[u64]) -> Vec<(u64, u64)> {
        let start = Instant::now();
        let mut bundles = Bundles::default();
        let mut comes = comes.iter().copied().peekable();
        let mut sent = Vec::new();
        for second in 0..20_000 {
            let now = start + Duration::from_secs(second);
            while comes.next_if_eq(&second).is_some() {
                bundles.add(&event(kind, "reports"), now);
            }
            if let Next::Deliver(bundle) = bundles.next(now, INTERVAL, false) {
                sent.push((second, bundle.count));
            }
        }
        sent
    }

    #[test]
    fn a_thousand_conflicts_are_one_bundle() {
        assert_eq!(sent(EventKind::Warning, &[3; 1000]), [(8, 1000)]);
        assert_eq!(sent(EventKind::Warning, &[0, 4, 8, 12, 16]), [(21, 5)]);
    }

    #[test]
    fn what_keeps_coming_is_told_more_and_more_seldom() {
        let always: Vec<u64> = (0..14_000).collect();
        let times: Vec<u64> = sent(EventKind::Warning, &always).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [30, 90, 210, 450, 930, 1890, 3810, 7410, 11010, 14610]);
    }

    #[test]
    fn after_a_quiet_time_the_next_is_told_at_once() {
        assert_eq!(sent(EventKind::Warning, &[0, 10, 500, 10_000]), [(5, 1), (65, 1), (505, 1), (10_005, 1)]);
    }

    #[test]
    fn a_second_outage_is_told_at_once_and_a_slave_that_flaps_seldom() {
        let flaps: Vec<u64> = (0..1000).step_by(20).collect();
        let times: Vec<u64> = sent(EventKind::Error, &flaps).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [2, 22, 42, 102, 222, 462, 942, 1902]);
    }

    #[test]
    fn kinds_do_not_wait_for_each_other_and_slaves_share_a_bundle() {
        let start = Instant::now();
        let mut bundles = Bundles::default();
        for (kind, slave) in [
            (EventKind::Error, "a"),
            (EventKind::Error, "b"),
            (EventKind::Recovery, "a"),
            (EventKind::Warning, "a"),
        ] {
            bundles.add(&event(kind, slave), start);
        }
        let mut counts = Vec::new();
        while let Next::Deliver(bundle) = bundles.next(start, INTERVAL, true) {
            counts.push((bundle.kind.name(), bundle.events.len()));
        }
        assert_eq!(counts, [("error", 2), ("recovery", 1), ("warning", 1)]);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let now = Instant::now();
        let mut bundles = Bundles::default();
        for i in 0..5000 {
            bundles.add(&event(EventKind::Error, &i.to_string()), now);
        }
        let Next::Deliver(bundle) = bundles.next(now, INTERVAL, true) else { panic!("nothing is due") };
        assert_eq!((bundle.events.len(), bundle.count), (EVENTS_MAX, 5000));
    }
}
