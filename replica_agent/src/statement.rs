//! The SQL text for a change: one statement per relation, operation and set of columns.
//!
//! In: a relation as the log describes it and the table as the slave has it. Out: SQL whose parameters stand in the
//! order key, new values, old values. Pure; identifiers pass `quote`, values are parameters.

use crate::decode::{Column, Relation};
use crate::error::Result;
use crate::quote;
use crate::slave_table::{SlaveColumn, SlaveTable};

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Operation {
    Insert = b'I',
    /// Nothing where a row is in the way.
    InsertUnlessThere = b'J',
    /// Only a row whose old values are the master's. Parameters: key, new, old.
    UpdateExact = b'U',
    /// Whatever the old values are. Parameters: key, new.
    UpdateAny = b'A',
    /// For each changed column whether its old value is the master's; locks the row. Parameters: key, old.
    Probe = b'P',
    Delete = b'D',
}

/// Columns of a relation by number; each is introduced (the decoder made sure).
pub fn columns<'r, 'a>(relation: &'r Relation<'a>, numbers: &[usize]) -> Vec<&'r Column<'a>> {
    numbers.iter().filter_map(|&n| relation.columns[n].as_ref()).collect()
}

/// The statement for a change of `set` (all columns for an insert) to rows of `table` found by `key`.
pub fn build(table: &SlaveTable, operation: Operation, key: &[&Column], set: &[&Column]) -> Result<String> {
    build_with(table, operation, key, set, &|n| format!("${n}"))
}

/// The same for a change that is made only if `gate` holds; `None` where that cannot be said.
pub fn build_gated(
    table: &SlaveTable,
    operation: Operation,
    key: &[&Column],
    set: &[&Column],
    gate: &str,
) -> Result<Option<String>> {
    let parameter = |n: usize| format!("${n}");
    Ok(match operation {
        Operation::Insert | Operation::InsertUnlessThere => {
            let source = |values: &str| format!("select {values} where {gate}");
            Some(insert(table, operation, set, &parameter, &source)?)
        }
        Operation::UpdateExact | Operation::Delete if !moves_identity(table, set)? => {
            // Ends with its conditions.
            Some(format!("{} and {gate}", build(table, operation, key, set)?))
        }
        _ => None,
    })
}

/// What stands for the nth parameter.
type Parameter<'p> = &'p dyn Fn(usize) -> String;

/// The same with SQL of the caller's in place of parameters.
pub fn build_with(
    table: &SlaveTable,
    operation: Operation,
    key: &[&Column],
    set: &[&Column],
    parameter: Parameter,
) -> Result<String> {
    let new = key.len();
    let old = match operation {
        Operation::Probe => new,
        _ => new + set.len(),
    };
    Ok(match operation {
        Operation::Insert | Operation::InsertUnlessThere => {
            insert(table, operation, set, parameter, &|values| format!("values ({values})"))?
        }
        Operation::UpdateExact | Operation::UpdateAny => {
            let mut conditions = key_conditions(table, key, parameter)?;
            if operation == Operation::UpdateExact {
                conditions.extend(old_conditions(table, set, old, parameter)?);
            }
            let conditions = conditions.join(" and ");
            if moves_identity(table, set)? {
                replace(table, set, new, parameter, &conditions)?
            } else {
                let assignments: Vec<_> = set
                    .iter()
                    .zip(new + 1..)
                    .map(|(c, n)| {
                        let here = quote::ident(&table.column(c.name)?.name);
                        Ok(format!("{here} = {}", new_value(table, c, parameter(n))?))
                    })
                    .collect::<Result<_>>()?;
                format!("update {} as t set {} where {conditions}", table.target(), assignments.join(", "))
            }
        }
        Operation::Probe => format!(
            "select {} from {} as t where {} for update",
            old_conditions(table, set, old, parameter)?.join(", "),
            table.target(),
            key_conditions(table, key, parameter)?.join(" and ")
        ),
        Operation::Delete => {
            format!(
                "delete from {} as t where {}",
                table.target(),
                key_conditions(table, key, parameter)?.join(" and ")
            )
        }
    })
}

/// `source` makes a query for the new row of its values.
fn insert(
    table: &SlaveTable,
    operation: Operation,
    set: &[&Column],
    parameter: Parameter,
    source: &dyn Fn(&str) -> String,
) -> Result<String> {
    let names: Vec<_> =
        set.iter().map(|c| Ok(quote::ident(&table.column(c.name)?.name))).collect::<Result<_>>()?;
    let values: Vec<_> =
        set.iter().zip(1..).map(|(c, n)| new_value(table, c, parameter(n))).collect::<Result<_>>()?;
    Ok(format!(
        "insert into {} ({}) overriding system value {}{}",
        table.sql_name,
        names.join(", "),
        source(&values.join(", ")),
        if operation == Operation::Insert { "" } else { " on conflict do nothing" }
    ))
}

fn new_value(table: &SlaveTable, column: &Column, parameter: String) -> Result<String> {
    Ok(table.column(column.name)?.cast(column.type_oid, parameter))
}

/// The cast makes the parameter the column's own type, so that its index is used whatever type the master has.
fn key_conditions(table: &SlaveTable, key: &[&Column], parameter: Parameter) -> Result<Vec<String>> {
    let condition = |(c, n): (&&Column, usize)| {
        let SlaveColumn { name, equality, type_name, .. } = table.column(c.name)?;
        Ok(format!("t.{} {equality} cast({} as {type_name})", quote::ident(name), parameter(n)))
    };
    key.iter().zip(1..).map(condition).collect()
}

