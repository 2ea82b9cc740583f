//! Which tables a slave has, and which of their changes are in their copies already.
//!
//! In: `pyreplica_agent.copied_table` of the slave, the captured tables of the master. Out: for a relation of the
//! stream whether to apply its changes; and the list of tables that have to be copied first.

use std::collections::{HashMap, HashSet};

use postgres::Client;

use crate::config::Initial;
use crate::copy::CapturedTable;
use crate::error::{Error, Result};
use crate::position::{Snapshot, Xid};

type Name = (String, String);

#[derive(Clone, Debug)]
struct Copied {
    trigger_oid: u32,
    snapshot: Snapshot,
    rows: Option<i64>,
}

/// What to do with a transaction's changes of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Apply,
    /// They are in the copy, or nobody wants them any more.
    Skip,
    /// The table is new: to be copied, or taken as it is, before anything of the transaction is applied.
    Unknown,
}

#[derive(Debug)]
pub struct Tables {
    agent: String,
    slave: String,
    initial: Initial,
    copied: HashMap<Name, Copied>,
    /// No longer captured, and never copied: nothing of them is on the slave.
    gone: HashSet<Name>,
}

impl Tables {
    pub fn load(client: &mut Client, agent: &str, slave: &str, initial: Initial) -> Result<Self> {
        let rows = client
            .query(
                "select schema_name, table_name, trigger_oid, snapshot::text, rows
                   from pyreplica_agent.copied_table where agent = $1 and slave = $2",
                &[&agent, &slave],
            )
            .map_err(|e| {
                Error::from_pg(format!("could not read the copied tables of slave \"{slave}\""), e)
            })?;
        let mut copied = HashMap::new();
        for row in rows {
            let snapshot = row.get::<_, &str>(3).parse()?;
            copied.insert(
                (row.get(0), row.get(1)),
                Copied { trigger_oid: row.get(2), snapshot, rows: row.get(4) },
            );
        }
        Ok(Tables { agent: agent.into(), slave: slave.into(), initial, copied, gone: HashSet::new() })
    }

    pub fn initial(&self) -> Initial {
        self.initial
    }

    pub fn gate(&self, schema: &str, name: &str, xid: Xid) -> Gate {
        let name = (schema.to_owned(), name.to_owned());
        match self.copied.get(&name) {
            Some(copied) if copied.snapshot.sees(xid) => Gate::Skip,
            Some(_) => Gate::Apply,
            None if self.gone.contains(&name) => Gate::Skip,
            None => Gate::Unknown,
        }
    }

    /// Is it known what to do with changes of this table?
    pub fn has(&self, schema: &str, name: &str) -> bool {
        self.gate(schema, name, 0) != Gate::Unknown
    }

    /// Is every captured table known?
    pub fn complete(&self, captured: &[CapturedTable]) -> bool {
        captured.iter().all(|table| self.knows(table))
    }

    fn knows(&self, table: &CapturedTable) -> bool {
        self.copied
            .get(&(table.schema.clone(), table.name.clone()))
            .is_some_and(|copied| copied.trigger_oid == table.trigger_oid)
    }

    /// The captured tables that have to be copied. The others that were not known are settled here: a renamed table
    /// keeps its snapshot, and without an initial copy a table is taken to be in step.
    ///
    /// The row of the old name stays: changes made before the renaming may still be in the log.
    pub fn settle(&mut self, client: &mut Client, captured: &[CapturedTable]) -> Result<Vec<CapturedTable>> {
        let by_trigger: HashMap<u32, Copied> =
            self.copied.values().map(|copied| (copied.trigger_oid, copied.clone())).collect();
        let mut to_copy = Vec::new();
        for table in captured {
            self.gone.remove(&(table.schema.clone(), table.name.clone()));
            if self.knows(table) {
                continue;
            }
            if let Some(renamed) = by_trigger.get(&table.trigger_oid) {
                self.mark(client, table, renamed.snapshot.clone(), renamed.rows)?;
            } else if self.initial == Initial::Copy {
                to_copy.push(table.clone());
            } else {
                self.mark(client, table, Snapshot::empty(), None)?;
            }
        }
        Ok(to_copy)
    }

    /// The stream named a relation that is neither known nor captured any more. Without an initial copy the slave has
    /// had it from the start; else it never got it.
    pub fn settle_gone(&mut self, client: &mut Client, schema: &str, name: &str) -> Result<()> {
        if self.initial != Initial::Copy {
            let table = CapturedTable {
                schema: schema.to_owned(),
                name: name.to_owned(),
                trigger_oid: 0,
                key_columns: Vec::new(),
                partitioned: false,
            };
            return self.mark(client, &table, Snapshot::empty(), None);
        }
        log::warn!(
            "slave \"{}\": changes of table {schema}.{name} are left out: it is no longer replicated and was never copied",
            self.slave
        );
        self.gone.insert((schema.to_owned(), name.to_owned()));
        Ok(())
    }

    /// The table has been copied, and that is on record.
    pub fn add_copied(&mut self, table: &CapturedTable, snapshot: Snapshot, rows: u64) {
        let copied = Copied {
            trigger_oid: table.trigger_oid,
            snapshot,
            rows: Some(i64::try_from(rows).unwrap_or(i64::MAX)),
        };
        self.copied.insert((table.schema.clone(), table.name.clone()), copied);
    }

    /// Takes the table to be in step except for what the snapshot does not see.
    pub fn mark(
        &mut self,
        client: &mut Client,
        table: &CapturedTable,
        snapshot: Snapshot,
        rows: Option<i64>,
    ) -> Result<()> {
        client
            .execute(
                include_str!("sql/copied_table.sql"),
                &[
                    &self.agent,
                    &self.slave,
                    &table.schema,
                    &table.name,
                    &table.trigger_oid,
                    &snapshot.to_string(),
                    &rows,
                ],
            )
            .map_err(|e| {
                Error::from_pg(
                    format!("could not record table {} on slave \"{}\"", table.full_name(), self.slave),
                    e,
                )
            })?;
        let name = (table.schema.clone(), table.name.clone());
        self.copied.insert(name, Copied { trigger_oid: table.trigger_oid, snapshot, rows });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_copy_is_not_applied_again() {
        let copied = Copied { trigger_oid: 1, snapshot: "10:20:10,15".parse().unwrap(), rows: Some(3) };
        let name = |n: &str| ("public".to_owned(), n.to_owned());
        let tables = Tables {
            agent: "a".into(),
            slave: "s".into(),
            initial: Initial::Copy,
            copied: HashMap::from([(name("t"), copied)]),
            gone: HashSet::from([name("old")]),
        };
        let check = |table, xid, gate| assert_eq!(tables.gate("public", table, xid), gate);
        check("t", 9, Gate::Skip);
        check("t", 10, Gate::Apply);
        check("t", 12, Gate::Skip);
        check("t", 15, Gate::Apply);
        check("t", 20, Gate::Apply);
        check("old", 12, Gate::Skip);
        check("new", 12, Gate::Unknown);
        assert!(tables.has("public", "old") && !tables.has("other", "t"));
        let captured = |name: &str, trigger_oid| CapturedTable {
            schema: "public".into(),
            name: name.into(),
            trigger_oid,
            key_columns: vec!["id".into()],
            partitioned: false,
        };
        assert!(tables.complete(&[captured("t", 1)]));
        assert!(!tables.complete(&[captured("t", 2)]), "removed and added again");
        assert!(!tables.complete(&[captured("t", 1), captured("u", 3)]));
    }
}
