//! A row of the slave that is not what a change of the master expects: its name, its report, its record.
//!
//! In: what the applier found. Out: text for the log and a row of `pyreplica_agent.conflict`.

use std::fmt;

use crate::error::{Error, Result};
use crate::pipe::Pipe;
use crate::reader::Transaction;

/// PostgreSQL's own words where it has one; `update_differs` is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A row with that key, or another unique value, is there already.
    InsertExists,
    /// Several rows are, by different unique values.
    MultipleUniqueConflicts,
    /// Another row has the unique value that an UPDATE sets: stops the slave.
    UpdateExists,
    /// The row to change is not there: the change is left out.
    UpdateMissing,
    /// The row has other old values than the master's had.
    UpdateDiffers,
    /// The row to delete is not there.
    DeleteMissing,
}

impl Conflict {
    /// That of a row with so many others in its way.
    pub fn of_insert(rows: u64) -> Conflict {
        if rows > 1 {
            Conflict::MultipleUniqueConflicts
        } else {
            Conflict::InsertExists
        }
    }

    /// The change that meets it.
    pub fn operation(self) -> &'static str {
        match self {
            Conflict::InsertExists | Conflict::MultipleUniqueConflicts => "INSERT",
            Conflict::UpdateExists | Conflict::UpdateMissing | Conflict::UpdateDiffers => "UPDATE",
            Conflict::DeleteMissing => "DELETE",
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Conflict::InsertExists => "insert_exists",
            Conflict::MultipleUniqueConflicts => "multiple_unique_conflicts",
            Conflict::UpdateExists => "update_exists",
            Conflict::UpdateMissing => "update_missing",
            Conflict::UpdateDiffers => "update_differs",
            Conflict::DeleteMissing => "delete_missing",
        })
    }
}

/// A conflict met.
#[derive(Debug)]
pub struct Event<'a> {
    pub conflict: Conflict,
    /// `schema.name`
    pub relation: &'a str,
    pub operation: &'a str,
    /// `(id)=(42)`
    pub key: &'a str,
    /// A sentence.
    pub detail: Option<&'a str>,
    pub applied: bool,
}

/// Where in the stream a change stands: exactly what an operator needs to find it on the master.
pub fn place(transaction: &Transaction, operation: &str, key: Option<&str>) -> String {
    let mut text = format!("log id {}, origin transaction {}", transaction.rank, transaction.xid);
    if let Some(origin) = &transaction.origin {
        text.push_str(&format!(", origin \"{origin}\""));
    }
    text.push_str(&format!(", {operation}"));
    if let Some(key) = key {
        text.push_str(&format!(", key {key}"));
    }
    text
}

impl Event<'_> {
    pub fn report(&self, transaction: &Transaction) -> String {
        let Event { conflict, relation, operation, key, detail, applied } = self;
        let done = if *applied { "The change was made all the same." } else { "The change was left out." };
        let more = detail.map(|d| format!(" {d}")).unwrap_or_default();
        format!(
            "conflict detected on table \"{relation}\": conflict={conflict}\nDETAIL:  {}.{more} {done}\n\
             HINT:  Compare the row with the master's; \"replica_agent verify\" finds all rows that differ.",
            place(transaction, operation, Some(key))
        )
    }

    /// As part of the slave transaction at hand, with which it comes and goes; or by itself, `once`: it stops the slave, and
    /// an earlier attempt may have recorded it.
    pub fn record(
        &self,
        client: &mut Pipe,
        agent: &str,
        slave: &str,
        transaction: &Transaction,
        once: bool,
    ) -> Result<()> {
        client
            .execute(
                include_str!("sql/record_conflict.sql"),
                &[
                    &agent,
                    &slave,
                    &self.conflict.to_string(),
                    &self.relation,
                    &self.operation,
                    &self.key,
                    &self.detail,
                    &self.applied,
                    &transaction.rank,
                    &transaction.xid.to_string(),
                    &transaction.ts,
                    &transaction.username.as_deref(),
                    &transaction.origin.as_deref(),
                    &once,
                ],
            )
            .map_err(|e| Error::from_pg("could not record a conflict in pyreplica_agent.conflict", e))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_the_place() {
        let transaction = Transaction {
            rank: 812,
            xid: 7431,
            ts: jiff::Timestamp::UNIX_EPOCH,
            origin: Some("shop".into()),
            username: None,
        };
        let event = Event {
            conflict: Conflict::UpdateMissing,
            relation: "public.orders",
            operation: "UPDATE",
            key: "(id)=(42)",
            detail: None,
            applied: false,
        };
        let text = event.report(&transaction);
        assert!(
            text.starts_with("conflict detected on table \"public.orders\": conflict=update_missing\n"),
            "{text}"
        );
        assert!(
            text.contains("log id 812, origin transaction 7431, origin \"shop\", UPDATE, key (id)=(42)."),
            "{text}"
        );
    }
}
