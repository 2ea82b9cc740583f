//! Statements that fail unless they find exactly their rows: so what follows them may be sent before they are answered.
//!
//! In: an UPDATE or DELETE. Out: SQL that does it and counts. Pure.

use crate::statement::Operation;

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
}
