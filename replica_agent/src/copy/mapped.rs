//! Passes the rows of a table on to a slave that keeps them in another form (`transform`).
//!
//! In: a table whose rows are read under the copy's snapshot. Out: how many rows went over. The slave computes what it
//! keeps, as it does for the stream, some thousand rows at a time; so memory is bounded by these, or by one row.

use std::io::BufRead;

use postgres::types::ToSql;
use postgres::{GenericClient, Transaction};

use super::progress::TableProgress;
use super::transfer::{unwrap_pg, Ends, Sent};
use super::{table, CapturedTable};
use crate::bind::Array;
use crate::error::{Error, Kind, Result};
use crate::log_columns::{as_relation, log_columns};
use crate::mapping::Mapping;
use crate::own_types::{self, OwnTypes};
use crate::quote;
use crate::set_statement::element;
use crate::slave_table::look_up;
use crate::statement::columns;
use crate::transform::{Carried, Source, Step, Transform};
use crate::wake::Stop;

/// Rows of a statement.
const ROWS: usize = 5_000;
/// Bytes of a statement, but for its last row.
const BYTES: usize = 1024 * 1024;
/// What stands before the first row of a binary COPY: signature, flags, length of an extension that is empty.
const HEADER: usize = 19;

pub(super) fn transfer_mapped(
    from: &mut impl GenericClient,
    to: &mut Transaction,
    (table, source): (&CapturedTable, &str),
    mapping: &Mapping,
    ends: &Ends,
    stop: &Stop,
    progress: &TableProgress,
) -> Result<Sent> {
    let on_master = |e| ends.on_master(e);
    let on_slave = |e| ends.on_slave(e);
    let types = OwnTypes::of(&to.query(own_types::QUERY, &[]).map_err(on_slave)?);
    let mut sent = log_columns(from, std::slice::from_ref(table)).map_err(on_master)?.remove(0);
    for column in &mut sent {
        // Arrays hold no arrays.
        column.binary &= types.arrays.contains_key(&column.type_oid);
    }
    let list: Vec<String> = sent.iter().map(|c| format!("{}{}", quote::ident(&c.name), c.cast())).collect();

    let gone = || Error::new(Kind::Apply, format!("table \"{}\" is no longer on the slave", ends.table));
    let relation = as_relation(table, &sent);
    let Some(here) = look_up(to, mapping, (&table.schema, &table.name)).map_err(on_slave)? else {
        return Err(gone());
    };
    let Some(transform) = Transform::new(&here, &relation, &types)? else { return Err(gone()) };
    let all: Vec<usize> = (0..sent.len()).collect();
    let carried = Carried { key: &[], new: &all, old: &[] };
    let sql = transform.build(Step::Insert, Source::Many, carried)?;
    let parameters = transform.parameter_types(Source::Many, carried).unwrap_or_default();
    let statement = to.prepare_typed(&sql, &parameters).map_err(on_slave)?;
    let elements: Vec<u32> =
        columns(&relation, &all).iter().filter_map(|column| element(column, &types.arrays)).collect();

    let copy = format!("copy (select {} from {source}) to stdout (format binary)", list.join(", "));
    let mut reader = from.copy_out(&copy).map_err(on_master)?;
    let mut moved = Sent::default();
    let mut batch = Batch::default();
    let mut skip = HEADER;
    loop {
        if stop.is_set() {
            return Err(table::stopped(ends.table));
        }
        // The protocol has each row in a message of its own, the header before the first of them.
        let data = reader.fill_buf().map_err(|e| unwrap_pg(e, |e| ends.on_master(e)))?;
        let (length, ended) = (data.len(), data.is_empty());
        let rows = u64::from(batch.add(data.get(skip..).unwrap_or_default()));
        reader.consume(length);
        progress.add(rows, length as u64);
        moved.rows += rows;
        skip = 0;
        if batch.is_full() || ended && batch.rows > 0 {
            let arrays = batch.take(&elements).ok_or_else(|| {
                Error::new(Kind::Apply, format!("table \"{}\" came in a form that is not known", ends.table))
            })?;
            let params: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
            moved.stored += to.execute(&statement, &params).map_err(on_slave)?;
        }
        if ended {
            return Ok(moved);
        }
    }
}

/// Rows as COPY sends them.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    rows: usize,
}

impl Batch {
    /// True if there was a row.
    fn add(&mut self, row: &[u8]) -> bool {
        // What ends a COPY is a row of -1 columns.
        let is_row = row.len() >= 2 && row[..2] != [0xff; 2];
        if is_row {
            self.bytes.extend_from_slice(row);
            self.rows += 1;
        }
        is_row
    }

    fn is_full(&self) -> bool {
        self.rows >= ROWS || self.bytes.len() >= BYTES
    }

    /// Column by column, elements being of these types; `None` when they are not so many.
    fn take(&mut self, elements: &[u32]) -> Option<Vec<Array>> {
        let mut arrays: Vec<Array> = elements.iter().map(|&e| Array::new(e, self.rows)).collect();
        let mut rest = self.bytes.as_slice();
        for _ in 0..self.rows {
            let (count, values) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*count)) == elements.len()).then_some(())?;
            rest = values;
            for array in &mut arrays {
                let (length, after) = rest.split_first_chunk()?;
                let value = match i32::from_be_bytes(*length) {
                    -1 => None,
                    length => Some(after.get(..usize::try_from(length).ok()?)?),
                };
                array.push(value);
                rest = &after[value.map_or(0, <[u8]>::len)..];
            }
        }
        *self = Batch::default();
        Some(arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_arrays() {
        let mut batch = Batch::default();
        assert!(batch.add(b"\0\x02\0\0\0\x02ab\xff\xff\xff\xff"));
        assert!(batch.add(b"\0\x02\0\0\0\0\0\0\0\x01c"));
        assert!(!batch.add(b"\xff\xff"));
        let mut expected = [Array::new(25, 2), Array::new(25, 2)];
        expected[0].push(Some(b"ab"));
        expected[0].push(Some(b""));
        expected[1].push(None);
        expected[1].push(Some(b"c"));
        let arrays = batch.take(&[25, 25]).unwrap();
        assert_eq!(format!("{arrays:?}"), format!("{expected:?}"));
        assert_eq!(batch.rows, 0);
        batch.add(b"\0\x02\0\0\0\x02a");
        assert!(batch.take(&[25, 25]).is_none());
    }
}
