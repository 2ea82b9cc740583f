//! Equality of a table on two servers, row by row, with a difference that people can read.
//!
//! Both sides stream their rows as COPY text in the byte order of their keys, so memory does not grow with the
//! table. It shares nothing with the agent's own `verify`.

use std::io::{BufRead, BufReader};

use crate::db::Db;

/// Differences named before the rest is only counted.
const NAMED: usize = 10;

/// Compares the table (`schema.name` as SQL) of two databases; gives its rows, or a description.
pub fn compare(left: &Db, right: &Db, table: &str) -> Result<u64, String> {
    let columns = |db: &Db| {
        let sql = format!(
            "select quote_ident(attname) || ' ' || format_type(atttypid, atttypmod) from pg_attribute
             where attrelid = '{}'::regclass and attnum > 0 and not attisdropped order by attname collate \"C\"",
            literal(table)
        );
        db.rows(&sql)
    };
    let (of_left, of_right) = (columns(left), columns(right));
    if of_left != of_right {
        return Err(format!("{table} has columns {of_left:?} on one side, {of_right:?} on the other"));
    }

    let (query, keys) = sorted_rows(left, table);
    let (mut left_session, mut right_session) = (left.session(), right.session());
    let mut ours = lines(&mut left_session, &query)?;
    let mut theirs = lines(&mut right_session, &query)?;
    let (mut rows, mut count, mut named) = (0, 0, Vec::new());
    let mut differ = |text: String| {
        count += 1;
        if named.len() < NAMED {
            named.push(text);
        }
    };
    let (mut a, mut b) = (ours()?, theirs()?);
    loop {
        match (&a, &b) {
            (None, None) => break,
            (Some(x), Some(y)) if x == y => {
                rows += 1;
                (a, b) = (ours()?, theirs()?);
            }
            (Some(x), Some(y)) if key_of(x, keys) == key_of(y, keys) => {
                differ(format!("- {x}\n+ {y}"));
                (a, b) = (ours()?, theirs()?);
            }
            (Some(x), y) if y.as_ref().is_none_or(|y| key_of(x, keys) < key_of(y, keys)) => {
                differ(format!("- {x}"));
                a = ours()?;
            }
            (_, Some(y)) => {
                differ(format!("+ {y}"));
                b = theirs()?;
            }
            (Some(_), None) => unreachable!("taken by the arm before"),
        }
    }
    if count == 0 {
        return Ok(rows);
    }
    let more =
        if count > named.len() { format!("\n... and {} more", count - named.len()) } else { String::new() };
    Err(format!(
        "{table} differs in {count} rows between {} (-) and {} (+):\n{}{more}",
        left.server.name,
        right.server.name,
        named.join("\n")
    ))
}

/// A COPY of the table in key order, first the key columns, then all columns by name; and how many are the key.
fn sorted_rows(db: &Db, table: &str) -> (String, usize) {
    let sql = format!(
        "select quote_ident(a.attname) from pg_index i, unnest(i.indkey) with ordinality k(attnum, ord)
           join pg_attribute a on a.attnum = k.attnum
          where i.indrelid = '{0}'::regclass and i.indisprimary and a.attrelid = i.indrelid order by k.ord",
        literal(table)
    );
    let keys: Vec<String> = db.rows(&sql).iter().map(|k| format!("{k}::text collate \"C\"")).collect();
    assert!(!keys.is_empty(), "table {table} has no primary key to compare by");
    let columns = db.value(&format!(
        "select string_agg(quote_ident(attname), ', ' order by attname collate \"C\") from pg_attribute
         where attrelid = '{}'::regclass and attnum > 0 and not attisdropped",
        literal(table)
    ));
    let only =
        match db.value(&format!("select relkind from pg_class where oid = '{}'::regclass", literal(table))) {
            kind if kind == "p" => "",
            _ => "only",
        };
    let list = keys.join(", ");
    (format!("copy (select {list}, {columns} from {only} {table} order by {list}) to stdout"), keys.len())
}

/// Reads the lines of a COPY one by one.
fn lines<'a>(
    session: &'a mut crate::db::Session,
    query: &str,
) -> Result<impl FnMut() -> Result<Option<String>, String> + 'a, String> {
    session.run("set work_mem = '64MB'; set timezone = 'UTC'; set extra_float_digits = 1");
    let reader = session.client.copy_out(query).map_err(|e| format!("{e:?} in {query}"))?;
    // Text of a SQL_ASCII or LATIN1 database comes as UTF-8: client_encoding of the driver.
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    Ok(move || {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => Ok(None),
            Ok(_) => {
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                Ok(Some(String::from_utf8_lossy(line).into_owned()))
            }
            Err(e) => Err(e.to_string()),
        }
    })
}

fn key_of(line: &str, keys: usize) -> Vec<&str> {
    line.splitn(keys + 1, '\t').take(keys).collect()
}

fn literal(text: &str) -> String {
    text.replace('\'', "''")
}
