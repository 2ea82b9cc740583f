//! Which tables a slave has, and which of their changes are in their copies already.
//!
//! In: `pyreplica_agent.copied_table` of the slave, the captured tables of the master. Out: for a relation of the
//! stream whether to apply its changes; and the list of tables that have to be copied first.

mod awaited;
mod gate;
mod held;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::again;
use crate::config::Initial;
use crate::copy::{CapturedTable, CopiedTable};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::part::Part;
use crate::pipe::Pipe;
use crate::position::Snapshot;
use awaited::Awaited;
pub use gate::Gate;
use held::Held;

type Name = (String, String);

#[derive(Clone, Debug)]
struct Copied {
    trigger_oid: u32,
    snapshot: Snapshot,
    rows: Option<i64>,
    /// Of the slave's table that holds the rows.
    table_oid: Option<u32>,
}

impl Copied {
    fn of(copied: &CopiedTable) -> Result<Copied> {
        Ok(Copied {
            trigger_oid: copied.table.trigger_oid,
            snapshot: copied.snapshot.parse()?,
            rows: Some(i64::try_from(copied.rows).unwrap_or(i64::MAX)),
            table_oid: Some(copied.table_oid),
        })
    }

    /// Nothing was copied.
    fn in_step(trigger_oid: u32) -> Copied {
        Copied { trigger_oid, snapshot: Snapshot::empty(), rows: None, table_oid: None }
    }
}

#[derive(Debug)]
pub struct Tables {
    agent: String,
    slave: String,
    initial: Initial,
    mapping: Arc<Mapping>,
    copied: HashMap<Name, Copied>,
    /// Names that the stream gave to relations (by their oid on the master) and that had to be asked for there: the
    /// table as it is called now, `None` when it is no longer captured. Not on record: such a name may pass, and
    /// belong to another table next time.
    asked: HashMap<(Name, u32), Option<Captured>>,
    /// Of a table that is copied again meanwhile.
    held: Option<Held>,
    /// Tables that the slave does not have yet, by their triggers: the stream may hold the statement that makes them.
    /// Until they are there, and then copied, their changes are skipped; but not those of another table that the slave
    /// knows by the same name, which is dropped or renamed before.
    awaited: HashMap<u32, Awaited>,
    absent: Vec<CapturedTable>,
    /// Those that can be copied, by their triggers: no statement is still to come that makes them.
    due: HashSet<u32>,
    /// What the stream met last that has to be asked for.
    unknown: Option<(Name, u32)>,
}

/// A captured table, as the master calls it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub schema: String,
    pub name: String,
    pub trigger_oid: u32,
}

impl Tables {
    /// A table that the slave does not take any more is forgotten: should it come back, it is copied anew.
    pub fn load(
        client: &mut Pipe,
        agent: &str,
        slave: &str,
        initial: Initial,
        mapping: &Arc<Mapping>,
    ) -> Result<Self> {
        let rows = client
            .query(
                "select schema_name, table_name, trigger_oid, snapshot::text, rows, table_oid
                   from pyreplica_agent.copied_table where agent = $1 and slave = $2",
                &[&agent, &slave],
            )
            .map_err(|e| {
                Error::from_pg(format!("could not read the copied tables of slave \"{slave}\""), e)
            })?;
        let mut copied = HashMap::new();
        for row in rows {
            let snapshot = row.get::<_, &str>(3).parse()?;
            let name: Name = (row.get(0), row.get(1));
            if name != name_of("", "") && !mapping.wants(&name.0, &name.1) {
                forget(client, agent, slave, &name)?;
                continue;
            }
            let (trigger_oid, rows, table_oid) = (row.get(2), row.get(4), row.get(5));
            copied.insert(name, Copied { trigger_oid, snapshot, rows, table_oid });
        }
        Ok(Tables {
            agent: agent.into(),
            slave: slave.into(),
            initial,
            mapping: Arc::clone(mapping),
            copied,
            asked: HashMap::new(),
            held: None,
            awaited: HashMap::new(),
            absent: Vec::new(),
            due: HashSet::new(),
            unknown: None,
        })
    }

    pub fn agent(&self) -> &str {
        &self.agent
    }

    pub fn initial(&self) -> Initial {
        self.initial
    }

    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Is every captured table known that the slave is to have?
    pub fn complete(&self, captured: &[CapturedTable]) -> bool {
        captured.iter().all(|table| self.knows(table))
    }

    fn knows(&self, table: &CapturedTable) -> bool {
        !self.mapping.wants(&table.schema, &table.name)
            || self.is_skipped(table.trigger_oid)
            || self
                .copied
                .get(&(table.schema.clone(), table.name.clone()))
                .is_some_and(|copied| copied.trigger_oid == table.trigger_oid)
    }

