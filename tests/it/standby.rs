//! A second agent stands by and takes over.

use pyreplica_tests::agent::Agent;
use pyreplica_tests::trio::Setup;

/// It is the running agent that reports how the slave does.
#[test]
fn whose_turn_it_is_not_reports_nothing() {
    for setup in [
        Setup::new("create table t (id int primary key)"),
        Setup::new("create table t (id int primary key)").atomic(),
    ] {
        let trio = setup.start();
        trio.once().expect_code(1).expect_text(&["another agent serves"]);
        let errors =
            "select count(*) from pyreplica.slave_status where last_error is not null or state = 'error'";
        assert_eq!(trio.master.value(errors), "0");
    }
}

#[test]
fn a_second_agent_takes_over_when_the_first_dies() {
    for setup in [
        Setup::new("create table t (id int primary key)"),
        Setup::new("create table t (id int primary key)").atomic(),
    ] {
        // GIVEN an agent at work and another with the same configuration
        let mut trio = setup.start();
        let mut second = Agent::new(&trio.config());
        second.start();
        trio.master.run("insert into t values (1)");
        trio.catch_up_and_compare();
        assert!(second.is_running(), "it stands by:\n{}", second.log());
        // WHEN the first is killed
        trio.agent.kill();
        trio.agent = second;
        // THEN the second goes on
        trio.master.run("insert into t values (2)");
        trio.catch_up_and_compare();
        trio.assert_nothing_prepared();
    }
}
