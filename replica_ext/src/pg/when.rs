//! Conditions of our triggers, kept from one statement to the next.
//!
//! In: the start of each statement that writes to a table with a row filter, and the call of its trigger for UPDATE.
//! Out: compiled WHEN clauses for the executor, and on which side of the filter a row was and is.
//! PostgreSQL reads a WHEN clause from its stored text in every statement, which takes a third of an INSERT of one row
//! and half an UPDATE, for each trigger. A condition is kept only if it calls nothing but functions in C, of which none is
//! volatile: then it cannot come to itself again while it is evaluated. (What a simple function in SQL says is then part of
//! it.) And only if no step of it remembers anything of the statement that came to it first, as one with the whole row does. It follows from the table and the functions, of whose changes PostgreSQL tells, and from what the user may call.
//! All others are read by PostgreSQL as if this file were not there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void, CStr};
use std::ptr;

use pgrx::pg_guard;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{
    self, Datum, ExprContext, ExprState, FunctionCallInfo, MemoryContext, Node, Oid, QueryDesc,
    ResultRelInfo, Trigger, TriggerData,
};

use super::{relation, unguarded, xact};

/// The conditions of a table's triggers.
struct Table {
    context: MemoryContext,
    user: Oid,
    conditions: Vec<Condition>,
}

#[derive(Clone, Copy)]
struct Condition {
    /// Where the trigger stands among those of the table.
    index: usize,
    trigger: Oid,
    whole: *mut ExprState,
    /// Of the trigger for UPDATE of a table with a filter over rows.
    sides: Option<Sides>,
}

/// The filter over the row before an UPDATE, and over the row after it.
#[derive(Clone, Copy)]
struct Sides {
    before: *mut ExprState,
    after: *mut ExprState,
    context: *mut ExprContext,
}

/// Languages by their oids in pg_language.dat.
const INTERNAL: Oid = Oid::from_u32(12);
const C: Oid = Oid::from_u32(13);

thread_local! {
    /// By oid. Ordered: to find one of a few takes a fraction of what hashing takes.
    static KEPT: RefCell<BTreeMap<u32, Table>> = const { RefCell::new(BTreeMap::new()) };
    /// What statements that still run may refer to.
    static RETIRED: RefCell<Vec<MemoryContext>> = const { RefCell::new(Vec::new()) };
    static IS_HOOKED: Cell<bool> = const { Cell::new(false) };
    static PREVIOUS: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
}

/// PostgreSQL's functions, called where nothing has to be dropped when they raise an ERROR.
mod raw {
    use std::ffi::{c_int, c_void};

    use pgrx::pg_sys::{Node, QueryDesc};

    pub type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;

    unsafe extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut QueryDesc, flags: c_int);
        /// nodes/nodeFuncs.h
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
    }
}

#[no_mangle]
pub extern "C" fn pg_finfo_pyreplica_ready() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `pyreplica.ready()`, which stands in each condition and is true. It loads this library: without it a session that
/// writes nothing but rows that do not pass would never do so. PostgreSQL evaluates it once in a statement, since it is
/// declared immutable.
///
/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
pub unsafe extern "C-unwind" fn pyreplica_ready(_fcinfo: FunctionCallInfo) -> Datum {
    if !IS_HOOKED.replace(true) {
        // SAFETY: a backend is one thread; the library is never unloaded.
        unsafe {
            pg_sys::panic::pgrx_extern_c_guard(|| {
                xact::register();
                let functions = pg_sys::SysCacheIdentifier::PROCOID as c_int;
                pg_sys::CacheRegisterSyscacheCallback(functions, Some(at_change_of_function), Datum::null());
            });
            PREVIOUS.set(pg_sys::ExecutorStart_hook);
            pg_sys::ExecutorStart_hook = Some(at_executor_start);
        }
    }
    Datum::from(true)
}

