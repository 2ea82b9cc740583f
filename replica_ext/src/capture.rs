//! Capture: from the change of a row to messages in the transaction's buffer; `flush` writes them to the log.
//!
//! In: changes of rows, calls of the other triggers and of the transaction callbacks. Out: chunk rows before the commit, and a
//! NOTIFY where somebody sleeps, a latch set where somebody dozes.
//! Nothing is allocated for an ordinary row: it is taken apart into vectors kept from the row before, and written
//! to the end of the buffer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use pgrx::pg_sys::Oid;

use crate::buffer::{Buffer, Key, KeyChange, Open, Place, Spot};
use crate::captured::Captured;
use crate::encode;
use crate::pg::heap::LogTables;
use crate::pg::relation;
use crate::pg::row_change::{Event, Moment, RowChange};
use crate::pg::session::{self, Pinned, Setting};
use crate::pg::trigger::Call;
use crate::pg::tuple::Row;
use crate::pg::xact;
use crate::{error, guc};

mod flush;

thread_local! {
    // Never dropped: at the exit of the backend PostgreSQL has taken down what the caches refer to.
    static CAPTURE: ManuallyDrop<RefCell<Capture>> = ManuallyDrop::new(RefCell::default());
}

#[derive(Default)]
struct Capture {
    buffer: Buffer,
    /// By oid. Ordered: to find one of a few takes a fraction of what hashing takes.
    relations: BTreeMap<u32, Rc<Captured>>,
    /// The relation of the last change: nearly always that of the next one.
    last: Option<(Oid, Rc<Captured>)>,
    log: Option<LogTables>,
    /// The role that logged last, and its name.
    role: Option<(Oid, Option<Rc<[u8]>>)>,
    /// The chunk table that writers used when this session last looked, and when that was.
    current: Option<(usize, i64)>,
    /// The chunk table that this transaction writes to, once it has.
    table: Option<usize>,
    truncate: Option<OpenTruncate>,
    /// Number of the last sleep of a reader for which this session has notified; and with the transaction at hand.
    notified: i64,
    notifies: i64,
    old_row: Row,
    new_row: Row,
    changed: Vec<usize>,
}

/// The last message, if it is a TRUNCATE: further tables of the same statement join it.
struct OpenTruncate {
    place: Place,
    start: usize,
    end: (u64, usize),
    command: u32,
    restart: Option<bool>,
    tables: Vec<(Oid, Rc<Captured>)>,
}

/// Logs the change of a row.
#[inline]
pub fn log_change(change: &RowChange) {
    CAPTURE.with(|capture| capture.borrow_mut().log_change(change));
}

/// Logs a TRUNCATE.
pub fn log_truncate(call: &Call) {
    CAPTURE.with(|capture| capture.borrow_mut().log_truncate(call));
}

/// Logs a statement for the slaves.
pub fn log_statement(call: &Call) {
    CAPTURE.with(|capture| capture.borrow_mut().log_statement(call));
}

/// The same, for who has run it here.
pub fn queue_statement(sql: &[u8], role: &[u8], settings: &[Setting]) {
    CAPTURE.with(|capture| capture.borrow_mut().queue_statement(sql, role, settings));
}

/// How many changes the transaction has made so far.
pub fn changes() -> u64 {
    CAPTURE.with(|capture| capture.borrow().buffer.totals.changes)
}

/// Writes what is left of the transaction to the log. An error aborts the transaction.
pub fn before_commit(notify: bool) {
    CAPTURE.with(|capture| capture.borrow_mut().finish(notify));
}

/// The transaction has committed, and with it its NOTIFY. Raises nothing.
pub fn committed() {
    CAPTURE.with(|capture| {
        if let Ok(mut capture) = capture.try_borrow_mut() {
            capture.notified = capture.notifies;
        }
    });
}

/// The transaction has ended. Raises nothing; where the backend dies in the middle of capture there is nothing
/// left to forget.
pub fn forget() {
    CAPTURE.with(|capture| {
        if let Ok(mut capture) = capture.try_borrow_mut() {
            capture.buffer.clear();
            capture.notifies = capture.notified;
            capture.table = None;
            capture.truncate = None;
        }
    });
}

/// A subtransaction is about to commit. An error aborts it.
pub fn before_subtransaction_commit() {
    CAPTURE.with(|capture| {
        // Not while a row is taken apart, which may call functions of the user's types.
        if let Ok(mut capture) = capture.try_borrow_mut() {
            if !capture.buffer.is_empty() && capture.buffer.release(session::nest_level(), guc::buffer_size())
            {
                // The statement whose trigger is firing may have rows to come.
                capture.spill(session::trigger_depth() + 1);
            }
        }
    });
}

