//! The checks of a slave's mapping: names and columns that are not there, and what cannot be mapped so.
//!
//! In: the mapping, the captured tables, shapes of both sides. Out: findings in the `Report`. Changes nothing.

use crate::check::Report;
use crate::copy::CapturedTable;
use crate::error::Result;
use crate::mapping::{Mapping, Rule};
use crate::quote;
use crate::shape::Shape;

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

/// The first thing that keeps a slave from following.
pub(crate) fn refuse(mapping: &Mapping, captured: &[CapturedTable], slave: &str) -> Result<()> {
    if mapping.is_plain() {
        return Ok(());
    }
    let mut report = Report::default();
    names(mapping, captured, &format!("slave \"{slave}\""), &mut report);
    report.into_result()
}

/// What a rule says of columns. `sent`: the columns of the slave that take one of the master's as it is.
pub(crate) fn columns(
    rule: &Rule,
    table: &CapturedTable,
    on_master: &Shape,
    here: &Shape,
    sent: &[&str],
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
    for (i, column) in sent.iter().enumerate() {
        if sent[..i].contains(column) {
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
        if !sent.contains(&key.as_str()) {
            report.error(
                format!("{at}: key column \"{key}\" of table {name} does not take the master's as it is"),
                "The key tells rows apart: it may have other names, and no other values.",
            );
        }
    }
}
