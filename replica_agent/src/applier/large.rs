//! A change that is too large for memory: its values go to the slave as they come from the master, piece by piece.
//!
//! In: a large message. Out: the change applied; conflicts are found and named as in `exact`.
//! An insert is a COPY of one row, where COPY takes every column as it travelled. Else, and of an update, values beyond
//! `HELD_BYTES` are put down in `pyreplica_agent.piece` on the slave, where the statement for the row joins them again; the
//! transaction leaves that table empty. What goes neither way (a row that the slave keeps in another form, a queued
//! statement) is read as a whole and applied as any other.

use bytes::Bytes;
use postgres::types::Type;

use super::exact::{differ, only_one, was_set, Found};
use super::setwise::not_as_planned;
use super::{Applied, Applier};
use crate::bind::{as_dyn, param_type, params};
use crate::config::{InsertExists, UpdateDiffers};
use crate::conflict::Conflict;
use crate::decode::{Change, Column, Decoder, Relation, Value};
use crate::error::{Error, Kind, Result};
use crate::failure::{self, failed_on, on_table};
use crate::large::{Large, Pieces};
use crate::pipe::{CopyIn, Pipe};
use crate::quote;
use crate::reader::{Chunk, Transaction};
use crate::set_statement::{field, probe, Field};
use crate::slave_table::SlaveTable;
use crate::statement::{build_with, columns, Operation};
use crate::tables::{Gate, Tables};
use crate::wake::Stop;

/// Values of a row that are bound to its statement as usual.
const HELD_BYTES: usize = 2 * 1024 * 1024;

/// Of a piece on the slave, where it has to fit a page.
const PIECE_BYTES: usize = 7900;

const BYTEA: u32 = 17;

/// How a value gets to its column when it is large.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Bytes,
    Text,
}

/// A value of an insert or update.
enum Held {
    Here(Option<Vec<u8>>),
    /// In the pieces of this number.
    There(i32),
}

/// An insert or update whose values have all come.
struct Arrived {
    /// Of an update.
    key: Vec<Option<Vec<u8>>>,
    set: Vec<usize>,
    new: Vec<Held>,
    old: Vec<Held>,
    /// Something was put down for it, be it of a column that did not change.
    in_pieces: bool,
}

impl Applier {
    /// Applies a large message, unless it is of a table that is to be skipped.
    pub fn apply_large(
        &mut self,
        client: &mut Pipe,
        large: &Large,
        tables: &mut Tables,
        stop: &Stop,
    ) -> Result<Applied> {
        let transaction = &large.transaction;
        if self.sets_aside_all_of(client, transaction)? {
            return Ok(Applied::Done);
        }
        large.read(|pieces| {
            let introduction = pieces.introduction()?;
            let known = Decoder::new(&introduction).and_then(|mut decoder| {
                let (tag, length) = decoder.introduce()?;
                Ok((decoder, tag, length))
            });
            let (decoder, tag, length) = known.map_err(|e| failure::place_only(e, transaction))?;
            if let (b'I' | b'U' | b'K', [relation]) = (tag, decoder.relations()) {
                match self.gate(client, relation, tables, transaction)? {
                    Gate::Apply => {}
                    Gate::Skip => return Ok(Applied::Done),
                    Gate::Unknown => return Ok(self.unknown(relation, tables)),
                }
                self.was_altered(client, relation)?;
                let table = self.table(client, relation)?;
                let taken = table.taken(relation, 0..relation.columns.len());
                let of_columns = || taken.iter().filter_map(|&n| relation.columns[n].as_ref());
                let as_it_is = !table.is_transformed();
                // What is in the way of a row is looked for by all its values.
                let streams = as_it_is && self.insert_exists == InsertExists::Stop && !table.one_by_one;
                if tag == b'I' && streams {
                    pieces.pass(length, &mut |_| Ok(()))?;
                    return match of_columns().all(|c| field(c, &table).is_some()) {
                        true => self.copy_large(client, &decoder, pieces, &table, transaction, stop),
                        false => self.insert_large(client, &decoder, large, pieces, &table, stop),
                    };
                }
                if tag != b'I' && as_it_is {
                    pieces.pass(length, &mut |_| Ok(()))?;
                    return self.update_large(client, &decoder, tag, large, pieces, &table, stop);
                }
            }
            let chunk = Chunk { transaction: transaction.clone(), payload: pieces.rest()? };
            self.apply(client, std::slice::from_ref(&chunk), tables, stop)
        })
    }

