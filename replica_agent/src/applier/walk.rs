//! The changes of a window one after the other: which of them are wanted here, and how each is made.
//!
//! In: chunks, in order. Out: their changes made in that order, as links of a chain (`chain`) where they can be, else by
//! themselves (`exact`).

use super::chain::{Outcome, Place};
use super::{Applied, Applier};
use crate::decode::{Change, Decoder};
use crate::error::{Error, Kind, Result};
use crate::failure;
use crate::pipe::Pipe;
use crate::reader::{Chunk, Transaction};
use crate::retry;
use crate::skip::WHOLE;
use crate::tables::{Gate, Tables};
use crate::wake::Stop;

/// From where on, and what is to be done by itself.
#[derive(Clone, Copy, Default)]
struct Start {
    from: Place,
    alone: Option<Alone>,
}

#[derive(Clone, Copy)]
struct Alone {
    place: Place,
    /// It has been tried, and has found no row.
    missed: bool,
}

enum Went {
    On,
    Back(Start),
    Out(Applied),
}

/// The relations that a change is to be applied to, by their numbers.
enum Wanted {
    These(Vec<usize>),
    None,
    Unknown(usize),
}

impl Applier {
    /// Applies the changes of chunks one after the other, unless they are of tables that are to be skipped.
    pub fn apply(
        &mut self,
        client: &mut Pipe,
        chunks: &[Chunk],
        tables: &mut Tables,
        stop: &Stop,
    ) -> Result<Applied> {
        let mut start = Start::default();
        let mut number = 0;
        loop {
            let went = match chunks.get(number) {
                Some(chunk) => self.apply_chunk(client, chunk, number, start, tables, stop),
                None => self.end_links(client).map(|back| back.unwrap_or(Went::Out(Applied::Done))),
            };
            match went.inspect_err(|_| self.drop_chain(client))? {
                Went::On => number += 1,
                Went::Back(again) => (start, number) = (again, again.from.chunk),
                Went::Out(applied) => return Ok(applied),
            }
        }
    }

    fn apply_chunk(
        &mut self,
        client: &mut Pipe,
        chunk: &Chunk,
        number: usize,
        start: Start,
        tables: &mut Tables,
        stop: &Stop,
    ) -> Result<Went> {
        let transaction = &*chunk.transaction;
        if self.skips.holds(transaction.xid, WHOLE) {
            if let Some(went) = self.end_links(client)? {
                return Ok(went);
            }
            self.set_aside(client, transaction, WHOLE, None)?;
            return Ok(Went::On);
        }
        let mut decoder = Decoder::new(&chunk.payload).map_err(|e| failure::place_only(e, transaction))?;
        let mut gates: Vec<Option<Gate>> = Vec::new();
        let mut next = Place { chunk: number, change: 0 };
        while let Some(change) = decoder.next().map_err(|e| failure::place_only(e, transaction))? {
            let place = next;
            next.change += 1;
            if place < start.from {
                continue;
            }
            if stop.is_set() {
                return Err(Error::new(Kind::Stopped, "asked to stop"));
            }
            let alone = start.alone.filter(|alone| alone.place == place);
            let wanted = self.wanted(client, &decoder, &change, tables, transaction, &mut gates);
            let linked = match &wanted {
                Ok(Wanted::These(_)) if alone.is_none() => self.link(client, &decoder, &change, place),
                Ok(Wanted::None) => continue,
                _ => Ok(false),
            };
            if linked.as_ref().is_ok_and(|&linked| linked && !self.is_chain_full()) {
                continue;
            }
            // What comes now waits for all that was sent; an error may be that of a link.
            let went = match wanted.is_ok() && linked.is_ok() {
                true => self.end_links(client)?,
                false => self.failed_link(client)?,
            };
            if let Some(went) = went {
                return Ok(went);
            }
            let wanted = match wanted.and_then(|wanted| Ok((wanted, linked?))) {
                Ok((_, true) | (Wanted::None, _)) => continue,
                Ok((Wanted::Unknown(relation), _)) => {
                    return Ok(Went::Out(self.unknown(decoder.relation(relation), tables)));
                }
                Ok((Wanted::These(wanted), _)) => wanted,
                Err(e) => return Err(self.failed(client, &decoder, &change, transaction, e)),
            };
            if let Change::Statement { sql, .. } = change {
                let number = self.skips.meet(transaction.xid);
                if tables.has_run(transaction.xid) {
                    continue;
                }
                if self.skips.holds(transaction.xid, number) {
                    self.set_aside(client, transaction, number, Some(sql))?;
                    continue;
                }
                // It may rename tables of the slave.
                gates.clear();
                self.forget_aliases();
            }
            let missed = alone.is_some_and(|alone| alone.missed);
            let mut apply = |applier: &mut Applier, client: &mut Pipe| {
                applier.change(client, &decoder, &change, &wanted, transaction, missed)
            };
            let applied = match change {
                Change::Truncate { .. } | Change::Statement { .. } => {
                    self.with_none_pending(client, &mut apply)
                }
                _ => apply(self, client),
            };
            if let Err(e) = applied {
                if self.attempt && e.sqlstate().is_some_and(retry::is_constraint) {
                    log::debug!("slave \"{}\": as a net effect after: {e:#}", self.slave);
                    return Ok(Went::Out(Applied::Refused));
                }
                return Err(self.failed(client, &decoder, &change, transaction, e));
            }
        }
        Ok(Went::On)
    }

