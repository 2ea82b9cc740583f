//! What agent.toml says about rows of the slave's own: `insert_exists` and `update_differs`.

use pyreplica_tests::trio::{Setup, Trio};

const TABLE: &str =
    "create table t (id int primary key, mail text, area int4range, gone boolean not null default false,
                     exclude using gist (area with &&));
     create unique index t_mail on t (lower(mail)) where not gone";

/// A slave with rows 1 and 2, and what the master then inserts, by both ways to apply it.
fn conflict(policy: &str, inserts: &str, check: impl Fn(&Trio)) {
    for apply in ["net", "exact"] {
        let lines = format!("insert_exists = \"{policy}\"\napply = \"{apply}\"");
        let trio = Setup::new(TABLE).slaves(1).slave_line(&lines).build();
        trio.once().expect_code(0);
        trio.slaves[0]
            .run("insert into t values (1, 'Ann', '[1,5)'), (2, 'Bob', '[10,15)'); insert into t values (3, 'Eve', null, true)");
        trio.master.run(inserts);
        trio.once().expect_code(0);
        check(&trio);
    }
}

fn recorded(trio: &Trio) -> Vec<String> {
    trio.slaves[0].rows("select conflict, op, key, detail, applied from pyreplica_agent.conflict order by id")
}

fn rows(trio: &Trio) -> Vec<String> {
    trio.slaves[0].rows("select id, mail from t order by id")
}

#[test]
fn keep_leaves_the_row_of_the_slave() {
    conflict("keep", "insert into t values (1, 'Zoe'), (4, 'BOB'), (5, 'eve'); insert into t select generate_series(10, 50)", |trio| {
        assert_eq!(rows(trio)[..4], ["1|Ann", "2|Bob", "3|Eve", "5|eve"], "Eve is gone, so eve may be");
        assert_eq!(trio.slaves[0].value("select count(*) from t where id >= 10"), "41");
        assert_eq!(
            recorded(trio),
            [
                "insert_exists|INSERT|(id)=(1)|The slave's row is kept.|f",
                "insert_exists|INSERT|(id)=(4)|The slave's row is kept.|f",
            ]
        );
    });
}

#[test]
fn replace_puts_the_row_of_the_master_in_its_place() {
    conflict(
        "replace",
        "insert into t values (1, 'Zoe'), (4, 'BOB'); insert into t values (6, null, '[2,3)')",
        |trio| {
            assert_eq!(rows(trio), ["1|Zoe", "3|Eve", "4|BOB", "6|null"]);
            // Row 6 would have collided with the area that the first one had.
            assert_eq!(
                recorded(trio),
                [
                    "insert_exists|INSERT|(id)=(1)|The slave's row is replaced by the master's.|t",
                    "insert_exists|INSERT|(id)=(4)|The slave's row is replaced by the master's.|t",
                ]
            );
        },
    );
}

/// What the slave makes of the row is what collides, also by a column that the slave computes or has for itself.
#[test]
fn what_a_slave_computes_and_filters_is_kept_or_replaced_too() {
    let computed =
        "[[slave.table]]\nname = \"public.t\"\nvalues = { hash = \"md5(mail)\" }\nrow_filter = \"id < 100\"";
    for (policy, detail) in [("keep", "kept"), ("replace", "replaced by the master's")] {
        for apply in ["net", "exact"] {
            let trio = Setup::new("create table t (id int primary key, mail text)")
                .slave_schema(
                    "create table t (id int primary key, mail text, hash text unique, own serial unique)",
                )
                .slaves(1)
                .slave_line(&format!("insert_exists = \"{policy}\"\napply = \"{apply}\"\n{computed}"))
                .build();
            trio.once().expect_code(0);
            trio.slaves[0]
                .run("insert into t values (1, 'mine', 'm'), (2, 'mine', md5('two')), (100, 'mine', 'n')");
            trio.master.run(
                "insert into t values (1, 'one'), (3, 'three'), (100, 'left out'), (4, 'two'), (101, 'two');
                 insert into t select i, 'n' || i from generate_series(10, 50) i",
            );
            trio.once().expect_code(0);
            let rows = trio.slaves[0]
                .rows("select id, mail, hash = md5(mail) from t where id not between 10 and 50 order by id");
            match policy {
                "keep" => assert_eq!(rows, ["1|mine|f", "2|mine|f", "3|three|t", "100|mine|f"]),
                _ => assert_eq!(rows, ["1|one|t", "3|three|t", "4|two|t", "100|mine|f"]),
            }
            assert_eq!(trio.slaves[0].value("select count(*) from t where id between 10 and 50"), "41");
            let expected = [1, 4].map(|id| format!("insert_exists|(id)=({id})|The slave's row is {detail}."));
            assert_eq!(
                trio.slaves[0].rows("select conflict, key, detail from pyreplica_agent.conflict order by id"),
                expected
            );
        }
    }
}

/// A slave of a table `t (id, mail, ok)` by each policy and each way to apply.
fn kept_and_replaced(rule: &str, check: impl Fn(&Trio, &str)) {
    for policy in ["keep", "replace"] {
        for apply in ["net", "exact"] {
            let trio = Setup::new("create table t (id int primary key, mail text unique, ok boolean)")
                .slaves(1)
                .slave_line(&format!("insert_exists = \"{policy}\"\napply = \"{apply}\""))
                .slave_line(&format!("[[slave.table]]\nname = \"public.t\"\n{rule}"))
                .build();
            trio.master.run(
                "select pyreplica.remove_table('t'); select pyreplica.add_table('t', whole_rows => true)",
            );
            check(&trio, policy);
        }
    }
}

