//! Copies tables from the master to a slave, several at a time, each under a snapshot of its own; a large one by several
//! workers at once; where foreign keys are looked at, those that they connect under one snapshot.
//!
//! In: captured tables. Out: their rows on the slave, and for each, in the same slave transaction, a row of
//! `pyreplica_agent.copied_table` with the snapshot `Sc` under which they were read.
//!
//! # Hand-over to the stream
//!
//! A change made by a transaction that `Sc` sees is in the copy; any other is not. So the applier skips the first
//! kind and applies the second, and no writer has to wait. That holds for TRUNCATE too, which no snapshot
//! protects from: the table is locked before the snapshot is taken, so it cannot be emptied in between.
//!
//! Invariants: a table that is not named in `copied_table` holds nothing of ours, or a `copy_request` says that what it
//! holds is to be replaced (a killed copy begins anew with the tables at hand and keeps those done); memory does not depend on the size of a table; what a crash of the
//! master could still lose is not copied (`flush_wal` after the snapshot).

mod crew;
mod mapped;
mod moment;
mod progress;
mod split;
mod table;
mod together;
mod transfer;

use postgres::Client;

pub use crew::Crew;
pub use moment::{Master, Moment};
pub use table::Manner;

use crate::error::{Error, Result};
use crate::part::Part;
use crate::quote;

/// A table that the master captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedTable {
    pub schema: String,
    pub name: String,
    /// Another one under the same name means that the table was removed and added again.
    pub trigger_oid: u32,
    /// Under which the log has it: its own on the master and those of its partitions.
    pub oids: Vec<u32>,
    pub key_columns: Vec<String>,
    pub partitioned: bool,
    pub part: Part,
}

impl CapturedTable {
    /// As people write it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    pub(crate) fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.name)
    }
}

/// What `copied_table` says of a table now.
#[derive(Clone, Debug)]
pub struct CopiedTable {
    pub table: CapturedTable,
    /// Text of a `pg_snapshot`: the transactions it sees are in the copy.
    pub snapshot: String,
    pub rows: u64,
    /// Of the slave's table.
    pub table_oid: u32,
}

/// The tables that the master captures, in the order of their names.
pub fn captured_tables(master: &mut Client) -> Result<Vec<CapturedTable>> {
    let rows = master
        .query_typed(include_str!("sql/captured_tables.sql"), &[])
        .map_err(|e| Error::from_pg("could not read the list of captured tables on the master", e))?;
    Ok(rows
        .iter()
        .map(|row| CapturedTable {
            schema: row.get(0),
            name: row.get(1),
            trigger_oid: row.get(2),
            oids: row.get("oids"),
            // A primary key may have been dropped since.
            key_columns: row.get::<_, Option<Vec<String>>>(3).unwrap_or_default(),
            partitioned: row.get(4),
            part: Part::read(row, 5),
        })
        .collect())
}
