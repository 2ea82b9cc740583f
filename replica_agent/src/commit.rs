//! A slave's session, and the protocol by which its position moves. The only module that moves a position.
//!
//! In: chunks and the position after them. Out: the slave moved from one position to the next, whole or not at all.
//!
//! `open` sets the session up, `claim` has nobody else at work on the slave, `recovery` settles what a crash left prepared,
//! `window` applies changes, `batch` begins and commits the transaction that they are in, step by step; `stream` sends the
//! same without waiting, and `flush_ahead` has less for the commit to wait for.
//!
//! # Protocol
//!
//! 1. `begin`, and a lock on the position row: a second agent that does not yet know of us waits here, then finds
//!    another batch number and gives up.
//! 2. The changes, conflict rows, the position row with the next batch number.
//! 3. `PREPARE TRANSACTION 'pyreplica:<agent>:<slave>:<batch>'`. If it fails the transaction is rolled back.
//! 4. `COMMIT PREPARED`. With `two_phase = false` 3 and 4 are one COMMIT.
//!
//! A crash before 3 leaves the old position, one after 4 the new one. In between recovery settles it, before anything
//! else is applied: an independent slave commits, since nobody else has a say; in an atomic group the decision row on
//! the master says which. Whether an unanswered COMMIT took place the position row tells.
//!
//! Done step by step each answer is awaited; `stream` sends the same without the lock of 1, the position being moved only
//! from the batch before.
//!
//! # A predecessor's session that outlives it
//!
//! The server carries out what a killed agent sent: whole batches, and the beginning of one, which is rolled back unless
//! its PREPARE has arrived. PREPARE, COMMIT and COMMIT PREPARED may succeed at any time until the session ends. What
//! recovery saw, or the position said, before that is worth nothing; so a session first ends the one before it, and waits
//! for its end (`claim`). With this, what is prepared is all there when recovery looks, and the position moves by us
//! alone.
//!
//! Should a batch be prepared later all the same, by whoever does not hold the advisory lock, then the lock on the
//! position row keeps us from applying anything beside it: both cannot hold it, so there is never a second batch of one
//! number, in a group neither prepared nor decided. `begin` gives up waiting for the row after a second; the next
//! session's recovery then settles what holds it.

use std::collections::HashSet;

use postgres::Statement;

use crate::applier::Applier;
use crate::error::{Error, Result};
use crate::node::Route;
use crate::pipe::{Asked, Pipe};
use crate::position::{Position, Rank, Xid};
use crate::sequences::{Follower, Moved};
use crate::session::Session;
use crate::stages::{Stages, Total};
use crate::tables::Tables;
use crate::tell::Teller;
use crate::wake::Cancelable;
use flush_ahead::FlushAhead;
use recovery::gid;
use stream::Stream;

pub use claim::Claim;
pub use open::create_schema;
pub use stream::Committed;

mod batch;
mod claim;
mod flush_ahead;
mod open;
mod recovery;
mod stream;
mod window;

/// The master that a position belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterId {
    pub system_identifier: String,
    pub timeline: i32,
}

/// Where a slave stands, by its own word.
#[derive(Clone, Debug)]
pub struct Standing {
    pub master: MasterId,
    pub position: Position,
    pub batch: i64,
}

/// One slave's session and what is known of the slave.
pub struct SlaveSession {
    client: Pipe,
    claim: Claim,
    pub name: String,
    pub tables: Tables,
    /// `None` where they are left alone.
    sequences: Option<Follower>,
    /// Of the last batch committed, or at hand and prepared.
    pub batch: i64,
    agent: String,
    route: Route,
    /// Triggers and foreign keys of the slave rest.
    replica: bool,
    /// Nodes that are noted as having made changes that came here.
    sources: HashSet<String>,
    /// In the transaction at hand, or the last one, the slave logged what was applied; unknown before the first.
    forwards: Option<bool>,
    two_phase: bool,
    /// No crash of the slave can undo what is committed.
    durable: bool,
    /// Whether net effects are applied: nothing here waits for each single change. Where triggers and constraints do not
    /// rest (`replica`), only what they refuse one by one.
    net: bool,
    /// Never.
    exact: bool,
    /// The transaction at hand has a savepoint.
    savepoint: bool,
    applier: Applier,
    /// The last transaction of the batch whose position was written.
    last: Option<(Rank, Xid)>,
    mover: Statement,
    /// The same for the stream.
    move_on: Statement,
    looker: Statement,
    /// A look at what is to be done there that has not been heard of.
    look: Option<Asked>,
    /// The triggers and rules that fire for what is applied, when it was last looked at.
    watchers: Option<String>,
    timeline: i32,
    phase: Phase,
    stream: Stream,
    /// Where a commit waits for the slave's disk.
    flush_ahead: Option<FlushAhead>,
    /// Of the batch at hand, and of all before it.
    stages: Stages,
    total: Total,
    _cancelable: Cancelable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Open,
    Prepared,
}

