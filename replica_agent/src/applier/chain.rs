//! Changes one by one that are not waited for: each is made only if the one before it found its row.
//!
//! In: the changes of a window, in order. Out: each made once, in that order, and each that fails or has a conflict made by
//! itself (`exact`), as if every answer had been waited for.
//!
//! # How
//!
//! A link is the statement of `exact` for one row under one more condition: that the link before it is done, which a
//! setting of the transaction says (`checked::link`). Links are sent one behind the other, and in the end it is asked
//! which was the last one done. Where one finds no row, none behind it has changed anything, nor has a trigger fired: the
//! one is done by itself, and the others are sent again. So what has been done is never undone for a conflict; not all
//! that triggers do, such as drawing from a sequence, could be.
//!
//! One that fails takes those before it back to a savepoint. They are sent again, and the one is done by itself, which
//! names it. Then either the whole transaction fails, or what failed was the form of a link.
//!
//! What is no change of a row, and tables where something fires for a statement that finds no row, are done by themselves.

use postgres::types::Type;
use postgres::Statement;

use super::Applier;
use crate::bind::{params, Owned};
use crate::checked;
use crate::config::InsertExists;
use crate::decode::{Change, Decoder, Relation, Value};
use crate::error::{Error, Result};
use crate::failure::failed_on;
use crate::pipe::{Mark, Pipe};
use crate::retry;
use crate::statement::{columns, Operation};

/// Links sent before it is asked how far they came: after one that was not done the fewest, and then twice as many each
/// time.
const LINKS: std::ops::RangeInclusive<usize> = 16..=4096;

/// A change: the chunk in its window, and its number in that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub chunk: usize,
    pub change: usize,
}

/// Links that have been sent; their first is the one after the savepoint.
pub(super) struct Chain {
    links: Vec<(Place, Mark)>,
    at_most: usize,
    asks: Option<Statement>,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { links: Vec::new(), at_most: *LINKS.end(), asks: None }
    }
}

/// What has become of a chain.
pub(super) enum Outcome {
    Done,
    /// This one has found no row.
    Missed(Place),
    /// This one failed, and all of the chain is undone.
    Failed {
        first: Place,
        failed: Place,
    },
    /// The same by a constraint, in an attempt.
    Refused,
}

impl Applier {
    /// Sends a change as a link, if it can be one.
    pub(super) fn link(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        change: &Change,
        place: Place,
    ) -> Result<bool> {
        let relation = match change {
            Change::Insert { relation, .. }
            | Change::Update { relation, .. }
            | Change::Delete { relation, .. } => decoder.relation(*relation),
            Change::Truncate { .. } | Change::Statement { .. } => return Ok(false),
        };
        if self.mapped(client, relation)?.is_some() {
            return Ok(false);
        }
        let (operation, set, values) = match change {
            Change::Insert { row, .. } => {
                let operation = match self.insert_exists {
                    InsertExists::Stop => Operation::Insert,
                    _ => Operation::InsertUnlessThere,
                };
                let all = self.taken(client, relation, 0..row.len())?;
                let values: Vec<Value> = all.iter().map(|&n| row[n]).collect();
                (operation, all, values)
            }
            Change::Update { changed, .. } => {
                let set = self.taken(client, relation, changed.iter().map(|c| c.column))?;
                let taken = || changed.iter().filter(|c| set.contains(&c.column));
                let values = taken().map(|c| c.new).chain(taken().map(|c| c.old)).collect();
                (Operation::UpdateExact, set, values)
            }
            _ => (Operation::Delete, Vec::new(), Vec::new()),
        };
        let (numbers, key): (&[usize], &[Value]) = match change {
            Change::Update { key, .. } | Change::Delete { key, .. } => (&relation.key, key),
            _ => (&[], &[]),
        };
        if operation == Operation::UpdateExact && set.is_empty() {
            return Ok(true);
        }
        let Some(statement) = self.prepare_link(client, relation, operation, numbers, &set)? else {
            return Ok(false);
        };
        if self.chain.links.is_empty() {
            client.send_batch(format!("savepoint a_chain; {}", checked::before_links()));
        }
        let twice = [&set[..], &set[..]].concat();
        let params = params(relation, [numbers, &twice[..values.len()]], [key, &values]);
        let number = Owned::Int8(self.chain.links.len() as i64 + 1);
        client.send(&statement, params.iter().map(Owned::from).chain([number]).collect());
        self.chain.links.push((place, client.sent()));
        Ok(true)
    }

