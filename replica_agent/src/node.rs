//! Which nodes a change has been through, and so where it still may go.
//!
//! Each database with the extension is a node with an id of its own. The origin of a logged change lists the nodes that
//! it has been through, with blanks between; a change that was made on the master itself has none, or a word of its
//! user's. A slave never gets what has been through it, and what it gets stands in its own log, if that is written to
//! for it, with the master added to the list.

use crate::error::{Error, Kind, Result};
use crate::quote;
use crate::session::{replication_role_grant, Ask, Session};

/// What a setting of PostgreSQL that is a name holds.
const ORIGIN_BYTES_MAX: usize = 63;

/// From a master to a slave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    master: String,
    /// The slave, if it is a node.
    slave: Option<String>,
}

impl Route {
    /// Asks the master.
    pub fn from(master: &mut impl Session) -> Result<Route> {
        let of_master = id(master, "the master")?.ok_or_else(|| {
            Error::new(Kind::Refused, "table pyreplica.node does not exist on the master")
                .hint("Install the extension of the agent's version there.")
        })?;
        Ok(Route { master: of_master, slave: None })
    }

    /// Asks both, and tells the session on the slave for whom it writes.
    pub fn find(master: &mut impl Session, slave: &mut impl Session, name: &str) -> Result<Route> {
        let mut route = Route::from(master)?;
        route.find_slave(slave, name)?;
        slave
            .execute("select set_config('pyreplica.origin', $1, false)", &[&route.master])
            .map_err(|e| Error::from_pg(format!("could not set up the session on slave \"{name}\""), e))?;
        Ok(route)
    }

    /// The extension may come and go while a slave is served.
    pub fn find_slave(&mut self, slave: &mut impl Session, name: &str) -> Result<()> {
        let whom = format!("slave \"{name}\"");
        self.slave = id(slave, &whom)?;
        if self.slave.is_none() {
            return Ok(());
        }
        if self.slave.as_ref() == Some(&self.master) {
            return Err(Error::new(
                Kind::Refused,
                format!("slave \"{name}\" is the same node as its master, \"{}\"", self.master),
            )
            .detail("It is a physical copy of the master.")
            .hint("Run SELECT pyreplica.renew_node() on one of them."));
        }
        let row = slave
            .query_one(include_str!("sql/writes_unmarked.sql"), &[])
            .map_err(|e| Error::from_pg(format!("could not ask {whom} for the rights of our role"), e))?;
        if row.get("unmarked") {
            let user: String = row.get("user");
            return Err(Error::new(
                Kind::Refused,
                format!("role \"{user}\" may not write on behalf of other nodes on {whom}"),
            )
            .with_sqlstate("42501")
            .detail("That node has slaves, and would log what comes from its master as changes of its own.")
            .hint(format!(
                "Run there as superuser: {}, or SELECT pyreplica.allow_agent({})",
                replication_role_grant(&user),
                quote::literal(&quote::ident(&user))
            )));
        }
        Ok(())
    }

    /// Whether the slave may have a log of its own.
    pub fn ends_at_a_node(&self) -> bool {
        self.slave.is_some()
    }

    /// The slave, if it is a node.
    pub fn slave(&self) -> Option<&str> {
        self.slave.as_deref()
    }

    pub fn master(&self) -> &str {
        &self.master
    }

    /// The node where a change of this origin was made.
    pub fn source<'o>(&'o self, origin: Option<&'o str>) -> &'o str {
        origin.and_then(|origin| origin.split(' ').find(|word| is_id(word))).unwrap_or(&self.master)
    }

    /// The nodes whose changes the master has to give, with what is known of those that it forwards; not the slave.
    pub fn sources(&self, master: &mut (impl Session + Ask)) -> Result<Vec<String>> {
        let failed = |e| Error::from_pg("could not ask the master whose changes come to it", e);
        let known: bool = master
            .query_one(
                "select forwards and case when to_regclass('pyreplica_agent.source') is null then false
                                          else has_table_privilege('pyreplica_agent.source', 'SELECT') end
                   from pyreplica.node",
                &[],
            )
            .map_err(failed)?
            .get(0);
        let mut nodes = vec![self.master.clone()];
        if known {
            let rows =
                master.query("select distinct node from pyreplica_agent.source", &[]).map_err(failed)?;
            nodes.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        }
        Ok(nodes)
    }

