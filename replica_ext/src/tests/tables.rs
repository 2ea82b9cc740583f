//! Which tables can be captured, under which name, and by whom.

use pgrx::prelude::*;

use super::{captured, log_of};

#[pg_schema]
pub mod tests {
    use super::*;

    #[pg_test]
    fn odd_names_and_dropped_and_generated_columns() {
        Spi::run("create schema \"Sch äma\"").expect("schema");
        captured(
            "\"Sch äma\".\"T \"\"q\"\"\"",
            "gone int, \"Id\" int primary key, \"ünicode col\" text, g int generated always as (7) stored",
        );
        let log = log_of(
            "alter table \"Sch äma\".\"T \"\"q\"\"\" drop column gone;
             insert into \"Sch äma\".\"T \"\"q\"\"\" values (1, 'x')",
        );
        assert_eq!(
            log,
            ["INSERT INTO \"Sch äma\".\"T \"\"q\"\"\" (\"Id\", \"ünicode col\") VALUES (1, 'x')"]
        );
    }

    #[pg_test]
    fn a_table_may_be_altered_between_two_rows() {
        captured("t", "id int primary key, v int");
        let log = log_of(
            "insert into t values (1, 1);
             alter table t add w text default 'd', alter v type text using 'n' || v;
             insert into t values (2, 'b', 'c'); update t set v = 'z' where id = 1",
        );
        assert_eq!(
            log,
            [
                "INSERT INTO public.t (id, v) VALUES (1, 1)",
                "INSERT INTO public.t (id, v, w) VALUES (2, 'b', 'c')",
                "UPDATE public.t SET v = 'z' WHERE id = 1",
            ]
        );
    }

    #[pg_test]
    fn the_name_is_that_of_the_moment() {
        Spi::run(
            "create schema blue; create schema green;
             create table p (id int primary key) partition by range (id);
             create table p1 partition of p for values from (0) to (10); select pyreplica.add_table('p')",
        )
        .expect("tables");
        captured("blue.t", "id int primary key");
        captured("green.t", "id int primary key");
        let log = log_of(
            "insert into blue.t values (1); insert into p values (1);
             alter schema blue rename to passing; alter schema green rename to blue;
             alter schema passing rename to green; alter table p rename to q;
             insert into green.t values (2); insert into p1 values (2)",
        );
        let insert = |table, id| format!("INSERT INTO {table} (id) VALUES ({id})");
        let expected = [("blue.t", 1), ("public.p", 1), ("green.t", 2), ("public.q", 2)];
        assert_eq!(log, expected.map(|(table, id)| insert(table, id)));
    }

    const PARTITIONED: &str = "create table p (id int primary key) partition by range (id);
        create unlogged table p1 (id int primary key); create table p2 partition of p for values from (10) to (20)";

    #[pg_test(error = "partition public.p1 of table public.p is unlogged")]
    fn a_table_with_an_unlogged_partition_is_refused() {
        Spi::run(PARTITIONED).expect("tables");
        Spi::run(
            "alter table p attach partition p1 for values from (0) to (10); select pyreplica.add_table('p')",
        )
        .expect("a refusal");
    }

    #[pg_test(error = "table public.p1 is replicated and cannot be unlogged")]
    fn an_unlogged_partition_cannot_be_attached_later() {
        Spi::run(PARTITIONED).expect("tables");
        Spi::run(
            "select pyreplica.add_table('p'); alter table p attach partition p1 for values from (0) to (10)",
        )
        .expect("a refusal");
    }

    #[pg_test(error = "table public.t is replicated and cannot be unlogged")]
    fn a_captured_table_stays_logged() {
        captured("t", "id int primary key");
        Spi::run("alter table t set unlogged").expect("a refusal");
    }

    #[pg_test]
    fn a_table_dropped_by_the_transaction_that_wrote_it_is_logged_all_the_same() {
        captured("t", "id int primary key");
        assert_eq!(log_of("insert into t values (1); drop table t").len(), 1);
    }

    #[pg_test]
    fn partitions_log_under_the_name_of_the_root() {
        Spi::run(
            "create table p (id int primary key) partition by range (id);
                  create table p1 partition of p for values from (0) to (10);
                  select pyreplica.add_table('p');
                  create table p2 partition of p for values from (10) to (20)",
        )
        .expect("partitions");
        let log = log_of("insert into p values (1); update p set id = 11; truncate p2; truncate p");
        assert_eq!(
            log,
            [
                "INSERT INTO public.p (id) VALUES (1)",
                "DELETE FROM public.p WHERE id = 1",
                "INSERT INTO public.p (id) VALUES (11)",
                "TRUNCATE public.p2",
                "TRUNCATE public.p",
            ]
        );
    }

