//! Reads committed transactions from the master's log.
//!
//! In: a `Position`. Out: batches of whole transactions in parts of bounded size, and the position after each.
//! Never applies anything; the session is never idle in a transaction.
//!
//! # Ordering
//!
//! A chunk's id is drawn when the chunk is written, not when its transaction commits:
//!
//! ```text
//! T1 draws id 11 ... T2 draws id 12, commits ... we read 12 ... T1 commits
//! ```
//!
//! `id > 12` would never return 11, and to wait until nothing older is in progress would let one long transaction
//! stop everything. So we read by snapshot. A position (K, S) says: applied are exactly the transactions with a rank
//! (id of the final chunk) up to K that S sees. Under a new snapshot S' the next batch is
//!
//! 1. the *late* ones: rank <= K, seen by S' and not by S, all of them (where they are looked for: `settling`); then
//! 2. *newer* ones: rank > K, seen by S', in rank order, up to the last whole transaction within the limits.
//!
//! With K' the rank of the last newer one (K if there is none), the batch makes the position (K', S'): a
//! transaction with a rank <= K that S' sees was either seen by S or is in 1; one with a rank in (K, K'] that S'
//! sees is in 2. Nothing is in both, so nothing is lost and nothing comes twice.
//!
//! Rank order is a valid serial order. If T2 saw or waited for T1, T1 had committed before T2 wrote its final
//! chunk at its own pre-commit, so rank(T1) < rank(T2) (the sequence has cache 1). And if T2 saw T1, every snapshot
//! that sees T2 sees T1: a batch never holds T2 without T1. A late T1 that comes after an applied T2 of higher rank
//! was not seen by T2 and touched no row that T2 touched, or T2 would have waited for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use postgres::Statement;

use crate::error::{Error, Kind, Result};
use crate::large::{Large, Log};
use crate::pipe::Pipe;
use crate::position::{Position, Rank, Snapshot, Target, Xid};
use crate::rest::Probe;
use crate::sequences::{Moved, Names};
use crate::session::Session;
use crate::settling::Settling;
use ahead::Ahead;
use heads::cut;
use runs::runs;
use stream::Parts;

mod ahead;
mod heads;
mod query;
mod runs;
mod stream;

/// Transactions that a statement looks at. It has to look at the payloads of all to find those within the limit of
/// bytes, so their number follows what the batch before could take.
const TRANSACTIONS: std::ops::RangeInclusive<i64> = 100..=20_000;
/// Of whom a change is. There may be as many in memory as changes, and nearly all have the same names.
#[derive(Debug)]
pub struct Transaction {
    pub rank: Rank,
    pub xid: Xid,
    pub ts: Timestamp,
    pub origin: Option<Arc<str>>,
    pub username: Option<Arc<str>>,
}

/// A whole payload.
#[derive(Debug)]
pub struct Chunk {
    pub transaction: Arc<Transaction>,
    pub payload: Vec<u8>,
}

/// A part of a batch. One that has an end says to which position all up to it leads: the last one, and each that is
/// followed by transactions of another origin.
#[derive(Debug, Default)]
pub struct Part {
    pub chunks: Vec<Chunk>,
    /// Comes after the chunks.
    pub large: Option<Large>,
    /// Before it was there, nothing was, for so long.
    pub dozed: Duration,
    pub end: Option<End>,
}

#[derive(Clone, Debug)]
pub struct End {
    pub position: Position,
    /// There may be more to read at once.
    pub more: bool,
    /// The batch ends here. Else only transactions of one origin do, which a slave that forwards has to keep apart.
    pub whole: bool,
    /// Since the end before.
    pub transactions: usize,
    pub changes: usize,
    /// Sequences of the master that have moved since the batch before.
    pub sequences: Arc<[Moved]>,
}

/// Takes a part; looks after the session with the master as long as it has to wait with it.
pub type HandOn<'h> = dyn FnMut(Part, &mut Pipe) -> Result<()> + 'h;

/// What a read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// A batch that the limits cut: there may be more.
    Some,
    /// A batch of all there was.
    All,
}

/// Where a batch ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rows: usize,
    pub bytes: usize,
}

pub struct Reader {
    client: Pipe,
    log: Statement,
    /// The same where nothing comes late.
    on: Statement,
    chunks: Statement,
    ahead: Ahead,
    skip: Statement,
    confirm: Statement,
    arm: Statement,
    doze: Statement,
    armed: bool,
    large: Arc<Log>,
    /// A NOTIFY came since the last read.
    notified: bool,
    settling: Settling,
    /// Up to this rank nothing comes late after that snapshot, or one that includes it.
    still: (Rank, Snapshot),
    /// The last read has left something.
    more: bool,
    agent: String,
    slaves: Vec<String>,
    limits: Limits,
    transactions_max: i64,
    /// Some of them, perhaps.
    far_slaves: bool,
    sequences: Sequences,
}

/// What is read of sequences.
#[derive(Default)]
struct Sequences {
    wanted: bool,
    /// Not only those that have moved since the batch before.
    all: bool,
    names: Names,
    /// What was told with reads that found nothing.
    told: Vec<Moved>,
}

