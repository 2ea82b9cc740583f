//! Changes of tables that the slave keeps in another form (`transform`): many at once, or one after the other.
//!
//! In: the same changes as `setwise` and `exact` have. Out: the same, in the slave's form; what the slave does not take
//! is left out here.

use std::sync::Arc;

use postgres::types::Type;
use postgres::Statement;

use super::exact::{differ, only_one, was_set, Found};
use super::setwise::{new_arrays, not_as_planned, Target, Work, MANY_ROWS};
use super::Applier;
use crate::bind::{as_dyn, params};
use crate::config::{InsertExists, UpdateDiffers};
use crate::conflict::Conflict;
use crate::decode::{Changed, Relation, Value};
use crate::error::{Error, Result};
use crate::failure::{failed_on, on_table};
use crate::own_types::{self, OwnTypes};
use crate::pipe::Pipe;
use crate::plan::UpdateGroup;
use crate::reader::Transaction;
use crate::slave_table::SlaveTable;
use crate::statement::columns;
use crate::transform::{Carried, Source, Step, Transform, WHOLE_ROWS};

impl Applier {
    pub(super) fn delete_mapped(&mut self, client: &mut Pipe, work: &Work, target: &Target) -> Result<()> {
        let Target { table, relation, .. } = target;
        let carried = Carried { key: &relation.key, new: &[], old: &[] };
        let keys = table.deletes.iter().map(|&key| work.plan.key(work.chunks, table, key));
        self.carry_out_mapped(client, work, target, Step::Delete, carried, keys)
    }

    pub(super) fn update_mapped(
        &mut self,
        client: &mut Pipe,
        work: &Work,
        target: &Target,
        group: &UpdateGroup,
    ) -> Result<()> {
        let Target { table, relation, .. } = target;
        let (plan, chunks, old) = (work.plan, work.chunks, &group.columns);
        let rows = group.rows.iter();
        let key = |key| plan.key(chunks, table, key);
        let changed = |update| (0..old.len()).map(move |n| plan.changed(chunks, update, n));
        if rows.clone().all(|update| update.row.is_some()) {
            let all: Vec<usize> = (0..relation.columns.len()).collect();
            let carried = Carried { key: &relation.key, new: &all, old };
            let whole = rows.filter_map(|update| Some((update, update.row?))).map(|(&update, row)| {
                let new = plan.columns(chunks, row, &all);
                key(update.key).chain(new).chain(changed(update).map(|(_, old)| old))
            });
            return self.carry_out_mapped(client, work, target, Step::Update, carried, whole);
        }
        let carried = Carried { key: &relation.key, new: old, old };
        let parts = rows.map(|&update| {
            let new = changed(update).map(|(new, _)| new);
            key(update.key).chain(new).chain(changed(update).map(|(_, old)| old))
        });
        self.carry_out_mapped(client, work, target, Step::Update, carried, parts)
    }

    pub(super) fn insert_mapped(&mut self, client: &mut Pipe, work: &Work, target: &Target) -> Result<()> {
        let Target { table, relation, slave } = target;
        if table.inserts.is_empty() {
            return Ok(());
        }
        let types = self.own_types(client)?;
        let by_copy =
            Transform::new(slave, relation, &types)?.is_some_and(|transform| transform.can_be_copied());
        if by_copy && self.copy(client, work, target)? {
            return Ok(());
        }
        let all: Vec<usize> = (0..relation.columns.len()).collect();
        let carried = Carried { key: &[], new: &all, old: &[] };
        let rows = table.inserts.iter().map(|&row| work.plan.columns(work.chunks, row, &all));
        self.carry_out_mapped(client, work, target, Step::Insert, carried, rows)
    }

    /// Whether all rows were as expected.
    fn carry_out_mapped<'v, R: Iterator<Item = Value<'v>>>(
        &mut self,
        client: &mut Pipe,
        work: &Work,
        target: &Target,
        step: Step,
        carried: Carried,
        rows: impl Iterator<Item = R>,
    ) -> Result<()> {
        let Target { relation, slave, .. } = target;
        let types = self.own_types(client)?;
        let Some(transform) = Transform::new(slave, relation, &types)? else {
            return Err(not_as_planned(relation));
        };
        if !transform.takes(step, carried) {
            return Ok(());
        }
        let rows: Vec<R> = rows.collect();
        let counts = step != Step::Insert;
        if rows.len() > 1 {
            let step = if step == Step::Update && rows.len() >= MANY_ROWS { Step::UpdateMany } else { step };
            if let Some(statement) = self.prepare_mapped(client, &transform, step, Source::Many, carried)? {
                let carried: Vec<usize> = [carried.key, carried.new, carried.old].concat();
                let mut arrays = new_arrays(&columns(relation, &carried), &types.arrays, rows.len());
                for row in rows {
                    arrays.iter_mut().zip(row).for_each(|(array, value)| array.push(value));
                }
                // It counts its rows itself.
                return work.send(client, &statement, arrays);
            }
        }
        for row in rows {
            let row: Vec<Value> = row.collect();
            let found = self.execute_mapped(client, &transform, step, carried, &row)?;
            if found != 1 && counts && !(step == Step::Delete && transform.may_be_missing(step)) {
                return Err(not_as_planned(relation));
            }
        }
        Ok(())
    }

