//! The agent's session for everything on the master but reading the log: election, recognition of the master, what the
//! master knows of its slaves, decisions of an atomic group, rotation.
//!
//! Invariant: what is written to `pyreplica.slave` is never ahead of what the slave has committed.

use std::time::{Duration, Instant};

use postgres::{Client, Statement};

use crate::commit::{MasterId, Standing};
use crate::config::Config;
use crate::copy::{captured_tables, CapturedTable, Moment};
use crate::error::{Error, Kind, Result};
use crate::position::{Position, Rank, Target, Xid};
use crate::sequences::{self, Moved};
use crate::session;
use crate::stages::Stages;
use crate::tables::Captured;
use crate::wake::{Cancelable, Cancels, Stop};

/// The log of the master at one moment.
#[derive(Clone, Debug)]
pub struct MasterState {
    pub id: MasterId,
    /// Everything that is committed now.
    pub now: Target,
    /// The largest rank and transaction that the log no longer holds.
    horizon_rank: Rank,
    horizon_xid: Xid,
}

impl MasterState {
    pub fn read(client: &mut Client) -> Result<MasterState> {
        let row = client
            .query_typed_one(include_str!("sql/master_state.sql"), &[])
            .map_err(|e| Error::from_pg("could not read the state of the master", e))?;
        let xid = |name: &str| row.get::<_, Option<&str>>(name).and_then(|x| x.parse::<Xid>().ok());
        let horizon_rank: Rank = row.get("horizon_rank");
        // What ranks below the horizon was truncated with it; its transaction need not be known.
        let (rank, last_xid) = match row.get::<_, Option<Rank>>("last_rank") {
            Some(last) if last > horizon_rank => (last, xid("last_xid")),
            _ => (horizon_rank, None),
        };
        Ok(MasterState {
            id: MasterId { system_identifier: row.get("system_identifier"), timeline: row.get("timeline") },
            now: Target { rank, snapshot: row.get::<_, &str>("snapshot").parse()?, last_xid },
            horizon_rank,
            horizon_xid: xid("horizon_xid").unwrap_or(0),
        })
    }
}

pub struct Control {
    pub client: Client,
    /// What is held for the copy of new tables; it ends with us at the latest.
    pub moment: Option<Moment>,
    agent: String,
    report: Statement,
    _cancelable: Cancelable,
}

impl Control {
    pub fn open(config: &Config, cancels: &Cancels) -> Result<Self> {
        let mut client: Client = session::connect_master(&config.master.dsn, "control")?;
        check_extension(&mut client)?;
        let cancelable = cancels.add(&config.master.dsn, &client)?;
        // A decision must be durable when it is taken for one.
        client
            .batch_execute("set synchronous_commit = on")
            .map_err(|e| Error::from_pg("could not set up the session on the master", e))?;
        let report = client.prepare(include_str!("sql/report_slave.sql")).map_err(explain_missing)?;
        Ok(Control {
            client,
            moment: None,
            agent: config.agent_name().to_owned(),
            report,
            _cancelable: cancelable,
        })
    }

    /// Tries to become the one agent for this slave (or, with an empty name, for the agent's group) until the
    /// session ends.
    pub fn elect(&mut self, slave: &str) -> Result<bool> {
        let key = session::lock_key(&self.agent, slave);
        let row = self
            .client
            .query_one("select pg_try_advisory_lock($1)", &[&key])
            .map_err(|e| Error::from_pg("could not take the advisory lock of the agent on the master", e))?;
        Ok(row.get(0))
    }

