//! SQL text: taken apart by PostgreSQL's own parser, and run as the session would run it.

use std::ffi::{CStr, CString};

use pgrx::pg_sys::{self, NodeTag, Oid};
use pgrx::PgList;

/// One statement of a text.
pub struct Statement {
    /// In the encoding of the database.
    pub sql: CString,
    pub kind: Kind,
    /// The tables whose rows it is there to change, as far as they exist.
    pub targets: Vec<Oid>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// BEGIN, COMMIT, SAVEPOINT ...
    Transaction,
    /// SET, RESET, SHOW.
    Setting,
    /// PREPARE, DECLARE, LISTEN, NOTIFY, CREATE TEMPORARY TABLE ...
    Session,
    /// SELECT ... INTO.
    SelectInto,
    /// INSERT, UPDATE, DELETE, MERGE, TRUNCATE, COPY.
    Rows,
    Other,
}

/// The statements of a text; a syntax error is an ERROR.
pub fn parse(text: &CStr) -> Vec<Statement> {
    let bytes = text.to_bytes();
    // SAFETY: the parser reads a C string and gives a list of RawStmt in the current memory context.
    let raw = unsafe {
        let list = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        PgList::<pg_sys::RawStmt>::from_pg(list)
    };
    raw.iter_ptr()
        .map(|raw| {
            // SAFETY: a node of the list just made, which nobody frees before the end of the call.
            let (node, start, length) = unsafe { ((*raw).stmt, (*raw).stmt_location, (*raw).stmt_len) };
            let start = usize::try_from(start).unwrap_or(0);
            let end = usize::try_from(length).ok().filter(|&l| l > 0).map_or(bytes.len(), |l| start + l);
            // SAFETY: as above; the node's tag says of what type it is.
            let (kind, targets) = unsafe { (kind(node), targets(node)) };
            let sql = CString::new(bytes[start..end].trim_ascii()).unwrap_or_default();
            Statement { sql, kind, targets }
        })
        .collect()
}

/// # Safety
/// A valid node.
unsafe fn kind(node: *mut pg_sys::Node) -> Kind {
    // SAFETY: every node begins with its tag.
    match unsafe { (*node).type_ } {
        NodeTag::T_TransactionStmt => Kind::Transaction,
        NodeTag::T_VariableSetStmt | NodeTag::T_VariableShowStmt => Kind::Setting,
        NodeTag::T_InsertStmt
        | NodeTag::T_UpdateStmt
        | NodeTag::T_DeleteStmt
        | NodeTag::T_MergeStmt
        | NodeTag::T_TruncateStmt
        | NodeTag::T_CopyStmt => Kind::Rows,
        NodeTag::T_PrepareStmt
        | NodeTag::T_ExecuteStmt
        | NodeTag::T_DeallocateStmt
        | NodeTag::T_DeclareCursorStmt
        | NodeTag::T_FetchStmt
        | NodeTag::T_ClosePortalStmt
        | NodeTag::T_ListenStmt
        | NodeTag::T_UnlistenStmt
        | NodeTag::T_NotifyStmt
        | NodeTag::T_DiscardStmt
        | NodeTag::T_LoadStmt => Kind::Session,
        // SAFETY: the tag says of what type the node is.
        NodeTag::T_SelectStmt if unsafe { selects_into(node.cast()) } => Kind::SelectInto,
        // SAFETY: as above.
        _ if unsafe { creates_temporary(node) } => Kind::Session,
        _ => Kind::Other,
    }
}

/// # Safety
/// A valid node.
unsafe fn selects_into(mut select: *mut pg_sys::SelectStmt) -> bool {
    // SAFETY: of a UNION it stands in the first SELECT; the others are NULL or valid.
    unsafe {
        while !(*select).larg.is_null() {
            select = (*select).larg;
        }
        !(*select).intoClause.is_null()
    }
}

/// Does it make something in the schema of temporary objects, by its own words?
///
/// # Safety
/// A valid node of a statement.
unsafe fn creates_temporary(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag says of what type the node is, and so where the new name stands, which the grammar asks for.
    unsafe {
        let name = match (*node).type_ {
            NodeTag::T_CreateStmt => (*node.cast::<pg_sys::CreateStmt>()).relation,
            NodeTag::T_CreateTableAsStmt => (*(*node.cast::<pg_sys::CreateTableAsStmt>()).into).rel,
            NodeTag::T_CreateSeqStmt => (*node.cast::<pg_sys::CreateSeqStmt>()).sequence,
            NodeTag::T_ViewStmt => (*node.cast::<pg_sys::ViewStmt>()).view,
            _ => return false,
        };
        (*name).relpersistence == pg_sys::RELPERSISTENCE_TEMP as std::ffi::c_char
    }
}

/// # Safety
/// A valid node of a statement.
unsafe fn targets(node: *mut pg_sys::Node) -> Vec<Oid> {
    // SAFETY: the tag says of what type the node is, and so where its tables stand.
    let tables: Vec<*mut pg_sys::RangeVar> = unsafe {
        match (*node).type_ {
            NodeTag::T_InsertStmt => vec![(*node.cast::<pg_sys::InsertStmt>()).relation],
            NodeTag::T_UpdateStmt => vec![(*node.cast::<pg_sys::UpdateStmt>()).relation],
            NodeTag::T_DeleteStmt => vec![(*node.cast::<pg_sys::DeleteStmt>()).relation],
            NodeTag::T_MergeStmt => vec![(*node.cast::<pg_sys::MergeStmt>()).relation],
            NodeTag::T_CopyStmt => vec![(*node.cast::<pg_sys::CopyStmt>()).relation],
            NodeTag::T_TruncateStmt => {
                let list = (*node.cast::<pg_sys::TruncateStmt>()).relations;
                PgList::<pg_sys::RangeVar>::from_pg(list).iter_ptr().collect()
            }
            _ => Vec::new(),
        }
    };
    tables
        .into_iter()
        .filter(|table| !table.is_null()) // COPY (query) TO
        .map(|table| {
            const MISSING_OK: u32 = pg_sys::RVROption::RVR_MISSING_OK;
            // SAFETY: a table of the statement; without a lock it is only looked up.
            unsafe {
                let lock = pg_sys::NoLock as i32;
                pg_sys::RangeVarGetRelidExtended(table, lock, MISSING_OK, None, std::ptr::null_mut())
            }
        })
        .filter(|&oid| oid != pg_sys::InvalidOid)
        .collect()
}

/// Runs a statement as the current role, inside the transaction; false when SPI does not take it (COPY from or to the
/// client). What the server refuses is an ERROR.
pub fn run(sql: &CStr) -> bool {
    // SAFETY: a C string; SPI is left as it was found, after an ERROR by the abort.
    unsafe {
        pg_sys::SPI_connect();
        let result = pg_sys::SPI_execute(sql.as_ptr(), false, 0);
        pg_sys::SPI_finish();
        result >= 0
    }
}
