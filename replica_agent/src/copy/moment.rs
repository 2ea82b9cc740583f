//! A moment of the master that is held until tables are copied as of it.
//!
//! In: tables that a slave is to get beside others that it has. Out: where the stream has to come to before, and the
//! snapshot of just that for the copy: then no row refers to one that the slave does not have yet, or has no longer.
//! The tables stay locked, so that none is emptied in between.
//!
//! Invariant: while it is held, no other session of ours asks for a lock on these tables. Who wants to empty one waits for
//! us, whoever comes next waits behind them, and no server would see that we wait for ourselves. So the copy reads by the
//! session that holds the moment.

use postgres::Client;

use super::together::{lock, lock_timeout, Side};
use super::{captured_tables, CapturedTable};
use crate::control::MasterState;
use crate::error::{Error, Result};
use crate::feed::Context;
use crate::position::Target;
use crate::session;
use crate::wake::Cancelable;

pub struct Moment {
    /// In a transaction that ends with it.
    pub(super) client: Client,
    _cancelable: Cancelable,
    /// The triggers of what is locked.
    triggers: Vec<u32>,
    pub target: Target,
    /// The stream has come to it.
    pub reached: bool,
}

/// By which session the master's tables are read.
pub enum Master<'a> {
    /// In a new transaction each time.
    Free(&'a mut Client),
    /// In the one that holds the moment.
    Held(&'a mut Moment),
}

impl Moment {
    pub fn hold(context: &Context, tables: &[CapturedTable]) -> Result<Moment> {
        let failed = |e| Error::from_pg("could not hold a snapshot of new tables on the master", e);
        let dsn = &context.config.master.dsn;
        let mut client: Client = session::connect_master(dsn, "copy")?;
        let cancelable = context.cancels.add(dsn, &client)?;
        let timeout = lock_timeout(&mut client).map_err(failed)?;
        client.batch_execute("begin isolation level repeatable read read only").map_err(failed)?;
        let side = (Side::Master, timeout);
        lock(&mut client, &tables.iter().collect::<Vec<_>>(), side, &context.stop, &failed)?;
        let target = MasterState::read(&mut client)?.now;
        client.execute("select pyreplica.flush_wal()", &[]).map_err(failed)?;
        let mut moment =
            Moment { client, _cancelable: cancelable, triggers: Vec::new(), target, reached: false };
        // What was locked by its name may have been another table by then.
        let same = |now: &CapturedTable| {
            let id = |table: &CapturedTable| (table.trigger_oid, table.full_name());
            tables.iter().any(|table| id(table) == id(now))
        };
        let captured = moment.captured()?;
        moment.triggers = captured.iter().filter(|now| same(now)).map(|table| table.trigger_oid).collect();
        Ok(moment)
    }

    /// What is captured at this moment. To read filters takes locks of their tables, so it is us who ask, and keep none.
    pub fn captured(&mut self) -> Result<Vec<CapturedTable>> {
        let failed = |e| Error::from_pg("could not read the captured tables as of a moment", e);
        self.client.batch_execute("savepoint captured").map_err(failed)?;
        let captured = captured_tables(&mut self.client)?;
        self.client.batch_execute("rollback to captured; release captured").map_err(failed)?;
        Ok(captured)
    }

    /// Is the table locked?
    pub fn holds(&self, table: &CapturedTable) -> bool {
        self.triggers.contains(&table.trigger_oid)
    }

    pub(super) fn snapshot(&self) -> String {
        self.target.snapshot.to_string()
    }
}

impl Master<'_> {
    pub(super) fn client(&mut self) -> &mut Client {
        match self {
            Master::Free(client) => client,
            Master::Held(moment) => &mut moment.client,
        }
    }
}
