//! A session on the slave is set up: taken over from a predecessor, its schema there, its settings and statements made.

use std::collections::HashSet;

use super::claim::Claim;
use super::flush_ahead::FlushAhead;
use super::stream::Stream;
use super::{Phase, SlaveSession};
use crate::applier::Applier;
use crate::config::{Apply, Slave};
use crate::error::{Error, Kind, Result};
use crate::identity::Admitted;
use crate::pipe::Pipe;
use crate::sequences::Follower;
use crate::session;
use crate::skip::Skips;
use crate::stages::{Stages, Total};
use crate::tables::Tables;
use crate::wake::Cancels;

impl SlaveSession {
    /// Connects, takes the slave over and makes sure that the agent's schema is there, once `admit` has found the
    /// database to be right and named the master's.
    pub fn open(
        slave: &Slave,
        agent: &str,
        cancels: &Cancels,
        admit: impl FnOnce(&mut Pipe) -> Result<Admitted>,
    ) -> Result<Self> {
        let mut client: Pipe = session::connect_slave(slave)?;
        let Admitted { master, route } = admit(&mut client)?;
        let cancelable = cancels.add(&slave.dsn, &client)?;
        let name = &slave.name;
        let claim = Claim::take(&mut client, agent, name, &master)?;
        create_schema(&mut client, name)?;
        if slave.two_phase {
            check_two_phase(&mut client, slave)?;
        } else {
            // Visible at once; what a crash undoes is applied again, since the master does not yet know of it.
            client.batch_execute("set synchronous_commit = off").map_err(|e| {
                Error::from_pg(format!("could not set up the session on slave \"{name}\""), e)
            })?;
        }
        let replica = session::is_replica(&mut client)
            .map_err(|e| Error::from_pg(format!("could not read the settings of slave \"{name}\""), e))?;
        let exact = slave.apply == Apply::Exact;
        let net = !exact && replica;
        if net {
            session::plan_by_index(&mut client).map_err(|e| {
                Error::from_pg(format!("could not set up the session on slave \"{name}\""), e)
            })?;
        }
        let mut prepare = |sql| {
            client.prepare(sql).map_err(|e| {
                Error::from_pg(format!("could not prepare to move the position of slave \"{name}\""), e)
            })
        };
        let mover = prepare(include_str!("../sql/move_position.sql"))?;
        let move_on = prepare(include_str!("../sql/move_on.sql"))?;
        let looker = prepare(include_str!("../sql/look.sql"))?;
        let skips = Skips::load(&mut client, agent, name)?;
        let mut session = SlaveSession {
            tables: Tables::load(&mut client, agent, name, slave.initial, &slave.mapping)?,
            client,
            claim,
            name: name.clone(),
            sequences: slave.sequences.then(|| Follower::new(name, &slave.mapping)),
            batch: 0,
            agent: agent.to_owned(),
            route,
            replica,
            sources: HashSet::new(),
            forwards: None,
            two_phase: slave.two_phase,
            durable: slave.two_phase,
            net,
            exact,
            savepoint: false,
            applier: Applier::new(agent, slave, skips),
            last: None,
            mover,
            move_on,
            looker,
            look: None,
            watchers: None,
            timeline: 0,
            phase: Phase::Idle,
            stream: Stream::default(),
            flush_ahead: slave.two_phase.then(|| FlushAhead::new(slave)),
            stages: Stages::default(),
            total: Total::default(),
            _cancelable: cancelable,
        };
        session.note_source(None)?;
        Ok(session)
    }
}

/// CREATE SCHEMA needs a right that the agent may not have, even if the schema is there.
pub fn create_schema(client: &mut Pipe, slave: &str) -> Result<()> {
    let failed =
        |e| Error::from_pg(format!("could not create schema pyreplica_agent on slave \"{slave}\""), e);
    let there: bool = client
        .query_one(
            "select to_regclass('pyreplica_agent.piece') is not null
                    and to_regclass('pyreplica_agent.skip') is not null
                    and to_regclass('pyreplica_agent.source') is not null",
            &[],
        )
        .map_err(failed)?
        .get(0);
    if there {
        return Ok(());
    }
    let script = include_str!("../sql/slave_schema.sql");
    client.batch_execute(&format!("begin; {script}; commit")).map_err(|e| {
        failed(e).hint("Grant CREATE on the database to the agent's role, or run replica_agent/src/sql/slave_schema.sql as its owner.")
    })
}

fn check_two_phase(client: &mut Pipe, slave: &Slave) -> Result<()> {
    let slots: i32 = client
        .query_one("select current_setting('max_prepared_transactions')::int", &[])
        .map_err(|e| Error::from_pg(format!("could not read the settings of slave \"{}\"", slave.name), e))?
        .get(0);
    if slots > 0 {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("max_prepared_transactions is 0 on slave \"{}\"", slave.name))
        .with_sqlstate("55000")
        .detail(format!("Two-phase commit needs it on the server of {}.", slave.dsn))
        .hint("Set max_prepared_transactions = 10 in its postgresql.conf and restart it, or set two_phase = false for this slave."))
}
