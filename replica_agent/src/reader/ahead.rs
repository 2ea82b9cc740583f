//! What is asked of the master before it is wanted.
//!
//! In: what a statement has found in the log. Out: batches of it, and their chunks, without a round trip for each.
//!
//! A transaction of several chunks is a query of its own; those for the next ones are under way meanwhile. From a master
//! that is far more is read at once than a batch takes, a *stock*, and the next one is asked for from where the first
//! ends. A batch of a stock leads to its place in it under the stock's snapshot, so a position means what it always does.
//!
//! Answers are taken in while the reader waits for anything, a slow slave included: the master would have to wait with
//! more than the way holds, and keep its snapshot.

use std::collections::VecDeque;
use std::time::Duration;

use postgres::{Row, Statement};

use super::heads::{cut, is_full, Head};
use super::{read_failed, Limits, Reader};
use crate::bind::Owned;
use crate::error::Result;
use crate::pipe::{Asked, Pipe};
use crate::position::{Position, Rank, Snapshot, Target, Xid};

/// How much is asked for at once.
#[derive(Clone, Copy)]
pub(super) struct Amounts {
    /// Chunks of a transaction.
    pub at_once: i64,
    /// One of no more is asked for ahead: its chunks come in one answer.
    few: i32,
    /// No more chunks are asked for while so many are on their way.
    ahead: i64,
    /// Rows and bytes of a stock, in batches.
    batches: (usize, usize),
}

const NEAR: Amounts = Amounts { at_once: 128, few: 16, ahead: 64, batches: (1, 1) };
const FAR: Amounts = Amounts { at_once: 512, few: 128, ahead: 512, batches: (4, 2) };

impl Amounts {
    /// What is asked for up to a target is not what is asked for behind it.
    pub fn of(client: &Pipe, target: Option<&Target>) -> Amounts {
        match client.is_far() && target.is_none() {
            true => FAR,
            false => NEAR,
        }
    }

    pub fn is_far(self) -> bool {
        self.batches > NEAR.batches
    }

    /// Those of a stock.
    pub fn limits(self, batch: Limits) -> Limits {
        let (rows, bytes) = self.batches;
        Limits { rows: batch.rows.saturating_mul(rows), bytes: batch.bytes.saturating_mul(bytes) }
    }

    pub fn transactions(self, batch: i64) -> i64 {
        batch.saturating_mul(self.batches.0 as i64)
    }
}

/// Transactions that were found by one statement and have not been handed on.
pub(super) struct Stock {
    /// Where the first of them follows.
    pub at: Position,
    /// Under which they were found, and what had settled before it was taken.
    pub snapshot: Snapshot,
    pub settled: Rank,
    pub dozed: Duration,
    /// What the master could still lose of them has been flushed.
    pub flushed: bool,
    pub heads: Vec<Head>,
    /// There may be more behind them.
    pub more: bool,
}

impl Stock {
    /// Where the last of them leads.
    fn end(&self) -> Position {
        let mut end = Position { snapshot: self.snapshot.clone(), ..self.at.clone() };
        if let Some(last) = self.heads.last().map(|head| &head.transaction) {
            end.rank = end.rank.max(last.rank);
        }
        end.settle(self.settled);
        end
    }
}

/// The next stock, which is on its way.
struct Coming {
    from: Position,
    /// Looked at before it was asked for.
    settled: Rank,
    still: Rank,
    transactions: i64,
    amounts: Amounts,
    asked: Asked,
}

#[derive(Default)]
pub(super) struct Ahead {
    stocks: VecDeque<Stock>,
    coming: Option<Coming>,
    /// Transactions of some chunks that are to be asked for, and those that are.
    wanted: VecDeque<(Xid, i32)>,
    chunks: VecDeque<(Xid, i32, Asked)>,
    /// Chunks on their way.
    under_way: i64,
}

impl Ahead {
    /// The chunks of a transaction, if it is the next of some; those behind it are asked for.
    pub fn chunks_of(
        &mut self,
        xid: Xid,
        client: &mut Pipe,
        statement: &Statement,
    ) -> Result<Option<Vec<Row>>> {
        self.ask_for_chunks(client, statement);
        let Some((_, chunks, asked)) = self.chunks.pop_front_if(|(next, ..)| *next == xid) else {
            return Ok(None);
        };
        self.under_way -= i64::from(chunks);
        client.answer(asked).map_err(read_failed)
    }

