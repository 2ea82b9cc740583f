//! Windows of changes reduced to their net effect by table and key. Pure.
//!
//! In: chunks in order. Out: a `Window`: the chunks, and a `Plan` of the rows to delete, to update and to insert that
//! leads to what the changes one after the other lead to. No value is copied: a plan names places in the chunks.
//!
//! # The net effect
//!
//! A row that the window meets is an *entry*. It is found by the key that it has by now; what is to be done to the slave
//! is said by the key that it had before the window.
//!
//! ```text
//! before      change      after
//! (nothing)   INSERT      insert
//! (nothing)   UPDATE      update          old values are those before the window, new ones the last
//! (nothing)   DELETE      delete
//! insert      UPDATE      insert          of the newer values
//! insert      DELETE      (nothing)
//! update      UPDATE      update          a changed key is one more changed column
//! update      DELETE      delete
//! delete      INSERT      delete, and an insert that is an entry of its own
//! ```
//!
//! A plan is carried out as all deletes, then all updates, then all inserts; the rows are distinct, so their order among
//! themselves does not matter to the outcome. It may matter to a constraint on the way (two rows that swap a unique
//! value): then the statement fails and the changes are applied one after the other. Likewise if a sequence of changes
//! makes no sense (INSERT of a row that is there): the row counts of the plan do not come out, or there is no plan.

use crate::decode::{Column, Relation, Value};
use crate::large::Large;
use crate::position::Xid;
use crate::reader::{Chunk, End};
use crate::stages::Spent;
use net::NetEffect;

mod net;
#[cfg(test)]
mod tests;

/// Payloads of a window. More would not make the slave's statements cheaper by the row.
const WINDOW_BYTES: usize = 512 * 1024;
/// A narrow row has a payload of a few bytes: places of a window (12 bytes each), and rows that it meets.
const WINDOW_PLACES: usize = 128 * 1024;
const WINDOW_ROWS: usize = 16 * 1024;

/// What is applied at once: whole chunks.
#[derive(Debug, Default)]
pub struct Window {
    pub chunks: Vec<Chunk>,
    /// Comes after the chunks, if there are any.
    pub large: Option<Large>,
    /// `None`: only one after the other will do.
    pub plan: Option<Plan>,
    /// Set in the last window of a batch, or of transactions of one origin.
    pub end: Option<End>,
    pub spent: Spent,
}

/// What a chunk takes beside its payload: itself (32), its transaction (96), and what the allocator adds to the payload.
const CHUNK_BYTES: usize = 144;

impl Window {
    /// That of all its transactions.
    pub fn origin(&self) -> Option<&str> {
        let transaction = self.chunks.first().map(|chunk| &chunk.transaction);
        transaction.or(self.large.as_ref().map(|large| &large.transaction))?.origin.as_deref()
    }

    /// Its plan takes as much memory as its chunks, or more.
    pub fn drop_plan(&mut self) {
        self.plan = None;
    }

    /// Makes the plan anew that was dropped, if it had one.
    pub fn plan_again(&mut self) {
        let mut planner = Planner { chunks: std::mem::take(&mut self.chunks), ..Planner::default() };
        let fits = (1..=planner.chunks.len()).all(|n| planner.net.add(&planner.chunks[..n]));
        let Window { chunks, plan, .. } = planner.finish(None);
        (self.chunks, self.plan) = (chunks, plan.filter(|_| fits));
    }

    /// About the memory that it takes.
    pub fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.payload.len() + CHUNK_BYTES).sum();
        let plan =
            self.plan.as_ref().map_or(0, |plan| size_of_val(&plan.places[..]) + size_of_val(&plan.cells[..]));
        chunks + plan
    }
}

/// The net effect of a window.
#[derive(Debug, Default)]
pub struct Plan {
    pub tables: Vec<TablePlan>,
    places: Vec<Place>,
    cells: Vec<Cell>,
}

/// What is to be done to the rows of one relation of the master.
#[derive(Debug)]
pub struct TablePlan {
    pub relation: RelationInfo,
    /// The least and the greatest transaction of the window that changed it.
    pub xids: (Xid, Xid),
    pub lost: Lost,
    pub deletes: Vec<Key>,
    pub updates: Vec<UpdateGroup>,
    pub inserts: Vec<Row>,
}

/// What the net effect does not show: it matters to a slave that does not take every operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// A row that the window inserts, or updates, and deletes.
    pub before_delete: bool,
    /// A row that the window inserts, and updates.
    pub before_update: bool,
}

/// Updates of the same columns.
#[derive(Debug)]
pub struct UpdateGroup {
    pub columns: Vec<usize>,
    pub rows: Vec<Update>,
}

/// The values of a key.
#[derive(Clone, Copy, Debug)]
pub struct Key(u32);

/// The values of all columns.
#[derive(Clone, Copy, Debug)]
pub struct Row(u32);

/// The key before the window, and new and old values of the columns of its group.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    pub key: Key,
    cells: u32,
    /// The new values of all columns, where the log has them.
    pub row: Option<Row>,
}

/// A relation as the chunks of a window introduce it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationInfo {
    oid: u32,
    schema: String,
    name: String,
    key: Vec<usize>,
    columns: Vec<Option<ColumnInfo>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ColumnInfo {
    name: String,
    type_oid: u32,
    binary: bool,
}

