//! Changes that are logged while their statement runs: when that is, and that nothing else shows.

use pgrx::prelude::*;

use super::{both_ways, captured, log_of};

/// Events that PostgreSQL has queued for the trigger, as EXPLAIN counts them.
fn calls_of_the_trigger(statement: &str) -> i64 {
    let explain = format!("explain (analyze, format json) {statement}");
    let plan = Spi::get_one::<pgrx::Json>(&explain).expect("a plan").expect("json").0;
    let triggers = plan[0]["Triggers"].as_array().cloned().unwrap_or_default();
    let ours =
        triggers.iter().filter(|t| t["Trigger Name"].as_str().is_some_and(|n| n.contains("pyreplica")));
    ours.map(|t| t["Calls"].as_f64().unwrap_or_default() as i64).sum()
}

#[pg_schema]
pub mod tests {
    use super::*;

    #[pg_test]
    fn no_event_is_queued() {
        captured("t", "id int primary key, n int default 0");
        assert_eq!(calls_of_the_trigger("insert into t select generate_series(1, 9)"), 0);
        assert_eq!(calls_of_the_trigger("update t set n = 1"), 0);
        assert_eq!(calls_of_the_trigger("delete from t where id < 5"), 0);
        assert_eq!(log_of("").len(), 9 + 9 + 4);
        Spi::run("set pyreplica.log_at_once = off").expect("a setting");
        assert_eq!(calls_of_the_trigger("delete from t"), 5);
        assert_eq!(log_of("").len(), 9 + 9 + 4 + 5);
    }

    #[pg_test]
    fn nor_with_a_filter() {
        Spi::run(
            "create table t (id int primary key, n int);
             select pyreplica.add_table('t', row_filter => 'id > 5')",
        )
        .expect("a table");
        assert_eq!(calls_of_the_trigger("insert into t select generate_series(1, 9)"), 0);
        assert_eq!(log_of("").len(), 4);
    }

    /// The first statement of a session, and COPY, read the conditions themselves.
    #[pg_test]
    fn a_filter_holds_where_nothing_is_kept() {
        Spi::run(
            "create table t (id int primary key, n int) partition by range (id);
             create table t_1 partition of t for values from (0) to (100);
             create table t_2 partition of t for values from (100) to (200);
             select pyreplica.add_table('t', row_filter => 'n > 5');
             copy t from program 'printf \"1\\t1\\n2\\t6\\n\"';
             insert into t values (3, 3), (4, 7);
             update t set n = n + 3;
             update t set id = id + 100 where id in (3, 4);
             update t set n = 0 where id = 2;
             delete from t",
        )
        .expect("changes");
        assert_eq!(
            log_of(""),
            [
                "INSERT INTO public.t (id, n) VALUES (2, 6)",
                "INSERT INTO public.t (id, n) VALUES (4, 7)",
                "UPDATE public.t SET n = 9 WHERE id = 2",
                "INSERT INTO public.t (id, n) VALUES (3, 6)",
                "UPDATE public.t SET n = 10 WHERE id = 4",
                "DELETE FROM public.t WHERE id = 3",
                "INSERT INTO public.t (id, n) VALUES (103, 6)",
                "DELETE FROM public.t WHERE id = 4",
                "INSERT INTO public.t (id, n) VALUES (104, 10)",
                "DELETE FROM public.t WHERE id = 2",
                "DELETE FROM public.t WHERE id = 103",
                "DELETE FROM public.t WHERE id = 104",
            ]
        );
    }

    #[pg_test]
    fn nor_for_rows_that_are_routed_to_partitions() {
        Spi::run(
            "create table part (id int primary key) partition by range (id);
             create table part_1 partition of part for values from (0) to (100);
             create table part_2 (id int primary key);
             alter table part attach partition part_2 for values from (100) to (200);
             create table child (id int primary key references part on update cascade);
             select pyreplica.add_table('part'), pyreplica.add_table('child')",
        )
        .expect("tables");
        let both =
            "with p as (insert into part values (1), (101) returning id) insert into child select id from p";
        assert_eq!(calls_of_the_trigger(both), 0);
        assert_eq!(calls_of_the_trigger("update part set id = 151 where id = 1"), 0);
        Spi::run("copy part_1 from program 'echo 7'; copy part from program 'echo 8'").expect("rows");
        assert_eq!(
            log_of(""),
            [
                "INSERT INTO public.part (id) VALUES (1)",
                "INSERT INTO public.child (id) VALUES (1)",
                "INSERT INTO public.part (id) VALUES (101)",
                "INSERT INTO public.child (id) VALUES (101)",
                "DELETE FROM public.part WHERE id = 1",
                "INSERT INTO public.part (id) VALUES (151)",
                "UPDATE public.child SET id = 151 WHERE id = 1",
                "INSERT INTO public.part (id) VALUES (7)",
                "INSERT INTO public.part (id) VALUES (8)",
            ]
        );
    }

