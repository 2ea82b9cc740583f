//! `pyreplica.log_now()`, the WHEN clause of each trigger, or its last term.
//!
//! In: the clause, as PostgreSQL compiles it for a statement. Out: an expression that logs the change of the row that it is
//! evaluated for (`immediate`).
//!
//! PostgreSQL evaluates the clause with the changed row in the expression's context, but hands the context to no function
//! that is called there. It does to the subscripts of a type that brings its own (`nodes/subscripting.h`). So our support
//! function, which it asks how to simplify the call, gives it a subscript of a type of ours, `pyreplica.row_change`.

use std::cell::Cell;
use std::ptr;

use pgrx::pg_sys::{self, Datum, ExprContext, ExprEvalStep, ExprState, FunctionCallInfo, Node, Oid};
use pgrx::{pg_guard, PgSqlErrorCode};

use super::immediate::{Fires, Immediate};
use super::when::{Filter, Sides};
use super::{relation, trigger};
use crate::{error, guc};

finfo!(
    pg_finfo_pyreplica_log_now,
    pg_finfo_pyreplica_log_now_support,
    pg_finfo_pyreplica_row_change_in,
    pg_finfo_pyreplica_row_change_out,
    pg_finfo_pyreplica_row_change_subscript
);

/// Called as a function it is in the wrong place.
///
/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_log_now(_fcinfo: FunctionCallInfo) -> Datum {
    error::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "pyreplica.log_now() can only stand in the WHEN clause of a trigger".into(),
        "Replicate a table with pyreplica.add_table.",
    )
}

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_row_change_in(_fcinfo: FunctionCallInfo) -> Datum {
    no_values()
}

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_row_change_out(_fcinfo: FunctionCallInfo) -> Datum {
    no_values()
}

fn no_values() -> ! {
    error::raise(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        "type pyreplica.row_change has no values".into(),
        "It stands in conditions of triggers that pyreplica.add_table makes.",
    )
}

/// What a support function is asked, with the call to be simplified: a node of one kind or another.
///
/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
#[pg_guard]
pub unsafe extern "C-unwind" fn pyreplica_log_now_support(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: a support function has one argument, a node, whose tag tells its type. In a WHEN clause there is no query to be
    // planned. The node that is made is one as the parser makes them.
    unsafe {
        let request: *mut Node = (*fcinfo).args.as_slice(1)[0].value.cast_mut_ptr();
        if (*request).type_ != pg_sys::NodeTag::T_SupportRequestSimplify {
            return Datum::null();
        }
        let request = &*request.cast::<pg_sys::SupportRequestSimplify>();
        let container = container_of((*request.fcall).funcid);
        if !request.root.is_null() || container == pg_sys::InvalidOid {
            return Datum::null();
        }
        let subscript: *mut pg_sys::SubscriptingRef =
            pg_sys::palloc0(size_of::<pg_sys::SubscriptingRef>()).cast();
        (*subscript).xpr.type_ = pg_sys::NodeTag::T_SubscriptingRef;
        (*subscript).refcontainertype = container;
        (*subscript).refrestype = pg_sys::BOOLOID;
        (*subscript).reftypmod = -1;
        (*subscript).refexpr = pg_sys::makeNullConst(container, -1, pg_sys::InvalidOid).cast();
        Datum::from(subscript)
    }
}

/// The type `row_change` in the schema of a function. It goes with its extension, as the function does, and so is that of
/// the function as long as that has its oid.
fn container_of(function: Oid) -> Oid {
    thread_local! {
        static LAST: Cell<(Oid, Oid)> = const { Cell::new((pg_sys::InvalidOid, pg_sys::InvalidOid)) };
    }
    let (known, container) = LAST.get();
    if known == function && container != pg_sys::InvalidOid {
        return container;
    }
    // SAFETY: looks a type up in the system cache by name and schema.
    let container = unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            Datum::from(c"row_change".as_ptr()),
            Datum::from(pg_sys::get_func_namespace(function)),
            Datum::null(),
            Datum::null(),
        )
    };
    LAST.set((function, container));
    container
}

/// # Safety
/// Called by PostgreSQL.
#[no_mangle]
pub unsafe extern "C-unwind" fn pyreplica_row_change_subscript(_fcinfo: FunctionCallInfo) -> Datum {
    static ROUTINES: pg_sys::SubscriptRoutines = pg_sys::SubscriptRoutines {
        transform: Some(refuse),
        exec_setup: Some(set_up),
        fetch_strict: false,
        fetch_leakproof: false,
        store_leakproof: false,
    };
    Datum::from(&raw const ROUTINES)
}

/// Somebody has written such a subscript.
///
/// # Safety
/// Called by PostgreSQL.
#[pg_guard]
unsafe extern "C-unwind" fn refuse(
    _subscript: *mut pg_sys::SubscriptingRef,
    _indirection: *mut pg_sys::List,
    _state: *mut pg_sys::ParseState,
    _is_slice: bool,
    _is_assignment: bool,
) {
    no_values()
}