/// Compares text forms, since `=` is not exact (numeric scale, -0, citext) and some types have none. The master's
/// value passes through the slave's type first, so both sides are printed by the same function in this session.
/// bytea has only one form, which as text would be twice as long.
fn old_conditions(
    table: &SlaveTable,
    set: &[&Column],
    first: usize,
    parameter: Parameter,
) -> Result<Vec<String>> {
    let condition = |(c, n): (&&Column, usize)| {
        let SlaveColumn { name, full_type, .. } = table.column(c.name)?;
        let (name, old) = (quote::ident(name), parameter(n));
        Ok(if full_type == "bytea" {
            format!("(t.{name} is not distinct from cast({old} as bytea))")
        } else {
            format!(
                "((t.{name}::text collate \"C\") is not distinct from (cast({old} as {full_type})::text collate \"C\"))"
            )
        })
    };
    set.iter().zip(first + 1..).map(condition).collect()
}

fn moves_identity(table: &SlaveTable, set: &[&Column]) -> Result<bool> {
    for c in set {
        if table.column(c.name)?.always_identity {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives a row a new GENERATED ALWAYS identity, which UPDATE cannot: deletes it and inserts it anew, in one
/// statement, with the columns that do not change taken from the old row (those included that only the slave has).
fn replace(
    table: &SlaveTable,
    set: &[&Column],
    new: usize,
    parameter: Parameter,
    conditions: &str,
) -> Result<String> {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for column in table.columns.iter().filter(|c| !c.generated) {
        let name = quote::ident(&column.name);
        values.push(match set.iter().position(|c| column.from.as_deref() == Some(c.name)) {
            Some(i) => format!("cast({} as {})", parameter(new + i + 1), column.full_type),
            None => format!("old.{name}"),
        });
        names.push(name);
    }
    Ok(format!(
        "with old as (delete from {} as t where {conditions} returning *) \
         insert into {} ({}) overriding system value select {} from old",
        table.target(),
        table.sql_name,
        names.join(", "),
        values.join(", ")
    ))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn table() -> SlaveTable {
        let column = |name: &str, full_type: &str, always_identity| SlaveColumn {
            name: name.into(),
            from: Some(name.into()),
            type_name: full_type.split('(').next().unwrap().into(),
            full_type: full_type.into(),
            own_type: 23,
            base_type: 23,
            is_enum: false,
            always_identity,
            generated: name == "sum",
            leads_index: false,
            equality: "operator(pg_catalog.=)".into(),
        };
        SlaveTable {
            sql_name: "\"s\".\"t\"".into(),
            oid: 1,
            only: true,
            one_by_one: false,
            fires_for_nothing: false,
            rule: None,
            columns: vec![
                column("id", "bigint", false),
                column("name", "varchar(10)", false),
                column("raw", "bytea", false),
                column("no", "integer", true),
                column("sum", "integer", false),
                column("here", "text", false),
            ],
        }
    }

    fn check(operation: Operation, set: &[&str], expected: &str) {
        let column = |name| Column { name, type_oid: 23, binary: true };
        let set: Vec<Column> = set.iter().map(|&name| column(name)).collect();
        let key = column("id");
        let key: &[&Column] = if operation == Operation::Insert { &[] } else { &[&key] };
        let sql = build(&table(), operation, key, &set.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(sql, expected);
    }

    #[test]
    fn statements() {
        check(
            Operation::Insert,
            &["id", "name"],
            "insert into \"s\".\"t\" (\"id\", \"name\") overriding system value values ($1, $2)",
        );
        check(
            Operation::Delete,
            &[],
            "delete from only \"s\".\"t\" as t where t.\"id\" operator(pg_catalog.=) cast($1 as bigint)",
        );
        check(
            Operation::UpdateExact,
            &["name", "raw"],
            "update only \"s\".\"t\" as t set \"name\" = $2, \"raw\" = $3 \
             where t.\"id\" operator(pg_catalog.=) cast($1 as bigint) \
             and ((t.\"name\"::text collate \"C\") is not distinct from (cast($4 as varchar(10))::text collate \"C\")) \
             and (t.\"raw\" is not distinct from cast($5 as bytea))",
        );
        check(
            Operation::Probe,
            &["raw"],
            "select (t.\"raw\" is not distinct from cast($2 as bytea)) from only \"s\".\"t\" as t \
             where t.\"id\" operator(pg_catalog.=) cast($1 as bigint) for update",
        );
        check(
            Operation::UpdateAny,
            &["no"],
            "with old as (delete from only \"s\".\"t\" as t \
             where t.\"id\" operator(pg_catalog.=) cast($1 as bigint) returning *) \
             insert into \"s\".\"t\" (\"id\", \"name\", \"raw\", \"no\", \"here\") overriding system value \
             select old.\"id\", old.\"name\", old.\"raw\", cast($2 as integer), old.\"here\" from old",
        );
    }

    #[test]
    fn unknown_column() {
        let nosuch = Column { name: "nosuch", type_oid: 23, binary: true };
        let e = build(&table(), Operation::UpdateAny, &[&nosuch], &[]).unwrap_err();
        assert_eq!(
            (e.sqlstate(), e.to_string().as_str()),
            (Some("42703"), "column \"nosuch\" does not exist on the slave")
        );
    }
}
