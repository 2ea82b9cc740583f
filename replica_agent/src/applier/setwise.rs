//! The net effect of a window, put to the slave in a few statements for all rows of a table.
//!
//! In: a window with its plan. Out: statements that are sent and not waited for; or an error, and then the transaction has
//! to go back to where it was, for the changes to be applied one after the other. Every statement fails unless it finds
//! exactly its rows: only then is the outcome that of the changes in their order, and no conflict to be named.

use std::sync::Arc;
use std::time::Duration;

use postgres::Statement;

use super::Applier;
use crate::bind::{params, put_field, type_of, Array, Owned};
use crate::checked;
use crate::decode::{Column, Relation, Value};
use crate::error::{Error, Kind, Result};
use crate::failure::{failed_on, full_name};
use crate::pipe::Pipe;
use crate::plan::{Plan, TablePlan, UpdateGroup};
use crate::reader::Chunk;
use crate::set_statement::{build, element, field, ArrayTypes, Field, SetOperation};
use crate::slave_table::SlaveTable;
use crate::statement::{columns, Operation};
use crate::tables::{Gate, Tables};
use crate::wake::Stop;

/// What COPY spares for a row. But it costs two round trips in which nothing else is under way.
const COPY_SPARES: Duration = Duration::from_micros(1);
/// From so many bytes on it is also used because it sends them piece by piece, and so needs no message that holds all;
/// and how many a message may hold where that would take longer.
const COPY_FROM_BYTES: usize = 1024 * 1024;
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// From so many rows on an update fills pages of indexes with versions that it has made itself.
pub(super) const MANY_ROWS: usize = 1000;
/// Bytes of a COPY sent at once.
const COPY_BYTES: usize = 64 * 1024;

/// The window at hand.
pub(super) struct Work<'w> {
    pub chunks: &'w [Chunk],
    pub plan: &'w Plan,
    stop: &'w Stop,
}

/// A table of the plan, and as the slave has it.
pub struct Target<'w> {
    pub(super) table: &'w TablePlan,
    pub(super) relation: Relation<'w>,
    pub(super) slave: Arc<SlaveTable>,
}

impl Target<'_> {
    /// Quoted and qualified, on the slave.
    pub fn sql_name(&self) -> &str {
        &self.slave.sql_name
    }
}

impl Applier {
    /// Sends what carries out the plan of a window. If it fails, here or when it is answered, the transaction has to go back
    /// to where it was.
    pub fn carry_out(
        &mut self,
        client: &mut Pipe,
        chunks: &[Chunk],
        plan: &Plan,
        targets: &[Target],
        stop: &Stop,
    ) -> Result<()> {
        if self.arrays.is_empty() {
            self.arrays = array_types(client)?;
        }
        let work = Work { chunks, plan, stop };
        // What refers to others goes first.
        for target in targets.iter().rev() {
            match target.slave.is_transformed() {
                false => self.delete(client, &work, target)?,
                true => self.delete_mapped(client, &work, target)?,
            }
        }
        for target in targets {
            for group in &target.table.updates {
                match target.slave.is_transformed() {
                    false => self.update_group(client, &work, target, group)?,
                    true => self.update_mapped(client, &work, target, group)?,
                }
            }
        }
        for target in targets {
            match target.slave.is_transformed() {
                false => self.insert(client, &work, target)?,
                true => self.insert_mapped(client, &work, target)?,
            }
        }
        self.still_known(client, targets)
    }

    /// The tables of the plan, but for those whose changes are to be skipped; `None` where they cannot be changed by
    /// statements for many rows.
    pub fn targets<'w>(
        &mut self,
        client: &mut Pipe,
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

    fn delete(&mut self, client: &mut Pipe, work: &Work, target: &Target) -> Result<()> {
        let Target { table, relation, .. } = target;
        let rows = table.deletes.len();
        let statement = match rows {
            0 => return Ok(()),
            1 => None,
            _ => self.prepare_set(client, target, SetOperation::Delete, &relation.key, &[])?,
        };
        let keys = || table.deletes.iter().map(|&key| work.plan.key(work.chunks, table, key));
        let Some(statement) = statement else {
            for key in keys() {
                let key: Vec<Value> = key.collect();
                self.send_one(client, relation, Operation::Delete, &relation.key, &[], &key, &[])?;
            }
            return Ok(());
        };
        let mut arrays = new_arrays(&columns(relation, &relation.key), &self.arrays, rows);
        for key in keys() {
            arrays.iter_mut().zip(key).for_each(|(array, value)| array.push(value));
        }
        work.send(client, &statement, arrays)
    }

