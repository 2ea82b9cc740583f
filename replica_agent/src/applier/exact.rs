//! Change by change, each as a statement of its own: the path that names the row on which a change fails or conflicts.

use std::sync::Arc;

use super::truncate::truncate;
use super::{Applier, Forwards, REPORTS_MAX};
use crate::bind::{as_dyn, params};
use crate::config::UpdateDiffers;
use crate::conflict::{Conflict, Event};
use crate::decode::{Change, Changed, Decoder, Relation, Value};
use crate::error::{Error, Kind, Result};
use crate::event::{Note, NOTES_MAX};
use crate::failure::{self, failed_on, full_name};
use crate::pipe::Pipe;
use crate::quote;
use crate::reader::Transaction;
use crate::session;
use crate::slave_table::SlaveTable;
use crate::statement::{columns, Operation};

/// A conflict that does not stop the slave, and whether the change is made all the same.
pub(super) struct Found<'a> {
    pub conflict: Conflict,
    pub detail: Option<&'a str>,
    pub applied: bool,
}

impl From<Conflict> for Found<'_> {
    /// There is nothing to change.
    fn from(conflict: Conflict) -> Self {
        Found { conflict, detail: None, applied: false }
    }
}

impl Applier {
    /// `missed`: it has been tried, and has found no row, or one in its way.
    pub(super) fn change(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        change: &Change,
        wanted: &[usize],
        transaction: &Transaction,
        missed: bool,
    ) -> Result<()> {
        match change {
            Change::Insert { relation, row } => {
                self.insert_row(client, decoder.relation(*relation), row, transaction, missed)
            }
            Change::Update { relation, key, changed, row } => {
                let relation = decoder.relation(*relation);
                if let Some(table) = self.mapped(client, relation)? {
                    let row = row.as_deref();
                    return self.update_one_mapped(client, &table, relation, key, changed, row, transaction);
                }
                self.update(client, relation, key, changed, transaction, missed)
            }
            Change::Delete { relation, key } => {
                let relation = decoder.relation(*relation);
                if let Some(table) = self.mapped(client, relation)? {
                    return self.delete_one_mapped(client, &table, relation, key, transaction);
                }
                let deleted = match missed {
                    true => 0,
                    false => {
                        self.execute(client, relation, Operation::Delete, &relation.key, &[], key, &[])?
                    }
                };
                match deleted {
                    0 => self.conflict(client, relation, key, Conflict::DeleteMissing.into(), transaction),
                    n => only_one(n),
                }
            }
            Change::Truncate { partition, restart_identity, .. } => {
                let emptied = partition.as_ref().map_or(wanted, std::slice::from_ref);
                let relations: Vec<&Relation> = emptied.iter().map(|&r| decoder.relation(r)).collect();
                self.restarted |= restart_identity;
                let is_elsewhere = |&number: &usize| {
                    let relation = decoder.relation(number);
                    !wanted.contains(&number) && self.mapping.wants(relation.schema, relation.name)
                };
                let partly = change.relations().iter().any(is_elsewhere);
                self.truncate(client, &relations, *restart_identity, partly)
            }
            Change::Statement { sql, role, settings } => {
                // It may change any table, and any sequence.
                self.forget();
                self.restarted = true;
                run_statement(client, sql, role, settings, self.forwards.as_ref())
            }
        }
    }

