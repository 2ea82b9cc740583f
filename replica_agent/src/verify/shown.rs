//! The master's rows as a slave that keeps them in another form (`transform`) should hold them.
//!
//! In: rows of the master, every value as the log would have it. Out: the rows that pass the filter, as text of the
//! slave's columns, in the same order. The slave computes them, in a session of their own, as it did when it applied them.

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

use super::rows::{value, Query};
use crate::bind::Array;
use crate::copy::CapturedTable;
use crate::decode::Relation;
use crate::error::{Error, Result};
use crate::log_columns::{as_relation, log_columns, LogColumn};
use crate::mapping::Mapping;
use crate::own_types::{self, OwnTypes};
use crate::quote;
use crate::set_statement::element;
use crate::shape::Shape;
use crate::slave_table::look_up;
use crate::statement::columns;
use crate::transform::{Carried, Source, Step, Transform};

/// How to show the rows of a table.
pub(super) struct Shown {
    statement: Statement,
    /// Of the arrays that are its parameters.
    elements: Vec<u32>,
    place: String,
}

impl Shown {
    /// The query of the master's rows and how to show them; `there` is the slave's session.
    pub fn of(
        master: &mut Client,
        there: &mut Client,
        mapping: &Mapping,
        (table, here): (&CapturedTable, &Shape),
        encoding: &str,
    ) -> Result<Option<Query>> {
        let place = format!("could not compute the rows of table {} on the slave", table.full_name());
        let failed = |e| Error::from_pg(&place, e);
        let types = OwnTypes::of(&there.query(own_types::QUERY, &[]).map_err(failed)?);
        let mut sent = log_columns(master, std::slice::from_ref(table))
            .map_err(|e| Error::from_pg("could not read the catalogs of the master", e))?
            .remove(0);
        for column in &mut sent {
            // Arrays hold no arrays.
            column.binary &= types.arrays.contains_key(&column.type_oid);
        }
        let relation = as_relation(table, &sent);
        let Some(slave_table) = look_up(there, mapping, (&table.schema, &table.name)).map_err(failed)? else {
            return Ok(None);
        };
        let Some(transform) = Transform::new(&slave_table, &relation, &types)? else { return Ok(None) };
        let all: Vec<usize> = (0..sent.len()).collect();
        let carried = Carried { key: &[], new: &all, old: &[] };
        let sql = transform.build(Step::Show, Source::Many, carried)?;
        let parameters = transform.parameter_types(Source::Many, carried).unwrap_or_default();
        let statement = there.prepare_typed(&sql, &parameters).map_err(failed)?;
        let elements = elements(&relation, &all, &types);

        let names = transform.names();
        let list: Vec<String> = sent.iter().map(selected).collect();
        let shown = Shown { statement, elements, place };
        let key = mapping.on_slave(table).key_columns;
        let mut query = Query::new(here, &table.key_columns, &[], encoding);
        query.show_as(shown, names, &key, list.join(", "));
        Ok(Some(query))
    }

    pub fn show(&self, there: &mut Client, rows: &[Row]) -> Result<Vec<Row>> {
        let mut arrays: Vec<Array> = self.elements.iter().map(|&e| Array::new(e, rows.len())).collect();
        for row in rows {
            for (i, array) in arrays.iter_mut().enumerate() {
                array.push(value(row, i)?);
            }
        }
        let params: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        there.query(&self.statement, &params).map_err(|e| Error::from_pg(&self.place, e))
    }
}

fn elements(relation: &Relation, all: &[usize], types: &OwnTypes) -> Vec<u32> {
    columns(relation, all).iter().filter_map(|column| element(column, &types.arrays)).collect()
}

fn selected(column: &LogColumn) -> String {
    format!("{}{}", quote::ident(&column.name), column.cast())
}
