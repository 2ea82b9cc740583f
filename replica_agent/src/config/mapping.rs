//! The keys of `[[slave]]` that say what it gets: `tables`, `schemas` and `[[slave.table]]`.
//!
//! In: the keys as they are written. Out: a `Mapping` whose names and patterns are valid. What columns there are, and
//! whether an expression is one, `check` finds out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::keys::{self, Holds::*, Keys};
use super::{invalid, InsertExists};
use crate::dsn::nearest;
use crate::error::Result;
use crate::expression::{has_parameter, is_closed};
use crate::mapping::{Mapping, Name, Operations, Pattern, Rule};

const TABLE_KEYS: Keys = &[
    ("name", Text),
    ("to", Text),
    ("columns", Named),
    ("row_filter", Text),
    ("operations", Texts),
    ("values", NamedTexts),
];
const OPERATIONS: &[&str] = &["insert", "update", "delete", "truncate"];

#[derive(Deserialize)]
pub(super) struct FileTable {
    name: String,
    to: Option<String>,
    #[serde(default)]
    columns: BTreeMap<String, toml::Value>,
    row_filter: Option<String>,
    operations: Option<Vec<String>>,
    #[serde(default)]
    values: BTreeMap<String, String>,
}

/// The keys of each `[[slave.table]]` of a slave.
pub(super) fn check_keys(slave: &toml::Table, place: &str) -> Result<()> {
    let Some(tables) = slave.get("table") else { return Ok(()) };
    let not_a_list = || {
        invalid(format!("\"table\" is not a list of tables {place}"))
            .hint("Write each as [[slave.table]], with two brackets, below its [[slave]].")
    };
    for (i, table) in tables.as_array().ok_or_else(not_a_list)?.iter().enumerate() {
        let table = table.as_table().ok_or_else(not_a_list)?;
        let name = table.get("name").and_then(toml::Value::as_str);
        let name = name.map_or(format!("number {}", i + 1), |name| format!("\"{name}\""));
        let place = format!("in [[slave.table]] {name} {place}");
        keys::check(table, TABLE_KEYS, &["name"], &place)?;
    }
    Ok(())
}

/// `slave` is its name.
pub(super) fn mapping(
    slave: &str,
    tables: &[String],
    schemas: BTreeMap<String, String>,
    rules: Vec<FileTable>,
    insert_exists: InsertExists,
) -> Result<Mapping> {
    let mut mapping = Mapping { schemas, ..Mapping::default() };
    for text in tables {
        let (list, pattern) = match text.strip_prefix('!') {
            Some(excluded) => (&mut mapping.exclude, excluded),
            None => (&mut mapping.include, text.as_str()),
        };
        list.push(parse(pattern, "pattern", &format!("in tables of slave \"{slave}\""))?);
    }
    if let Some((schema, _)) = mapping.schemas.iter().find(|(from, to)| from.is_empty() || to.is_empty()) {
        return Err(invalid(format!(
            "schema \"{schema}\" in schemas of slave \"{slave}\" has an empty name"
        )));
    }
    for table in rules {
        let rule = rule(table, slave, insert_exists)?;
        if let Some(other) = mapping.rules.iter().find(|other| other.pattern == rule.pattern) {
            return Err(invalid(format!(
                "slave \"{slave}\" has two [[slave.table]] with the name \"{}\"",
                other.pattern.text()
            )));
        }
        mapping.rules.push(Arc::new(rule));
    }
    Ok(mapping)
}

