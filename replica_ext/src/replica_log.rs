//! Chunks decoded for people: rows of the `replica_log` view.

use pgrx::prelude::*;
use pgrx::{spi, JsonB, PgSqlErrorCode};
use serde_json::{Map, Value as Json};

use crate::decode::{Malformed, Message, Messages, Relation, Value};
use crate::error;
use crate::pg::{session::Pinned, types};

type LogRow = (i32, Option<String>, String, Option<JsonB>, Option<JsonB>, Option<JsonB>, String);

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the columns of the SQL function
fn decode_chunk(
    payload: &[u8],
) -> TableIterator<
    'static,
    (
        name!(n, i32),
        name!(relation, Option<String>),
        name!(op, String),
        name!(key, Option<JsonB>),
        name!(new, Option<JsonB>),
        name!(old, Option<JsonB>),
        name!(sql, String),
    ),
> {
    let pinned = Pinned::set();
    let rows = rows(payload).unwrap_or_else(|wrong| {
        error::raise(
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            format!("log payload is malformed at byte {}: {}", wrong.offset, wrong.what),
            "It was written by another version of the extension, or the log is damaged.",
        )
    });
    pinned.restore();
    TableIterator::new(rows)
}

fn rows(payload: &[u8]) -> Result<Vec<LogRow>, Malformed> {
    let mut messages = Messages::new(payload)?;
    let mut rows = Vec::new();
    while let Some(message) = messages.next()? {
        if message != Message::Introduction {
            rows.push(row(rows.len() as i32 + 1, &message, &messages.relations));
        }
    }
    Ok(rows)
}

fn row(n: i32, message: &Message, relations: &[Relation]) -> LogRow {
    match message {
        Message::Introduction => unreachable!("introductions are no changes"),
        Message::Insert { relation, new } => {
            let table = Table(&relations[*relation]);
            let all: Vec<(usize, Value)> = new.iter().copied().enumerate().collect();
            let names: Vec<String> = all.iter().map(|(c, _)| table.column(*c)).collect();
            let values: Vec<String> = all.iter().map(|(c, v)| table.literal(*c, *v)).collect();
            let sql =
                format!("INSERT INTO {} ({}) VALUES ({})", table.name(), names.join(", "), values.join(", "));
            let key: Vec<(usize, Value)> = table.0.key.iter().map(|&k| (k, new[k])).collect();
            (
                n,
                Some(table.name()),
                "INSERT".into(),
                Some(table.json(&key)),
                Some(table.json(&all)),
                None,
                sql,
            )
        }
        Message::Update { relation, key, changed } => {
            let table = Table(&relations[*relation]);
            let key = table.with_key(key);
            let new: Vec<(usize, Value)> = changed.iter().map(|c| (c.column, c.new)).collect();
            let old: Vec<(usize, Value)> = changed.iter().map(|c| (c.column, c.old)).collect();
            let sql = table.update(&new, &key);
            let (key, new, old) = (table.json(&key), table.json(&new), table.json(&old));
            (n, Some(table.name()), "UPDATE".into(), Some(key), Some(new), Some(old), sql)
        }
        Message::KeyUpdate { relation, key, new, old } => {
            let table = Table(&relations[*relation]);
            let key = table.with_key(key);
            let changed: Vec<(usize, Value)> = old.iter().map(|(c, _)| (*c, new[*c])).collect();
            let all: Vec<(usize, Value)> = new.iter().copied().enumerate().collect();
            let sql = table.update(&changed, &key);
            let (key, new, old) = (table.json(&key), table.json(&all), table.json(old));
            (n, Some(table.name()), "UPDATE".into(), Some(key), Some(new), Some(old), sql)
        }
        Message::Delete { relation, key } => {
            let table = Table(&relations[*relation]);
            let key = table.with_key(key);
            let sql = format!("DELETE FROM {} WHERE {}", table.name(), table.condition(&key));
            (n, Some(table.name()), "DELETE".into(), Some(table.json(&key)), None, None, sql)
        }
        Message::Truncate { restart_identity, partitions, relations: truncated } => {
            let truncated = &truncated[usize::from(*partitions)..];
            let names: Vec<String> = truncated.iter().map(|&r| Table(&relations[r]).name()).collect();
            let names = names.join(", ");
            let identity = if *restart_identity { " RESTART IDENTITY" } else { "" };
            let sql = format!("TRUNCATE {names}{identity}");
            (n, Some(names), "TRUNCATE".into(), None, None, None, sql)
        }
        Message::Statement { sql, .. } => (n, None, "SQL".into(), None, None, None, text(sql)),
    }
}

