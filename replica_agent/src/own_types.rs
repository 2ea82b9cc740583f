//! What a server calls PostgreSQL's own types, and their arrays: by oids that mean the same everywhere.
//!
//! In: rows of `QUERY`. Out: `OwnTypes`.

use std::collections::HashMap;

use postgres::Row;

use crate::set_statement::ArrayTypes;

pub const QUERY: &str = "select oid, typarray, format_type(oid, -1) from pg_type where oid < 10000";

#[derive(Debug, Default)]
pub struct OwnTypes {
    pub arrays: ArrayTypes,
    pub names: HashMap<u32, String>,
}

impl OwnTypes {
    pub fn of(rows: &[Row]) -> Self {
        let arrays = rows.iter().filter(|row| row.get::<_, u32>(1) != 0);
        OwnTypes {
            arrays: arrays.map(|row| (row.get(0), row.get(1))).collect(),
            names: rows.iter().map(|row| (row.get(0), row.get(2))).collect(),
        }
    }
}
