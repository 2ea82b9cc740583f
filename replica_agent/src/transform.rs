//! The SQL text for changes of a table that a slave keeps in another form: computed values, a row filter, operations
//! left out.
//!
//! In: a relation as the log describes it, the table as the slave has it, its rule. Out: SQL whose parameters stand in
//! the order key, new values, old values; each an array for many rows, or a value. Pure; identifiers pass `quote`, values
//! are parameters, and expressions are the configuration's, in parentheses.
//!
//! # How a row is passed through
//!
//! The parameters become a row with the master's names and types, under the name of the master's table, and the
//! expressions are evaluated over it. An UPDATE does so twice, with the new values and with the old ones: what a column
//! held before is the expression of what the master held before.
//!
//! ```text
//! parameters -> u (k1, n1, o1) -> people (id, name) -> new (v1, kept), old (v1, kept) -> the slave's table
//! ```
//!
//! # A row filter
//!
//! With `old.kept` and `new.kept` an UPDATE is one of four things: a deletion, an insertion, an update, nothing.
//!
//! # What is not as expected
//!
//! A statement for one row gives one row if it was as expected. One for many rows counts them itself, and fails unless all
//! were: so it need not be waited for.

mod text;

use postgres::types::Type;

use crate::bind::type_of;
use crate::decode::{Column, Relation};
use crate::error::Result;
use crate::expression::{columns_used, is_of_columns_alone};
use crate::mapping::{Operations, Rule};
use crate::own_types::OwnTypes;
use crate::quote;
use crate::set_statement::{element, same, TEXT};
use crate::slave_table::{SlaveColumn, SlaveTable};
use crate::statement::columns;
use text::Text;

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// New values only. What the filter does not let through is not counted.
    Insert = b'1',
    /// The same, but nothing where a row is in the way.
    InsertUnlessThere = b'8',
    /// Only rows whose old values are the master's.
    Update = b'2',
    /// The same, for many rows (`set_statement::unchanged`).
    UpdateMany = b'7',
    /// Whatever the old values are.
    UpdateAny = b'3',
    /// For each column that an update would change whether its old value is the master's; locks the row.
    Probe = b'4',
    /// Whether an update moves the row into the filter.
    MovesIn = b'9',
    /// By key.
    Delete = b'5',
    /// The rows as the slave is to hold them, as text; new values only.
    Show = b'6',
}

/// Whether parameters are arrays or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Many,
    One,
}

/// The columns of a relation whose values a change carries, by number.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'c> {
    /// Values of the key before the change.
    pub key: &'c [usize],
    pub new: &'c [usize],
    /// Those that have changed; others are what they were.
    pub old: &'c [usize],
}

/// How the rows of a relation become those of the slave's table.
pub struct Transform<'t> {
    table: &'t SlaveTable,
    relation: &'t Relation<'t>,
    rule: &'t Rule,
    types: &'t OwnTypes,
    places: Vec<Place<'t>>,
    /// Columns that the filter uses.
    filtered_by: Vec<usize>,
}

/// A column of the slave's table and where its value comes from.
struct Place<'t> {
    here: &'t SlaveColumn,
    value: Value<'t>,
    /// Columns of the relation.
    uses: Vec<usize>,
}

enum Value<'t> {
    AsItIs(&'t Column<'t>),
    Computed(&'t str),
}

