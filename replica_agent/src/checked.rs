//! Statements after which others may be sent before they are answered: they fail unless they find exactly their rows, or
//! they keep what is linked to them from being done.
//!
//! In: an UPDATE or DELETE, or a change of one row. Out: SQL that does it and counts. Pure.

use crate::decode::Column;
use crate::error::Result;
use crate::slave_table::SlaveTable;
use crate::statement::{build_gated, Operation};

/// What the server's log says of the row count; the number in front makes it no integer, and the planner cannot know it.
const TOLD: &str = "' rows are as PyReplica expects, which now applies the changes one by one'";

/// A statement for one row. `None` when its rows cannot be counted that way.
pub fn one_row(operation: Operation, sql: &str) -> Option<String> {
    match operation {
        // It fails by itself.
        Operation::Insert => Some(sql.to_owned()),
        _ => counted(sql, "1"),
    }
}

/// A statement for as many rows as its first parameter, an array, has elements.
pub fn many_rows(sql: &str) -> Option<String> {
    counted(sql, "cardinality($1)")
}

/// The number of the last link that is done, as text, in the transaction at hand.
const DONE: &str = "pyreplica_agent.done";

/// Begins a chain of links, which are numbered from 1.
pub fn before_links() -> String {
    format!("set local {DONE} = 0")
}

/// Asks which link was the last one done.
pub fn links_done() -> String {
    format!("select pg_catalog.current_setting('{DONE}')::bigint")
}

/// A change of one row as a link of a chain: it is made only if the link before it is done, and is done itself if it
/// finds its row, or is an INSERT. Its number is the parameter behind those of the change. `None` where there is none.
pub fn link(
    table: &SlaveTable,
    operation: Operation,
    key: &[&Column],
    set: &[&Column],
    parameters: usize,
) -> Result<Option<String>> {
    let number = format!("${}", parameters + 1);
    let gate = format!("pg_catalog.current_setting('{DONE}') = (cast({number} as bigint) - 1)::text");
    let Some(sql) = build_gated(table, operation, key, set, &gate)? else { return Ok(None) };
    let done = format!("pg_catalog.set_config('{DONE}', cast({number} as bigint)::text, true)");
    let outcome = match operation {
        // A trigger may have kept the row away.
        Operation::Insert => format!("case when {gate} then {done} end"),
        _ => format!(
            "case count when 1 then {done} when 0 then null else cast(count || {TOLD} as int)::text end"
        ),
    };
    Ok(Some(format!("with c as ({sql} returning 1) select {outcome} from (select count(*) from c) c")))
}

fn counted(sql: &str, rows: &str) -> Option<String> {
    // A WITH of its own cannot stand inside another.
    let plain = ["update ", "delete "].iter().any(|verb| sql.starts_with(verb));
    plain.then(|| {
        format!(
            "with c as ({sql} returning 1) \
             select case when count(*) <> {rows} then cast(count(*) || {TOLD} as int) end from c"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::tests::table;

    #[test]
    fn counts_rows() {
        assert_eq!(
            one_row(Operation::Delete, "delete from t where id = $1").unwrap(),
            "with c as (delete from t where id = $1 returning 1) select case when count(*) <> 1 then \
             cast(count(*) || ' rows are as PyReplica expects, which now applies the changes one by one' as int) \
             end from c"
        );
        assert!(many_rows("update t set a = b").unwrap().contains("count(*) <> cardinality($1)"));
        assert_eq!(one_row(Operation::Insert, "insert into t").unwrap(), "insert into t");
        assert_eq!(one_row(Operation::UpdateAny, "with old as (delete from t)"), None);
    }

    #[test]
    fn a_link_waits_for_the_one_before_it() {
        let table = table();
        let column = |name| Column { name, type_oid: 23, binary: true };
        let (id, name, no) = (column("id"), column("name"), column("no"));
        let check = |operation, key: &[&Column], set: &[&Column], parameters, expected: &str| {
            let sql = link(&table, operation, key, set, parameters).unwrap().unwrap();
            assert_eq!(sql, expected);
        };
        check(
            Operation::Delete,
            &[&id],
            &[],
            1,
            "with c as (delete from only \"s\".\"t\" as t where t.\"id\" operator(pg_catalog.=) cast($1 as bigint) \
             and pg_catalog.current_setting('pyreplica_agent.done') = (cast($2 as bigint) - 1)::text returning 1) \
             select case count when 1 then \
             pg_catalog.set_config('pyreplica_agent.done', cast($2 as bigint)::text, true) when 0 then null \
             else cast(count || ' rows are as PyReplica expects, which now applies the changes one by one' as int)::text \
             end from (select count(*) from c) c",
        );
        check(
            Operation::Insert,
            &[],
            &[&id, &name],
            2,
            "with c as (insert into \"s\".\"t\" (\"id\", \"name\") overriding system value select $1, $2 \
             where pg_catalog.current_setting('pyreplica_agent.done') = (cast($3 as bigint) - 1)::text returning 1) \
             select case when pg_catalog.current_setting('pyreplica_agent.done') = (cast($3 as bigint) - 1)::text then \
             pg_catalog.set_config('pyreplica_agent.done', cast($3 as bigint)::text, true) end \
             from (select count(*) from c) c",
        );
        assert_eq!(link(&table, Operation::UpdateAny, &[&id], &[&name], 2).unwrap(), None);
        assert_eq!(link(&table, Operation::UpdateExact, &[&id], &[&no], 2).unwrap(), None);
    }
}