    #[pg_test]
    fn what_functions_of_a_statement_change_stands_between_its_rows() {
        captured("t", "id int primary key, n int");
        captured("u", "id int primary key");
        Spi::run(
            "create function f(i int) returns int language plpgsql as
                 $$ begin insert into u values (i); return i; end $$",
        )
        .expect("a function");
        assert_eq!(
            log_of("insert into t select i, f(i) from generate_series(1, 2) i"),
            [
                "INSERT INTO public.u (id) VALUES (1)",
                "INSERT INTO public.t (id, n) VALUES (1, 1)",
                "INSERT INTO public.u (id) VALUES (2)",
                "INSERT INTO public.t (id, n) VALUES (2, 2)",
            ]
        );
    }

    /// All rows are there before the first of these triggers fires, and in the log, although it fills a small buffer.
    #[pg_test]
    fn rows_of_a_copy_stand_before_what_its_triggers_change() {
        captured("t", "id int primary key, n int default 0");
        Spi::run(
            "set pyreplica.buffer_size = 64;
             create function next_row() returns trigger language plpgsql as
                 $$ begin update t set n = n + 1 where id = new.id + 1; return null; end $$;
             create trigger z after insert on t for each row execute function next_row();
             copy t (id) from program 'seq 1 3000'",
        )
        .expect("the rows are copied");
        let log = log_of("");
        assert_eq!(log.len(), 3000 + 2999);
        assert!(log[..3000].iter().all(|s| s.starts_with("INSERT ")));
        assert_eq!(log[3000], "UPDATE public.t SET n = 1 WHERE id = 2");
    }

    #[pg_test]
    fn what_is_stored_elsewhere_is_logged_if_it_changes() {
        both_ways(|| {
            captured("t", "id int primary key, n int, big text");
            Spi::run("alter table t alter big set storage external").expect("a table");
            let log = log_of(
                "insert into t values (1, 1, repeat('x', 10000));
                 update t set n = 2; update t set big = repeat('x', 10000); update t set big = repeat('y', 9999)",
            );
            assert_eq!(log[1], "UPDATE public.t SET n = 2 WHERE id = 1");
            assert!(log[2].starts_with("UPDATE public.t SET big = 'yyyy"));
            assert_eq!((log[0].len(), log[2].len(), log.len()), (10_051, 10_040, 3));
        });
    }

    #[pg_test]
    fn merge_and_on_conflict_log_what_they_did() {
        both_ways(|| {
            captured("t", "id int primary key, n int");
            let log = log_of(
                "insert into t values (1, 1), (2, 2);
                 insert into t values (1, 10), (3, 3) on conflict (id) do update set n = excluded.n;
                 insert into t values (1, 11) on conflict do nothing;
                 merge into t using (values (2, 20), (3, null), (4, 4)) s (id, n) on t.id = s.id
                    when matched and s.n is null then delete
                    when matched then update set n = s.n
                    when not matched then insert values (s.id, s.n)",
            );
            assert_eq!(
                log[2..],
                [
                    "UPDATE public.t SET n = 10 WHERE id = 1",
                    "INSERT INTO public.t (id, n) VALUES (3, 3)",
                    "UPDATE public.t SET n = 20 WHERE id = 2",
                    "DELETE FROM public.t WHERE id = 3",
                    "INSERT INTO public.t (id, n) VALUES (4, 4)",
                ]
            );
        });
    }

    /// What of a statement's rows gives up or takes a key is not only known, it is logged where it was done.
    #[pg_test]
    fn a_before_trigger_makes_room_for_each_row() {
        for partitioned in ["", "partition by range (id)"] {
            Spi::run(&format!(
                "create table u (id int primary key, v text) {partitioned};
                 do $$ begin if '{partitioned}' <> '' then
                    create table u_1 partition of u for values from (0) to (100);
                 end if; end $$;
                 select pyreplica.add_table('u');
                 create function make_room() returns trigger language plpgsql as
                    $$ begin delete from u where id = new.id; return new; end $$;
                 create trigger b before insert on u for each row execute function make_room()"
            ))
            .expect("a table");
            let log = log_of(
                "copy u from program 'printf \"1\\ta\\n1\\tb\\n\"'; insert into u values (1, 'c'), (2, 'd')",
            );
            let insert = |values| format!("INSERT INTO public.u (id, v) VALUES ({values})");
            let delete = || "DELETE FROM public.u WHERE id = 1".to_owned();
            let expected =
                [insert("1, 'a'"), delete(), insert("1, 'b'"), delete(), insert("1, 'c'"), insert("2, 'd'")];
            assert_eq!(log, expected, "{partitioned}");
            Spi::run("drop table u; drop function make_room; truncate pyreplica.log_0").expect("an end");
        }
    }

