//! A message of the log that is too large to be held in memory: where it stands, and how it is read piece by piece.
//!
//! In: the chunk that holds it (docs/log-format.md: such a message is alone in its chunk). Out: its bytes, as often as
//! they are asked for: each slave that applies it reads it from the master for itself. So an agent's memory does not
//! grow with the size of a row.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postgres::{Client, Statement};

use crate::decode::Decoder;
use crate::dsn::Dsn;
use crate::error::{Error, Kind, Result};
use crate::reader::{self, Transaction};
use crate::session;
use crate::wake::{Cancelable, Cancels};

/// Holds all that a message introduces: 1600 columns with names of at most 126 bytes in UTF-8.
const INTRODUCTION_BYTES: usize = 256 * 1024;

/// Of a piece, at most: 7900 in docs/log-format.md.
const PIECE_BYTES: usize = 7900;

/// Pieces in a query.
const PIECES: i64 = 128;

/// A chunk by its place in the log.
#[derive(Debug)]
pub struct Large {
    pub transaction: Arc<Transaction>,
    /// Of its first and last piece.
    pub seq: i64,
    pub ids: (i64, i64),
    pub pieces: i64,
    pub log: Arc<Log>,
}

/// The log of the master, as those read it who apply a large message.
pub struct Log {
    dsn: Dsn,
    cancels: Cancels,
    /// From the last time.
    idle: Mutex<Option<Session>>,
}

struct Session {
    client: Client,
    pieces: Statement,
    _cancelable: Cancelable,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    pub fn new(dsn: &Dsn, cancels: &Cancels) -> Self {
        Log { dsn: dsn.clone(), cancels: cancels.clone(), idle: Mutex::new(None) }
    }

    fn idle(&self) -> MutexGuard<'_, Option<Session>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> Result<Session> {
        let idle = self.idle().take();
        if let Some(idle) = idle.filter(|session| !session.client.is_closed()) {
            return Ok(idle);
        }
        let mut client: Client = session::connect_master(&self.dsn, "read large")?;
        reader::plan_by_index(&mut client)?;
        let _cancelable = self.cancels.add(&self.dsn, &client)?;
        let pieces = client.prepare(include_str!("sql/read_large.sql")).map_err(reader::read_failed)?;
        Ok(Session { client, pieces, _cancelable })
    }
}

impl Large {
    /// It takes no more.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.pieces).unwrap_or(usize::MAX).saturating_mul(PIECE_BYTES)
    }

    /// Reads it from its beginning. Between the queries nothing holds back the master's horizon, however long the slave
    /// takes.
    pub fn read<T>(&self, work: impl FnOnce(&mut Pieces) -> Result<T>) -> Result<T> {
        let mut session = self.log.session()?;
        let xid = self.transaction.xid.to_string();
        let (mut after, last) = (self.ids.0 - 1, self.ids.1);
        let mut rows = Vec::new().into_iter();
        let mut left = self.pieces;
        let mut next = || {
            if rows.len() == 0 && left > 0 {
                let Session { client, pieces, .. } = &mut session;
                let found = client
                    .query(pieces, &[&xid, &self.seq, &after, &last, &PIECES])
                    .map_err(reader::read_failed)?;
                after = found.last().map_or(after, |row| row.get("id"));
                left -= found.len() as i64;
                rows = found.into_iter();
            }
            match rows.next() {
                Some(row) => Ok(Some(row.get("payload"))),
                None if left == 0 => Ok(None),
                None => Err(reader::incomplete(&self.transaction).detail(format!(
                    "Log id {last} ends a chunk of {} pieces, of which {left} are missing.",
                    self.pieces
                ))),
            }
        };
        let result = work(&mut Pieces::new(&mut next))?;
        *self.log.idle() = Some(session);
        Ok(result)
    }
}

type Next<'a> = &'a mut dyn FnMut() -> Result<Option<Vec<u8>>>;

/// The bytes of a chunk in their order.
pub struct Pieces<'a> {
    next: Next<'a>,
    /// What has been read, from `at` on not yet taken.
    bytes: Vec<u8>,
    at: usize,
}

impl<'a> Pieces<'a> {
    fn new(next: Next<'a>) -> Self {
        Pieces { next, bytes: Vec::new(), at: 0 }
    }

