//! WHEN clauses of our triggers, compiled.
//!
//! In: a trigger of a table with a row filter, and calls of the one for UPDATE. Out: its condition for the executor, and on
//! which side of the filter a row was and is.
//! PostgreSQL reads a WHEN clause from its stored text in every statement, which takes a third of an INSERT of one row
//! and half an UPDATE, for each trigger. A condition is kept beyond its statement only if nothing of the users' can run while it
//! is evaluated: it could come to itself again, or change rows before the one that it is asked about is logged. So it is made
//! of PostgreSQL's own immutable functions over types that are named: what takes any type may call what users have made for
//! theirs (a cast to json, the check of a domain), and what is stable may read a view. (What a simple function in SQL says is
//! part of it.) And no step of it may remember anything of the statement that came to it first, as one with the whole row
//! does. It follows from the table and the functions, of whose changes PostgreSQL tells, and from what the user may call.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use pgrx::pg_guard;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, ExprContext, ExprState, FunctionCallInfo, Node, Oid, Trigger, TriggerData};

use super::{executor, log_now, relation};

/// A condition that is kept.
#[derive(Clone, Copy)]
pub struct Filter {
    whole: *mut ExprState,
    /// Of the trigger for UPDATE of a table with a filter over rows.
    sides: Option<Sides>,
}

/// The filter over the row before an UPDATE, and over the row after it.
#[derive(Clone, Copy)]
pub struct Sides {
    before: *mut ExprState,
    after: *mut ExprState,
    context: *mut ExprContext,
}

/// The language of PostgreSQL's own functions, by its oid in pg_language.dat.
const INTERNAL: Oid = Oid::from_u32(12);
/// A type that is no domain, row, enum, range, or one that stands for several.
const BASE_TYPE: c_char = pg_sys::TYPTYPE_BASE as c_char;

/// PostgreSQL's functions, called where nothing has to be dropped when they raise an ERROR.
mod raw {
    use std::ffi::c_void;

    use pgrx::pg_sys::Node;

    pub type Walker = unsafe extern "C-unwind" fn(*mut Node, *mut c_void) -> bool;

    unsafe extern "C-unwind" {
        /// nodes/nodeFuncs.h
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree_walker(node: *mut Node, walker: Walker, context: *mut c_void) -> bool;
    }
}

impl Filter {
    /// The condition of a trigger, compiled in the current memory context; `None` if it cannot be kept.
    ///
    /// # Safety
    /// The trigger has a condition, and is one of `all` those of an open relation.
    pub unsafe fn of(trigger: &Trigger, all: &[Trigger]) -> Option<Filter> {
        // SAFETY: PostgreSQL made the text of a tree.
        unsafe {
            let tree = log_now::without(tree(trigger));
            let terms: *mut pg_sys::Expr = pg_sys::make_ands_implicit(tree.cast()).cast();
            let terms: *mut Node = pg_sys::expression_planner(terms).cast();
            if !can_be_kept(terms) {
                return None;
            }
            let whole = pg_sys::ExecInitQual(terms.cast(), ptr::null_mut());
            Some(Filter { whole, sides: Sides::of(trigger, all) })
        }
    }

    /// One that is true of all rows that it is asked about.
    pub fn of_sides(sides: Sides) -> Filter {
        Filter { whole: ptr::null_mut(), sides: Some(sides) }
    }

    /// NULL where it is always true.
    pub fn compiled(self) -> *mut ExprState {
        self.whole
    }

    pub fn sides(self) -> Option<Sides> {
        self.sides
    }

    /// Whether it is true of the rows in the context.
    ///
    /// # Safety
    /// The executor evaluates a condition of the trigger in this context. Errors jump over the caller.
    pub unsafe fn passes(self, context: *mut ExprContext) -> bool {
        // SAFETY: as the caller vouches.
        unsafe { self.whole.is_null() || is_true(self.whole, context) }
    }

    /// Whether the row before an UPDATE was in a filter over rows, and the one after it is.
    ///
    /// # Safety
    /// As for `passes`.
    pub unsafe fn was_and_is_in(self, context: *mut ExprContext) -> Option<(bool, bool)> {
        let Sides { before, after, .. } = self.sides?;
        // SAFETY: as the caller vouches.
        unsafe { Some((is_true(before, context), is_true(after, context))) }
    }
}

