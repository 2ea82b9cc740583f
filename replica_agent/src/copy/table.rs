//! One table of a copy: what both sides have of it, its rows or a range of them, and its `copied_table` row, within
//! transactions of the caller.

use std::sync::Arc;

use postgres::{Client, GenericClient, Transaction};

use super::crew::Planned;
use super::mapped::transfer_mapped;
use super::progress::TableProgress;
use super::transfer::{transfer, Columns, Ends};
use super::{CapturedTable, CopiedTable};
use crate::error::{Error, Kind, Result};
use crate::mapping::Mapping;
use crate::sequences::{self, Follower};
use crate::wake::Stop;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Rows that are there already are somebody's: refused.
    First,
    /// Rows that are there are replaced. Until then they are what others read.
    Again,
    /// Rows that are there, of a copy that was cut off or of another life of the table, are nobody's: replaced.
    Anew,
    /// The same, while a stream goes on that leaves the table alone: its owner records the copy.
    Aside,
}

/// Whose slave it is that gets the tables.
pub(super) struct Target<'a> {
    pub agent: &'a str,
    pub slave: &'a str,
    /// The agent's role there.
    pub user: &'a str,
    pub mapping: &'a Arc<Mapping>,
    /// Whether the slave's sequences follow the master's.
    pub sequences: bool,
}

/// A table that is ready to be copied.
pub(super) struct Job<'a> {
    pub table: &'a CapturedTable,
    pub manner: Manner,
    /// As the slave calls it.
    pub there: CapturedTable,
    /// `only ` where statements on the slave need it.
    pub only: &'static str,
    table_oid: u32,
    /// `None` if the slave computes what it keeps.
    columns: Option<Columns>,
}

