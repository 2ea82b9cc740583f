//! The `skip` command: shows what a slave has to apply next, and has it set aside when that is named.
//!
//! In: a slave, and what to set aside. Out: a row of `pyreplica_agent.skip` there, which the agent finds when it tries
//! again. Only what comes next can be named: that is what stops the slave, if anything does.

use std::collections::BTreeMap;
use std::sync::Arc;

use postgres::Client;

use crate::commit::create_schema;
use crate::config::{Config, Slave};
use crate::decode::Decoder;
use crate::error::{Error, Kind, Result};
use crate::large::Log;
use crate::pipe::Pipe;
use crate::position::{Position, Rank, Xid};
use crate::reader::{Limits, Reader, Transaction};
use crate::session;
use crate::skip::{Pending, WHOLE};
use crate::wake::Cancels;

/// What the user has named.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub transaction: Option<Xid>,
    pub statement: Option<i32>,
    pub whole: bool,
}

/// Channel on which a waiting agent is told to try again at once.
pub const RETRY_CHANNEL: &str = "replicas_retry";

/// True when something was named, and will be set aside.
pub fn skip(
    config: &Config,
    slave: &Slave,
    wanted: Wanted,
    out: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<bool> {
    let (agent, name) = (config.agent_name(), &slave.name);
    let mut client = session::connect_slave(slave)?;
    create_schema(&mut client, name)?;
    let position = position(&mut client, agent, name)?;
    let next = next(config, name, position)?;
    if next.is_empty() {
        return Err(Error::new(Kind::Refused, format!("slave \"{name}\" has applied all there is"))
            .hint("There is nothing to set aside."));
    }
    let Some(xid) = wanted.transaction else {
        for (transaction, pending) in &next {
            out(&describe(transaction, pending))?;
        }
        if let Some(error) = last_error(config, name)? {
            out(&format!("The slave stands before it with: {error}"))?;
        }
        let (first, pending) = &next[0];
        let command = format!("replica_agent skip --slave {name} --transaction {}", first.xid);
        match pending.statements.len() {
            0 => {}
            1 => out(&format!("To set its statement aside: {command}"))?,
            _ => out(&format!("To set a queued statement aside: {command} --statement N"))?,
        }
        out(&format!(
            "To set aside all of it, which leaves the slave without its changes: {command} --whole-transaction"
        ))?;
        return Ok(false);
    };
    let Some((transaction, pending)) = next.iter().find(|(transaction, _)| transaction.xid == xid) else {
        let others: Vec<String> = next.iter().map(|(t, _)| t.xid.to_string()).collect();
        return Err(Error::new(
            Kind::Usage,
            format!("transaction {xid} is not what slave \"{name}\" has to apply next"),
        )
        .detail(format!("Next is {}.", others.join(", "))));
    };
    let statement = choose(pending, wanted).map_err(|e| e.detail(describe(transaction, pending)))?;
    let sql = usize::try_from(statement - 1).ok().and_then(|n| pending.statements.get(n));
    client
        .execute(
            "insert into pyreplica_agent.skip (agent, slave, xid, statement, sql)
             values ($1, $2, $3::text::xid8, $4, $5) on conflict do nothing",
            &[&agent, &name, &xid.to_string(), &statement, &sql],
        )
        .map_err(|e| {
            Error::from_pg(format!("could not write to pyreplica_agent.skip of slave \"{name}\""), e)
        })?;
    let mut master: Client = session::connect_master(&config.master.dsn, "skip")?;
    master
        .batch_execute(&format!("notify {RETRY_CHANNEL}"))
        .map_err(|e| Error::from_pg("could not tell a running agent to try again", e))?;
    out(&match sql {
        Some(sql) => format!("slave \"{name}\" sets aside statement {statement} of transaction {xid}: {sql}"),
        None => format!("slave \"{name}\" sets aside all of it: {}", describe(transaction, pending)),
    })?;
    Ok(true)
}

/// Number of the statement to set aside, or `WHOLE`.
fn choose(pending: &Pending, wanted: Wanted) -> Result<i32> {
    let refused = |message: &str| Error::new(Kind::Usage, message);
    let count = i32::try_from(pending.statements.len()).unwrap_or(i32::MAX);
    match (wanted.whole, wanted.statement, count) {
        (true, ..) => Ok(WHOLE),
        (_, _, 0) => Err(refused("the transaction has no queued statement").hint(
            "With --whole-transaction all its changes are set aside; the slave then differs from the master.",
        )),
        (_, Some(n), _) if (1..=count).contains(&n) => Ok(n),
        (_, Some(_), _) => Err(refused("the transaction has no statement of that number")),
        (_, None, 1) => Ok(1),
        (_, None, _) => Err(refused("the transaction has several queued statements")
            .hint("Name one with --statement N, or all of the transaction with --whole-transaction.")),
    }
}

fn position(client: &mut Pipe, agent: &str, slave: &str) -> Result<Position> {
    let row = client
        .query_opt(include_str!("sql/position.sql"), &[&agent, &slave])
        .map_err(|e| Error::from_pg(format!("could not read the position of slave \"{slave}\""), e))?;
    let Some(row) = row else {
        return Err(Error::new(Kind::Refused, format!("slave \"{slave}\" has no position yet"))
            .hint("It has not been copied; run the agent, or \"replica_agent copy\"."));
    };
    Ok(Position {
        rank: row.get("rank"),
        snapshot: row.get::<_, &str>("snapshot").parse()?,
        settled: row.get("settled"),
        last_xid: None,
        last_ts: None,
    })
}

type Next = Vec<(Arc<Transaction>, Pending)>;

/// What comes after the position, as an agent reads it that goes transaction by transaction: the late ones, or one.
fn next(config: &Config, slave: &str, mut position: Position) -> Result<Next> {
    let client = session::connect_master(&config.master.dsn, "skip")?;
    let log = Log::new(&config.master.dsn, &Cancels::default());
    let mut reader = Reader::new(client, log, config.agent_name(), &[slave], Limits { rows: 1, bytes: 1 })?;
    let mut found: BTreeMap<Rank, (Arc<Transaction>, Pending)> = BTreeMap::new();
    reader.read(&mut position, None, None, &mut |part, _| {
        let mut add = |transaction: &Arc<Transaction>, payload: &[u8]| {
            let first = || (Arc::clone(transaction), Pending::default());
            found.entry(transaction.rank).or_insert_with(first).1.add(payload)
        };
        for chunk in part.chunks {
            add(&chunk.transaction, &chunk.payload)?;
        }
        match part.large {
            Some(large) => large.read(|pieces| add(&large.transaction, &pieces.rest()?)),
            None => Ok(()),
        }
    })?;
    Ok(found.into_values().collect())
}

impl Pending {
    fn add(&mut self, payload: &[u8]) -> Result<()> {
        let mut decoder = Decoder::new(payload)?;
        while let Some(change) = decoder.next()? {
            if let crate::decode::Change::Statement { sql, .. } = change {
                self.statements.push(sql.to_owned());
            }
            for &relation in change.relations() {
                let relation = decoder.relation(relation);
                let table = format!("{}.{}", relation.schema, relation.name);
                *self.changes.entry((table, change.name())).or_default() += 1;
            }
        }
        Ok(())
    }
}

fn describe(transaction: &Transaction, pending: &Pending) -> String {
    let Transaction { rank, xid, ts, username, .. } = transaction;
    let by = username.as_deref().unwrap_or("a role that was dropped");
    let mut text = format!("Transaction {xid} (log id {rank}, of {ts}, by {by}):");
    for (n, sql) in pending.statements.iter().enumerate() {
        text.push_str(&format!("\n  statement {}: {sql}", n + 1));
    }
    for ((table, operation), count) in &pending.changes {
        text.push_str(&format!("\n  {count} {operation} of {table}"));
    }
    text
}

fn last_error(config: &Config, slave: &str) -> Result<Option<String>> {
    let mut master: Client = session::connect_master(&config.master.dsn, "skip")?;
    let row = master
        .query_opt(
            "select last_error from pyreplica.slave where agent = $1 and name = $2",
            &[&config.agent_name(), &slave],
        )
        .map_err(|e| Error::from_pg("could not read pyreplica.slave", e))?;
    Ok(row.and_then(|row| row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(statements: usize, statement: Option<i32>, whole: bool, expected: Option<i32>) {
        let pending = Pending { statements: vec![String::new(); statements], ..Pending::default() };
        let wanted = Wanted { transaction: Some(1), statement, whole };
        assert_eq!(choose(&pending, wanted).ok(), expected, "{statements} {wanted:?}");
    }

    #[test]
    fn only_what_is_named_is_set_aside() {
        check(1, None, false, Some(1));
        check(2, None, false, None);
        check(2, Some(2), false, Some(2));
        check(2, Some(3), false, None);
        check(1, Some(0), false, None);
        check(0, None, false, None);
        check(0, None, true, Some(WHOLE));
        check(3, None, true, Some(WHOLE));
    }
}
