//! The columns of captured tables as a log would introduce them: for what is done to rows that do not come from one.
//!
//! In: tables of the master. Out: their columns, and a `Relation` of them. Reads catalogs only.

use postgres::GenericClient;

use crate::copy::CapturedTable;
use crate::decode::{Column, Relation};

/// A column, by its name on the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogColumn {
    pub name: String,
    /// 0 when only the master knows it.
    pub type_oid: u32,
    /// Whether values can be had in binary.
    pub binary: bool,
}

impl LogColumn {
    /// What stands behind it where it is selected.
    pub fn cast(&self) -> &'static str {
        if self.binary {
            ""
        } else {
            "::text"
        }
    }
}

/// The columns of each of the tables.
pub fn log_columns(
    master: &mut impl GenericClient,
    tables: &[CapturedTable],
) -> std::result::Result<Vec<Vec<LogColumn>>, postgres::Error> {
    let schemas: Vec<_> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    let mut columns = vec![Vec::new(); tables.len()];
    for row in master.query(include_str!("sql/log_columns.sql"), &[&schemas, &names])? {
        let place: i64 = row.get(0);
        let place = place as usize - 1;
        let column = LogColumn { name: row.get(1), type_oid: row.get(2), binary: row.get(3) };
        if tables[place].part.sends(&column.name) {
            columns[place].push(column);
        }
    }
    Ok(columns)
}

/// The table as a log would introduce it.
pub fn as_relation<'c>(table: &'c CapturedTable, columns: &'c [LogColumn]) -> Relation<'c> {
    let number = |name: &String| columns.iter().position(|column| column.name == *name);
    Relation {
        oid: 0,
        schema: &table.schema,
        name: &table.name,
        key: table.key_columns.iter().filter_map(number).collect(),
        columns: columns
            .iter()
            .map(|c| Some(Column { name: &c.name, type_oid: c.type_oid, binary: c.binary }))
            .collect(),
    }
}
