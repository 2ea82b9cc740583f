//! Names, numbers of columns and sizes of rows that are odd but legal.

use pyreplica_tests::trio::{Setup, Trio};

#[test]
fn names_may_hold_anything() {
    let long = "ä".repeat(31) + "x"; // 63 bytes
    let schema = format!(
        r#"create table "select" ("from" int primary key, "WHERE" text);
           create table "Ca p""s 'q' \b {{}} $1 %s" ("a ""b'" int, "ö.ü" int, "c\d" text, primary key ("ö.ü", "a ""b'"));
           create table "{long}" ("{long}" int primary key, " " text, "-- x" text)"#
    );
    let mut trio = Trio::start(&schema);
    trio.master.run(&format!(
        r#"insert into "select" values (1, 'a'), (2, 'b'); update "select" set "WHERE" = 'c' where "from" = 1;
           insert into "Ca p""s 'q' \b {{}} $1 %s" values (1, 2, 'x'), (2, 1, 'y');
           update "Ca p""s 'q' \b {{}} $1 %s" set "c\d" = 'z', "ö.ü" = 3 where "a ""b'" = 1;
           insert into "{long}" values (1, 'a', 'b'); update "{long}" set " " = null; delete from "select" where "from" = 2"#
    ));
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn tables_of_one_name_in_several_schemas_are_kept_apart() {
    let schema = "create schema \"A\"; create schema b; create table t (id int primary key, v text);
                  create table \"A\".t (id int primary key, v text); create table b.t (like t including all)";
    let mut trio = Setup::new(schema).build();
    trio.master.run("select pyreplica.add_table('\"A\".t'); select pyreplica.add_table('b.t')");
    trio.agent.start();
    trio.master.run("insert into t values (1, 'public'); insert into \"A\".t values (1, 'A'); insert into b.t values (1, 'b')");
    trio.master.run("set search_path = b; update t set v = 'still b'; delete from public.t");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select v from b.t"), "still b");
}

#[test]
fn tables_may_have_one_column_or_1600() {
    let columns: Vec<String> = (1..1600).map(|i| format!("c{i} int")).collect();
    let schema = format!(
        "create table one (id int primary key); create table wide (id int primary key, {})",
        columns.join(", ")
    );
    let mut trio = Trio::start(&schema);
    trio.master.run(
        "insert into one values (1), (2); update one set id = 3 where id = 1; delete from one where id = 2",
    );
    trio.master.run("insert into wide (id, c1, c1599) values (1, 2, 3), (2, null, null); update wide set c800 = c1599, c1 = c1 + 1");
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_row_may_have_100_megabytes() {
    let mut trio = Setup::new("create table t (id int primary key, v text, b bytea)").slaves(1).start();
    trio.master.run("alter table t alter v set storage external, alter b set storage external");
    trio.master.run("insert into t values (1, repeat('0123456789', 10000000), null), (2, 'small', '\\x00')");
    trio.master.run("update t set b = convert_to(left(v, 1000000), 'UTF8') where id = 1");
    trio.catch_up();
    let sum = "select id, length(v), md5(v), md5(b) from t order by id";
    assert_eq!(trio.slaves[0].rows(sum), trio.master.rows(sum));
}

#[test]
fn composite_keys_find_their_rows() {
    let mut trio = Trio::start("create table t (a text, b date, c numeric, v int, primary key (c, a, b))");
    trio.master.run("insert into t values ('x', '2020-01-01', 1.0, 1), ('x', '2020-01-02', 1.0, 2), ('y', '2020-01-01', 1.0, 3)");
    trio.master.run(
        "update t set v = v * 10; update t set a = 'z', c = 1.00 where v = 20; delete from t where a = 'y'",
    );
    trio.catch_up_and_compare();
    assert_eq!(trio.conflicts(1), [""; 0]);
}
