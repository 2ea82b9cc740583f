//! The tests' own means: a comparison that could not see a difference would make every other test worthless.

use pyreplica_tests::check::compare;
use pyreplica_tests::doc;
use pyreplica_tests::trio::shared_servers;

#[test]
fn comparison_names_each_kind_of_difference() {
    // GIVEN two tables with one row equal, one changed, one only here and one only there
    let servers = shared_servers();
    let left = servers[0].create_db("harness", "");
    let right = servers[1].create_db("harness", "");
    let table = "create table t (a int, \"B c\" text, v float8, primary key (a, \"B c\"))";
    left.run(&format!(
        "{table}; insert into t values (1, 'x', 0.1), (2, 'x', 1), (10, 'x', 1), (3, 'only left', null)"
    ));
    right.run(&format!(
        "{table}; insert into t values (1, 'x', 0.1), (2, 'x', '-0'), (10, 'x', 1), (4, 'only right', 1)"
    ));

    // WHEN they are compared
    let difference = compare(&left, &right, "public.t").unwrap_err();

    // THEN the rows are named, each with its side
    assert!(difference.contains("differs in 3 rows between master (-) and slave1 (+)"), "{difference}");
    assert!(difference.contains("- 2\tx\tx\t2\t1\n+ 2\tx\tx\t2\t-0"), "{difference}");
    assert!(difference.contains("- 3\tonly left"), "{difference}");
    assert!(difference.contains("+ 4\tonly right"), "{difference}");

    right.run(
        "truncate t; insert into t values (1, 'x', 0.1), (2, 'x', 1), (10, 'x', 1), (3, 'only left', null)",
    );
    assert_eq!(compare(&left, &right, "public.t"), Ok(4));
}

#[test]
fn comparison_refuses_tables_of_different_shape() {
    let servers = shared_servers();
    let left = servers[0].create_db("harness_shape", "");
    let right = servers[1].create_db("harness_shape", "");
    left.run("create table t (a int primary key, v text)");
    right.run("create table t (a int primary key, v varchar(5))");
    let difference = compare(&left, &right, "t").unwrap_err();
    assert!(difference.contains("character varying(5)"), "{difference}");
}

#[test]
fn table_of_every_type_has_every_type() {
    let db = shared_servers()[0].create_db("harness_types", "");
    db.run(pyreplica_tests::every_type::SCHEMA);
    for sql in pyreplica_tests::every_type::ROWS.iter().chain(pyreplica_tests::every_type::UPDATES) {
        db.run(sql);
    }
    // All but those that the server keeps for itself.
    let missing = db.rows(
        "select t.typname from pg_type t
          where t.typnamespace = 'pg_catalog'::regnamespace and t.typtype in ('b', 'r', 'm') and t.typelem = 0
            and t.typname not like all ('{reg%,%range,pg_brin%,pg_ndistinct,pg_dependencies,pg_mcv_list,pg_node_tree,gtsvector}')
            and t.oid not in (select atttypid from pg_attribute where attrelid = 'every_type'::regclass)
          order by 1",
    );
    assert_eq!(missing, [""; 0], "types that every_type lacks");
}

/// Files of docs/ in which every block of SQL and configuration is an example that a test runs.
const WITH_EXAMPLES: &[&str] = &["transforms.md"];

#[test]
fn every_example_of_the_documentation_is_run() {
    let tests = std::fs::read_dir(doc::project().join("tests/it")).expect("the tests");
    let source = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.expect("an entry").path()).expect("a readable file")
    };
    let tests: String = tests.map(source).collect();
    for file in WITH_EXAMPLES {
        for block in doc::blocks(file) {
            if ["sql", "toml"].contains(&block.language.as_str()) {
                let name =
                    block.name.unwrap_or_else(|| panic!("{file} has a block without a name: {}", block.text));
                let call = format!("example({file:?}, {name:?})");
                assert!(tests.contains(&call), "no test has {call}");
            }
        }
    }
}
