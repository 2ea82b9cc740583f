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

/// The end of an exception block makes room for more (`Buffer::release`): what the transaction has is written under the
/// block's xid. Should it then fail, as it does where another extension takes part and cannot go on, that is gone.
#[test]
fn a_release_that_fails_after_it_has_spilled_refuses_the_transaction() {
    // GIVEN a session that writes to another server by postgres_fdw, which hears of a release after us
    let mut trio = Trio::start(TABLE);
    let socket = trio.master.value("show unix_socket_directories");
    let (name, port) = (&trio.master.name, trio.master.server.port);
    trio.master.run(&format!(
        "create extension postgres_fdw;
         create server far foreign data wrapper postgres_fdw options (host '{socket}', port '{port}', dbname '{name}');
         create user mapping for postgres server far options (user 'postgres');
         create schema far;
         create table far.here (id int);
         create foreign table far.t (id int) server far options (schema_name 'far', table_name 'here')"
    ));
    let mut session = trio.master.session();
    session.run("select from far.t; set pyreplica.buffer_size = '64kB'");
    // WHEN a block that brings the changes beyond the buffer cannot be released there, which its handler catches
    session.run(
        "begin; insert into t select i, repeat('x', 100) from generate_series(1, 560) i;
         do $$ begin
             insert into t select i, repeat('x', 100) from generate_series(1001, 1060) i;
             insert into far.t values (1);
             perform pg_terminate_backend(pid, 60000) from pg_stat_activity
               where application_name = 'postgres_fdw' and datname = current_database();
         exception when connection_failure or admin_shutdown then raise notice '%', sqlerrm;
         end $$",
    );
    assert_eq!(session.rows("select count(*) from t"), ["560"]);
    // THEN the transaction cannot commit without the changes that it has lost
    let refused = session.error("commit");
    assert_eq!(refused.code().code(), "40000", "{refused}");
    trio.master.run("insert into t values (2000)");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select id from t"), "2000");
}