    fn ask_for_chunks(&mut self, client: &mut Pipe, statement: &Statement) {
        let Amounts { at_once, ahead, .. } = Amounts::of(client, None);
        while self.under_way < ahead {
            let Some((xid, chunks)) = self.wanted.pop_front() else { break };
            let from = || Owned::Int8(i64::MIN);
            let params = vec![Owned::Text(Some(xid.to_string())), from(), from(), Owned::Int8(at_once)];
            self.under_way += i64::from(chunks);
            self.chunks.push_back((xid, chunks, client.ask(statement, params)));
        }
    }

    /// Chunks of these will be wanted, in this order.
    fn want(&mut self, heads: &[Head], Amounts { few, .. }: Amounts) {
        let some = heads.iter().filter(|head| head.payload.is_none() && head.chunks <= few);
        self.wanted.extend(some.map(|head| (head.transaction.xid, head.chunks)));
    }
}

impl Reader {
    /// What follows a position and was read before, if anything was.
    pub(super) fn stock(&mut self, position: &Position) -> Result<Option<Stock>> {
        let has_come = self.ahead.coming.take_if(|coming| self.client.has_answered(&coming.asked));
        if let Some(coming) = has_come {
            self.take_in(coming)?;
        }
        if self.ahead.stocks.is_empty() {
            if let Some(coming) = self.ahead.coming.take_if(|coming| coming.from.is_same(position)) {
                self.take_in(coming)?;
            }
        }
        let stock = self.ahead.stocks.pop_front_if(|stock| stock.at.is_same(position));
        if stock.is_none() {
            self.forget_ahead()?;
        }
        Ok(stock)
    }

    /// Another way is gone than was thought, or somebody else reads. Leaves no answer for the master to wait with.
    pub fn forget_ahead(&mut self) -> Result<()> {
        // What it tells of the state of the log is heard before anything that is told later.
        if let Some(coming) = self.ahead.coming.take() {
            self.take_in(coming)?;
        }
        if !self.ahead.chunks.is_empty() {
            self.client.await_all();
        }
        self.ahead = Ahead::default();
        Ok(())
    }

    fn take_in(&mut self, coming: Coming) -> Result<()> {
        let Coming { from: at, settled, still, transactions, amounts, asked } = coming;
        let Some(rows) = self.client.answer(asked).map_err(read_failed)? else { return Ok(()) };
        let (snapshot, heads) = self.found(&rows, false)?;
        self.note_still(still, &at, &snapshot, &heads);
        let (dozed, flushed) = (Duration::ZERO, amounts.is_far());
        let stock = Stock { at, snapshot, settled, dozed, flushed, heads, more: false };
        let stock = self.limit(stock, transactions, amounts);
        self.ahead.stocks.push_back(stock);
        Ok(())
    }

    /// A stock as it was found by a statement that was asked for so much; where the master is near no more than a batch.
    pub(super) fn limit(&mut self, mut stock: Stock, transactions: i64, amounts: Amounts) -> Stock {
        let late = stock.heads.partition_point(|head| head.transaction.rank <= stock.at.rank);
        stock.more = is_full(&stock.heads[late..], amounts.limits(self.limits), transactions);
        if !amounts.is_far() {
            let taken = cut(&stock.heads, stock.at.rank, self.limits);
            stock.more |= taken < stock.heads.len();
            stock.heads.truncate(taken);
        }
        self.ahead.want(&stock.heads, amounts);
        stock
    }

    /// Keeps what a batch has left of a stock, and sees to it that the next one comes in time.
    pub(super) fn keep(&mut self, rest: Stock) {
        self.ahead.ask_for_chunks(&mut self.client, &self.chunks);
        let amounts = Amounts::of(&self.client, None);
        // One at hand, and one that waits or is on its way.
        let next = self.ahead.stocks.is_empty() && self.ahead.coming.is_none();
        if amounts.is_far() && next && rest.more {
            let from = rest.end();
            let transactions = amounts.transactions(self.transactions_max);
            let params = self.params(&from, None, transactions, false, amounts);
            let (settled, still) = (self.settling.rank(), self.settling.rank_of_all());
            let asked = self.client.ask(&self.log, params);
            self.ahead.coming = Some(Coming { from, settled, still, transactions, amounts, asked });
        }
        if !rest.heads.is_empty() {
            self.ahead.stocks.push_front(rest);
        }
    }
}
