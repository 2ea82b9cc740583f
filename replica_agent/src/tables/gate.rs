//! Whether the changes that a transaction made to a relation are applied, and by which names a table goes.
//!
//! In: a relation as the stream names it, and its transaction. Out: a `Gate`. Asks nobody.

use super::awaited::Awaited;
use super::held::Held;
use super::{name_of, Name, Tables};
use crate::position::Xid;

/// What to do with a transaction's changes of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Apply,
    /// They are in the copy, or nobody wants them any more.
    Skip,
    /// The table is new: to be copied, or taken as it is, before anything of the transaction is applied.
    Unknown,
}

impl Tables {
    pub fn gate(&self, schema: &str, name: &str, oid: u32, xid: Xid) -> Gate {
        if !self.mapping.wants(schema, name) {
            return Gate::Skip;
        }
        let key = (name_of(schema, name), oid);
        if self.is_held(&key) {
            return Gate::Skip;
        }
        let copied = match self.asked.get(&key) {
            Some(Some(now)) => self.copied.values().find(|copied| copied.trigger_oid == now.trigger_oid),
            _ => self.copied.get(&key.0),
        };
        match copied {
            Some(copied) if copied.snapshot.sees(xid) => Gate::Skip,
            Some(_) => Gate::Apply,
            None if self.asked.get(&key) == Some(&None) => Gate::Skip,
            None => Gate::Unknown,
        }
    }

    /// The same for all transactions from the first to the last; `None` where they differ, or more has to be asked.
    pub fn gate_of_all(&self, schema: &str, name: &str, oid: u32, (first, last): (Xid, Xid)) -> Option<Gate> {
        if !self.mapping.wants(schema, name) {
            return Some(Gate::Skip);
        }
        let key = (name_of(schema, name), oid);
        if self.is_held(&key) {
            return Some(Gate::Skip);
        }
        if self.asked.contains_key(&key) {
            return None;
        }
        let snapshot = &self.copied.get(&key.0)?.snapshot;
        if first >= snapshot.xmax() {
            Some(Gate::Apply)
        } else if snapshot.sees_all_up_to(last) {
            Some(Gate::Skip)
        } else {
            None
        }
    }

    /// Is it a table that is skipped for now?
    fn is_held(&self, key: &(Name, u32)) -> bool {
        if self.held.is_none() && self.awaited.is_empty() {
            return false;
        }
        match self.asked.get(key) {
            Some(now) => now.as_ref().is_some_and(|now| self.is_skipped(now.trigger_oid)),
            None => {
                let of = |held: &Held| held.now == key.0 || held.was.keys().any(|name| *name == key.0);
                let is = |awaited: &Awaited| {
                    awaited.oids.contains(&key.1)
                        || awaited.name == key.0 && !self.copied.contains_key(&key.0)
                };
                self.held.as_ref().is_some_and(of) || self.awaited.values().any(is)
            }
        }
    }

    /// What else the table is or was called, its name of now first; `None` when the master has not been asked.
    pub fn other_names(&self, schema: &str, name: &str, oid: u32) -> Option<Vec<(String, String)>> {
        let key = (name_of(schema, name), oid);
        let Some(now) = self.asked.get(&key)? else { return Some(Vec::new()) };
        let mut names: Vec<Name> = self
            .copied
            .iter()
            .filter(|(_, copied)| copied.trigger_oid == now.trigger_oid)
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names.insert(0, name_of(&now.schema, &now.name));
        Some(names)
    }

    /// The stream met a relation of which the master has to be asked.
    pub fn meet(&mut self, schema: &str, name: &str, oid: u32) {
        self.unknown = Some((name_of(schema, name), oid));
    }

    /// The oid of the relation that the stream met under this name; `None` when it did not meet it here.
    pub fn met(&self, schema: &str, name: &str) -> Option<u32> {
        self.unknown.as_ref().filter(|(met, _)| *met == name_of(schema, name)).map(|(_, oid)| *oid)
    }
}