    fn update_group(
        &mut self,
        client: &mut Pipe,
        work: &Work,
        target: &Target,
        group: &UpdateGroup,
    ) -> Result<()> {
        let Target { table, relation, slave } = target;
        let rows = group.rows.len();
        let set = &slave.taken(relation, group.columns.iter().copied());
        if set.is_empty() {
            return Ok(());
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
                self.send_one(client, relation, Operation::UpdateExact, &relation.key, set, &key, &new)?;
            }
            return Ok(());
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
        work.send(client, &statement, keys)
    }

    fn insert(&mut self, client: &mut Pipe, work: &Work, target: &Target) -> Result<()> {
        let Target { table, relation, slave } = target;
        let rows = table.inserts.len();
        if rows == 0 {
            return Ok(());
        }
        if self.copy(client, work, target)? {
            return Ok(());
        }
        let all = slave.taken(relation, 0..relation.columns.len());
        let values = || table.inserts.iter().map(|&row| work.plan.columns(work.chunks, row, &all));
        if rows > 1 {
            if let Some(statement) = self.prepare_set(client, target, SetOperation::Insert, &[], &all)? {
                let mut arrays = new_arrays(&columns(relation, &all), &self.arrays, rows);
                for row in values() {
                    arrays.iter_mut().zip(row).for_each(|(array, value)| array.push(value));
                }
                return work.send(client, &statement, arrays);
            }
        }
        for row in values() {
            let row: Vec<Value> = row.collect();
            self.send_one(client, relation, Operation::Insert, &[], &all, &[], &row)?;
        }
        Ok(())
    }

    /// Inserts the rows by COPY; false where that does not pay, or is not possible.
    pub(super) fn copy(&mut self, client: &mut Pipe, work: &Work, target: &Target) -> Result<bool> {
        let Target { table, relation, slave } = target;
        let all = slave.taken(relation, 0..relation.columns.len());
        let values = || table.inserts.iter().map(|&row| work.plan.columns(work.chunks, row, &all));
        let bytes = || values().flatten().flatten().map(<[u8]>::len).sum::<usize>();
        if !copy_pays(client, table.inserts.len(), bytes) {
            return Ok(false);
        }
        let Some(statement) = self.prepare_set(client, target, SetOperation::Copy, &[], &all)? else {
            return Ok(false);
        };
        if let Some(probe) = self.prepare_set(client, target, SetOperation::Probe, &[], &all)? {
            client.send(&probe, Vec::<Owned>::new());
        }
        let fields: Vec<Field> =
            columns(relation, &all).iter().map(|c| field(c, slave).unwrap_or(Field::AsItIs)).collect();
        work.copy(client, relation, &statement, &fields, values())?;
        Ok(true)
    }

    /// Sends the change of one row; waits where it cannot be a statement that counts.
    #[allow(clippy::too_many_arguments)] // one list per role in the statement
    fn send_one(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        operation: Operation,
        key: &[usize],
        set: &[usize],
        key_values: &[Value],
        set_values: &[Value],
    ) -> Result<()> {
        let Some(statement) = self.prepare_one(client, relation, operation, key, set)? else {
            let found = self.execute(client, relation, operation, key, set, key_values, set_values)?;
            return if found == 1 { Ok(()) } else { Err(not_as_planned(relation)) };
        };
        // As in `execute`.
        let twice = [set, set].concat();
        let set = &twice[..set_values.len()];
        let params = params(relation, [key, set], [key_values, set_values]);
        client.send(&statement, params.iter().map(Owned::from).collect());
        Ok(())
    }

    /// The statement for one row that fails unless it finds it; `None` where there is none.
    fn prepare_one(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        operation: Operation,
        key: &[usize],
        set: &[usize],
    ) -> Result<Option<Statement>> {
        let (key, set) = (columns(relation, key), columns(relation, set));
        self.put_shape(relation, operation as u8, &key, &set);
        if let Some(statement) = self.set_statements.get(&self.shape) {
            return Ok(statement.clone());
        }
        let shape = self.shape.clone();
        let (sql, types) = self.one_row(client, relation, operation, &key, &set)?;
        let statement = match checked::one_row(operation, &sql) {
            Some(sql) => Some(client.prepare_typed(&sql, &types).map_err(|e| failed_on(relation, e))?),
            None => None,
        };
        self.keep_few_statements();
        self.set_statements.insert(shape, statement.clone());
        Ok(statement)
    }

