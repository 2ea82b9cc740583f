//! The net effect of a window, put to the slave in a few statements for all rows of a table.
//!
//! In: a window with its plan. Out: done; or not done, and then the transaction has to go back to where it was, for the
//! changes to be applied one after the other. Every statement has to find exactly its rows: only then is the outcome
//! that of the changes in their order, and no conflict to be named.

use std::io::Write;
use std::sync::Arc;

use postgres::types::ToSql;
use postgres::{Client, Statement};

use super::Applier;
use crate::bind::{put_field, type_of, Array};
use crate::decode::{Column, Relation, Value};
use crate::error::{Error, Kind, Result};
use crate::failure::failed_on;
use crate::plan::{Plan, TablePlan, UpdateGroup};
use crate::reader::Chunk;
use crate::set_statement::{build, element, field, ArrayTypes, Field, SetOperation};
use crate::slave_table::SlaveTable;
use crate::statement::{columns, Operation};
use crate::tables::{Gate, Tables};
use crate::wake::Stop;

/// From so many rows on COPY pays its second round trip.
const COPY_ROWS: usize = 16;
/// From so many bytes on it is also used because it sends them piece by piece, and so needs no message that holds all.
const COPY_FROM_BYTES: usize = 1024 * 1024;
/// From so many rows on an update fills pages of indexes with versions that it has made itself.
const MANY_ROWS: usize = 1000;
/// Bytes of a COPY sent at once.
const COPY_BYTES: usize = 64 * 1024;

/// What became of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarriedOut {
    Done,
    /// Something takes changes one by one; nothing has been changed yet.
    OneByOne,
    /// A statement did not find its rows, or a table is not what it was.
    NotAsPlanned,
}

/// The window at hand.
pub(super) struct Work<'w> {
    pub chunks: &'w [Chunk],
    pub plan: &'w Plan,
    stop: &'w Stop,
}

/// A table of the plan, and as the slave has it.
pub(super) struct Target<'w> {
    pub table: &'w TablePlan,
    pub relation: Relation<'w>,
    pub slave: Arc<SlaveTable>,
}

impl Applier {
    /// Carries out the plan of a window. Unless that is done the transaction has to go back to where it was, also after
    /// an error.
    pub fn carry_out(
        &mut self,
        client: &mut Client,
        chunks: &[Chunk],
        plan: &Plan,
        tables: &Tables,
        stop: &Stop,
    ) -> Result<CarriedOut> {
        let Some(targets) = self.targets(client, plan, tables)? else { return Ok(CarriedOut::OneByOne) };
        if self.arrays.is_empty() {
            self.arrays = array_types(client)?;
        }
        let work = Work { chunks, plan, stop };
        let mut as_planned = true;
        for target in &targets {
            as_planned = as_planned
                && match target.slave.is_transformed() {
                    false => self.delete(client, &work, target)?,
                    true => self.delete_mapped(client, &work, target)?,
                };
        }
        for target in &targets {
            for group in &target.table.updates {
                as_planned = as_planned
                    && match target.slave.is_transformed() {
                        false => self.update_group(client, &work, target, group)?,
                        true => self.update_mapped(client, &work, target, group)?,
                    };
            }
        }
        for target in &targets {
            as_planned = as_planned
                && match target.slave.is_transformed() {
                    false => self.insert(client, &work, target)?,
                    true => self.insert_mapped(client, &work, target)?,
                };
        }
        if as_planned && self.still_known(client, &targets)? {
            return Ok(CarriedOut::Done);
        }
        self.forget();
        Ok(CarriedOut::NotAsPlanned)
    }

