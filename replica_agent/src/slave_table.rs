//! A table as the slave has it: what statements on it have to know. Reads catalogs only.

use std::sync::Arc;

use postgres::{GenericClient, Row, Statement};

use crate::decode::Relation;
use crate::error::{Error, Kind, Result};
use crate::failure::failed_on;
use crate::mapping::{Mapping, Name, Operations, Rule};
use crate::pipe::Pipe;
use crate::plan::Lost;
use crate::quote;

/// A column of a slave's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlaveColumn {
    pub name: String,
    /// The master's column that it takes, by its name there.
    pub from: Option<String>,
    /// Without and with its modifier: `varchar`, `varchar(10)`.
    pub type_name: String,
    pub full_type: String,
    /// Oid of its type, and of the type below if that is a domain.
    pub own_type: u32,
    pub base_type: u32,
    pub is_enum: bool,
    /// GENERATED ALWAYS AS IDENTITY: PostgreSQL takes a value of ours on INSERT and refuses it on UPDATE.
    pub always_identity: bool,
    pub generated: bool,
    /// First of a btree index that is not unique, and ours to set.
    pub leads_index: bool,
    /// `operator(schema.=)`
    pub equality: String,
}

impl SlaveColumn {
    /// SQL of a value of that type, as SQL of a value that this column takes: by the cast that the copy makes, also where
    /// PostgreSQL would not make one by itself.
    pub fn cast(&self, type_oid: u32, value: String) -> String {
        match [self.own_type, self.base_type].contains(&type_oid) {
            true => value,
            false => format!("cast({value} as {})", self.type_name),
        }
    }
}

/// A table as the slave has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlaveTable {
    /// Quoted and qualified.
    pub sql_name: String,
    pub oid: u32,
    /// An ordinary table: what inherits from it has changes of its own in the log.
    pub only: bool,
    /// Something there has to see each change: a trigger or rule that fires for a replica, or it is not a table.
    pub one_by_one: bool,
    /// A change that finds no row does something there all the same: a trigger for statements, a rule. Or it is no table.
    pub fires_for_nothing: bool,
    pub columns: Vec<SlaveColumn>,
    pub rule: Option<Arc<Rule>>,
}

impl SlaveTable {
    /// Name for UPDATE, DELETE, TRUNCATE and SELECT.
    pub fn target(&self) -> String {
        format!("{}{}", if self.only { "only " } else { "" }, self.sql_name)
    }

    /// Are changes to be put in another form than with other names?
    pub fn is_transformed(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.is_transform())
    }

    /// Is something not shown that a table is to take which does not take what came later?
    pub fn lacks(&self, lost: Lost) -> bool {
        let Some(rule) = &self.rule else { return false };
        let Operations { update, delete, .. } = rule.operations;
        // An update may move a row out of the filter, where it would be kept.
        let kept = lost.before_delete || lost.before_update && rule.row_filter.is_some();
        !delete && kept || !update && lost.before_update
    }

    /// NULL under the names of columns, for a row that has no values of them.
    pub fn nulls_for<'t>(
        &'t self,
        wanted: impl Fn(&SlaveColumn) -> bool + 't,
    ) -> impl Iterator<Item = String> + 't {
        let columns = self.columns.iter().filter(move |here| wanted(here));
        columns.map(|here| format!("cast(null as {}) as {}", here.full_type, quote::ident(&here.name)))
    }

    /// The column that takes what the master has in the column of this name.
    pub fn column(&self, name: &str) -> Result<&SlaveColumn> {
        self.columns
            .iter()
            .find(|c| c.from.as_deref() == Some(name))
            .ok_or_else(|| missing(self.rule.as_ref().and_then(|rule| rule.column(name)).unwrap_or(name)))
    }

    /// The column of this name here.
    pub fn own_column(&self, name: &str) -> Result<&SlaveColumn> {
        self.columns.iter().find(|c| c.name == name).ok_or_else(|| missing(name))
    }

    /// Those of the relation's columns that have a place here.
    pub fn taken(&self, relation: &Relation, columns: impl Iterator<Item = usize>) -> Vec<usize> {
        let Some(rule) = &self.rule else { return columns.collect() };
        let is_taken =
            |&n: &usize| relation.columns[n].as_ref().is_none_or(|c| rule.column(c.name).is_some());
        columns.filter(is_taken).collect()
    }
}

/// The slave's table for that table of the master; `None` when there is none. Errors name the relation. `statement` is
/// kept for the next time, since to prepare it takes several times as long as to run it.
pub fn describe(
    client: &mut Pipe,
    statement: &mut Option<Statement>,
    relation: &Relation,
    mapping: &Mapping,
    (schema, name): &Name,
) -> Result<Option<SlaveTable>> {
    let failed = |e| failed_on(relation, e);
    let prepared = match statement.take() {
        Some(prepared) => prepared,
        None => client.prepare(QUERY).map_err(failed)?,
    };
    let target = mapping.target(schema, name);
    let rows = client.query(statement.insert(prepared), &[&target.0, &target.1]).map_err(failed)?;
    Ok(of_rows(&rows, mapping, (schema, name)))
}

/// The same, in any other session.
pub fn look_up(
    client: &mut impl GenericClient,
    mapping: &Mapping,
    (schema, name): (&str, &str),
) -> std::result::Result<Option<SlaveTable>, postgres::Error> {
    let target = mapping.target(schema, name);
    let rows = client.query(QUERY, &[&target.0, &target.1])?;
    Ok(of_rows(&rows, mapping, (schema, name)))
}

const QUERY: &str = include_str!("sql/slave_table.sql");

fn of_rows(rows: &[Row], mapping: &Mapping, (schema, name): (&str, &str)) -> Option<SlaveTable> {
    let first = rows.first()?;
    let rule = mapping.rule(schema, name).cloned();
    let (schema, name) = mapping.target(schema, name);
    Some(SlaveTable {
        sql_name: quote::qualified(&schema, &name),
        oid: first.get("oid"),
        only: first.get::<_, &str>("relkind") == "r",
        one_by_one: first.get("one_by_one"),
        fires_for_nothing: first.get("fires_for_nothing"),
        columns: rows
            .iter()
            .map(|row| SlaveColumn {
                name: row.get("name"),
                from: master_column(rule.as_deref(), row.get("name")),
                type_name: row.get("type"),
                full_type: row.get("full_type"),
                own_type: row.get("own_type"),
                base_type: row.get("base_type"),
                is_enum: row.get("is_enum"),
                always_identity: row.get("always_identity"),
                generated: row.get("generated"),
                leads_index: row.get("leads_index"),
                equality: row
                    .get::<_, Option<String>>("equality")
                    .unwrap_or_else(|| "operator(pg_catalog.=)".to_owned()),
            })
            .collect(),
        rule,
    })
}

fn missing(column: &str) -> Error {
    Error::new(Kind::Apply, format!("column {} does not exist on the slave", quote::ident(column)))
        .with_sqlstate("42703")
}

/// The master's column for a column of the slave.
fn master_column(rule: Option<&Rule>, here: &str) -> Option<String> {
    let Some(Rule { columns, .. }) = rule else { return Some(here.to_owned()) };
    let renamed =
        columns.iter().find(|(_, name)| name.as_deref() == Some(here)).map(|(from, _)| from.as_str());
    renamed.or((!columns.contains_key(here)).then_some(here)).map(str::to_owned)
}