    /// `None` when the changes cannot be put as one statement.
    fn prepare_set(
        &mut self,
        client: &mut Pipe,
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
        let counted = |sql: String| match operation {
            SetOperation::Copy | SetOperation::Probe | SetOperation::Insert => Some(sql),
            SetOperation::Update | SetOperation::UpdateMany | SetOperation::Delete => {
                checked::many_rows(&sql)
            }
        };
        let statement = match sql.and_then(counted) {
            Some(sql) => {
                let array = |c: &&Column| {
                    element(c, &self.arrays).and_then(|e| self.arrays.get(&e)).map(|&oid| type_of(oid))
                };
                let olds = if operation.compares() { &set[..] } else { &[] };
                let types = match operation {
                    SetOperation::Copy | SetOperation::Probe => Vec::new(),
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
    fn still_known(&mut self, client: &mut Pipe, targets: &[Target]) -> Result<()> {
        if self.unchecked.is_empty() {
            return Ok(());
        }
        let statement = match &self.same {
            Some(statement) => statement.clone(),
            None => client
                .prepare(include_str!("../sql/slave_table_same.sql"))
                .map_err(|e| Error::from_pg("could not read the catalogs of the slave", e))?,
        };
        let (mut oids, mut types) = (Vec::new(), Vec::new());
        for Target { slave, .. } in targets {
            if self.unchecked.remove(&slave.oid) {
                self.checked.insert(slave.oid);
                oids.push(slave.oid);
                let columns: Vec<String> = slave.columns.iter().map(|c| c.own_type.to_string()).collect();
                types.push(format!("{{{}}}", columns.join(",")));
            }
        }
        client.send(&statement, vec![Owned::Oids(oids), Owned::Texts(types)]);
        self.same = Some(statement);
        Ok(())
    }
}

impl Work<'_> {
    fn check_stop(&self) -> Result<()> {
        match self.stop.is_set() {
            true => Err(Error::new(Kind::Stopped, "asked to stop")),
            false => Ok(()),
        }
    }

    pub(super) fn send(&self, client: &mut Pipe, statement: &Statement, arrays: Vec<Array>) -> Result<()> {
        self.check_stop()?;
        client.send(statement, arrays.into_iter().map(Owned::Array).collect());
        Ok(())
    }

    fn copy<'v>(
        &self,
        client: &mut Pipe,
        relation: &Relation,
        statement: &Statement,
        fields: &[Field],
        values: impl Iterator<Item = impl Iterator<Item = Value<'v>>>,
    ) -> Result<()> {
        self.check_stop()?;
        let copy = client.copy_in(statement).map_err(|e| failed_on(relation, e))?;
        let mut copy = copy.ok_or_else(|| not_as_planned(relation))?;
        let new_piece = || Vec::with_capacity(COPY_BYTES + 1024);
        let mut out = new_piece();
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
                let piece = std::mem::replace(&mut out, new_piece());
                copy.write(piece.into()).map_err(|e| failed_on(relation, e))?;
            }
        }
        out.extend_from_slice(&u16::MAX.to_be_bytes());
        copy.write(out.into()).map_err(|e| failed_on(relation, e))?;
        copy.send_end();
        Ok(())
    }
}

fn copy_pays(client: &Pipe, rows: usize, bytes: impl FnOnce() -> usize) -> bool {
    let spared = COPY_SPARES * u32::try_from(rows).unwrap_or(u32::MAX);
    let round_trip = client.round_trip();
    let is_far = round_trip > 5 * COPY_SPARES * 1000;
    spared >= 2 * round_trip || bytes() >= if is_far { MESSAGE_BYTES } else { COPY_FROM_BYTES }
}

pub(super) fn not_as_planned(relation: &Relation) -> Error {
    Error::new(
        Kind::Apply,
        format!("rows of table \"{}\" are not as the master had them", full_name(relation)),
    )
}

pub(super) fn new_arrays(columns: &[&Column], arrays: &ArrayTypes, rows: usize) -> Vec<Array> {
    columns.iter().map(|c| Array::new(element(c, arrays).unwrap_or_default(), rows)).collect()
}

fn array_types(client: &mut Pipe) -> Result<ArrayTypes> {
    let rows = client
        .query("select oid, typarray from pg_type where typarray <> 0 and oid < 10000", &[])
        .map_err(|e| Error::from_pg("could not read the types of the slave", e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
