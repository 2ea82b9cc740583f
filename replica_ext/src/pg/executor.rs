//! What the executor is given when a statement begins that writes to captured tables: conditions of our triggers, compiled
//! once, in the places of those that it would read from the catalog for each statement.
//!
//! In: the start of each statement. Out: its changes of rows are logged at once (`immediate`), or its triggers have their
//! filters ready (`when`). It only saves work: without it PostgreSQL reads the conditions, as for COPY, for rows that are
//! routed to partitions, which the executor opens when the first row comes to them, and in the first statement of a session,
//! before which this library is not there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_int, CStr};

use pgrx::pg_sys::{self, Datum, FunctionCallInfo, MemoryContext, Oid, QueryDesc, ResultRelInfo, Trigger};

use super::immediate::{Fires, Immediate};
use super::when::{Filter, Sides};
use super::{log_now, relation, trigger, unguarded};
use crate::guc;

/// What is kept of a table from one statement to the next, until PostgreSQL tells that the table has changed.
struct Table {
    context: MemoryContext,
    triggers: Vec<Kept>,
    /// Who may evaluate its filters: which functions they may call was found out for him.
    user: Option<Oid>,
}

/// What is kept of one of our row triggers.
#[derive(Clone, Copy)]
struct Kept {
    /// Where it stands among those of the table.
    index: usize,
    trigger: Oid,
    immediate: *mut Immediate,
}

thread_local! {
    /// By oid. Ordered: to find one of a few takes a fraction of what hashing takes.
    static KEPT: RefCell<BTreeMap<u32, Table>> = const { RefCell::new(BTreeMap::new()) };
    /// What statements that still run may refer to.
    static RETIRED: RefCell<Vec<MemoryContext>> = const { RefCell::new(Vec::new()) };
    static PREVIOUS: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// PostgreSQL's functions, called where nothing has to be dropped when they raise an ERROR.
mod raw {
    use std::ffi::c_int;

    use pgrx::pg_sys::QueryDesc;

    unsafe extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut QueryDesc, flags: c_int);
    }
}

finfo!(pg_finfo_pyreplica_ready);

/// `pyreplica.ready()`, which stands in each WHEN clause and is true. It loads this library: without it a session that
/// writes nothing but rows that do not pass would never do so. PostgreSQL evaluates it once in a statement, since it is
/// declared immutable.
///
/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
pub unsafe extern "C-unwind" fn pyreplica_ready(_fcinfo: FunctionCallInfo) -> Datum {
    Datum::from(true)
}

/// Has the executor call when it begins.
pub fn register() {
    let functions = pg_sys::SysCacheIdentifier::PROCOID as c_int;
    // SAFETY: a backend is one thread; the library is never unloaded.
    unsafe {
        pg_sys::CacheRegisterSyscacheCallback(functions, Some(at_change_of_function), Datum::null());
        PREVIOUS.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(at_executor_start);
    }
}

/// Which filters call a function is not known.
unsafe extern "C-unwind" fn at_change_of_function(_arg: Datum, _cache: c_int, _hash: u32) {
    KEPT.with_borrow_mut(|kept| {
        let filtered = kept.extract_if(.., |_, table| table.user.is_some());
        RETIRED.with_borrow_mut(|retired| retired.extend(filtered.map(|(_, table)| table.context)));
    });
}

