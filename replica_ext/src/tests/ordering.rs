//! Triggers that change further rows: the log has the order in which rows really changed.

use pgrx::prelude::*;

use super::{both_ways, captured, log_of};

#[pg_schema]
pub mod tests {
    use super::*;

    fn next_row_trigger(name: &str) {
        Spi::run(&format!(
            "create function next_row() returns trigger language plpgsql as
                 $$ begin update t set n = n + 1 where id = new.id + 1; return null; end $$;
             create trigger \"{name}\" after insert on t for each row execute function next_row()"
        ))
        .expect("the trigger can be made");
    }

    const EXPECTED: [&str; 5] = [
        "INSERT INTO public.t (id, n) VALUES (1, 0)",
        "INSERT INTO public.t (id, n) VALUES (2, 0)",
        "INSERT INTO public.t (id, n) VALUES (3, 0)",
        "UPDATE public.t SET n = 1 WHERE id = 2",
        "UPDATE public.t SET n = 1 WHERE id = 3",
    ];

    #[pg_test]
    fn a_trigger_after_ours_changes_the_next_row() {
        both_ways(|| {
            captured("t", "id int primary key, n int default 0");
            next_row_trigger("z");
            assert_eq!(log_of("insert into t (id) values (1), (2), (3)"), EXPECTED);
        });
    }

    #[pg_test]
    fn a_trigger_before_ours_changes_the_next_row() {
        both_ways(|| {
            captured("t", "id int primary key, n int default 0");
            next_row_trigger(" a");
            assert_eq!(log_of("insert into t (id) values (1), (2), (3)"), EXPECTED);
        });
    }

    /// The first row is changed after the second: neither tells where the other was inserted.
    #[pg_test]
    fn a_trigger_before_ours_changes_the_next_row_and_its_own() {
        both_ways(|| {
            captured("t", "id int primary key, n int default 0");
            Spi::run(
                "create function both_rows() returns trigger language plpgsql as $$ begin
                 update t set n = n + 1 where id = new.id + 1;
                 update t set n = n + 10 where id = new.id;
                 return null;
             end $$;
             create trigger \"!\" after insert on t for each row execute function both_rows()",
            )
            .expect("the trigger can be made");
            let log = log_of("insert into t (id) values (1), (2)");
            assert_eq!(
                log[..2],
                ["INSERT INTO public.t (id, n) VALUES (1, 0)", "INSERT INTO public.t (id, n) VALUES (2, 0)"]
            );
            assert_eq!(log.len(), 5);
        });
    }

    #[pg_test]
    fn a_trigger_before_ours_inserts_the_deleted_key_again() {
        both_ways(|| {
            captured("t", "id int primary key, n int default 0");
            Spi::run(
                "create function again() returns trigger language plpgsql as
                 $$ begin insert into t values (old.id, 7); return null; end $$;
             create trigger \" a\" after delete on t for each row execute function again()",
            )
            .expect("the trigger can be made");
            let log = log_of("insert into t (id) values (1); delete from t");
            assert_eq!(
                log[1..],
                ["DELETE FROM public.t WHERE id = 1", "INSERT INTO public.t (id, n) VALUES (1, 7)"]
            );
        });
    }

    #[pg_test]
    fn a_before_trigger_deletes_the_key_that_is_inserted() {
        both_ways(|| {
            captured("t", "id int primary key, n int default 0");
            Spi::run(
                "create function give_way() returns trigger language plpgsql as
                 $$ begin delete from t where id = new.id; return new; end $$;
             create trigger b before insert on t for each row execute function give_way()",
            )
            .expect("the trigger can be made");
            let log = log_of("insert into t values (1, 1); insert into t values (1, 2)");
            assert_eq!(
                log[1..],
                ["DELETE FROM public.t WHERE id = 1", "INSERT INTO public.t (id, n) VALUES (1, 2)"]
            );
        });
    }

    #[pg_test]
    fn a_cascade_comes_after_what_caused_it() {
        both_ways(|| {
            captured("p", "id int primary key");
            captured("c", "id int primary key, p int references p on update cascade on delete set null");
            let log = log_of(
                "insert into p values (1); insert into c values (5, 1); update p set id = 2; delete from p",
            );
            assert_eq!(
                log[2..],
                [
                    "UPDATE public.p SET id = 2 WHERE id = 1",
                    "UPDATE public.c SET p = 2 WHERE id = 5",
                    "DELETE FROM public.p WHERE id = 2",
                    "UPDATE public.c SET p = NULL WHERE id = 5",
                ]
            );
        });
    }
}