fn rule(table: FileTable, slave: &str, insert_exists: InsertExists) -> Result<Rule> {
    let place = format!("in [[slave.table]] \"{}\" of slave \"{slave}\"", table.name);
    let pattern = parse(&table.name, "name", &place)?;
    let to = table.to.as_deref().map(|to| target(to, &pattern, &place)).transpose()?;
    let mut columns = BTreeMap::new();
    for (column, value) in table.columns {
        let name = match value {
            toml::Value::String(name) if !name.is_empty() => Some(name),
            toml::Value::Boolean(false) => None,
            _ => {
                return Err(invalid(format!("column \"{column}\" has no name {place}"))
                    .hint("Give its name on the slave, or false to leave it out."))
            }
        };
        if name.is_some() && columns.values().any(|other| *other == name) {
            let name = name.unwrap_or_default();
            return Err(invalid(format!("two columns have the name \"{name}\" {place}")));
        }
        columns.insert(column, name);
    }
    let blank = |text: &str| text.trim().is_empty();
    if table.row_filter.as_deref().is_some_and(blank) {
        return Err(invalid(format!("row_filter is empty {place}")));
    }
    if let Some((column, _)) = table.values.iter().find(|(column, text)| column.is_empty() || blank(text)) {
        return Err(invalid(format!("the value of column \"{column}\" is empty {place}"))
            .hint("Write an SQL expression over the master's columns; NULL is one."));
    }
    for text in table.row_filter.iter().chain(table.values.values()) {
        if has_parameter(text) {
            return Err(invalid(format!("expression {text:?} has a parameter {place}"))
                .hint("Nothing is bound to it; an expression is over the columns of the master's table."));
        }
        if !is_closed(text) {
            return Err(invalid(format!("expression {text:?} has unbalanced parentheses {place}")));
        }
    }
    let operations = table.operations.map_or(Ok(Operations::ALL), |names| operations(&names, &place))?;
    Ok(Rule {
        pattern,
        to,
        columns,
        row_filter: table.row_filter,
        operations,
        replaces: operations.keep_rows() && insert_exists == InsertExists::Stop,
        values: table.values,
    })
}

fn target(text: &str, pattern: &Pattern, place: &str) -> Result<Name> {
    if pattern.name().is_none() {
        return Err(invalid(format!("\"to\" needs the name of one table {place}"))
            .hint("Several tables cannot become one. Use schemas for another name of their schema."));
    }
    parse(text, "table", &format!("as \"to\" {place}"))?
        .name()
        .ok_or_else(|| invalid(format!("\"to\" is a pattern {place}")).hint("Give the name of one table."))
}

fn operations(names: &[String], place: &str) -> Result<Operations> {
    if let Some(unknown) = names.iter().find(|name| !OPERATIONS.contains(&name.as_str())) {
        let error = invalid(format!("unknown operation \"{unknown}\" {place}"));
        return Err(match nearest(unknown, OPERATIONS.iter().copied()) {
            Some(near) => error.hint(format!("Perhaps you meant \"{near}\".")),
            None => error.hint(format!("Known are: {}.", OPERATIONS.join(", "))),
        });
    }
    let has = |name: &str| names.iter().any(|known| known == name);
    if names.is_empty() {
        return Err(invalid(format!("operations is empty {place}"))
            .hint("Leave the table out with \"!schema.table\" in tables of the slave."));
    }
    Ok(Operations {
        insert: has("insert"),
        update: has("update"),
        delete: has("delete"),
        truncate: has("truncate"),
    })
}

