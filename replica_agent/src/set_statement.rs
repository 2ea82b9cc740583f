//! The SQL text for many changes of a table at once, and which of them can be put that way.
//!
//! In: a relation as the log describes it and the table as the slave has it. Out: SQL whose parameters are arrays in the
//! order key, new values, old values; or COPY. Pure.
//!
//! An array has its elements in binary, as they travelled, or as text where the log has text: then the server casts them
//! to the type of the slave's column. What travelled in binary but has no array type (arrays themselves) goes one by one.

use std::collections::HashMap;

use crate::decode::Column;
use crate::error::Result;
use crate::quote;
use crate::slave_table::{SlaveColumn, SlaveTable};

/// Oid of the array type by the oid of its elements, as the slave knows them.
pub type ArrayTypes = HashMap<u32, u32>;

pub const TEXT: u32 = 25;
const JSONB: u32 = 3802;

/// What a statement does to many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SetOperation {
    Copy = b'c',
    /// An INSERT of no rows, which fails where a COPY would not begin.
    Probe = b'p',
    Insert = b'i',
    /// Only the rows whose old values are the master's.
    Update = b'u',
    /// The same, for so many that their new versions fill pages of an index.
    UpdateMany = b'm',
    Delete = b'd',
}

impl SetOperation {
    /// Whether old values are among its parameters.
    pub fn compares(self) -> bool {
        matches!(self, SetOperation::Update | SetOperation::UpdateMany)
    }
}

/// The type of the elements in which a column's values are passed; `None` where there is no array of them.
pub fn element(column: &Column, arrays: &ArrayTypes) -> Option<u32> {
    let element = element_type(column);
    (!column.binary || arrays.contains_key(&element)).then_some(element)
}

fn element_type(column: &Column) -> u32 {
    match column.binary {
        false => TEXT,
        true => column.type_oid,
    }
}

/// How a value of the log becomes a field of a binary COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    AsItIs,
    /// Text behind the version byte of its binary form.
    Jsonb,
}

/// `None` where the slave's type does not receive what the log has. The caller makes sure that the column is still of
/// that type when the COPY has ended.
pub fn field(column: &Column, table: &SlaveTable) -> Option<Field> {
    const TEXT_LIKE: [u32; 2] = [TEXT, 1043];
    let here = table.column(column.name).ok()?;
    match column.binary {
        true if here.base_type == column.type_oid => Some(Field::AsItIs),
        true if TEXT_LIKE.contains(&here.base_type) && TEXT_LIKE.contains(&column.type_oid) => {
            Some(Field::AsItIs)
        }
        // The binary form of a label is its text.
        false if here.is_enum => Some(Field::AsItIs),
        false if here.base_type == JSONB && column.type_oid == JSONB => Some(Field::Jsonb),
        _ => None,
    }
}

/// An INSERT of no rows into these columns. It takes the lock that COPY takes and is refused for the same reasons: rights,
/// row security, a table that is not as it was.
pub fn probe(table: &SlaveTable, names: &str, columns: usize) -> String {
    let nulls = vec!["null"; columns].join(", ");
    format!("insert into {} ({names}) overriding system value select {nulls} where false", table.sql_name)
}

