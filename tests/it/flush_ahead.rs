//! The session beside the one that applies a long batch, which has its WAL written meanwhile: it may be lost or refused.

use pyreplica_tests::trio::{shared_servers, Setup, Trio};

const TABLE: &str = "create table t (id serial primary key, v text)";
const NUDGE: &str = "query = 'select pg_current_xact_id()'";

/// More than a window.
fn long_batch(trio: &mut Trio) {
    trio.master.run("insert into t (v) select 'v' from generate_series(1, 50000)");
    trio.catch_up_and_compare();
}

fn nudging(trio: &Trio) -> String {
    trio.slaves[0].value(&format!(
        "select count(*) from pg_stat_activity where datname = current_database() and {NUDGE}"
    ))
}

#[test]
fn a_long_batch_has_a_session_beside_and_does_not_need_it() {
    // GIVEN a slave whose batches have been short
    let mut trio = Setup::new(TABLE).slaves(1).start();
    trio.master.run("insert into t (v) values ('short')");
    trio.catch_up();
    assert_eq!(nudging(&trio), "0");
    // WHEN long ones come THEN there is one session more
    long_batch(&mut trio);
    long_batch(&mut trio);
    assert_eq!(nudging(&trio), "1");
    // WHEN it is ended THEN nothing else happens
    trio.slaves[0]
        .run(&format!("select pg_terminate_backend(pid, 10000) from pg_stat_activity where {NUDGE}"));
    long_batch(&mut trio);
    long_batch(&mut trio);
    assert_eq!(nudging(&trio), "0");
    assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
}

#[test]
fn a_role_that_may_have_one_session_has_no_other() {
    for server in shared_servers() {
        server.db("postgres").run("do $$ begin create role f_single login connection limit 1; exception when duplicate_object or unique_violation then null; end $$");
    }
    let mut trio = Setup::new(TABLE).slaves(1).initial("current").build();
    let slave = &trio.slaves[0];
    slave.run(&format!(
        "grant create on database \"{}\" to f_single; grant set on parameter session_replication_role to f_single;
         grant select, insert on t to f_single; grant select, update on sequence t_id_seq to f_single",
        slave.name
    ));
    let dsn = slave.dsn();
    trio.agent.configure(&trio.config().replace(&dsn, &dsn.replace("user=postgres", "user=f_single")));
    trio.agent.start_with(&[("RUST_LOG", "replica_agent=debug")]);
    trio.catch_up();
    long_batch(&mut trio);
    long_batch(&mut trio);
    trio.agent.wait_for_log("its WAL is not flushed ahead");
    assert!(!trio.agent.log().contains("ERROR"), "{}", trio.agent.log());
}