/// Evaluates a condition. Errors jump over this frame, which owns nothing.
///
/// # Safety
/// The context has the rows that the condition is about, and its memory for a row is the current one.
unsafe fn is_true(state: *mut ExprState, context: *mut ExprContext) -> bool {
    let mut is_null = false;
    // SAFETY: the caller vouches for the context.
    let value = unsafe {
        let evaluate = (*state).evalfunc.expect("a compiled expression can be evaluated");
        evaluate(state, context, &mut is_null)
    };
    !is_null && value.value() != 0
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

/// Whether an expression is, or has in it, what may not be evaluated beyond its statement, or may run what is the users'.
///
/// # Safety
/// Called with a node of an expression.
#[pg_guard]
unsafe extern "C-unwind" fn cannot_be_kept(node: *mut Node, context: *mut c_void) -> bool {
    #[pg_guard]
    unsafe extern "C-unwind" fn is_other(function: Oid, _context: *mut c_void) -> bool {
        // SAFETY: a row of pg_proc begins with its fixed columns, of which the last are the types of the arguments.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
            let row = pg_sys::SearchSysCache1(cache, function.into());
            if row.is_null() {
                return true;
            }
            let header = (*row).t_data;
            let columns: *const pg_sys::FormData_pg_proc = header.byte_add((*header).t_hoff as usize).cast();
            let is_own = (*columns).prolang == INTERNAL
                && (*columns).provolatile == pg_sys::PROVOLATILE_IMMUTABLE as c_char;
            let arguments = (*columns).proargtypes.values.as_slice((*columns).pronargs as usize);
            let types: Vec<Oid> = arguments.iter().copied().chain([(*columns).prorettype]).collect();
            pg_sys::ReleaseSysCache(row);
            // Values of an enum are compared by the catalog.
            let is_known = |&type_oid: &Oid| {
                type_oid == pg_sys::ANYENUMOID || pg_sys::get_typtype(type_oid) == BASE_TYPE
            };
            !(is_own && types.iter().all(is_known))
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
            // An array or a row has its values checked by the types of what it holds, as their domains say.
            T_CoerceViaIO => is_plain((*node.cast::<pg_sys::CoerceViaIO>()).resulttype),
            T_MinMaxExpr => is_plain((*node.cast::<pg_sys::MinMaxExpr>()).minmaxtype),
            // Of an array, which alone has elements of a type.
            T_SubscriptingRef => (*node.cast::<pg_sys::SubscriptingRef>()).refelemtype != pg_sys::InvalidOid,
            T_List | T_Const | T_FuncExpr | T_OpExpr | T_DistinctExpr | T_NullIfExpr | T_BoolExpr
            | T_NullTest | T_BooleanTest | T_RelabelType | T_CaseExpr | T_CaseWhen | T_CaseTestExpr
            | T_CoalesceExpr | T_ArrayExpr | T_SQLValueFunction => true,
            _ => false,
        }
    }
}

/// Whether it is one of PostgreSQL's own types, and none that holds values of others.
unsafe fn is_plain(type_oid: Oid) -> bool {
    /// access/transam.h: what initdb has numbered by itself comes from there on.
    const FIRST_UNPINNED: u32 = 12000;
    // SAFETY: looks the type up in the system cache.
    let category = unsafe {
        let (mut category, mut preferred) = (0, false);
        pg_sys::get_type_category_preferred(type_oid, &mut category, &mut preferred);
        category as u8
    };
    type_oid.to_u32() < FIRST_UNPINNED && !matches!(category, b'A' | b'C' | b'P' | b'R')
}

impl Sides {
    /// The filter over either row in the condition of the trigger for UPDATE, compiled in the current memory context;
    /// None for other triggers, and with a filter over changes (sql/40_capture.sql).
    ///
    /// # Safety
    /// The trigger has a condition, and is one of `all` those of an open relation.
    pub unsafe fn of(trigger: &Trigger, all: &[Trigger]) -> Option<Sides> {
        // SAFETY: the caller vouches for the triggers.
        unsafe {
            if u32::from(trigger.tgtype as u16) & pg_sys::TRIGGER_TYPE_UPDATE == 0 {
                return None;
            }
            let (_, mut words) = relation::record(all, trigger.tgfoid)?;
            if !words.any(|word| word == b"rows") {
                return None;
            }
            let &[_ready, either, ..] = terms(tree(trigger)).as_slice() else { return None };
            let &[before, after] = terms(either).as_slice() else { return None };
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
            let kept = executor::sides_of((*data.tg_relation).rd_id, trigger.tgoid);
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

/// The terms of an AND or OR; none of what is neither.
///
/// # Safety
/// `node` is of an expression.
unsafe fn terms(node: *mut Node) -> Vec<*mut Node> {
    // SAFETY: a node's tag tells its type, and a list its length.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_BoolExpr {
            return Vec::new();
        }
        let terms = (*node.cast::<pg_sys::BoolExpr>()).args;
        (0..pg_sys::list_length(terms)).map(|n| pg_sys::list_nth(terms, n).cast()).collect()
    }
}

/// Whether a condition can be kept. Asked before the planner has seen it, of functions in SQL it does not know what they say.
///
/// # Safety
/// `terms` is of an expression.
pub unsafe fn can_be_kept(terms: *mut Node) -> bool {
    // SAFETY: as the caller vouches.
    unsafe { !pg_sys::contain_volatile_functions(terms) && !cannot_be_kept(terms, ptr::null_mut()) }
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
            let values = [before, after].map(|state| is_true(state, context));
            pg_sys::CurrentMemoryContext = current;
            values
        });
        pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
        Some((values[0], values[1]))
    }
}
