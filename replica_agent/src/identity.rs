//! Which database a session is in, whatever its connection string says: a slave must not be the master, nor another
//! slave, under another name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::node::Route;
use crate::session::Session;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Of the server and of all its physical copies: standbys, promoted ones, images of a disk.
    pub system_identifier: String,
    /// When the server was started, to the microsecond: of two sessions at the same time it tells whether they are in the
    /// same server.
    pub started: String,
    /// Oid of the database.
    pub database: u32,
}

/// What is known of master and slave once a session on the slave may be used.
pub struct Admitted {
    pub master: Identity,
    pub route: Route,
}

/// The databases that slaves of this agent are in.
#[derive(Clone, Default)]
pub struct Identities(Arc<Mutex<HashMap<Identity, String>>>);

impl Identities {
    /// Takes the slave's database for the slave; an error if it is the master's, or another slave's.
    pub fn take(&self, master: &mut impl Session, slave: &mut impl Session, name: &str) -> Result<Admitted> {
        let (of_slave, of_master) = (identify(slave)?, identify(master)?);
        if of_slave == of_master {
            return Err(Error::new(Kind::Refused, format!("slave \"{name}\" is the master itself"))
                .hint("Give the slave a dsn that leads to another database."));
        }
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = taken.get(&of_slave).filter(|other| *other != name) {
            return Err(Error::new(
                Kind::Refused,
                format!("slaves \"{other}\" and \"{name}\" are the same database"),
            )
            .hint("Remove one of them from the configuration."));
        }
        // Where it was before a restart of its server says nothing.
        taken.retain(|_, taken| taken != name);
        taken.insert(of_slave, name.to_owned());
        drop(taken);
        Ok(Admitted { master: of_master, route: Route::find(master, slave, name)? })
    }

    /// The slave's database is free for another slave.
    pub fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, taken| taken != name);
    }
}

/// Which database it is.
pub fn identify(client: &mut impl Session) -> Result<Identity> {
    let row = client
        .query_one(
            "select (select system_identifier::text from pg_control_system()), pg_postmaster_start_time()::text, oid
               from pg_database where datname = current_database()",
            &[],
        )
        .map_err(|e| Error::from_pg("could not ask a server which database it is", e))?;
    Ok(Identity { system_identifier: row.get(0), started: row.get(1), database: row.get(2) })
}
