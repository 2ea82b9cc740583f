//! Row filters: trees of SQL expressions over the rows of a table, and the conditions of triggers made of them.
//!
//! In: what `expression` has read. Out: triggers with WHEN clauses; and, of those, text again.
//! A filter stays a tree from the moment it is read: its names are looked up once, as the caller's, and it is never
//! put into another statement as text.

use std::ffi::{CStr, CString};
use std::ptr;

use pgrx::pg_sys::BoolExprType::{AND_EXPR, OR_EXPR};
use pgrx::pg_sys::{self, Datum, Node, Oid};
use pgrx::{pg_extern, pg_guard, PgSqlErrorCode};

use super::{version, when};
use crate::error;

/// Numbers of the relations in an expression: PostgreSQL's own in a trigger, and one for the plain row. `expression`
/// puts them into its namespace in this order.
const OLD: i32 = pg_sys::PRS2_OLD_VARNO as i32;
const NEW: i32 = pg_sys::PRS2_NEW_VARNO as i32;
const PLAIN: i32 = 3;

/// What a filter speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The plain row: the slaves hold those for which it is true. Its columns stand in the tree as those of NEW.
    Rows,
    /// OLD and NEW: a change is logged if it is true.
    Changes,
}

impl Over {
    pub fn word(self) -> &'static str {
        match self {
            Over::Rows => "rows",
            Over::Changes => "changes",
        }
    }

    fn of(word: &str) -> Over {
        match word {
            "rows" => Over::Rows,
            _ => Over::Changes,
        }
    }
}

/// A filter as the parser understood it.
#[derive(Clone, Copy)]
pub struct Filter {
    tree: *mut Node,
    pub over: Over,
}

/// Which of the triggers of a table it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Never fires; its definition says what of the table is captured.
    Options,
    Insert,
    Update,
    Delete,
}

impl Part {
    const ALL: [Part; 4] = [Part::Options, Part::Insert, Part::Update, Part::Delete];

    fn of(word: &str) -> Option<Part> {
        Part::ALL.into_iter().find(|part| part.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Part::Options => "options",
            Part::Insert => "insert",
            Part::Update => "update",
            Part::Delete => "delete",
        }
    }

    fn event(self) -> u32 {
        match self {
            Part::Insert => pg_sys::TRIGGER_TYPE_INSERT,
            Part::Delete => pg_sys::TRIGGER_TYPE_DELETE,
            _ => pg_sys::TRIGGER_TYPE_UPDATE,
        }
    }
}

/// Finds out what a filter speaks of, and refuses what triggers could not evaluate.
///
/// # Safety
/// `tree` is of an expression over the relations of these numbers, without subqueries.
pub unsafe fn classify(tree: *mut Node) -> Filter {
    // SAFETY: a tree of expressions without subqueries; the list is of Vars.
    unsafe {
        let vars = pg_sys::pull_var_clause(tree, 0);
        let vars: Vec<&pg_sys::Var> = (0..pg_sys::list_length(vars))
            .map(|i| &*pg_sys::list_nth(vars, i).cast::<pg_sys::Var>())
            .collect();
        if vars.iter().any(|v| v.varattno < 0 && v.varattno != pg_sys::TableOidAttributeNumber as i16) {
            error::raise(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "row_filter refers to a system column".into(),
                "Of the system columns only tableoid says the same whenever it is asked.",
            );
        }
        let over = match vars.iter().any(|v| v.varno == PLAIN) {
            true => Over::Rows,
            false if vars.is_empty() => Over::Rows,
            false => Over::Changes,
        };
        if over == Over::Rows && vars.iter().any(|v| v.varno != PLAIN) {
            error::raise(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                "row_filter mixes columns of the plain row with those of OLD or NEW".into(),
                "Plain columns say which rows the slaves hold, OLD and NEW which changes are sent: use one or the other.",
            );
        }
        pg_sys::ChangeVarNodes(tree, PLAIN, NEW, 0);
        Filter { tree, over }
    }
}

impl Filter {
    /// A filter from its stored form.
    ///
    /// # Safety
    /// `stored` is what `to_datum` or PostgreSQL made of a tree.
    unsafe fn from_stored(stored: &[u8], over: Over) -> Filter {
        let stored = CString::new(stored).expect("text has no zero bytes");
        // SAFETY: the caller vouches for the text.
        Filter { tree: unsafe { pg_sys::stringToNode(stored.as_ptr()) }.cast(), over }
    }