    fn copy_large(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        pieces: &mut Pieces,
        table: &SlaveTable,
        transaction: &Transaction,
        stop: &Stop,
    ) -> Result<Applied> {
        let relation = decoder.relation(pieces.number(1)?);
        let mut key = vec![None; relation.columns.len()];
        if let Err(e) = copy_row(client, relation, pieces, table, &mut key, stop) {
            let row = key.iter().map(Option::as_deref).collect();
            return Err(self.failed(client, decoder, &Change::Insert { relation: 0, row }, transaction, e));
        }
        pieces.end()?;
        // The bytes of a COPY are taken for what the columns were when they were looked up.
        match self.was_altered(client, relation)? {
            false => Ok(Applied::Done),
            true => Err(on_table(Error::new(Kind::Apply, "it was altered meanwhile"), relation)),
        }
    }

    fn insert_large(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        large: &Large,
        pieces: &mut Pieces,
        table: &SlaveTable,
        stop: &Stop,
    ) -> Result<Applied> {
        let relation = decoder.relation(pieces.number(1)?);
        let row = put_down(client, relation, b'I', large, pieces, table, stop)?;
        pieces.end()?;
        if let Err(e) = row.run(client, relation, table, &[], Operation::Insert) {
            let mut key = vec![None; relation.columns.len()];
            for (&number, value) in row.set.iter().zip(&row.new) {
                if let (Held::Here(value), true) = (value, relation.key.contains(&number)) {
                    key[number] = value.as_deref();
                }
            }
            return Err(self.failed(
                client,
                decoder,
                &Change::Insert { relation: 0, row: key },
                &large.transaction,
                e,
            ));
        }
        row.empty_pieces(client, relation)?;
        Ok(Applied::Done)
    }

    #[allow(clippy::too_many_arguments)] // one of each kind
    fn update_large(
        &mut self,
        client: &mut Pipe,
        decoder: &Decoder,
        tag: u8,
        large: &Large,
        pieces: &mut Pieces,
        table: &SlaveTable,
        stop: &Stop,
    ) -> Result<Applied> {
        let relation = decoder.relation(pieces.number(1)?);
        let update = put_down(client, relation, tag, large, pieces, table, stop)?;
        pieces.end()?;
        let key: Vec<Value> = update.key.iter().map(Option::as_deref).collect();
        if update.set.is_empty() {
            update.empty_pieces(client, relation)?;
            return Ok(Applied::Done);
        }
        let updated = self.update_from_pieces(client, relation, table, &update, &key, &large.transaction);
        if let Err(e) = updated {
            let change = Change::Update { relation: 0, key, changed: Vec::new(), row: None };
            return Err(self.failed(client, decoder, &change, &large.transaction, e));
        }
        update.empty_pieces(client, relation)?;
        Ok(Applied::Done)
    }

    /// As the exact path does it.
    fn update_from_pieces(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        table: &SlaveTable,
        update: &Arrived,
        key: &[Value],
        transaction: &Transaction,
    ) -> Result<()> {
        let mut run = |operation| update.run(client, relation, table, key, operation);
        let updated = run(Operation::UpdateExact)?.len();
        if updated > 0 {
            return only_one(updated as u64);
        }
        let probed = run(Operation::Probe)?;
        let Some(same) = probed.first() else {
            return self.conflict(client, relation, key, Conflict::UpdateMissing.into(), transaction);
        };
        let applied =
            self.update_differs == UpdateDiffers::Apply && was_set(run(Operation::UpdateAny)?.len() as u64)?;
        let names = columns(relation, &update.set);
        let detail = differ(names.iter().map(|c| c.name), same);
        let found = Found { conflict: Conflict::UpdateDiffers, detail: Some(&detail), applied };
        self.conflict(client, relation, key, found, transaction)
    }
}