pub fn subtransaction_committed() {
    CAPTURE.with(|capture| {
        if let Ok(mut capture) = capture.try_borrow_mut() {
            if !capture.buffer.is_empty() {
                capture.buffer.commit_level(session::nest_level());
            }
        }
    });
}

pub fn subtransaction_aborted() {
    CAPTURE.with(|capture| {
        if let Ok(mut capture) = capture.try_borrow_mut() {
            if !capture.buffer.is_empty() {
                capture.buffer.abort_level(session::nest_level());
                capture.truncate = None;
            }
        }
    });
}

impl Capture {
    fn log_change(&mut self, made: &RowChange) {
        self.truncate = None;
        let captured = self.relation(made);
        let description = &captured.description;
        if description.key.is_empty() {
            error::no_primary_key(&description.schema, &description.name);
        }
        let Capture { buffer, old_row, new_row, changed, .. } = self;
        let change = Change { made, captured: &captured, buffer };
        match made.event {
            Event::Insert => {
                let new = made.row_after(description, new_row);
                change.log(|| None, |open| captured.write_insert(open, &new));
            }
            Event::Delete => {
                let mut old = made.row_before(description, old_row);
                old.find_key();
                change.log(|| Some(captured.key_of(&old)), |open| captured.write_delete(open, &old));
            }
            Event::Update => {
                let mut old = made.row_before(description, old_row);
                let mut new = made.row_after(description, new_row);
                old.changes(&mut new, changed);
                if changed.is_empty() {
                    return;
                }
                old.find_key();
                let key_changed = description.key.iter().any(|k| changed.contains(k));
                let released = || key_changed.then(|| captured.key_of(&old));
                if key_changed || description.whole_rows {
                    change.log(released, |open| captured.write_whole_update(open, &old, &new, changed));
                } else {
                    change.log(released, |open| captured.write_update(open, &old, &new, changed));
                }
            }
        }
        self.spill_if_large(made.moment);
    }

    fn log_truncate(&mut self, call: &Call) {
        let (oid, added) = (call.relation_oid(), call.added_table());
        let command = session::command_id();
        let restart = relation::owned_sequences_restarted(oid);
        self.buffer.enter(session::nest_level());
        let joins = self.truncate.take().filter(|t| t.command == command && t.end == self.buffer.end());
        if oid != added {
            // A partition goes with the partitioned table of the same statement, or by itself.
            match joins.filter(|t| t.tables.iter().any(|(table, _)| *table == added)) {
                Some(open) => self.truncate = Some(open),
                None => self.log_truncate_of_partition(call, command),
            }
            return;
        }
        let mut truncate = joins.unwrap_or_else(|| OpenTruncate {
            place: self.buffer.place_last(command, session::trigger_depth()),
            start: 0,
            end: (0, 0),
            command,
            restart: None,
            tables: Vec::new(),
        });
        if !truncate.tables.is_empty() {
            self.buffer.take_back(truncate.place, truncate.start);
        }
        // A statement restarts the sequences of all its tables or of none.
        truncate.restart = match (truncate.restart, restart) {
            (Some(a), Some(b)) => Some(a && b),
            (a, b) => a.or(b),
        };
        truncate.tables.push((oid, Captured::new(call.describe_itself())));
        loop {
            let mut open = self.buffer.open(truncate.place);
            truncate.start = open.start;
            let relations: Vec<u32> =
                truncate.tables.iter().map(|(_, t)| t.introduce(&mut open, [])).collect();
            let flags = if truncate.restart == Some(true) { encode::TRUNCATE_RESTART } else { 0 };
            encode::truncate(open.bytes, flags, &relations);
            let start = truncate.start;
            if self.buffer.close(truncate.place, start) {
                break;
            }
        }
        truncate.end = self.buffer.end();
        self.truncate = Some(truncate);
    }

    fn log_truncate_of_partition(&mut self, call: &Call, command: u32) {
        let tables = [Captured::new(call.describe()), Captured::new(call.describe_itself())];
        let place = self.buffer.place_last(command, session::trigger_depth());
        loop {
            let mut open = self.buffer.open(place);
            let start = open.start;
            let relations = tables.each_ref().map(|t| t.introduce(&mut open, []));
            encode::truncate(open.bytes, encode::TRUNCATE_PARTITIONS, &relations);
            if self.buffer.close(place, start) {
                break;
            }
        }
    }