    #[pg_test]
    fn a_trigger_that_only_looks_like_ours_fires() {
        captured("t", "id int primary key");
        Spi::run(
            "create table seen (id int);
             create function see() returns trigger language plpgsql as
                 $$ begin insert into seen values (new.id); return null; end $$;
             create trigger xpyreplica after insert on t for each row execute function see()",
        )
        .expect("a trigger");
        assert_eq!(log_of("insert into t values (1), (2)").len(), 2);
        assert_eq!(Spi::get_one::<i64>("select count(*) from seen"), Ok(Some(2)));
    }

    #[pg_test]
    fn a_row_that_cannot_be_looked_at_fails_its_statement_and_nothing_else() {
        Spi::run(
            "create table t (id int primary key, n int);
             select pyreplica.add_table('t', row_filter => '1 / (id - 2) < 9')",
        )
        .expect("a table");
        let log = log_of(
            "insert into t values (1);
             do $$ begin insert into t values (3), (2); exception when division_by_zero then null; end $$;
             insert into t values (4)",
        );
        assert_eq!(log.len(), 2, "{log:?}");
    }

    #[pg_test]
    fn what_others_make_of_the_condition_logs_nothing() {
        captured("t", "id int primary key, n int");
        Spi::run(
            "create table other (id int primary key, check (pyreplica.log_now()));
             create function nothing() returns trigger language plpgsql as $$ begin return new; end $$;
             create trigger a after insert on t for each statement when (pyreplica.log_now()) execute function nothing();
             create trigger b before insert on t for each row when (pyreplica.log_now()) execute function nothing();
             create trigger c after insert on t for each row when (pyreplica.log_now()) execute function nothing();
             create trigger d after insert on other for each row when (pyreplica.log_now()) execute function nothing()",
        )
        .expect("tables and triggers");
        let log = log_of(
            "with x as (insert into other values (7) returning id) insert into t select id from x;
             copy t (id) from program 'echo 8'",
        );
        assert_eq!(log.len(), 2, "{log:?}");
    }

    #[pg_test(error = "pyreplica.log_now() can only stand in the WHEN clause of a trigger")]
    fn called_as_a_function_it_is_refused() {
        Spi::run("select pyreplica.log_now()").expect("unreachable");
    }

    /// It runs code of the user's in the middle of a condition, which comes to it again.
    #[pg_test]
    fn a_cast_of_the_user_in_a_filter_may_write_to_the_table() {
        both_ways(|| {
            Spi::run(
                "create type en as enum ('a', 'b');
                 create table t (id int primary key, s text, m en);
                 create function enj(c en) returns json language plpgsql as $$ begin
                    if c = 'b' then insert into t values (1000, 'xx1', 'a'); end if; return '1';
                 end $$;
                 create cast (en as json) with function enj(en);
                 select pyreplica.add_table('t', row_filter => 's || to_jsonb(m)::text like ''x%1''')",
            )
            .expect("a table");
            let log = log_of("insert into t values (1, 'xa', 'a'); insert into t values (2, 'xa', 'b')");
            assert_eq!(log.len(), 3, "{log:?}");
            Spi::run("drop table t cascade; drop cast (en as json); drop type en cascade").expect("an end");
        });
    }

    #[pg_test]
    fn only_our_own_term_of_a_condition_logs() {
        both_ways(|| {
            Spi::run(
                "create domain dn as int check (pyreplica.log_now() or value > -50);
                 create table t (id int primary key, n int);
                 select pyreplica.add_table('t', row_filter => 'n::dn > 5 and (pyreplica.log_now() or id > 0)')",
            )
            .expect("a table");
            let log = log_of(
                "insert into t values (1, 1), (2, 10); update t set n = 20 where id = 2;
                 copy t from program 'printf \"11\\t6\\n12\\t2\\n\"'; delete from t",
            );
            assert_eq!(log.len(), 5, "{log:?}");
            Spi::run("drop table t cascade; drop domain dn").expect("an end");
        });
    }

    #[pg_test]
    fn a_filter_of_what_is_the_servers_own_is_kept() {
        Spi::run(
            "create type mood as enum ('good', 'bad');
             create table t (id int primary key, n numeric, m mood, v text, at date);
             select pyreplica.add_table('t', row_filter =>
                'm = ''good'' and greatest(n, 0) < 9 and lower(v) like ''a%'' and v <> all (array[''ab'', ''ac''])
                 and coalesce(at, ''2020-01-01'') > ''2019-01-01'' and case when n is null then false else true end')",
        )
        .expect("a table");
        let insert = "insert into t values (1, 1, 'good', 'A', null), (2, 1, 'bad', 'A', null)";
        assert_eq!(calls_of_the_trigger(insert), 0);
        assert_eq!(log_of("").len(), 1);
    }
}