/// Which conditions call a function is not known.
unsafe extern "C-unwind" fn at_change_of_function(_arg: Datum, _cache: c_int, _hash: u32) {
    forget(pg_sys::InvalidOid);
}

/// Gives the executor the conditions that are kept of the tables it is about to write to.
///
/// # Safety
/// Called by PostgreSQL. Errors jump over this frame, which owns nothing.
unsafe extern "C-unwind" fn at_executor_start(query: *mut QueryDesc, flags: c_int) {
    // SAFETY: after its start the estate has the list of the tables to be written to.
    unsafe {
        match PREVIOUS.get() {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
        let tables = (*(*query).estate).es_opened_result_relations;
        if tables.is_null() {
            return;
        }
        for cell in std::slice::from_raw_parts((*tables).elements, (*tables).length as usize) {
            let table = &*cell.ptr_value.cast::<ResultRelInfo>();
            if !provide(table) && triggers(table).iter().any(|trigger| is_ours(trigger)) {
                pg_sys::panic::pgrx_extern_c_guard(|| keep(table));
                provide(table);
            }
        }
    }
}

/// # Safety
/// `table` is open for as long as the result is used.
unsafe fn triggers(table: &ResultRelInfo) -> &[Trigger] {
    // SAFETY: the description is NULL or has numtriggers triggers.
    unsafe {
        match table.ri_TrigDesc.as_ref() {
            None => &[],
            Some(description) => {
                std::slice::from_raw_parts(description.triggers, description.numtriggers as usize)
            }
        }
    }
}

/// Whether it has a condition to be kept. To be wrong would do no harm: what is kept means what the text does.
unsafe fn is_ours(trigger: &Trigger) -> bool {
    // SAFETY: names are C strings.
    unsafe {
        !trigger.tgqual.is_null()
            && trigger.tgenabled != pg_sys::TRIGGER_DISABLED as i8
            && CStr::from_ptr(trigger.tgname)
                .to_bytes()
                .get(1..)
                .is_some_and(|n| n.starts_with(b"pyreplica_"))
    }
}

/// Puts what is kept of the table where the executor would put what it reads. False if nothing is known of it.
///
/// # Safety
/// `table` was made by the executor.
unsafe fn provide(table: &ResultRelInfo) -> bool {
    KEPT.with(|kept| {
        let kept = kept.borrow();
        // SAFETY: an open relation; the executor has a place for the condition of each trigger.
        unsafe {
            let Some(known) = kept.get(&(*table.ri_RelationDesc).rd_id.to_u32()) else { return false };
            let triggers = triggers(table);
            let conditions = if known.user == unguarded::GetUserId() { &known.conditions[..] } else { &[] };
            for condition in conditions {
                if triggers.get(condition.index).is_some_and(|t| t.tgoid == condition.trigger) {
                    *table.ri_TrigWhenExprs.add(condition.index) = condition.whole;
                }
            }
        }
        true
    })
}

/// Compiles the conditions of a table's triggers, those that can be kept.
///
/// # Safety
/// `table` was made by the executor.
unsafe fn keep(table: &ResultRelInfo) {
    // SAFETY: an open relation, whose triggers have texts that PostgreSQL made of trees; everything is allocated in the
    // context of the table.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CacheMemoryContext,
            c"pyreplica conditions".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        RETIRED.with_borrow_mut(|retired| retired.push(context));
        let before = pg_sys::MemoryContextSwitchTo(context);
        let mut conditions = Vec::new();
        let all = triggers(table);
        for (index, trigger) in all.iter().enumerate().filter(|(_, t)| is_ours(t)) {
            let terms: *mut pg_sys::Expr = pg_sys::make_ands_implicit(tree(trigger).cast()).cast();
            let terms: *mut Node = pg_sys::expression_planner(terms).cast();
            if pg_sys::contain_volatile_functions(terms) || cannot_be_kept(terms, ptr::null_mut()) {
                continue;
            }
            let whole = pg_sys::ExecInitQual(terms.cast(), ptr::null_mut());
            conditions.push(Condition {
                index,
                trigger: trigger.tgoid,
                whole,
                sides: Sides::of(trigger, all),
            });
        }
        pg_sys::MemoryContextSwitchTo(before);
        // From here on nothing fails, so the context belongs to the table.
        RETIRED.with_borrow_mut(|retired| retired.retain(|&c| c != context));
        let oid = (*table.ri_RelationDesc).rd_id.to_u32();
        KEPT.with_borrow_mut(|kept| {
            kept.insert(oid, Table { context, user: pg_sys::GetUserId(), conditions })
        });
    }
}