    /// Is the table held, or awaited?
    fn is_skipped(&self, trigger_oid: u32) -> bool {
        self.held.as_ref().is_some_and(|held| held.trigger_oid == trigger_oid)
            || self.awaited.contains_key(&trigger_oid)
    }

    /// Has the slave's table been dropped and made anew since it was copied? Then all that it holds has come by the
    /// stream, with which the master's was made anew as well.
    pub fn is_remade(&self, table: &CapturedTable, table_oid: Option<u32>) -> bool {
        let copied = self.copied.get(&name_of(&table.schema, &table.name));
        let was = copied.and_then(|copied| copied.table_oid);
        was.is_some() && table_oid.is_some() && was != table_oid
    }

    /// The captured tables that have to be copied. The others that were not known are settled here: a renamed table
    /// keeps its snapshot, and without an initial copy a table is taken to be in step.
    ///
    /// The row of the old name stays: changes made before the renaming may still be in the log.
    pub fn settle(&mut self, client: &mut Pipe, captured: &[CapturedTable]) -> Result<Vec<CapturedTable>> {
        let by_trigger: HashMap<u32, Copied> =
            self.copied.values().map(|copied| (copied.trigger_oid, copied.clone())).collect();
        // What a copy that was cut off has left is no table that is in step.
        let cut_off = match self.initial {
            Initial::Copy => BTreeSet::new(),
            _ => again::requested(client, &self.agent, &self.slave)?,
        };
        let mut to_copy = Vec::new();
        for table in captured {
            if self.knows(table) {
                continue;
            }
            // What was no longer captured may be again.
            self.asked.retain(|_, now| now.is_some());
            if let Some(renamed) = by_trigger.get(&table.trigger_oid) {
                self.mark(client, table, renamed.clone())?;
            } else if self.initial == Initial::Copy || cut_off.contains(&name_of(&table.schema, &table.name))
            {
                to_copy.push(table.clone());
            } else {
                self.mark(client, table, Copied::in_step(table.trigger_oid))?;
            }
        }
        Ok(to_copy)
    }

    /// The master was asked for a relation that the stream named. When it is captured, the name was that of a moment.
    /// When it is not, and its name is new: without an initial copy the slave has had it from the start; else it
    /// never got it.
    pub fn settle_unknown(
        &mut self,
        client: &mut Pipe,
        schema: &str,
        name: &str,
        oid: u32,
        now: Option<Captured>,
    ) -> Result<()> {
        self.unknown = None;
        let key = (name_of(schema, name), oid);
        let gone = now.is_none() && !self.copied.contains_key(&key.0);
        self.asked.insert(key, now);
        if !gone {
            return Ok(());
        }
        if self.initial != Initial::Copy {
            let table = CapturedTable {
                schema: schema.to_owned(),
                name: name.to_owned(),
                trigger_oid: 0,
                oids: Vec::new(),
                key_columns: Vec::new(),
                partitioned: false,
                part: Part::default(),
            };
            return self.mark(client, &table, Copied::in_step(0));
        }
        log::warn!(
            "slave \"{}\": changes of table {schema}.{name} are left out: it is no longer replicated and was never copied",
            self.slave
        );
        Ok(())
    }

    /// The table has been copied, and that is on record.
    pub fn add_copied(&mut self, copied: &CopiedTable) -> Result<()> {
        let name = name_of(&copied.table.schema, &copied.table.name);
        self.copied.insert(name, Copied::of(copied)?);
        Ok(())
    }

    /// Takes the table to be in step except for what the snapshot does not see.
    fn mark(&mut self, client: &mut Pipe, table: &CapturedTable, copied: Copied) -> Result<()> {
        client
            .execute(
                include_str!("sql/copied_table.sql"),
                &[
                    &self.agent,
                    &self.slave,
                    &table.schema,
                    &table.name,
                    &copied.trigger_oid,
                    &copied.snapshot.to_string(),
                    &copied.rows,
                    &copied.table_oid,
                ],
            )
            .map_err(|e| {
                Error::from_pg(
                    format!("could not record table {} on slave \"{}\"", table.full_name(), self.slave),
                    e,
                )
            })?;
        let name = (table.schema.clone(), table.name.clone());
        self.copied.insert(name, copied);
        Ok(())
    }
}

fn forget(client: &mut Pipe, agent: &str, slave: &str, (schema, name): &Name) -> Result<()> {
    log::info!("slave \"{slave}\": table {schema}.{name} is left out from now on");
    client
        .execute(
            "delete from pyreplica_agent.copied_table
              where agent = $1 and slave = $2 and schema_name = $3 and table_name = $4",
            &[&agent, &slave, schema, name],
        )
        .map_err(|e| {
            Error::from_pg(format!("could not leave table {schema}.{name} out of slave \"{slave}\""), e)
        })?;
    Ok(())
}

fn name_of(schema: &str, name: &str) -> Name {
    (schema.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests;
