//! What the agent takes of memory does not grow with what it carries.

use pyreplica_tests::trio::Setup;

/// A fixed part, and one for each slave; nothing for the size of rows.
const MEBIBYTES: (u64, u64) = (64, 16);

fn check(slaves: usize, workload: &[&str]) {
    check_with("", slaves, workload);
}

fn check_with(columns: &str, slaves: usize, workload: &[&str]) {
    let table = format!("create table t (id int primary key, v text{columns})");
    let mut trio = Setup::new(&table).slaves(slaves).start();
    trio.master.run("alter table t alter v set storage external");
    for sql in workload {
        trio.master.run(sql);
        trio.catch_up();
    }
    let peak = trio.agent.peak_mebibytes();
    let limit = MEBIBYTES.0 + MEBIBYTES.1 * slaves as u64;
    assert!(peak <= limit, "the agent took {peak} MiB, more than {limit}");
    let all = "select id, md5(v) from t order by id";
    for slave in &trio.slaves {
        assert_eq!(slave.rows(all), trio.master.rows(all));
    }
}

/// Two in one transaction, then new and old value of one.
#[test]
fn rows_of_100_megabytes_pass_through() {
    check(
        2,
        &[
            "insert into t select i, repeat(i || '23456789', 12500000) from generate_series(1, 2) i",
            "update t set v = repeat('23456789x', 11000000) where id = 2",
        ],
    );
}

/// The array is not what is large.
#[test]
fn rows_of_100_megabytes_beside_an_array_pass_through() {
    let row = |id: u32, array: &str| {
        format!("insert into t values ({id}, repeat('{id}23456789', 10000000), {array})")
    };
    check_with(
        ", a text[]",
        2,
        &[
            &row(1, "null"),
            &row(2, "'{a,NULL}'"),
            "update t set v = repeat('23456789x', 10000000), a = array_append(a, 'b') where id = 2",
        ],
    );
}

/// Too small to pass by themselves, so many are on their way at once.
#[test]
fn rows_of_a_megabyte_wait_on_the_master() {
    let values = "select i, repeat(i::text, 900000 / length(i::text)) from generate_series(1, 60) i";
    check(
        2,
        &[
            &format!("insert into t {values}"),
            "update t set v = 'x' || v",
            "do 'begin for n in 1 .. 60 loop update t set v = ''y'' || v where id = n; commit; end loop; end'",
        ],
    );
}

#[test]
fn a_transaction_of_150_megabytes_streams() {
    check(2, &["insert into t select i, repeat(md5(i::text), 100) from generate_series(1, 50000) i"]);
}