    /// What the message introduces, and its first bytes; the message itself is still to be taken.
    pub fn introduction(&mut self) -> Result<Vec<u8>> {
        while self.bytes.len() - self.at < INTRODUCTION_BYTES {
            match (self.next)()? {
                Some(piece) => self.bytes.extend_from_slice(&piece),
                None => break,
            }
        }
        Ok(self.bytes[self.at..].to_vec())
    }

    /// All that has not been taken.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = self.bytes.split_off(self.at);
        while let Some(piece) = (self.next)()? {
            rest.extend_from_slice(&piece);
        }
        Ok(rest)
    }

    /// Takes that many bytes to where they go.
    pub fn pass(&mut self, mut count: usize, to: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while count > 0 {
            if self.at == self.bytes.len() {
                self.bytes = (self.next)()?.ok_or_else(|| malformed("payload ends early"))?;
                self.at = 0;
            }
            let end = self.bytes.len().min(self.at + count);
            to(&self.bytes[self.at..end])?;
            count -= end - self.at;
            self.at = end;
        }
        Ok(())
    }

    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(count);
        self.pass(count, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    pub fn varint(&mut self) -> Result<usize> {
        let mut bytes = Vec::new();
        loop {
            bytes.extend(self.bytes(1)?);
            if bytes.last().is_some_and(|byte| byte & 0x80 == 0) {
                return Decoder::number_of(&bytes);
            }
        }
    }

    /// A number below `limit`.
    pub fn number(&mut self, limit: usize) -> Result<usize> {
        match self.varint()? {
            n if n < limit => Ok(n),
            _ => Err(malformed("number out of range")),
        }
    }

    /// The length of the value that follows; `None` is NULL.
    pub fn length(&mut self) -> Result<Option<usize>> {
        Ok(self.varint()?.checked_sub(1))
    }

    /// A message that is too large for a chunk is alone in it.
    pub fn end(&mut self) -> Result<()> {
        if self.at == self.bytes.len() && (self.next)()?.is_none() {
            return Ok(());
        }
        Err(malformed("more messages behind one that is cut into pieces"))
    }
}

fn malformed(what: &str) -> Error {
    Error::new(Kind::Log, format!("malformed log: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works on the bytes of a chunk that comes in pieces of one size.
    fn read<T>(bytes: &[u8], size: usize, work: impl FnOnce(&mut Pieces) -> T) -> T {
        let mut pieces = bytes.chunks(size).map(<[u8]>::to_vec);
        work(&mut Pieces::new(&mut || Ok(pieces.next())))
    }

    #[test]
    fn values_cross_the_borders_of_pieces() {
        let message = [&[0, 0xac, 0x02, 4][..], b"abc", &[1, b'x']].concat();
        for size in 1..=message.len() {
            read(&message, size, |pieces| {
                assert_eq!(pieces.introduction().unwrap(), message);
                assert_eq!(pieces.length().unwrap(), None);
                assert_eq!(pieces.varint().unwrap(), 300);
                assert_eq!(pieces.length().unwrap(), Some(3));
                assert_eq!(pieces.bytes(3).unwrap(), b"abc");
                assert_eq!(pieces.length().unwrap(), Some(0));
                assert!(pieces.end().is_err());
                assert_eq!(pieces.bytes(1).unwrap(), b"x");
                pieces.end().unwrap();
                assert_eq!(pieces.bytes(1).unwrap_err().kind(), Kind::Log);
            });
        }
    }

    #[test]
    fn the_rest_is_all_that_was_not_taken() {
        read(b"abcdef", 4, |pieces| {
            pieces.bytes(1).unwrap();
            assert_eq!(pieces.rest().unwrap(), b"bcdef");
        });
        // Only the introduction is held; the rest is as long as it likes.
        read(&vec![7; 2 * INTRODUCTION_BYTES], 8000, |pieces| {
            let held = pieces.introduction().unwrap().len();
            assert!((INTRODUCTION_BYTES..INTRODUCTION_BYTES + 8000).contains(&held), "{held}");
            assert_eq!(pieces.rest().unwrap().len(), 2 * INTRODUCTION_BYTES);
        });
    }

    #[test]
    fn numbers_have_their_limits() {
        read(&[0xff; 20], 3, |pieces| assert_eq!(pieces.varint().unwrap_err().kind(), Kind::Log));
        read(&[5], 1, |pieces| assert_eq!(pieces.number(5).unwrap_err().kind(), Kind::Log));
    }
}
