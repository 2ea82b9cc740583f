//! Tables of a slave that another agent, or another slave of this one, brings from the same master: each change would be
//! applied twice, the second time over what has come since.
//!
//! In: what is on record on the slave, the tables that this agent is to bring. Out: the first of them that it is not to.

use crate::copy::CapturedTable;
use crate::error::{Error, Kind, Result};
use crate::quote;
use crate::session::{Ask, Session};

/// An error if there is such a table. `master` is its system identifier; the agent's schema is there.
pub fn refuse(
    client: &mut (impl Session + Ask),
    agent: &str,
    slave: &str,
    master: &str,
    tables: &[CapturedTable],
) -> Result<()> {
    let triggers: Vec<u32> = tables.iter().map(|table| table.trigger_oid).collect();
    let row = client
        .query_opt(
            "select c.schema_name, c.table_name, c.agent, c.slave
               from pyreplica_agent.copied_table c join pyreplica_agent.position p using (agent, slave)
              where p.system_identifier = $1 and (c.agent, c.slave) <> ($2, $3) and c.trigger_oid = any ($4)
              order by 1, 2 limit 1",
            &[&master, &agent, &slave, &triggers],
        )
        .map_err(|e| Error::from_pg(format!("could not look for other agents of slave \"{slave}\""), e))?;
    let Some(row) = row else { return Ok(()) };
    let (schema, table, other, as_slave): (String, String, String, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    Err(Error::new(
        Kind::Refused,
        format!("slave \"{slave}\" gets table {schema}.{table} from this master by agent \"{other}\" already"),
    )
    .detail("Each change would be applied twice.")
    .hint(format!(
        "Let one of the two leave the table out (tables in [[slave]]). If agent \"{other}\" no longer serves it, run there: \
         DELETE FROM pyreplica_agent.position WHERE agent = {} AND slave = {}.",
        quote::literal(&other),
        quote::literal(&as_slave)
    )))
}
