//! The order of a slave's tables where foreign keys are looked at: what is referred to is filled first, and emptied last.

use postgres::Row;

use crate::error::{Error, Result};
use crate::session::Ask;

/// Brings what others refer to to the front; `name` gives a table's name on the slave, quoted and qualified. Tables that
/// refer to each other stay as they are.
pub fn sort<T>(slave: &mut impl Ask, tables: &mut Vec<T>, name: impl Fn(&T) -> String) -> Result<()> {
    if tables.len() < 2 {
        return Ok(());
    }
    let names: Vec<String> = tables.iter().map(&name).collect();
    let rows = slave
        .query(include_str!("sql/references.sql"), &[&names])
        .map_err(|e| Error::from_pg("could not read the foreign keys of the slave", e))?;
    let mut left = std::mem::take(tables);
    while !left.is_empty() {
        let refers = |from: &T, to: &T| {
            let (from, to) = (name(from), name(to));
            rows.iter().any(|row: &Row| row.get::<_, &str>(0) == from && row.get::<_, &str>(1) == to)
        };
        let free = left.iter().position(|table| !left.iter().any(|other| refers(table, other)));
        tables.push(left.remove(free.unwrap_or(0)));
    }
    Ok(())
}