/// The condition as PostgreSQL prepares it: OLD is the inner row, NEW the outer one.
///
/// # Safety
/// The trigger has a condition.
unsafe fn tree(trigger: &Trigger) -> *mut Node {
    // SAFETY: the text was made of a tree.
    unsafe {
        let tree: *mut Node = pg_sys::stringToNode(trigger.tgqual).cast();
        pg_sys::ChangeVarNodes(tree, pg_sys::PRS2_OLD_VARNO as i32, pg_sys::INNER_VAR, 0);
        pg_sys::ChangeVarNodes(tree, pg_sys::PRS2_NEW_VARNO as i32, pg_sys::OUTER_VAR, 0);
        tree
    }
}

/// Whether an expression is, or has in it, what may not be evaluated beyond its statement, or calls what is not written
/// in C.
///
/// # Safety
/// Called with a node of an expression.
#[pg_guard]
unsafe extern "C-unwind" fn cannot_be_kept(node: *mut Node, context: *mut c_void) -> bool {
    #[pg_guard]
    unsafe extern "C-unwind" fn is_other(function: Oid, _context: *mut c_void) -> bool {
        // SAFETY: a row of pg_proc begins with its fixed columns.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
            let row = pg_sys::SearchSysCache1(cache, function.into());
            if row.is_null() {
                return true;
            }
            let header = (*row).t_data;
            let columns: *const pg_sys::FormData_pg_proc = header.byte_add((*header).t_hoff as usize).cast();
            let language = (*columns).prolang;
            pg_sys::ReleaseSysCache(row);
            language != INTERNAL && language != C
        }
    }
    // SAFETY: PostgreSQL calls walkers with a node and the context.
    unsafe {
        !node.is_null()
            && (!is_of_no_statement(node)
                || pg_sys::check_functions_in_node(node, Some(is_other), context)
                || raw::expression_tree_walker(node, cannot_be_kept, context))
    }
}

