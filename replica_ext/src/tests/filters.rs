//! A part of a table: some columns, some rows, some operations.

use pgrx::prelude::*;

use super::{both_ways, log_of};

/// A table of which a part is captured.
fn captured(columns: &str, arguments: &str) {
    Spi::run(&format!("create table t ({columns}); select pyreplica.add_table('t', {arguments})"))
        .expect("the table can be added");
}

fn value(query: &str) -> String {
    Spi::get_one::<String>(query).expect("the query runs").expect("it gives a value")
}

const REGIONS: &str = "id int primary key, region text, n int";

#[pg_schema]
pub mod tests {
    use super::*;

    #[pg_test]
    fn only_the_columns_are_sent() {
        both_ways(|| {
            captured(
                "gone int, secret text default 's', id int primary key, v text, n int",
                "columns => '{v,id}'",
            );
            let log = log_of(
            "alter table t drop gone; insert into t (id, v) values (1, 'a'); update t set secret = 'x', n = 2;
             update t set v = 'b', n = 3; update t set id = 2; delete from t",
        );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (id, v) VALUES (1, 'a')",
                    "UPDATE public.t SET v = 'b' WHERE id = 1",
                    "UPDATE public.t SET id = 2 WHERE id = 1",
                    "DELETE FROM public.t WHERE id = 2",
                ]
            );
        });
    }

    #[pg_test]
    fn a_column_that_a_trigger_changes_is_sent() {
        both_ways(|| {
            captured("id int primary key, v text, n int", "columns => '{id,v}'");
            let log = log_of(
            "create function copy_n() returns trigger language plpgsql as $$ begin new.v := 'n' || new.n; return new; end $$;
             create trigger b before update on t for each row execute function copy_n();
             insert into t values (1, 'a', 1); update t set n = 2",
        );
            assert_eq!(log[1], "UPDATE public.t SET v = 'n2' WHERE id = 1");
        });
    }

    #[pg_test]
    fn rows_move_in_and_out_of_the_filter() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'region = ''EU'''");
            let log = log_of(
                "insert into t values (1, 'EU', 0), (2, 'US', 0), (3, null, 0);
             update t set n = 1;
             update t set region = 'EU' where id = 2;
             update t set region = null, id = 11 where id = 1;
             update t set id = 22, region = 'EU' where id = 2;
             delete from t",
            );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (id, region, n) VALUES (1, 'EU', 0)",
                    "UPDATE public.t SET n = 1 WHERE id = 1",
                    "INSERT INTO public.t (id, region, n) VALUES (2, 'EU', 1)",
                    "DELETE FROM public.t WHERE id = 1",
                    "UPDATE public.t SET id = 22 WHERE id = 2",
                    "DELETE FROM public.t WHERE id = 22",
                ]
            );
        });
    }

    /// Conditions are kept from one statement to the next.
    #[pg_test]
    fn conditions_that_are_kept_follow_the_table() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'region = ''EU'' and n > 0'");
            let log = log_of(
            "insert into t values (1, 'EU', 1); insert into t values (2, 'EU', 0);
             update t set n = n + 1; update t set n = n - 1; update t set n = n - 1;
             alter table t rename n to m; alter table t add more int default 7;
             insert into t values (3, 'EU', 1); update t set m = 5 where id = 2;
             select pyreplica.remove_table('t'), pyreplica.add_table('t', row_filter => 'region = ''US''');
             insert into t values (4, 'US', 0); insert into t values (5, 'EU', 1); update t set region = 'US' where id = 3",
        );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (id, region, n) VALUES (1, 'EU', 1)",
                    "UPDATE public.t SET n = 2 WHERE id = 1",
                    "INSERT INTO public.t (id, region, n) VALUES (2, 'EU', 1)",
                    "UPDATE public.t SET n = 1 WHERE id = 1",
                    "DELETE FROM public.t WHERE id = 2",
                    "DELETE FROM public.t WHERE id = 1",
                    "INSERT INTO public.t (id, region, m, more) VALUES (3, 'EU', 1, 7)",
                    "INSERT INTO public.t (id, region, m, more) VALUES (2, 'EU', 5, 7)",
                    "INSERT INTO public.t (id, region, m, more) VALUES (4, 'US', 0, 7)",
                    "INSERT INTO public.t (id, region, m, more) VALUES (3, 'US', 1, 7)",
                ]
            );
        });
    }

    /// PostgreSQL keeps what it knows of a whole row in the memory of a statement.
    #[pg_test]
    fn a_condition_on_the_whole_row_lives_as_long_as_its_statement() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'new is distinct from old'");
            let log = log_of(
                "insert into t values (1, 'EU', 0);
             do $$ begin for i in 1..20 loop
                 update t set n = i; update t set n = i;
                 perform max(repeat(md5(g::text), 3)) from generate_series(1, 2000) g;
             end loop; end $$",
            );
            assert_eq!((log.len(), log[20].as_str()), (21, "UPDATE public.t SET n = 20 WHERE id = 1"));
        });
    }

    #[pg_test]
    fn conditions_that_are_kept_follow_functions_and_users() {
        Spi::run(
            "create table t (id int primary key);
             create function is_sent(int) returns boolean immutable language sql as 'select $1 > 0';
             select pyreplica.add_table('t', row_filter => 'is_sent(id)');
             create role writer; grant insert on t to writer",
        )
        .expect("a table");
        let log = log_of(
            "insert into t values (1); insert into t values (-1); insert into t values (2);
             create or replace function is_sent(int) returns boolean immutable language sql as 'select $1 < 0';
             insert into t values (3); insert into t values (-3); revoke execute on function is_sent from public",
        );
        let sent = [1, 2, -3].map(|id| format!("INSERT INTO public.t (id) VALUES ({id})"));
        assert_eq!(log, sent);
        Spi::run(
            "set role writer;
             do $$ begin insert into t values (4); raise 'written'; exception when insufficient_privilege then null; end $$;
             reset role",
        )
        .expect("a writer needs EXECUTE on the functions of a filter");
    }

    /// The filter comes to itself while it is evaluated: its function writes to the table.
    #[pg_test]
    fn a_filter_may_write_to_its_own_table() {
        Spi::run(
            "create table t (id int primary key, n int);
             create function note(id int, n int) returns boolean language plpgsql as $$ begin
                 if n = 0 then update t set n = 3 where t.id = note.id - 1; end if;
                 return n > 0;
             end $$;
             select pyreplica.add_table('t', row_filter => 'note(id, n)')",
        )
        .expect("a table");
        let log = log_of(
            "insert into t values (1, 1); insert into t values (2, 5); update t set n = 0 where id = 2",
        );
        assert!(log.contains(&"UPDATE public.t SET n = 3 WHERE id = 1".to_owned()), "{log:?}");
        assert!(log.contains(&"DELETE FROM public.t WHERE id = 2".to_owned()), "{log:?}");
        assert_eq!(log.len(), 4, "{log:?}");
    }

    #[pg_test]
    fn a_filter_that_fails_for_a_row_fails_its_statement_and_nothing_else() {
        captured(REGIONS, "row_filter => '1 / n > 0'");
        let log = log_of(
            "insert into t values (1, '', 1);
             do $$ begin insert into t values (2, '', 0); exception when division_by_zero then null; end $$;
             insert into t values (3, '', 1); update t set region = 'x' where id = 1;
             do $$ begin update t set n = 0; exception when division_by_zero then null; end $$;
             delete from t where id = 1",
        );
        assert_eq!(log.len(), 4, "{log:?}");
        assert_eq!(log[3], "DELETE FROM public.t WHERE id = 1");
    }

    #[pg_test]
    fn a_filter_may_use_columns_that_are_not_sent_and_any_function() {
        both_ways(|| {
            Spi::run(
            "create table vip (name text primary key); insert into vip values ('Eva');
             create function is_vip(text) returns boolean language sql as 'select exists (select from vip where name = $1)'",
        )
        .expect("a function");
            captured(
                "id int primary key, name text, v int, twice int generated always as (v * 2) stored",
                "columns => '{id,v}', row_filter => 'is_vip(name) and twice > 2 and t.v < 100'",
            );
            let log =
                log_of("insert into t values (1, 'Eva', 1), (2, 'Eva', 2), (3, 'Bob', 2), (4, 'Eva', 100)");
            assert_eq!(log, ["INSERT INTO public.t (id, v) VALUES (2, 2)"]);
        });
    }

    #[pg_test]
    fn old_and_new_are_a_condition_on_the_change() {
        both_ways(|| {
            captured(
                REGIONS,
                "row_filter => 'new.n > 10 or old.n is distinct from new.n and old is not null'",
            );
            let log = log_of(
            "insert into t values (1, 'EU', 0), (2, 'US', 20);
             update t set region = 'x' where id = 1; update t set n = 5 where id = 1; delete from t where id = 2",
        );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (id, region, n) VALUES (2, 'US', 20)",
                    "UPDATE public.t SET n = 5 WHERE id = 1",
                    "DELETE FROM public.t WHERE id = 2",
                ]
            );
        });
    }

    #[pg_test]
    fn old_is_null_in_an_insert_and_new_in_a_delete() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'old is null or new is null or new.n > old.n'");
            let log = log_of(
                "insert into t values (1, 'EU', 3); update t set n = 2; update t set n = 4; delete from t",
            );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (id, region, n) VALUES (1, 'EU', 3)",
                    "UPDATE public.t SET n = 4 WHERE id = 1",
                    "DELETE FROM public.t WHERE id = 1",
                ]
            );
        });
    }

    #[pg_test]
    fn only_the_operations_are_logged() {
        both_ways(|| {
            captured("id int primary key, v int", "operations => '{INSERT,update}'");
            let log = log_of("insert into t values (1, 1); update t set v = 2; delete from t; truncate t");
            assert_eq!(
                log,
                ["INSERT INTO public.t (id, v) VALUES (1, 1)", "UPDATE public.t SET v = 2 WHERE id = 1"]
            );
        });
    }

    #[pg_test]
    fn truncate_may_be_the_only_operation() {
        captured("id int primary key", "operations => array['truncate']");
        assert_eq!(log_of("insert into t values (1); truncate t"), ["TRUNCATE public.t"]);
    }

    /// The operations are the writer's: an UPDATE that moves a row out of the filter is one.
    #[pg_test]
    fn a_row_moves_out_without_delete_among_the_operations() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'n > 0', operations => '{insert,update}'");
            let log = log_of(
                "insert into t values (1, '', 1), (2, '', 1); update t set n = 0 where id = 1; delete from t",
            );
            assert_eq!(log[2..], ["DELETE FROM public.t WHERE id = 1"]);
        });
    }

    #[pg_test]
    fn whole_rows_log_what_an_update_leaves_as_it_is() {
        both_ways(|| {
            captured("id int primary key, v text, n int", "whole_rows => true");
            let log = log_of("insert into t values (1, 'a', 1); update t set n = 2; update t set n = 2");
            assert_eq!(log[1..], ["UPDATE public.t SET n = 2 WHERE id = 1"]);
            let row = "select new::text || old::text from pyreplica.replica_log where op = 'UPDATE'";
            assert_eq!(value(row), r#"{"n": 2, "v": "a", "id": 1}{"n": 1}"#);
        });
    }

    #[pg_test]
    fn the_order_is_that_of_the_changes() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'n > 0'");
            let log = log_of(
                "create function next_row() returns trigger language plpgsql as
                 $$ begin update t set n = n - 1 where id = new.id + 1; return null; end $$;
             create trigger z after insert on t for each row execute function next_row();
             insert into t values (1, '', 0), (2, '', 1), (3, '', 2)",
            );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (id, region, n) VALUES (2, '', 1)",
                    "INSERT INTO public.t (id, region, n) VALUES (3, '', 2)",
                    "DELETE FROM public.t WHERE id = 2",
                    "UPDATE public.t SET n = 1 WHERE id = 3",
                ]
            );
        });
    }

    #[pg_test]
    fn triggers_of_the_user_fire_after_ours_whatever_their_names() {
        both_ways(|| {
            captured(REGIONS, "row_filter => 'n > 0'");
            Spi::run(
                "create function next_row() returns trigger language plpgsql as
                 $$ begin update t set n = n + 1 where id = new.id + 1; return null; end $$;
             create trigger \"!pyreplica_a\" after insert on t for each row execute function next_row();
             create trigger \" a\" after insert on t for each row execute function next_row()",
            )
            .expect("triggers");
            let first = "select count(*) from pg_trigger where tgrelid = 't'::regclass and tgname < ' '
                        and tgfoid = 'pyreplica.log_change'::regproc";
            assert_eq!(Spi::get_one::<i64>(first), Ok(Some(3)));
            let log = log_of("insert into t values (1, '', 1), (2, '', 1)");
            assert_eq!(log[..2].iter().filter(|l| l.starts_with("INSERT")).count(), 2);
            assert_eq!(log.len(), 4);
        });
    }

    #[pg_test]
    fn partitions_have_the_filter_too_whatever_the_order_of_their_columns() {
        both_ways(|| {
            Spi::run(
                "create table t (id int primary key, region text, n int) partition by range (id);
             create table t1 (n int, region text, id int not null);
             alter table t attach partition t1 for values from (0) to (10);
             select pyreplica.add_table('t', columns => '{id,n}', row_filter => 'region = ''EU''');
             create table t2 (gone int, n int, id int not null, region text);
             alter table t2 drop gone;
             alter table t attach partition t2 for values from (10) to (20)",
            )
            .expect("partitions");
            let log = log_of(
            "insert into t values (1, 'EU', 7), (11, 'EU', 8), (2, 'US', 9); update t set region = 'x' where id = 11;
             update t set id = 12 where id = 1; update t2 set n = 9 where id = 12; truncate t2; truncate t",
        );
            assert_eq!(
                log,
                [
                    "INSERT INTO public.t (n, id) VALUES (7, 1)",
                    "INSERT INTO public.t (n, id) VALUES (8, 11)",
                    "DELETE FROM public.t WHERE id = 11",
                    "DELETE FROM public.t WHERE id = 1",
                    "INSERT INTO public.t (n, id) VALUES (7, 12)",
                    "UPDATE public.t SET n = 9 WHERE id = 12",
                    "TRUNCATE public.t2",
                    "TRUNCATE public.t",
                ]
            );
        });
    }

    #[pg_test]
    fn a_renamed_column_keeps_its_part() {
        captured("id int primary key, v text, n int", "columns => '{id,v}', row_filter => 'n > 0'");
        let log = log_of(
            "alter table t rename v to w; alter table t rename n to v; alter table t rename id to key;
             insert into t values (1, 'a', 1), (2, 'b', 0)",
        );
        assert_eq!(log, ["INSERT INTO public.t (key, w) VALUES (1, 'a')"]);
        assert_eq!(
            value("select format('%s %s', columns, row_filter) from pyreplica.replicated_table"),
            "{key,w} (v > 0)"
        );
    }

    #[pg_test]
    fn the_view_reads_under_any_setting() {
        captured("id int primary key, v text", "columns => '{id}'");
        Spi::run("set standard_conforming_strings = off; set escape_string_warning = off").expect("settings");
        assert_eq!(value("select columns::text from pyreplica.replicated_table"), "{id}");
    }

    #[pg_test(error = "cannot drop column v of table t because other objects depend on it")]
    fn a_column_that_is_sent_is_not_dropped_unnoticed() {
        captured("id int primary key, v text", "columns => '{id,v}'");
        Spi::run("alter table t drop v").expect("unreachable");
    }

    #[pg_test(error = "table public.t is replicated, and this would drop its trigger \"!pyreplica_options\"")]
    fn nor_with_cascade() {
        captured("id int primary key, v text", "columns => '{id,v}'");
        Spi::run("alter table t drop v cascade").expect("unreachable");
    }

    #[pg_test(error = "table public.t is replicated, and this would drop its trigger \"!pyreplica_delete\"")]
    fn nor_one_that_the_filter_uses() {
        captured("id int primary key, v text", "row_filter => 'v > ''a'''");
        Spi::run("alter table t drop v cascade").expect("unreachable");
    }

    #[pg_test(
        error = "cannot log a change of table \"public.t\": its primary key has columns that are not sent"
    )]
    fn another_key_that_is_not_sent() {
        captured("id int primary key, v text not null", "columns => '{id}'");
        Spi::run("alter table t drop constraint t_pkey, add primary key (v); insert into t values (1, 'a')")
            .expect("unreachable");
    }

    #[pg_test(
        error = "cannot log a change of table \"public.t\": the trigger that says what of it is sent was dropped"
    )]
    fn nothing_is_sent_without_the_list_of_columns() {
        captured("id int primary key, v text", "columns => '{id}'");
        Spi::run("set pyreplica.drops_triggers = on; drop trigger \"!pyreplica_options\" on t; insert into t values (1)")
            .expect("unreachable");
    }

    #[pg_test(
        error = "cannot log a change of table \"public.t\": the trigger that says what of it is sent was dropped"
    )]
    fn nor_without_the_trigger_that_has_the_filter() {
        captured("id int primary key, v int", "row_filter => 'v > 0', whole_rows => true");
        Spi::run("set pyreplica.drops_triggers = on; drop trigger \"!pyreplica_insert\" on t")
            .expect("dropped");
        assert_eq!(value("select enabled::text from pyreplica.replicated_table"), "false");
        Spi::run("insert into t values (1, 0); update t set v = 1").expect("unreachable");
    }

    #[pg_test]
    fn the_view_says_what_is_captured() {
        let row = "select format('%s|%s|%s|%s|%s', columns, row_filter, operations, whole_rows, enabled)
                     from pyreplica.replicated_table";
        Spi::run("create table t (id int primary key, v int, w text)").expect("a table");
        for (arguments, expected) in [
            ("", "||{insert,update,delete,truncate}|f|t"),
            (
                ", '{w,id}', 'lower(w) = ''x'''",
                "{id,w}|(lower(w) = 'x'::text)|{insert,update,delete,truncate}|f|t",
            ),
            (", row_filter => 'v > 0', whole_rows => true", "|(v > 0)|{insert,update,delete,truncate}|t|t"),
            (", row_filter => 'v > 0', operations => '{update,delete}'", "|(v > 0)|{update,delete}|f|t"),
            (", row_filter => 'new.v > old.v'", "|(new.v > old.v)|{insert,update,delete,truncate}|f|t"),
            (", operations => '{delete,insert,insert}'", "||{insert,delete}|f|t"),
            (", operations => '{truncate}', whole_rows => true", "||{truncate}|t|t"),
        ] {
            Spi::run(&format!("select pyreplica.add_table('t'{arguments})")).expect(arguments);
            assert_eq!(value(row), expected);
            Spi::run("select pyreplica.remove_table('t')").expect("it was added");
            let left = "select count(*) from pg_trigger where tgrelid = 't'::regclass";
            assert_eq!(Spi::get_one::<i64>(left), Ok(Some(0)));
        }
    }

    #[pg_test]
    fn the_filter_that_is_shown_can_be_given_again() {
        captured(REGIONS, "row_filter => 'region in (''EU'', ''UK'') and not n is null'");
        let filter = "select row_filter from pyreplica.replicated_table";
        let shown = value(filter);
        Spi::run(
            "do $$ declare f text := (select row_filter from pyreplica.replicated_table); begin
                 perform pyreplica.remove_table('t'), pyreplica.add_table('t', row_filter => f); end $$",
        )
        .expect("it is SQL");
        assert_eq!(value(filter), shown);
    }

    #[pg_test]
    fn a_copy_has_the_rows_that_an_insert_would_bring() {
        let condition = "select pyreplica.copy_condition('t')";
        captured(REGIONS, "row_filter => 'n > 0'");
        assert_eq!(value(condition), "(new.n > 0)");
        Spi::run("select pyreplica.remove_table('t'), pyreplica.add_table('t', row_filter => 'new.n > 0 or old.n > 0')")
            .expect("added");
        assert_eq!(value(condition), "((new.n > 0) OR (NULL::integer > 0))");
    }

    /// The place of the error is that in the expression; `get stacked diagnostics` does not show it, CONTEXT would.
    fn refused(arguments: &str) -> String {
        Spi::run(
            "create table if not exists t (id int primary key, v text, g int generated always as (1) stored)",
        )
        .expect("a table");
        let arguments = arguments.replace('\'', "''");
        Spi::run(&format!(
            "create or replace function refusal() returns text language plpgsql as $f$
             declare state text; message text; hint text;
             begin
                 execute 'select pyreplica.add_table(''t'', {arguments})';
                 return 'accepted';
             exception when others then
                 get stacked diagnostics state = returned_sqlstate, message = message_text, hint = pg_exception_hint;
                 return format('%s: %s (%s)', state, message, hint);
             end $f$"
        ))
        .expect("a function");
        value("select refusal()")
    }

    #[pg_test]
    fn bad_arguments_are_refused() {
        for (arguments, expected) in [
            ("row_filter => 'v = '", "42601: syntax error at end of input ()"),
            ("row_filter => ''", "42601: row_filter is not one expression"),
            ("row_filter => 'v = ''a'' limit 1'", "42601: row_filter is not one expression"),
            ("row_filter => 'id > 1; drop table t'", "42601: syntax error at or near \";\" ()"),
            ("row_filter => 'nosuch = 1'", "42703: column \"nosuch\" does not exist ()"),
            ("row_filter => 'new.nosuch = 1'", "42703: column new.nosuch does not exist ()"),
            ("row_filter => 'other.id = 1'", "42P01: missing FROM-clause entry for table \"other\" ()"),
            ("row_filter => 'id'", "42804: argument of row_filter must be type boolean, not type integer ()"),
            (
                "row_filter => 'count(*) > 1'",
                "42803: aggregate functions are not allowed in trigger WHEN conditions ()",
            ),
            ("row_filter => 'exists (select 1)'", "0A000: cannot use subquery in trigger WHEN condition ()"),
            ("row_filter => 'nosuch(id)'", "42883: function nosuch(integer) does not exist"),
            ("row_filter => 'id = $1'", "42P02: there is no parameter $1 ()"),
            ("row_filter => 'id > 0 and new.id > 0'", "22023: row_filter mixes columns of the plain row"),
            ("row_filter => 'xmin = 1'", "0A000: row_filter refers to a system column"),
            ("columns => '{v}'", "42P16: column \"id\" belongs to the primary key of table public.t"),
            ("columns => '{}'", "42P16: column \"id\" belongs to the primary key of table public.t"),
            (
                "columns => '{id,nosuch}'",
                "42703: column \"nosuch\" of table public.t does not exist (Its columns are: id, v, g.)",
            ),
            ("columns => '{id,g}'", "42611: column \"g\" of table public.t is generated"),
            ("columns => '{id,v,id}'", "42701: column \"id\" is named twice"),
            ("columns => '{id,null}'", "22004: columns must not be null"),
            ("operations => '{upsert}'", "22023: unknown operation 'upsert' (Operations are insert"),
            ("operations => '{insert,null}'", "22023: unknown operation NULL"),
            ("operations => '{}'", "22023: operations must not be empty"),
        ] {
            let refusal = refused(arguments);
            assert!(refusal.starts_with(expected), "{arguments}: {refusal}");
        }
        assert_eq!(refused("row_filter => 'id > 0'"), "accepted");
    }

    /// Names are looked up as the caller's: a function of his schema, and none that only the extension's owner sees.
    #[pg_test]
    fn names_in_a_filter_are_the_callers() {
        Spi::run("create role somebody; create schema own authorization somebody; set role somebody")
            .expect("a role");
        Spi::run(
            "create function own.ok(int) returns boolean language sql as 'select $1 > 1'; set search_path = own, public;
             create table t (id int primary key);
             select pyreplica.add_table('t', row_filter => 'ok(id)'); reset search_path; reset role",
        )
        .expect("the owner adds his table");
        assert_eq!(log_of("insert into own.t values (1), (2)"), ["INSERT INTO own.t (id) VALUES (2)"]);
    }

    #[pg_test(error = "relation must not be null")]
    fn no_table() {
        Spi::run("select pyreplica.add_table(null)").expect("unreachable");
    }
}