/// Columns of `set` are all columns for an insert. `None` when it cannot be put as one statement.
pub fn build(
    table: &SlaveTable,
    operation: SetOperation,
    key: &[&Column],
    set: &[&Column],
    arrays: &ArrayTypes,
) -> Result<Option<String>> {
    let names = || -> Result<String> {
        let names = set.iter().map(|c| Ok(quote::ident(&table.column(c.name)?.name)));
        Ok(names.collect::<Result<Vec<_>>>()?.join(", "))
    };
    if operation == SetOperation::Copy {
        let fits = set.iter().all(|c| field(c, table).is_some());
        let names = names()?;
        // Of a table with a rule only where `Transform::can_be_copied` says so.
        let filter = table.rule.as_ref().and_then(|rule| rule.row_filter.as_ref());
        let passing = filter.map_or_else(String::new, |filter| format!(" where ({filter}\n)"));
        return Ok(
            fits.then(|| format!("copy {} ({names}) from stdin (format binary){passing}", table.sql_name))
        );
    }
    if operation == SetOperation::Probe {
        return Ok(Some(probe(table, &names()?, set.len())));
    }
    if key.iter().chain(set).any(|c| element(c, arrays).is_none()) {
        return Ok(None);
    }
    let olds: &[&Column] = if operation.compares() { set } else { &[] };
    let groups = [('k', key), ('n', set), ('o', olds)];
    let aliases: Vec<String> = groups
        .iter()
        .flat_map(|(letter, columns)| (1..=columns.len()).map(move |i| format!("{letter}{i}")))
        .collect();
    let arguments: Vec<String> = (1..=aliases.len()).map(|n| format!("${n}")).collect();
    let source = format!("unnest({}) as u({})", arguments.join(", "), aliases.join(", "));
    let new = |(c, n): (&&Column, usize)| -> Result<String> {
        Ok(table.column(c.name)?.cast(element_type(c), format!("u.n{n}")))
    };
    let values: Vec<String> = set.iter().zip(1..).map(new).collect::<Result<_>>()?;
    if operation == SetOperation::Insert {
        // Not from a function in FROM, which would be put into a temporary file first.
        let value = |(c, n): (&&Column, usize)| -> Result<String> {
            Ok(table.column(c.name)?.cast(element_type(c), format!("unnest(${n})")))
        };
        let values: Vec<String> = set.iter().zip(1..).map(value).collect::<Result<_>>()?;
        return Ok(Some(format!(
            "insert into {} ({}) overriding system value select {}",
            table.sql_name,
            names()?,
            values.join(", ")
        )));
    }

    let mut conditions = Vec::new();
    for (c, n) in key.iter().zip(1..) {
        let SlaveColumn { name, equality, type_name, .. } = table.column(c.name)?;
        conditions.push(format!("t.{} {equality} cast(u.k{n} as {type_name})", quote::ident(name)));
    }
    if operation == SetOperation::Delete {
        let conditions = conditions.join(" and ");
        return Ok(Some(format!("delete from {} as t using {source} where {conditions}", table.target())));
    }
    let mut assignments = Vec::new();
    for ((c, n), value) in set.iter().zip(1..).zip(values) {
        let here = table.column(c.name)?;
        if here.always_identity {
            return Ok(None);
        }
        assignments.push(format!("{} = {value}", quote::ident(&here.name)));
        conditions.push(same(here, &format!("u.o{n}"), here.own_type == c.type_oid && c.binary));
    }
    if operation == SetOperation::UpdateMany {
        let is_set = |here: &SlaveColumn| set.iter().any(|c| here.from.as_deref() == Some(c.name));
        assignments.extend(unchanged(table, is_set));
    }
    Ok(Some(format!(
        "update {} as t set {} from {source} where {}",
        table.target(),
        assignments.join(", "),
        conditions.join(" and ")
    )))
}

/// Assigns columns to themselves that lead an index which is not unique. PostgreSQL takes the columns that an UPDATE
/// sets for changed: for an index that it takes for unchanged it looks, whenever a page is full, for dead versions of
/// the rows to delete. Versions that this very transaction replaces are not dead, so it looks in vain; with many equal
/// values in the index that was a third of the time (`Bulk updates` in ARCHITECTURE.md).
/// Whether an update is HOT is decided by the values.
pub fn unchanged<'t>(
    table: &'t SlaveTable,
    is_set: impl Fn(&SlaveColumn) -> bool + 't,
) -> impl Iterator<Item = String> + 't {
    let of_index = move |here: &&SlaveColumn| {
        here.leads_index && !here.generated && !here.always_identity && !is_set(here)
    };
    table.columns.iter().filter(of_index).map(|here| {
        let name = quote::ident(&here.name);
        format!("{name} = t.{name}")
    })
}