/// An expression with the subscript is being compiled.
///
/// # Safety
/// Called by PostgreSQL.
#[pg_guard]
unsafe extern "C-unwind" fn set_up(
    _subscript: *const pg_sys::SubscriptingRef,
    state: *mut pg_sys::SubscriptingRefState,
    methods: *mut pg_sys::SubscriptExecSteps,
) {
    // SAFETY: both are there to be filled; what is allocated lives as long as the compiled expression.
    unsafe {
        let unknown = Fires { function: pg_sys::InvalidOid, always: false };
        (*state).workspace = Immediate::new(unknown, None, pg_sys::CurrentMemoryContext).cast();
        (*methods).sbs_fetch = Some(fetch);
    }
}

/// # Safety
/// Called by PostgreSQL, where it evaluates the subscript.
#[pg_guard]
unsafe extern "C-unwind" fn fetch(state: *mut ExprState, step: *mut ExprEvalStep, context: *mut ExprContext) {
    // SAFETY: a step of the kind that `set_up` was called for, which has filled the workspace.
    unsafe {
        let immediate = &*(*(*step).d.sbsref.state).workspace.cast::<Immediate>();
        let known =
            immediate.is_of_a_relation() || is_last(state, step) && find_trigger(immediate, state, context);
        let at_once = known && guc::log_at_once();
        if at_once {
            immediate.log(context);
        }
        *(*step).resnull = false;
        *(*step).resvalue = Datum::from(!at_once);
    }
}

/// Whether a step is the last term of a condition, as the call that we have put there is. In a filter, or in what a filter
/// calls, somebody may have put another.
///
/// # Safety
/// The expression is being evaluated, and the step is one of it.
unsafe fn is_last(state: *mut ExprState, step: *mut ExprEvalStep) -> bool {
    // SAFETY: as the caller vouches. A condition ends with its last term, the look at it (EEOP_QUAL), and the end.
    unsafe { (*state).steps_len >= 3 && (*state).steps.add((*state).steps_len as usize - 3) == step }
}

/// Finds out of which trigger this is the condition, compiled for the statement at hand; false if it is none of ours, which is
/// to fire then. So whatever else somebody makes of `log_now()`, a check or a trigger of his own, logs nothing.
///
/// # Safety
/// The executor evaluates the expression in this context.
#[cold]
unsafe fn find_trigger(immediate: &Immediate, state: *mut ExprState, context: *mut ExprContext) -> bool {
    // SAFETY: the tables that the statement writes to are open, and have a place for the condition of each trigger.
    unsafe {
        let estate = (*context).ecxt_estate;
        if estate.is_null() {
            return false;
        }
        let lists = [(*estate).es_opened_result_relations, (*estate).es_tuple_routing_result_relations];
        for table in lists.into_iter().flat_map(|list| relation::result_tables(list)) {
            let triggers = relation::triggers_of(table.ri_TrigDesc);
            let compiled = |i| *table.ri_TrigWhenExprs.add(i);
            let Some(i) = (0..triggers.len()).find(|&i| compiled(i) == state) else { continue };
            if !trigger::is_ours(&triggers[i]) {
                return false;
            }
            let current = pg_sys::MemoryContextSwitchTo((*estate).es_query_cxt);
            let filter = Sides::of(&triggers[i], triggers).map(Filter::of_sides);
            pg_sys::MemoryContextSwitchTo(current);
            immediate.belongs_to(table.ri_RelationDesc, Fires::of(&triggers[i]), filter);
            return true;
        }
        false
    }
}

/// Whether the WHEN clause of a trigger is this and no more.
///
/// # Safety
/// The trigger is one of an open relation, and has a condition.
pub unsafe fn is_condition_of(trigger: &pg_sys::Trigger) -> bool {
    // SAFETY: PostgreSQL made the text of a tree.
    unsafe { is_call(pg_sys::stringToNode(trigger.tgqual).cast()) }
}

/// The condition without it, if it is the last of several terms.
///
/// # Safety
/// `condition` is an expression of its own, which is changed.
pub unsafe fn without(condition: *mut Node) -> *mut Node {
    // SAFETY: a node's tag tells its type.
    unsafe {
        if (*condition).type_ == pg_sys::NodeTag::T_BoolExpr {
            let terms = &mut (*condition.cast::<pg_sys::BoolExpr>()).args;
            if is_call(pg_sys::list_nth(*terms, pg_sys::list_length(*terms) - 1).cast()) {
                *terms = pg_sys::list_delete_last(*terms);
            }
        }
        condition
    }
}

/// # Safety
/// `node` is of an expression.
unsafe fn is_call(node: *mut Node) -> bool {
    // SAFETY: a node's tag tells its type; the function exists.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_FuncExpr {
            return false;
        }
        let mut function = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info((*node.cast::<pg_sys::FuncExpr>()).funcid, &mut function);
        function.fn_addr.is_some_and(|called| ptr::fn_addr_eq(called, pyreplica_log_now as trigger::Function))
    }
}
