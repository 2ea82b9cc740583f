//! What a predecessor leaves on a slave: batches that are prepared.
//!
//! In: a session that has claimed the slave, so that nothing more is prepared by another. Out: nothing of its batches is
//! prepared.

use super::SlaveSession;
use crate::bind::Owned;
use crate::error::{Error, Kind, Result};
use crate::quote;

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

pub(super) fn gid_prefix(agent: &str, slave: &str) -> String {
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
}