/// Whether a column of the slave's row `t` has this value, which is of the column's own type if that is said. Where `=` is
/// not exact (numeric scale, citext) binary forms are compared, or text as in `statement`.
pub fn same(here: &SlaveColumn, value: &str, own_type: bool) -> String {
    let (left, full_type) = (format!("t.{}", quote::ident(&here.name)), &here.full_type);
    match here.own_type {
        // bool, bytea, "char", int8, int2, int4, oid, float4, float8 (0 and -0 are one), date, time, timestamp,
        // timestamptz, uuid
        16 | 17 | 18 | 20 | 21 | 23 | 26 | 700 | 701 | 1082 | 1083 | 1114 | 1184 | 2950 if own_type => {
            format!("{left} is not distinct from {value}")
        }
        // Byte for byte in this collation.
        TEXT | 1043 if own_type => {
            format!("{left} collate \"C\" is not distinct from {value} collate \"C\"")
        }
        1700 if own_type => format!(
            "pg_catalog.numeric_send({left}) is not distinct from pg_catalog.numeric_send(cast({value} as {full_type}))"
        ),
        _ => format!(
            "({left}::text collate \"C\") is not distinct from (cast({value} as {full_type})::text collate \"C\")"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> SlaveTable {
        let column = |name: &str, full_type: &str, oid: u32| SlaveColumn {
            name: name.into(),
            from: Some(name.into()),
            type_name: full_type.split('(').next().unwrap().into(),
            full_type: full_type.into(),
            own_type: oid,
            base_type: oid,
            is_enum: name == "mood",
            always_identity: name == "no",
            leads_index: ["doc", "list", "no"].contains(&name),
            generated: false,
            equality: "operator(pg_catalog.=)".into(),
        };
        SlaveTable {
            oid: 1,
            sql_name: "\"s\".\"t\"".into(),
            only: true,
            one_by_one: false,
            fires_for_nothing: false,
            rule: None,
            columns: vec![
                column("id", "bigint", 20),
                column("sum", "numeric(10,2)", 1700),
                column("doc", "jsonb", JSONB),
                column("mood", "public.mood", 99999),
                column("list", "integer[]", 1007),
                column("no", "integer", 23),
            ],
        }
    }

    const ID: Column = Column { name: "id", type_oid: 20, binary: true };
    const SUM: Column = Column { name: "sum", type_oid: 1700, binary: true };
    const DOC: Column = Column { name: "doc", type_oid: JSONB, binary: false };
    const MOOD: Column = Column { name: "mood", type_oid: 0, binary: false };
    const LIST: Column = Column { name: "list", type_oid: 1007, binary: true };
    const NO: Column = Column { name: "no", type_oid: 23, binary: true };

    fn check(operation: SetOperation, key: &[&Column], set: &[&Column], expected: Option<&str>) {
        let arrays = ArrayTypes::from([(20, 1016), (23, 1007), (1700, 1231)]);
        assert_eq!(build(&table(), operation, key, set, &arrays).unwrap().as_deref(), expected);
    }

    #[test]
    fn statements() {
        check(
            SetOperation::Delete,
            &[&ID],
            &[],
            Some(
                "delete from only \"s\".\"t\" as t using unnest($1) as u(k1) \
                 where t.\"id\" operator(pg_catalog.=) cast(u.k1 as bigint)",
            ),
        );
        check(
            SetOperation::Insert,
            &[],
            &[&ID, &MOOD],
            Some(
                "insert into \"s\".\"t\" (\"id\", \"mood\") overriding system value \
                 select unnest($1), cast(unnest($2) as public.mood)",
            ),
        );
        check(
            SetOperation::Update,
            &[&ID],
            &[&SUM, &DOC],
            Some(
                "update only \"s\".\"t\" as t set \"sum\" = u.n1, \"doc\" = cast(u.n2 as jsonb) \
                 from unnest($1, $2, $3, $4, $5) as u(k1, n1, n2, o1, o2) \
                 where t.\"id\" operator(pg_catalog.=) cast(u.k1 as bigint) \
                 and pg_catalog.numeric_send(t.\"sum\") is not distinct from \
                 pg_catalog.numeric_send(cast(u.o1 as numeric(10,2))) \
                 and (t.\"doc\"::text collate \"C\") is not distinct from \
                 (cast(u.o2 as jsonb)::text collate \"C\")",
            ),
        );
        check(
            SetOperation::UpdateMany,
            &[&ID],
            &[&DOC],
            Some(
                "update only \"s\".\"t\" as t set \"doc\" = cast(u.n1 as jsonb), \"list\" = t.\"list\" \
                 from unnest($1, $2, $3) as u(k1, n1, o1) \
                 where t.\"id\" operator(pg_catalog.=) cast(u.k1 as bigint) \
                 and (t.\"doc\"::text collate \"C\") is not distinct from \
                 (cast(u.o1 as jsonb)::text collate \"C\")",
            ),
        );
        check(
            SetOperation::Copy,
            &[],
            &[&ID, &DOC, &MOOD, &LIST],
            Some("copy \"s\".\"t\" (\"id\", \"doc\", \"mood\", \"list\") from stdin (format binary)"),
        );
    }

    #[test]
    fn what_cannot_be_one_statement() {
        check(SetOperation::Update, &[&ID], &[&LIST], None);
        check(SetOperation::Update, &[&ID], &[&NO], None);
        check(SetOperation::Copy, &[], &[&Column { type_oid: 23, ..ID }], None);
    }
}
