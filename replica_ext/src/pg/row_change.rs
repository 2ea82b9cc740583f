//! A change of a row as capture sees it, whether the executor has just made it (`immediate`) or a trigger is called with it
//! (`trigger`).

use std::marker::PhantomData;

use pgrx::pg_sys::{self, HeapTuple, Oid};

use super::relation::{self, Description, Values};
use super::session;
use super::tuple::{self, Row};

/// What has happened to the row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
    Insert,
    Update,
    Delete,
}

/// When capture hears of a change.
#[derive(Clone, Copy)]
pub enum Moment {
    /// As the executor makes it, by this command.
    AtOnce(pg_sys::CommandId),
    /// When its statement has ended, and with it perhaps others that changed captured rows.
    Later,
}

/// Valid until what it was made in returns.
pub struct RowChange<'a> {
    pub(super) relation: pg_sys::Relation,
    /// The function of the trigger.
    pub(super) function: Oid,
    pub event: Event,
    pub moment: Moment,
    /// Of the relation; null where the event has none.
    pub(super) before: HeapTuple,
    pub(super) after: HeapTuple,
    pub(super) made_in: PhantomData<&'a ()>,
}

impl RowChange<'_> {
    #[inline]
    pub fn relation_oid(&self) -> Oid {
        // SAFETY: the relation is open while the change is made.
        unsafe { (*self.relation).rd_id }
    }

    /// The table as the log names it: a partition under the name of the table that was added.
    pub fn describe(&self) -> Description {
        let added = relation::added_table(self.relation_oid(), self.function);
        // SAFETY: as above.
        unsafe { relation::describe(self.relation, added, self.function) }
    }

    /// The row before an UPDATE or DELETE, to be taken apart in `row`.
    #[inline(always)]
    pub fn row_before<'b>(&'b self, description: &'b Description, row: &'b mut Row) -> Values<'b> {
        // SAFETY: an UPDATE or DELETE has the tuple, of the relation, while it is made.
        unsafe { description.values(self.relation, self.before, row) }
    }

    /// The row after an INSERT or UPDATE.
    #[inline(always)]
    pub fn row_after<'b>(&'b self, description: &'b Description, row: &'b mut Row) -> Values<'b> {
        // SAFETY: likewise.
        unsafe { description.values(self.relation, self.after, row) }
    }

    /// The command that made the change, as the tuples of a trigger's call tell.
    #[inline]
    pub fn command(&self) -> pg_sys::CommandId {
        // SAFETY: the new version was written, or the old one deleted, by the current transaction: this is
        // what the trigger fires for. The tuples are copies with their headers.
        unsafe {
            match self.event {
                Event::Delete => tuple::ended_by(self.before).unwrap_or_else(session::command_id),
                _ => tuple::written_by(self.after),
            }
        }
    }

    /// The command that has since changed again what this change wrote.
    #[inline]
    pub fn superseded_by(&self) -> Option<pg_sys::CommandId> {
        match self.event {
            // SAFETY: as for `command`.
            Event::Insert | Event::Update => unsafe { tuple::ended_by(self.after) },
            _ => None,
        }
    }
}
