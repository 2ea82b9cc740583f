//! The master side of PyReplica: trigger -> buffer -> log.
//!
//! Modules in the order in which a change passes them.

#![deny(unsafe_op_in_unsafe_fn)]

mod guc;
mod error;
mod origin;

mod pg;
mod capture;
mod captured;
mod encode;
mod buffer;
mod decode;
mod add_table;
mod replicate_ddl;
mod sequence;
mod wake;
mod replica_log;

#[cfg(any(test, feature = "pg_test"))]
mod tests;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../../sql/10_schema.sql", name = "schema", bootstrap);
extension_sql_file!("../../sql/20_log.sql", name = "log", requires = ["schema"]);
extension_sql_file!("../../sql/30_position.sql", name = "position", requires = ["log"]);
extension_sql_file!("../../sql/35_node.sql", name = "node", requires = ["position"]);
extension_sql_file!("../../sql/40_capture.sql", name = "capture", requires = ["node"]);
extension_sql_file!("../../sql/45_keep.sql", name = "keep", requires = ["capture"]);
extension_sql_file!("../../sql/50_agent.sql", name = "agent", requires = ["keep"]);
extension_sql_file!("../../sql/60_replica_log.sql", name = "replica_log", requires = ["agent"]);
extension_sql_file!("../../sql/70_sequence.sql", name = "sequence", requires = ["replica_log"]);
extension_sql_file!("../../sql/75_spread_sequences.sql", name = "spread_sequences", requires = ["sequence"]);
extension_sql_file!("../../sql/90_grants.sql", name = "grants", requires = ["spread_sequences"], finalize);

#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::register();
    pg::register();
}

/// Required by `cargo pgrx test`.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["max_prepared_transactions = 10"]
    }
}
