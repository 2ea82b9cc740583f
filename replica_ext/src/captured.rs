//! A captured table: writes its changes as messages of a chunk, and introduces what of it the chunk does not know.

use std::cell::RefCell;
use std::rc::Rc;

use crate::buffer::{Key, Open};
use crate::encode::{self, tag};
use crate::pg::relation::{Description, Values};

/// A captured table, and what of it the open chunk knows.
pub struct Captured {
    pub description: Description,
    pub pinned: bool,
    /// The relation message, and of each column message what follows the relation's number: a small transaction
    /// consists of little else.
    relation: Vec<u8>,
    columns: Vec<Vec<u8>>,
    introduced: RefCell<Introduced>,
}

#[derive(Default)]
struct Introduced {
    serial: u64,
    index: u32,
    columns: Vec<bool>,
    count: usize,
}

impl Captured {
    pub fn new(description: Description) -> Rc<Captured> {
        let pinned = description.needs_pinned_settings();
        let mut relation = Vec::new();
        let Description { oid, schema, name, columns, key, .. } = &description;
        encode::relation(&mut relation, *oid, schema, name, columns.len(), key);
        let columns = columns.iter().enumerate().map(|(i, column)| {
            let mut written = Vec::new();
            encode::column(&mut written, i, &column.name, column.type_oid, column.binary);
            written
        });
        let columns = columns.collect();
        Rc::new(Captured { description, pinned, relation, columns, introduced: RefCell::default() })
    }

    /// Introduces the relation and the columns in the chunk, unless it knows them; returns its number there.
    #[inline]
    pub fn introduce(&self, open: &mut Open, columns: impl IntoIterator<Item = usize>) -> u32 {
        let known = self.introduced.borrow();
        if known.serial == open.serial && known.count == self.columns.len() {
            return known.index;
        }
        drop(known);
        self.introduce_more(open, columns)
    }

    fn introduce_more(&self, open: &mut Open, columns: impl IntoIterator<Item = usize>) -> u32 {
        let mut known = self.introduced.borrow_mut();
        if known.serial != open.serial {
            known.serial = open.serial;
            known.index = *open.relations;
            known.count = 0;
            known.columns.clear();
            known.columns.resize(self.columns.len(), false);
            *open.relations += 1;
            open.bytes.extend_from_slice(&self.relation);
        }
        if known.count < self.columns.len() {
            for c in columns {
                if !std::mem::replace(&mut known.columns[c], true) {
                    known.count += 1;
                    encode::begin(open.bytes, tag::COLUMN, known.index);
                    open.bytes.extend_from_slice(&self.columns[c]);
                }
            }
        }
        known.index
    }

    fn begin(&self, open: &mut Open, kind: u8, columns: impl IntoIterator<Item = usize>) {
        let relation = self.introduce(open, columns);
        encode::begin(open.bytes, kind, relation);
    }

    pub fn write_insert(&self, open: &mut Open, new: &Values) {
        let columns = 0..self.description.columns.len();
        self.begin(open, tag::INSERT, columns);
        new.write_all(open.bytes);
    }

    pub fn write_delete(&self, open: &mut Open, old: &Values) {
        let key = &self.description.key;
        self.begin(open, tag::DELETE, key.iter().copied());
        key.iter().for_each(|&c| old.write(c, open.bytes));
    }

    pub fn write_update(&self, open: &mut Open, old: &Values, new: &Values, changed: &[usize]) {
        let key = &self.description.key;
        self.begin(open, tag::UPDATE, key.iter().chain(changed).copied());
        key.iter().for_each(|&c| old.write(c, open.bytes));
        encode::varint(open.bytes, changed.len() as u64);
        for &c in changed {
            encode::varint(open.bytes, c as u64);
            new.write(c, open.bytes);
            old.write(c, open.bytes);
        }
    }

    /// An UPDATE that changes the key, or one of a table that wants whole rows.
    pub fn write_whole_update(&self, open: &mut Open, old: &Values, new: &Values, changed: &[usize]) {
        let columns = 0..self.description.columns.len();
        self.begin(open, tag::KEY_UPDATE, columns);
        self.description.key.iter().for_each(|&c| old.write(c, open.bytes));
        new.write_all(open.bytes);
        encode::varint(open.bytes, changed.len() as u64);
        for &c in changed {
            encode::varint(open.bytes, c as u64);
            old.write(c, open.bytes);
        }
    }

    /// The key of a row as the log has it.
    pub fn key_of(&self, row: &Values) -> Key {
        let value = |&c: &usize| {
            let mut written = Vec::new();
            row.write(c, &mut written);
            encode::value_bytes(&written).map(<[u8]>::to_vec)
        };
        self.description.key.iter().map(value).collect()
    }
}