/// Whether all that evaluation remembers of a node is where it was compiled (execExprInterp.c: not in the memory of the
/// query), and says the same in every statement. Of a row as a whole neither is true.
///
/// # Safety
/// `node` is of an expression.
unsafe fn is_of_no_statement(node: *mut Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: a node's tag tells its type.
    unsafe {
        match (*node).type_ {
            T_Var => (*node.cast::<pg_sys::Var>()).varattno != 0,
            // With a hash function it is a table in the memory of the query.
            T_ScalarArrayOpExpr => {
                (*node.cast::<pg_sys::ScalarArrayOpExpr>()).hashfuncid == pg_sys::InvalidOid
            }
            T_List | T_Const | T_FuncExpr | T_OpExpr | T_DistinctExpr | T_NullIfExpr | T_BoolExpr
            | T_NullTest | T_BooleanTest | T_RelabelType | T_CoerceViaIO | T_CaseExpr | T_CaseWhen
            | T_CaseTestExpr | T_CoalesceExpr | T_ArrayExpr | T_SubscriptingRef | T_SQLValueFunction => true,
            _ => false,
        }
    }
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

impl Sides {
    /// The filter over either row in the condition of the trigger for UPDATE, compiled in the current memory context;
    /// None for other triggers, and with a filter over changes (sql/40_capture.sql).
    ///
    /// # Safety
    /// The trigger has a condition, and is one of `all` those of an open relation.
    unsafe fn of(trigger: &Trigger, all: &[Trigger]) -> Option<Sides> {
        // SAFETY: the caller vouches for the triggers.
        unsafe {
            if u32::from(trigger.tgtype as u16) & pg_sys::TRIGGER_TYPE_UPDATE == 0 {
                return None;
            }
            let (_, mut words) = relation::record(all, trigger.tgfoid)?;
            if !words.any(|word| word == b"rows") {
                return None;
            }
            let (_ready, either) = terms(tree(trigger))?;
            let (before, after) = terms(either)?;
            let compiled = |term: *mut Node| {
                pg_sys::ExecInitExpr(pg_sys::expression_planner(term.cast()), ptr::null_mut())
            };
            let context = pg_sys::CreateStandaloneExprContext();
            Some(Sides { before: compiled(before), after: compiled(after), context })
        }
    }

    /// What is kept of the trigger that was called, or is kept until its statement ends.
    ///
    /// # Safety
    /// `fcinfo` is of a call for UPDATE of a trigger that has two sides.
    unsafe fn of_call(data: &TriggerData, fcinfo: FunctionCallInfo) -> Option<Sides> {
        // SAFETY: the trigger is valid during the call; flinfo belongs to one statement, and its extra to us.
        unsafe {
            let trigger = &*data.tg_trigger;
            let kept = KEPT.with(|kept| {
                let kept = kept.try_borrow().ok()?;
                let conditions = &kept.get(&(*data.tg_relation).rd_id.to_u32())?.conditions;
                conditions.iter().find(|c| c.trigger == trigger.tgoid)?.sides
            });
            let function = &mut *(*fcinfo).flinfo;
            if kept.is_none() && function.fn_extra.is_null() {
                let before = pg_sys::MemoryContextSwitchTo(function.fn_mcxt);
                let sides = Sides::of(trigger, relation::triggers(data.tg_relation));
                pg_sys::MemoryContextSwitchTo(before);
                let place: *mut Sides =
                    pg_sys::MemoryContextAlloc(function.fn_mcxt, size_of::<Sides>()).cast();
                place.write(sides?);
                function.fn_extra = place.cast();
            }
            kept.or_else(|| Some(*function.fn_extra.cast::<Sides>()))
        }
    }
}

/// The two terms of an AND or OR.
///
/// # Safety
/// `node` is of an expression.
unsafe fn terms(node: *mut Node) -> Option<(*mut Node, *mut Node)> {
    // SAFETY: a node's tag tells its type, and a list its length.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_BoolExpr {
            return None;
        }
        let terms = (*node.cast::<pg_sys::BoolExpr>()).args;
        let term = |n| pg_sys::list_nth(terms, n).cast();
        (pg_sys::list_length(terms) == 2).then(|| (term(0), term(1)))
    }
}

/// Whether the row of an UPDATE was in the table's filter, and whether it is.
///
/// # Safety
/// As for `Sides::of_call`.
pub unsafe fn was_and_is_in(data: &TriggerData, fcinfo: FunctionCallInfo) -> Option<(bool, bool)> {
    // SAFETY: a trigger for UPDATE has both slots until it returns. An expression may raise an ERROR, and run whatever
    // its functions do: nothing of ours is borrowed meanwhile.
    unsafe {
        let Sides { before, after, context } = Sides::of_call(data, fcinfo)?;
        let values = pg_guard_ffi_boundary(|| {
            (*context).ecxt_innertuple = data.tg_trigslot;
            (*context).ecxt_outertuple = data.tg_newslot;
            let current = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*context).ecxt_per_tuple_memory;
            let values = [before, after].map(|state| {
                let mut is_null = false;
                let evaluate = (*state).evalfunc.expect("a compiled expression can be evaluated");
                let value = evaluate(state, context, &mut is_null);
                !is_null && value.value() != 0
            });
            pg_sys::CurrentMemoryContext = current;
            values
        });
        pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
        Some((values[0], values[1]))
    }
}