impl Arrived {
    /// Runs a statement for the row, with the values of its key for an update; for each row that it found, the booleans
    /// that it gives.
    fn run(
        &self,
        client: &mut Pipe,
        relation: &Relation,
        table: &SlaveTable,
        key: &[Value],
        operation: Operation,
    ) -> Result<Vec<Vec<bool>>> {
        let both = |new: &[usize]| [new, &self.set].concat();
        let (numbers, values): (Vec<usize>, Vec<&Held>) = match operation {
            Operation::Probe => (self.set.clone(), self.old.iter().collect()),
            Operation::UpdateExact => (both(&self.set), self.new.iter().chain(&self.old).collect()),
            _ => (self.set.clone(), self.new.iter().collect()),
        };
        let (mut here, mut bound) = (Vec::new(), Vec::new());
        let mut words: Vec<String> = (1..=key.len()).map(|n| format!("${n}")).collect();
        for (&number, value) in numbers.iter().zip(values) {
            match value {
                Held::Here(value) => {
                    here.push(number);
                    bound.push(value.as_deref());
                    words.push(format!("${}", key.len() + here.len()));
                }
                Held::There(value) => words.push(joined(relation, number, table, *value)?),
            }
        }
        let key_numbers = &relation.key[..key.len()];
        let (of_key, set) = (columns(relation, key_numbers), columns(relation, &self.set));
        let mut sql = build_with(table, operation, &of_key, &set, &|n| words[n - 1].clone())
            .map_err(|e| on_table(e, relation))?;
        if operation != Operation::Probe {
            sql.push_str(" returning true");
        }
        let types: Vec<Type> = of_key.into_iter().chain(columns(relation, &here)).map(param_type).collect();
        let params = params(relation, [key_numbers, &here], [key, &bound]);
        let failed = |e| failed_on(relation, e);
        let statement = client.prepare_typed(&sql, &types).map_err(failed)?;
        let rows = client.query(&statement, &as_dyn(&params)).map_err(failed)?;
        Ok(rows.iter().map(|row| (0..row.len()).map(|i| row.get(i)).collect()).collect())
    }

    fn empty_pieces(&self, client: &mut Pipe, relation: &Relation) -> Result<()> {
        match self.in_pieces {
            true => {
                client.batch_execute("truncate pyreplica_agent.piece").map_err(|e| failed_on(relation, e))
            }
            false => Ok(()),
        }
    }
}

/// SQL for a value that is in pieces. What the server converts text from is what it would take a parameter for.
fn joined(relation: &Relation, number: usize, table: &SlaveTable, value: i32) -> Result<String> {
    let bytes = format!(
        "(select string_agg(bytes, '') from \
         (select bytes from pyreplica_agent.piece where value = {value} order by n) p)"
    );
    let Some(column) = relation.columns[number].as_ref() else { return Ok(bytes) };
    match form(column, table) {
        Some(Form::Text) => {
            let here = table.column(column.name).map_err(|e| on_table(e, relation))?;
            Ok(format!("cast(convert_from({bytes}, pg_client_encoding()) as {})", here.type_name))
        }
        _ => Ok(bytes),
    }
}

/// `None` where a value cannot be made from its bytes by SQL (a large array, say), or is never large.
fn form(column: &Column, table: &SlaveTable) -> Option<Form> {
    let here = table.column(column.name).ok()?;
    match (column.binary, column.type_oid) {
        (true, BYTEA) => (here.base_type == BYTEA).then_some(Form::Bytes),
        // text, varchar, bpchar, json
        (false, _) | (true, 25 | 1043 | 1042 | 114) => (here.base_type != BYTEA).then_some(Form::Text),
        _ => None,
    }
}

/// Copies the row into the table, and keeps the values of its key.
fn copy_row(
    client: &mut Pipe,
    relation: &Relation,
    pieces: &mut Pieces,
    table: &SlaveTable,
    key: &mut [Option<Vec<u8>>],
    stop: &Stop,
) -> Result<()> {
    let taken = table.taken(relation, 0..relation.columns.len());
    let names = columns(relation, &taken)
        .iter()
        .map(|c| Ok(quote::ident(&table.column(c.name)?.name)))
        .collect::<Result<Vec<_>>>()
        .map_err(|e| on_table(e, relation))?;
    let names_sql = names.join(", ");
    client.batch_execute(&probe(table, &names_sql, names.len())).map_err(|e| failed_on(relation, e))?;
    let sql = format!("copy {} ({names_sql}) from stdin (format binary)", table.sql_name);
    let mut out = Out::begin(client, relation, &sql, stop)?;
    out.put(&(taken.len() as u16).to_be_bytes())?;
    for (number, column) in relation.columns.iter().enumerate() {
        let Some(column) = column.as_ref().filter(|_| taken.contains(&number)) else {
            skip(pieces)?;
            continue;
        };
        let Some(length) = pieces.length()? else {
            out.put(&u32::MAX.to_be_bytes())?;
            continue;
        };
        if field(column, table) == Some(Field::Jsonb) {
            out.put(&(length as u32 + 1).to_be_bytes())?;
            out.put(&[1])?;
        } else {
            out.put(&(length as u32).to_be_bytes())?;
        }
        if relation.key.contains(&number) {
            let value = pieces.bytes(length)?;
            out.put(&value)?;
            key[number] = Some(value);
        } else {
            pieces.pass(length, &mut |bytes| out.put(bytes))?;
        }
    }
    only_one(out.end()?)
}

