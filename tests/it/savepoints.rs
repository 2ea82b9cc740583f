//! What is rolled back to a savepoint never arrives, in memory or spilled to the log.

use pyreplica_tests::trio::Trio;

const TABLE: &str = "create table t (id int primary key, v text)";

#[test]
fn rolled_back_savepoints_leave_nothing() {
    let mut trio = Trio::start(TABLE);
    trio.master.run(
        "begin; insert into t values (1); savepoint a; insert into t values (2); savepoint b; insert into t values (3);
         rollback to b; insert into t values (4); release a; savepoint c; update t set v = 'no'; rollback to c;
         update t set v = 'yes' where id = 4; commit",
    );
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].rows("select id, v from t order by id"), ["1|null", "2|null", "4|yes"]);
}

#[test]
fn exception_blocks_leave_nothing() {
    let mut trio = Trio::start(TABLE);
    trio.master.run(
        "do $$ begin
           for i in 1..1000 loop
             begin
               insert into t values (i, repeat('x', i));
               if i % 3 = 0 then perform 1 / 0; end if;
             exception when division_by_zero then
               insert into t values (-i, 'failed');
             end;
           end loop;
         end $$",
    );
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from t where id < 0"), "333");
}

/// Large enough that chunks are written before the savepoint ends.
#[test]
fn spilled_savepoints_roll_back_and_keep_their_order() {
    let mut trio = Trio::start(TABLE);
    let fill = |from: i32| {
        format!(
            "insert into t select i, repeat(md5(i::text), 20) from generate_series({from}, {from} + 4999) i"
        )
    };
    trio.master.run(&format!(
        "begin; insert into t values (0, 'parent before');
         savepoint a; {}; update t set v = 'a' where id = 0; rollback to a;
         savepoint b; update t set v = v || ', child' where id = 0; {}; savepoint c; {}; update t set v = v || ', grandchild' where id = 0;
         release c; release b;
         update t set v = v || ', parent after' where id = 0; delete from t where id between 20000 and 22000; commit",
        fill(10_000), fill(20_000), fill(30_000)
    ));
    trio.catch_up_and_compare();
    assert_eq!(
        trio.slaves[0].value("select v from t where id = 0"),
        "parent before, child, grandchild, parent after"
    );
    assert_eq!(trio.conflicts(0), [""; 0]);
}