impl Standing {
    /// Reads it; `None` before the first start.
    pub fn read(client: &mut impl Session, agent: &str, slave: &str) -> Result<Option<Self>> {
        let row = client
            .query_opt(include_str!("sql/position.sql"), &[&agent, &slave])
            .map_err(|e| Error::from_pg(format!("could not read the position of slave \"{slave}\""), e))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Standing {
            master: MasterId {
                system_identifier: row.get("system_identifier"),
                timeline: row.get("timeline"),
            },
            position: Position {
                rank: row.get("rank"),
                snapshot: row.get::<_, &str>("snapshot").parse()?,
                settled: row.get("settled"),
                last_xid: row.get::<_, Option<&str>>("last_xid").and_then(|x| x.parse().ok()),
                last_ts: row.get("last_ts"),
            },
            batch: row.get("batch"),
        }))
    }
}

impl SlaveSession {
    /// Where it stands; `None` before the first start.
    pub fn standing(&mut self) -> Result<Option<Standing>> {
        let standing = Standing::read(&mut self.client, &self.agent, &self.name)?;
        if let Some(standing) = &standing {
            (self.batch, self.timeline) = (standing.batch, standing.master.timeline);
        }
        Ok(standing)
    }

    /// Writes the first position.
    pub fn first_position(&mut self, master: &MasterId, position: &Position) -> Result<()> {
        self.timeline = master.timeline;
        self.client
            .execute(
                include_str!("sql/insert_position.sql"),
                &[
                    &self.agent,
                    &self.name,
                    &master.system_identifier,
                    &master.timeline,
                    &position.rank,
                    &position.snapshot.to_string(),
                    &position.last_xid.map(|x| x.to_string()),
                    &position.last_ts,
                    &position.settled,
                ],
            )
            .map_err(|e| {
                Error::from_pg(format!("could not write the first position of slave \"{}\"", self.name), e)
            })?;
        Ok(())
    }

    /// The master was recognised on another timeline: positions written from now on name it.
    pub fn set_timeline(&mut self, timeline: i32) {
        self.timeline = timeline;
    }

    /// Where to add up what batches took.
    pub fn count_to(&mut self, total: Total) {
        self.total = total;
    }

    /// Whom to tell of conflicts.
    pub fn tell_to(&mut self, teller: Teller) {
        self.applier.tell_to(teller);
    }

    /// The session and what is known of the slave's tables, for what is none of a batch. Nothing may be under way.
    pub fn parts(&mut self) -> Result<(&mut Pipe, &mut Tables)> {
        self.step_by_step()?;
        Ok((&mut self.client, &mut self.tables))
    }

    /// Under which other sessions may work on the slave.
    pub fn claim(&self) -> Claim {
        self.claim.clone()
    }

    pub fn is_far(&self) -> bool {
        self.client.is_far()
    }

    /// Nothing has been done since the last commit.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// The transaction at hand must not be joined by those of another origin.
    pub fn ends_with_origin(&self) -> bool {
        self.phase == Phase::Open && self.forwards == Some(true)
    }

    pub fn is_durable(&self) -> bool {
        self.durable
    }

    pub fn follows_sequences(&self) -> bool {
        self.sequences.is_some()
    }

    /// Brings the sequences to where all those of the master stand, or beyond.
    pub fn catch_up_sequences(&mut self, all: &[Moved]) -> Result<()> {
        let Some(sequences) = &mut self.sequences else { return Ok(()) };
        sequences.hear_all(all);
        let alone = self.phase == Phase::Idle;
        if alone {
            self.client.send_batch("begin read write".to_owned());
        }
        sequences.catch_up(&mut self.client)?;
        if alone {
            self.client.send_batch("commit".to_owned());
        }
        self.answered()
    }

    /// Takes note of where they stand: the next batch brings the slave's there.
    pub fn hear_of_sequences(&mut self, all: &[Moved]) {
        if let Some(sequences) = &mut self.sequences {
            sequences.hear_anew(all);
        }
    }

    /// Is the slave still there?
    pub fn ping(&mut self) -> Result<()> {
        self.client
            .batch_execute("select")
            .map_err(|e| Error::from_pg(format!("lost slave \"{}\"", self.name), e))
    }

    /// Waits for the answers to all that was sent; the first failure, once there are no more to come.
    fn answered(&mut self) -> Result<()> {
        self.client.await_all();
        self.client.settle(self.client.sent()).map_err(|(_, e)| self.batch_failed(e))
    }

    fn batch_failed(&self, e: postgres::Error) -> Error {
        Error::from_pg(format!("could not apply a batch on slave \"{}\"", self.name), e)
    }

    fn run(&mut self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).map_err(|e| self.batch_failed(e))
    }

    fn gid(&self) -> Result<String> {
        gid(&self.agent, &self.name, self.batch)
    }
}
