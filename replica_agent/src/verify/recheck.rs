//! Looks again at rows that differed, until it is known whether they were only late.
//!
//! In: keys. Out: those that really differ, described, and how many could not be decided.

use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

use super::rows::{Key, Query, Tolerance};
use super::Pair;
use crate::error::{Error, Kind, Result};

/// A row that changed between every two looks so many times is left undecided.
const ROUNDS_MAX: usize = 10;
/// How long a slave may stand still before its differences count as they are.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Default)]
pub(super) struct Settled {
    pub different: Vec<String>,
    pub undecided: u64,
}

pub(super) fn settle(
    pair: &mut Pair,
    on_master: &Query,
    on_slave: &Query,
    keys: Vec<Key>,
    tolerance: Tolerance,
) -> Result<Settled> {
    let mut settled = Settled::default();
    if keys.is_empty() {
        return Ok(settled);
    }
    let master_place = format!("could not read table {} on the master", on_master.table);
    let slave_place = format!("could not read table {} on slave \"{}\"", on_slave.table, pair.which.name);
    let prepare = |client: &mut Client, query: &Query, place: &str| {
        client.prepare(&query.one()).map_err(|e| Error::from_pg(place, e))
    };
    let from_master = prepare(pair.master, on_master, &master_place)?;
    let from_slave = prepare(pair.slave, on_slave, &slave_place)?;
    let mut open = keys;
    for round in 1..=ROUNDS_MAX {
        let master = |pair: &mut Pair, key: &Key| -> Result<Option<Row>> {
            let row = find(pair.master, &from_master, key, &master_place)?.pop();
            match (&on_master.shown, &mut pair.shower, row) {
                (Some(shown), Some(shower), Some(row)) => Ok(shown.show(shower, &[row])?.pop()),
                (_, _, row) => Ok(row),
            }
        };
        let before = open.iter().map(|key| master(pair, key)).collect::<Result<Vec<_>>>()?;
        let moving = wait_until_passed(pair)?;
        let mut next = Vec::new();
        for (key, before) in open.into_iter().zip(before) {
            let there = find(pair.slave, &from_slave, &key, &slave_place)?;
            let difference = match there.len() {
                0 | 1 => describe(on_master, before.as_ref(), there.first(), tolerance)?,
                // It has no primary key there.
                rows => Some(format!("finds {rows} rows on the slave")),
            };
            let Some(difference) = difference else { continue };
            let after = master(pair, &key)?;
            let stable = describe(on_master, before.as_ref(), after.as_ref(), Tolerance::NONE)?.is_none();
            // A slave that stands still will not tell more by waiting.
            if stable || !moving {
                settled.different.push(format!("key {}: {difference}", on_master.show(&key)));
            } else {
                next.push(key);
            }
        }
        if next.is_empty() {
            return Ok(settled);
        }
        log::debug!("table {}: {} rows changed during look {round}", on_master.table, next.len());
        open = next;
    }
    settled.undecided = open.len() as u64;
    Ok(settled)
}

fn find(client: &mut Client, statement: &Statement, key: &Key, place: &str) -> Result<Vec<Row>> {
    let values: Vec<&(dyn ToSql + Sync)> = key.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    client.query(statement, &values).map_err(|e| Error::from_pg(place, e))
}

/// How the slave's row differs from the master's, if it does.
fn describe(
    query: &Query,
    here: Option<&Row>,
    there: Option<&Row>,
    tolerance: Tolerance,
) -> Result<Option<String>> {
    Ok(match (here, there) {
        (None, None) => None,
        (Some(_), None) if tolerance.missing => None,
        (None, Some(_)) if tolerance.kept => None,
        (Some(_), Some(_)) if tolerance.values => None,
        (Some(_), None) => Some("missing on the slave".into()),
        (None, Some(_)) => Some("only on the slave".into()),
        (Some(a), Some(b)) => {
            let columns = query.differing(a, b)?;
            (!columns.is_empty()).then(|| format!("differs in {}", columns.join(", ")))
        }
    })
}

/// Waits until the slave has applied all that the master has committed by now; false if it stands still.
pub(super) fn wait_until_passed(pair: &mut Pair) -> Result<bool> {
    let on_master = |e| Error::from_pg("could not read the log on the master", e);
    let row = pair
        .master
        .query_one(
            "select coalesce(max(id), 0), pg_current_snapshot()::text from pyreplica.log where final",
            &[],
        )
        .map_err(on_master)?;
    let (rank, snapshot): (i64, String) = (row.get(0), row.get(1));
    let mut last = None;
    let mut moved = Instant::now();
    loop {
        let position = position(pair)?;
        let behind: i64 = pair
            .master
            .query_one(
                include_str!("../sql/missing_transactions.sql"),
                &[&rank, &snapshot, &position.0, &position.1],
            )
            .map_err(on_master)?
            .get(0);
        if behind == 0 {
            return Ok(true);
        }
        if last.as_ref() != Some(&position) {
            moved = Instant::now();
            last = Some(position.clone());
        }
        // Once is enough to wait for an agent that does not run.
        if pair.stalled.as_ref() == Some(&position) {
            return Ok(false);
        }
        if moved.elapsed() > PATIENCE {
            pair.stalled = Some(position);
            log::warn!(
                "slave \"{}\" is {behind} transactions behind and does not move; is the agent running?",
                pair.which.name
            );
            return Ok(false);
        }
        if pair.stop.wait(LOOK_EVERY) {
            return Err(Error::new(Kind::Stopped, "the comparison was stopped"));
        }
    }
}

fn position(pair: &mut Pair) -> Result<(i64, String)> {
    let at = format!("slave \"{}\"", pair.which.name);
    let nowhere = || {
        Error::new(Kind::Refused, format!("{at} has no position yet"))
            .hint("It has not been copied; run the agent, or \"replica_agent copy\".")
    };
    let known: bool = pair
        .slave
        .query_one("select to_regnamespace('pyreplica_agent') is not null", &[])
        .map_err(|e| Error::from_pg(format!("could not read the position of {at}"), e))?
        .get(0);
    if !known {
        return Err(nowhere());
    }
    pair.slave
        .query_opt(
            "select rank, snapshot::text from pyreplica_agent.position where agent = $1 and slave = $2",
            &[&pair.agent, &pair.which.name],
        )
        .map_err(|e| Error::from_pg(format!("could not read the position of {at}"), e))?
        .map(|row| (row.get(0), row.get(1)))
        .ok_or_else(nowhere)
}
