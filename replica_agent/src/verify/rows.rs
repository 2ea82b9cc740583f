//! Reads one table on both sides in the order of its key and merges the two streams.
//!
//! In: the columns to compare. Out: how many rows the master has and the keys of those that differ, bounded.

use std::cmp::Ordering;

use fallible_iterator::FallibleIterator;
use postgres::types::{FromSql, Type};
use postgres::{Client, Row, RowIter};

use super::shown::Shown;
use super::{Pair, KEYS_MAX};
use crate::error::{Error, Kind, Result};
use crate::mapping::Operations;
use crate::part::Part;
use crate::quote;
use crate::shape::Shape;

/// The key of a row, as text of each column.
pub(super) type Key = Vec<Option<String>>;

/// How to read one side of a table; columns are in the same order on both.
pub(super) struct Query {
    pub table: String,
    pub columns: Vec<String>,
    /// Places of the key's columns in `columns`.
    pub key: Vec<usize>,
    from: String,
    /// Which rows are compared, over a row named `new`.
    condition: Option<String>,
    list: String,
    order: String,
    /// `WHERE` that finds one row by the text of its key.
    find: String,
    /// The rows that are read have to become those that are compared.
    pub shown: Option<Shown>,
}

impl Query {
    pub fn new(shape: &Shape, key_columns: &[String], columns: &[String], encoding: &str) -> Query {
        let text = |name: &String| format!("{}::text", quote::ident(name));
        // The order of bytes in UTF-8, whatever the encoding of the database; the agent merges by it.
        let ordered = |name: &String| match encoding {
            "UTF8" | "SQL_ASCII" => format!("{} collate \"C\" nulls first", text(name)),
            _ => format!("convert_to({}, 'UTF8') nulls first", text(name)),
        };
        let found = |(i, name): (usize, &String)| {
            let type_name = shape.column(name).map_or("text", |column| column.type_name.as_str());
            // Types outside pg_catalog may have no "=" that is found there; their tables are scanned.
            match type_name.contains('.') {
                false => format!("{} = ${}::text::{type_name}", quote::ident(name), i + 1),
                true => format!("{} = ${}::text", text(name), i + 1),
            }
        };
        Query {
            table: format!("{}.{}", shape.schema, shape.name),
            columns: columns.to_vec(),
            key: key_columns
                .iter()
                .filter_map(|key| columns.iter().position(|column| column == key))
                .collect(),
            from: format!("{}{}", shape.only(), quote::qualified(&shape.schema, &shape.name)),
            condition: None,
            list: columns.iter().map(text).collect::<Vec<_>>().join(", "),
            order: key_columns.iter().map(ordered).collect::<Vec<_>>().join(", "),
            find: key_columns.iter().enumerate().map(found).collect::<Vec<_>>().join(" and "),
            shown: None,
        }
    }

    /// What is read is `list`, and becomes rows of these columns.
    pub fn show_as(&mut self, shown: Shown, columns: Vec<String>, key: &[String], list: String) {
        self.key = key.iter().filter_map(|key| columns.iter().position(|column| column == key)).collect();
        (self.columns, self.list, self.shown) = (columns, list, Some(shown));
    }

    /// Only what of the table is sent.
    pub fn of(mut self, part: &Part) -> Query {
        if let Some(condition) = part.condition() {
            self.from.push_str(" as new");
            self.condition = Some(condition.to_owned());
        }
        self
    }

    pub fn all(&self) -> String {
        let condition = self.condition.as_ref().map_or_else(String::new, |c| format!(" where {c}"));
        format!("select {} from {}{condition} order by {}", self.list, self.from, self.order)
    }

    pub fn one(&self) -> String {
        let condition = self.condition.as_ref().map_or_else(String::new, |c| format!(" and {c}"));
        format!("select {} from {} where {}{condition}", self.list, self.from, self.find)
    }

    pub fn key_of(&self, row: &Row) -> Result<Key> {
        self.key
            .iter()
            .map(|i| Ok(value(row, *i)?.map(|v| String::from_utf8_lossy(v).into_owned())))
            .collect()
    }

    /// As PostgreSQL writes keys: (a, b)=(1, 2).
    pub fn show(&self, key: &Key) -> String {
        let names: Vec<_> = self.key.iter().map(|i| self.columns[*i].as_str()).collect();
        let values: Vec<_> = key.iter().map(|value| value.as_deref().unwrap_or("null")).collect();
        format!("({})=({})", names.join(", "), values.join(", "))
    }

    fn compare_keys(&self, a: &Row, b: &Row) -> Result<Ordering> {
        for i in &self.key {
            let ordering = value(a, *i)?.cmp(&value(b, *i)?);
            if ordering.is_ne() {
                return Ok(ordering);
            }
        }
        Ok(Ordering::Equal)
    }