    /// The statement for a link; `None` where there is none.
    fn prepare_link(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        operation: Operation,
        key: &[usize],
        set: &[usize],
    ) -> Result<Option<Statement>> {
        const LINK: u8 = 0x80;
        let (key, set) = (columns(relation, key), columns(relation, set));
        self.put_shape(relation, operation as u8 | LINK, &key, &set);
        if let Some(statement) = self.set_statements.get(&self.shape) {
            return Ok(statement.clone());
        }
        let shape = self.shape.clone();
        let table = self.table(client, relation)?;
        let mut statement = None;
        if !table.fires_for_nothing {
            let (_, mut types) = self.one_row(client, relation, operation, &key, &set)?;
            if let Some(sql) = checked::link(&table, operation, &key, &set, types.len())? {
                types.push(Type::INT8);
                let prepared = client.prepare_typed(&sql, &types).map_err(|e| failed_on(relation, e))?;
                statement = Some(prepared);
            }
        }
        self.keep_few_statements();
        self.set_statements.insert(shape, statement.clone());
        Ok(statement)
    }

    pub(super) fn is_chain_full(&self) -> bool {
        self.chain.links.len() >= self.chain.at_most
    }

    /// Waits for the answers to all links.
    pub(super) fn end_chain(&mut self, client: &mut Pipe) -> Result<Outcome> {
        if self.chain.links.is_empty() {
            return Ok(Outcome::Done);
        }
        // The answer comes behind all others.
        let asked = self.ask(client);
        if let Some(broken) = self.broken_chain(client)? {
            return Ok(broken);
        }
        let done = asked.map_err(chain_failed)?;
        let links = std::mem::take(&mut self.chain.links);
        client.send_batch("release savepoint a_chain".to_owned());
        let all = links.len();
        let done = usize::try_from(done).ok().filter(|&done| done <= all).unwrap_or(0);
        let Some(&(missed, _)) = links.get(done) else {
            self.chain.at_most = (self.chain.at_most * 2).min(*LINKS.end());
            return Ok(Outcome::Done);
        };
        log::debug!("slave \"{}\": link {done} of {all} found no row", self.slave);
        self.chain.at_most = *LINKS.start();
        Ok(Outcome::Missed(missed))
    }

    fn ask(&mut self, client: &mut Pipe) -> std::result::Result<i64, postgres::Error> {
        let statement = match &self.chain.asks {
            Some(statement) => statement.clone(),
            None => client.prepare(&checked::links_done())?,
        };
        self.chain.asks = Some(statement.clone());
        Ok(client.query_one(&statement, &[])?.get(0))
    }

    /// If a link has failed, undoes the chain.
    pub(super) fn broken_chain(&mut self, client: &mut Pipe) -> Result<Option<Outcome>> {
        client.await_all();
        let Err((mark, e)) = client.settle(client.sent()) else { return Ok(None) };
        let links = std::mem::take(&mut self.chain.links);
        let failed = links.iter().find(|(_, sent)| *sent >= mark).or(links.last());
        let (Some(&(first, _)), Some(&(failed, _))) = (links.first(), failed) else {
            return Err(chain_failed(e));
        };
        log::debug!("slave \"{}\": a change by itself after: {e}", self.slave);
        if self.attempt && e.code().is_some_and(|state| retry::is_constraint(state.code())) {
            return Ok(Some(Outcome::Refused));
        }
        if client.batch_execute("rollback to savepoint a_chain; release savepoint a_chain").is_err() {
            return Err(chain_failed(e));
        }
        self.forget();
        self.chain.at_most = *LINKS.start();
        Ok(Some(Outcome::Failed { first, failed }))
    }

    /// The transaction is given up, and what was sent in it with it.
    pub(super) fn drop_chain(&mut self, client: &mut Pipe) {
        if !self.chain.links.is_empty() {
            self.chain.links.clear();
            client.await_all();
            // The error that is reported came first, or says as much.
            client.settle(client.sent()).ok();
        }
    }
}

fn chain_failed(e: postgres::Error) -> Error {
    Error::from_pg("could not apply changes one by one", e)
}
