//! A transaction of many chunks, read so that it never is in memory as a whole; and the parts that chunks are handed on in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use postgres::{Row, Statement};

use super::{incomplete, read_failed, Chunk, End, Part, Reader, Transaction};
use crate::bind::Owned;
use crate::error::{Error, Kind, Result};
use crate::large::Large;
use crate::pipe::{Begun, Pipe};
use crate::position::Xid;

/// How much is asked for at once.
#[derive(Clone, Copy)]
struct Amounts {
    /// Chunks per statement while a large transaction streams.
    chunks: i64,
    /// A transaction of no more is asked for ahead: its chunks come in one answer.
    few: i32,
    /// No more are asked for while so many are on their way.
    ahead: i64,
}

/// So few that they find room on the way: the master does not have to wait with them for a slave that is slow.
const NEAR: Amounts = Amounts { chunks: 128, few: 16, ahead: 64 };
/// Up to 5 MB in one round trip, and then all are taken in before any is handed on.
const FAR: Amounts = Amounts { chunks: 512, few: 128, ahead: 512 };
/// From so long a round trip on the master is far.
const FAR_FROM: Duration = Duration::from_millis(5);

fn amounts(client: &Pipe) -> Amounts {
    if client.round_trip() >= FAR_FROM {
        FAR
    } else {
        NEAR
    }
}
/// A part is handed on when it has grown to this, so that applying overlaps reading.
const PART_BYTES: usize = 1024 * 1024;
/// A chunk that is larger is not read here, but by those who apply it, piece by piece.
const LARGE_BYTES: usize = 1024 * 1024;

/// Transactions of some chunks, which are on their way. They follow each other without a round trip to the master in
/// between.
pub(super) struct Ahead {
    /// What is left of the batch.
    heads: std::vec::IntoIter<(Xid, i32)>,
    begun: VecDeque<(Begun, i64)>,
    /// On their way.
    chunks: i64,
    amounts: Amounts,
}

impl Ahead {
    pub(super) fn new(client: &Pipe, mut heads: Vec<(Xid, i32)>) -> Self {
        let amounts = amounts(client);
        heads.retain(|&(_, chunks)| chunks <= amounts.few);
        Ahead { heads: heads.into_iter(), begun: VecDeque::new(), chunks: 0, amounts }
    }

    /// The chunks of the next transaction of some; those behind it are asked for.
    fn next(&mut self, client: &mut Pipe, statement: &Statement) -> Result<Vec<Row>> {
        let takes_in = self.amounts.ahead > NEAR.ahead;
        let asks = !takes_in || self.begun.is_empty();
        while asks && self.chunks < self.amounts.ahead {
            let Some((xid, chunks)) = self.heads.next() else { break };
            let chunks = i64::from(chunks);
            let start = Owned::Int8(i64::MIN);
            let params = vec![
                Owned::Text(Some(xid.to_string())),
                start,
                Owned::Int8(i64::MIN),
                Owned::Int8(self.amounts.chunks),
            ];
            self.begun.push_back((client.begin_query(statement, params), chunks));
            self.chunks += chunks;
        }
        if takes_in && asks {
            self.take_in(client);
        }
        let Some((begun, chunks)) = self.begun.pop_front() else { return Ok(Vec::new()) };
        self.chunks -= chunks;
        client.rows(begun).map_err(read_failed)
    }

    /// Takes in all that is on its way: the answer to anything else comes behind it, and would never if nobody took it.
    fn take_in(&mut self, client: &mut Pipe) {
        for (begun, _) in &mut self.begun {
            let sent = std::mem::replace(begun, Box::pin(std::future::pending()));
            *begun = Box::pin(std::future::ready(client.rows(sent)));
        }
    }
}

