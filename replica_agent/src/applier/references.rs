//! The order of tables where foreign keys are looked at: what is referred to is inserted first, and deleted last.

use postgres::Row;

use super::Target;
use crate::error::{Error, Result};
use crate::pipe::Pipe;

/// Brings what others refer to to the front. Tables that refer to each other stay as they are.
pub fn sort(client: &mut Pipe, targets: &mut Vec<Target>) -> Result<()> {
    if targets.len() < 2 {
        return Ok(());
    }
    let oids: Vec<u32> = targets.iter().map(|target| target.slave.oid).collect();
    let rows = client
        .query(
            "select conrelid, confrelid from pg_catalog.pg_constraint
              where contype = 'f' and conrelid <> confrelid and conrelid = any ($1) and confrelid = any ($1)",
            &[&oids],
        )
        .map_err(|e| Error::from_pg("could not read the foreign keys of the slave", e))?;
    let mut left = std::mem::take(targets);
    while !left.is_empty() {
        let refers = |target: &Target, to: &Target| {
            let is_one =
                |row: &Row| (row.get::<_, u32>(0), row.get::<_, u32>(1)) == (target.slave.oid, to.slave.oid);
            rows.iter().any(is_one)
        };
        let free = left.iter().position(|target| !left.iter().any(|other| refers(target, other)));
        targets.push(left.remove(free.unwrap_or(0)));
    }
    Ok(())
}