    /// As a pg_node_tree.
    pub fn to_datum(self) -> Datum {
        // SAFETY: a tree becomes a C string, and that a text, which a pg_node_tree is as well.
        unsafe { Datum::from(pg_sys::cstring_to_text(pg_sys::nodeToString(self.tree.cast()))) }
    }

    /// When the trigger fires.
    fn condition(self, part: Part) -> *mut Node {
        let of = |number| {
            // SAFETY: a copy of a tree, whose Vars are those of NEW or OLD.
            unsafe {
                let copy = pg_sys::copyObjectImpl(self.tree.cast()).cast();
                pg_sys::ChangeVarNodes(copy, NEW, number, 0);
                copy
            }
        };
        match (self.over, part) {
            // SAFETY: a constant.
            (_, Part::Options) => both(unsafe { pg_sys::makeBoolConst(false, false) }, self.tree),
            (Over::Rows, Part::Insert) => self.tree,
            (Over::Rows, Part::Delete) => of(OLD),
            (Over::Rows, Part::Update) => either(of(OLD), self.tree),
            (Over::Changes, Part::Insert) => self.without(OLD),
            (Over::Changes, Part::Delete) => self.without(NEW),
            (Over::Changes, _) => self.tree,
        }
    }

    /// The tree with NULL for everything of OLD or NEW.
    fn without(self, number: i32) -> *mut Node {
        // SAFETY: the mutator is what PostgreSQL calls it with, and gets the number back.
        unsafe { to_null(self.tree, ptr::without_provenance_mut(number as usize)) }
    }
}

fn both(a: *mut Node, b: *mut Node) -> *mut Node {
    joined(AND_EXPR, &[a, b])
}

fn either(a: *mut Node, b: *mut Node) -> *mut Node {
    joined(OR_EXPR, &[a, b])
}

fn joined(by: pg_sys::BoolExprType::Type, terms: &[*mut Node]) -> *mut Node {
    // SAFETY: a list of expressions.
    unsafe {
        let list = terms.iter().fold(ptr::null_mut(), |list, term| pg_sys::lappend(list, term.cast()));
        pg_sys::makeBoolExpr(by, list, -1).cast()
    }
}

/// A call of a function without arguments that gives a boolean.
fn call(function: Oid) -> *mut Node {
    let none = pg_sys::InvalidOid;
    // SAFETY: a new node.
    unsafe {
        let form = pg_sys::CoercionForm::COERCE_EXPLICIT_CALL;
        pg_sys::makeFuncExpr(function, pg_sys::BOOLOID, ptr::null_mut(), none, none, form).cast()
    }
}

/// A mutator in PostgreSQL's manner: NULL for each Var of the relation whose number is the context.
///
/// # Safety
/// Called with a node of an expression.
#[pg_guard]
unsafe extern "C-unwind" fn to_null(node: *mut Node, number: *mut core::ffi::c_void) -> *mut Node {
    // SAFETY: node tags tell the types.
    unsafe {
        if !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_Var {
            let var = &*node.cast::<pg_sys::Var>();
            if var.varno as usize == number.addr() {
                return pg_sys::makeNullConst(var.vartype, var.vartypmod, var.varcollid).cast();
            }
        }
        version::mutate_tree(node, to_null, number)
    }
}