    /// The tables of the plan, but for those whose changes are to be skipped; `None` where they cannot be changed by
    /// statements for many rows.
    fn targets<'w>(
        &mut self,
        client: &mut Client,
        plan: &'w Plan,
        tables: &Tables,
    ) -> Result<Option<Vec<Target<'w>>>> {
        if !self.aliases.is_empty() {
            return Ok(None);
        }
        let mut targets = Vec::with_capacity(plan.tables.len());
        for table in &plan.tables {
            let relation = table.relation.as_relation();
            match tables.gate_of_all(relation.schema, relation.name, relation.oid, table.xids) {
                Some(Gate::Apply) => {}
                Some(Gate::Skip) => continue,
                Some(Gate::Unknown) | None => return Ok(None),
            }
            let name = self.name_of(&relation);
            if !self.find(client, &relation, name.clone())? {
                return Ok(None);
            }
            let slave = Arc::clone(&self.tables[&name]);
            if slave.one_by_one || slave.lacks(table.lost) {
                return Ok(None);
            }
            targets.push(Target { table, relation, slave });
        }
        Ok(Some(targets))
    }

    fn delete(&mut self, client: &mut Client, work: &Work, target: &Target) -> Result<bool> {
        let Target { table, relation, .. } = target;
        let rows = table.deletes.len();
        let statement = match rows {
            0 => return Ok(true),
            1 => None,
            _ => self.prepare_set(client, target, SetOperation::Delete, &relation.key, &[])?,
        };
        let keys = || table.deletes.iter().map(|&key| work.plan.key(work.chunks, table, key));
        let Some(statement) = statement else {
            for key in keys() {
                let key: Vec<Value> = key.collect();
                if self.execute(client, relation, Operation::Delete, &relation.key, &[], &key, &[])? != 1 {
                    return Ok(false);
                }
            }
            return Ok(true);
        };
        let mut arrays = new_arrays(&columns(relation, &relation.key), &self.arrays, rows);
        for key in keys() {
            arrays.iter_mut().zip(key).for_each(|(array, value)| array.push(value));
        }
        work.execute(client, relation, &statement, &arrays, rows)
    }

    fn update_group(
        &mut self,
        client: &mut Client,
        work: &Work,
        target: &Target,
        group: &UpdateGroup,
    ) -> Result<bool> {
        let Target { table, relation, slave } = target;
        let rows = group.rows.len();
        let set = &slave.taken(relation, group.columns.iter().copied());
        if set.is_empty() {
            return Ok(true);
        }
        // Places of what is taken among the columns of the group.
        let places: Vec<usize> =
            (0..group.columns.len()).filter(|&n| set.contains(&group.columns[n])).collect();
        let statement = match rows {
            1 => None,
            ..MANY_ROWS => self.prepare_set(client, target, SetOperation::Update, &relation.key, set)?,
            _ => self.prepare_set(client, target, SetOperation::UpdateMany, &relation.key, set)?,
        };
        let Some(statement) = statement else {
            for &update in &group.rows {
                let key: Vec<Value> = work.plan.key(work.chunks, table, update.key).collect();
                let changed = places.iter().map(|&n| work.plan.changed(work.chunks, update, n));
                let (mut new, old): (Vec<Value>, Vec<Value>) = changed.unzip();
                new.extend(old);
                let operation = Operation::UpdateExact;
                if self.execute(client, relation, operation, &relation.key, set, &key, &new)? != 1 {
                    return Ok(false);
                }
            }
            return Ok(true);
        };
        let set = columns(relation, set);
        let mut keys = new_arrays(&columns(relation, &relation.key), &self.arrays, rows);
        let mut news = new_arrays(&set, &self.arrays, rows);
        let mut olds = new_arrays(&set, &self.arrays, rows);
        for &update in &group.rows {
            let key = work.plan.key(work.chunks, table, update.key);
            keys.iter_mut().zip(key).for_each(|(array, value)| array.push(value));
            for (n, &place) in places.iter().enumerate() {
                let (new, old) = work.plan.changed(work.chunks, update, place);
                news[n].push(new);
                olds[n].push(old);
            }
        }
        keys.append(&mut news);
        keys.append(&mut olds);
        work.execute(client, relation, &statement, &keys, rows)
    }

    fn insert(&mut self, client: &mut Client, work: &Work, target: &Target) -> Result<bool> {
        let Target { table, relation, slave } = target;
        let rows = table.inserts.len();
        if rows == 0 {
            return Ok(true);
        }
        let all = slave.taken(relation, 0..relation.columns.len());
        let values = || table.inserts.iter().map(|&row| work.plan.columns(work.chunks, row, &all));
        let bytes = || values().flatten().flatten().map(<[u8]>::len).sum::<usize>();
        if rows >= COPY_ROWS || bytes() >= COPY_FROM_BYTES {
            if let Some(statement) = self.prepare_set(client, target, SetOperation::Copy, &[], &all)? {
                let fields: Vec<Field> = columns(relation, &all)
                    .iter()
                    .map(|c| field(c, &target.slave).unwrap_or(Field::AsItIs))
                    .collect();
                return work.copy(client, relation, &statement, &fields, values(), rows);
            }
        }
        if rows > 1 {
            if let Some(statement) = self.prepare_set(client, target, SetOperation::Insert, &[], &all)? {
                let mut arrays = new_arrays(&columns(relation, &all), &self.arrays, rows);
                for row in values() {
                    arrays.iter_mut().zip(row).for_each(|(array, value)| array.push(value));
                }
                return work.execute(client, relation, &statement, &arrays, rows);
            }
        }
        for row in values() {
            let row: Vec<Value> = row.collect();
            self.execute(client, relation, Operation::Insert, &[], &all, &[], &row)?;
        }
        Ok(true)
    }

    /// `None` when the changes cannot be put as one statement.
    fn prepare_set(
        &mut self,
        client: &mut Client,
        target: &Target,
        operation: SetOperation,
        key_numbers: &[usize],
        set_numbers: &[usize],
    ) -> Result<Option<Statement>> {
        let relation = &target.relation;
        let (key, set) = (columns(relation, key_numbers), columns(relation, set_numbers));
        self.put_shape(relation, operation as u8, &key, &set);
        if let Some(statement) = self.set_statements.get(&self.shape) {
            if statement.is_some() && !self.checked.contains(&target.slave.oid) {
                self.unchecked.insert(target.slave.oid);
            }
            return Ok(statement.clone());
        }
        let shape = self.shape.clone();
        let sql = build(&target.slave, operation, &key, &set, &self.arrays)?;
        let statement = match sql {
            Some(sql) => {
                let array = |c: &&Column| {
                    element(c, &self.arrays).and_then(|e| self.arrays.get(&e)).map(|&oid| type_of(oid))
                };
                let olds = if operation.compares() { &set[..] } else { &[] };
                let types = match operation {
                    SetOperation::Copy => Vec::new(),
                    _ => key.iter().chain(&set).chain(olds).filter_map(array).collect(),
                };
                Some(client.prepare_typed(&sql, &types).map_err(|e| failed_on(relation, e))?)
            }
            None => None,
        };
        self.keep_few_statements();
        self.set_statements.insert(shape, statement);
        self.prepare_set(client, target, operation, key_numbers, set_numbers)
    }

    /// The tables are locked by what was done to them, so from now on nobody alters them until the end of the
    /// transaction; but somebody may have, since they were described: then the bytes of a COPY were read as another type.
    fn still_known(&mut self, client: &mut Client, targets: &[Target]) -> Result<bool> {
        if self.unchecked.is_empty() {
            return Ok(true);
        }
        let unchecked: Vec<u32> = self.unchecked.drain().collect();
        let failed = |e| Error::from_pg("could not read the catalogs of the slave", e);
        let statement = match &self.now {
            Some(statement) => statement.clone(),
            None => client.prepare(include_str!("../sql/slave_table_now.sql")).map_err(failed)?,
        };
        let rows = client.query(&statement, &[&unchecked]).map_err(failed)?;
        self.now = Some(statement);
        self.checked.extend(&unchecked);
        Ok(targets.iter().filter(|t| unchecked.contains(&t.slave.oid)).all(|t| {
            rows.iter().find(|row| row.get::<_, u32>("oid") == t.slave.oid).is_some_and(|row| {
                let types: Vec<u32> = row.get("types");
                !row.get::<_, bool>("one_by_one") && t.slave.columns.iter().map(|c| c.own_type).eq(types)
            })
        }))
    }
}

