//! Transactions as their final chunks tell of them, and how many are a batch.

use std::sync::Arc;

use postgres::Row;

use super::{Limits, Transaction};
use crate::error::{Error, Kind, Result};
use crate::position::Rank;

/// A transaction as its final chunk tells.
pub(super) struct Head {
    pub transaction: Arc<Transaction>,
    pub changes: usize,
    pub chunks: i32,
    pub durable: bool,
    /// Where there is only this one chunk.
    pub payload: Option<Vec<u8>>,
}

impl Head {
    pub fn bytes(&self) -> usize {
        self.payload.as_ref().map_or(self.chunks as usize * 7900, Vec::len)
    }
}

/// How many of these, which are in rank order, are a batch: the late ones in full, then newer ones within the limits.
pub(super) fn cut(heads: &[Head], rank: Rank, limits: Limits) -> usize {
    let late = heads.partition_point(|head| head.transaction.rank <= rank);
    let newer = heads.len() - late;
    let (mut changes, mut bytes) = (0, 0);
    let fits = heads[late..]
        .iter()
        .take_while(|head| {
            changes += head.changes;
            bytes += head.bytes();
            changes <= limits.rows && bytes <= limits.bytes
        })
        .count();
    // A transaction beyond the limits is a batch of its own, unless late ones came first.
    late + if fits == 0 && late == 0 { newer.min(1) } else { fits }
}

/// Names of the row before.
#[derive(Default)]
pub(super) struct Names {
    origin: Option<Arc<str>>,
    username: Option<Arc<str>>,
}

fn shared(before: &mut Option<Arc<str>>, name: Option<&str>) -> Option<Arc<str>> {
    if before.as_deref() != name {
        *before = name.map(Arc::from);
    }
    before.clone()
}

pub(super) fn head(row: &Row, names: &mut Names) -> Result<Head> {
    let xid: &str = row.get("xid");
    let chunks = row.get("chunks");
    let payload: Option<Vec<u8>> = row.get("payload");
    if chunks < 1 || payload.is_some() != (chunks == 1) {
        return Err(Error::new(Kind::Log, format!("malformed log: final chunk counts {chunks} chunks"))
            .detail(format!("Transaction {xid}.")));
    }
    Ok(Head {
        transaction: Arc::new(Transaction {
            rank: row.get("rank"),
            xid: xid
                .parse()
                .map_err(|_| Error::new(Kind::Log, format!("malformed transaction id \"{xid}\"")))?,
            ts: row.get("ts"),
            origin: shared(&mut names.origin, row.get("origin")),
            username: shared(&mut names.username, row.get("username")),
        }),
        changes: usize::try_from(row.get::<_, i32>("changes")).unwrap_or(0),
        chunks,
        durable: !row.get::<_, bool>("async"),
        payload,
    })
}

/// May more be there than these newer ones, which a statement found that was asked for so much?
pub(super) fn is_full(newer: &[Head], asked: Limits, transactions: i64) -> bool {
    let changes: usize = newer.iter().map(|head| head.changes).sum();
    let bytes: usize = newer.iter().map(Head::bytes).sum();
    changes >= asked.rows || bytes >= asked.bytes || newer.len() as i64 == transactions
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::position::Xid;

    const LIMITS: Limits = Limits { rows: 10, bytes: 1000 };

    pub fn head(rank: Rank, xid: Xid, changes: usize, origin: Option<&str>) -> Head {
        Head {
            transaction: Arc::new(Transaction {
                rank,
                xid,
                ts: Timestamp::UNIX_EPOCH,
                origin: origin.map(Arc::from),
                username: None,
            }),
            changes,
            chunks: 1,
            durable: true,
            payload: Some(vec![0; changes * 10]),
        }
    }

    /// Ranks of the batch that is cut from transactions given as (rank, changes), and whether more is there.
    fn check(position: Rank, transactions: &[(Rank, usize)], expected: &[Rank], more: bool) {
        let mut transactions = transactions.to_vec();
        transactions.sort_unstable();
        let heads: Vec<Head> =
            transactions.iter().map(|&(rank, changes)| head(rank, 1, changes, None)).collect();
        let taken = cut(&heads, position, LIMITS);
        let newer = heads.partition_point(|head| head.transaction.rank <= position);
        let cut_more = taken < heads.len() || is_full(&heads[newer..], LIMITS, 1000);
        let ranks: Vec<Rank> = heads[..taken].iter().map(|head| head.transaction.rank).collect();
        assert_eq!((&ranks[..], cut_more), (expected, more));
    }

    #[test]
    fn batches_are_cut_between_transactions() {
        check(0, &[], &[], false);
        check(0, &[(1, 4), (2, 5)], &[1, 2], false);
        check(0, &[(1, 4), (2, 6)], &[1, 2], true);
        check(0, &[(1, 4), (2, 6), (3, 1)], &[1, 2], true);
        check(0, &[(2, 5), (1, 4)], &[1, 2], false);
    }

    #[test]
    fn a_large_transaction_is_a_batch_of_its_own() {
        check(0, &[(1, 50), (2, 1)], &[1], true);
        check(0, &[(1, 1), (2, 50), (3, 1)], &[1], true);
        check(0, &[(1, 50)], &[1], true);
    }

    #[test]
    fn late_ones_come_first_and_in_full() {
        check(10, &[(11, 1), (3, 50), (7, 50)], &[3, 7, 11], false);
        check(10, &[(11, 50), (7, 1)], &[7], true);
        check(10, &[(10, 50), (9, 50)], &[9, 10], false);
    }
}