    pub fn same(&self, a: &Row, b: &Row) -> Result<bool> {
        for i in 0..self.columns.len() {
            if value(a, i)? != value(b, i)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The columns in which two rows differ.
    pub fn differing(&self, a: &Row, b: &Row) -> Result<Vec<&str>> {
        let mut names = Vec::new();
        for (i, name) in self.columns.iter().enumerate() {
            if value(a, i)? != value(b, i)? {
                names.push(name.as_str());
            }
        }
        Ok(names)
    }
}

/// Text as its bytes: a SQL_ASCII database holds what is not UTF-8 too.
struct Bytes<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Bytes<'a> {
    fn from_sql(
        _: &Type,
        raw: &'a [u8],
    ) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Bytes(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

pub(super) fn value(row: &Row, i: usize) -> Result<Option<&[u8]>> {
    row.try_get::<_, Option<Bytes>>(i)
        .map(|value| value.map(|bytes| bytes.0))
        .map_err(|e| Error::from_pg("could not read a value", e))
}

/// What a pass over both sides found.
pub(super) struct Found {
    pub rows: u64,
    pub keys: Vec<Key>,
    /// Differing rows beyond those whose keys are kept.
    pub more: u64,
}

/// What a slave may differ in because of what it does not take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// A row that only the master has.
    pub missing: bool,
    /// A row that only the slave has.
    pub kept: bool,
    /// Other values.
    pub values: bool,
}

impl Tolerance {
    pub const NONE: Tolerance = Tolerance { missing: false, kept: false, values: false };

    pub fn of(Operations { insert, update, delete, truncate }: Operations) -> Self {
        Tolerance { missing: !insert || !update, kept: !delete || !update || !truncate, values: !update }
    }
}

pub(super) fn merge(
    pair: &mut Pair,
    on_master: &Query,
    on_slave: &Query,
    tolerance: Tolerance,
) -> Result<Found> {
    let Pair { master, slave, shower, which, .. } = pair;
    let mut left = Side::start(master, on_master, "the master".into(), shower.as_mut())?;
    let mut right = Side::start(slave, on_slave, format!("slave \"{}\"", which.name), None)?;
    let mut found = Found { rows: 0, keys: Vec::new(), more: 0 };
    let mut differs = |key: Key| {
        // That of rows that the slave has several times.
        if found.keys.last() == Some(&key) {
            return;
        }
        if found.keys.len() < KEYS_MAX {
            found.keys.push(key);
        } else {
            found.more += 1;
        }
    };
    loop {
        if pair.stop.is_set() {
            return Err(Error::new(Kind::Stopped, "the comparison was stopped"));
        }
        let ordering = match (&left.row, &right.row) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => on_master.compare_keys(a, b)?,
        };
        match (&left.row, &right.row) {
            (Some(a), _) if ordering.is_lt() && !tolerance.missing => differs(on_master.key_of(a)?),
            (_, Some(b)) if ordering.is_gt() && !tolerance.kept => differs(on_slave.key_of(b)?),
            (Some(a), Some(b)) if ordering.is_eq() && !tolerance.values && !on_master.same(a, b)? => {
                differs(on_master.key_of(a)?);
            }
            _ => {}
        }
        if ordering.is_le() {
            found.rows += 1;
            left.next()?;
        }
        if ordering.is_ge() {
            right.next()?;
        }
    }
    Ok(found)
}

/// Rows that are computed at once.
const SHOWN_ROWS: usize = 1000;

struct Side<'a> {
    /// `None` after its last one.
    rows: Option<RowIter<'a>>,
    row: Option<Row>,
    shown: Option<(&'a Shown, &'a mut Client)>,
    /// Those that are computed, the next one last.
    ready: Vec<Row>,
    place: String,
}

impl<'a> Side<'a> {
    fn start(
        client: &'a mut Client,
        query: &'a Query,
        on: String,
        shower: Option<&'a mut Client>,
    ) -> Result<Side<'a>> {
        let place = format!("could not read table {} on {on}", query.table);
        let rows = client
            .query_raw(&query.all(), std::iter::empty::<&str>())
            .map_err(|e| Error::from_pg(&place, e))?;
        let shown = query.shown.as_ref().zip(shower);
        let mut side = Side { rows: Some(rows), row: None, shown, ready: Vec::new(), place };
        side.next()?;
        Ok(side)
    }

    fn next(&mut self) -> Result<()> {
        self.row = match self.shown {
            None => self.read()?,
            Some(_) => {
                while self.ready.is_empty() && self.compute()? {}
                self.ready.pop()
            }
        };
        Ok(())
    }

    fn read(&mut self) -> Result<Option<Row>> {
        let Some(rows) = &mut self.rows else { return Ok(None) };
        let row = rows.next().map_err(|e| Error::from_pg(&self.place, e))?;
        if row.is_none() {
            self.rows = None;
        }
        Ok(row)
    }

    /// False when there are no more rows.
    fn compute(&mut self) -> Result<bool> {
        let mut rows = Vec::new();
        while rows.len() < SHOWN_ROWS {
            let Some(row) = self.read()? else { break };
            rows.push(row);
        }
        if let Some((shown, client)) = &mut self.shown {
            self.ready = shown.show(client, &rows)?;
            self.ready.reverse();
        }
        Ok(!rows.is_empty())
    }
}
