//! Changes logged while the executor makes them.
//!
//! In: the evaluation of the WHEN clause of our trigger, which is `log_now`, or what `executor` has put in its place. Out:
//! the change in the buffer, and "false".
//!
//! PostgreSQL looks at the WHEN clause of an AFTER ROW trigger as soon as the row is changed, with the row before and the row
//! after it at hand (TriggerEnabled in trigger.c). Only where it is true an event is queued, for which both rows are fetched
//! again and the function is called when the statement ends; that costs several times what capture does. So the clause is
//! one of these: no event is queued, and the change stands in the buffer in the order in which rows really changed.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;

use pgrx::pg_guard;
use pgrx::pg_sys::{
    self, Datum, ExprContext, ExprState, HeapTuple, MemoryContext, Oid, Relation, TupleTableSlot,
};

use super::raw;
use super::row_change::{Event, Moment, RowChange};
use super::when::Filter;
use crate::{capture, origin};

/// A condition of ours, in the form of a compiled expression.
#[repr(C)]
pub struct Immediate {
    /// The executor knows no more of it than this.
    state: ExprState,
    /// Null until it is known.
    relation: Cell<Relation>,
    trigger: Cell<Fires>,
    filter: Cell<Option<Filter>>,
}

/// What of a trigger matters here.
#[derive(Clone, Copy)]
pub struct Fires {
    pub function: Oid,
    pub always: bool,
}

impl Fires {
    pub fn of(trigger: &pg_sys::Trigger) -> Fires {
        Fires { function: trigger.tgfoid, always: trigger.tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS as i8 }
    }
}

impl Immediate {
    /// One of a trigger, allocated in `context`.
    ///
    /// # Safety
    /// `filter` lives as long.
    pub unsafe fn new(trigger: Fires, filter: Option<Filter>, context: MemoryContext) -> *mut Immediate {
        let state = ExprState {
            type_: pg_sys::NodeTag::T_ExprState,
            flags: pg_sys::EEO_FLAG_IS_QUAL as u8,
            evalfunc: Some(log_at_once),
            ..Default::default()
        };
        let (relation, trigger, filter) = (Cell::new(ptr::null_mut()), Cell::new(trigger), Cell::new(filter));
        // SAFETY: memory of that size, aligned for anything.
        unsafe {
            let place: *mut Immediate = pg_sys::MemoryContextAlloc(context, size_of::<Immediate>()).cast();
            place.write(Immediate { state, relation, trigger, filter });
            place
        }
    }

    /// What the executor evaluates, for rows of this relation.
    pub fn of(&self, relation: Relation) -> *mut ExprState {
        self.relation.set(relation);
        (&raw const self.state).cast_mut()
    }

    pub fn is_of_a_relation(&self) -> bool {
        !self.relation.get().is_null()
    }

    /// Says whose rows it is evaluated for, and by which filter.
    pub fn belongs_to(&self, relation: Relation, trigger: Fires, filter: Option<Filter>) {
        self.relation.set(relation);
        self.trigger.set(trigger);
        self.filter.set(filter);
    }

    /// The filter by itself, if there is one.
    pub fn filter(&self) -> Option<Filter> {
        self.filter.get()
    }

    /// Logs the change whose rows are in the context.
    ///
    /// # Safety
    /// The executor evaluates a condition of a trigger of the relation in this context, and nothing is borrowed.
    #[inline]
    pub unsafe fn log(&self, context: *mut ExprContext) {
        // SAFETY: as the caller vouches; the relation is open. An UPDATE that moves a row to another partition is one of the
        // partitioned table as well, but for foreign keys only.
        unsafe {
            let kind = (*(*self.relation.get()).rd_rel).relkind as u8;
            if kind == pg_sys::RELKIND_PARTITIONED_TABLE || !origin::is_logged(|| self.trigger.get().always) {
                return;
            }
            if let Some(change) = self.change(context) {
                capture::log_change(&change);
            }
        }
    }

    /// What is to be logged of a change.
    ///
    /// # Safety
    /// The executor evaluates the condition in this context.
    #[inline]
    unsafe fn change(&self, context: *mut ExprContext) -> Option<RowChange<'_>> {
        // SAFETY: the slots have the rows before and after the change, if there are such; both are of the relation, which is
        // open. Errors jump over this frame, which owns nothing.
        unsafe {
            let filter = self.filter.get();
            if filter.is_some_and(|filter| !filter.passes(context)) {
                return None;
            }
            let (old, new) = ((*context).ecxt_innertuple, (*context).ecxt_outertuple);
            let event = match (old.is_null(), new.is_null()) {
                (true, _) => Event::Insert,
                (_, true) => Event::Delete,
                _ => match filter.and_then(|filter| filter.was_and_is_in(context)) {
                    Some((false, true)) => Event::Insert,
                    Some((true, false)) => Event::Delete,
                    _ => Event::Update,
                },
            };
            let none = ptr::null_mut();
            Some(RowChange {
                relation: self.relation.get(),
                function: self.trigger.get().function,
                event,
                moment: Moment::AtOnce((*(*context).ecxt_estate).es_output_cid),
                before: if event == Event::Insert { none } else { tuple(old) },
                after: if event == Event::Delete { none } else { tuple(new) },
                made_in: PhantomData,
            })
        }
    }
}

/// The tuple in a slot; a copy, in the memory of the row at hand, where the slot has none.
///
/// # Safety
/// The slot has a row.
#[inline]
unsafe fn tuple(slot: *mut TupleTableSlot) -> HeapTuple {
    let mut is_copy = false;
    // SAFETY: the caller vouches for the slot.
    unsafe { raw::ExecFetchSlotHeapTuple(slot, false, &mut is_copy) }
}

/// # Safety
/// The executor evaluates the condition `state`, which is the beginning of one of ours.
#[pg_guard]
unsafe extern "C-unwind" fn log_at_once(
    state: *mut ExprState,
    context: *mut ExprContext,
    is_null: *mut bool,
) -> Datum {
    // SAFETY: as PostgreSQL calls it.
    unsafe {
        *is_null = false;
        (*state.cast::<Immediate>()).log(context);
    }
    Datum::from(false)
}
