//! Up to which rank no transaction of a single chunk comes late; and up to which none does.
//!
//! In: the state of the log as `pyreplica.arm` tells it, each time before a snapshot is taken. Out: a rank. Pure.
//!
//! The log has an index by rank, which every transaction pays for, and one by transaction for those of several chunks
//! only. So a late transaction of several chunks is found by its xid. One of a single chunk is looked for among the
//! ranks above those of which all have ended. These are few: such a transaction draws its rank, its only id, in its
//! commit, and holds the writers' lock from before that until it is visible.
//!
//! `arm` reads the last id X first, then who holds that lock and has no chunk yet. Who is not among these writers and
//! drew an id up to X has ended. A writer that an earlier look, with last id X0, did not find draws its id after that
//! look: it is larger than X0. So up to the smallest of X and those bounds everything has ended.
//! Those who have a chunk already, bulk loads and prepared transactions, do not count: they end with several. Where there
//! are none of them, transactions of any kind have ended up to that rank.

use std::collections::HashMap;

use crate::error::{Error, Kind, Result};
use crate::position::Rank;

#[derive(Default)]
pub struct Settling {
    last_id: Rank,
    /// Writers of the last look; each draws, or drew, an id larger than this.
    writers: HashMap<String, Rank>,
    /// The last look found others.
    others: bool,
}

/// Ends the name of a writer that has a chunk already.
const HAS_CHUNKS: char = '+';

impl Settling {
    /// Looks at a state of the log, `id:writer,writer`.
    pub fn look(&mut self, state: &str) -> Result<()> {
        let malformed = || Error::new(Kind::Log, format!("malformed state of the log \"{state}\""));
        let (id, writers) = state.split_once(':').ok_or_else(malformed)?;
        let last_id = id.parse().map_err(|_| malformed())?;
        let (others, single): (Vec<&str>, Vec<&str>) = writers
            .split(',')
            .filter(|writer| !writer.is_empty())
            .partition(|writer| writer.ends_with(HAS_CHUNKS));
        let bound = |writer: &str| self.writers.get(writer).copied().unwrap_or(self.last_id);
        self.writers = single.into_iter().map(|writer| (writer.to_owned(), bound(writer))).collect();
        self.others = !others.is_empty();
        self.last_id = last_id;
        Ok(())
    }

    /// Every transaction of a single chunk with a rank up to this had ended at the last look.
    pub fn rank(&self) -> Rank {
        self.writers.values().copied().fold(self.last_id, Rank::min)
    }

    /// Every transaction with a rank up to this had ended at the last look.
    pub fn rank_of_all(&self) -> Rank {
        if self.others {
            0
        } else {
            self.rank()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// States of the log one after the other, each with the rank of those of a single chunk.
    fn check(states: &[(&str, Rank)]) {
        let mut settling = Settling::default();
        for (state, expected) in states {
            settling.look(state).unwrap();
            assert_eq!(settling.rank(), *expected, "{state}");
            let of_all = if state.contains('+') { 0 } else { *expected };
            assert_eq!(settling.rank_of_all(), of_all, "{state}");
        }
    }

    #[test]
    fn without_writers_all_is_settled() {
        check(&[("0:", 0), ("7:", 7), ("9:", 9)]);
    }

    #[test]
    fn a_writer_has_an_id_after_the_look_that_did_not_find_it() {
        check(&[("7:", 7), ("9:1/1", 7), ("12:1/1,2/4", 7), ("15:2/4,1/2", 9), ("15:1/2", 12), ("16:", 16)]);
        check(&[("9:1/1", 0), ("9:", 9)]);
    }

    #[test]
    fn who_has_chunks_is_found_otherwise() {
        check(&[("7:3/1+", 7), ("9:3/1+,1/1", 7), ("11:3/1+", 11)]);
        check(&[("7:", 7), ("9:3/1", 7), ("12:3/1+", 12)]);
    }

    #[test]
    fn refuses_malformed() {
        for state in ["", "7", "x:1/1"] {
            assert!(Settling::default().look(state).is_err(), "{state}");
        }
    }
}