#[test]
fn a_row_that_moves_into_the_filter_is_inserted() {
    kept_and_replaced("row_filter = \"ok\"", |trio, policy| {
        trio.master.run("insert into t select i, 'm' || i from generate_series(1, 50) i");
        trio.once().expect_code(0);
        trio.slaves[0].run("insert into t values (1, 'mine'), (100, 'm2')");
        trio.master.run("update t set ok = true");
        trio.once().expect_code(0);
        let (own, expected) = match policy {
            "keep" => ("kept", ["1|mine", "100|m2", "48"]),
            _ => ("replaced by the master's", ["1|m1", "2|m2", "48"]),
        };
        assert_eq!(
            rows(trio)
                .into_iter()
                .filter(|row| row.contains("mine") || row.ends_with("|m1") || row.ends_with("|m2"))
                .collect::<Vec<_>>(),
            expected[..2]
        );
        assert_eq!(trio.slaves[0].value("select count(*) from t where id > 2 and ok"), expected[2]);
        let conflict = |id| {
            let applied = if policy == "keep" { "f" } else { "t" };
            format!("insert_exists|INSERT|(id)=({id})|The slave's row is {own}.|{applied}")
        };
        assert_eq!(recorded(trio), [conflict(1), conflict(2)]);
    });
}

#[test]
fn a_row_that_was_kept_is_in_the_way_like_any_other() {
    kept_and_replaced("operations = [\"insert\", \"update\"]", |trio, policy| {
        trio.master.run("insert into t values (1, 'a'), (2, 'b'), (3, 'c')");
        trio.once().expect_code(0);
        trio.master.run("delete from t");
        trio.once().expect_code(0);
        trio.master.run("insert into t values (1, 'again'), (4, 'b'), (5, 'e')");
        trio.once().expect_code(0);
        match policy {
            "keep" => assert_eq!(rows(trio), ["1|a", "2|b", "3|c", "5|e"]),
            _ => assert_eq!(rows(trio), ["1|again", "3|c", "4|b", "5|e"]),
        }
        let keys = trio.slaves[0].rows("select key from pyreplica_agent.conflict order by id");
        assert_eq!(keys, ["(id)=(1)", "(id)=(4)"]);
    });
}

#[test]
fn a_row_that_collides_with_several_is_named_so() {
    conflict("replace", "insert into t values (1, 'bob', '[11,12)')", |trio| {
        assert_eq!(rows(trio), ["1|bob", "3|Eve"]);
        assert_eq!(
            recorded(trio),
            ["multiple_unique_conflicts|INSERT|(id)=(1)|2 rows of the slave are replaced by the master's.|t"]
        );
    });
    conflict("keep", "insert into t values (9, 'ann', '[11,12)')", |trio| {
        assert_eq!(rows(trio), ["1|Ann", "2|Bob", "3|Eve"]);
        assert_eq!(
            recorded(trio),
            ["multiple_unique_conflicts|INSERT|(id)=(9)|2 rows of the slave are kept.|f"]
        );
    });
}

#[test]
fn by_default_the_slave_stops_and_names_the_conflict() {
    let trio = Setup::new(TABLE).slaves(1).build();
    trio.once().expect_code(0);
    trio.slaves[0].run("insert into t values (1, 'Ann'), (2, 'Bob')");
    trio.master.run("insert into t values (1, 'bob')");
    trio.once().expect_code(1).expect_text(&["conflict=multiple_unique_conflicts", "(id)=(1)"]);
    trio.slaves[0].run("delete from t");
    trio.once().expect_code(0);
    trio.slaves[0].run("insert into t values (7, 'zoe')");
    trio.master.run("update t set mail = 'Zoe'");
    trio.once().expect_code(1).expect_text(&["conflict=update_exists", "(id)=(1)"]);
    assert_eq!(rows(&trio), ["1|bob", "7|zoe"]);
}

#[test]
fn what_stopped_the_slave_is_recorded_once_and_what_is_kept_then_as_well() {
    let trio = Setup::new(TABLE).slaves(1).build();
    trio.once().expect_code(0);
    trio.slaves[0].run("insert into t values (1, 'Ann')");
    trio.master.run("insert into t values (1, 'Zoe')");
    trio.once().expect_code(1);
    trio.once().expect_code(1);
    assert_eq!(trio.conflicts(0), ["insert_exists|public.t|(id)=(1)"]);
    trio.agent.configure(&format!("{}insert_exists = \"keep\"\n", trio.config()));
    trio.once().expect_code(0);
    assert_eq!(recorded(&trio)[1..], ["insert_exists|INSERT|(id)=(1)|The slave's row is kept.|f"]);
}

#[test]
fn an_update_may_leave_the_row_of_the_slave_too() {
    let trio = Setup::new(TABLE).slaves(1).slave_line("update_differs = \"keep\"").build();
    trio.master.run("insert into t values (1, 'a'), (2, 'b')");
    trio.once().expect_code(0);
    trio.slaves[0].run("update t set mail = 'mine' where id = 1");
    trio.master.run("update t set mail = 'master' || id");
    trio.once().expect_code(0);
    assert_eq!(rows(&trio), ["1|mine", "2|master2"]);
    let detail = "Old value on the master and value on the slave differ in \"mail\".";
    assert_eq!(recorded(&trio), [format!("update_differs|UPDATE|(id)=(1)|{detail}|f")]);
}
