//! A transaction of many chunks, read so that it never is in memory as a whole; and the parts that chunks are handed on in.

use std::sync::Arc;
use std::time::Duration;

use super::ahead::Amounts;
use super::{incomplete, read_failed, Chunk, End, HandOn, Part, Reader, Transaction};
use crate::error::{Error, Kind, Result};
use crate::large::Large;
use crate::pipe::Pipe;

/// A part is handed on when it has grown to this, so that applying overlaps reading.
const PART_BYTES: usize = 64 * 1024;
/// A chunk of which more has come with an answer, and not its end, is not read on here, but by those who apply it, piece by
/// piece. That takes some round trips, so where one is far more is held.
const LARGE_BYTES: usize = 256 * 1024;
const LARGE_BYTES_FAR: usize = 1024 * 1024;

impl Reader {
    /// Hands on a transaction of many chunks. They do not change any more, so each query may have its own snapshot.
    pub(super) fn stream(
        &mut self,
        transaction: &Arc<Transaction>,
        expected: i32,
        parts: &mut Parts,
    ) -> Result<()> {
        let xid = transaction.xid.to_string();
        let (mut seq, mut id) = (i64::MIN, i64::MIN);
        let mut found: i64 = 0;
        let mut begun: Option<Beginning> = None;
        let large_bytes = match self.far_slaves || self.client.is_far() {
            true => LARGE_BYTES_FAR,
            false => LARGE_BYTES,
        };
        let at_once = Amounts::of(&self.client, None).at_once;
        let mut first_rows = self.ahead.chunks_of(transaction.xid, &mut self.client, &self.chunks)?;
        loop {
            if let Some(Beginning { first, pieces, .. }) =
                begun.take_if(|begun| begun.bytes.len() > large_bytes)
            {
                let row = self.client.query_opt(&self.skip, &[&xid, &seq, &id]).map_err(read_failed)?;
                let Some(row) = row else { break };
                let more: i64 = row.get(1);
                (id, found) = (row.get(0), found + more);
                let large = Large {
                    transaction: Arc::clone(transaction),
                    seq,
                    ids: (first, id),
                    pieces: pieces + more,
                    log: Arc::clone(&self.large),
                };
                parts.add_large(large, &mut self.client)?;
            }
            let rows = match first_rows.take() {
                Some(rows) => rows,
                None => self.client.query(&self.chunks, &[&xid, &seq, &id, &at_once]).map_err(read_failed)?,
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
                parts.add(Chunk { transaction: Arc::clone(transaction), payload }, &mut self.client)?;
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
    hand_on: &'a mut HandOn<'a>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(hand_on: &'a mut HandOn<'a>, dozed: Duration) -> Self {
        Parts { chunks: Vec::new(), bytes: 0, dozed, hand_on }
    }

    pub(super) fn add(&mut self, chunk: Chunk, master: &mut Pipe) -> Result<()> {
        self.bytes += chunk.payload.len();
        self.chunks.push(chunk);
        if self.bytes >= PART_BYTES {
            self.part(None, None, master)?;
        }
        Ok(())
    }

    fn add_large(&mut self, large: Large, master: &mut Pipe) -> Result<()> {
        self.part(Some(large), None, master)
    }

    pub(super) fn finish(&mut self, end: End, master: &mut Pipe) -> Result<()> {
        self.part(None, Some(end), master)
    }

    fn part(&mut self, large: Option<Large>, end: Option<End>, master: &mut Pipe) -> Result<()> {
        self.bytes = 0;
        let (chunks, dozed) = (std::mem::take(&mut self.chunks), std::mem::take(&mut self.dozed));
        (self.hand_on)(Part { chunks, large, dozed, end }, master)
    }
}
