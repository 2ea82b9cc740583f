//! What the catalog says of a table: its name, key, columns, and how their values are written.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Oid};

use super::tuple::{Attribute, Row};
use super::types::{same_image, wire_type, Encoder};
use super::undeclared;
use super::version;
use super::whole::{self, Form};
use crate::{encode, error};

/// A captured table as the log describes it.
pub struct Description {
    pub oid: u32,
    /// The table that was added: for a partition, its root. It has the name.
    pub named: Oid,
    pub schema: Vec<u8>,
    pub name: Vec<u8>,
    pub columns: Vec<Column>,
    /// Columns of the primary key, by their index in `columns`; empty when there is none.
    pub key: Vec<usize>,
    /// All attributes, and for each the column that it is, if it is one.
    layout: Vec<Attribute>,
    column_of: Vec<Option<usize>>,
    /// The attribute of the key that lies behind the others.
    last_of_key: usize,
    /// An UPDATE logs all columns, not only those that it changes.
    pub whole_rows: bool,
    context: pg_sys::MemoryContext,
}

pub struct Column {
    /// Index in the tuple.
    pub attribute: usize,
    pub name: Vec<u8>,
    pub type_oid: u32,
    pub binary: bool,
    pub encoder: Encoder,
}

/// The columns of one row.
pub struct Values<'a> {
    description: &'a Description,
    row: &'a mut Row,
}

impl Description {
    /// The columns of a row of this relation, to be found in `row`.
    ///
    /// # Safety
    /// `tuple` is of `relation`, and outlives the result.
    #[inline(always)]
    pub unsafe fn values<'a>(
        &'a self,
        relation: pg_sys::Relation,
        tuple: pg_sys::HeapTuple,
        row: &'a mut Row,
    ) -> Values<'a> {
        // SAFETY: the caller vouches for the tuple. What is described is the relation as it is: a change of its
        // descriptor is announced to `xact::at_invalidation`, which drops the description.
        unsafe {
            let descriptor = (*relation).rd_att;
            assert!(
                (*relation).rd_id.to_u32() == self.oid && (*descriptor).natts as usize == self.layout.len(),
                "a row is read by the description of its own relation"
            );
            row.begin(tuple, descriptor, &self.layout);
        }
        Values { description: self, row }
    }

    /// Whether some column's text depends on the session's settings.
    pub fn needs_pinned_settings(&self) -> bool {
        self.columns.iter().any(|c| c.encoder.is_pinned())
    }
}

impl Values<'_> {
    /// Finds the columns of the key; [`Values::write`] wants them found.
    #[inline]
    pub fn find_key(&mut self) {
        // SAFETY: the tuple is alive, and was begun with this layout.
        unsafe { self.row.find(&self.description.layout, self.description.last_of_key) }
    }

    /// Fills `changed` with the columns that are not stored the same in `new`, and finds them in both.
    pub fn changes(&mut self, new: &mut Values, changed: &mut Vec<usize>) {
        let description = self.description;
        changed.clear();
        // SAFETY: both rows are of the relation, and alive; they are compared by the length of their attributes.
        unsafe {
            self.row.compare(new.row, &description.layout, |attribute, old, new| {
                let Some(column) = description.column_of[attribute] else { return };
                let len = description.layout[attribute].len;
                let same = match old.is_null() || new.is_null() {
                    true => old == new,
                    false => same_image(old, new, len),
                };
                if !same {
                    changed.push(column);
                }
            });
        }
    }

    /// Appends the value of a column as the log has it.
    pub fn write(&self, column: usize, out: &mut Vec<u8>) {
        let column = &self.description.columns[column];
        match self.row.get(column.attribute) {
            None => encode::null(out),
            // SAFETY: the row is of the relation (`values` checked it), and is alive.
            Some(value) => unsafe { column.encoder.write(value, out) },
        }
    }

    /// Appends the values of all columns, which need not be found.
    pub fn write_all(&self, out: &mut Vec<u8>) {
        let Description { layout, columns, column_of, .. } = self.description;
        let other = |attribute: usize, value: *const u8, out: &mut Vec<u8>| {
            let column = column_of[attribute].map(|column| &columns[column]);
            // SAFETY: the row is of the relation (`values` checked it), and is alive.
            column.into_iter().for_each(|column| unsafe { column.encoder.write(value, out) });
        };
        // SAFETY: the tuple is alive, and was begun with this layout; it is of the relation (`values` checked it).
        let is_written = unsafe { whole::write(self.row, layout, out, other) };
        if !is_written {
            (0..columns.len()).for_each(|column| self.write(column, out));
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `describe`; only `columns` refers to it.
        unsafe { pg_sys::MemoryContextDelete(self.context) }
    }
}

