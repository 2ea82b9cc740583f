//! Reads the expression of a row filter with PostgreSQL's own parser, as its author.
//!
//! In: a call of `pyreplica.add_table`. Out: the tree, or PostgreSQL's error, which shows the place in the expression.

use std::ptr;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, Node, Oid};
use pgrx::PgSqlErrorCode;

use super::filter;
use crate::{add_table, error};

/// PostgreSQL's parser without pgrx's guard, which would lose the place of an error in the expression. Their errors
/// jump over the frames of `pyreplica_add_table` and `parse`, which own nothing that has to be dropped.
mod parser {
    use core::ffi::{c_char, c_int, c_void};
    use pgrx::pg_sys::{
        Alias, ErrorContextCallback, List, Node, Oid, ParseExprKind, ParseNamespaceItem, ParseState,
        RawParseMode, Relation,
    };

    unsafe extern "C-unwind" {
        pub static mut error_context_stack: *mut ErrorContextCallback;
        /// utils/builtins.h; the argument is a text
        pub fn text_to_cstring(text: *const c_void) -> *mut c_char;
        /// parser/parser.h
        pub fn raw_parser(text: *const c_char, mode: RawParseMode::Type) -> *mut List;
        /// parser/parse_node.h
        pub fn make_parsestate(parent: *mut ParseState) -> *mut ParseState;
        /// access/table.h
        pub fn table_open(relation: Oid, lock: c_int) -> Relation;
        pub fn table_close(relation: Relation, lock: c_int);
        /// nodes/makefuncs.h
        pub fn makeAlias(name: *const c_char, columns: *mut List) -> *mut Alias;
        /// parser/parse_relation.h
        pub fn addRangeTableEntryForRelation(
            state: *mut ParseState,
            relation: Relation,
            lock: c_int,
            alias: *mut Alias,
            inherits: bool,
            in_from: bool,
        ) -> *mut ParseNamespaceItem;
        pub fn addNSItemToQuery(
            state: *mut ParseState,
            item: *mut ParseNamespaceItem,
            join: bool,
            relation: bool,
            columns: bool,
        );
        /// parser/parse_clause.h
        pub fn transformWhereClause(
            state: *mut ParseState,
            clause: *mut Node,
            kind: ParseExprKind::Type,
            name: *const c_char,
        ) -> *mut Node;
        /// parser/parse_collate.h
        pub fn assign_expr_collations(state: *mut ParseState, tree: *mut Node);
        /// utils/elog.h: they set fields of the error that is being raised
        pub fn geterrposition() -> c_int;
        pub fn errposition(position: c_int) -> c_int;
        pub fn internalerrposition(position: c_int) -> c_int;
        pub fn internalerrquery(text: *const c_char) -> c_int;
    }
}

/// What came of reading an expression.
enum Parsed {
    None,
    Tree(*mut Node),
    NotOneExpression,
}

#[no_mangle]
pub extern "C" fn pg_finfo_pyreplica_add_table() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `pyreplica.add_table`.
///
/// # Safety
/// Called by PostgreSQL, with the arguments that sql/40_capture.sql declares.
#[no_mangle]
pub unsafe extern "C-unwind" fn pyreplica_add_table(fcinfo: FunctionCallInfo) -> Datum {
    // SAFETY: PostgreSQL gave five arguments. What runs outside of the guards owns nothing, so an ERROR may jump
    // over it; what is inside is caught by them.
    unsafe {
        let arguments = (*fcinfo).args.as_slice(5);
        let relation = pg_sys::panic::pgrx_extern_c_guard(|| {
            let relation = (!arguments[0].isnull).then(|| Oid::from(arguments[0].value.value() as u32));
            add_table::owned_by_caller(relation, "table")
        });
        let parsed = match arguments[2].isnull {
            true => Parsed::None,
            false => parse(parser::text_to_cstring(arguments[2].value.cast_mut_ptr()), relation),
        };
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let filter = match parsed {
                Parsed::None => None,
                Parsed::Tree(tree) => Some(filter::classify(tree)),
                Parsed::NotOneExpression => not_one_expression(),
            };
            let given =
                |n: usize, oid| DatumWithOid::new((!arguments[n].isnull).then_some(arguments[n].value), oid);
            add_table::attach(&[
                relation.into(),
                given(1, pg_sys::NAMEARRAYOID),
                DatumWithOid::new(filter.map(|f| f.to_datum()), pg_sys::PG_NODE_TREEOID),
                filter.map(|f| f.over.word()).into(),
                given(3, pg_sys::TEXTARRAYOID),
                given(4, pg_sys::BOOLOID),
            ]);
        });
    }
    Datum::null()
}

