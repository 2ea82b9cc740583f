//! Which sequences are replicated, by whose word, and where they stand.

use pgrx::prelude::*;

use super::captured;

#[pg_schema]
pub mod tests {
    use super::*;

    // Each test has tables of its own name: the server names their sequences with an eye on those that other tests, running
    // at the same time, have not committed.
    fn replicated() -> Vec<String> {
        let query = "select coalesce(array_agg(concat_ws(' ', relation, owned_by, column_name) order by relation::text), '{}')
                       from pyreplica.replicated_sequence";
        Spi::get_one::<Vec<String>>(query).expect("the view can be read").expect("an array")
    }

    fn moved(all: bool) -> Vec<(String, i64, i64)> {
        let query = format!("select pyreplica.moved_sequences({all})");
        let flat = Spi::get_one::<Vec<i64>>(&query).expect("they can be read").expect("an array");
        flat.chunks(5)
            .map(|m| {
                let name = format!("select {}::oid::regclass::text", m[0]);
                (Spi::get_one::<String>(&name).expect("a name").expect("a name"), m[1], m[2])
            })
            .collect()
    }

    #[pg_test]
    fn those_of_captured_tables_are_by_themselves() {
        Spi::run("create table plain (id serial); create sequence s").expect("a table");
        captured("here", "id serial primary key, n int generated always as identity");
        assert_eq!(replicated(), ["here_id_seq here id", "here_n_seq here n"]);
        Spi::run("select pyreplica.add_sequence('s')").expect("added");
        assert_eq!(replicated(), ["here_id_seq here id", "here_n_seq here n", "s"]);
        Spi::run("select pyreplica.remove_table('here'), pyreplica.remove_sequence('s')").expect("removed");
        assert_eq!(replicated(), [""; 0]);
    }

    #[pg_test]
    fn a_dropped_sequence_is_forgotten() {
        Spi::run("create sequence s; select pyreplica.add_sequence('s'); drop sequence s").expect("dropped");
        assert_eq!(replicated(), [""; 0]);
        Spi::run("create sequence s; select pyreplica.add_sequence('s')").expect("added");
        assert_eq!(Spi::get_one::<i64>("select count(*) from pyreplica.added_sequence"), Ok(Some(1)));
    }

    #[pg_test]
    fn the_reader_hears_of_those_that_moved() {
        captured("heard", "id serial primary key");
        Spi::run("create sequence d increment -2 start -5; select pyreplica.add_sequence('d')")
            .expect("added");
        assert_eq!(moved(false), [("heard_id_seq".into(), 1, 0), ("d".into(), -5, 0)]);
        assert_eq!(moved(false), []);
        Spi::run("select nextval('heard_id_seq')").expect("a value");
        assert_eq!(moved(false), [("heard_id_seq".into(), 1, 1)]);
        Spi::run("select nextval('d'), nextval('d')").expect("values");
        assert_eq!(moved(false), [("d".into(), -7, 1)]);
        assert_eq!(moved(true).len(), 2);
        Spi::run("alter table heard add other serial").expect("a column");
        assert_eq!(moved(false), [("heard_other_seq".into(), 1, 0)]);
        Spi::run("select pyreplica.remove_sequence('d'), nextval('d')").expect("removed");
        assert_eq!(moved(false), []);
    }

    #[pg_test(error = "public.t is not a sequence")]
    fn a_table_is_no_sequence() {
        Spi::run("create table t (id int primary key); select pyreplica.add_sequence('t')").expect("refused");
    }

    #[pg_test(error = "sequence public.once_id_seq is already replicated")]
    fn not_twice() {
        captured("once", "id serial primary key");
        Spi::run("select pyreplica.add_sequence('once_id_seq')").expect("refused");
    }

    #[pg_test(error = "sequence public.kept_id_seq was not added")]
    fn an_owned_one_goes_with_its_table() {
        captured("kept", "id serial primary key");
        Spi::run("select pyreplica.remove_sequence('kept_id_seq')").expect("refused");
    }

    #[pg_test(error = "must be owner of sequence s")]
    fn only_the_owner_may() {
        Spi::run(
            "create sequence s; create role nobody; set role nobody; select pyreplica.add_sequence('s')",
        )
        .expect("refused");
    }
}