impl Work<'_> {
    fn check_stop(&self) -> Result<()> {
        match self.stop.is_set() {
            true => Err(Error::new(Kind::Stopped, "asked to stop")),
            false => Ok(()),
        }
    }

    /// Whether the statement found so many rows.
    pub(super) fn execute(
        &self,
        client: &mut Client,
        relation: &Relation,
        statement: &Statement,
        arrays: &[Array],
        rows: usize,
    ) -> Result<bool> {
        self.check_stop()?;
        let params: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|a| a as &(dyn ToSql + Sync)).collect();
        let found = client.execute(statement, &params).map_err(|e| failed_on(relation, e))?;
        Ok(found == rows as u64)
    }

    fn copy<'v>(
        &self,
        client: &mut Client,
        relation: &Relation,
        statement: &Statement,
        fields: &[Field],
        values: impl Iterator<Item = impl Iterator<Item = Value<'v>>>,
        rows: usize,
    ) -> Result<bool> {
        self.check_stop()?;
        let mut writer = client.copy_in(statement).map_err(|e| failed_on(relation, e))?;
        let mut send = |out: &mut Vec<u8>| {
            let sent = writer.write_all(out);
            out.clear();
            sent.map_err(|e| copy_failed(relation, e))
        };
        let mut out = Vec::with_capacity(COPY_BYTES + 1024);
        out.extend_from_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        for row in values {
            out.extend_from_slice(&(fields.len() as u16).to_be_bytes());
            for (field, value) in fields.iter().zip(row) {
                match (field, value) {
                    (Field::Jsonb, Some(text)) => {
                        out.extend_from_slice(&(text.len() as u32 + 1).to_be_bytes());
                        out.push(1);
                        out.extend_from_slice(text);
                    }
                    _ => put_field(&mut out, value),
                }
            }
            if out.len() >= COPY_BYTES {
                send(&mut out)?;
            }
        }
        out.extend_from_slice(&u16::MAX.to_be_bytes());
        send(&mut out)?;
        let copied = writer.finish().map_err(|e| failed_on(relation, e))?;
        Ok(copied == rows as u64)
    }
}

pub(super) fn copy_failed(relation: &Relation, e: std::io::Error) -> Error {
    match e.downcast::<postgres::Error>() {
        Ok(e) => failed_on(relation, e),
        Err(e) => Error::new(Kind::Connection, "could not send rows to the slave").source(e),
    }
}

pub(super) fn new_arrays(columns: &[&Column], arrays: &ArrayTypes, rows: usize) -> Vec<Array> {
    columns.iter().map(|c| Array::new(element(c, arrays).unwrap_or_default(), rows)).collect()
}

fn array_types(client: &mut Client) -> Result<ArrayTypes> {
    let rows = client
        .query("select oid, typarray from pg_type where typarray <> 0 and oid < 10000", &[])
        .map_err(|e| Error::from_pg("could not read the types of the slave", e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
