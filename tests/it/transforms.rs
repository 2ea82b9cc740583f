//! Rows that a slave keeps in another form: computed values, a row filter, operations left out.

use pyreplica_tests::doc::example;
use pyreplica_tests::trio::{Setup, Trio};

const PEOPLE: &str = "create table people (id int primary key, name text, mail text, born date)";
const ROWS_100: &str =
    "insert into people select i, 'First' || i || ' Last' || i, 'p' || i || '@example.org',
    date '1970-01-01' + i from generate_series(1, 100) i";

/// A master and one slave, in step, whose `[[slave.table]]` for public.people has these lines.
fn mapped(apply: &str, slave: &str, lines: &str) -> Trio {
    let lines = format!("apply = \"{apply}\"\n[[slave.table]]\nname = \"public.people\"\n{lines}");
    let trio = Setup::new(PEOPLE).slave_schema(slave).slaves(1).slave_line(&lines).build();
    trio.master.run(ROWS_100);
    trio.agent.run(&["check"]).expect_code(0);
    trio.once().expect_code(0);
    trio
}

/// The slave holds what the query says on the master that it should hold, and `verify` finds so too.
#[track_caller]
fn assert_holds(trio: &Trio, should: &str) {
    assert_eq!(trio.slaves[0].rows("select * from people order by 1"), trio.master.rows(should));
    trio.agent.run(&["verify"]).expect_code(0).expect_text(&["equal"]);
}

/// `once` without a window that had to be applied change by change, unless the slave has them all so.
#[track_caller]
fn once(trio: &Trio) {
    let finished = trio.agent.run_with(&["once"], &[("RUST_LOG", "replica_agent=debug")]).expect_code(0);
    assert!(!finished.stderr.contains("change by change"), "{}", finished.text());
}

const MASKED: &str = "columns = { name = false, born = \"birthday\" }
    values = { mail = \"md5(mail) || '@' || split_part(mail, '@', 2)\", source = \"'shop'\", year = \"extract(year from born)\",
               first = \"split_part(name, ' ', 1)\", \"Last \\\"Name\\\"\" = \"split_part(people.name, ' ', 2) -- the rest\" }";
const MASKED_SCHEMA: &str =
    "create table people (id bigint primary key, mail varchar(100), source char(6), year smallint,
    first text, \"Last \"\"Name\"\"\" text, birthday date, own text default 'own')";
const MASKED_ROWS: &str =
    "select id, md5(mail) || '@' || split_part(mail, '@', 2), 'shop  ', extract(year from born),
    split_part(name, ' ', 1), split_part(name, ' ', 2), born, 'own' from people order by id";

#[test]
fn values_are_computed() {
    for apply in ["net", "exact"] {
        let trio = mapped(apply, MASKED_SCHEMA, MASKED);
        assert_holds(&trio, MASKED_ROWS);
        trio.master.run(
            "insert into people select i, 'A' || i || ' B', i || '@x', null from generate_series(101, 200) i;
             insert into people values (300, 'one', 'row', null)",
        );
        once(&trio);
        assert_holds(&trio, MASKED_ROWS);
        trio.master.run(
            "update people set mail = upper(mail) where id % 3 = 0; update people set name = null where id % 5 = 0;
             update people set born = born + 400, name = name || ' x' where id % 7 = 0; update people set mail = 'm' where id = 1;
             update people set id = id + 1000, mail = 'moved' where id % 10 = 7; delete from people where id between 20 and 40",
        );
        once(&trio);
        trio.master
            .run("delete from people where id = 300; update people set born = '2001-01-01' where id = 2");
        once(&trio);
        assert_holds(&trio, MASKED_ROWS);
        assert_eq!(trio.conflicts(0), [""; 0]);
        trio.agent.run(&["copy", "--table", "public.people"]).expect_code(0);
        assert_holds(&trio, MASKED_ROWS);
        trio.agent.run(&["copy"]).expect_code(0);
        assert_holds(&trio, MASKED_ROWS);
    }
}

#[test]
fn a_row_that_differs_is_named_by_the_slaves_columns() {
    let trio = mapped("net", MASKED_SCHEMA, MASKED);
    trio.slaves[0].run(
        "update people set mail = 'mine' where id = 7; update people set first = 'mine', year = 1 where id = 8;
         delete from people where id in (9, 10)",
    );
    let differ = ["100 rows, 4 differ", "(id)=(7): differs in mail", "(id)=(8): differs in first, year"];
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&differ);
    trio.master.run(
        "update people set mail = 'x' where id < 10; update people set name = 'N' where id = 8; delete from people where id = 10",
    );
    trio.once().expect_code(0);
    let found = trio.slaves[0].rows("select conflict, key, detail from pyreplica_agent.conflict order by id");
    let expected = [
        "update_differs|(id)=(7)|Old value on the master and value on the slave differ in \"mail\".",
        "update_missing|(id)=(9)|null",
        "update_differs|(id)=(8)|Old value on the master and value on the slave differ in \"first\".",
        "delete_missing|(id)=(10)|null",
    ];
    assert_eq!(found, expected);
    trio.slaves[0].run("update people set year = 1970 where id = 8");
    trio.agent.run(&["verify"]).expect_code(1).expect_text(&["99 rows, 1 differ", "(id)=(9): missing"]);
}

