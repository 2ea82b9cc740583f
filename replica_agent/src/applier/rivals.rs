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
use crate::decode::{Relation, Value};
use crate::error::Result;
use crate::failure::failed_on;
use crate::pipe::Pipe;
use crate::quote;
use crate::reader::Transaction;
use crate::slave_table::SlaveTable;
use crate::statement::{columns, Operation};

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
    ) -> Result<()> {
        let all = self.taken(client, relation, 0..row.len())?;
        let values: Vec<Value> = all.iter().map(|&n| row[n]).collect();
        if self.insert_exists != InsertExists::Stop {
            let operation = Operation::InsertUnlessThere;
            if self.execute(client, relation, operation, &[], &all, &[], &values)? > 0 {
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
        self.execute(client, relation, Operation::Insert, &[], &all, &[], &values)?;
        Ok(())
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
        let all = self.taken(client, relation, 0..row.len())?;
        let values: Vec<Value> = all.iter().map(|&n| row[n]).collect();
        let table = self.table(client, relation)?;
        if table.is_transformed() {
            // The slave alone knows what it makes of the row.
            return Ok(0);
        }
        let indexes =
            client.query(include_str!("../sql/unique_indexes.sql"), &[&table.oid]).map_err(failed)?;
        let columns = columns(relation, &all);
        let mut new = Vec::with_capacity(columns.len());
        for (column, n) in columns.iter().zip(1..) {
            let here = table.column(column.name)?;
            new.push(format!("cast(${n} as {}) as {}", here.full_type, quote::ident(&here.name)));
        }
        let in_the_way: Vec<String> =
            indexes.iter().map(|index| in_the_way(&table, index, &new.join(", "))).collect();
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
        let types: Vec<Type> = columns.iter().map(|c| param_type(c)).collect();
        let statement = client.prepare_typed(&sql, &types).map_err(failed)?;
        let params = params(relation, [&[], &all], [&[], &values]);
        client.execute(&statement, &as_dyn(&params)).map_err(failed)
    }
}

/// A query for the places of the rows that collide by this index with the row of these values.
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
                (select {keys} from (select {new}) n where {predicate}) here \
          where {}",
        table.target(),
        conditions.join(" and ")
    )
}
