//! The trigger functions' gate: checks how PostgreSQL called, and offers the call safely.
//!
//! They are plain C functions rather than `#[pg_trigger]`: the latter looks up names and allocates for each row.

use std::cell::Cell;
use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Oid};
use pgrx::{pg_guard, PgSqlErrorCode};

use super::relation::{self, Description};
use super::row_change::{Event, Moment, RowChange};
use super::version;
use super::when;
use crate::{capture, error, origin};

/// A call of a row or statement trigger, valid until it returns.
pub struct Call<'a> {
    data: &'a pg_sys::TriggerData,
}

impl Call<'_> {
    /// What is logged of a row trigger's call: an UPDATE may move a row in or out of its table's filter.
    ///
    /// # Safety
    /// `fcinfo` is that of the call, which is one for a row.
    #[inline]
    unsafe fn row_change(&self, fcinfo: FunctionCallInfo) -> Option<RowChange<'_>> {
        let (old, new) = (self.data.tg_trigtuple, self.data.tg_newtuple);
        let none = std::ptr::null_mut();
        let (mut event, mut before, mut after) = match self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => (Event::Insert, none, old),
            pg_sys::TRIGGER_EVENT_DELETE => (Event::Delete, old, none),
            _ => (Event::Update, old, new),
        };
        // SAFETY: the trigger is valid for the duration of the call.
        unsafe {
            if event == Event::Update && !(*self.data.tg_trigger).tgqual.is_null() {
                match when::was_and_is_in(self.data, fcinfo) {
                    Some((true, false)) => (event, after) = (Event::Delete, none),
                    Some((false, true)) => (event, before) = (Event::Insert, none),
                    // What a function of the filter says may be another thing now than when the row was changed.
                    Some((false, false)) => return None,
                    Some((true, true)) | None => {}
                }
            }
        }
        Some(RowChange {
            relation: self.data.tg_relation,
            function: self.function(),
            event,
            moment: Moment::Later,
            before,
            after,
            made_in: PhantomData,
        })
    }

    pub fn relation_oid(&self) -> Oid {
        // SAFETY: the relation is open for the duration of the call (trigger protocol).
        unsafe { (*self.data.tg_relation).rd_id }
    }

    #[inline]
    fn is_logged(&self) -> bool {
        // SAFETY: the trigger is valid for the duration of the call.
        let always = || unsafe { (*self.data.tg_trigger).tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS as i8 };
        origin::is_logged(always)
    }

    /// The table under the name of the one that was added.
    pub fn describe(&self) -> Description {
        // SAFETY: the relation is open for the duration of the call.
        unsafe { relation::describe(self.data.tg_relation, self.added_table(), self.function()) }
    }

    /// The table under its own name.
    pub fn describe_itself(&self) -> Description {
        // SAFETY: as above.
        unsafe { relation::describe(self.data.tg_relation, self.relation_oid(), self.function()) }
    }

    /// The table that was added: a partitioned one, perhaps, that this is a part of.
    pub fn added_table(&self) -> Oid {
        relation::added_table(self.relation_oid(), self.function())
    }

    /// The function of the trigger.
    fn function(&self) -> Oid {
        // SAFETY: the trigger is valid for the duration of the call.
        unsafe { (*self.data.tg_trigger).tgfoid }
    }

    /// A text column of the new row of an INSTEAD OF trigger on a view; None is NULL.
    pub fn new_text(&self, column: &str) -> Option<Vec<u8>> {
        // SAFETY: the descriptor is the relation's; the column is text, checked by its type oid.
        unsafe {
            let descriptor = (*self.data.tg_relation).rd_att;
            let attrs = version::attributes(descriptor);
            let index = attrs.iter().position(|a| pgrx::name_data_to_str(&a.attname) == column)?;
            if attrs[index].atttypid != pg_sys::TEXTOID {
                return None;
            }
            let mut is_null = false;
            let value =
                pg_sys::SPI_getbinval(self.data.tg_trigtuple, descriptor, index as i32 + 1, &mut is_null);
            if is_null {
                return None;
            }
            let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
            Some(super::types::to_utf8(pgrx::varlena::varlena_to_byte_slice(text)).into_owned())
        }
    }
}

/// The call, if it is one of a trigger with this level and timing.
///
/// # Safety
/// `fcinfo` is what PostgreSQL called the function with.
unsafe fn call<'a>(fcinfo: FunctionCallInfo, wanted: u32, what: &'static str) -> Call<'a> {
    let mask = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
    // SAFETY: a node's tag tells whether the context is trigger data (CALLED_AS_TRIGGER).
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            error::raise(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                format!("{what} was not called by the trigger manager"),
                "Attach it with pyreplica.add_table.",
            );
        }
        let data = &*context.cast::<pg_sys::TriggerData>();
        if data.tg_event & mask != wanted {
            error::raise(
                PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                format!("{what} is not a trigger of this kind"),
                "Attach it with pyreplica.add_table.",
            );
        }
        Call { data }
    }
}

/// Whether a trigger of an open relation calls `pyreplica_log_change` for a row that was changed.
pub fn is_ours(trigger: &pg_sys::Trigger) -> bool {
    let kind = u32::from(trigger.tgtype as u16);
    let timing = pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSTEAD;
    if kind & pg_sys::TRIGGER_TYPE_ROW == 0 || kind & timing != 0 || trigger.tgdeferrable {
        return false;
    }
    thread_local! {
        /// That function, as long as it has its oid.
        static LAST: Cell<Oid> = const { Cell::new(pg_sys::InvalidOid) };
    }
    if LAST.get() == trigger.tgfoid {
        return true;
    }
    let mut function = pg_sys::FmgrInfo::default();
    // SAFETY: the function of a trigger exists.
    unsafe { pg_sys::fmgr_info(trigger.tgfoid, &mut function) };
    let is_ours =
        function.fn_addr.is_some_and(|called| std::ptr::fn_addr_eq(called, pyreplica_log_change as Function));
    if is_ours {
        LAST.set(trigger.tgfoid);
    }
    is_ours
}

pub type Function = unsafe extern "C-unwind" fn(FunctionCallInfo) -> Datum;

finfo!(pg_finfo_pyreplica_log_change, pg_finfo_pyreplica_log_truncate, pg_finfo_pyreplica_log_statement);

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_log_change(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL called with this fcinfo.
    let call = unsafe { call(fcinfo, pg_sys::TRIGGER_EVENT_ROW, "pyreplica.log_change()") };
    if call.is_logged() {
        // SAFETY: as above. What a filter calls may change captured rows: so it is asked before capture begins.
        if let Some(change) = unsafe { call.row_change(fcinfo) } {
            capture::log_change(&change);
        }
    }
    Datum::null()
}

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_log_truncate(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL called with this fcinfo.
    let call = unsafe { call(fcinfo, 0, "pyreplica.log_truncate()") };
    if call.is_logged() {
        capture::log_truncate(&call);
    }
    Datum::null()
}

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_log_statement(fcinfo: FunctionCallInfo) -> Datum {
    let kind = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_INSTEAD;
    // SAFETY: PostgreSQL called with this fcinfo.
    let call = unsafe { call(fcinfo, kind, "pyreplica.log_statement()") };
    capture::log_statement(&call);
    Datum::from(call.data.tg_trigtuple)
}
