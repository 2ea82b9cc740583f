//! Captured tables that the slave does not have yet, until all is applied that may make them.

use super::{name_of, Name, Tables};
use crate::copy::CapturedTable;

#[derive(Debug)]
pub(super) struct Awaited {
    pub name: Name,
    /// Of the table and its partitions on the master.
    pub oids: Vec<u32>,
}

impl Tables {
    /// Skips the changes of these tables until `arrived`: they will be copied under a later snapshot.
    pub fn wait_for(&mut self, tables: &[CapturedTable], absent: Vec<CapturedTable>) {
        let by_trigger = |table: &CapturedTable| {
            let awaited = Awaited { name: name_of(&table.schema, &table.name), oids: table.oids.clone() };
            (table.trigger_oid, awaited)
        };
        self.awaited.extend(tables.iter().map(by_trigger));
        self.absent.extend(absent);
    }

    /// Those of the captured tables that are awaited.
    pub fn awaited(&self, mut captured: Vec<CapturedTable>) -> Vec<CapturedTable> {
        captured.retain(|table| self.awaited.contains_key(&table.trigger_oid));
        captured
    }

    /// All is applied that may make the awaited tables; gives those that were absent.
    pub fn arrived(&mut self) -> Vec<CapturedTable> {
        self.due = std::mem::take(&mut self.awaited).into_keys().collect();
        std::mem::take(&mut self.absent)
    }

    /// What makes these is not in the stream: the slave has no position yet, or has got them.
    pub fn all_due(&mut self, captured: &[CapturedTable]) {
        self.due = captured.iter().map(|table| table.trigger_oid).collect();
    }

    /// Can the table be copied? If not, it is found missing again, and waited for.
    pub fn is_due(&self, table: &CapturedTable) -> bool {
        self.due.contains(&table.trigger_oid)
    }
}