/// A relation as people read it.
struct Table<'a>(&'a Relation<'a>);

impl Table<'_> {
    fn name(&self) -> String {
        format!("{}.{}", quote(self.0.schema), quote(self.0.name))
    }

    fn column(&self, column: usize) -> String {
        self.0.columns[column].as_ref().map_or_else(|| "?".into(), |c| quote(c.name))
    }

    fn with_key<'v>(&self, key: &[Value<'v>]) -> Vec<(usize, Value<'v>)> {
        self.0.key.iter().copied().zip(key.iter().copied()).collect()
    }

    fn text(&self, column: usize, value: Value) -> Option<String> {
        let (oid, binary) = self.0.columns[column].as_ref().map_or((0, false), |c| (c.type_oid, c.binary));
        value.map(|bytes| text_of_database(&types::text_of(oid, binary, bytes)))
    }

    fn literal(&self, column: usize, value: Value) -> String {
        match self.text(column, value) {
            None => "NULL".into(),
            Some(text) if self.is_number(column) && text.parse::<f64>().is_ok_and(f64::is_finite) => text,
            Some(text) => quote_literal(&text),
        }
    }

    fn is_number(&self, column: usize) -> bool {
        use pgrx::pg_sys::{FLOAT4OID, FLOAT8OID, INT2OID, INT4OID, INT8OID, NUMERICOID, OIDOID};
        let numbers = [INT2OID, INT4OID, INT8OID, OIDOID, NUMERICOID, FLOAT4OID, FLOAT8OID];
        let oid = self.0.columns[column].as_ref().map_or(0, |c| c.type_oid);
        numbers.iter().any(|n| n.to_u32() == oid)
    }

    fn condition(&self, key: &[(usize, Value)]) -> String {
        let terms: Vec<String> =
            key.iter().map(|(c, v)| format!("{} = {}", self.column(*c), self.literal(*c, *v))).collect();
        terms.join(" AND ")
    }

    fn update(&self, new: &[(usize, Value)], key: &[(usize, Value)]) -> String {
        let sets: Vec<String> =
            new.iter().map(|(c, v)| format!("{} = {}", self.column(*c), self.literal(*c, *v))).collect();
        format!("UPDATE {} SET {} WHERE {}", self.name(), sets.join(", "), self.condition(key))
    }

    /// Numbers, booleans and JSON as such, everything else as text. Floats are text as well: NaN and infinities
    /// are no JSON, and -0 would lose its sign.
    fn json(&self, values: &[(usize, Value)]) -> JsonB {
        use pgrx::pg_sys::{BOOLOID, INT2OID, INT4OID, INT8OID, JSONBOID, JSONOID};
        let mut object = Map::new();
        for &(column, value) in values {
            let oid = self.0.columns[column].as_ref().map_or(0, |c| c.type_oid);
            let json = match self.text(column, value) {
                None => Json::Null,
                Some(text) if oid == BOOLOID.to_u32() => Json::Bool(text == "t"),
                Some(text) if [INT2OID, INT4OID, INT8OID].iter().any(|o| o.to_u32() == oid) => {
                    text.parse::<i64>().map_or(Json::String(text), Json::from)
                }
                Some(text) if [JSONOID, JSONBOID].iter().any(|o| o.to_u32() == oid) => {
                    serde_json::from_str(&text).unwrap_or(Json::String(text))
                }
                Some(text) => Json::String(text),
            };
            let name = self.0.columns[column].as_ref().map_or_else(|| "?".into(), |c| text(c.name));
            object.insert(name, json);
        }
        JsonB(Json::Object(object))
    }
}

/// Text of the log, which is UTF-8, in the encoding of this database.
fn text(utf8: &[u8]) -> String {
    text_of_database(&types::from_utf8(utf8))
}

fn text_of_database(bytes: &[u8]) -> String {
    // pgrx takes strings as UTF-8; in a database of another encoding PostgreSQL converts on the way out.
    String::from_utf8_lossy(&types::to_utf8(bytes)).into_owned()
}

/// An identifier, quoted where it has to be.
fn quote(name: &[u8]) -> String {
    spi::quote_identifier(text(name))
}

fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}