/// # Safety
/// Called by PostgreSQL. Errors jump over this frame, which owns nothing.
unsafe extern "C-unwind" fn at_executor_start(query: *mut QueryDesc, flags: c_int) {
    // SAFETY: after its start the estate has the list of the tables to be written to.
    unsafe {
        match PREVIOUS.get() {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
        let tables = relation::result_tables((*(*query).estate).es_opened_result_relations);
        tables.for_each(|table| provide(table));
    }
}

/// Gives a table what is kept of it, or can be.
///
/// # Safety
/// `table` was made by the executor.
unsafe fn provide(table: &ResultRelInfo) {
    // SAFETY: an open relation; errors jump over this frame, which owns nothing.
    unsafe {
        let oid = (*table.ri_RelationDesc).rd_id.to_u32();
        let known = || KEPT.with(|kept| kept.borrow().get(&oid).map(|known| known.provide(table)));
        if known().is_some() {
            return;
        }
        let triggers = relation::triggers_of(table.ri_TrigDesc);
        if triggers.iter().any(|trigger| has_our_name(trigger)) {
            pg_sys::panic::pgrx_extern_c_guard(|| keep(table));
            known();
        }
    }
}

impl Table {
    /// Puts what is kept of its triggers where the executor would put what it reads.
    ///
    /// # Safety
    /// `table` was made by the executor, and is this one.
    unsafe fn provide(&self, table: &ResultRelInfo) {
        // SAFETY: an open relation; the description of its triggers is the statement's own copy, with a place for the
        // condition of each.
        unsafe {
            let at_once = guc::log_at_once();
            let may_filter = self.user.is_none_or(|user| user == unguarded::GetUserId());
            let described = relation::triggers_of(table.ri_TrigDesc);
            for &Kept { index, trigger, immediate } in &self.triggers {
                if described.get(index).is_none_or(|described| described.tgoid != trigger) {
                    continue;
                }
                let immediate = &*immediate;
                let condition = match immediate.filter() {
                    None if at_once => immediate.of(table.ri_RelationDesc),
                    Some(_) if at_once && may_filter => immediate.of(table.ri_RelationDesc),
                    Some(filter) if may_filter => filter.compiled(),
                    _ => continue,
                };
                *table.ri_TrigWhenExprs.add(index) = condition;
            }
        }
    }
}

/// Whether it may be one of ours, by its name (sql/40_capture.sql).
///
/// # Safety
/// The trigger is one of an open relation.
unsafe fn has_our_name(trigger: &Trigger) -> bool {
    // SAFETY: names are C strings.
    let name = unsafe { CStr::from_ptr(trigger.tgname) }.to_bytes();
    name.get(1..).is_some_and(|rest| rest.starts_with(b"pyreplica"))
}

/// Makes what can be kept of a table.
///
/// # Safety
/// `table` was made by the executor.
unsafe fn keep(table: &ResultRelInfo) {
    // SAFETY: an open relation; everything is allocated in the context of the table.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CacheMemoryContext,
            c"pyreplica triggers".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        RETIRED.with_borrow_mut(|retired| retired.push(context));
        let before = pg_sys::MemoryContextSwitchTo(context);
        let all = relation::triggers_of(table.ri_TrigDesc);
        let mut kept = Table { context, triggers: Vec::new(), user: None };
        for (index, described) in all.iter().enumerate() {
            let disabled = described.tgenabled == pg_sys::TRIGGER_DISABLED as i8;
            if disabled || described.tgqual.is_null() || !trigger::is_ours(described) {
                continue;
            }
            let filter = match log_now::is_condition_of(described) {
                true => None,
                false => {
                    let Some(filter) = Filter::of(described, all) else { continue };
                    kept.user = Some(pg_sys::GetUserId());
                    Some(filter)
                }
            };
            let immediate = Immediate::new(Fires::of(described), filter, context);
            kept.triggers.push(Kept { index, trigger: described.tgoid, immediate });
        }
        pg_sys::MemoryContextSwitchTo(before);
        // From here on nothing fails, so the context belongs to the table.
        RETIRED.with_borrow_mut(|retired| retired.retain(|&c| c != context));
        let oid = (*table.ri_RelationDesc).rd_id.to_u32();
        if let Some(old) = KEPT.with_borrow_mut(|all| all.insert(oid, kept)) {
            RETIRED.with_borrow_mut(|retired| retired.push(old.context));
        }
    }
}

/// What is kept of a trigger for UPDATE of a table with a filter over rows.
pub fn sides_of(table: Oid, trigger: Oid) -> Option<Sides> {
    KEPT.with(|kept| {
        let kept = kept.try_borrow().ok()?;
        let kept = kept.get(&table.to_u32())?.triggers.iter().find(|kept| kept.trigger == trigger)?;
        // SAFETY: it lives as long as its table is kept.
        unsafe { (*kept.immediate).filter()?.sides() }
    })
}

/// The table has changed (InvalidOid: any may have); what is kept of it is not used again. Raises nothing.
pub fn forget(relation: Oid) {
    // Nobody holds them while PostgreSQL runs.
    KEPT.with_borrow_mut(|kept| {
        RETIRED.with_borrow_mut(|retired| {
            if relation == pg_sys::InvalidOid {
                retired.extend(std::mem::take(kept).into_values().map(|table| table.context));
            } else {
                retired.extend(kept.remove(&relation.to_u32()).map(|table| table.context));
            }
        })
    });
}

/// The transaction has ended, and with it all statements. Raises nothing.
pub fn end_of_transaction() {
    // SAFETY: made by `keep`, and known to nobody any more.
    RETIRED.with_borrow_mut(|retired| unsafe {
        retired.drain(..).for_each(|context| pg_sys::MemoryContextDelete(context))
    });
}
