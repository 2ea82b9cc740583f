//! A master that is not UTF-8.

use pyreplica_tests::trio::Setup;

#[test]
fn a_latin1_master_feeds_utf8_slaves() {
    let options = "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'";
    let mut trio = Setup::new("create table \"für\" (\"Schlüssel\" text primary key, v text[], j jsonb)")
        .master_encoding(options)
        .start();
    trio.master.run(r#"insert into "für" values ('Ägypten', '{è,ñ}', '{"ü": "ß"}'), ('x', null, null)"#);
    trio.master.run(r#"update "für" set "Schlüssel" = 'Ärger', v = '{ÿ}' where j is not null; update "für" set j = '["é"]'"#);
    trio.catch_up_and_compare();
    assert_eq!(
        trio.slaves[0].value(r#"select octet_length("Schlüssel") from "für" where v is not null"#),
        "6"
    );
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_latin1_master_is_copied_to_utf8_slaves() {
    let options = "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'";
    let trio = Setup::new("create table t (id int primary key, v text)").master_encoding(options).build();
    trio.master.run("insert into t values (1, 'äöüß'), (2, E'\\\\N \\t x')");
    trio.once().expect_code(0);
    trio.assert_same();
}