/// Where a value stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: u32,
    start: u32,
    length: u32,
}

/// Length of a NULL.
const NULL: u32 = u32::MAX;

/// A changed column.
#[derive(Clone, Copy, Debug)]
struct Cell {
    column: u16,
    new: Place,
    old: Place,
}

impl RelationInfo {
    fn of(relation: &Relation) -> Self {
        RelationInfo {
            oid: relation.oid,
            schema: relation.schema.to_owned(),
            name: relation.name.to_owned(),
            key: relation.key.clone(),
            columns: relation.columns.iter().map(|c| c.as_ref().map(ColumnInfo::of)).collect(),
        }
    }

    /// Whether it is the same relation, as far as both are known.
    fn fits(&self, relation: &Relation) -> bool {
        let same = |(known, column): (&Option<ColumnInfo>, &Option<Column>)| match (known, column) {
            (Some(known), Some(column)) => known.is(column),
            _ => true,
        };
        self.schema == relation.schema
            && self.name == relation.name
            && self.key == relation.key
            && self.columns.len() == relation.columns.len()
            && self.columns.iter().zip(&relation.columns).all(same)
    }

    /// Takes in the columns that were not introduced before.
    fn join(&mut self, relation: &Relation) {
        for (known, column) in self.columns.iter_mut().zip(&relation.columns) {
            if known.is_none() {
                *known = column.as_ref().map(ColumnInfo::of);
            }
        }
    }

    pub fn as_relation(&self) -> Relation<'_> {
        Relation {
            oid: self.oid,
            schema: &self.schema,
            name: &self.name,
            key: self.key.clone(),
            columns: self.columns.iter().map(|c| c.as_ref().map(ColumnInfo::as_column)).collect(),
        }
    }
}

impl ColumnInfo {
    fn of(column: &Column) -> Self {
        ColumnInfo { name: column.name.to_owned(), type_oid: column.type_oid, binary: column.binary }
    }

    fn as_column(&self) -> Column<'_> {
        Column { name: &self.name, type_oid: self.type_oid, binary: self.binary }
    }

    fn is(&self, column: &Column) -> bool {
        self.name == column.name && self.type_oid == column.type_oid && self.binary == column.binary
    }
}

impl Place {
    fn value(self, chunks: &[Chunk]) -> Value<'_> {
        if self.length == NULL {
            return None;
        }
        let start = self.start as usize;
        Some(&chunks[self.chunk as usize].payload[start..start + self.length as usize])
    }
}

impl Plan {
    /// The values of a key, in the order of the key.
    pub fn key<'c>(
        &'c self,
        chunks: &'c [Chunk],
        table: &TablePlan,
        key: Key,
    ) -> impl Iterator<Item = Value<'c>> + 'c {
        self.values(chunks, key.0, table.relation.key.len())
    }

    /// The values of these columns.
    pub fn columns<'c>(
        &'c self,
        chunks: &'c [Chunk],
        row: Row,
        columns: &'c [usize],
    ) -> impl Iterator<Item = Value<'c>> + 'c {
        let places = &self.places[row.0 as usize..];
        columns.iter().map(move |&n| places[n].value(chunks))
    }

    /// New and old value of the `n`th column of the group.
    pub fn changed<'c>(&self, chunks: &'c [Chunk], update: Update, n: usize) -> (Value<'c>, Value<'c>) {
        let cell = self.cells[update.cells as usize + n];
        (cell.new.value(chunks), cell.old.value(chunks))
    }

    fn values<'c>(
        &'c self,
        chunks: &'c [Chunk],
        at: u32,
        count: usize,
    ) -> impl Iterator<Item = Value<'c>> + 'c {
        let at = at as usize;
        self.places[at..at + count].iter().map(|place| place.value(chunks))
    }
}

/// Collects a window.
#[derive(Default)]
pub struct Planner {
    chunks: Vec<Chunk>,
    bytes: usize,
    net: NetEffect,
}

impl Planner {
    /// Adds a chunk, or gives it back: then it does not fit to what came before, so `finish` has to be called first.
    /// Given back by an empty planner it can only be applied by itself, without a plan.
    pub fn add(&mut self, chunk: Chunk) -> Result<(), Box<Chunk>> {
        let bytes = chunk.payload.len();
        self.chunks.push(chunk);
        if self.net.add(&self.chunks) {
            self.bytes += bytes;
            return Ok(());
        }
        Err(Box::new(self.chunks.remove(self.chunks.len() - 1)))
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.fills(1)
    }

    /// It has come to one such part of a full window.
    pub fn fills(&self, part: usize) -> bool {
        self.bytes >= WINDOW_BYTES / part
            || self.net.places.len() + 2 * self.net.cells.len() >= WINDOW_PLACES / part
            || self.net.rows() >= WINDOW_ROWS / part
    }

    /// The chunk belongs to the transaction at hand.
    pub fn goes_on_with(&self, chunk: &Chunk) -> bool {
        self.chunks.last().is_some_and(|last| last.transaction.rank == chunk.transaction.rank)
    }

    /// The window, which may be empty if it only ends a batch.
    pub fn finish(&mut self, end: Option<End>) -> Window {
        self.bytes = 0;
        let mut chunks = std::mem::take(&mut self.chunks);
        chunks.shrink_to_fit();
        Window { chunks, plan: self.net.take_plan(), end, ..Window::default() }
    }
}
