//! What a change logs.

use pgrx::prelude::*;

use super::{captured, log_of};

#[pg_schema]
pub mod tests {
    use super::*;

    #[pg_test]
    fn each_operation_logs_what_a_slave_needs() {
        captured("t", "id int primary key, v text, n int default 0");
        let log =
            log_of("insert into t values (1, 'a'); update t set v = 'b'; update t set id = 2; delete from t");
        assert_eq!(
            log,
            [
                "INSERT INTO public.t (id, v, n) VALUES (1, 'a', 0)",
                "UPDATE public.t SET v = 'b' WHERE id = 1",
                "UPDATE public.t SET id = 2 WHERE id = 1",
                "DELETE FROM public.t WHERE id = 2",
            ]
        );
    }

    #[pg_test]
    fn a_change_of_nothing_logs_nothing() {
        captured("t", "id int primary key, v text");
        assert_eq!(log_of("insert into t values (1, 'a')").len(), 1);
        assert_eq!(log_of("update t set v = v, id = id").len(), 1);
    }

    #[pg_test]
    fn images_count_and_not_equality() {
        captured("t", "id int primary key, n numeric, f float8");
        let log = log_of("insert into t values (1, 1.0, 0); update t set n = 1.00; update t set f = '-0'");
        assert_eq!(
            log[1..],
            ["UPDATE public.t SET n = 1.00 WHERE id = 1", "UPDATE public.t SET f = -0 WHERE id = 1"]
        );
    }

    #[pg_test]
    fn one_truncate_of_several_tables_stays_one() {
        captured("a", "id serial primary key");
        captured("b", "id int primary key references a");
        let log =
            log_of("insert into a default values; truncate a, b; truncate b; truncate a, b restart identity");
        assert_eq!(
            log[1..],
            [
                "TRUNCATE public.a, public.b",
                "TRUNCATE public.b",
                "TRUNCATE public.a, public.b RESTART IDENTITY",
            ]
        );
    }

    #[pg_test]
    fn a_replica_session_logs_nothing() {
        captured("t", "id int primary key");
        assert!(log_of("set session_replication_role = replica; insert into t values (1)").is_empty());
    }

    #[pg_test]
    fn a_row_larger_than_a_page_is_cut_and_joined() {
        captured("t", "id int primary key, v text");
        let log = log_of("insert into t values (1, repeat('x', 100000)); insert into t values (2, 'y')");
        assert_eq!(log[0].len(), "INSERT INTO public.t (id, v) VALUES (1, '')".len() + 100_000);
        assert_eq!(log.len(), 2);
        let pieces = "select array_agg(piece order by id) from pyreplica.log";
        let pieces = Spi::get_one::<Vec<i16>>(pieces).expect("query").expect("rows");
        assert_eq!((pieces[0], pieces[1], pieces.len()), (1, 2, 14)); // 100 kB in chunks of 7900 bytes, and the second row
    }

    #[pg_test]
    fn a_statement_is_queued_in_its_place() {
        captured("t", "id int primary key");
        let log = log_of(
            "insert into t values (1);
             insert into pyreplica.replica_log (sql) values ('alter table t add v text');
             delete from t",
        );
        assert_eq!(log[1], "alter table t add v text");
        assert_eq!(log.len(), 3);
    }

    #[pg_test(error = "column \"sql\" of pyreplica.replica_log must hold a statement")]
    fn an_empty_statement_is_refused() {
        Spi::run("insert into pyreplica.replica_log (sql) values (' ')").expect("unreachable");
    }

    #[pg_test]
    fn a_temporary_copy_of_a_captured_table_is_not_captured() {
        captured("t", "id int primary key");
        assert!(log_of("create temp table c (like t including all); insert into c values (1)").is_empty());
    }

    #[pg_test]
    fn the_chunk_says_who_and_on_whose_behalf() {
        captured("t", "id int primary key");
        log_of("set local pyreplica.origin = 'north'; set local synchronous_commit = off; insert into t values (1)");
        let row = "select format('%s %s %s', origin, async, username = current_user) from pyreplica.log";
        assert_eq!(Spi::get_one::<String>(row), Ok(Some("north t t".into())));
    }
}
