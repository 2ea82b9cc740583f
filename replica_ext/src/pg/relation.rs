//! What the catalog says of a table: its name, key, columns, and how their values are written.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Oid};

use super::tuple::{Row, RowOf};
use super::types::{same_image, wire_type, Encoder};
use super::undeclared;
use crate::encode;

/// A captured table as the log describes it.
pub struct Description {
    pub oid: u32,
    /// Of the table that was added: for a partition, those of its root.
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    pub columns: Vec<Column>,
    /// Columns of the primary key, by their index in `columns`; empty when there is none.
    pub key: Vec<usize>,
    context: pg_sys::MemoryContext,
}

pub struct Column {
    /// Index in the tuple.
    pub attribute: usize,
    pub name: Vec<u8>,
    pub type_oid: u32,
    pub binary: bool,
    pub encoder: Encoder,
    pub len: i16,
    pub by_value: bool,
}

/// The columns of one row.
pub struct Values<'a> {
    description: &'a Description,
    row: &'a Row,
}

impl Description {
    /// The columns of a row of this relation.
    pub fn values<'a>(&'a self, row: RowOf<'a>) -> Values<'a> {
        assert_eq!(row.relation, self.oid, "a row is read by the description of its own relation");
        Values { description: self, row: row.row }
    }

    /// Whether some column's text depends on the session's settings.
    pub fn needs_pinned_settings(&self) -> bool {
        self.columns.iter().any(|c| c.encoder.is_pinned())
    }
}

impl Values<'_> {
    /// Appends the value of a column as the log has it.
    #[inline]
    pub fn write(&self, column: usize, out: &mut Vec<u8>) {
        let column = &self.description.columns[column];
        match self.row.get(column.attribute) {
            None => encode::null(out),
            // SAFETY: the row is of the relation (`values` checked it), and is alive as long as `RowOf` was.
            Some(value) => unsafe { column.encoder.write(value, out) },
        }
    }

    /// Whether a column is stored the same in another row of the relation.
    #[inline]
    pub fn same(&self, other: &Values, column: usize) -> bool {
        let column = &self.description.columns[column];
        match (self.row.get(column.attribute), other.row.get(column.attribute)) {
            (None, None) => true,
            // SAFETY: both rows are of the relation, and alive.
            (Some(a), Some(b)) => unsafe { same_image(a, b, column.len, column.by_value) },
            _ => false,
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `describe`; only `columns` refers to it.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// Describes a table under the name of another: of itself, or of the partitioned table that was added.
///
/// # Safety
/// `relation` is open.
pub unsafe fn describe(relation: pg_sys::Relation, named: Oid) -> Description {
    // SAFETY: the caller vouches for the relation; its descriptor has natts attributes; names in the catalog
    // are C strings. What lives longer than this call is copied or in its own memory context.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CacheMemoryContext,
            c"pyreplica relation".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        let mut description = Description {
            oid: (*relation).rd_id.to_u32(),
            schema: c_string(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(named))),
            name: c_string(pg_sys::get_rel_name(named)),
            columns: Vec::new(),
            key: Vec::new(),
            context,
        };
        let descriptor = (*relation).rd_att;
        for (attribute, attr) in (*descriptor).attrs.as_slice((*descriptor).natts as usize).iter().enumerate()
        {
            if attr.attisdropped || attr.attgenerated != 0 {
                continue;
            }
            let wire = wire_type(attr.atttypid, context);
            description.columns.push(Column {
                attribute,
                name: c_string(attr.attname.data.as_ptr()),
                type_oid: wire.oid,
                binary: wire.binary,
                encoder: wire.encoder,
                len: attr.attlen,
                by_value: attr.attbyval,
            });
        }
        description.key = key_attributes(relation)
            .iter()
            .filter_map(|attribute| description.columns.iter().position(|c| c.attribute == *attribute))
            .collect();
        description
    }
}

/// Attributes of the primary key, in its order.
///
/// # Safety
/// `relation` is open.
unsafe fn key_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: an index named by the relation cache can be opened; its key columns stand in rd_index.
    unsafe {
        let oid = pg_sys::RelationGetPrimaryKeyIndex(relation);
        if oid == pg_sys::InvalidOid {
            return Vec::new();
        }
        let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as i32);
        let form = (*index).rd_index;
        let attributes = (*form).indkey.values.as_slice((*form).indnkeyatts as usize);
        let attributes = attributes.iter().map(|&number| number as usize - 1).collect();
        pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
        attributes
    }
}

/// The partitioned table from which a partition has the trigger `function`: the topmost that was added itself.
pub fn captured_ancestor(relation: Oid, function: Oid) -> Option<Oid> {
    ancestors(relation).into_iter().rev().find(|&ancestor| has_own_trigger(ancestor, function))
}

/// The partitioned tables above a partition, nearest first.
fn ancestors(relation: Oid) -> Vec<Oid> {
    // SAFETY: system cache look-ups; the list is of oids.
    unsafe {
        if !pg_sys::get_rel_relispartition(relation) {
            return Vec::new();
        }
        let list = undeclared::partition_ancestors(relation);
        (0..pg_sys::list_length(list)).map(|i| pg_sys::list_nth_oid(list, i)).collect()
    }
}

fn has_own_trigger(relation: Oid, function: Oid) -> bool {
    // SAFETY: an ancestor exists as long as its partition, which is locked; triggers stand in its relation cache
    // entry while it is open.
    unsafe {
        let open = pg_sys::table_open(relation, pg_sys::AccessShareLock as i32);
        let found = triggers(open).iter().any(|t| t.tgfoid == function && !t.tgisclone);
        pg_sys::table_close(open, pg_sys::AccessShareLock as i32);
        found
    }
}

/// The triggers of an open relation, in the order in which they fire.
///
/// # Safety
/// `relation` is open for as long as the result is used.
pub unsafe fn triggers<'a>(relation: pg_sys::Relation) -> &'a [pg_sys::Trigger] {
    // SAFETY: trigdesc is NULL or has numtriggers triggers.
    unsafe {
        match (*relation).trigdesc {
            desc if desc.is_null() => &[],
            desc => std::slice::from_raw_parts((*desc).triggers, (*desc).numtriggers as usize),
        }
    }
}

/// Whether all sequences that the table owns stand at their start, as after RESTART IDENTITY; None without any.
pub fn owned_sequences_restarted(relation: Oid) -> Option<bool> {
    // SAFETY: the list is of oids of sequences, which can be opened.
    unsafe {
        let list = pg_sys::getOwnedSequences(relation);
        let sequences = (0..pg_sys::list_length(list)).map(|i| pg_sys::list_nth_oid(list, i));
        sequences.map(super::heap::sequence_is_at_start).reduce(|a, b| a && b)
    }
}

/// # Safety
/// `text` is a C string.
unsafe fn c_string(text: *const core::ffi::c_char) -> Vec<u8> {
    // SAFETY: the caller vouches for it.
    super::types::to_utf8(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned()
}