    fn log_statement(&mut self, call: &Call) {
        let Some(sql) = call.new_text("sql").filter(|s| !s.trim_ascii().is_empty()) else {
            error::raise(
                pgrx::PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "column \"sql\" of pyreplica.replica_log must hold a statement".into(),
                "INSERT INTO pyreplica.replica_log (sql) VALUES ('...') queues a statement for all slaves.",
            )
        };
        // For the slaves only, so nobody has run it here: it is the agent's role that runs it there.
        self.queue_statement(&sql, b"", &session::settings_of_meaning());
    }

    fn queue_statement(&mut self, sql: &[u8], role: &[u8], settings: &[Setting]) {
        self.truncate = None;
        self.buffer.enter(session::nest_level());
        let place = self.buffer.place_last(session::command_id(), session::trigger_depth());
        loop {
            let open = self.buffer.open(place);
            let start = open.start;
            encode::statement(open.bytes, sql, role, settings);
            if self.buffer.close(place, start) {
                break;
            }
        }
        self.spill_if_large(Moment::Later);
    }

    /// What is known of the relation whose row is changed.
    #[inline]
    fn relation(&mut self, change: &RowChange) -> Rc<Captured> {
        if xact::any_stale() {
            self.drop_stale();
        }
        let oid = change.relation_oid();
        match &self.last {
            Some((last, captured)) if *last == oid => captured.clone(),
            _ => self.look_up(oid, change),
        }
    }

    fn look_up(&mut self, oid: Oid, change: &RowChange) -> Rc<Captured> {
        let captured = self.relations.entry(oid.to_u32()).or_insert_with(|| Captured::new(change.describe()));
        self.last = Some((oid, captured.clone()));
        captured.clone()
    }

    #[cold]
    fn drop_stale(&mut self) {
        let stale = xact::take_stale();
        if stale.contains(&pgrx::pg_sys::InvalidOid) {
            self.relations.clear();
            self.log = None;
            self.current = None;
            self.role = None;
        } else {
            self.relations.retain(|_, captured| {
                let about = &captured.description;
                !stale.iter().any(|&oid| oid.to_u32() == about.oid || oid == about.named)
            });
            self.log = self.log.filter(|log| !stale.iter().any(|&oid| log.mentions(oid)));
        }
        self.last = None;
    }

    #[inline(always)]
    fn spill_if_large(&mut self, moment: Moment) {
        if self.buffer.has_grown() {
            self.spill_beyond_limit(moment);
        }
    }

    fn spill_beyond_limit(&mut self, moment: Moment) {
        let limit = guc::buffer_size();
        match self.buffer.wants_spill(limit) {
            true => self.spill(depth_of(moment)),
            false => self.buffer.make_room(limit),
        }
    }
}

/// How deep in triggers a statement is nested whose change is logged: 1 for one of the client.
fn depth_of(moment: Moment) -> i32 {
    match moment {
        // The trigger that logs it is not firing.
        Moment::AtOnce(_) => session::trigger_depth() + 1,
        Moment::Later => session::trigger_depth(),
    }
}

/// The change of a row, on its way into the buffer.
struct Change<'a> {
    made: &'a RowChange<'a>,
    captured: &'a Captured,
    buffer: &'a mut Buffer,
}

impl Change<'_> {
    /// `released` gives the key that the change gives up, `write` its message.
    #[inline(always)]
    fn log(self, released: impl FnOnce() -> Option<Key>, write: impl Fn(&mut Open)) {
        let Change { made, captured, buffer } = self;
        let pinned = captured.pinned.then(Pinned::set);
        buffer.enter(session::nest_level());
        let place = match made.moment {
            Moment::AtOnce(cid) if buffer.continues(cid) => buffer.last_place(),
            Moment::AtOnce(cid) => buffer.place_last(cid, depth_of(made.moment)),
            Moment::Later => {
                let (cid, superseded_by) = (made.command(), made.superseded_by());
                if superseded_by.is_none() && buffer.continues(cid) {
                    buffer.last_place()
                } else {
                    let (schema, name) = (&captured.description.schema, &captured.description.name);
                    let spot = Spot { cid, superseded_by, depth: depth_of(made.moment) };
                    let key =
                        || KeyChange { schema: schema.clone(), name: name.clone(), released: released() };
                    buffer.place(spot, key).unwrap_or_else(|_| error::spilled_too_early(schema, name))
                }
            }
        };
        loop {
            let mut open = buffer.open(place);
            let start = open.start;
            write(&mut open);
            if buffer.close(place, start) {
                break;
            }
        }
        if let Some(pinned) = pinned {
            pinned.restore();
        }
    }
}
