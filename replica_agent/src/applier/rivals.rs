//! Rows of the slave that are in the way of a row that the master inserts, and what is done about them.
//!
//! In: a row to insert. Out: it is inserted, or left out, or in place of those in the way, as agent.toml says
//! (`insert_exists`); each time the conflict is recorded.
//!
//! A row is in the way by any unique index or exclusion constraint, also one over expressions or of some rows only. What
//! an index is over stands in the catalogs as SQL with bare names of columns, so it is evaluated once for the table and
//! once for a subquery of the new row's values under the same names.

use postgres::types::Type;
use postgres::Row;

use super::exact::Found;
use super::Applier;
use crate::bind::{as_dyn, param_type, params};
use crate::config::InsertExists;
use crate::conflict::Conflict;
use crate::decode::{Column, Relation, Value};
use crate::error::Result;
use crate::failure::failed_on;
use crate::pipe::Pipe;
use crate::quote;
use crate::reader::Transaction;
use crate::slave_table::{SlaveColumn, SlaveTable};
use crate::statement::{columns, Operation};
use crate::transform::Step;

/// What to do with rows that are in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rivals {
    Count,
    Delete,
}

impl Applier {
    pub(super) fn insert_row(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        row: &[Value],
        transaction: &Transaction,
        missed: bool,
    ) -> Result<()> {
        if self.insert_exists != InsertExists::Stop {
            let is_in_the_way =
                missed || self.try_to_insert(client, relation, row, Operation::InsertUnlessThere)? == Some(0);
            if !is_in_the_way {
                return Ok(());
            }
            let (rivals, what) = match self.insert_exists {
                InsertExists::Replace => (Rivals::Delete, "replaced by the master's"),
                _ => (Rivals::Count, "kept"),
            };
            let found = self.rivals(client, relation, row, rivals)?;
            if found > 0 {
                let key: Vec<Value> = relation.key.iter().map(|&k| row[k]).collect();
                let detail = match found {
                    1 => format!("The slave's row is {what}."),
                    n => format!("{n} rows of the slave are {what}."),
                };
                let found = Found {
                    conflict: Conflict::of_insert(found),
                    detail: Some(&detail),
                    applied: rivals == Rivals::Delete,
                };
                self.conflict(client, relation, &key, found, transaction)?;
                if rivals == Rivals::Count {
                    return Ok(());
                }
            }
        }
        // If something is in the way that was not found, it says so.
        self.try_to_insert(client, relation, row, Operation::Insert).map(drop)
    }

    /// The number of rows that were inserted; `None` if the slave takes none.
    fn try_to_insert(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        row: &[Value],
        operation: Operation,
    ) -> Result<Option<u64>> {
        if let Some(table) = self.mapped(client, relation)? {
            let step = match operation {
                Operation::InsertUnlessThere => Step::InsertUnlessThere,
                _ => Step::Insert,
            };
            return self.insert_one_mapped(client, &table, relation, row, step);
        }
        let all = self.taken(client, relation, 0..row.len())?;
        let values: Vec<Value> = all.iter().map(|&n| row[n]).collect();
        self.execute(client, relation, operation, &[], &all, &[], &values).map(Some)
    }

    /// How many rows of the slave collide with this one.
    pub(super) fn count_rivals(
        &mut self,
        client: &mut Pipe,
        relation: &Relation,
        row: &[Value],
    ) -> Result<u64> {
        self.rivals(client, relation, row, Rivals::Count)
    }

    fn rivals(&mut self, client: &mut Pipe, relation: &Relation, row: &[Value], what: Rivals) -> Result<u64> {
        let failed = |e| failed_on(relation, e);
        let table = self.table(client, relation)?;
        let (all, (new, types)) = match table.is_transformed() {
            true => {
                let all: Vec<usize> = (0..row.len()).collect();
                let Some(new) = self.new_row_mapped(client, &table, relation, &all)? else { return Ok(0) };
                (all, new)
            }
            false => {
                let all = self.taken(client, relation, 0..row.len())?;
                let new = new_row(&table, &columns(relation, &all))?;
                (all, new)
            }
        };
        let values: Vec<Value> = all.iter().map(|&n| row[n]).collect();
        let indexes =
            client.query(include_str!("../sql/unique_indexes.sql"), &[&table.oid]).map_err(failed)?;
        let in_the_way: Vec<String> = indexes.iter().map(|index| in_the_way(&table, index, &new)).collect();
        if in_the_way.is_empty() {
            return Ok(0);
        }
        let rivals = in_the_way.join(" union ");
        let sql = match what {
            Rivals::Count => format!("select from ({rivals}) r"),
            Rivals::Delete => format!(
                "delete from {} as t using ({rivals}) r where t.tableoid = r.part and t.ctid = r.place",
                table.target()
            ),
        };
        let statement = client.prepare_typed(&sql, &types).map_err(failed)?;
        let params = params(relation, [&[], &all], [&[], &values]);
        client.execute(&statement, &as_dyn(&params)).map_err(failed)
    }
}

/// The new row as a query, and the types of its parameters.
fn new_row(table: &SlaveTable, columns: &[&Column]) -> Result<(String, Vec<Type>)> {
    let mut new = Vec::with_capacity(columns.len());
    for (column, n) in columns.iter().zip(1..) {
        let here = table.column(column.name)?;
        new.push(format!("cast(${n} as {}) as {}", here.full_type, quote::ident(&here.name)));
    }
    let is_given = |here: &SlaveColumn| columns.iter().any(|c| here.from.as_deref() == Some(c.name));
    new.extend(table.nulls_for(|here| !is_given(here)));
    Ok((format!("select {}", new.join(", ")), columns.iter().map(|c| param_type(c)).collect()))
}

/// A query for the places of the rows that collide by this index with the row that `new` gives.
fn in_the_way(table: &SlaveTable, index: &Row, new: &str) -> String {
    let (expressions, operators): (Vec<String>, Vec<String>) =
        (index.get("expressions"), index.get("operators"));
    let (predicate, nulls_collide): (&str, bool) = (index.get("predicate"), index.get("nulls_collide"));
    let keys: Vec<String> = expressions.iter().zip(1..).map(|(e, n)| format!("({e}) as k{n}")).collect();
    let keys = keys.join(", ");
    let collide = |(operator, n): (&String, usize)| {
        let equal = format!("there.k{n} {operator} here.k{n}");
        match nulls_collide {
            true => format!("({equal} or coalesce(there.k{n}, here.k{n}) is null)"),
            false => equal,
        }
    };
    let conditions: Vec<String> = operators.iter().zip(1..).map(collide).collect();
    format!(
        "select there.part, there.place \
           from (select tableoid as part, ctid as place, {keys} from {} where {predicate}) there, \
                (select {keys} from ({new}) n where {predicate}) here \
          where {}",
        table.target(),
        conditions.join(" and ")
    )
}
