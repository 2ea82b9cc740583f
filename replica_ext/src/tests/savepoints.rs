//! Savepoints, exception blocks, and transactions larger than the buffer.

use pgrx::prelude::*;

use super::{both_ways, captured, log_of};

#[pg_schema]
pub mod tests {
    use super::*;

    const WITH_ROLLBACKS: &str = "
        do $$ begin
            for i in 1 .. 2000 loop
                insert into t values (i, 'kept');
                begin
                    insert into t values (-i, 'rolled back');
                    if i % 2 = 0 then raise exception 'undo'; end if;
                exception when raise_exception then null;
                end;
            end loop;
        end $$";

    #[pg_test]
    fn what_was_rolled_back_is_not_logged() {
        both_ways(|| {
            captured("t", "id int primary key, v text");
            assert_eq!(log_of(WITH_ROLLBACKS).len(), 3000);
        });
    }

    #[pg_test]
    fn spilling_keeps_order_and_rollbacks() {
        both_ways(|| {
            captured("t", "id int primary key, v text");
            let log = log_of(&format!("set pyreplica.buffer_size = 64; {WITH_ROLLBACKS}"));
            assert_eq!(log.len(), 3000);
            assert_eq!(log[2], "INSERT INTO public.t (id, v) VALUES (2, 'kept')");
            let chunks =
                "select max(chunks) = count(*) and count(*) filter (where final) = 1 and count(*) > 5
                        from pyreplica.log";
            assert_eq!(Spi::get_one::<bool>(chunks), Ok(Some(true)));
        });
    }

    /// Savepoints of a row each, one after the other, in some that are rolled back and some that are not.
    #[pg_test]
    fn savepoints_that_were_released_spill_together() {
        both_ways(|| {
            captured("t", "id int primary key, v text");
            let log = log_of(
                "set pyreplica.buffer_size = 64;
             do $$ begin
                insert into t values (0, 'parent');
                for i in 1 .. 10 loop
                    begin
                        insert into t values (-i, 'outer');
                        for j in 1 .. 1000 loop
                            begin
                                insert into t values (i * 1000 + j, repeat('inner', 8));
                            exception when others then null;
                            end;
                        end loop;
                        if i % 2 = 0 then raise exception 'undo'; end if;
                    exception when raise_exception then null;
                    end;
                end loop;
             end $$",
            );
            assert_eq!(log.len(), 1 + 5 * 1001);
            assert_eq!(log[0], "INSERT INTO public.t (id, v) VALUES (0, 'parent')");
            assert!(log[5005].starts_with("INSERT INTO public.t (id, v) VALUES (10000, "));
            let spilled = "select count(*) > 1 from (select distinct xmin::text from pyreplica.log_0) writer";
            assert_eq!(Spi::get_one::<bool>(spilled), Ok(Some(true)), "under the xids of savepoints");
        });
    }

    #[pg_test]
    fn a_parents_changes_survive_the_rollback_of_a_child_that_spilled() {
        both_ways(|| {
            captured("t", "id int primary key, v text");
            let log = log_of(
                "set pyreplica.buffer_size = 64;
             do $$ begin
                insert into t values (0, 'parent');
                begin
                    insert into t select i, repeat('child', 20) from generate_series(1, 5000) i;
                    raise exception 'undo';
                exception when raise_exception then null;
                end;
                insert into t values (1, 'after');
             end $$",
            );
            let values = |v| format!("INSERT INTO public.t (id, v) VALUES ({v})");
            assert_eq!(log, [values("0, 'parent'"), values("1, 'after'")]);
        });
    }

    /// What savepoints in a trigger have added is written to the log while rows of the statement are still to come, which
    /// stand before it.
    #[pg_test]
    fn savepoints_of_a_trigger_spill_behind_the_rows_to_come() {
        both_ways(|| {
            captured("t", "id int primary key, n int default 0");
            captured("u", "id int primary key, v text");
            Spi::run(
                "create function next_row() returns trigger language plpgsql as $$ begin
                    update t set n = 1 where id = new.id + 1;
                    for i in 1 .. 1000 loop
                        begin
                            insert into u values (new.id * 10000 + i, repeat('x', 100));
                        exception when raise_exception then null;
                        end;
                    end loop;
                    return null;
                 end $$;
                 create trigger z after insert on t for each row execute function next_row()",
            )
            .expect("a trigger");
            let log = log_of("set pyreplica.buffer_size = 64; copy t (id) from program 'seq 1 3'");
            assert_eq!(log.len(), 3 + 2 + 3000);
            let insert = |id| format!("INSERT INTO public.t (id, n) VALUES ({id}, 0)");
            assert_eq!(log[..3], [1, 2, 3].map(insert));
        });
    }
}