/// Passes over a value that the slave does not get.
fn skip(pieces: &mut Pieces) -> Result<()> {
    let length = pieces.length()?.unwrap_or(0);
    pieces.pass(length, &mut |_| Ok(()))
}

/// Reads an insert or update, with its large values put down on the slave.
fn put_down(
    client: &mut Pipe,
    relation: &Relation,
    tag: u8,
    large: &Large,
    pieces: &mut Pieces,
    table: &SlaveTable,
    stop: &Stop,
) -> Result<Arrived> {
    let sql = "copy pyreplica_agent.piece (value, n, bytes) from stdin (format binary)";
    let mut out = match large.bytes() > HELD_BYTES {
        true => Some(Out::begin(client, relation, sql, stop)?),
        false => None,
    };
    let (mut held, mut there) = (0, 0);
    let taken = table.taken(relation, 0..relation.columns.len());
    let mut value = |pieces: &mut Pieces, number: usize| -> Result<Held> {
        if !taken.contains(&number) {
            skip(pieces)?;
            return Ok(Held::Here(None));
        }
        let Some(length) = pieces.length()? else { return Ok(Held::Here(None)) };
        let form = relation.columns[number].as_ref().and_then(|c| form(c, table));
        let Some(out) = out.as_mut().filter(|_| held + length > HELD_BYTES && form.is_some()) else {
            held += length;
            return Ok(Held::Here(Some(pieces.bytes(length)?)));
        };
        there += 1;
        let mut n: i32 = 0;
        pieces.pass(length, &mut |bytes| {
            bytes.chunks(PIECE_BYTES).try_for_each(|bytes| {
                n += 1;
                out.put(&3u16.to_be_bytes())?;
                for number in [there, n] {
                    out.put(&4u32.to_be_bytes())?;
                    out.put(&number.to_be_bytes())?;
                }
                out.put(&(bytes.len() as u32).to_be_bytes())?;
                out.put(bytes)
            })
        })?;
        Ok(Held::There(there))
    };
    let mut key = Vec::new();
    for _ in relation.key.iter().filter(|_| tag != b'I') {
        key.push(pieces.length()?.map(|length| pieces.bytes(length)).transpose()?);
    }
    let count = relation.columns.len();
    let mut row: Vec<Option<Held>> = Vec::new();
    if tag != b'U' {
        for number in 0..count {
            row.push(Some(value(pieces, number)?));
        }
    }
    let mut arrived = Arrived { key, set: Vec::new(), new: Vec::new(), old: Vec::new(), in_pieces: false };
    if tag == b'I' {
        let of_taken = row.drain(..).enumerate().filter(|(number, _)| taken.contains(number));
        (arrived.set, arrived.new) = of_taken.filter_map(|(number, value)| Some((number, value?))).unzip();
        arrived.in_pieces = there > 0;
        out.map(Out::end).transpose()?;
        return Ok(arrived);
    }
    for _ in 0..pieces.number(count + 1)? {
        let number = pieces.number(count)?;
        let new = match row.get_mut(number).and_then(Option::take) {
            Some(new) => new,
            None => value(pieces, number)?,
        };
        let old = value(pieces, number)?;
        if taken.contains(&number) {
            arrived.set.push(number);
            arrived.new.push(new);
            arrived.old.push(old);
        }
    }
    arrived.in_pieces = there > 0;
    out.map(Out::end).transpose()?;
    Ok(arrived)
}

/// A binary COPY under way.
struct Out<'c> {
    copy: CopyIn<'c>,
    relation: &'c Relation<'c>,
    stop: &'c Stop,
}

impl<'c> Out<'c> {
    fn begin(client: &'c mut Pipe, relation: &'c Relation, sql: &str, stop: &'c Stop) -> Result<Out<'c>> {
        let copy = client.copy_in(sql).map_err(|e| failed_on(relation, e))?;
        let copy = copy.ok_or_else(|| not_as_planned(relation))?;
        let mut out = Out { copy, relation, stop };
        out.put(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0")?;
        Ok(out)
    }

    /// What has been put is sent from 4 KiB on.
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.stop.is_set() {
            return Err(Error::new(Kind::Stopped, "asked to stop"));
        }
        self.copy.write(Bytes::copy_from_slice(bytes)).map_err(|e| failed_on(self.relation, e))
    }

    fn end(mut self) -> Result<u64> {
        self.put(&u16::MAX.to_be_bytes())?;
        self.copy.finish().map_err(|e| failed_on(self.relation, e))
    }
}
