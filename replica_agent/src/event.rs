//! An event: what somebody should be told, by mail or through a program, in the form in which both get it.
//!
//! In: what happened to an agent or to one of its slaves. Out: JSON for programs, text for people. The size of an event
//! is bounded, whatever errors and keys it speaks of. Does no I/O.

use jiff::Timestamp;
use serde::Serialize;

use crate::conflict;
use crate::error::Error;
use crate::reader::Transaction;

/// Conflicts that an event names; more are counted.
pub const NOTES_MAX: usize = 20;
/// Characters of a text, and of a text of a note. A longer one is cut: an error may quote a whole statement, and a key
/// may be a document.
const TEXT_MAX: usize = 1000;
const NOTE_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// The agent begins to replicate.
    Start,
    /// The agent has ended.
    Stop,
    /// A slave stands still.
    Error,
    /// Conflicts: the slave goes on.
    Warning,
    /// A slave goes on that stood still.
    Recovery,
}

impl EventKind {
    pub const ALL: [EventKind; 5] =
        [EventKind::Start, EventKind::Stop, EventKind::Error, EventKind::Warning, EventKind::Recovery];

    pub fn name(self) -> &'static str {
        match self {
            EventKind::Start => "start",
            EventKind::Stop => "stop",
            EventKind::Error => "error",
            EventKind::Warning => "warning",
            EventKind::Recovery => "recovery",
        }
    }
}

/// The fields are those of the JSON object that a program gets; documented in docs/alerts.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    #[serde(rename = "event")]
    pub kind: EventKind,
    pub at: String,
    pub agent: String,
    /// None: it concerns all slaves.
    pub slave: Option<String>,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub sqlstate: Option<String>,
    /// Of a warning: how many conflicts it stands for; else 1.
    pub count: u64,
    pub conflicts: Vec<Note>,
}

/// One conflict of a warning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Note {
    pub conflict: String,
    pub table: String,
    pub operation: String,
    pub key: String,
    pub detail: Option<String>,
    pub applied: bool,
    pub log_id: i64,
    pub xid: String,
}

impl Note {
    pub fn new(event: &conflict::Event, transaction: &Transaction) -> Note {
        Note {
            conflict: event.conflict.to_string(),
            table: cut(event.relation, NOTE_MAX),
            operation: event.operation.to_owned(),
            key: cut(event.key, NOTE_MAX),
            detail: event.detail.map(|detail| cut(detail, NOTE_MAX)),
            applied: event.applied,
            log_id: transaction.rank,
            xid: transaction.xid.to_string(),
        }
    }

    fn line(&self) -> String {
        let Note { conflict, table, operation, key, applied, log_id, xid, .. } = self;
        let done = if *applied { "made all the same" } else { "left out" };
        format!("{conflict}: {operation} of {table}, key {key}, {done} (log id {log_id}, origin transaction {xid})")
    }
}

impl Event {
    pub fn new(kind: EventKind, agent: &str, slave: Option<&str>, message: impl AsRef<str>) -> Event {
        Event {
            kind,
            at: now(),
            agent: agent.to_owned(),
            slave: slave.map(str::to_owned),
            message: cut(message.as_ref(), TEXT_MAX),
            detail: None,
            hint: None,
            sqlstate: None,
            count: 1,
            conflicts: Vec::new(),
        }
    }

    pub fn of_error(agent: &str, slave: Option<&str>, e: &Error) -> Event {
        Event {
            detail: e.detail_text().map(|detail| cut(detail, TEXT_MAX)),
            hint: e.hint_text().map(|hint| cut(hint, TEXT_MAX)),
            sqlstate: e.sqlstate().map(str::to_owned),
            ..Event::new(EventKind::Error, agent, slave, format!("{e:#}"))
        }
    }

    /// Of so many conflicts, these are named.
    pub fn of_conflicts(agent: &str, slave: &str, count: u64, mut notes: Vec<Note>) -> Event {
        notes.truncate(NOTES_MAX);
        Event {
            hint: Some(
                "Compare the rows with the master's; \"replica_agent verify\" finds all that differ.".into(),
            ),
            count,
            conflicts: notes,
            ..Event::new(EventKind::Warning, agent, Some(slave), conflicts_on(slave, count))
        }
    }

