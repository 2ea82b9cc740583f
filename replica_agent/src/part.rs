//! What of a captured table the master sends: `pyreplica.add_table` takes some columns, rows and operations.
//!
//! In: a row of `sql/captured_tables.sql`. Out: the same for copy, check and verify. Pure.

use postgres::Row;

use crate::copy::CapturedTable;
use crate::mapping::Operations;
use crate::shape::Shape;

/// The default is all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub columns: Option<Vec<String>>,
    pub rows: Rows,
    pub operations: Operations,
    /// An UPDATE carries all columns.
    pub whole_rows: bool,
}

/// Which rows are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Those for which this SQL over a row named `new` is true.
    Where(String),
    /// It depends on what is done to them. A copy has those for which this is true.
    ByChange(String),
}

impl Default for Part {
    fn default() -> Self {
        Part { columns: None, rows: Rows::All, operations: Operations::ALL, whole_rows: false }
    }
}

impl Part {
    /// The columns of `captured_tables.sql` from this one on.
    pub fn read(row: &Row, first: usize) -> Part {
        let operations: Vec<String> = row.get(first + 3);
        let has = |operation: &str| operations.iter().any(|o| o == operation);
        Part {
            columns: row.get(first),
            rows: match (row.get::<_, Option<String>>(first + 1), row.get::<_, Option<&str>>(first + 2)) {
                (None, _) => Rows::All,
                (Some(condition), Some("changes")) => Rows::ByChange(condition),
                (Some(condition), _) => Rows::Where(condition),
            },
            operations: Operations {
                insert: has("insert"),
                update: has("update"),
                delete: has("delete"),
                truncate: has("truncate"),
            },
            whole_rows: row.get(first + 4),
        }
    }

    pub fn sends(&self, column: &str) -> bool {
        self.columns.as_ref().is_none_or(|columns| columns.iter().any(|sent| sent == column))
    }

    /// Which rows a copy has, as SQL over a row named `new`; `None` for all.
    pub fn condition(&self) -> Option<&str> {
        match &self.rows {
            Rows::All => None,
            Rows::Where(condition) | Rows::ByChange(condition) => Some(condition),
        }
    }

    /// FROM, and WHERE where there is one, that read what is sent of a table, or what of that another condition selects.
    pub fn source(&self, table: &str, also: Option<&str>) -> String {
        match (self.condition(), also) {
            (None, None) => table.to_owned(),
            (None, Some(also)) => format!("{table} where {also}"),
            (Some(condition), None) => format!("{table} as new where {condition}"),
            (Some(condition), Some(also)) => format!("{table} as new where ({condition}) and {also}"),
        }
    }
}

/// Takes from the shapes of the master's tables the columns that are not sent.
pub fn keep_sent(shapes: &mut [Shape], tables: &[CapturedTable]) {
    for shape in shapes {
        let same = |table: &&CapturedTable| table.schema == shape.schema && table.name == shape.name;
        if let Some(table) = tables.iter().find(same) {
            shape.columns.retain(|column| table.part.sends(&column.name));
        }
    }
}