/// Describes a table under the name of another: of itself, or of the partitioned table that was added. `function` is
/// that of its triggers.
///
/// # Safety
/// `relation` is open.
pub unsafe fn describe(relation: pg_sys::Relation, named: Oid, function: Oid) -> Description {
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
            named,
            schema: c_string(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(named))),
            name: c_string(pg_sys::get_rel_name(named)),
            columns: Vec::new(),
            key: Vec::new(),
            layout: Vec::new(),
            column_of: Vec::new(),
            last_of_key: 0,
            whole_rows: false,
            context,
        };
        let options = match options(relation, function) {
            Ok(options) => options,
            Err(OptionsLost) => error::options_lost(&description.schema, &description.name),
        };
        description.whole_rows = options.whole_rows;
        let descriptor = (*relation).rd_att;
        for (attribute, attr) in version::attributes(descriptor).iter().enumerate() {
            let align = match attr.attalign as u8 {
                b'd' => 8,
                b'i' => 4,
                b's' => 2,
                _ => 1,
            };
            let by_value = attr.attbyval;
            let mut stored = Attribute { len: attr.attlen, align: align - 1, by_value, form: Form::LeftOut };
            let left_out = !options.columns.is_empty() && !options.columns.contains(&attr.attnum);
            if attr.attisdropped || attr.attgenerated != 0 || left_out {
                description.layout.push(stored);
                description.column_of.push(None);
                continue;
            }
            description.column_of.push(Some(description.columns.len()));
            let wire = wire_type(attr.atttypid, attr.attlen, by_value, context);
            stored.form = Form::of(&wire.encoder, stored.len, stored.align);
            description.layout.push(stored);
            description.columns.push(Column {
                attribute,
                name: c_string(attr.attname.data.as_ptr()),
                type_oid: wire.oid,
                binary: wire.binary,
                encoder: wire.encoder,
            });
        }
        let key = key_attributes(relation);
        description.key = key
            .iter()
            .filter_map(|attribute| description.columns.iter().position(|c| c.attribute == *attribute))
            .collect();
        if description.key.len() < key.len() {
            error::key_not_sent(&description.schema, &description.name);
        }
        let attributes = description.key.iter().map(|&k| description.columns[k].attribute);
        description.last_of_key = attributes.max().unwrap_or(0);
        description
    }
}

/// What of a table is captured, as its triggers say (sql/40_capture.sql).
#[derive(Default)]
struct Options<'a> {
    /// Numbers of the attributes that are sent; empty for all.
    columns: &'a [i16],
    whole_rows: bool,
}

/// The triggers are not for all operations, so one of them had the record.
struct OptionsLost;

/// # Safety
/// `relation` is open for as long as the result is used.
unsafe fn options<'a>(relation: pg_sys::Relation, function: Oid) -> Result<Options<'a>, OptionsLost> {
    // SAFETY: the caller vouches for the relation; a trigger has tgnattr numbers.
    unsafe {
        if let Some((trigger, mut words)) = record(triggers(relation), function) {
            let columns = match trigger.tgnattr {
                0 => &[],
                n => std::slice::from_raw_parts(trigger.tgattr, n as usize),
            };
            return Ok(Options { columns, whole_rows: words.any(|word| word == b"whole_rows") });
        }
        let all = pg_sys::TRIGGER_TYPE_INSERT | pg_sys::TRIGGER_TYPE_UPDATE | pg_sys::TRIGGER_TYPE_DELETE;
        let is_of_a_part = |t: &pg_sys::Trigger| is_for_rows(t) && u32::from(t.tgtype as u16) & all != all;
        match triggers(relation).iter().any(|t| t.tgfoid == function && is_of_a_part(t)) {
            true => Err(OptionsLost),
            false => Ok(Options::default()),
        }
    }
}