impl Reader {
    /// Reads for these slaves of this agent, which are registered in `pyreplica.slave`.
    pub fn new(mut client: Pipe, log: Log, agent: &str, slaves: &[&str], limits: Limits) -> Result<Self> {
        let failed = |e| Error::from_pg("could not prepare to read the log of the master", e);
        plan_by_index(&mut client)?;
        Ok(Reader {
            log: client.prepare(include_str!("sql/read_log.sql")).map_err(failed)?,
            on: client.prepare(include_str!("sql/read_on.sql")).map_err(failed)?,
            chunks: client.prepare(include_str!("sql/read_chunks.sql")).map_err(failed)?,
            skip: client.prepare(include_str!("sql/skip_large.sql")).map_err(failed)?,
            confirm: client.prepare(include_str!("sql/confirm_read.sql")).map_err(failed)?,
            arm: client.prepare("select pyreplica.arm($1)").map_err(failed)?,
            doze: client.prepare("select pyreplica.doze($1)").map_err(failed)?,
            ahead: Ahead::default(),
            armed: false,
            large: Arc::new(log),
            notified: false,
            settling: Settling::default(),
            still: (0, Snapshot::empty()),
            more: true,
            client,
            agent: agent.to_owned(),
            slaves: slaves.iter().map(|&s| s.to_owned()).collect(),
            limits,
            transactions_max: 1000,
            far_slaves: false,
            sequences: Sequences::default(),
        })
    }

    /// From now on the end of a batch tells which sequences have moved since the batch before; the first tells of all.
    /// Whoever begins to read for others has to start here, since it does not know what they have heard.
    pub fn tell_sequences(&mut self, wanted: bool) -> Result<()> {
        self.forget_ahead()?;
        (self.sequences.wanted, self.sequences.all) = (wanted, true);
        Ok(())
    }

    /// Those who apply what is read are, perhaps, far away.
    pub fn for_far_slaves(&mut self, far: bool) {
        self.far_slaves = far;
    }

    /// Reads the next batch and moves `position` behind it.
    ///
    /// With a target only what the target holds is read. Told to doze, it waits until there may be something, at most so
    /// long.
    pub fn read(
        &mut self,
        position: &mut Position,
        target: Option<&Target>,
        doze: Option<Duration>,
        hand_on: &mut HandOn,
    ) -> Result<Found> {
        let stock = match target {
            None => self.stock(position)?,
            Some(_) => self.forget_ahead().map(|()| None)?,
        };
        let mut stock = match stock {
            Some(stock) => stock,
            None => self.query_log(position, target, doze)?,
        };
        let rest = stock.heads.split_off(cut(&stock.heads, position.rank, self.limits));
        let heads = std::mem::replace(&mut stock.heads, rest);
        self.more = stock.more || !stock.heads.is_empty();
        if self.more {
            self.transactions_max =
                (2 * heads.len() as i64).clamp(*TRANSACTIONS.start(), *TRANSACTIONS.end());
        }
        // Before anything is handed on: whoever takes it may be slow, and until then every writer would notify.
        let woken = self.armed && !heads.is_empty();
        let flush = !stock.flushed && heads.iter().any(|head| !head.durable);
        if woken || flush {
            self.confirm(flush, woken)?;
        }

        position.snapshot = stock.snapshot.clone();
        if heads.is_empty() {
            position.settle(stock.settled);
            return Ok(Found::Nothing);
        }
        let sequences = std::mem::take(&mut self.sequences.told).into();
        let runs = runs(heads, position, stock.settled, self.more, &sequences);
        let mut parts = Parts::new(hand_on, std::mem::take(&mut stock.dozed));
        if let (None, Some((_, end))) = (target, runs.last()) {
            stock.at = end.position.clone();
            self.keep(stock);
        }
        for (run, end) in runs {
            for head in run {
                match head.payload {
                    Some(payload) => {
                        let chunk = Chunk { transaction: head.transaction, payload };
                        parts.add(chunk, &mut self.client)?;
                    }
                    None => self.stream(&head.transaction, head.chunks, &mut parts)?,
                }
            }
            *position = end.position.clone();
            parts.finish(end, &mut self.client)?;
        }
        Ok(if self.more { Found::Some } else { Found::All })
    }

    /// A NOTIFY came: there is something to read.
    pub fn notified(&mut self) {
        self.notified = true;
    }

    /// Writers notify from now on, until something is read.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Wakes without having read: somebody else reads.
    pub fn disarm(&mut self) -> Result<()> {
        if self.armed {
            self.confirm(false, true)?;
        }
        Ok(())
    }

    /// Asks for the state of the log, and arms, unless others than these slow transactions are about to commit.
    pub fn arm(&mut self, slow: &[String]) -> Result<Probe> {
        self.forget_ahead()?;
        let row = self
            .client
            .query_one(&self.arm, &[&slow])
            .map_err(|e| Error::from_pg("could not ask for the state of the log of the master", e))?;
        let probe = Probe::new(row.get(0), slow);
        self.settling.look(&probe.state)?;
        self.armed = probe.armed;
        Ok(probe)
    }
}

/// The log tables have no statistics. With these the plans are index scans in index order, always.
pub fn plan_by_index(client: &mut impl Session) -> Result<()> {
    client
        .batch_execute(
            "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off; \
             set plan_cache_mode = force_generic_plan",
        )
        .map_err(|e| Error::from_pg("could not prepare to read the log of the master", e))
}

pub fn incomplete(transaction: &Transaction) -> Error {
    Error::new(Kind::Log, format!("log of transaction {} is not complete", transaction.xid))
        .hint("Rows of the log were deleted. Copy the slave again with \"replica_agent copy\".")
}

pub fn read_failed(e: postgres::Error) -> Error {
    Error::from_pg("could not read the log of the master", e)
}
