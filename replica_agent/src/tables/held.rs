//! A table that is copied again while the stream goes on (`again`), and with what the stream is set back afterwards.

use std::collections::HashMap;

use super::{name_of, Copied, Name, Tables};
use crate::copy::{CapturedTable, CopiedTable};
use crate::error::{Error, Result};
use crate::pipe::Pipe;
use crate::position::{Snapshot, Xid};

/// A table whose changes wait for a new copy of it.
#[derive(Debug)]
pub(super) struct Held {
    pub now: Name,
    pub trigger_oid: u32,
    /// What was known of it, by each of its names.
    pub was: HashMap<Name, Copied>,
}

/// A row of `pyreplica_agent.copied_table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedRow {
    pub schema: String,
    pub name: String,
    pub trigger_oid: u32,
    pub snapshot: String,
    pub rows: Option<i64>,
    pub table_oid: Option<u32>,
}

impl Tables {
    /// From now on the table's changes are skipped, until the stream is set back to where it stands now.
    pub fn hold(&mut self, client: &mut Pipe, table: &CapturedTable) -> Result<()> {
        client
            .execute(
                "delete from pyreplica_agent.copied_table where agent = $1 and slave = $2 and trigger_oid = $3",
                &[&self.agent, &self.slave, &table.trigger_oid],
            )
            .map_err(|e| {
                Error::from_pg(
                    format!("could not hold table {} on slave \"{}\"", table.full_name(), self.slave),
                    e,
                )
            })?;
        let (was, copied) = std::mem::take(&mut self.copied)
            .into_iter()
            .partition(|(_, copied)| copied.trigger_oid == table.trigger_oid);
        self.copied = copied;
        let now = name_of(&table.schema, &table.name);
        self.held = Some(Held { now, trigger_oid: table.trigger_oid, was });
        Ok(())
    }

    /// The rows of `copied_table` with which the stream is set back from a position at which all that `level` sees is
    /// applied. Without a new copy the held table goes on with what it had.
    pub fn rewound(
        &self,
        table: &CapturedTable,
        copied: Option<&CopiedTable>,
        level: &Snapshot,
    ) -> Result<Vec<CopiedRow>> {
        let row = |(schema, name): &Name, copied: &Copied, snapshot: &Snapshot| CopiedRow {
            schema: schema.clone(),
            name: name.clone(),
            trigger_oid: copied.trigger_oid,
            snapshot: snapshot.to_string(),
            rows: copied.rows,
            table_oid: copied.table_oid,
        };
        let mut rows: Vec<CopiedRow> = self
            .copied
            .iter()
            .filter(|(_, copied)| level.includes(&copied.snapshot))
            .map(|(name, copied)| row(name, copied, level))
            .collect();
        let statements = name_of("", "");
        if !self.copied.contains_key(&statements) {
            let none = Copied { trigger_oid: 0, snapshot: level.clone(), rows: None, table_oid: None };
            rows.push(row(&statements, &none, level));
        }
        match copied {
            Some(new) => {
                let copied = Copied::of(new)?;
                rows.push(row(&name_of(&table.schema, &table.name), &copied, &copied.snapshot));
            }
            None => {
                let was = self.held.iter().flat_map(|held| &held.was);
                rows.extend(was.map(|(name, copied)| row(name, copied, &copied.snapshot)));
            }
        }
        Ok(rows)
    }

    /// Were the statements that this transaction queued run before the stream was set back?
    pub fn has_run(&self, xid: Xid) -> bool {
        self.copied.get(&name_of("", "")).is_some_and(|statements| statements.snapshot.sees(xid))
    }
}