impl Reader {
    /// Hands on a transaction of many chunks. They do not change any more, so each query may have its own snapshot.
    pub(super) fn stream(
        &mut self,
        transaction: &Arc<Transaction>,
        expected: i32,
        ahead: &mut Ahead,
        parts: &mut Parts,
    ) -> Result<()> {
        let xid = transaction.xid.to_string();
        let (mut seq, mut id) = (i64::MIN, i64::MIN);
        let mut found: i64 = 0;
        let mut begun: Option<Beginning> = None;
        let Amounts { chunks: at_once, few, .. } = ahead.amounts;
        let mut first_rows = match expected <= few {
            true => Some(ahead.next(&mut self.client, &self.chunks)?),
            false => None,
        };
        loop {
            if let Some(Beginning { first, pieces, .. }) =
                begun.take_if(|begun| begun.bytes.len() > LARGE_BYTES)
            {
                ahead.take_in(&mut self.client);
                let row = self.client.query_opt(&self.skip, &[&xid, &seq, &id]).map_err(read_failed)?;
                let Some(row) = row else { break };
                let more: i64 = row.get(1);
                (id, found) = (row.get(0), found + more);
                parts.add_large(Large {
                    transaction: Arc::clone(transaction),
                    seq,
                    ids: (first, id),
                    pieces: pieces + more,
                    log: Arc::clone(&self.large),
                })?;
            }
            let rows = match first_rows.take() {
                Some(rows) => rows,
                None => {
                    ahead.take_in(&mut self.client);
                    self.client.query(&self.chunks, &[&xid, &seq, &id, &at_once]).map_err(read_failed)?
                }
            };
            for row in &rows {
                (seq, id) = (row.get("seq"), row.get("id"));
                found += 1;
                let payload: &[u8] = row.get("payload");
                let payload = match (row.get::<_, i16>("piece"), begun.take()) {
                    (0, None) => payload.to_vec(),
                    (1, None) => {
                        begun = Some(Beginning { first: id, pieces: 1, bytes: payload.to_vec() });
                        continue;
                    }
                    (piece @ (2 | 3), Some(mut whole)) => {
                        whole.bytes.extend_from_slice(payload);
                        if piece == 2 {
                            begun = Some(Beginning { pieces: whole.pieces + 1, ..whole });
                            continue;
                        }
                        whole.bytes
                    }
                    (piece, _) => {
                        return Err(Error::new(
                            Kind::Log,
                            "malformed log: pieces of a chunk do not follow each other",
                        )
                        .detail(format!("Piece {piece} at log id {id}, transaction {xid}.")))
                    }
                };
                parts.add(Chunk { transaction: Arc::clone(transaction), payload })?;
            }
            if (rows.len() as i64) < at_once {
                break;
            }
        }
        if found != i64::from(expected) || begun.is_some() {
            return Err(incomplete(transaction).detail(format!(
                "Its final chunk, log id {}, counts {expected} chunks; there are {found}.",
                transaction.rank
            )));
        }
        Ok(())
    }
}

/// A chunk of which not all pieces have come.
struct Beginning {
    /// Id of the first one.
    first: i64,
    pieces: i64,
    bytes: Vec<u8>,
}

/// Collects chunks to parts of bounded size.
pub(super) struct Parts<'a> {
    chunks: Vec<Chunk>,
    bytes: usize,
    dozed: Duration,
    hand_on: &'a mut dyn FnMut(Part) -> Result<()>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(hand_on: &'a mut dyn FnMut(Part) -> Result<()>, dozed: Duration) -> Self {
        Parts { chunks: Vec::new(), bytes: 0, dozed, hand_on }
    }

    pub(super) fn add(&mut self, chunk: Chunk) -> Result<()> {
        self.bytes += chunk.payload.len();
        self.chunks.push(chunk);
        if self.bytes >= PART_BYTES {
            self.part(None, None)?;
        }
        Ok(())
    }

    fn add_large(&mut self, large: Large) -> Result<()> {
        self.part(Some(large), None)
    }

    pub(super) fn finish(&mut self, end: End) -> Result<()> {
        self.part(None, Some(end))
    }

    fn part(&mut self, large: Option<Large>, end: Option<End>) -> Result<()> {
        self.bytes = 0;
        let (chunks, dozed) = (std::mem::take(&mut self.chunks), std::mem::take(&mut self.dozed));
        (self.hand_on)(Part { chunks, large, dozed, end })
    }
}
