//! replica_log: the log for people.

use pyreplica_tests::trio::Setup;

#[test]
fn it_reads_like_the_statements() {
    let trio = Setup::new(
        "create table t (id int primary key, v text); create table \"Odd\" (\"K\" text primary key, \"select\" int)",
    )
    .slaves(1)
    .build();
    let mut session = trio.master.session();
    session.run("set pyreplica.origin = 'elsewhere'");
    session.run(
        "begin; insert into t values (1, 'it''s'); update t set v = null where id = 1; delete from t;
         insert into \"Odd\" values ('x', 1); truncate t; commit",
    );
    assert_eq!(
        trio.master.rows("select op, relation, username, origin, key, new, old from pyreplica.replica_log"),
        [
            r#"INSERT|public.t|postgres|elsewhere|{"id": 1}|{"v": "it's", "id": 1}|null"#,
            r#"UPDATE|public.t|postgres|elsewhere|{"id": 1}|{"v": null}|{"v": "it's"}"#,
            r#"DELETE|public.t|postgres|elsewhere|{"id": 1}|null|null"#,
            r#"INSERT|public."Odd"|postgres|elsewhere|{"K": "x"}|{"K": "x", "select": 1}|null"#,
            "TRUNCATE|public.t|postgres|elsewhere|null|null|null",
        ]
    );
    // Ids tell changes apart, and order them.
    assert_eq!(
        trio.master.rows("select op from pyreplica.replica_log order by id desc"),
        ["TRUNCATE", "INSERT", "DELETE", "UPDATE", "INSERT"]
    );
    // The statements can be run: they lead to the same rows.
    let statements = trio.master.rows("select sql from pyreplica.replica_log");
    let copy = &trio.slaves[0];
    for sql in &statements {
        copy.run(sql);
    }
    trio.assert_same_rows("\"Odd\"");
    trio.assert_same_rows("t");
}

#[test]
fn transactions_stand_in_the_order_in_which_they_apply() {
    let trio = Setup::new("create table t (id int primary key, v int)").build();
    let first = trio.master.begin("insert into t values (1)");
    trio.master.run("insert into t values (2)");
    first.commit();
    trio.master.run("insert into t values (3)");
    assert_eq!(trio.master.rows("select key->>'id' from pyreplica.replica_log"), ["2", "1", "3"]);
}

#[test]
fn a_change_larger_than_a_page_is_shown_whole() {
    let trio = Setup::new("create table t (id int primary key, v text)").build();
    trio.master.run("insert into t values (1, repeat('x', 100000)), (2, 'y')");
    assert_eq!(
        trio.master.rows("select op, length(new->>'v') from pyreplica.replica_log"),
        ["INSERT|100000", "INSERT|1"]
    );
}
