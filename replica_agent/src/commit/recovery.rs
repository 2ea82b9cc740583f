//! What a predecessor leaves on a slave: a session that is still at work there, and batches that are prepared.
//!
//! In: a new session on the slave. Out: nobody else is at work for this slave, and nothing of its batches is prepared.
//!
//! An agent that is killed, or cut off, leaves its session on the slave to itself: the statement that was sent, be it
//! PREPARE or COMMIT, is carried out all the same, perhaps long after we have started. So each session holds an
//! advisory lock on the slave from before it looks at anything until it ends, and a new one ends the holder and waits
//! for the lock: what is then there stays as it is. We may, since the master elected us and not the other.

use super::SlaveSession;
use crate::bind::Owned;
use crate::error::{Error, Kind, Result};
use crate::identity::{identify, Identity};
use crate::pipe::Pipe;
use crate::quote;
use crate::session::{self, Session};

/// PostgreSQL's limit for the identifier of a prepared transaction.
const GID_BYTES_MAX: usize = 199;

impl SlaveSession {
    /// Settles what a crash left prepared; `decided` says for a batch whether it is to be committed.
    pub fn recover(&mut self, decided: &mut dyn FnMut(i64) -> Result<bool>) -> Result<()> {
        let failed = |name: &str, e| Error::from_pg(format!("could not recover slave \"{name}\""), e);
        self.route.find_slave(&mut self.client, &self.name)?;
        self.forwards = None;
        let prefix = gid_prefix(&self.agent, &self.name);
        let rows = self
            .client
            .query(include_str!("../sql/prepared.sql"), &[&prefix])
            .map_err(|e| failed(&self.name, e))?;
        for row in rows {
            let gid: &str = row.get(0);
            let Some(batch) = gid.strip_prefix(&prefix).and_then(|b| b.parse::<i64>().ok()) else {
                continue; // of an agent or slave whose name begins like ours
            };
            let verb = if decided(batch)? { "commit" } else { "rollback" };
            self.client
                .batch_execute(&format!("{verb} prepared {}", quote::literal(gid)))
                .map_err(|e| failed(&self.name, e))?;
            log::info!("slave \"{}\": recovery: {verb} of batch {batch}, which was prepared", self.name);
        }
        Ok(())
    }

    /// Asks behind all that was sent, so that what that has prepared is committed by then, whether `recover` would find
    /// something, or something else is wanted of us there; and who watches changes there. Between two batches.
    pub fn look(&mut self) {
        if self.look.is_none() {
            let texts = [gid_prefix(&self.agent, &self.name), self.agent.clone(), self.name.clone()];
            let mut params: Vec<Owned> = texts.map(Some).map(Owned::Text).into();
            params.push(Owned::Bool(Some(self.route.ends_at_a_node())));
            self.look = Some(self.client.ask(&self.looker, params));
        }
    }

    /// The answer, when it is there: is nothing to be done but to go on? At a node that is idle there is always something.
    pub fn looked(&mut self) -> Result<Option<bool>> {
        let client = &mut self.client;
        let Some(look) = self.look.take_if(|look| client.has_answered(look)) else { return Ok(None) };
        let rows = client.answer(look).map_err(|e| self.look_failed(e))?;
        let Some(row) = rows.as_deref().and_then(<[_]>::first) else { return Ok(None) };
        let (calm, watchers): (bool, String) = (row.get("calm"), row.get("watchers"));
        if self.watchers.as_ref() != Some(&watchers) {
            // Some table may have got one that has to see each change, or has lost it.
            self.applier.forget();
            self.watchers = Some(watchers);
        }
        let idle = self.is_idle() && !self.is_waiting();
        Ok(Some(calm && !(idle && self.route.ends_at_a_node())))
    }

    pub(super) fn look_failed(&self, e: postgres::Error) -> Error {
        Error::from_pg(format!("could not look after slave \"{}\"", self.name), e)
    }
}

/// Makes this session the only one that is at work for the slave, until it ends.
pub(super) fn take_over(client: &mut Pipe, agent: &str, slave: &str, master: &Identity) -> Result<()> {
    end_others(client, slave, lock_key(agent, slave, master, Work::Stream), "lock")?;
    // What they were about to commit is there or not from now on; ours may begin.
    end_others(client, slave, lock_key(agent, slave, master, Work::Copy), "xact_lock")
}

/// Marks a session of ours as one that copies tables to the slave: whoever takes it over ends the session, and waits for
/// its end, before it looks which tables are copied. The COMMIT of a killed agent's copy may take place much later.
pub fn mark_copying<S: Session>(master: &mut S, client: &mut S, agent: &str, slave: &str) -> Result<()> {
    let key = lock_key(agent, slave, &identify(master)?, Work::Copy);
    client
        .query_one("select pg_advisory_lock_shared($1)", &[&key])
        .map_err(|e| Error::from_pg(format!("could not set up a copy to slave \"{slave}\""), e))?;
    Ok(())
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
        log::debug!("slave \"{slave}\": ended session {} of a predecessor", row.get::<_, i32>(0));
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
        Work::Copy => "copy",
    };
    session::lock_key(&of_slave, what)
}

/// What a session is there for: of one kind there is one, of the other there are several.
#[derive(Clone, Copy)]
enum Work {
    Stream,
    Copy,
}

fn gid_prefix(agent: &str, slave: &str) -> String {
    format!("pyreplica:{agent}:{slave}:")
}

pub(super) fn gid(agent: &str, slave: &str, batch: i64) -> Result<String> {
    let gid = format!("{}{batch}", gid_prefix(agent, slave));
    if gid.len() > GID_BYTES_MAX {
        return Err(Error::new(
            Kind::Config,
            format!("identifier of a prepared transaction is too long: {} bytes", gid.len()),
        )
        .hint("Give the agent or the slave a shorter name."));
    }
    Ok(gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids() {
        assert_eq!(gid("shop", "reports", 7).unwrap(), "pyreplica:shop:reports:7");
        assert!(gid(&"a".repeat(200), "b", 1).is_err());
    }

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
