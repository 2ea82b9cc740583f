//! The checks of a slave's mapping: names and columns that are not there, expressions that are none, and what cannot be
//! mapped so.
//!
//! In: the mapping, the captured tables, both sides as they are. Out: findings in the `Report`. Changes nothing.

use postgres::Client;

use crate::check::Report;
use crate::config::Slave;
use crate::copy::CapturedTable;
use crate::error::{Error, Result};
use crate::log_columns::{as_relation, log_columns, LogColumn};
use crate::mapping::{Mapping, Rule};
use crate::own_types::{self, OwnTypes};
use crate::quote;
use crate::session;
use crate::shape::{shapes, Column, Shape};
use crate::slave_table::look_up;
use crate::transform::{Carried, Source, Step, Transform, WHOLE_ROWS};

/// PostgreSQL's MaxTupleAttributeNumber.
const SIDE_BY_SIDE: usize = 1664;

/// Patterns that match nothing, and tables that would become one.
pub(crate) fn names(mapping: &Mapping, captured: &[CapturedTable], at: &str, report: &mut Report) {
    let is_named = |matches: &dyn Fn(&str, &str) -> bool| {
        captured.iter().any(|table| matches(&table.schema, &table.name))
    };
    let lists = mapping.include.iter().chain(&mapping.exclude).map(|pattern| ("tables names", pattern));
    let rules = mapping.rules.iter().map(|rule| ("[[slave.table]] names", &rule.pattern));
    for (place, pattern) in lists.chain(rules) {
        if !is_named(&|schema, name| pattern.matches(schema, name)) {
            report.warning(
                format!("{at}: {place} \"{}\", and no captured table is called so", pattern.text()),
                "Correct the name; pyreplica.replicated_table on the master lists the captured tables.",
            );
        }
    }
    for schema in mapping.schemas.keys() {
        if !is_named(&|captured, _| captured == schema) {
            report.warning(
                format!("{at}: schemas names \"{schema}\", which has no captured table"),
                "Correct the name; pyreplica.replicated_table on the master lists the captured tables.",
            );
        }
    }
    let wanted = mapping.wanted(captured.to_vec());
    for (i, table) in wanted.iter().enumerate() {
        let target = mapping.target(&table.schema, &table.name);
        let same = |other: &&CapturedTable| mapping.target(&other.schema, &other.name) == target;
        if let Some(other) = wanted[..i].iter().find(same) {
            report.error(
                format!(
                    "{at}: tables {} and {} of the master would both be {}.{} there",
                    other.full_name(),
                    table.full_name(),
                    target.0,
                    target.1
                ),
                "Give one of them another name with \"to\" in a [[slave.table]], or leave it out of tables.",
            );
        }
    }
}

/// The first thing in the mapping that keeps a slave from following; asked before anything is applied.
pub(crate) fn refuse(master: &mut Client, slave: &Slave, captured: &[CapturedTable]) -> Result<()> {
    let mapping = &slave.mapping;
    if mapping.is_plain() {
        return Ok(());
    }
    let client: &mut Client = &mut session::connect_slave(slave)?;
    let mut report = Report::default();
    let at = format!("slave \"{}\"", slave.name);
    names(mapping, captured, &at, &mut report);
    let tables = ruled(mapping, captured);
    let there: Vec<CapturedTable> = tables.iter().map(|table| mapping.on_slave(table)).collect();
    let (of_master, of_slave) =
        (shapes(master, "the master", &tables, &[])?, shapes(client, &at, &there, &[])?);
    for (table, there) in tables.iter().zip(&there) {
        let find = |shapes: &'_ [Shape], table: &CapturedTable| {
            shapes.iter().find(|shape| (&shape.schema, &shape.name) == (&table.schema, &table.name)).cloned()
        };
        let rule = mapping.rule(&table.schema, &table.name);
        if let (Some(rule), Some(on_master), Some(here)) =
            (rule, find(&of_master, table), find(&of_slave, there))
        {
            columns(rule, there, &on_master, &here, &sent(Some(rule), &on_master), &at, &mut report);
        }
    }
    let tables = transformed(mapping, captured);
    let columns = read_columns(master, &tables)?;
    for (table, columns) in tables.iter().zip(&columns) {
        expressions(client, mapping, (table, columns), &at, &mut report)?;
    }
    report.into_result()
}

fn ruled(mapping: &Mapping, captured: &[CapturedTable]) -> Vec<CapturedTable> {
    let has_rule = |table: &CapturedTable| mapping.rule(&table.schema, &table.name).is_some();
    mapping.wanted(captured.to_vec()).into_iter().filter(has_rule).collect()
}

/// The master's columns that the slave takes as they are, and their names there. One that is generated on the master is not
/// sent, so nothing fills an ordinary one there either.
pub(crate) fn sent<'s>(rule: Option<&'s Rule>, on_master: &'s Shape) -> Vec<(&'s Column, &'s str)> {
    let taken = |column: &'s Column| {
        let name = match rule {
            None => Some(column.name.as_str()),
            Some(rule) => rule.column(&column.name).filter(|name| !rule.values.contains_key(*name)),
        };
        name.map(|name| (column, name))
    };
    on_master.columns.iter().filter(|column| !column.generated).filter_map(taken).collect()
}

/// The tables whose rows are given another form.
pub(crate) fn transformed(mapping: &Mapping, captured: &[CapturedTable]) -> Vec<CapturedTable> {
    let is_transformed = |table: &CapturedTable| {
        mapping.rule(&table.schema, &table.name).is_some_and(|rule| rule.is_transform())
    };
    mapping.wanted(captured.to_vec()).into_iter().filter(is_transformed).collect()
}

