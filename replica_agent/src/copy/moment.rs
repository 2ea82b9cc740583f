//! A moment of the master that is held until tables are copied as of it.
//!
//! In: tables that a slave is to get beside others that it has. Out: where the stream has to come to before, and the
//! snapshot of just that for the copy: then no row refers to one that the slave does not have yet, or has no longer.
//! The tables stay locked, so that none is emptied in between.

use postgres::Client;

use super::together::{lock, lock_timeout, Side};
use super::CapturedTable;
use crate::control::MasterState;
use crate::error::{Error, Result};
use crate::feed::Context;
use crate::position::Target;
use crate::session;
use crate::wake::Cancelable;

pub struct Moment {
    /// In a transaction that ends with it.
    _client: Client,
    _cancelable: Cancelable,
    /// By which another session takes the snapshot.
    pub id: String,
    pub target: Target,
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
        let id = client.query_one("select pg_export_snapshot()", &[]).map_err(failed)?.get(0);
        Ok(Moment { _client: client, _cancelable: cancelable, id, target })
    }
}