#[test]
fn rows_are_filtered_by_their_key() {
    for apply in ["net", "exact"] {
        let trio = mapped(apply, PEOPLE, "row_filter = \"id % 2 = 0 -- even\"");
        let even = "select * from people where id % 2 = 0 order by id";
        assert_holds(&trio, even);
        trio.master.run(
            "insert into people select i, 'x', 'y', null from generate_series(101, 150) i; insert into people values (999);
             update people set mail = 'z' where id < 60; update people set mail = 'odd' where id = 3;
             update people set mail = 'even' where id = 4; delete from people where id between 20 and 30",
        );
        once(&trio);
        assert_holds(&trio, even);
        // Out of the filter, into it, within, and outside.
        trio.master.run(
            "update people set id = id + 1001 where id between 2 and 5; update people set id = id + 2000 where id between 6 and 9;
             update people set id = 5000 where id = 999",
        );
        once(&trio);
        assert_holds(&trio, even);
        assert_eq!(trio.conflicts(0), [""; 0]);
        trio.slaves[0].run("delete from people where id = 10");
        trio.master.run("update people set mail = 'missing' where id in (10, 11)");
        trio.once().expect_code(0);
        assert_eq!(trio.conflicts(0), ["update_missing|public.people|(id)=(10)"]);
    }
}

#[test]
fn a_filter_may_use_a_column_with_quotes_in_its_name() {
    for apply in ["net", "exact"] {
        let line = format!(
            "apply = \"{apply}\"\n[[slave.table]]\nname = \"public.t\"\nrow_filter = '\"5\"\" k\" > 10'"
        );
        let trio =
            Setup::new("create table t (\"5\"\" k\" int primary key)").slaves(1).slave_line(&line).build();
        trio.master.run("insert into t values (1), (2)");
        trio.once().expect_code(0);
        trio.master.run("update t set \"5\"\" k\" = 11 where \"5\"\" k\" = 1");
        trio.once().expect_code(0);
        assert_eq!(trio.slaves[0].rows("select * from t"), ["11"]);
    }
}

/// Where the slave's column holds less than the master's, by COPY or not.
#[test]
fn a_filter_is_over_the_values_of_the_master() {
    let trio = Setup::new("create table t (n numeric primary key)")
        .slave_schema("create table t (n numeric(10,0) primary key)")
        .slaves(1)
        .slave_line("[[slave.table]]\nname = \"public.t\"\nrow_filter = \"n % 10 > 1.4\"")
        .build();
    trio.once().expect_code(0);
    trio.master.run("insert into t select 10 * i + 1.45 from generate_series(1, 3000) i");
    trio.master.run("insert into t select 10 * i + 1.4 from generate_series(5001, 8000) i");
    once(&trio);
    assert_eq!(trio.slaves[0].value("select count(*), min(n), max(n) from t"), "3000|11|30001");
}

/// Enough rows for the statements of many, and an index whose column no UPDATE sets.
#[test]
fn many_rows_at_once() {
    let slave = format!("{PEOPLE}; create index on people (born)");
    let lines = "values = { mail = \"md5(mail)\" }\nrow_filter = \"id % 3 > 0\"";
    let should = "select id, name, md5(mail), born from people where id % 3 > 0 order by id";
    let trio = mapped("net", &slave, lines);
    for change in [
        "insert into people select i, 'n' || i, 'm' || i, '2001-01-01' from generate_series(1001, 5000) i",
        "update people set mail = mail || 'x'",
        "update people set name = 'changed' where id % 2 = 0",
        "update people set id = id + 10001 where id > 3000",
        "delete from people where id between 500 and 2500",
    ] {
        trio.master.run(change);
        once(&trio);
        assert_holds(&trio, should);
    }
    trio.slaves[0].run("update people set mail = 'mine' where id = 2600");
    trio.master.run("update people set mail = 'new'");
    trio.once().expect_code(0);
    assert_holds(&trio, should);
    assert_eq!(
        trio.slaves[0].rows("select conflict, key from pyreplica_agent.conflict"),
        ["update_differs|(id)=(2600)"]
    );
}