    #[pg_test]
    fn the_widest_table() {
        let columns: Vec<String> = (1..1600).map(|i| format!("c{i} int")).collect();
        captured("wide", &format!("id int primary key, {}", columns.join(", ")));
        let log = log_of("insert into wide (id, c1599) values (1, 2); update wide set c800 = 3");
        assert_eq!(log[1], "UPDATE public.wide SET c800 = 3 WHERE id = 1");
        let bytes = "select octet_length(payload) from pyreplica.log order by id desc limit 1";
        assert!(Spi::get_one::<i32>(bytes).expect("query").expect("a row") < 8000);
    }

    #[pg_test(error = "table public.t has no primary key")]
    fn no_primary_key() {
        captured("t", "id int");
    }

    #[pg_test(error = "primary key of table public.t is deferrable")]
    fn a_deferrable_primary_key() {
        captured("t", "id int primary key deferrable");
    }

    #[pg_test(error = "table public.t is already replicated")]
    fn added_twice() {
        captured("t", "id int primary key");
        Spi::run("select pyreplica.add_table('t')").expect("unreachable");
    }

    #[pg_test(error = "pg_class is a system catalog")]
    fn a_catalog() {
        Spi::run("select pyreplica.add_table('pg_class')").expect("unreachable");
    }

    #[pg_test(error = "must be owner of table t")]
    fn only_the_owner_adds_a_table() {
        Spi::run("create table t (id int primary key); create role somebody; set role somebody")
            .expect("role");
        Spi::run("select pyreplica.add_table('public.t')").expect("unreachable");
    }

    #[pg_test(error = "cannot log a change of table \"public.t\": it has no primary key")]
    fn a_change_that_cannot_be_logged_does_not_happen() {
        captured("t", "id int primary key");
        Spi::run("alter table t drop constraint t_pkey; insert into t values (1)").expect("unreachable");
    }

    #[pg_test]
    fn a_writer_without_rights_on_the_log_is_captured() {
        captured("t", "id int primary key");
        Spi::run("create role writer; grant insert on t to writer").expect("role");
        assert_eq!(log_of("set role writer; insert into t values (1); reset role").len(), 1);
    }

    #[pg_test]
    fn removing_a_table_leaves_nothing() {
        captured("t", "id int primary key");
        Spi::run("select pyreplica.remove_table('t')").expect("it was added");
        let left = "select count(*) from pg_trigger where tgrelid = 't'::regclass";
        assert_eq!(Spi::get_one::<i64>(left), Ok(Some(0)));
    }

    /// What it is refused to take away the triggers of a table with.
    fn refused(drop: &str) {
        Spi::run("create schema z; create function z.positive(int) returns bool language sql immutable as 'select $1 > 0'")
            .expect("function");
        Spi::run("create table t (id int primary key); select pyreplica.add_table('t', row_filter => 'z.positive(id)')")
            .expect("table");
        captured("whole", "id int primary key");
        Spi::run(drop).expect("unreachable");
    }

    #[pg_test(error = "table public.t is replicated, and this would drop its trigger \"!pyreplica_delete\"")]
    fn a_function_of_a_filter_is_not_dropped_unnoticed() {
        refused("drop function z.positive cascade");
    }

    #[pg_test(error = "table public.t is replicated, and this would drop its trigger \"!pyreplica_delete\"")]
    fn nor_its_schema() {
        refused("drop schema z cascade");
    }

    #[pg_test(error = "table public.whole is replicated, and this would drop its trigger \"!pyreplica\"")]
    fn nor_a_trigger() {
        refused("drop trigger \"!pyreplica\" on whole");
    }

    #[pg_test]
    fn a_dropped_table_takes_its_triggers_along() {
        captured("p", "id int primary key");
        Spi::run(
            "create schema z; create table z.t (id int primary key) partition by range (id);
             create table z.part partition of z.t for values from (0) to (10); select pyreplica.add_table('z.t')",
        )
        .expect("tables");
        Spi::run("alter table z.t detach partition z.part; drop table p; drop schema z cascade")
            .expect("nothing in the way");
    }

    #[pg_test]
    fn what_was_left_of_a_table_does_not_come_back() {
        captured("t", "id int primary key");
        Spi::run(
            "set pyreplica.drops_triggers = on; drop trigger \"!pyreplica\" on t; reset pyreplica.drops_triggers;
             select pyreplica.add_table('t', operations => '{insert}')",
        )
        .expect("it is not captured any more");
        assert_eq!(log_of("insert into t values (1); truncate t"), ["INSERT INTO public.t (id) VALUES (1)"]);
        assert_eq!(Spi::get_one("select enabled from pyreplica.replicated_table"), Ok(Some(true)));
    }
}
