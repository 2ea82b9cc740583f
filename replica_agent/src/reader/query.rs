//! What a reader asks the master for in one statement: what follows a position, and whether the log is still kept for its
//! slaves.

use std::time::Duration;

use postgres::types::ToSql;
use postgres::Row;

use super::ahead::{Amounts, Stock};
use super::heads::{head, Head, Names};
use super::{read_failed, Limits, Reader};
use crate::bind::Owned;
use crate::error::{Error, Kind, Result};
use crate::position::{Position, Rank, Snapshot, Target};

/// As many as a reader in step looks for, whatever they take together.
const FEW_TRANSACTIONS: i64 = 100;

impl Reader {
    /// Reads, perhaps when it has dozed.
    pub(super) fn query_log(
        &mut self,
        position: &Position,
        target: Option<&Target>,
        doze: Option<Duration>,
    ) -> Result<Stock> {
        // Who was notified finds something, and so has woken: both are said at once with the reading.
        let woken = self.armed && std::mem::take(&mut self.notified);
        let few = target.is_none() && self.is_still(position);
        let amounts = Amounts::of(&self.client, target);
        let asked = if few { FEW_TRANSACTIONS } else { amounts.transactions(self.transactions_max) };
        let (statement, params) = match few {
            true => (&self.on, self.params_on(position, asked, woken, amounts)),
            false => (&self.log, self.params(position, target, asked, woken, amounts)),
        };
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
        let (state, rows) =
            self.client.query_after(&self.doze, doze, statement, &params).map_err(read_failed)?;
        let mut dozed = Duration::ZERO;
        if let Some((state, since)) = state {
            self.settling.look(state.get(0))?;
            dozed = since;
        }
        let still = self.settling.rank_of_all();
        // What was settled before the snapshot was taken; a target's may be older than that.
        let settled = if target.is_some() { position.settled } else { self.settling.rank() };
        let (snapshot, heads) = self.found(&rows, woken)?;
        if target.is_none() {
            self.note_still(still, position, &snapshot, &heads);
        }
        let stock = Stock {
            at: position.clone(),
            snapshot,
            settled,
            dozed,
            flushed: amounts.is_far(),
            heads,
            more: false,
        };
        Ok(self.limit(stock, asked, amounts))
    }

    /// Snapshot and transactions of an answer.
    pub(super) fn found(&mut self, rows: &[Row], woken: bool) -> Result<(Snapshot, Vec<Head>)> {
        let (first, rows) = rows
            .split_first()
            .ok_or_else(|| Error::new(Kind::Log, "the master gave no snapshot with the log"))?;
        self.confirmed(first, woken)?;
        if let Some(state) = first.get("state") {
            self.settling.look(state)?;
        }
        if let Some(moved) = first.get::<_, Option<Vec<i64>>>("sequences") {
            self.sequences.all = false;
            if !moved.is_empty() {
                let moved = self.sequences.names.resolve(&mut self.client, &moved)?;
                self.sequences.told.extend_from_slice(&moved);
            }
        }
        let mut names = Names::default();
        let mut heads: Vec<Head> = rows.iter().map(|row| head(row, &mut names)).collect::<Result<_>>()?;
        heads.sort_by_key(|head| head.transaction.rank);
        Ok((first.get::<_, &str>("snapshot").parse()?, heads))
    }

    /// That of `read_on.sql`.
    fn params_on(&self, position: &Position, transactions: i64, woken: bool, amounts: Amounts) -> Vec<Owned> {
        vec![
            Owned::Int8(position.rank),
            Owned::Int8(transactions),
            Owned::Text(Some(self.agent.clone())),
            Owned::Texts(self.slaves.clone()),
            Owned::Bool(Some(woken)),
            Owned::Bool(self.sequences.wanted.then_some(self.sequences.all)),
            Owned::Bool(Some(amounts.is_far())),
        ]
    }

    /// That of `read_log.sql`.
    pub(super) fn params(
        &self,
        position: &Position,
        target: Option<&Target>,
        transactions: i64,
        woken: bool,
        amounts: Amounts,
    ) -> Vec<Owned> {
        let number = |n: usize| Owned::Int8(i64::try_from(n).unwrap_or(i64::MAX));
        let Limits { rows, bytes } = amounts.limits(self.limits);
        vec![
            Owned::Int8(position.rank),
            Owned::Text(Some(position.snapshot.to_string())),
            Owned::Int8(position.settled),
            Owned::Int8(transactions),
            number(rows),
            number(bytes),
            target.map_or(Owned::Text(None), |target| Owned::Int8(target.rank)),
            Owned::Text(target.map(|target| target.snapshot.to_string())),
            Owned::Text(Some(self.agent.clone())),
            Owned::Texts(self.slaves.clone()),
            Owned::Bool(Some(woken)),
            Owned::Bool(self.sequences.wanted.then_some(self.sequences.all)),
            Owned::Bool(Some(amounts.is_far())),
        ]
    }

    /// Of a snapshot in whose statement these were found.
    pub(super) fn note_still(
        &mut self,
        still: Rank,
        position: &Position,
        snapshot: &Snapshot,
        heads: &[Head],
    ) {
        // Where nothing was found nothing has been committed in between.
        let since = if heads.is_empty() { &position.snapshot } else { snapshot };
        self.still = (still, since.clone());
    }

    /// In step, and nothing comes late: all with a rank up to the position's had ended before its snapshot was taken.
    fn is_still(&self, position: &Position) -> bool {
        let (rank, snapshot) = &self.still;
        !self.more && position.rank <= *rank && position.snapshot.includes(snapshot)
    }

    /// Makes sure that rotation has not emptied what we were about to read, and that a crash of the master cannot
    /// undo what we are about to hand on. Has to come after reading.
    pub(super) fn confirm(&mut self, flush: bool, woken: bool) -> Result<()> {
        let row = self
            .client
            .query_one(&self.confirm, &[&self.agent, &self.slaves, &flush, &woken])
            .map_err(|e| Error::from_pg("could not confirm what was read from the log", e))?;
        self.confirmed(&row, woken)
    }

    fn confirmed(&mut self, row: &Row, woken: bool) -> Result<()> {
        self.armed &= !woken;
        if row.get::<_, bool>("given_up") || row.get::<_, i64>("known") != self.slaves.len() as i64 {
            return Err(Error::given_up(&format!("slaves {}", self.slaves.join(", "))));
        }
        Ok(())
    }
}