    /// Takes in another warning of the same slave, which then need not be told by itself.
    pub fn absorb(&mut self, other: &Event) -> bool {
        let both = self.kind == EventKind::Warning && other.kind == EventKind::Warning;
        if !both || self.slave != other.slave {
            return false;
        }
        self.count += other.count;
        let room = NOTES_MAX.saturating_sub(self.conflicts.len());
        self.conflicts.extend(other.conflicts.iter().take(room).cloned());
        self.message = conflicts_on(self.slave.as_deref().unwrap_or_default(), self.count);
        true
    }

    /// One line.
    pub fn to_json(&self) -> String {
        // Text and numbers only: nothing in it can fail to become JSON.
        serde_json::to_string(self)
            .unwrap_or_else(|e| format!("{{\"event\": \"error\", \"message\": \"{e}\"}}"))
    }

    /// For people: the time, then as psql and the log show it.
    pub fn text(&self) -> String {
        let mut text = format!("{}  {}\n", self.at, self.message);
        for note in &self.conflicts {
            text.push_str(&format!("    {}\n", note.line()));
        }
        let unnamed = self.count.saturating_sub(self.conflicts.len() as u64);
        if !self.conflicts.is_empty() && unnamed > 0 {
            text.push_str(&format!("    and {unnamed} more, see pyreplica_agent.conflict on the slave\n"));
        }
        for (label, part) in [("DETAIL", &self.detail), ("HINT", &self.hint), ("SQLSTATE", &self.sqlstate)] {
            if let Some(part) = part {
                text.push_str(&format!("    {label}:  {part}\n"));
            }
        }
        text
    }
}

fn conflicts_on(slave: &str, count: u64) -> String {
    match count {
        1 => format!("1 conflict on slave \"{slave}\""),
        n => format!("{n} conflicts on slave \"{slave}\""),
    }
}

/// In RFC 3339, to the millisecond.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn note(key: &str) -> Note {
        let event = conflict::Event {
            conflict: conflict::Conflict::UpdateMissing,
            relation: "public.t",
            operation: "UPDATE",
            key,
            detail: None,
            applied: false,
        };
        let transaction =
            Transaction { rank: 8, xid: 745, ts: Timestamp::UNIX_EPOCH, origin: None, username: None };
        Note::new(&event, &transaction)
    }

    #[test]
    fn conflicts_are_counted_and_some_are_named() {
        let mut event = Event::of_conflicts("shop", "reports", 30, vec![note("(id)=(1)"); 30]);
        assert!(event.absorb(&Event::of_conflicts("shop", "reports", 970, vec![note("(id)=(2)")])));
        assert!(!event.absorb(&Event::of_conflicts("shop", "archive", 1, vec![note("(id)=(2)")])));
        assert_eq!((event.count, event.conflicts.len()), (1000, NOTES_MAX));
        let text = event.text();
        assert!(text.contains("  1000 conflicts on slave \"reports\"\n"), "{text}");
        assert!(text.contains("update_missing: UPDATE of public.t, key (id)=(1), left out"), "{text}");
        assert!(text.contains("and 980 more"), "{text}");
    }

    #[test]
    fn json_has_every_field() {
        let e = Error::new(Kind::Apply, "no").detail("It\nis so.").with_sqlstate("23505");
        let json: serde_json::Value =
            serde_json::from_str(&Event::of_error("shop", Some("reports"), &e).to_json()).unwrap();
        assert_eq!((&json["event"], &json["slave"]), (&"error".into(), &"reports".into()));
        assert_eq!((&json["message"], &json["detail"]), (&"no".into(), &"It\nis so.".into()));
        assert_eq!((&json["sqlstate"], &json["count"]), (&"23505".into(), &1.into()));
        assert!(json["hint"].is_null());
    }

    #[test]
    fn an_event_fits_into_a_pipe() {
        let long = "ä".repeat(100_000);
        let event = Event::of_conflicts("shop", "reports", 50, vec![note(&long); 50]);
        assert!(event.to_json().len() < 64 * 1024, "{}", event.to_json().len());
    }
}
