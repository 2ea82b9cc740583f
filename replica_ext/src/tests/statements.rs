//! `replicate_ddl`: what is queued, and what is not.

use pgrx::prelude::*;

use super::{captured, log_of};

#[pg_schema]
pub mod tests {
    use super::*;

    fn assert_refused(statement: &str) {
        Spi::run(&format!(
            "do $do$ begin
                 perform pyreplica.replicate_ddl($sql${statement}$sql$);
                 raise 'not refused: %', $sql${statement}$sql$;
             exception when feature_not_supported then null; end $do$"
        ))
        .expect("refused");
    }

    #[pg_test]
    fn each_statement_runs_and_is_queued_in_its_place() {
        captured("t", "id int primary key, v text");
        let log = log_of(
            "insert into t values (1, 'a');
             select pyreplica.replicate_ddl('alter table t add n int; create index on t (n); ');
             insert into t values (2, 'b', 3);
             select pyreplica.replicate_ddl('alter table t drop v');
             insert into t values (4, 5)",
        );
        assert_eq!(
            log,
            [
                "INSERT INTO public.t (id, v) VALUES (1, 'a')",
                "alter table t add n int",
                "create index on t (n)",
                "INSERT INTO public.t (id, v, n) VALUES (2, 'b', 3)",
                "alter table t drop v",
                "INSERT INTO public.t (id, n) VALUES (4, 5)",
            ]
        );
    }

    #[pg_test]
    fn changed_rows_travel_as_rows_and_not_as_a_statement_too() {
        captured("t", "id int primary key, v int");
        let log = log_of(
            "select pyreplica.replicate_ddl('alter table t add n int; insert into t values (1, 1, 1); update t set n = 2;
                                             delete from t where id = 7; create table plain (id int); insert into plain values (1);
                                             truncate plain')",
        );
        assert_eq!(
            log,
            [
                "alter table t add n int",
                "INSERT INTO public.t (id, v, n) VALUES (1, 1, 1)",
                "UPDATE public.t SET n = 2 WHERE id = 1",
                "create table plain (id int)",
                "insert into plain values (1)",
                "truncate plain",
            ]
        );
    }

    #[pg_test(
        error = "cannot replicate statement \"do $$ begin insert into t values (1); end $$\": it changed rows of replicated tables, which arrive on the slaves by themselves"
    )]
    fn a_block_that_changes_captured_rows_is_refused() {
        captured("t", "id int primary key");
        log_of("select pyreplica.replicate_ddl('do $$ begin insert into t values (1); end $$')");
    }

    #[pg_test(error = "cannot replicate statement \"commit\": it begins or ends a transaction")]
    fn the_transaction_is_the_callers() {
        log_of("select pyreplica.replicate_ddl('create table t (id int); commit')");
    }

    #[pg_test]
    fn what_is_for_a_session_alone_is_refused() {
        Spi::run("create table plain (id int)").expect("a table");
        for statement in [
            "prepare p as select 1",
            "execute p",
            "deallocate all",
            "declare c cursor for select 1",
            "fetch c",
            "close c",
            "listen x",
            "unlisten x",
            "notify x",
            "load 'plpgsql'",
            "create temp table t (id int)",
            "create temp table t as select 1",
            "create temp sequence s",
            "create or replace temp view v as select 1",
            "select * into t from plain",
            "select 1 as one into t union select 2",
        ] {
            assert_refused(statement);
        }
        assert_eq!(log_of("select pyreplica.replicate_ddl('select 1')"), ["select 1"]);
    }

    #[pg_test]
    fn what_would_arrive_by_half_is_refused() {
        captured("t", "id int primary key");
        Spi::run("create table plain (id int); create view v as select * from t; insert into t values (1)")
            .expect("tables");
        for statement in [
            "truncate t, plain",
            "with gone as (delete from t where id = 1 returning id) insert into plain select id from gone",
        ] {
            assert_refused(statement);
        }
        assert_eq!(
            log_of(
                "select pyreplica.replicate_ddl('insert into v values (2); insert into plain values (2)')"
            ),
            [
                "INSERT INTO public.t (id) VALUES (1)",
                "INSERT INTO public.t (id) VALUES (2)",
                "insert into plain values (2)"
            ]
        );
    }

    #[pg_test(error = "there is no statement to replicate")]
    fn nothing_is_no_statement() {
        log_of("select pyreplica.replicate_ddl(' ; -- nothing')");
    }

    #[pg_test(error = "VACUUM cannot run inside a transaction block")]
    fn what_a_transaction_forbids_is_refused() {
        log_of("select pyreplica.replicate_ddl('vacuum')");
    }

    #[pg_test]
    fn the_search_path_is_that_of_the_moment() {
        Spi::run("create schema a; create schema b; set search_path = a").expect("schemas");
        log_of("select pyreplica.replicate_ddl('create table x (id int); set search_path = b; create table x (id int)')");
        let found = Spi::get_one::<i64>(
            "select count(*) from pyreplica.log where encode(payload, 'escape') like '%create table x (id int)%a%create table x (id int)%b%'",
        );
        assert_eq!(found, Ok(Some(1)));
        assert_eq!(
            Spi::get_one::<bool>("select to_regclass('a.x') is not null and to_regclass('b.x') is not null"),
            Ok(Some(true))
        );
    }

    #[pg_test(error = "permission denied to queue statements for the slaves")]
    fn only_who_may_queue_may_call_it() {
        Spi::run("create role nobody; set role nobody").expect("role");
        log_of("select pyreplica.replicate_ddl('select 1')");
    }
}
