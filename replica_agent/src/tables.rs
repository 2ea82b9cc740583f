//! Which tables a slave has, and which of their changes are in their copies already.
//!
//! In: `pyreplica_agent.copied_table` of the slave, the captured tables of the master. Out: for a relation of the
//! stream whether to apply its changes; and the list of tables that have to be copied first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::Initial;
use crate::copy::{CapturedTable, CopiedTable};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::part::Part;
use crate::pipe::Pipe;
use crate::position::{Snapshot, Xid};

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

/// A table whose changes wait for a new copy of it.
#[derive(Debug)]
struct Held {
    now: Name,
    trigger_oid: u32,
    /// What was known of it, by each of its names.
    was: HashMap<Name, Copied>,
}

#[derive(Debug)]
struct Awaited {
    name: Name,
    /// Of the table and its partitions on the master.
    oids: Vec<u32>,
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

    pub fn gate(&self, schema: &str, name: &str, oid: u32, xid: Xid) -> Gate {
        if !self.mapping.wants(schema, name) {
            return Gate::Skip;
        }
        let key = (name_of(schema, name), oid);
        if self.is_held(&key) {
            return Gate::Skip;
        }
        let copied = match self.asked.get(&key) {
            Some(Some(now)) => self.copied.values().find(|copied| copied.trigger_oid == now.trigger_oid),
            _ => self.copied.get(&key.0),
        };
        match copied {
            Some(copied) if copied.snapshot.sees(xid) => Gate::Skip,
            Some(_) => Gate::Apply,
            None if self.asked.get(&key) == Some(&None) => Gate::Skip,
            None => Gate::Unknown,
        }
    }

    /// The same for all transactions from the first to the last; `None` where they differ, or more has to be asked.
    pub fn gate_of_all(&self, schema: &str, name: &str, oid: u32, (first, last): (Xid, Xid)) -> Option<Gate> {
        if !self.mapping.wants(schema, name) {
            return Some(Gate::Skip);
        }
        let key = (name_of(schema, name), oid);
        if self.is_held(&key) {
            return Some(Gate::Skip);
        }
        if self.asked.contains_key(&key) {
            return None;
        }
        let snapshot = &self.copied.get(&key.0)?.snapshot;
        if first >= snapshot.xmax() {
            Some(Gate::Apply)
        } else if snapshot.sees_all_up_to(last) {
            Some(Gate::Skip)
        } else {
            None
        }
    }

    /// What else the table is or was called, its name of now first; `None` when the master has not been asked.
    pub fn other_names(&self, schema: &str, name: &str, oid: u32) -> Option<Vec<(String, String)>> {
        let key = (name_of(schema, name), oid);
        let Some(now) = self.asked.get(&key)? else { return Some(Vec::new()) };
        let mut names: Vec<Name> = self
            .copied
            .iter()
            .filter(|(_, copied)| copied.trigger_oid == now.trigger_oid)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names.insert(0, name_of(&now.schema, &now.name));
        Some(names)
    }

    /// The stream met a relation of which the master has to be asked.
    pub fn meet(&mut self, schema: &str, name: &str, oid: u32) {
        self.unknown = Some((name_of(schema, name), oid));
    }

