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

/// The sources of all tests, by the names of their files.
fn sources() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(doc::project().join("tests/it")).expect("the tests");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("a readable file"))
        })
        .collect()
}

#[test]
fn every_example_of_the_documentation_is_run() {
    let sources = sources();
    let mut files: Vec<String> = ["../README.md".to_owned()].into();
    files.extend(
        std::fs::read_dir(doc::project().join("docs"))
            .expect("docs")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8")),
    );
    for file in files {
        for block in doc::blocks(&file) {
            if ["sql", "toml", "json", "sh"].contains(&block.language.as_str()) {
                let name =
                    block.name.unwrap_or_else(|| panic!("{file} has a block without a name: {}", block.text));
                let words = [&file, &name].map(|word| format!("{word:?}"));
                let uses = |text: &String| words.iter().all(|word| text.contains(word));
                assert!(sources.iter().any(|(_, text)| uses(text)), "no test runs {name:?} of {file}");
            }
        }
    }
}

#[test]
fn every_test_that_the_readme_names_is_there() {
    let sources = sources();
    let readme = std::fs::read_to_string(doc::project().join("README.md")).expect("README.md");
    let named: Vec<(&str, &str)> =
        readme.split('`').filter_map(|word| word.strip_prefix("tests/it/")?.split_once("::")).collect();
    assert!(named.len() > 40, "the feature table names {} tests", named.len());
    for (file, test) in named {
        let is_there = |text: &String| text.contains(&format!("#[test]\nfn {test}() {{"));
        assert!(
            sources.iter().any(|(name, text)| name == file && is_there(text)),
            "README.md names a test that is not there: {file}::{test}"
        );
    }
}
