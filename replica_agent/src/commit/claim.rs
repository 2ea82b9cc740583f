//! Whose slave it is: keeps sessions of two agents, or of two lives of one, from working on it at the same time.
//!
//! In: a new session on the slave. Out: the claim to the slave, and sessions beside that one, which work under the claim.
//!
//! The master elects us, but one that was elected before may not know yet that it no longer is; and the server carries out
//! what a killed one has sent, be it PREPARE or COMMIT, perhaps long after we have started. So on the slave itself there are
//! two advisory locks:
//!
//! * that of the stream, held by the session that serves the slave;
//! * that of the work beside it, shared by all other sessions that make, fill or empty its tables.
//!
//! A session takes its lock before it looks at anything, and holds it until it ends. Who takes over ends the holder of the
//! first and waits for that lock; then ends the holders of the second and waits until it is free: what is then there stays
//! as it is. We may, since the master elected us and not the other.
//!
//! A session beside may come late, when another agent has taken over and looked for such sessions already. So once it has
//! its lock it makes sure that the session which claimed the slave for it still has the first one. If it has, whoever takes
//! over has yet to get that lock, and only then looks for holders of the second: ours is found, and ended. If not, the
//! session is given up before it has done anything.

use postgres::Client;

use super::recovery::gid_prefix;
use crate::config::Slave;
use crate::error::{Error, Kind, Result};
use crate::identity::Identity;
use crate::pipe::Pipe;
use crate::session;
use crate::wake::{Cancelable, Cancels};

/// That the slave is ours, as long as the session lives that has claimed it.
#[derive(Clone, Debug)]
pub struct Claim {
    slave: String,
    stream: i64,
    beside: i64,
    /// Of the session. Its number alone may be that of another one later.
    pid: i32,
    began: String,
}

impl Claim {
    /// Makes this session the only one that is at work for the slave, until it ends.
    pub(super) fn take(client: &mut Pipe, agent: &str, slave: &str, master: &Identity) -> Result<Claim> {
        let (stream, beside) =
            (lock_key(agent, slave, master, Work::Stream), lock_key(agent, slave, master, Work::Beside));
        end_others(client, slave, stream, "lock")?;
        // What they were about to commit is there or not from now on; ours may begin.
        end_others(client, slave, beside, "xact_lock")?;
        let row = client
            .query_one(include_str!("../sql/own_session.sql"), &[])
            .map_err(|e| Error::from_pg(format!("could not take over slave \"{slave}\""), e))?;
        Ok(Claim { slave: slave.to_owned(), stream, beside, pid: row.get(0), began: row.get(1) })
    }

    /// Opens a session beside.
    pub fn open(&self, slave: &Slave, cancels: &Cancels) -> Result<(Client, Cancelable)> {
        let mut client: Client = session::connect_slave(slave)?;
        let cancelable = cancels.add(&slave.dsn, &client)?;
        self.join(&mut client)?;
        Ok((client, cancelable))
    }

    fn join(&self, client: &mut Client) -> Result<()> {
        let failed = |e| Error::from_pg(format!("could not set up a session on slave \"{}\"", self.slave), e);
        client.query_one("select pg_advisory_lock_shared($1)", &[&self.beside]).map_err(failed)?;
        // Only now: see above.
        let ours: bool = client
            .query_one(include_str!("../sql/holds_lock.sql"), &[&self.stream, &self.pid, &self.began])
            .map_err(failed)?
            .get(0);
        match ours {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Connection,
                format!("the session that served slave \"{}\" has ended", self.slave),
            )
            .detail("Another agent may have taken the slave over.")),
        }
    }
}

/// Takes an advisory lock, once the sessions that hold it are ended.
fn end_others(client: &mut Pipe, slave: &str, key: i64, kind: &str) -> Result<()> {
    let failed = |e| Error::from_pg(format!("could not take over slave \"{slave}\""), e);
    let free: bool =
        client.query_one(&format!("select pg_try_advisory_{kind}($1)"), &[&key]).map_err(failed)?.get(0);
    if free {
        return Ok(());
    }
    for row in client.query(include_str!("../sql/end_predecessor.sql"), &[&key]).map_err(failed)? {
        log::info!("slave \"{slave}\": ended session {} of a predecessor", row.get::<_, i32>(0));
    }
    client
        .batch_execute(&format!(
            "begin; set local lock_timeout = '5s'; select pg_advisory_{kind}({key}); commit"
        ))
        .map_err(|e| {
            failed(e).hint("A session of an agent before this one does not end: look for it in pg_locks (advisory) on the slave.")
        })
}

/// Not that of an election: the slave's database may be the master of an agent of the same name. An agent of another
/// master is no predecessor; the position will tell it that the slave is taken. The master may have been restarted since.
fn lock_key(agent: &str, slave: &str, master: &Identity, work: Work) -> i64 {
    let Identity { system_identifier, database, .. } = master;
    let of_slave = format!("{}{system_identifier}:{database}", gid_prefix(agent, slave));
    let what = match work {
        Work::Stream => "",
        Work::Beside => "copy",
    };
    session::lock_key(&of_slave, what)
}

/// What a session is there for: of one kind there is one, of the other there are several.
#[derive(Clone, Copy)]
enum Work {
    Stream,
    Beside,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_keys_tell_masters_and_elections_apart() {
        let key = |agent, started: &str, database| {
            let (system_identifier, started) = ("7".to_owned(), started.to_owned());
            lock_key(agent, "reports", &Identity { system_identifier, started, database }, Work::Stream)
        };
        let shop = key("shop", "today", 1);
        assert_eq!(shop, key("shop", "yesterday", 1));
        assert_ne!(shop, key("shop", "today", 2));
        assert_ne!(shop, key("sho", "today", 1));
        assert_ne!(shop, session::lock_key("shop", "reports"));
    }
}
