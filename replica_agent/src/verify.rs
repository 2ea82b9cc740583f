//! Compares the captured tables of master and slaves row by row, also while replication runs.
//!
//! In: the configuration, slaves and tables to look at. Out: a line per table and slave, and whether all was equal.
//! Both sides are read as text under the same settings, in the order of their keys, and merged: memory does not
//! depend on the size of a table.
//!
//! # While replication runs
//!
//! A slave is always a little behind, so a row that differs may only be late. Keys that differ are noted and
//! looked at again one by one: the master's row, then, once the slave has applied everything that the master
//! had committed by then, the slave's, then the master's again. If the master's row stayed the same in between, what
//! differs now is a difference; if it changed, the next round tells.

mod recheck;
mod rows;
mod sequences;
mod shown;

use std::time::Duration;

use postgres::Client;

use crate::check::Server;
use crate::check_mapping;
use crate::config::{Config, Slave};
use crate::copy::{captured_tables, CapturedTable};
use crate::error::{Error, Kind, Result};
use crate::mapping::{Operations, Pattern};
use crate::part::{keep_sent, Rows};
use crate::session::{cancel_on_stop, connect_master, connect_slave};
use crate::shape::{shapes, Shape};
use crate::wake::{Cancels, Stop};
use rows::{Query, Tolerance};
use shown::Shown;

/// How many differing keys are remembered for a second look; beyond that a table is read again as a whole.
const KEYS_MAX: usize = 10_000;
/// How often a table that differs in more rows is read.
const PASSES_MAX: usize = 3;
/// How many of the differing rows are shown.
const SHOWN_MAX: usize = 10;