#[test]
fn deleted_rows_are_kept() {
    for apply in ["net", "exact"] {
        let trio = mapped(apply, PEOPLE, "operations = [\"insert\", \"update\"]");
        trio.master.run("delete from people where id <= 10; update people set mail = 'new' where id <= 20");
        once(&trio);
        let kept = "select count(*), count(*) filter (where mail = 'new') from people";
        assert_eq!(trio.slaves[0].value(kept), "100|10");
        trio.agent.run(&["verify"]).expect_code(0);
        // A row that comes again under the key of a kept one takes its place.
        trio.master.run("insert into people select i, 'again', 'new', null from generate_series(1, 5) i");
        once(&trio);
        assert_eq!(trio.slaves[0].value(kept), "100|15");
        trio.master.run("truncate people; insert into people values (6, 'six', 'new')");
        once(&trio);
        assert_eq!(trio.slaves[0].value(kept), "100|16");
        trio.agent.run(&["verify"]).expect_code(0);
        assert_eq!(trio.conflicts(0), [""; 0]);
        // What the master does at once arrives as it would have one by one.
        trio.master.run("insert into people values (900, 'nine', 'old'); update people set mail = 'new' where id = 900; delete from people");
        once(&trio);
        assert_eq!(trio.slaves[0].value(kept), "101|17");
        trio.master.run("insert into people values (6, 'six', 'other')");
        trio.once().expect_code(0);
        trio.slaves[0].run("update people set mail = 'mine' where id = 6");
        trio.agent.run(&["verify"]).expect_code(1).expect_text(&["(id)=(6): differs in mail"]);
    }
}

#[test]
fn a_slave_may_take_new_rows_only_or_changes_only() {
    let trio = mapped("net", PEOPLE, "operations = [\"insert\"]");
    trio.master.run(
        "update people set mail = 'new'; delete from people where id < 50; insert into people values (500)",
    );
    once(&trio);
    assert_eq!(
        trio.slaves[0].value("select count(*), count(*) filter (where mail = 'new') from people"),
        "101|0"
    );
    trio.agent.run(&["verify"]).expect_code(0);

    let trio = mapped("net", PEOPLE, "operations = [\"update\", \"delete\", \"truncate\"]");
    trio.master.run(
        "insert into people select i from generate_series(500, 520) i; update people set mail = 'new';
         delete from people where id < 50 or id between 505 and 510",
    );
    once(&trio);
    assert_eq!(
        trio.slaves[0].value("select count(*), count(*) filter (where mail = 'new') from people"),
        "51|51"
    );
    trio.agent.run(&["verify"]).expect_code(0);
    assert_eq!(trio.conflicts(0), [""; 0]);
    trio.master.run("truncate people");
    once(&trio);
    assert_eq!(trio.slaves[0].value("select count(*) from people"), "0");
}

#[test]
fn a_bad_expression_is_found_before_anything_is_applied() {
    let trio = Setup::new(PEOPLE).slaves(1).build();
    let config = trio.config();
    for (lines, error, hint) in [
        (
            "values = { mail = \"md5(mial)\" }",
            "values of column \"mail\" of table public.people: column \"mial\" does not exist",
            "",
        ),
        (
            "values = { mail = \"md5 mail ||\" }",
            "values of column \"mail\" of table public.people: syntax error",
            "id, name, mail, born",
        ),
        (
            "values = { mail = \"nosuch(mail)\" }",
            "function nosuch(text) does not exist",
            "No function matches",
        ),
        ("values = { mail = \"max(mail)\" }", "aggregate functions are not allowed", ""),
        ("values = { mail = \"unnest(array[mail])\" }", "set-returning functions are not allowed", ""),
        ("values = { born = \"id\" }", "cannot cast type integer to date", ""),
        ("values = { nosuch = \"id\" }", "column \"nosuch\"", "[[slave.table]]"),
        (
            "row_filter = \"id\"",
            "row_filter of table public.people: argument of WHERE must be type boolean",
            "",
        ),
        (
            "columns = { nosuch = false }",
            "column \"nosuch\" of table public.people does not exist",
            "master's name first",
        ),
        ("columns = { id = false }", "key column \"id\"", "other names"),
        ("values = { id = \"id + 1\" }", "key column \"id\"", "other names"),
        (
            "row_filter = \"born > '2000-01-01'\"",
            "row_filter of table public.people uses born, and an UPDATE may not carry that",
            "whole_rows => true",
        ),
        (
            "values = { mail = \"name || mail\" }",
            "values of column \"mail\" of table public.people uses name, mail",
            "whole_rows => true",
        ),
    ] {
        trio.agent.configure(&format!("{config}[[slave.table]]\nname = \"public.people\"\n{lines}\n"));
        trio.agent.run(&["check"]).expect_code(1).expect_text(&[error, hint]);
        trio.once().expect_code(1).expect_text(&[error, hint]);
        assert_eq!(trio.slaves[0].rows("select * from pyreplica_agent.copied_table"), [""; 0], "{lines}");
    }
}

