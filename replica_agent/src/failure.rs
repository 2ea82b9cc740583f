//! What is said of a change that failed, or of the end of a batch: the table, the key, its place in the stream, what to
//! do next.
//!
//! In: the error of the server and the change. Out: the error that reaches the log and `slave_status`; for an
//! insert_exists also a row of `pyreplica_agent.conflict`. Values other than the key are not shown.

use postgres::types::Type;

use crate::bind::{as_dyn, param_type, params};
use crate::conflict::{place, Conflict, Event};
use crate::decode::{Change, Decoder, Relation, Value};
use crate::error::{Error, Kind, Result};
use crate::pipe::Pipe;
use crate::position::{Rank, Xid};
use crate::reader::Transaction;
use crate::retry;
use crate::statement::columns;

/// A change that failed.
pub struct Failed<'c, 'a> {
    pub decoder: &'c Decoder<'a>,
    pub change: &'c Change<'a>,
    pub transaction: &'c Transaction,
    /// Rows of the slave that are in the way of an INSERT.
    pub rivals: u64,
}

impl Failed<'_, '_> {
    /// After the rollback, since it asks the server.
    pub fn explain(&self, client: &mut Pipe, agent: &str, slave: &str, e: Error) -> Error {
        let Failed { decoder, change, transaction, rivals } = self;
        let operation = change.name();
        let relation = change.relations().first().map(|&r| decoder.relation(r));
        let key = relation.and_then(|relation| key_of(client, relation, change));
        let mut text = place(transaction, operation, key.as_deref());
        if let Change::Statement { sql, .. } = change {
            let role = transaction.username.as_deref().unwrap_or("(dropped)");
            text.push_str(&format!(", queued by role \"{role}\": {}", shortened(sql)));
        }
        // A statement is always run inside of a block of ours.
        let inside = e.inside().filter(|_| !matches!(change, Change::Statement { .. }));
        if let (Some(key), Some(relation), Some(state)) = (&key, relation, e.sqlstate()) {
            if retry::is_insert_exists(state) && inside.is_none() {
                let conflict = match change {
                    Change::Update { .. } => Conflict::UpdateExists,
                    _ => Conflict::of_insert(*rivals),
                };
                text = format!("conflict={conflict}, {text}");
                let (name, message) = (full_name(relation), e.to_string());
                let detail = Some(message.as_str());
                let event = Event { conflict, relation: &name, operation, key, detail, applied: false };
                if let Err(e) = event.record(client, agent, slave, transaction, true) {
                    log::warn!("slave \"{slave}\": {e:#}");
                }
            }
        }
        let inside = inside.map(str::to_owned);
        let e = placed(slave, e, text, inside.as_deref());
        let Change::Statement { .. } = change else { return e };
        let more = e.hint_text().map(|hint| format!("{hint} ")).unwrap_or_default();
        e.hint(format!(
            "{more}Remove the cause on the slave, and the agent goes on by itself; or set the statement aside with \
             \"replica_agent skip --slave {slave}\"."
        ))
    }
}

/// An error of what is deferred to the end of a batch: nobody knows which change it is of. The last transaction of the
/// batch is named; tried again after an error, a batch has no other.
pub fn at_the_end(slave: &str, last: Option<(Rank, Xid)>, e: Error) -> Error {
    let (Some((rank, xid)), Kind::Apply) = (last, e.kind()) else { return e };
    let inside = e.inside().map(str::to_owned);
    let text = format!("The batch ends with log id {rank}, origin transaction {xid}");
    placed(slave, e, text, inside.as_deref())
}

/// The error with its place, the function of the slave's own that it was raised in, if any, and what to do.
fn placed(slave: &str, e: Error, mut text: String, inside: Option<&str>) -> Error {
    if let Some(servers) = e.detail_text() {
        // It may show values of the row.
        log::debug!("slave \"{slave}\": {e}: {servers}");
    }
    let advice = match inside {
        None => e.sqlstate().and_then(retry::hint),
        Some(function) => {
            text.push_str(&format!(", raised in {function}"));
            Some(retry::HINT_INSIDE)
        }
    };
    let hint = e.hint_text().or(advice).map(str::to_owned);
    let e = e.detail(format!("{text}."));
    match hint {
        Some(hint) => e.hint(hint),
        None => e,
    }
}

/// An error of which no more is known than the transaction.
pub fn place_only(e: Error, transaction: &Transaction) -> Error {
    let detail = e.detail_text().map(|d| format!("{d} ")).unwrap_or_default();
    e.detail(format!("{detail}Log id {}, origin transaction {}.", transaction.rank, transaction.xid))
}

fn key_of(client: &mut Pipe, relation: &Relation, change: &Change) -> Option<String> {
    let values: Vec<Value> = match change {
        Change::Insert { row, .. } => relation.key.iter().map(|&k| row[k]).collect(),
        Change::Update { key, .. } | Change::Delete { key, .. } => key.clone(),
        Change::Truncate { .. } | Change::Statement { .. } => return None,
    };
    // Of a row that comes piece by piece it may not have come.
    if values.contains(&None) {
        return None;
    }
    Some(render_key(client, relation, &values).unwrap_or_else(|e| format!("(cannot be shown: {e})")))
}

/// The key as people write it: `(id)=(42)`. The server prints the values: it knows all types.
pub fn render_key(client: &mut Pipe, relation: &Relation, key: &[Value]) -> Result<String> {
    let columns = columns(relation, &relation.key);
    let types: Vec<Type> = columns
        .iter()
        .map(|c| param_type(c))
        .map(|t| if t == Type::UNKNOWN { Type::TEXT } else { t })
        .collect();
    let casts: Vec<String> = (1..=types.len()).map(|n| format!("${n}::text")).collect();
    let failed = |e| failed_on(relation, e);
    let statement = client.prepare_typed(&format!("select {}", casts.join(", ")), &types).map_err(failed)?;
    let params = params(relation, [&relation.key, &[]], [key, &[]]);
    let row = client.query_one(&statement, &as_dyn(&params)).map_err(failed)?;
    let values: Vec<String> = (0..types.len())
        .map(|i| row.get::<_, Option<String>>(i).unwrap_or_else(|| "null".to_owned()))
        .collect();
    let names: Vec<&str> = columns.iter().map(|c| c.name).collect();
    Ok(format!("({})=({})", names.join(", "), values.join(", ")))
}

/// As people write it.
pub fn full_name(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}

/// The server refused a change.
pub fn failed_on(relation: &Relation, e: postgres::Error) -> Error {
    Error::from_pg(format!("could not apply change to table \"{}\"", full_name(relation)), e)
}

/// A change that we could not even put to the server.
pub fn on_table(e: Error, relation: &Relation) -> Error {
    let mut placed =
        Error::new(e.kind(), format!("could not apply change to table \"{}\": {e}", full_name(relation)));
    if let Some(state) = e.sqlstate() {
        placed = placed.with_sqlstate(state);
    }
    match e.hint_text() {
        Some(hint) => placed.hint(hint),
        None => placed,
    }
}

fn shortened(sql: &str) -> String {
    const SHOWN: usize = 80;
    match sql.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} ...", &sql[..end]),
        None => sql.to_owned(),
    }
}
