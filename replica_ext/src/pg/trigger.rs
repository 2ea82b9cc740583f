//! The trigger functions' gate: checks how PostgreSQL called, and offers the call safely.
//!
//! They are plain C functions rather than `#[pg_trigger]`: the latter looks up names and allocates for each row.

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, HeapTuple, Oid};
use pgrx::{pg_guard, PgSqlErrorCode};

use super::relation::{self, Description, Values};
use super::session;
use super::tuple::{self, Row};
use super::version;
use super::when;
use crate::{capture, error, guc, origin};

/// A call of a row or statement trigger, valid until it returns.
pub struct Call<'a> {
    data: &'a pg_sys::TriggerData,
    /// What has happened to the row, or the table.
    event: Event,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
    Insert,
    Update,
    Delete,
    Truncate,
}

impl Call<'_> {
    /// What is logged of a row trigger's call: an UPDATE may move a row in or out of its table's filter.
    ///
    /// # Safety
    /// `fcinfo` is that of the call.
    #[inline]
    unsafe fn logs(&self, fcinfo: FunctionCallInfo) -> Option<Event> {
        let event = self.event;
        // SAFETY: the trigger is valid for the duration of the call.
        unsafe {
            if event != Event::Update || (*self.data.tg_trigger).tgqual.is_null() {
                return Some(event);
            }
            match when::was_and_is_in(self.data, fcinfo) {
                Some((true, false)) => Some(Event::Delete),
                Some((false, true)) => Some(Event::Insert),
                // What a function of the filter says may be another thing now than when the row was changed.
                Some((false, false)) => None,
                Some((true, true)) | None => Some(event),
            }
        }
    }

    #[inline]
    pub fn relation_oid(&self) -> Oid {
        // SAFETY: the relation is open for the duration of the call (trigger protocol).
        unsafe { (*self.data.tg_relation).rd_id }
    }

    /// Nearly every session writes in its own name.
    #[inline]
    fn is_logged(&self) -> bool {
        // SAFETY: the trigger is valid for the duration of the call.
        let always = || unsafe { (*self.data.tg_trigger).tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS as i8 };
        !(session::is_replica() || guc::has_origin()) || origin::is_logged(always())
    }

    /// The table as the log names it: a partition under the name of the table that was added.
    pub fn describe(&self) -> Description {
        // SAFETY: the relation is open for the duration of the call.
        unsafe { relation::describe(self.data.tg_relation, self.captured_table(), self.function()) }
    }

    /// The table under its own name.
    pub fn describe_itself(&self) -> Description {
        // SAFETY: as above.
        unsafe { relation::describe(self.data.tg_relation, self.relation_oid(), self.function()) }
    }

    /// The table that was added: for a partition the topmost ancestor that has the trigger itself.
    pub fn captured_table(&self) -> Oid {
        relation::captured_ancestor(self.relation_oid(), self.function()).unwrap_or(self.relation_oid())
    }

    /// The function of the trigger.
    fn function(&self) -> Oid {
        // SAFETY: the trigger is valid for the duration of the call.
        unsafe { (*self.data.tg_trigger).tgfoid }
    }

    fn old_tuple(&self) -> HeapTuple {
        self.data.tg_trigtuple
    }

    fn new_tuple(&self) -> HeapTuple {
        if self.event == Event::Update {
            self.data.tg_newtuple
        } else {
            self.data.tg_trigtuple
        }
    }

    /// The row before an UPDATE or DELETE, to be taken apart in `row`.
    #[inline(always)]
    pub fn row_before<'b>(&'b self, description: &'b Description, row: &'b mut Row) -> Values<'b> {
        // SAFETY: a row trigger has the tuple, of the relation, until it returns.
        unsafe { description.values(self.data.tg_relation, self.old_tuple(), row) }
    }

    /// The row after an INSERT or UPDATE.
    #[inline(always)]
    pub fn row_after<'b>(&'b self, description: &'b Description, row: &'b mut Row) -> Values<'b> {
        // SAFETY: as above.
        unsafe { description.values(self.data.tg_relation, self.new_tuple(), row) }
    }

    /// The command that made the change.
    #[inline]
    pub fn command(&self) -> u32 {
        // SAFETY: the new version was written, or the old one deleted, by the current transaction: this is
        // what the trigger fires for. The tuples are copies with their headers.
        unsafe {
            match self.event {
                Event::Delete => tuple::ended_by(self.old_tuple()).unwrap_or_else(super::session::command_id),
                _ => tuple::written_by(self.new_tuple()),
            }
        }
    }

    /// The command that has since changed again what this change wrote.
    #[inline]
    pub fn superseded_by(&self) -> Option<u32> {
        match self.event {
            // SAFETY: as for `command`.
            Event::Insert | Event::Update => unsafe { tuple::ended_by(self.new_tuple()) },
            _ => None,
        }
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
        let event = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            _ => Event::Truncate,
        };
        Call { data, event }
    }
}

macro_rules! finfo {
    ($name:ident) => {
        #[no_mangle]
        pub extern "C" fn $name() -> &'static pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}

finfo!(pg_finfo_pyreplica_log_change);
finfo!(pg_finfo_pyreplica_log_truncate);
finfo!(pg_finfo_pyreplica_log_statement);

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_log_change(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL called with this fcinfo.
    let call = unsafe { call(fcinfo, pg_sys::TRIGGER_EVENT_ROW, "pyreplica.log_change()") };
    if call.is_logged() {
        // SAFETY: as above. What a filter calls may change captured rows: so it is asked before capture begins.
        if let Some(event) = unsafe { call.logs(fcinfo) } {
            capture::log_change(&call, event);
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