    /// The same for a command that does not stand by, with patience for an agent that is just ending: the server may
    /// see the end of its session a moment later than we see the end of the process.
    pub fn elect_soon(&mut self, slave: &str, stop: &Stop) -> Result<bool> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let deadline = Instant::now() + PATIENCE;
        while !self.elect(slave)? {
            if Instant::now() > deadline || stop.wait(Duration::from_millis(100)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn state(&mut self) -> Result<MasterState> {
        MasterState::read(&mut self.client)
    }

    /// Refuses a master that is not the one the position comes from, or that does not know any more what the slave
    /// has applied.
    pub fn recognise(&mut self, slave: &str, standing: &Standing) -> Result<MasterState> {
        let state = self.state()?;
        let Standing { master, position, .. } = standing;
        if master.system_identifier != state.id.system_identifier {
            return Err(refused(format!("slave \"{slave}\" belongs to another master"))
                .detail(format!(
                    "Its position was taken on the server with system identifier {}, the master is {}.",
                    master.system_identifier, state.id.system_identifier
                ))
                .hint(
                    "Correct the dsn of the master, or copy the slave again with \"replica_agent copy\".",
                ));
        }
        let known = match position.last_xid {
            _ if position.rank == 0 => true,
            last_xid => self
                .client
                .query_one(
                    include_str!("sql/knows_transaction.sql"),
                    &[&position.rank, &last_xid.map(|x| x.to_string())],
                )
                .map_err(|e| {
                    Error::from_pg("could not look for the last transaction of the slave in the log", e)
                })?
                .get(0),
        };
        if !known {
            return Err(refused(format!("the master is behind its slave \"{slave}\""))
                .detail(format!(
                    "The last transaction that the slave applied (log id {}, transaction {}, of {}) is unknown to the \
                     master: it was restored from a backup, failed over to a server that had not received it, or its \
                     extension was created anew.",
                    position.rank,
                    position.last_xid.map_or("unknown".to_owned(), |x| x.to_string()),
                    position.last_ts.map_or("an unknown time".to_owned(), |ts| ts.to_string())
                ))
                .hint("Copy the slave again with \"replica_agent copy\"."));
        }
        Ok(state)
    }

    /// Makes sure that the log keeps, and has kept, everything after the position.
    pub fn ensure_registered(&mut self, slave: &str, position: &Position) -> Result<()> {
        let row = self
            .client
            .query_opt(include_str!("sql/slave_state.sql"), &[&self.agent, &slave])
            .map_err(|e| Error::from_pg("could not read pyreplica.slave", e))?;
        if row.is_some_and(|row| row.get::<_, &str>(0) != "needs copy") {
            return Ok(());
        }
        // Nothing has kept the log for it meanwhile. First keep it, then look whether it is still whole.
        self.register(slave, position)?;
        let MasterState { horizon_rank, horizon_xid, .. } = self.state()?;
        let whole = position.rank >= horizon_rank
            && (horizon_xid == 0 || position.snapshot.sees_all_up_to(horizon_xid));
        if whole {
            return Ok(());
        }
        let error = refused(format!("slave \"{slave}\" needs to be copied again"))
            .with_sqlstate("55000")
            .detail(format!(
                "The log no longer holds all that it has not applied: it stands at {position}, the log begins after \
                 {horizon_rank} (transaction {horizon_xid})."
            ))
            .hint("Copy the slave again with \"replica_agent copy\".");
        self.report(slave, "needs copy", None, Some(&error), None)?;
        Err(error)
    }

    /// Tells the master of a slave, so that the log is kept for it.
    pub fn register(&mut self, slave: &str, position: &Position) -> Result<()> {
        self.client
            .execute(
                include_str!("sql/register_slave.sql"),
                &[
                    &self.agent,
                    &slave,
                    &position.rank,
                    &position.snapshot.to_string(),
                    &position.last_ts,
                    &position.settled,
                ],
            )
            .map_err(|e| Error::from_pg(format!("could not register slave \"{slave}\" on the master"), e))?;
        Ok(())
    }

    /// Writes what is known of a slave; false when the slave was given up meanwhile.
    pub fn report(
        &mut self,
        slave: &str,
        state: &str,
        position: Option<&Position>,
        error: Option<&Error>,
        stages: Option<&Stages>,
    ) -> Result<bool> {
        let written = self
            .client
            .execute(
                &self.report,
                &[
                    &self.agent,
                    &slave,
                    &state,
                    &position.map(|p| p.rank),
                    &position.map(|p| p.snapshot.to_string()),
                    &position.and_then(|p| p.last_ts),
                    &error.map(one_line),
                    &error.and_then(|e| e.sqlstate()),
                    &error.and_then(|e| e.hint_text()),
                    &stages.map(Stages::to_json),
                    &position.map(|p| p.settled),
                ],
            )
            .map_err(|e| {
                Error::from_pg(format!("could not report the state of slave \"{slave}\" to the master"), e)
            })?;
        Ok(written == 1)
    }

    /// The captured table that a relation is, or is a partition of, as it is called now.
    pub fn captured_as(&mut self, oid: u32) -> Result<Option<Captured>> {
        let row = self
            .client
            .query_opt(include_str!("sql/captured_as.sql"), &[&oid])
            .map_err(|e| Error::from_pg(format!("could not look for the table with OID {oid}"), e))?;
        Ok(row.map(|row| Captured { schema: row.get(0), name: row.get(1), trigger_oid: row.get(2) }))
    }

    /// Where the replicated sequences stand now.
    pub fn sequences(&mut self) -> Result<Vec<Moved>> {
        Ok(sequences::on_master(&mut self.client, None)?.into_iter().map(|(moved, _)| moved).collect())
    }

    /// The stream has come to the moment that is held.
    pub fn moment_is_reached(&mut self) {
        if let Some(moment) = &mut self.moment {
            moment.reached = true;
        }
    }

    /// Ends the moment that is held, unless the stream is still on its way there.
    pub fn end_moment(&mut self) {
        self.moment.take_if(|moment| moment.reached);
    }

    /// The tables that are captured now, or were at the moment that is held.
    pub fn captured(&mut self) -> Result<Vec<CapturedTable>> {
        match &mut self.moment {
            Some(moment) => moment.captured(),
            None => captured_tables(&mut self.client),
        }
    }

    pub fn rotate(&mut self) -> Result<()> {
        self.client
            .batch_execute("select pyreplica.rotate_log()")
            .map_err(|e| Error::from_pg("could not rotate the log of the master", e))
    }

    /// The decision to commit a batch of an atomic group; taken when this returns.
    pub fn decide(&mut self, batch: i64) -> Result<()> {
        self.client
            .execute("insert into pyreplica.decision (agent, batch) values ($1, $2)", &[&self.agent, &batch])
            .map_err(|e| Error::from_pg(format!("could not decide on batch {batch}"), e))?;
        Ok(())
    }

    pub fn is_decided(&mut self, batch: i64) -> Result<bool> {
        let row = self
            .client
            .query_opt(
                "select from pyreplica.decision where agent = $1 and batch = $2",
                &[&self.agent, &batch],
            )
            .map_err(|e| Error::from_pg(format!("could not look for the decision on batch {batch}"), e))?;
        Ok(row.is_some())
    }

    /// Every slave has committed what was decided.
    pub fn forget_decisions(&mut self) -> Result<()> {
        self.client
            .execute("delete from pyreplica.decision where agent = $1", &[&self.agent])
            .map_err(|e| Error::from_pg("could not delete a decision on the master", e))?;
        Ok(())
    }
}

fn refused(message: String) -> Error {
    Error::new(Kind::Refused, message)
}

/// Message and detail, as they stand in `slave_status`: there the table and the key must not be missing.
fn one_line(e: &Error) -> String {
    match e.detail_text() {
        Some(detail) => format!("{e:#} ({})", detail.trim_end_matches('.')),
        None => format!("{e:#}"),
    }
}

/// The private API of the extension goes with its version.
fn check_extension(client: &mut Client) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let row = client
        .query_opt("select extversion from pg_extension where extname = 'pyreplica'", &[])
        .map_err(|e| Error::from_pg("could not look for extension pyreplica on the master", e))?;
    match row.map(|row| row.get::<_, String>(0)) {
        None => Err(refused("extension pyreplica is not installed on the master".to_owned())
            .hint("Run CREATE EXTENSION pyreplica in the master's database.")),
        Some(version) if version != own => Err(refused(format!(
            "extension pyreplica on the master has version {version}, the agent has {own}"
        ))
        .hint("Install the same version of both; ALTER EXTENSION pyreplica UPDATE follows on the master.")),
        Some(_) => Ok(()),
    }
}

fn explain_missing(e: postgres::Error) -> Error {
    let e = Error::from_pg("could not prepare to use pyreplica on the master", e);
    match e.sqlstate() {
        Some("42501") => {
            e.hint("Run SELECT pyreplica.allow_agent('role') for the agent's role in the master's database.")
        }
        _ => e,
    }
}
