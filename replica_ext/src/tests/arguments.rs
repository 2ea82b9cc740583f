//! What people call says so when it is given NULL.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;

    /// SQLSTATE and message of what a statement comes to.
    fn outcome(statement: &str) -> String {
        Spi::run(
            "create or replace function outcome(statement text) returns text language plpgsql as $$ begin
                 execute statement; return 'done';
             exception when others then return sqlstate || ' ' || sqlerrm; end $$",
        )
        .expect("a function");
        Spi::get_one_with_args::<String>("select outcome($1)", &[statement.into()])
            .expect("it catches errors")
            .expect("it says something")
    }

    #[pg_test]
    fn null_is_refused_by_the_name_of_the_argument() {
        for (call, argument) in [
            ("add_table(null)", "relation"),
            ("add_table('t', array[null]::name[])", "columns"),
            ("remove_table(null)", "relation"),
            ("add_all_tables(null)", "schema"),
            ("add_sequence(null)", "sequence"),
            ("remove_sequence(null)", "sequence"),
            ("forward(null)", "wanted"),
            ("allow_agent(null)", "role"),
            ("spread_sequences(null, 1, 2)", "schema"),
            ("spread_sequences('public', null, 2)", "node_offset"),
            ("spread_sequences('public', 1, null)", "nodes"),
        ] {
            Spi::run("create table if not exists t (id int primary key)").expect("a table");
            let expected = format!("22004 {argument} must not be null");
            assert_eq!(outcome(&format!("select pyreplica.{call}")), expected, "{call}");
        }
        assert_eq!(
            outcome("select pyreplica.replicate_ddl(null)"),
            "22004 there is no statement to replicate"
        );
    }

    #[pg_test]
    fn null_for_what_may_be_left_out_is_to_leave_it_out() {
        let add = "select pyreplica.add_table('t', null, null, null, null)";
        assert_eq!(outcome(&format!("create table t (id int primary key); {add}")), "done");
        let all =
            "select columns is null and row_filter is null and cardinality(operations) = 4 and not whole_rows
                     from pyreplica.replicated_table";
        assert_eq!(Spi::get_one::<bool>(all), Ok(Some(true)));
    }
}