    /// TRUNCATE, and most of what alters a table, is refused while deferred triggers of earlier changes have not fired. On
    /// the master they had fired, or were none: so they fire here.
    fn with_none_pending(
        &mut self,
        client: &mut Pipe,
        apply: &mut dyn FnMut(&mut Applier, &mut Pipe) -> Result<()>,
    ) -> Result<()> {
        client.send_batch("savepoint none_pending".to_owned());
        let mut applied = apply(self, client);
        if applied.as_ref().is_err_and(|e| e.sqlstate() == Some("55006")) {
            let fire = "rollback to savepoint none_pending; set constraints all immediate; set constraints all deferred";
            client.batch_execute(fire).map_err(|e| Error::from_pg("could not fire deferred triggers", e))?;
            applied = apply(self, client);
        }
        if applied.is_ok() {
            // Or they would nest.
            client.send_batch("release savepoint none_pending".to_owned());
        }
        applied
    }

    /// Which of its relations a change is to be applied to.
    fn wanted(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        change: &Change,
        tables: &Tables,
        transaction: &Transaction,
        gates: &mut Vec<Option<Gate>>,
    ) -> Result<Wanted> {
        let relations = change.relations();
        let mut wanted = Vec::with_capacity(relations.len());
        for &number in relations {
            if gates.len() <= number {
                gates.resize(number + 1, None);
            }
            let gate = match gates[number] {
                Some(gate) => gate,
                None => self.gate(client, decoder.relation(number), tables, transaction)?,
            };
            gates[number] = Some(gate);
            match gate {
                Gate::Apply => wanted.push(number),
                Gate::Skip => {}
                Gate::Unknown => return Ok(Wanted::Unknown(number)),
            }
        }
        match wanted.is_empty() && !relations.is_empty() {
            true => Ok(Wanted::None),
            false => Ok(Wanted::These(wanted)),
        }
    }

    /// Hears of all links; what to do if one of them was not done.
    fn end_links(&mut self, client: &mut Pipe) -> Result<Option<Went>> {
        Ok(went(self.end_chain(client)?))
    }

    /// After an error: that of a link, if one failed.
    fn failed_link(&mut self, client: &mut Pipe) -> Result<Option<Went>> {
        Ok(self.broken_chain(client)?.and_then(went))
    }
}

fn went(outcome: Outcome) -> Option<Went> {
    let alone = |place, missed| Some(Alone { place, missed });
    Some(match outcome {
        Outcome::Done => return None,
        Outcome::Missed(place) => Went::Back(Start { from: place, alone: alone(place, true) }),
        Outcome::Failed { first, failed } => Went::Back(Start { from: first, alone: alone(failed, false) }),
        Outcome::Refused => Went::Out(Applied::Refused),
    })
}