    /// The old values stand in the WHERE clause: as long as they are the master's, one statement does it.
    fn update(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        key: &[Value],
        changed: &[Changed],
        transaction: &Transaction,
        missed: bool,
    ) -> Result<()> {
        let set = self.taken(client, relation, changed.iter().map(|c| c.column))?;
        if set.is_empty() {
            return Ok(());
        }
        let taken = || changed.iter().filter(|c| set.len() == changed.len() || set.contains(&c.column));
        let new: Vec<Value> = taken().map(|c| c.new).collect();
        let old: Vec<Value> = taken().map(|c| c.old).collect();
        let both = [&new[..], &old[..]].concat();
        let updated = match missed {
            true => 0,
            false => {
                self.execute(client, relation, Operation::UpdateExact, &relation.key, &set, key, &both)?
            }
        };
        if updated > 0 {
            return only_one(updated);
        }

        if self.was_altered(client, relation)? {
            return self.update(client, relation, key, changed, transaction, false);
        }
        let same = self.probe(client, relation, &set, key, &old)?;
        if let Some(same) = same {
            let applied = self.update_differs == UpdateDiffers::Apply && {
                let operation = Operation::UpdateAny;
                was_set(self.execute(client, relation, operation, &relation.key, &set, key, &new)?)?
            };
            let names = columns(relation, &set);
            let detail = differ(names.iter().map(|c| c.name), &same);
            let found = Found { conflict: Conflict::UpdateDiffers, detail: Some(&detail), applied };
            return self.conflict(client, relation, key, found, transaction);
        }
        self.conflict(client, relation, key, Conflict::UpdateMissing.into(), transaction)
    }

    /// For each changed column whether the slave has the master's old value; `None` when there is no such row.
    fn probe(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        set: &[usize],
        key: &[Value],
        old: &[Value],
    ) -> Result<Option<Vec<bool>>> {
        let statement = self.prepare(client, relation, Operation::Probe, &relation.key, set)?;
        let params = params(relation, [&relation.key, set], [key, old]);
        let row = client.query_opt(&statement, &as_dyn(&params)).map_err(|e| failed_on(relation, e))?;
        Ok(row.map(|row| (0..row.len()).map(|i| row.get(i)).collect()))
    }

    /// `partly`: it emptied others as well, whose copies are later or still to come.
    fn truncate(
        &mut self,
        client: &mut Pipe,
        relations: &[&Relation],
        restart_identity: bool,
        partly: bool,
    ) -> Result<()> {
        let mut targets: Vec<Arc<SlaveTable>> = Vec::new();
        for relation in relations {
            let target = self.table(client, relation)?;
            let taken = target.rule.as_ref().is_none_or(|rule| rule.operations.truncate);
            // Partitions come under the name of their root.
            if taken && !targets.contains(&target) {
                targets.push(target);
            }
        }
        match targets.is_empty() {
            true => Ok(()),
            false => truncate(client, relations[0], &targets, restart_identity, partly),
        }
    }

    /// Those of the columns that the slave gets.
    pub(super) fn taken(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        columns: impl Iterator<Item = usize>,
    ) -> Result<Vec<usize>> {
        match self.mapping.rules.is_empty() {
            true => Ok(columns.collect()),
            false => Ok(self.table(client, relation)?.taken(relation, columns)),
        }
    }

    /// Runs a prepared statement for one change; gives the number of rows.
    #[allow(clippy::too_many_arguments)] // one list per role in the statement
    pub(super) fn execute(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        operation: Operation,
        key: &[usize],
        set: &[usize],
        key_values: &[Value],
        set_values: &[Value],
    ) -> Result<u64> {
        let statement = self.prepare(client, relation, operation, key, set)?;
        // UpdateExact has the new values and then the old ones: the same columns twice.
        let twice = [set, set].concat();
        let set = &twice[..set_values.len()];
        let params = params(relation, [key, set], [key_values, set_values]);
        client.execute(&statement, &as_dyn(&params)).map_err(|e| failed_on(relation, e))
    }

    pub(super) fn conflict(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        key: &[Value],
        found: Found,
        transaction: &Transaction,
    ) -> Result<()> {
        let Found { conflict, detail, applied } = found;
        let event = Event {
            conflict,
            relation: &full_name(relation),
            operation: conflict.operation(),
            key: &failure::render_key(client, relation, key)?,
            detail,
            applied,
        };
        self.conflicts += 1;
        self.recent += 1;
        if self.noted.len() < NOTES_MAX {
            self.noted.push(Note::new(&event, transaction));
        }
        if self.recent <= REPORTS_MAX {
            log::warn!("slave \"{}\": {}", self.slave, event.report(transaction));
        }
        event.record(client, &self.agent, &self.slave, transaction, false)
    }
}