    /// The table, if the slave keeps it in another form.
    pub(super) fn mapped(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
    ) -> Result<Option<Arc<SlaveTable>>> {
        if self.mapping.rules.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.table(client, relation)?).filter(|table| table.is_transformed()))
    }

    /// As `try_to_insert` in `rivals`: the number of rows that were inserted; `None` if the slave takes none.
    pub(super) fn insert_one_mapped(
        &mut self,
        client: &mut Pipe,
        table: &SlaveTable,
        relation: &Relation,
        row: &[Value],
        step: Step,
    ) -> Result<Option<u64>> {
        let types = self.own_types(client)?;
        let Some(transform) = Transform::new(table, relation, &types)? else { return Ok(None) };
        let all: Vec<usize> = (0..row.len()).collect();
        let carried = Carried { key: &[], new: &all, old: &[] };
        match transform.takes(step, carried) {
            true => self.execute_mapped(client, &transform, step, carried, row).map(Some),
            false => Ok(None),
        }
    }

    /// The row that an INSERT would bring, as a query, and the types of its parameters, which are all values.
    pub(super) fn new_row_mapped(
        &mut self,
        client: &mut Pipe,
        table: &SlaveTable,
        relation: &Relation,
        all: &[usize],
    ) -> Result<Option<(String, Vec<Type>)>> {
        let types = self.own_types(client)?;
        let Some(transform) = Transform::new(table, relation, &types)? else { return Ok(None) };
        let carried = Carried { key: &[], new: all, old: &[] };
        let sql = transform.new_row(carried).map_err(|e| on_table(e, relation))?;
        Ok(transform.parameter_types(Source::One, carried).map(|types| (sql, types)))
    }

    pub(super) fn delete_one_mapped(
        &mut self,
        client: &mut Pipe,
        table: &SlaveTable,
        relation: &Relation,
        key: &[Value],
        transaction: &Transaction,
    ) -> Result<()> {
        let types = self.own_types(client)?;
        let Some(transform) = Transform::new(table, relation, &types)? else { return Ok(()) };
        let carried = Carried { key: &relation.key, new: &[], old: &[] };
        if !transform.takes(Step::Delete, carried) {
            return Ok(());
        }
        match self.execute_mapped(client, &transform, Step::Delete, carried, key)? {
            0 if transform.may_be_missing(Step::Delete) => Ok(()),
            0 => self.conflict(client, relation, key, Conflict::DeleteMissing.into(), transaction),
            n => only_one(n),
        }
    }

    /// As `update` in `exact`. `row`: the new values of all columns, if the log has them.
    #[allow(clippy::too_many_arguments)] // those of the change
    pub(super) fn update_one_mapped(
        &mut self,
        client: &mut Pipe,
        table: &SlaveTable,
        relation: &Relation,
        key: &[Value],
        changed: &[Changed],
        row: Option<&[Value]>,
        transaction: &Transaction,
    ) -> Result<()> {
        let types = self.own_types(client)?;
        let Some(transform) = Transform::new(table, relation, &types)? else { return Ok(()) };
        let old: Vec<usize> = changed.iter().map(|c| c.column).collect();
        let new: Vec<usize> = row.map_or_else(|| old.clone(), |row| (0..row.len()).collect());
        let carried = Carried { key: &relation.key, new: &new, old: &old };
        if !transform.takes(Step::Update, carried) {
            return Ok(());
        }
        let mut values = key.to_vec();
        match row {
            Some(row) => values.extend(row),
            None => values.extend(changed.iter().map(|c| c.new)),
        }
        values.extend(changed.iter().map(|c| c.old));
        if self.insert_exists != InsertExists::Stop && transform.may_insert(&old) {
            let moves_in = self.ask_mapped(client, &transform, Step::MovesIn, carried, &values)?;
            if let (Some([true]), Some(row)) = (moves_in.as_deref(), whole(relation, key, changed, row)) {
                return self.insert_row(client, relation, &row, transaction, false);
            }
        }
        let updated = self.execute_mapped(client, &transform, Step::Update, carried, &values)?;
        if updated > 0 {
            return only_one(updated);
        }
        if self.was_altered(client, relation)? {
            let table = self.table(client, relation)?;
            return self.update_one_mapped(client, &table, relation, key, changed, row, transaction);
        }
        let Some(same) = self.ask_mapped(client, &transform, Step::Probe, carried, &values)? else {
            return match transform.may_be_missing(Step::Update) {
                true => Ok(()),
                false => self.conflict(client, relation, key, Conflict::UpdateMissing.into(), transaction),
            };
        };
        let applied = self.update_differs == UpdateDiffers::Apply
            && was_set(self.execute_mapped(client, &transform, Step::UpdateAny, carried, &values)?)?;
        let touched = transform.touched(&old);
        let detail = differ(touched.into_iter(), &same);
        let found = Found { conflict: Conflict::UpdateDiffers, detail: Some(&detail), applied };
        self.conflict(client, relation, key, found, transaction)
    }

    /// As `probe` in `exact`: a row of answers, if there is one.
    fn ask_mapped(
        &mut self,
        client: &mut Pipe,
        transform: &Transform,
        step: Step,
        carried: Carried,
        values: &[Value],
    ) -> Result<Option<Vec<bool>>> {
        let relation = transform.relation();
        let Some(statement) = self.prepare_mapped(client, transform, step, Source::One, carried)? else {
            return Ok(None);
        };
        let (key, set) = values.split_at(carried.key.len());
        let params = params(relation, [carried.key, &[carried.new, carried.old].concat()], [key, set]);
        let row = client.query_opt(&statement, &as_dyn(&params)).map_err(|e| failed_on(relation, e))?;
        Ok(row.map(|row| (0..row.len()).map(|i| row.get(i)).collect()))
    }

    /// Runs the statement for one row; gives the number of rows.
    fn execute_mapped(
        &mut self,
        client: &mut Pipe,
        transform: &Transform,
        step: Step,
        carried: Carried,
        values: &[Value],
    ) -> Result<u64> {
        let relation = transform.relation();
        let Some(statement) = self.prepare_mapped(client, transform, step, Source::One, carried)? else {
            return Ok(0);
        };
        let (key, set) = values.split_at(carried.key.len());
        let params = params(relation, [carried.key, &[carried.new, carried.old].concat()], [key, set]);
        client.execute(&statement, &as_dyn(&params)).map_err(|e| failed_on(relation, e))
    }

    /// `None` when there are no arrays of the values' types.
    fn prepare_mapped(
        &mut self,
        client: &mut Pipe,
        transform: &Transform,
        step: Step,
        source: Source,
        carried: Carried,
    ) -> Result<Option<Statement>> {
        let relation = transform.relation();
        let Carried { key, new, old } = carried;
        let (key, set) = (columns(relation, key), columns(relation, &[new, old].concat()));
        self.put_shape(relation, step as u8, &key, &set);
        self.shape.push(source as u8);
        self.shape.extend((new.len() as u16).to_be_bytes());
        if source == Source::Many && !self.checked.contains(&transform.table().oid) {
            self.unchecked.insert(transform.table().oid);
        }
        if let Some(statement) = self.set_statements.get(&self.shape) {
            return Ok(statement.clone());
        }
        let types = transform.parameter_types(source, carried);
        let statement = match types {
            Some(types) => {
                let sql = transform.build(step, source, carried).map_err(|e| on_table(e, relation))?;
                Some(client.prepare_typed(&sql, &types).map_err(|e| not_prepared(relation, e))?)
            }
            None => None,
        };
        let shape = self.shape.clone();
        self.keep_few_statements();
        self.set_statements.insert(shape, statement.clone());
        Ok(statement)
    }

    fn own_types(&mut self, client: &mut Pipe) -> Result<Arc<OwnTypes>> {
        if self.own_types.names.is_empty() {
            let failed = |e| Error::from_pg("could not read the types of the slave", e);
            self.own_types = Arc::new(OwnTypes::of(&client.query(own_types::QUERY, &[]).map_err(failed)?));
        }
        Ok(Arc::clone(&self.own_types))
    }
}

/// The new values of all columns, if the log has them.
fn whole<'v>(
    relation: &Relation,
    key: &[Value<'v>],
    changed: &[Changed<'v>],
    row: Option<&[Value<'v>]>,
) -> Option<Vec<Value<'v>>> {
    if let Some(row) = row {
        return Some(row.to_vec());
    }
    let mut known = vec![None; relation.columns.len()];
    relation.key.iter().zip(key).for_each(|(&n, value)| known[n] = Some(*value));
    changed.iter().for_each(|changed| known[changed.column] = Some(changed.new));
    known.into_iter().collect()
}

/// Columns that this chunk has not introduced are not known to it.
fn not_prepared(relation: &Relation, e: postgres::Error) -> Error {
    let e = failed_on(relation, e);
    match e.sqlstate() {
        Some("42703") if e.hint_text().is_none() => e.hint(WHOLE_ROWS),
        _ => e,
    }
}