fn is_for_rows(trigger: &pg_sys::Trigger) -> bool {
    u32::from(trigger.tgtype as u16) & pg_sys::TRIGGER_TYPE_ROW != 0
}

/// The trigger that has the record of what is captured of a table, and the words of it.
///
/// # Safety
/// The triggers are those of an open relation.
pub unsafe fn record(
    triggers: &[pg_sys::Trigger],
    function: Oid,
) -> Option<(&pg_sys::Trigger, impl Iterator<Item = &[u8]>)> {
    let has_words = |t: &&pg_sys::Trigger| t.tgfoid == function && t.tgnargs > 0 && is_for_rows(t);
    let trigger = triggers.iter().find(has_words)?;
    // SAFETY: the caller vouches for the triggers, which have tgnargs C strings.
    let words = unsafe { CStr::from_ptr(*trigger.tgargs) }.to_bytes().split(|&byte| byte == b' ');
    Some((trigger, words))
}

/// Attributes of the primary key, in its order.
///
/// # Safety
/// `relation` is open.
unsafe fn key_attributes(relation: pg_sys::Relation) -> Vec<usize> {
    // SAFETY: an index named by the relation cache can be opened; its key columns stand in rd_index.
    unsafe {
        let oid = version::primary_key(relation);
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

/// The table that was added: for a partition the topmost ancestor that has the trigger `function` itself.
pub fn added_table(relation: Oid, function: Oid) -> Oid {
    let added = ancestors(relation).into_iter().rev().find(|&ancestor| has_own_trigger(ancestor, function));
    added.unwrap_or(relation)
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
    // SAFETY: the caller vouches for the relation.
    unsafe { triggers_of((*relation).trigdesc) }
}

/// The tables in a list of the executor's.
///
/// # Safety
/// The list is of ResultRelInfos, or NULL, and valid as long as the result is used.
pub unsafe fn result_tables<'a>(
    list: *const pg_sys::List,
) -> impl Iterator<Item = &'a pg_sys::ResultRelInfo> {
    // SAFETY: a list has as many elements as its length says.
    let cells = unsafe {
        match list.as_ref() {
            None => &[],
            Some(list) => std::slice::from_raw_parts(list.elements, list.length as usize),
        }
    };
    // SAFETY: as the caller vouches.
    cells.iter().map(|cell| unsafe { &*cell.ptr_value.cast() })
}

/// Those of a description.
///
/// # Safety
/// The description is NULL, or valid as long as the result is used.
pub unsafe fn triggers_of<'a>(description: *const pg_sys::TriggerDesc) -> &'a [pg_sys::Trigger] {
    // SAFETY: it has numtriggers triggers.
    unsafe {
        match description.as_ref() {
            None => &[],
            Some(description) => {
                std::slice::from_raw_parts(description.triggers, description.numtriggers as usize)
            }
        }
    }
}

/// Whether all sequences that the table owns stand at their start, as after RESTART IDENTITY; None without any.
pub fn owned_sequences_restarted(relation: Oid) -> Option<bool> {
    // SAFETY: the list is of oids of sequences, which can be opened.
    unsafe {
        let list = pg_sys::getOwnedSequences(relation);
        let sequences = (0..pg_sys::list_length(list)).map(|i| pg_sys::list_nth_oid(list, i));
        sequences.map(super::sequence::is_at_start).reduce(|a, b| a && b)
    }
}

/// # Safety
/// `text` is a C string.
unsafe fn c_string(text: *const core::ffi::c_char) -> Vec<u8> {
    // SAFETY: the caller vouches for it.
    super::types::to_utf8(unsafe { CStr::from_ptr(text) }.to_bytes()).into_owned()
}
