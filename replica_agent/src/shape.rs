//! What a table looks like on one server: kind, columns, key.
//!
//! In: names of tables. Out: a `Shape` for each that exists. Compared by `check` and `verify`; reads catalogs only.

use postgres::Client;

use crate::copy::CapturedTable;
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub struct Shape {
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: r or p for what can be replicated to.
    pub kind: char,
    pub unlogged: bool,
    /// Policies hide rows of it from the role of the session.
    pub row_security: bool,
    pub columns: Vec<Column>,
    /// Each unique index that covers all rows: its columns in order of the index, the primary key first.
    pub unique: Vec<Vec<String>>,
    /// Rights on it, and on its schema, that the role of the session has not.
    pub missing_rights: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// As `format_type` writes it.
    pub type_name: String,
    pub not_null: bool,
    pub generated: bool,
    /// A default or an identity fills it when an INSERT leaves it out.
    pub filled: bool,
}

impl Shape {
    pub fn is_table(&self) -> bool {
        matches!(self.kind, 'r' | 'p')
    }

    /// What stands before its name in a statement: rows of inheritance children are not its own.
    pub fn only(&self) -> &'static str {
        if self.kind == 'p' {
            ""
        } else {
            "only "
        }
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether some unique index has exactly these columns, in whatever order.
    pub fn has_unique(&self, key: &[String]) -> bool {
        self.unique
            .iter()
            .any(|unique| unique.len() == key.len() && unique.iter().all(|name| key.contains(name)))
    }
}

/// The shapes of those tables that exist, `rights` being those to ask for.
pub fn shapes(
    client: &mut Client,
    what: &str,
    tables: &[CapturedTable],
    rights: &[&str],
) -> Result<Vec<Shape>> {
    let schemas: Vec<_> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    let context = |e| Error::from_pg(format!("could not read the catalogs of {what}"), e);
    let mut shapes: Vec<Shape> = client
        .query(include_str!("sql/shape_tables.sql"), &[&schemas, &names, &rights])
        .map_err(context)?
        .iter()
        .map(|row| Shape {
            schema: row.get(0),
            name: row.get(1),
            kind: char::from(row.get::<_, i8>(2) as u8),
            unlogged: row.get(3),
            row_security: row.get(4),
            missing_rights: row.get(5),
            columns: Vec::new(),
            unique: Vec::new(),
        })
        .collect();
    let mut with = |schema: &str, name: &str, add: &mut dyn FnMut(&mut Shape)| {
        if let Some(shape) = shapes.iter_mut().find(|shape| shape.schema == schema && shape.name == name) {
            add(shape);
        }
    };
    for row in client.query(include_str!("sql/shape_columns.sql"), &[&schemas, &names]).map_err(context)? {
        with(row.get(0), row.get(1), &mut |shape| {
            shape.columns.push(Column {
                name: row.get(2),
                type_name: row.get(3),
                not_null: row.get(4),
                generated: row.get(5),
                filled: row.get(6),
            });
        });
    }
    for row in client.query(include_str!("sql/shape_unique.sql"), &[&schemas, &names]).map_err(context)? {
        with(row.get(0), row.get(1), &mut |shape| shape.unique.push(row.get(2)));
    }
    Ok(shapes)
}
