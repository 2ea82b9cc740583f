//! A batch taken apart where the origin of its transactions changes: there a slave that forwards has to commit. Pure.

use std::sync::Arc;

use super::heads::Head;
use super::End;
use crate::position::{Position, Rank, Xid};
use crate::sequences::Moved;

/// Transactions of one origin after the other, and where each run ends. `position` has the new snapshot and the old rank:
/// what is late and of a later run is then as if it were still in progress.
pub(super) fn runs(
    heads: Vec<Head>,
    position: &Position,
    settled: Rank,
    more: bool,
    sequences: &Arc<[Moved]>,
) -> Vec<(Vec<Head>, End)> {
    let late: Vec<Xid> = heads
        .iter()
        .map(|head| &head.transaction)
        .take_while(|transaction| transaction.rank <= position.rank)
        .map(|transaction| transaction.xid)
        .collect();
    let whole = position.snapshot.clone();
    let mut position = position.clone();
    let (mut runs, mut done) = (Vec::new(), 0);
    let mut heads = heads.into_iter().peekable();
    while let Some(first) = heads.next() {
        let origin = first.transaction.origin.clone();
        let mut run = vec![first];
        while let Some(head) = heads.next_if(|head| head.transaction.origin == origin) {
            run.push(head);
        }
        done += run.len();
        let last = &run[run.len() - 1].transaction;
        position.last_ts = Some(last.ts);
        if last.rank > position.rank {
            position.rank = last.rank;
            position.last_xid = Some(last.xid);
        }
        position.snapshot = whole.without(late.get(done..).unwrap_or_default());
        let is_last = heads.peek().is_none();
        if is_last {
            // Before, what is late and of a later run is still to come.
            position.settle(settled);
        }
        let end = End {
            position: position.clone(),
            more: more || !is_last,
            whole: is_last,
            transactions: run.len(),
            changes: run.iter().map(|head| head.changes).sum(),
            sequences: Arc::clone(sequences),
        };
        runs.push((run, end));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::heads::tests::head;
    use super::*;

    #[test]
    fn a_run_is_of_one_origin() {
        let position =
            Position { rank: 10, snapshot: "20:25:21".parse().unwrap(), settled: 6, ..Position::start() };
        let heads = [(7, 17, None), (8, 15, Some("a")), (9, 22, None), (11, 23, None), (12, 24, Some("a"))];
        let heads = heads.map(|(rank, xid, origin)| head(rank, xid, 1, origin)).into_iter().collect();
        let shown: Vec<String> = runs(heads, &position, 11, false, &Arc::from([]))
            .iter()
            .map(|(run, End { position, more, whole, .. })| {
                let Position { rank, snapshot, settled, .. } = position;
                format!("{} to {rank} {snapshot} {settled} {more} {whole}", run.len())
            })
            .collect();
        // The late ones that are left are in progress, and above what is settled; 23 and 24 have a rank of their own.
        let expected = [
            "1 to 10 15:25:15,21,22 6 true false",
            "1 to 10 20:25:21,22 6 true false",
            "2 to 11 20:25:21 6 true false",
            "1 to 12 20:25:21 11 false true",
        ];
        assert_eq!(shown, expected);
    }
}
