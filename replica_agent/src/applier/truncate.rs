//! TRUNCATE on a slave, and the restart of the sequences that go with it.
//!
//! In: the slave's tables. Out: they are empty. A role that may not restart their sequences, because they are not its
//! own, sets them to their start instead: that takes UPDATE on them, and is not undone with the transaction, which
//! does no harm, since it is applied again.

use std::sync::Arc;

use postgres::error::SqlState;
use postgres::Row;

use crate::decode::Relation;
use crate::error::{Error, Kind, Result};
use crate::failure::{failed_on, full_name};
use crate::pipe::Pipe;
use crate::slave_table::SlaveTable;

/// Errors name the relation. `partly`: the master emptied others in the same statement, which may refer to these and are
/// not to be emptied here. TRUNCATE is refused then, DELETE is not.
pub fn truncate(
    client: &mut Pipe,
    relation: &Relation,
    tables: &[Arc<SlaveTable>],
    restart_identity: bool,
    partly: bool,
) -> Result<()> {
    let failed = |e| failed_on(relation, e);
    let sequences = match restart_identity {
        true => {
            let names: Vec<&str> = tables.iter().map(|table| table.sql_name.as_str()).collect();
            client.query(include_str!("../sql/owned_sequences.sql"), &[&names]).map_err(failed)?
        }
        false => Vec::new(),
    };
    let ours = sequences.iter().all(|sequence| sequence.get("owned"));
    let restart = if restart_identity && ours { " restart identity" } else { "" };
    let targets: Vec<String> = tables.iter().map(|table| table.target()).collect();
    let truncate =
        format!("savepoint emptied; truncate {}{restart}; release savepoint emptied", targets.join(", "));
    match client.batch_execute(&truncate) {
        Ok(()) if ours => return Ok(()),
        Ok(()) => {}
        Err(e) if partly && e.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
            let delete: Vec<String> = targets.iter().map(|target| format!("delete from {target}")).collect();
            let delete =
                format!("rollback to savepoint emptied; release savepoint emptied; {}", delete.join("; "));
            client.batch_execute(&delete).map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    may_set(relation, &sequences)?;
    for sequence in &sequences {
        let (oid, start): (u32, i64) = (sequence.get("seqrelid"), sequence.get("seqstart"));
        client
            .execute("select pg_catalog.setval($1::oid::regclass, $2, false)", &[&oid, &start])
            .map_err(failed)?;
    }
    Ok(())
}

fn may_set(relation: &Relation, sequences: &[Row]) -> Result<()> {
    let refused: Vec<&Row> =
        sequences.iter().filter(|sequence| !sequence.get::<_, bool>("updatable")).collect();
    let Some(first) = refused.first() else { return Ok(()) };
    let names: Vec<&str> = refused.iter().map(|sequence| sequence.get("name")).collect();
    let (names, role) = (names.join(", "), first.get::<_, &str>("role"));
    let message = format!(
        "could not apply change to table \"{}\": permission denied to restart sequence {names}",
        full_name(relation)
    );
    Err(Error::new(Kind::Apply, message)
        .with_sqlstate("42501")
        .hint(format!("Run GRANT UPDATE ON SEQUENCE {names} TO {role} on the slave.")))
}