fn parse(text: &str, what: &str, place: &str) -> Result<Pattern> {
    Pattern::parse(text).map_err(|fault| {
        invalid(format!("{what} \"{text}\" {place} {fault}")).hint(
            "Write schema.table, with * for anything; a name with a dot, a star or a quote in it goes into quotes.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const SLAVE: &str = "[master]\ndsn = \"host=db1 dbname=shop user=a\"\n\
                         [[slave]]\nname = \"reports\"\ndsn = \"host=db2 dbname=shop user=b\"\n";

    fn parsed(more: &str) -> Mapping {
        let config = Config::parse(&format!("{SLAVE}{more}")).unwrap();
        (*config.slaves[0].mapping).clone()
    }

    #[track_caller]
    fn fails(more: &str, message: &str, hint: &str) {
        let e = Config::parse(&format!("{SLAVE}{more}")).unwrap_err();
        assert_eq!(e.message(), message, "{more}");
        assert!(e.hint_text().unwrap_or("").contains(hint), "{more}: {:?}", e.hint_text());
    }

    #[test]
    fn everything_can_be_set() {
        let mapping = parsed(
            "tables = [\"public.*\", \"!public.audit_*\"]\nschemas = { public = \"shop\" }\n\
             [[slave.table]]\nname = \"public.customers\"\nto = 'crm.\"Clients\"'\n\
             columns = { mail = \"email\", note = false }\nrow_filter = \"region = 'EU'\"\n\
             operations = [\"insert\", \"update\"]\nvalues = { mail = \"md5(mail)\" }\n\
             [[slave.table]]\nname = \"public.*\"\noperations = [\"insert\"]\n",
        );
        assert!(mapping.wants("public", "t") && !mapping.wants("public", "audit_t"));
        assert_eq!(mapping.target("public", "customers"), ("crm".into(), "Clients".into()));
        let rule = mapping.rule("public", "customers").unwrap();
        assert_eq!((rule.column("mail"), rule.column("note")), (Some("email"), None));
        assert_eq!(
            rule.operations,
            Operations { insert: true, update: true, delete: false, truncate: false }
        );
        assert!(mapping.rule("public", "t").unwrap().is_transform());
        assert!(parsed("").is_plain());
    }

    #[test]
    fn errors() {
        let table = |more: &str| format!("[[slave.table]]\nname = \"a.t\"\n{more}\n");
        let place = "in [[slave.table]] \"a.t\" of slave \"reports\"";
        fails("tabels = []\n", "unknown key \"tabels\" in [[slave]] \"reports\"", "\"tables\"");
        fails(
            &table("row_fitler = \"x\""),
            "unknown key \"row_fitler\" in [[slave.table]] \"a.t\" in [[slave]] \"reports\"",
            "\"row_filter\"",
        );
        fails(
            "[[slave.table]]\n",
            "key \"name\" is missing in [[slave.table]] number 1 in [[slave]] \"reports\"",
            "",
        );
        fails("schema = true\nschemas = { a = \"b\" }\n", "slave \"reports\" cannot have schema = true", "");
        fails("table = 1\n", "\"table\" is not a list of tables in [[slave]] \"reports\"", "[[slave.table]]");
        fails(
            "tables = [\"t\"]\n",
            "pattern \"t\" in tables of slave \"reports\" is not of the form schema.table",
            "schema.table",
        );
        fails(&table("columns = { x = true }"), &format!("column \"x\" has no name {place}"), "false");
        fails(
            &table("columns = { x = \"z\", y = \"z\" }"),
            &format!("two columns have the name \"z\" {place}"),
            "",
        );
        fails(
            &table("operations = [\"inserts\"]"),
            &format!("unknown operation \"inserts\" {place}"),
            "\"insert\"",
        );
        fails(&table("operations = []"), &format!("operations is empty {place}"), "!schema.table");
        fails(
            &table("values = { x = \" \" }"),
            &format!("the value of column \"x\" is empty {place}"),
            "NULL",
        );
        fails(
            &table("row_filter = \"id > $1\""),
            &format!("expression \"id > $1\" has a parameter {place}"),
            "",
        );
        fails(
            &table("row_filter = \"id > 3) or (true\""),
            &format!("expression \"id > 3) or (true\" has unbalanced parentheses {place}"),
            "",
        );
        fails(&table("row_filter = \"\""), &format!("row_filter is empty {place}"), "");
        fails(&table("to = \"a.*\""), &format!("\"to\" is a pattern {place}"), "");
        fails(
            "[[slave.table]]\nname = \"a.*\"\nto = \"b.t\"\n",
            "\"to\" needs the name of one table in [[slave.table]] \"a.*\" of slave \"reports\"",
            "schemas",
        );
        fails(
            &format!("{}{}", table(""), table("")),
            "slave \"reports\" has two [[slave.table]] with the name \"a.t\"",
            "",
        );
    }
}