impl<'t> Transform<'t> {
    /// `None` if the table has no rule that needs one.
    pub fn new(
        table: &'t SlaveTable,
        relation: &'t Relation<'t>,
        types: &'t OwnTypes,
    ) -> Result<Option<Transform<'t>>> {
        let Some(rule) = table.rule.as_deref().filter(|rule| rule.is_transform()) else { return Ok(None) };
        // A column that the payload has not introduced has no value in it either.
        let names: Vec<&str> = relation.columns.iter().map(|c| c.as_ref().map_or("", |c| c.name)).collect();
        let uses = |text: &str| columns_used(text, relation.name, &names);
        let mut places = Vec::new();
        for (n, column) in relation.columns.iter().enumerate() {
            let Some(column) = column else { continue };
            let Some(name) = rule.column(column.name) else { continue };
            if !rule.values.contains_key(name) {
                let here = table.column(column.name)?;
                places.push(Place { here, value: Value::AsItIs(column), uses: vec![n] });
            }
        }
        for (name, text) in &rule.values {
            let here = table.own_column(name)?;
            places.push(Place { here, value: Value::Computed(text), uses: uses(text) });
        }
        let filtered_by = rule.row_filter.as_deref().map_or(Vec::new(), uses);
        Ok(Some(Transform { table, relation, rule, types, places, filtered_by }))
    }

    pub fn table(&self) -> &'t SlaveTable {
        self.table
    }

    pub fn relation(&self) -> &'t Relation<'t> {
        self.relation
    }

    /// For each expression what it is for, the columns that it uses, and a statement that fails if it is none: over the row
    /// whose values are the parameters, and where an aggregate, a window or a set of rows is refused.
    pub fn expressions(&self, carried: Carried) -> Result<Vec<(String, Vec<usize>, String)>> {
        let text = Text { transform: self, source: Source::One, carried };
        let row = text.new_rows()?;
        let computed = self.places.iter().filter_map(|place| match place.value {
            Value::AsItIs(_) => None,
            Value::Computed(text) => {
                let what = format!("values of column \"{}\"", place.here.name);
                Some((what, place.uses.clone(), format!("select from {row} where ({text}\n) is null")))
            }
        });
        let filter = self.rule.row_filter.iter().map(|filter| {
            let uses = self.filtered_by.clone();
            ("row_filter".to_owned(), uses, format!("select from {row} where ({filter}\n)"))
        });
        Ok(computed.chain(filter).collect())
    }

    /// Can rows be inserted by COPY with the filter as its condition? That is over the row as the slave is about to hold
    /// it, under its names there: it has to be the master's, in all that the filter uses.
    pub fn can_be_copied(&self) -> bool {
        let Transform { table, relation, rule, filtered_by, .. } = self;
        let is_same = |&n: &usize| {
            let Some(column) = &relation.columns[n] else { return false };
            let Ok(here) = table.column(column.name) else { return false };
            let same_type = here.own_type == column.type_oid || column.type_oid == 0;
            here.name == column.name && same_type && here.type_name == here.full_type
        };
        rule.operations.insert
            && !rule.replaces
            && rule.values.is_empty()
            && filtered_by.iter().all(is_same)
            && rule.row_filter.as_deref().is_none_or(|text| is_of_columns_alone(text, relation.name))
    }

    pub fn takes_updates(&self) -> bool {
        self.rule.operations.update
    }

    /// How many values stand side by side in the statement for an UPDATE that changes all columns. One that may move the row
    /// has those of the slave's columns besides, new and old (`Text::update`).
    pub fn widest(&self) -> usize {
        let given = self.relation.key.len() + 2 * self.relation.columns.len();
        let all: Vec<usize> =
            (0..self.relation.columns.len()).filter(|n| !self.relation.key.contains(n)).collect();
        given + if self.is_moved_by(&all) { 2 + 2 * self.places.len() } else { 0 }
    }

    /// Does the slave take such a change?
    pub fn takes(&self, step: Step, carried: Carried) -> bool {
        let Operations { insert, update, delete, .. } = self.rule.operations;
        match step {
            Step::Insert | Step::InsertUnlessThere => insert,
            Step::Update | Step::UpdateMany | Step::UpdateAny => update && self.is_touched_by(carried.old),
            Step::Delete => delete,
            Step::Probe | Step::MovesIn | Step::Show => true,
        }
    }

    /// Does a row that is not there say nothing? A DELETE carries the key only, so nobody knows whether the row passed
    /// the filter; and what was not inserted, or not updated to another key, cannot be found.
    pub fn may_be_missing(&self, step: Step) -> bool {
        let Operations { insert, update, .. } = self.rule.operations;
        !insert || step == Step::Delete && (!update || self.rule.row_filter.is_some())
    }

    /// Does a change of these columns change anything here?
    fn is_touched_by(&self, changed: &[usize]) -> bool {
        self.is_moved_by(changed) || self.places.iter().any(|place| place.is_touched_by(changed))
    }

    /// May an update of these columns be an insertion here?
    pub fn may_insert(&self, changed: &[usize]) -> bool {
        self.rule.operations.insert && self.is_moved_by(changed)
    }

    /// May it move the row into the filter or out of it?
    fn is_moved_by(&self, changed: &[usize]) -> bool {
        self.filtered_by.iter().any(|n| changed.contains(n))
    }

    /// The names here of the columns that an update changes, in the order of `Step::Probe`.
    pub fn touched(&self, changed: &[usize]) -> Vec<&str> {
        self.touched_places(changed).map(|place| place.here.name.as_str()).collect()
    }

    /// The names here of all columns that have a value, in the order of `Step::Show`.
    pub fn names(&self) -> Vec<String> {
        self.places.iter().map(|place| place.here.name.clone()).collect()
    }

    pub fn build(&self, step: Step, source: Source, carried: Carried) -> Result<String> {
        let text = Text { transform: self, source, carried };
        match step {
            Step::Insert | Step::InsertUnlessThere => text.insert(step),
            Step::Show => text.show(),
            Step::Delete => text.delete(),
            Step::Probe => text.probe(),
            Step::MovesIn => text.moves_in(),
            Step::Update | Step::UpdateMany | Step::UpdateAny => text.update(step),
        }
    }

    /// The row that an INSERT would bring, if it passes, under the names and in the types that it has here.
    pub fn new_row(&self, carried: Carried) -> Result<String> {
        Text { transform: self, source: Source::One, carried }.new_row()
    }

    /// The types of the parameters; `None` when there are no arrays of them.
    pub fn parameter_types(&self, source: Source, carried: Carried) -> Option<Vec<Type>> {
        let arrays = &self.types.arrays;
        let numbers = [carried.key, carried.new, carried.old].concat();
        let type_oid = |column: &&Column| match source {
            Source::Many => element(column, arrays).and_then(|e| arrays.get(&e)).copied(),
            Source::One if column.binary => Some(column.type_oid),
            Source::One => Some(TEXT),
        };
        columns(self.relation, &numbers).iter().map(|column| type_oid(column).map(type_of)).collect()
    }

    fn touched_places<'s>(&'s self, changed: &'s [usize]) -> impl Iterator<Item = &'s Place<'t>> {
        self.places.iter().filter(|place| place.is_touched_by(changed))
    }
}

impl Place<'_> {
    fn is_touched_by(&self, changed: &[usize]) -> bool {
        self.uses.iter().any(|n| changed.contains(n))
    }

    /// Over the row of this name.
    fn sql(&self, row: &str) -> String {
        match self.value {
            Value::AsItIs(column) => format!("{row}.{}", quote::ident(column.name)),
            Value::Computed(text) => format!("cast(({text}\n) as {})", self.here.type_name),
        }
    }

    /// Whether the slave's row has this value.
    fn same(&self, value: &str) -> String {
        match self.value {
            Value::AsItIs(column) => {
                let own_type = self.here.own_type == column.type_oid && column.binary;
                same(self.here, value, own_type)
            }
            Value::Computed(_) => same(self.here, &format!("cast({value} as {})", self.here.full_type), true),
        }
    }
}

/// What helps an expression that needs what an UPDATE does not carry.
pub const WHOLE_ROWS: &str =
    "An UPDATE carries the key and the columns that it changes. For an expression over more add \
    the table on the master with pyreplica.add_table(..., whole_rows => true).";

#[cfg(test)]
mod tests;