/// Makes one of a table's AFTER ROW triggers as CREATE TRIGGER does, but with a tree as its condition.
///
/// In SQL, `stored` is a pg_node_tree: nobody but the server makes one.
#[pg_extern(sql = false)]
fn make_trigger(
    relation: Oid,
    functions: Vec<Oid>,
    part: &str,
    stored: Option<&[u8]>,
    over: Option<&str>,
    columns: Vec<i16>,
    record: Option<&str>,
) {
    let (Some(part), &[function, ready, log_now]) = (Part::of(part), functions.as_slice()) else {
        error::internal(&format!("unknown part \"{part}\" of a table's triggers"))
    };
    let filter = stored.zip(over.map(Over::of));
    let c_string = |text: &str| CString::new(text).expect("text of SQL has no zero bytes");
    let name = c_string(&format!("!pyreplica_{}", part.word()));
    let record = record.map(c_string);
    // SAFETY: nodes and strings are palloc'd. A trigger whose condition is handed over as a tree gets no dependencies
    // of it (as a partition's does not), so they are recorded here: in PostgreSQL, columns, functions and types
    // that a trigger mentions cannot be dropped without it.
    unsafe {
        let condition = match filter {
            Some((stored, over)) => {
                let condition = Filter::from_stored(stored, over).condition(part);
                if part == Part::Options {
                    condition
                } else if when::can_be_kept(condition) {
                    joined(AND_EXPR, &[call(ready), condition, call(log_now)])
                } else {
                    // What it calls may change captured rows, which have to come after this one.
                    both(call(ready), condition)
                }
            }
            None if part == Part::Options => pg_sys::makeBoolConst(false, false),
            None => call(log_now),
        };
        let string = |text: *const core::ffi::c_char| pg_sys::makeString(pg_sys::pstrdup(text)).cast();
        let list = |items: Vec<*mut core::ffi::c_void>| {
            items.into_iter().fold(ptr::null_mut(), |list, item| pg_sys::lappend(list, item))
        };
        let statement = pg_sys::CreateTrigStmt {
            type_: pg_sys::NodeTag::T_CreateTrigStmt,
            trigname: pg_sys::pstrdup(name.as_ptr()),
            args: list(record.iter().map(|record| string(record.as_ptr())).collect()),
            row: true,
            timing: pg_sys::TRIGGER_TYPE_AFTER as i16,
            events: part.event() as i16,
            columns: list(columns.iter().map(|&c| string(pg_sys::get_attname(relation, c, false))).collect()),
            ..Default::default()
        };
        let node: *mut pg_sys::CreateTrigStmt = pg_sys::palloc(size_of_val(&statement)).cast();
        node.write(statement);
        let fires = match part {
            Part::Options => pg_sys::TRIGGER_DISABLED,
            _ => pg_sys::TRIGGER_FIRES_ON_ORIGIN,
        };
        let made = pg_sys::CreateTriggerFiringOn(
            node,
            ptr::null(),
            relation,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            function,
            pg_sys::InvalidOid,
            condition,
            false,
            false,
            fires as core::ffi::c_char,
        );
        if !condition.is_null() {
            let entry: *mut pg_sys::RangeTblEntry =
                pg_sys::palloc0(size_of::<pg_sys::RangeTblEntry>()).cast();
            (*entry).type_ = pg_sys::NodeTag::T_RangeTblEntry;
            (*entry).rtekind = pg_sys::RTEKind::RTE_RELATION;
            (*entry).relid = relation;
            let table = list(vec![entry.cast(), entry.cast()]);
            let normal = pg_sys::DependencyType::DEPENDENCY_NORMAL;
            pg_sys::recordDependencyOnExpr(&made, condition, table, normal);
        }
    }
}

/// The filter in the condition of the trigger that has the record, as text in the encoding of the database: over a row of this
/// name, or with bare columns. Of a filter over changes it is what an INSERT has to fulfil.
#[pg_extern(sql = false)]
fn filter_text(stored: &[u8], over: &str, relation: Oid, row: Option<&str>) -> Option<Vec<u8>> {
    let over = Over::of(over);
    let row_name = row.map(|row| CString::new(row).expect("text of SQL has no zero bytes"));
    // SAFETY: in SQL, `stored` is a pg_node_tree. The condition of such a trigger is FALSE, or FALSE or ready() AND the
    // filter, and perhaps AND log_now(); of any other there may come an error. Deparsed, its only relation is the first of the context. The result
    // is a text in SQL, whose form is a bytea's.
    unsafe {
        let whole = Filter::from_stored(stored, over).tree;
        if whole.is_null() || (*whole).type_ != pg_sys::NodeTag::T_BoolExpr {
            return None;
        }
        let terms = (*whole.cast::<pg_sys::BoolExpr>()).args;
        if pg_sys::list_length(terms) < 2 {
            return None;
        }
        let tree = pg_sys::list_nth(terms, 1).cast();
        let tree = Filter { tree, over }.condition(Part::Insert);
        pg_sys::ChangeVarNodes(tree, NEW, 1, 0);
        let name =
            row_name.as_ref().map_or_else(|| pg_sys::get_rel_name(relation).cast_const(), |n| n.as_ptr());
        if name.is_null() {
            return None;
        }
        let context = pg_sys::deparse_context_for(name, relation);
        let text = pg_sys::deparse_expression(tree, context, row.is_some(), false);
        Some(CStr::from_ptr(text).to_bytes().to_vec())
    }
}