    /// The oid of the relation that the stream met under this name; `None` when it did not meet it here.
    pub fn met(&self, schema: &str, name: &str) -> Option<u32> {
        self.unknown.as_ref().filter(|(met, _)| *met == name_of(schema, name)).map(|(_, oid)| *oid)
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

    fn is_held(&self, key: &(Name, u32)) -> bool {
        if self.held.is_none() && self.awaited.is_empty() {
            return false;
        }
        match self.asked.get(key) {
            Some(now) => now.as_ref().is_some_and(|now| self.is_skipped(now.trigger_oid)),
            None => {
                let of = |held: &Held| held.now == key.0 || held.was.keys().any(|name| *name == key.0);
                let is = |awaited: &Awaited| {
                    awaited.oids.contains(&key.1)
                        || awaited.name == key.0 && !self.copied.contains_key(&key.0)
                };
                self.held.as_ref().is_some_and(of) || self.awaited.values().any(is)
            }
        }
    }

    /// Is the table held, or awaited?
    fn is_skipped(&self, trigger_oid: u32) -> bool {
        self.held.as_ref().is_some_and(|held| held.trigger_oid == trigger_oid)
            || self.awaited.contains_key(&trigger_oid)
    }

    /// Skips the changes of these tables until `arrived`: they will be copied under a later snapshot.
    pub fn wait_for(&mut self, tables: &[CapturedTable], absent: Vec<CapturedTable>) {
        let by_trigger = |table: &CapturedTable| {
            let awaited = Awaited { name: name_of(&table.schema, &table.name), oids: table.oids.clone() };
            (table.trigger_oid, awaited)
        };
        self.awaited.extend(tables.iter().map(by_trigger));
        self.absent.extend(absent);
    }

    /// All is applied that may make the awaited tables; gives those that were absent.
    pub fn arrived(&mut self) -> Vec<CapturedTable> {
        self.due = std::mem::take(&mut self.awaited).into_keys().collect();
        std::mem::take(&mut self.absent)
    }

    /// The slave has no position yet: what makes these is not in its stream.
    pub fn all_due(&mut self, captured: &[CapturedTable]) {
        self.due = captured.iter().map(|table| table.trigger_oid).collect();
    }

    /// Can the table be copied? If not, it is found missing again, and waited for.
    pub fn is_due(&self, table: &CapturedTable) -> bool {
        self.due.contains(&table.trigger_oid)
    }

    /// Has the slave's table been dropped and made anew since it was copied? Then all that it holds has come by the
    /// stream, with which the master's was made anew as well.
    pub fn is_remade(&self, table: &CapturedTable, table_oid: Option<u32>) -> bool {
        let copied = self.copied.get(&name_of(&table.schema, &table.name));
        let was = copied.and_then(|copied| copied.table_oid);
        was.is_some() && table_oid.is_some() && was != table_oid
    }

    /// Were the statements that this transaction queued run before the stream was set back?
    pub fn has_run(&self, xid: Xid) -> bool {
        self.copied.get(&name_of("", "")).is_some_and(|statements| statements.snapshot.sees(xid))
    }

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

    /// The captured tables that have to be copied. The others that were not known are settled here: a renamed table
    /// keeps its snapshot, and without an initial copy a table is taken to be in step.
    ///
    /// The row of the old name stays: changes made before the renaming may still be in the log.
    pub fn settle(&mut self, client: &mut Pipe, captured: &[CapturedTable]) -> Result<Vec<CapturedTable>> {
        let by_trigger: HashMap<u32, Copied> =
            self.copied.values().map(|copied| (copied.trigger_oid, copied.clone())).collect();
        let mut to_copy = Vec::new();
        for table in captured {
            if self.knows(table) {
                continue;
            }
            // What was no longer captured may be again.
            self.asked.retain(|_, now| now.is_some());
            if let Some(renamed) = by_trigger.get(&table.trigger_oid) {
                self.mark(client, table, renamed.clone())?;
            } else if self.initial == Initial::Copy {
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
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_copy_is_not_applied_again() {
        let snapshot = "10:20:10,15".parse().unwrap();
        let copied = Copied { trigger_oid: 1, snapshot, rows: Some(3), table_oid: Some(16400) };
        let name = |n: &str| ("public".to_owned(), n.to_owned());
        let t_now = Captured { schema: "public".into(), name: "t".into(), trigger_oid: 1 };
        let mut tables = Tables {
            agent: "a".into(),
            slave: "s".into(),
            initial: Initial::Copy,
            mapping: Arc::default(),
            copied: HashMap::from([(name("t"), copied)]),
            asked: HashMap::from([((name("old"), 8), None), ((name("passing"), 7), Some(t_now))]),
            held: None,
            awaited: HashMap::new(),
            absent: Vec::new(),
            due: HashSet::new(),
            unknown: None,
        };
        let check = |table, xid, gate| {
            let oid = if table == "old" { 8 } else { 7 };
            assert_eq!(tables.gate("public", table, oid, xid), gate);
        };
        let all = |xids| tables.gate_of_all("public", "t", 6, xids);
        assert_eq!(all((5, 9)), Some(Gate::Skip));
        assert_eq!(all((9, 12)), None);
        assert_eq!(all((20, 25)), Some(Gate::Apply));
        assert_eq!(tables.gate_of_all("public", "passing", 7, (20, 25)), None);
        check("t", 9, Gate::Skip);
        check("t", 10, Gate::Apply);
        check("t", 12, Gate::Skip);
        check("t", 15, Gate::Apply);
        check("t", 20, Gate::Apply);
        check("old", 12, Gate::Skip);
        check("new", 12, Gate::Unknown);
        check("passing", 12, Gate::Skip);
        check("passing", 20, Gate::Apply);
        assert_eq!(tables.gate("public", "passing", 9, 20), Gate::Unknown, "another table's turn");
        assert_eq!(tables.gate("other", "t", 7, 20), Gate::Unknown);
        assert_eq!(tables.other_names("public", "t", 7), None);
        assert_eq!(tables.other_names("public", "passing", 7).unwrap()[0], name("t"));
        let level = "21:21:".parse().unwrap();
        let table = CapturedTable {
            schema: "public".into(),
            name: "u".into(),
            trigger_oid: 2,
            oids: vec![7],
            key_columns: vec!["id".into()],
            partitioned: false,
            part: Part::default(),
        };
        let copied =
            CopiedTable { table: table.clone(), snapshot: "18:18:".into(), rows: 5, table_oid: 16401 };
        let mut rows: Vec<_> = tables.rewound(&table, Some(&copied), &level).unwrap();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        let shown: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.snapshot.as_str())).collect();
        assert_eq!(shown, [("", "21:21:"), ("t", "21:21:"), ("u", "18:18:")]);
        let early = "15:15:".parse().unwrap();
        assert!(
            tables.rewound(&table, None, &early).unwrap().iter().all(|row| row.name != "t"),
            "t was copied later than that"
        );
        assert!(!tables.has_run(3));

        let captured = |name: &str, trigger_oid| CapturedTable {
            schema: "public".into(),
            name: name.into(),
            trigger_oid,
            oids: vec![10 + trigger_oid],
            key_columns: vec!["id".into()],
            partitioned: false,
            part: Part::default(),
        };
        assert!(tables.complete(&[captured("t", 1)]));
        assert!(!tables.complete(&[captured("t", 2)]), "removed and added again");
        assert!(!tables.complete(&[captured("t", 1), captured("u", 3)]));
        assert!(tables.is_remade(&captured("t", 2), Some(16500)));
        for there in [Some(16400), None] {
            assert!(!tables.is_remade(&captured("t", 2), there), "{there:?}");
        }
        assert!(!tables.is_remade(&captured("u", 3), Some(16500)), "it was never copied");

        tables.wait_for(&[captured("t", 2), captured("u", 3)], Vec::new());
        assert_eq!(tables.gate("public", "t", 12, 20), Gate::Skip);
        assert_eq!(tables.gate("public", "t", 6, 20), Gate::Apply, "another one has the name now");
        assert_eq!(tables.gate("public", "u", 99, 20), Gate::Skip, "a partition that was dropped");
    }
}