    /// Of those the ones that come to the slave from another master as well, each with the agents that bring them.
    pub fn other_ways(
        &self,
        slave: &mut (impl Session + Ask),
        agent: &str,
        name: &str,
        nodes: &[String],
    ) -> std::result::Result<Vec<(String, String)>, postgres::Error> {
        let readable = "select case when to_regclass('pyreplica_agent.source') is null then false
                                    else has_table_privilege('pyreplica_agent.source', 'SELECT')
                                         and has_table_privilege('pyreplica_agent.position', 'SELECT') end";
        if !slave.query_one(readable, &[])?.get::<_, bool>(0) {
            return Ok(Vec::new());
        }
        let not_its_own: Vec<&String> =
            nodes.iter().filter(|node| self.slave.as_ref() != Some(node)).collect();
        let rows =
            slave.query(include_str!("sql/other_ways.sql"), &[&agent, &name, &self.master, &not_its_own])?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Has a change of this origin been at the slave?
    pub fn leads_back(&self, origin: Option<&str>) -> bool {
        let Some(slave) = &self.slave else { return false };
        origin.is_some_and(|origin| origin.split(' ').any(|word| word == slave))
    }

    /// The origin under which the slave is to log it. Where there is no room for all of it, users' words are left out:
    /// anybody who may write a table chooses them.
    pub fn through(&self, origin: Option<&str>) -> Result<String> {
        let Some(origin) = origin else { return Ok(self.master.clone()) };
        let nodes: Vec<&str> = origin.split(' ').filter(|word| is_id(word)).collect();
        for kept in [origin, &nodes.join(" ")] {
            let longer = format!("{kept} {}", self.master);
            let longer = longer.trim_start();
            if longer.len() <= ORIGIN_BYTES_MAX {
                return Ok(longer.to_owned());
            }
        }
        Err(Error::new(Kind::Apply, format!("origin \"{origin}\" is too long to be passed on"))
            .with_sqlstate("54000")
            .detail(format!("With \"{}\" it has more than {ORIGIN_BYTES_MAX} bytes.", self.master))
            .hint("Let the slaves follow a node that is nearer."))
    }
}

/// The form of `pyreplica.node.id`, which tells it from users' words.
fn is_id(word: &str) -> bool {
    let hex = |id: &str| id.len() == 8 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    word.strip_prefix('n').is_some_and(hex)
}

fn id(client: &mut impl Session, whom: &str) -> Result<Option<String>> {
    let failed = |e| Error::from_pg(format!("could not ask {whom} which node it is"), e);
    let there = "select to_regclass('pyreplica.node') is not null";
    if !client.query_one(there, &[]).map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_one("select id from pyreplica.node", &[]).map_err(failed)?;
    Ok(Some(row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_goes_where_it_has_not_been() {
        let route = Route { master: "nb".into(), slave: Some("nc".into()) };
        let check = |origin: Option<&str>, back, next: &str| {
            assert_eq!((route.leads_back(origin), route.through(origin).unwrap().as_str()), (back, next));
        };
        check(None, false, "nb");
        check(Some("na"), false, "na nb");
        check(Some("nc"), true, "nc nb");
        check(Some("import na"), false, "import na nb");
        check(Some("na nc nd"), true, "na nc nd nb");
        check(Some("ncc"), false, "ncc nb");
        check(Some(&"x".repeat(61)), false, "nb");
        check(Some(&format!("n0123abcd {}", "x".repeat(51))), false, "n0123abcd nb");
        assert!(route.through(Some(&["n0123abcd"; 7].join(" "))).is_err());
        assert_eq!(route.source(Some("news n0123abcd nfedcba98")), "n0123abcd");
        assert_eq!([route.source(Some("news")), route.source(None)], ["nb", "nb"]);
        let plain = Route { slave: None, ..route };
        assert!(!plain.leads_back(Some("nc")));
    }
}
