//! `status` tells where the time of each slave goes.

use pyreplica_tests::trio::{Setup, Trio};

const TABLE: &str = "create table t (id int primary key, v text)";

/// What `status --json` says of the stages of each slave.
fn stages(trio: &Trio) -> Vec<serde_json::Value> {
    let finished = trio.agent.run(&["status", "--json"]).expect_code(0);
    let status: serde_json::Value = serde_json::from_str(&finished.stdout).expect("json");
    (0..trio.slaves.len()).map(|i| status["slaves"][i]["on_master"]["stages"].clone()).collect()
}

fn check(setup: Setup) {
    // GIVEN slaves in step
    let trio = setup.build();
    trio.once().expect_code(0);

    // WHEN three transactions of 300 rows are applied
    for first in [0, 100, 200] {
        trio.master
            .run(&format!("insert into t select i, 'v' from generate_series({first}, {first} + 99) i"));
    }
    let finished = trio.agent.run_with(&["once"], &[("RUST_LOG", "replica_agent=debug")]).expect_code(0);

    // THEN status counts them and knows of each stage how long it took, and the log has a line for the batch
    for stages in stages(&trio) {
        assert_eq!((&stages["transactions"], &stages["rows"]), (&3.into(), &300.into()), "{stages}");
        assert!(stages["batches"].as_u64().expect("a number") >= 1, "{stages}");
        for stage in ["fetch", "plan", "apply", "prepare", "commit"] {
            assert!(stages["seconds"][stage].as_f64().expect("a number") > 0.0, "{stage}: {stages}");
        }
    }
    trio.agent.run(&["status"]).expect_code(0).expect_text(&["slave1: 300 rows, 3 transactions", "fetch 0."]);
    finished.expect_text(&["300 rows, 3 transactions, 1 batches; seconds: fetch"]);
}

#[test]
fn of_slaves_by_themselves() {
    check(Setup::new(TABLE));
}

#[test]
fn of_slaves_in_a_group() {
    check(Setup::new(TABLE).atomic());
}

#[test]
fn of_slaves_that_read_together() {
    let mut trio = Trio::start(TABLE);
    trio.master.run("insert into t select i, 'v' from generate_series(1, 500) i");
    trio.catch_up();
    trio.agent.stop();
    for stages in stages(&trio) {
        assert_eq!(stages["rows"], 500, "{stages}");
    }
}