/// Prints through `out`; true if nothing differed.
pub fn verify(
    config: &Config,
    slaves: &[&Slave],
    wanted: &[String],
    stop: &Stop,
    out: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<bool> {
    let mut master = connect_master(&config.master.dsn, "verify")?;
    prepare(&mut master, "the master")?;
    let captured = captured_tables(&mut master)?;
    let mut equal = true;
    for slave in slaves {
        let tables = choose(slave.mapping.wanted(captured.clone()), wanted)?;
        match verify_slave(config, slave, &mut master, &tables, !wanted.is_empty(), stop, out) {
            Ok(same) => equal &= same,
            Err(_) if stop.is_set() => return Err(stopped()),
            // The others can be compared all the same.
            Err(e) => {
                out(&e.report())?;
                equal = false;
            }
        }
    }
    Ok(equal)
}

fn stopped() -> Error {
    Error::new(Kind::Stopped, "the comparison was stopped")
}

fn verify_slave(
    config: &Config,
    slave: &Slave,
    master: &mut Client,
    tables: &[CapturedTable],
    some: bool,
    stop: &Stop,
    out: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<bool> {
    let mut client = connect_slave(slave)?;
    prepare(&mut client, &format!("slave \"{}\"", slave.name))?;
    let cancels = Cancels::default();
    let _cancelable = (cancels.add(&config.master.dsn, master)?, cancels.add(&slave.dsn, &client)?);
    let shower = match check_mapping::transformed(&slave.mapping, tables).is_empty() {
        true => None,
        false => Some(connect_slave(slave)?),
    };
    let _also = shower.as_ref().map(|shower| cancels.add(&slave.dsn, shower)).transpose()?;
    let agent = config.agent_name();
    let mut pair = Pair { master, slave: &mut client, shower, agent, which: slave, stop, stalled: None };
    // What the agent finds by its timer, and then some.
    let patience = config.agent.timer + Duration::from_secs(3);
    cancel_on_stop(stop, &cancels, || {
        let mut equal = compare_all(&mut pair, tables, out)?;
        if slave.sequences {
            equal &= sequences::compare(&mut pair, some.then_some(tables), patience, out)?;
        }
        Ok(equal)
    })
}

fn compare_all(
    pair: &mut Pair,
    tables: &[CapturedTable],
    out: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<bool> {
    let mut equal = true;
    let at = format!("slave \"{}\"", pair.which.name);
    let mut on_master = shapes(pair.master, "the master", tables, &[])?;
    keep_sent(&mut on_master, tables);
    let mapping = &pair.which.mapping;
    let there: Vec<CapturedTable> = tables.iter().map(|table| mapping.on_slave(table)).collect();
    let on_slave = shapes(pair.slave, &at, &there, &[])?;
    let encodings =
        (Server::read(pair.master, "the master")?.encoding, Server::read(pair.slave, &at)?.encoding);
    for (table, there) in tables.iter().zip(&there) {
        let find = |shapes: &'_ [Shape], table: &CapturedTable| {
            shapes.iter().find(|shape| shape.schema == table.schema && shape.name == table.name).cloned()
        };
        let name = table.full_name();
        if let Rows::ByChange(_) = table.part.rows {
            out(&format!("{at}, table {name}: not compared, its row filter is a condition on changes"))?;
            continue;
        }
        let found = match (find(&on_master, table), find(&on_slave, there)) {
            (Some(here), Some(there)) => match compare(pair, table, &here, &there, &encodings) {
                Ok(found) => found,
                // The other tables can be compared all the same.
                Err(e) if e.kind() == Kind::Apply && !pair.stop.is_set() => {
                    out(&e.report())?;
                    equal = false;
                    continue;
                }
                Err(e) => return Err(e),
            },
            (_, None) => {
                let name = there.full_name();
                Outcome::structure(vec![format!("table {name} does not exist on the slave")])
            }
            (None, _) => {
                Outcome::structure(vec![format!("table {name} was dropped on the master meanwhile")])
            }
        };
        equal &= found.is_equal();
        for line in found.lines(&format!("{at}, table {name}")) {
            out(&line)?;
        }
    }
    Ok(equal)
}

/// Two sessions and whose they are.
struct Pair<'a> {
    master: &'a mut Client,
    slave: &'a mut Client,
    /// A second session there, which computes the rows of tables that the slave keeps in another form.
    shower: Option<Client>,
    agent: &'a str,
    which: &'a Slave,
    stop: &'a Stop,
    /// The position at which the slave was found to stand still.
    stalled: Option<(i64, String)>,
}

#[derive(Default)]
struct Outcome {
    rows: u64,
    differing: u64,
    shown: Vec<String>,
    structure: Vec<String>,
    /// Rows that changed on the master at every look.
    undecided: u64,
}

impl Outcome {
    fn structure(faults: Vec<String>) -> Self {
        Outcome { structure: faults, ..Outcome::default() }
    }

    fn is_equal(&self) -> bool {
        self.differing == 0 && self.structure.is_empty() && self.undecided == 0
    }

    fn lines(&self, place: &str) -> Vec<String> {
        let mut lines: Vec<String> = self.structure.iter().map(|fault| format!("{place}: {fault}")).collect();
        if self.differing > 0 {
            lines.push(format!("{place}: {} rows, {} differ", self.rows, self.differing));
            lines.extend(self.shown.iter().map(|row| format!("    {row}")));
            if self.differing > self.shown.len() as u64 {
                lines.push(format!("    and {} more", self.differing - self.shown.len() as u64));
            }
        }
        if self.undecided > 0 {
            lines.push(format!(
                "{place}: {} rows, {} of them changed at every look and could not be compared",
                self.rows, self.undecided
            ));
        }
        if self.is_equal() {
            lines.push(format!("{place}: {} rows, equal", self.rows));
        }
        lines
    }
}

pub(crate) fn choose(tables: Vec<CapturedTable>, wanted: &[String]) -> Result<Vec<CapturedTable>> {
    // As people write it, or with quotes, as PostgreSQL and agent.toml do.
    let is = |table: &CapturedTable, wanted: &String| {
        let name = Pattern::parse(wanted).ok().and_then(|pattern| pattern.name());
        table.full_name() == *wanted
            || name.is_some_and(|name| name == (table.schema.clone(), table.name.clone()))
    };
    if let Some(unknown) = wanted.iter().find(|wanted| !tables.iter().any(|table| is(table, wanted))) {
        return Err(Error::new(Kind::Usage, format!("table \"{unknown}\" is not captured on the master"))
            .hint("Name it as schema.name; pyreplica.replicated_table lists the captured ones."));
    }
    let chosen = |table: &CapturedTable| wanted.is_empty() || wanted.iter().any(|wanted| is(table, wanted));
    Ok(tables.into_iter().filter(chosen).collect())
}

/// Whole tables are read and sorted here, unlike anywhere else in the agent.
fn prepare(client: &mut Client, what: &str) -> Result<()> {
    client
        .batch_execute("set enable_seqscan = on; set default_transaction_read_only = on")
        .map_err(|e| Error::from_pg(format!("could not set up the session on {what}"), e))
}

fn compare(
    pair: &mut Pair,
    table: &CapturedTable,
    here: &Shape,
    there: &Shape,
    encodings: &(String, String),
) -> Result<Outcome> {
    let rule = pair.which.mapping.rule(&table.schema, &table.name);
    if rule.is_some_and(|rule| rule.is_transform()) {
        return compare_shown(pair, table, here, there, encodings);
    }
    let mut outcome = Outcome::default();
    // By their names on the master, and on the slave.
    let (mut columns, mut names) = (Vec::new(), Vec::new());
    for column in &here.columns {
        let Some(name) = rule.map_or(Some(column.name.as_str()), |rule| rule.column(&column.name)) else {
            continue;
        };
        match there.column(name) {
            // Not sent, and the slave need not have it.
            None if column.generated => {}
            Some(other) if column.generated && !other.generated => {}
            Some(_) => {
                columns.push(column.name.clone());
                names.push(name.to_owned());
            }
            None => outcome.structure.push(format!("column \"{name}\" does not exist on the slave")),
        }
    }
    if table.key_columns.is_empty() {
        outcome.structure.push("the master's table has no primary key".into());
    }
    for key in table.key_columns.iter().filter(|key| !columns.contains(key)) {
        outcome.structure.push(format!("key column \"{key}\" cannot be compared"));
    }
    if !outcome.structure.is_empty() {
        return Ok(outcome);
    }
    let on_master = Query::new(here, &table.key_columns, &columns, &encodings.0).of(&table.part);
    let key = pair.which.mapping.on_slave(table).key_columns;
    let on_slave = Query::new(there, &key, &names, &encodings.1);

    compare_rows(pair, &on_master, &on_slave, Tolerance::of(table.part.operations))
}

/// The same of a table that the slave keeps in another form.
fn compare_shown(
    pair: &mut Pair,
    table: &CapturedTable,
    here: &Shape,
    there: &Shape,
    encodings: &(String, String),
) -> Result<Outcome> {
    let mapping = &pair.which.mapping;
    let gone = || Outcome::structure(vec!["the table is no longer there".to_owned()]);
    let Some(shower) = &mut pair.shower else { return Ok(gone()) };
    let Some(on_master) = Shown::of(pair.master, shower, mapping, (table, here), &encodings.0)? else {
        return Ok(gone());
    };
    let key = mapping.on_slave(table).key_columns;
    let on_slave = Query::new(there, &key, &on_master.columns, &encodings.1);
    if on_master.key.len() < key.len() || key.is_empty() {
        return Ok(Outcome::structure(vec!["its key cannot be compared".to_owned()]));
    }
    let rule = mapping.rule(&table.schema, &table.name);
    let taken = rule.map_or(Operations::ALL, |rule| rule.operations);
    let on_master = on_master.of(&table.part);
    let tolerance = Tolerance::of(taken.and(table.part.operations));
    compare_rows(pair, &on_master, &on_slave, tolerance)
}

fn compare_rows(
    pair: &mut Pair,
    on_master: &Query,
    on_slave: &Query,
    tolerance: Tolerance,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for pass in 1..=PASSES_MAX {
        let found = rows::merge(pair, on_master, on_slave, tolerance)?;
        outcome.rows = found.rows;
        if found.more == 0 || pass == PASSES_MAX {
            let settled = recheck::settle(pair, on_master, on_slave, found.keys, tolerance)?;
            outcome.differing = settled.different.len() as u64 + found.more;
            outcome.undecided = settled.undecided;
            outcome.shown = settled.different.into_iter().take(SHOWN_MAX).collect();
            break;
        }
        recheck::wait_until_passed(pair)?;
    }
    Ok(outcome)
}