/// Reads an expression over OLD, NEW and the plain row of a table, as its author: with the caller's rights and
/// search_path. Errors are PostgreSQL's own, and show the place in the expression.
///
/// # Safety
/// `text` is a palloc'd C string. An ERROR jumps over the callers' frames.
unsafe fn parse(text: *const core::ffi::c_char, relation: Oid) -> Parsed {
    // SAFETY: the parser's protocol: a state with the three relations in its namespace. Everything is allocated in
    // the current memory context; the relation stays locked until the end of the transaction. The callback is taken
    // off again here, or by whoever catches the ERROR.
    unsafe {
        let mut callback = pg_sys::ErrorContextCallback {
            previous: parser::error_context_stack,
            callback: Some(place_in_expression),
            arg: text.cast_mut().cast(),
        };
        parser::error_context_stack = &raw mut callback;
        let statements = parser::raw_parser(text, pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR);
        let Some(expression) = only_expression(statements) else {
            parser::error_context_stack = callback.previous;
            return Parsed::NotOneExpression;
        };
        let state = parser::make_parsestate(ptr::null_mut());
        (*state).p_sourcetext = text;
        let lock = pg_sys::ShareRowExclusiveLock as i32;
        let open = parser::table_open(relation, lock);
        // In the order of OLD, NEW and PLAIN; a column without a prefix is the plain row's.
        for alias in [c"old".as_ptr(), c"new".as_ptr(), ptr::null()] {
            let plain = alias.is_null();
            let alias = if plain { ptr::null_mut() } else { parser::makeAlias(alias, ptr::null_mut()) };
            let item = parser::addRangeTableEntryForRelation(state, open, lock, alias, false, false);
            parser::addNSItemToQuery(state, item, false, true, plain);
        }
        let kind = pg_sys::ParseExprKind::EXPR_KIND_TRIGGER_WHEN;
        let tree = parser::transformWhereClause(state, expression, kind, c"row_filter".as_ptr());
        parser::assign_expr_collations(state, tree);
        parser::table_close(open, pg_sys::NoLock as i32);
        parser::error_context_stack = callback.previous;
        Parsed::Tree(tree)
    }
}

/// Makes the place of an error that of the expression, which the client's statement need not hold as it is.
///
/// # Safety
/// Called by elog.c while an error is being raised, with the expression.
unsafe extern "C-unwind" fn place_in_expression(text: *mut core::ffi::c_void) {
    // SAFETY: they read and set fields of the error at hand; the text is copied.
    unsafe {
        let position = parser::geterrposition();
        if position > 0 {
            parser::errposition(0);
            parser::internalerrposition(position);
            parser::internalerrquery(text.cast());
        }
    }
}

/// The expression, if it is one and nothing else: the grammar for it takes FROM and the like as well.
///
/// # Safety
/// `statements` is what `raw_parser` gave.
unsafe fn only_expression(statements: *mut pg_sys::List) -> Option<*mut Node> {
    // SAFETY: node tags tell the types; a list has `length` elements.
    unsafe {
        let only = |list: *mut pg_sys::List| match list {
            list if list.is_null() || (*list).length != 1 => ptr::null_mut(),
            list => (*(*list).elements).ptr_value.cast::<Node>(),
        };
        let statement = only(statements);
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_RawStmt {
            return None;
        }
        let select = (*statement.cast::<pg_sys::RawStmt>()).stmt;
        if (*select).type_ != pg_sys::NodeTag::T_SelectStmt {
            return None;
        }
        let select = &*select.cast::<pg_sys::SelectStmt>();
        let lists = [
            select.distinctClause,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
        let target = only(select.targetList);
        let bare = lists.iter().all(|list| list.is_null()) && nodes.iter().all(|node| node.is_null());
        if !bare || target.is_null() || (*target).type_ != pg_sys::NodeTag::T_ResTarget {
            return None;
        }
        let target = &*target.cast::<pg_sys::ResTarget>();
        target.name.is_null().then_some(target.val)
    }
}

fn not_one_expression() -> ! {
    error::raise(
        PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
        "row_filter is not one expression".into(),
        "Write what could stand behind WHERE, for example: region = 'EU' AND NOT secret.",
    )
}