impl<'a> Job<'a> {
    /// `from` has the table locked.
    pub fn new(
        from: &mut impl GenericClient,
        slave: &mut Client,
        target: &Target,
        planned: &'a Planned,
    ) -> Result<Job<'a>> {
        let Planned { table, manner, .. } = planned;
        let there = target.mapping.on_slave(table);
        let (only, table_oid) = only_if_plain(slave, &there, target.slave)?;
        let rule = target.mapping.rule(&table.schema, &table.name).map(|rule| &**rule);
        let columns = match Job::is_mapped(planned, target) {
            true => None,
            false => {
                let name = table.full_name();
                let ends = Ends { table: &name, slave: target.slave };
                Some(Columns::choose(from, slave, (table, &there), rule).map_err(|e| ends.on_master(e))?)
            }
        };
        Ok(Job { table, manner: *manner, there, only, table_oid, columns })
    }

    /// Does the slave compute what it keeps, some rows at a time?
    pub fn is_mapped(planned: &Planned, target: &Target) -> bool {
        let Planned { table, .. } = planned;
        target.mapping.rule(&table.schema, &table.name).is_some_and(|rule| rule.is_transform())
    }

    /// Copies the rows that the snapshot of `from` sees, and of these only what a condition selects; gives how many.
    pub fn rows(
        &self,
        from: &mut impl GenericClient,
        to: &mut Transaction,
        target: &Target,
        condition: Option<&str>,
        stop: &Stop,
        progress: &TableProgress,
    ) -> Result<u64> {
        let (table, there) = (self.table, &self.there);
        let name = table.full_name();
        let ends = Ends { table: &name, slave: target.slave };
        let on_master = |e| ends.on_master(e);
        let on_slave = |e| ends.on_slave(e);

        let only = if table.partitioned { "" } else { "only " };
        let rows_of = table.part.source(&format!("{only}{}", table.quoted()), condition);
        let sent = match &self.columns {
            None => {
                let source = (table, rows_of.as_str());
                transfer_mapped(from, to, source, target.mapping, &ends, stop, progress)?
            }
            Some(Columns { list, names, source, format }) => {
                let whole =
                    !table.partitioned && source == names && table.part.condition().or(condition).is_none();
                let source = match whole {
                    true => format!("{} ({names})", table.quoted()),
                    false => format!("(select {source} from {rows_of})"),
                };
                let option = format.option();
                let reader = from.copy_out(&format!("copy {source} to stdout{option}")).map_err(on_master)?;
                let into = format!("copy {} ({list}) from stdin{option}", there.quoted());
                let writer = to.copy_in(&into).map_err(on_slave)?;
                transfer(reader, writer, *format, &ends, stop, progress)?
            }
        };
        let filtered =
            target.mapping.rule(&table.schema, &table.name).is_some_and(|rule| rule.row_filter.is_some());
        if sent.stored != sent.rows && !filtered {
            return Err(Error::new(
                Kind::Apply,
                format!(
                    "table \"{name}\" on slave \"{}\" stored {} of {} rows",
                    target.slave, sent.stored, sent.rows
                ),
            )
            .hint(
                "A trigger there drops rows: disable it, or take ENABLE ALWAYS or ENABLE REPLICA from it.",
            ));
        }
        Ok(sent.stored)
    }

    /// All rows are there: says so on the slave, with the snapshot that sees them, and nobody has to ask for them any more.
    pub fn record(
        &self,
        from: &mut impl GenericClient,
        to: &mut Transaction,
        target: &Target,
        snapshot: &str,
        rows: u64,
    ) -> Result<CopiedTable> {
        let table = self.table;
        let name = table.full_name();
        let ends = Ends { table: &name, slave: target.slave };
        if self.manner != Manner::Aside {
            to.execute(
                include_str!("../sql/copied_table.sql"),
                &[
                    &target.agent,
                    &target.slave,
                    &table.schema,
                    &table.name,
                    &table.trigger_oid,
                    &snapshot,
                    &i64::try_from(rows).unwrap_or(i64::MAX),
                    &self.table_oid,
                ],
            )
            .map_err(|e| ends.on_slave(e))?;
            to.execute(
                include_str!("../sql/forget_copy_request.sql"),
                &[&target.agent, &target.slave, &table.schema, &table.name],
            )
            .map_err(|e| ends.on_slave(e))?;
        }
        if target.sequences {
            // Read after the rows.
            let sequences = sequences::on_master(from, Some(&table.quoted()))?;
            let mut follower = Follower::silent(target.slave, target.mapping);
            follower.hear(&sequences.into_iter().map(|(moved, _)| moved).collect::<Vec<_>>());
            follower.catch_up_now(to)?;
        }
        let (table, snapshot) = (table.clone(), snapshot.to_owned());
        Ok(CopiedTable { table, snapshot, rows, table_oid: self.table_oid })
    }
}

pub(super) fn stopped(name: &str) -> Error {
    Error::new(Kind::Stopped, format!("copy of table \"{name}\" was stopped"))
}

/// `only ` for an ordinary table, whose inheritance children are tables of their own; an error if it is none. And
/// its oid.
fn only_if_plain(slave: &mut Client, table: &CapturedTable, slave_name: &str) -> Result<(&'static str, u32)> {
    let found: Option<(i8, u32)> = slave
        .query_opt(
            "select c.relkind, c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where n.nspname = $1 and c.relname = $2",
            &[&table.schema, &table.name],
        )
        .map_err(|e| {
            Error::from_pg(
                format!("could not look for table \"{}\" on slave \"{slave_name}\"", table.full_name()),
                e,
            )
        })?
        .map(|row| (row.get(0), row.get(1)));
    match found.map(|(kind, oid)| (kind as u8, oid)) {
        Some((b'r', oid)) => Ok(("only ", oid)),
        Some((b'p', oid)) => Ok(("", oid)),
        Some(_) => Err(Error::new(
            Kind::Refused,
            format!("\"{}\" on slave \"{slave_name}\" is not a table", table.full_name()),
        )
        .with_sqlstate("42809")),
        None => Err(Error::new(
            Kind::Refused,
            format!("table \"{}\" does not exist on slave \"{slave_name}\"", table.full_name()),
        )
        .with_sqlstate("42P01")
        .hint("Create it as on the master; pg_dump --schema-only writes the statements.")),
    }
}