#[test]
fn the_documented_mapping_does_what_it_says() {
    let slave = example("transforms.md", "slave");
    let lines = [example("transforms.md", "tables"), example("transforms.md", "clients")].concat();
    let trio = Setup::new(&example("transforms.md", "master"))
        .slave_schema(&slave)
        .slaves(1)
        .slave_line(&lines)
        .build();
    trio.agent.run(&["check"]).expect_code(0);
    trio.once().expect_code(0);
    trio.master.run(
        "insert into customers values (1, 'Ann Lee', 'ann@x', 'EU'), (2, 'Bob Roy', 'bob@x', 'US');
         insert into orders values (1000, 1, 9.90), (1001, 1, 10), (1002, 2, 11); insert into audit_login values (1, 'ann');
         update customers set name = 'Ann May' where id = 1; update orders set total = 12; delete from orders where id = 1002",
    );
    trio.once().expect_code(0);
    let clients = "select id, first_name, last_name, mail, region, source from crm.clients order by id";
    let should = "select id, split_part(name, ' ', 1), split_part(name, ' ', 2), md5(mail), region, 'shop' from customers order by id";
    assert_eq!(trio.slaves[0].rows(clients), trio.master.rows(should));
    assert_eq!(trio.slaves[0].rows("select no, total from shop.orders order by no"), ["1001|12", "1002|12"]);
    trio.agent.run(&["verify"]).expect_code(0);
}

#[test]
fn a_row_that_moves_out_of_a_filter_and_is_not_there_is_named() {
    let trio = Setup::new(&example("transforms.md", "master")).slaves(1);
    let lines = "[[slave.table]]\nname = \"public.customers\"\nrow_filter = \"region = 'EU'\"";
    let trio = trio.slave_line(lines).build();
    trio.once()
        .expect_code(1)
        .expect_text(&["row_filter of table public.customers uses region", "whole_rows => true"]);
    trio.master.run("select pyreplica.remove_table('customers')");
    trio.master.run(&example("transforms.md", "whole-rows"));
    trio.master.run("insert into customers select i, 'n', 'm', case when i > 2 then 'EU' end from generate_series(1, 9) i");
    trio.once().expect_code(0);
    assert_eq!(trio.slaves[0].value("select count(*) from customers"), "7");
    trio.slaves[0].run("delete from customers where id in (5, 6); update customers set name = 'mine' where id = 7; insert into customers values (1, 'mine')");
    trio.master.run(
        "update customers set region = 'US' where id in (4, 5); update customers set name = 'x' where id in (6, 7, 8)",
    );
    trio.once().expect_code(0);
    let expected = [
        "update_missing|public.customers|(id)=(5)",
        "update_missing|public.customers|(id)=(6)",
        "update_differs|public.customers|(id)=(7)",
    ];
    assert_eq!(trio.conflicts(0), expected);
    assert_eq!(
        trio.slaves[0].value("select string_agg(id || name, ' ' order by id) from customers"),
        "1mine 3n 7x 8x 9n"
    );
    trio.master.run("update customers set region = 'EU' where id = 1");
    trio.once().expect_code(1).expect_text(&["update_exists", "(id)=(1)"]);
    trio.agent
        .run(&["verify"])
        .expect_code(1)
        .expect_text(&["(id)=(1): differs in name", "(id)=(6): missing"]);
}

/// PostgreSQL takes no more than 1664 columns side by side, and an UPDATE has new and old ones.
#[test]
fn a_table_that_is_too_wide_is_refused() {
    let columns: Vec<String> = (1..900).map(|n| format!("c{n} int")).collect();
    let wide = format!("create table people (id int primary key, mail text, {})", columns.join(", "));
    let trio = Setup::new(&wide)
        .slaves(1)
        .slave_line("[[slave.table]]\nname = \"public.people\"\nvalues = { mail = \"md5(mail)\" }")
        .build();
    trio.agent.run(&["check"]).expect_code(1).expect_text(&["public.people", "too many columns"]);
    trio.once().expect_code(1).expect_text(&["too many columns"]);
}