/// A statement queued on the master, under the settings it was queued with, and as the role that it names where our
/// role is a member of that. It runs inside a DO block, where PostgreSQL refuses to end our transaction. What it sets
/// for the session is set back.
///
/// A slave that forwards queues it again for its own slaves, and does not log what it did to rows.
fn run_statement(
    client: &mut Pipe,
    sql: &str,
    role: &str,
    settings: &[(&str, &str)],
    forwards: Option<&Forwards>,
) -> Result<()> {
    let (before, after) = match forwards {
        None => ("", String::new()),
        Some(Forwards { replica: false, .. }) => return Err(Error::new(
            Kind::Apply,
            "could not pass on a queued statement",
        )
        .with_sqlstate("42501")
        .detail("What it does to rows would be logged besides, since the session cannot be a replica.")
        .hint(
            "Grant SET ON PARAMETER session_replication_role to the agent's role, or run it on each node.",
        )),
        Some(Forwards { origin, .. }) => (
            "set local pyreplica.origin = ''; ",
            format!(
                "; set local session_replication_role = origin; set local pyreplica.origin = {}; \
                 insert into pyreplica.replica_log (sql) values ({}); \
                 set local session_replication_role = replica",
                quote::literal(origin),
                quote::literal(sql)
            ),
        ),
    };
    let set = |(name, value): &(&str, &str)| {
        format!("pg_catalog.set_config({}, {}, true)", quote::literal(name), quote::literal(value))
    };
    let settings_there: Vec<String> = settings.iter().map(set).collect();
    // Those that our session pins are pinned again, to values of its own.
    let usual = |(name, _): &(&str, &str)| format!("set local {} to default; ", quote::ident(name));
    let settings_here: String = settings.iter().map(usual).collect();
    let block = format!("begin execute {}; end", quote::literal(sql));
    client
        .batch_execute(&format!(
            "{usual}{before}select pg_catalog.set_config('role', rolname, true) from pg_catalog.pg_roles \
             where rolname = {role} and rolname <> current_user and pg_catalog.pg_has_role(oid, 'MEMBER'); \
             select {there}; do {block}; reset role{after}; {settings_here}{pinned}",
            usual = session::plan_as_usual(),
            role = quote::literal(role),
            there = settings_there.join(", "),
            block = quote::literal(&block),
            pinned = session::pin_again(),
        ))
        .map_err(|e| {
            let e = Error::from_pg("could not run a queued statement", e);
            match (forwards, e.sqlstate()) {
                (Some(_), Some("42501")) => e.hint(
                    "This slave forwards: the agent's role needs INSERT ON pyreplica.replica_log there, besides \
                     what the statement needs.",
                ),
                _ => e,
            }
        })
}

/// Detail of a conflict: the columns whose old values are not the same.
pub(super) fn differ<'n>(columns: impl Iterator<Item = &'n str>, same: &[bool]) -> String {
    let differ: Vec<String> =
        columns.zip(same).filter(|(_, same)| !**same).map(|(name, _)| quote::ident(name)).collect();
    match differ.is_empty() {
        true => "A trigger or rule of the slave keeps the row as it is.".to_owned(),
        false => format!("Old value on the master and value on the slave differ in {}.", differ.join(", ")),
    }
}

/// Whether an UPDATE of a row that is there, whatever it holds, was made: a trigger of the slave may keep it out.
pub(super) fn was_set(rows: u64) -> Result<bool> {
    match rows {
        0 => Ok(false),
        n => only_one(n).map(|()| true),
    }
}

pub(super) fn only_one(rows: u64) -> Result<()> {
    match rows {
        1 => Ok(()),
        n => Err(Error::new(Kind::Apply, format!("the key of the master finds {n} rows on the slave")).hint(
            "Give the table on the slave the primary key that it has on the master, and correct the rows.",
        )),
    }
}
