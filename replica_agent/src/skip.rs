//! Setting aside what a slave cannot apply: a queued statement, or a whole transaction.
//!
//! In: rows of `pyreplica_agent.skip` on the slave, written by the command `skip`. Out: what they name is not applied,
//! and that is on record: in `pyreplica_agent.conflict`, in the very slave transaction that moves the position past it.
//!
//! A session reads the rows when it is opened. That is enough: whoever stops a slave is met again by a new session. A row
//! stays when it is done, in case the stream is set back.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};
use crate::pipe::Pipe;
use crate::position::Xid;
use crate::reader::Transaction;

/// Number of what stands for a whole transaction; its statements are counted from 1.
pub const WHOLE: i32 = 0;

/// What is to be set aside on one slave.
#[derive(Debug, Default)]
pub struct Skips {
    /// By transaction: which of its queued statements.
    of: HashMap<Xid, Vec<i32>>,
    /// The transaction at hand, and the statements of it that were met.
    met: (Xid, i32),
}

impl Skips {
    pub fn load(client: &mut Pipe, agent: &str, slave: &str) -> Result<Skips> {
        let rows = client
            .query(
                "select xid::text, statement from pyreplica_agent.skip where agent = $1 and slave = $2",
                &[&agent, &slave],
            )
            .map_err(|e| {
                Error::from_pg(format!("could not read what slave \"{slave}\" is to set aside"), e)
            })?;
        let mut skips = Skips::default();
        for row in rows {
            if let Ok(xid) = row.get::<_, &str>(0).parse() {
                skips.of.entry(xid).or_default().push(row.get(1));
            }
        }
        Ok(skips)
    }

    /// A slave transaction begins; the transactions of the master come whole.
    pub fn begin(&mut self) {
        self.met = (0, 0);
    }

    /// A statement was met: its number in its transaction.
    pub fn meet(&mut self, xid: Xid) -> i32 {
        if self.met.0 != xid {
            self.met = (xid, 0);
        }
        self.met.1 += 1;
        self.met.1
    }

    pub fn holds(&self, xid: Xid, statement: i32) -> bool {
        !self.of.is_empty() && self.of.get(&xid).is_some_and(|numbers| numbers.contains(&statement))
    }

    /// Is any of these transactions to be set aside as a whole?
    pub fn hold_any_of<'t>(&self, transactions: impl IntoIterator<Item = &'t Transaction>) -> bool {
        !self.of.is_empty() && transactions.into_iter().any(|transaction| self.holds(transaction.xid, WHOLE))
    }
}

/// Puts on record, in the slave transaction at hand, that something is set aside; false when that is on record already.
pub fn record(
    client: &mut Pipe,
    agent: &str,
    slave: &str,
    transaction: &Transaction,
    statement: i32,
    sql: Option<&str>,
) -> Result<bool> {
    let written = client
        .execute(
            include_str!("sql/record_skip.sql"),
            &[
                &agent,
                &slave,
                &transaction.xid.to_string(),
                &statement,
                &sql,
                &transaction.rank,
                &transaction.ts,
                &transaction.username.as_deref(),
                &transaction.origin.as_deref(),
            ],
        )
        .map_err(|e| Error::from_pg(format!("could not record what slave \"{slave}\" sets aside"), e))?;
    Ok(written == 1)
}

/// A transaction that a slave has still to apply, in short.
#[derive(Debug, Default)]
pub struct Pending {
    pub statements: Vec<String>,
    /// Changes by table and operation.
    pub changes: BTreeMap<(String, &'static str), u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_within_their_transaction() {
        let mut skips = Skips { of: HashMap::from([(7, vec![2]), (9, vec![WHOLE])]), met: (0, 0) };
        let numbers: Vec<(Xid, i32)> = [7, 7, 8, 7].map(|xid| (xid, skips.meet(xid))).into();
        assert_eq!(numbers, [(7, 1), (7, 2), (8, 1), (7, 1)]);
        skips.begin();
        assert_eq!(skips.meet(7), 1, "the batch is applied again");
        assert!(skips.holds(7, 2) && !skips.holds(7, 1) && !skips.holds(8, 2) && skips.holds(9, WHOLE));
    }
}
