//! How far a slave is: rank, snapshot, and the order between them. Pure.
//!
//! Applied are exactly the transactions with a rank up to `rank` that `snapshot` sees.
//! What comes late, with a rank up to `rank` that `snapshot` does not see, is looked for above `settled`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::error::{Error, Kind};

/// A transaction of the master: 64 bits, never reused.
pub type Xid = u64;

/// Place of a transaction in the serial order: the id of its final chunk.
pub type Rank = i64;

/// Which transactions had committed: PostgreSQL's `pg_snapshot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    /// In progress, in ascending order.
    xip: Vec<Xid>,
}

impl Snapshot {
    /// Sees no transaction that can have written a log.
    pub fn empty() -> Self {
        Snapshot { xmin: 1, xmax: 1, xip: Vec::new() }
    }

    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    pub fn xmax(&self) -> Xid {
        self.xmax
    }

    pub fn in_progress(&self) -> &[Xid] {
        &self.xip
    }

    /// Sees all that the other one sees. Of two snapshots of one server one always does.
    pub fn includes(&self, other: &Snapshot) -> bool {
        other.xmax <= self.xmax && self.xip.iter().all(|xid| !other.sees(*xid))
    }

    /// The same, but for transactions that it sees and this one does not.
    pub fn without(&self, xids: &[Xid]) -> Snapshot {
        let mut xip = [&self.xip, xids].concat();
        xip.sort_unstable();
        let xmin = xip.first().map_or(self.xmin, |&oldest| self.xmin.min(oldest));
        Snapshot { xmin, xmax: self.xmax, xip }
    }

    /// Sees every transaction up to and including `xid`.
    pub fn sees_all_up_to(&self, xid: Xid) -> bool {
        xid < self.xmax && self.xip.first().is_none_or(|&oldest| xid < oldest)
    }
}

impl FromStr for Snapshot {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::new(Kind::Log, format!("malformed snapshot \"{text}\""));
        let mut parts = text.splitn(3, ':');
        let mut number = || parts.next().and_then(|p| p.parse::<Xid>().ok()).ok_or_else(malformed);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(malformed)?;
        let xip = list
            .split(',')
            .filter(|x| !x.is_empty())
            .map(|x| x.parse::<Xid>().map_err(|_| malformed()))
            .collect::<Result<Vec<_>, _>>()?;
        if xmin > xmax || !xip.is_sorted() {
            return Err(malformed());
        }
        Ok(Snapshot { xmin, xmax, xip })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.xip.iter().enumerate() {
            write!(f, "{}{xid}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// What a slave has applied, and the transaction by which the master is recognised again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub rank: Rank,
    pub snapshot: Snapshot,
    /// At most `rank`. Of the transactions of one chunk with a rank up to this, all had ended when the snapshot was
    /// taken: none of them comes late. 0 is always true.
    pub settled: Rank,
    /// The transaction whose rank it is; unknown before the first.
    pub last_xid: Option<Xid>,
    /// When that transaction was logged, by the master's clock.
    pub last_ts: Option<Timestamp>,
}

impl Position {
    /// Before everything in the log.
    pub fn start() -> Self {
        Position { rank: 0, snapshot: Snapshot::empty(), settled: 0, last_xid: None, last_ts: None }
    }

    /// Nothing of one chunk comes late with a rank up to this. What is above our own rank could be drawn again after a
    /// crash of the master.
    pub fn settle(&mut self, settled: Rank) {
        self.settled = self.settled.max(settled.min(self.rank));
    }

    pub fn holds(&self, rank: Rank, xid: Xid) -> bool {
        rank <= self.rank && self.snapshot.sees(xid)
    }

    /// Holds all that the other one holds, and was taken no earlier.
    pub fn includes(&self, other: &Position) -> bool {
        self.rank >= other.rank && self.snapshot.includes(&other.snapshot)
    }

    /// Stands for the same: what else is known of it does not matter.
    pub fn is_same(&self, other: &Position) -> bool {
        self.rank == other.rank && self.snapshot == other.snapshot
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rank, self.snapshot)
    }
}

/// A point to stop at: the transactions with a rank up to `rank` that `snapshot` sees, and no more.
#[derive(Clone, Debug)]
pub struct Target {
    pub rank: Rank,
    pub snapshot: Snapshot,
    pub last_xid: Option<Xid>,
}

impl From<Position> for Target {
    fn from(position: Position) -> Self {
        let Position { rank, snapshot, last_xid, .. } = position;
        Target { rank, snapshot, last_xid }
    }
}

impl From<Target> for Position {
    fn from(target: Target) -> Self {
        let Target { rank, snapshot, last_xid } = target;
        Position { rank, snapshot, settled: 0, last_xid, last_ts: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn sees() {
        let s = snapshot("10:20:10,15");
        let seen: Vec<Xid> = (8..22).filter(|&x| s.sees(x)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
        assert!(s.sees_all_up_to(9) && !s.sees_all_up_to(10) && !s.sees_all_up_to(12));
        assert!(!Snapshot::empty().sees(1));
        assert!(snapshot("5:5:").sees_all_up_to(4) && !snapshot("5:5:").sees_all_up_to(5));
    }

    #[test]
    fn a_later_snapshot_includes_an_earlier_one() {
        let (early, late) = (snapshot("10:20:10,15"), snapshot("15:22:15,21"));
        assert!(late.includes(&early) && early.includes(&early) && early.includes(&Snapshot::empty()));
        assert!(!early.includes(&late));
        assert!(!snapshot("9:20:9,15").includes(&early), "it does not see 9");
    }

    #[test]
    fn refuses_malformed() {
        for text in ["", "1", "1:2", "a:2:", "3:2:", "1:9:5,4", "1:9:x", "-1:2:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_goes_around(xmin in 1u64.., span in 0u64..1000, picks in proptest::collection::btree_set(0u64..1000, 0..20)) {
            let xmax = xmin.saturating_add(span);
            let xip = picks.into_iter().filter(|&p| p < span).map(|p| xmin.saturating_add(p)).filter(|&x| x < xmax).collect::<std::collections::BTreeSet<_>>();
            let s = Snapshot { xmin, xmax, xip: xip.into_iter().collect() };
            prop_assert_eq!(s.to_string().parse::<Snapshot>().unwrap(), s);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC*") {
            let _ = text.parse::<Snapshot>();
        }
    }
}