pub(crate) fn read_columns(master: &mut Client, tables: &[CapturedTable]) -> Result<Vec<Vec<LogColumn>>> {
    log_columns(master, tables)
        .map_err(|e| Error::from_pg("could not read the columns of tables of the master", e))
}

/// Whether each expression of the table's rule is one, and has what it needs; and whether rows can be put in as they
/// then are. What the slave does not have is left to others.
pub(crate) fn expressions(
    client: &mut Client,
    mapping: &Mapping,
    (table, columns): (&CapturedTable, &[LogColumn]),
    at: &str,
    report: &mut Report,
) -> Result<()> {
    let relation = as_relation(table, columns);
    let failed = |e| Error::from_pg(format!("could not check {at}"), e);
    let here = look_up(client, mapping, (&table.schema, &table.name)).map_err(failed)?;
    let Some(here) = here else { return Ok(()) };
    let types = OwnTypes::of(&client.query(own_types::QUERY, &[]).map_err(failed)?);
    // A column that it lacks is said elsewhere, or a statement that makes it is on its way.
    let Ok(Some(transform)) = Transform::new(&here, &relation, &types) else { return Ok(()) };
    let all: Vec<usize> = (0..columns.len()).collect();
    let carried = Carried { key: &[], new: &all, old: &[] };
    let parameters = transform.parameter_types(Source::One, carried).unwrap_or_default();
    let named = |n: &usize| columns[*n].name.as_str();
    let mut sound = true;
    for (what, uses, sql) in transform.expressions(carried)? {
        let place = format!("{at}: {what} of table {}", table.full_name());
        if let Err(e) = client.prepare_typed(&sql, &parameters) {
            let Some(said) = e.as_db_error() else { return Err(Error::from_pg(place, e)) };
            sound = false;
            report.error(
                format!("{place}: {}", said.message()),
                said.hint().map_or_else(
                    || {
                        let names: Vec<&str> = all.iter().map(named).collect();
                        format!(
                            "It is an expression over the master's columns: {}. What is not PostgreSQL's own needs its schema.",
                            names.join(", ")
                        )
                    },
                    str::to_owned,
                ),
            );
            continue;
        }
        let of_key = uses.iter().all(|n| relation.key.contains(n));
        let enough = of_key || uses.len() == 1 && what != "row_filter";
        if transform.takes_updates() && !table.part.whole_rows && !enough {
            let names: Vec<&str> = uses.iter().map(named).collect();
            report.error(
                format!("{place} uses {}, and an UPDATE may not carry that", names.join(", ")),
                WHOLE_ROWS,
            );
        }
    }
    if transform.takes_updates() && transform.widest() > SIDE_BY_SIDE {
        report.error(
            format!("{at}: table {} has too many columns for its [[slave.table]]", table.full_name()),
            format!(
                "An UPDATE of all of them needs {} values side by side, and PostgreSQL takes {SIDE_BY_SIDE}. Send fewer \
                 columns (pyreplica.add_table(..., columns => ...)), or leave update out of operations.",
                transform.widest()
            ),
        );
        sound = false;
    }
    if sound {
        let sql = transform.build(Step::Insert, Source::One, carried)?;
        if let Err(e) = client.prepare_typed(&sql, &parameters) {
            let Some(said) = e.as_db_error() else { return Err(Error::from_pg(at, e)) };
            report.error(
                format!(
                    "{at}: rows of table {} cannot be stored there: {}",
                    table.full_name(),
                    said.message()
                ),
                said.hint().unwrap_or("Correct the [[slave.table]], or the table there."),
            );
        }
    }
    Ok(())
}

/// What a rule says of columns. `sent`: what the slave takes as it is.
pub(crate) fn columns(
    rule: &Rule,
    table: &CapturedTable,
    on_master: &Shape,
    here: &Shape,
    sent: &[(&Column, &str)],
    at: &str,
    report: &mut Report,
) {
    let (name, of_master) = (table.full_name(), format!("{}.{}", on_master.schema, on_master.name));
    // A pattern may be of tables that have a column, and of others that have not.
    if rule.pattern.name().is_some() {
        for column in rule.columns.keys() {
            let fault = match on_master.column(column) {
                None => "does not exist",
                Some(column) if column.generated => "is generated, so the slave does not get it",
                Some(_) => continue,
            };
            report.error(
                format!("{at}: column \"{column}\" of table {of_master} {fault}"),
                "Correct columns in the [[slave.table]]: it has the master's name first, then the slave's.",
            );
        }
    }
    for (i, (_, column)) in sent.iter().enumerate() {
        if sent[..i].iter().any(|(_, other)| other == column) {
            report.error(
                format!(
                    "{at}: two columns of table {of_master} would be column \"{column}\" of table {name}"
                ),
                "Leave one of them out, or give it another name, with columns in the [[slave.table]].",
            );
        }
    }
    for column in rule.values.keys() {
        match here.column(column) {
            None => report.error(
                format!("{at}: table {name} has no column \"{column}\""),
                format!(
                    "Run there: ALTER TABLE {} ADD COLUMN {} ..., or correct values in the [[slave.table]].",
                    table.quoted(),
                    quote::ident(column)
                ),
            ),
            Some(other) if other.generated => report.error(
                format!(
                    "{at}: column \"{column}\" of table {name} is generated, and has a value in agent.toml"
                ),
                "Make it an ordinary column on the slave, or take it out of values.",
            ),
            Some(_) => {}
        }
    }
    for key in &table.key_columns {
        if !sent.iter().any(|(_, name)| name == key) {
            report.error(
                format!("{at}: key column \"{key}\" of table {name} does not take the master's as it is"),
                "The key tells rows apart: it may have other names, and no other values.",
            );
        }
    }
}
