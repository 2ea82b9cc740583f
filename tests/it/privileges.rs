//! Writers without rights on the log, owners, least privilege for the agent.

use pyreplica_tests::trio::{shared_servers, Setup};
use pyreplica_tests::wait::wait_for;

/// Roles belong to the server, which tests share.
fn role(name: &str, options: &str) {
    for server in shared_servers() {
        server.db("postgres").run(&format!(
            "do $$ begin create role {name} login {options}; exception when duplicate_object or unique_violation then null; end $$"
        ));
    }
}

#[test]
fn a_writer_needs_no_right_on_the_log_and_has_none() {
    role("p_writer", "");
    let mut trio = Setup::new("create table t (id int primary key, v text); grant select, insert, update, delete, truncate on t to public").build();
    let mut writer = trio.master.session_of("p_writer");
    writer.run("insert into t values (1, 'a'), (2, 'b'); update t set v = 'c' where id = 1; delete from t where id = 2");
    assert_eq!(trio.master.value("select distinct username from pyreplica.replica_log"), "p_writer");
    for sql in [
        "select * from pyreplica.log",
        "select * from pyreplica.log_0",
        "select * from pyreplica.replica_log",
        "insert into pyreplica.log_0 select * from pyreplica.log_0",
        "insert into pyreplica.replica_log (sql) values ('select 1')",
        "delete from pyreplica.slave",
        "update pyreplica.slave set rank = null, snapshot = null",
        "insert into pyreplica.decision (agent, batch) values ('x', 1)",
        "select nextval('pyreplica.log_id')",
        "select setval('pyreplica.log_current', 2)",
        "select pyreplica.rotate_log()",
        "select pyreplica.allow_agent('p_writer')",
        "select pyreplica.attach('t', null, null, null, null, null)",
        "select pyreplica.make_trigger('t'::regclass, array['pyreplica.log_change'::regproc, 'pyreplica.ready'::regproc], 'insert', null, null, '{}', '')",
        "select pyreplica.detach('t')",
        "select pyreplica.add_table('t')",
        "select pyreplica.add_table('t', row_filter => 'id > 0')",
        "select pyreplica.remove_table('t')",
        "create table mine (id int primary key); create trigger x after insert on mine for each row execute function pyreplica.log_change()",
    ] {
        writer.client.batch_execute("rollback").expect("no transaction");
        let error = writer.error(sql);
        assert_eq!(error.code().code(), "42501", "{sql}: {error}");
    }
    trio.catch_up_and_compare();
}

#[test]
fn the_owner_of_a_table_may_add_and_remove_it() {
    role("p_owner", "");
    let trio = Setup::new(
        "create schema own; create table own.t (id int primary key); alter table own.t owner to postgres",
    )
    .build();
    trio.master.run("grant usage on schema own to p_owner; alter table own.t owner to p_owner");
    let mut owner = trio.master.session_of("p_owner");
    owner.run("select pyreplica.add_table('own.t'); insert into own.t values (1); truncate own.t");
    assert_eq!(owner.rows("select relation from pyreplica.replicated_table"), ["own.t"]);
    owner.run("select pyreplica.remove_table('own.t')");
    assert_eq!(owner.rows("select relation from pyreplica.replicated_table"), [""; 0]);
}

#[test]
fn who_was_granted_to_may_queue_statements() {
    role("p_queuer", "");
    let mut trio = Setup::new("create table t (id int primary key)").build();
    trio.catch_up();
    trio.master.run("grant insert on pyreplica.replica_log to p_queuer");
    let mut queuer = trio.master.session_of("p_queuer");
    queuer.run("insert into pyreplica.replica_log (sql) values ('create table public.queued (id int)')");
    trio.catch_up();
    assert_eq!(trio.slaves[0].value("select to_regclass('queued')"), "queued");
}

/// The roles that README tells users to make: no superuser anywhere.
#[test]
fn the_agent_works_with_least_privileges() {
    role("p_agent", "");
    role("p_apply", "");
    let trio = Setup::new("create table t (id int primary key, v text)").build();
    trio.master.run("select pyreplica.allow_agent('p_agent'); grant select on t to p_agent");
    for slave in &trio.slaves {
        slave.run(&format!(
            "grant create on database \"{}\" to p_apply; grant select, insert, update, delete, truncate on t to p_apply;
             grant set on parameter session_replication_role to p_apply",
            slave.name
        ));
    }
    let config =
        trio.config().replacen("user=postgres", "user=p_agent", 1).replace("user=postgres", "user=p_apply");
    trio.agent.configure(&config);
    trio.master.run("insert into t values (1, 'before')");
    trio.agent.run(&["check"]).expect_code(0);
    trio.once().expect_code(0);
    trio.master.run("insert into t values (2, 'after'); update t set v = 'x' where id = 1; delete from t where id = 1; truncate t; insert into t values (3, 'end')");
    trio.once().expect_code(0);
    trio.assert_same();
    trio.agent.run(&["verify"]).expect_code(0);
    trio.agent.run(&["status"]).expect_code(0);
}

/// Where session_replication_role may not be set, the agent says so once and goes on.
#[test]
fn without_replication_role_triggers_of_the_slave_fire() {
    role("p_plain", "");
    let trio = Setup::new("create table t (id int primary key, v text)").slaves(1).build();
    let slave = &trio.slaves[0];
    slave.run(&format!(
        "grant create on database \"{}\" to p_plain; grant select, insert, update, delete, truncate on t to p_plain;
         revoke set on parameter session_replication_role from p_plain",
        slave.name
    ));
    let (master, slaves) =
        trio.config().split_once("[[slave]]").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a slave");
    trio.agent.configure(&format!("{master}[[slave]]{}", slaves.replace("user=postgres", "user=p_plain")));
    trio.master.run("insert into t values (1, 'x')");
    trio.once().expect_code(0).expect_text(&["session_replication_role", "GRANT SET ON PARAMETER"]);
    trio.master.run("insert into t values (2, 'y')");
    trio.once().expect_code(0);
    trio.assert_same();
}

#[test]
fn check_names_row_security_that_hides_rows() {
    role("p_hidden", "");
    let trio = Setup::new("create table t (id int primary key)").build();
    trio.master.run(
        "select pyreplica.allow_agent('p_hidden'); grant select on t to p_hidden;
         alter table t enable row level security; create policy some_rows on t using (id > 5)",
    );
    trio.agent.configure(&trio.config().replacen("user=postgres", "user=p_hidden", 1));
    trio.agent
        .run(&["check"])
        .expect_code(1)
        .expect_text(&["row security of table public.t is in force", "BYPASSRLS"]);
}

/// A slave's as well; what else is wrong there is named all the same.
#[test]
fn check_names_row_security_of_a_slave() {
    role("p_policed", "");
    let trio = Setup::new("create table t (id int primary key); create table u (id int primary key)")
        .slaves(1)
        .build();
    trio.slaves[0].run(&format!(
        "grant create on database \"{}\" to p_policed; grant select, insert, update, delete, truncate on t to p_policed;
         alter table t enable row level security; create policy all_rows on t using (true)",
        trio.slaves[0].name
    ));
    let (master, slave) =
        trio.config().split_once("[[slave]]").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a slave");
    trio.agent.configure(&format!("{master}[[slave]]{}", slave.replace("user=postgres", "user=p_policed")));
    trio.agent.run(&["check"]).expect_code(1).expect_text(&[
        "row security of table public.t is in force for role \"p_policed\"",
        "ALTER ROLE \"p_policed\" BYPASSRLS",
        "lacks rights on table public.u",
    ]);
}

/// TRUNCATE ... RESTART IDENTITY is for the owner of the sequences; the agent's role sets them.
#[test]
fn restart_identity_needs_no_owner() {
    role("p_truncate", "");
    let trio =
        Setup::new("create table t (id serial primary key, n int generated always as identity (start 5))")
            .slaves(1)
            .build();
    let slave = &trio.slaves[0];
    slave.run(&format!(
        "grant create on database \"{}\" to p_truncate; grant select, insert, update, delete, truncate on t to p_truncate;
         grant set on parameter session_replication_role to p_truncate",
        slave.name
    ));
    let (master, slaves) =
        trio.config().split_once("[[slave]]").map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a slave");
    trio.agent.configure(&format!("{master}[[slave]]{}", slaves.replace("user=postgres", "user=p_truncate")));
    trio.once().expect_code(0);
    slave.run("select setval('t_id_seq', 77), setval('t_n_seq', 78)");
    trio.master
        .run("insert into t default values; truncate t restart identity; insert into t default values");
    trio.once()
        .expect_code(1)
        .expect_text(&["GRANT UPDATE ON SEQUENCE public.t_id_seq, public.t_n_seq TO p_truncate"]);
    slave.run("grant update on sequence t_id_seq, t_n_seq to p_truncate");
    trio.once().expect_code(0);
    trio.assert_same();
    assert_eq!(slave.value("select last_value, is_called from t_id_seq"), "1|f");
    assert_eq!(slave.value("select last_value, is_called from t_n_seq"), "5|f");
}

/// add_table works as the extension's owner, but nothing of the filter does.
#[test]
fn a_row_filter_is_evaluated_by_the_writer_only() {
    role("p_filter_owner", "");
    role("p_filter_writer", "");
    let trio = Setup::new("create table seen (id int primary key)").build();
    trio.master.run(
        "create schema own authorization p_filter_owner; grant usage on schema own to p_filter_writer;
         set role p_filter_owner;
         create table own.t (id int primary key); create table own.asked (role text);
         create function own.ask(int) returns boolean language plpgsql
             as 'begin insert into own.asked values (current_user); return true; end';
         grant insert on own.t, own.asked to p_filter_writer;
         set search_path = own;
         select pyreplica.add_table('t', row_filter => 'ask(id) and ask(1)');
         alter table t rename id to no",
    );
    trio.master.run("set role p_filter_writer; insert into own.t values (1)");
    assert_eq!(trio.master.rows("select distinct role from own.asked"), ["p_filter_writer"]);
    assert_eq!(trio.master.value("select count(*) from pyreplica.replica_log"), "1");
}

#[test]
fn too_few_connections_have_a_cure() {
    role("p_full", "connection limit 0");
    let trio = Setup::new("create table t (id int primary key)").slaves(1).build();
    trio.agent.configure(&trio.config().replacen("user=postgres", "user=p_full", 1));
    trio.agent.run(&["check"]).expect_code(1).expect_text(&[
        "too many connections for role \"p_full\"",
        "ALTER ROLE \"p_full\" CONNECTION LIMIT",
        "max_connections",
    ]);
}

/// As many as docs/operations.md says.
#[test]
fn an_agent_takes_two_sessions_of_the_master_for_each_slave_and_one_more() {
    for (atomic, expected) in [(false, "5"), (true, "3")] {
        let mut setup = Setup::new("create table t (id int primary key)");
        setup.atomic = atomic;
        let trio = setup.start();
        let taken = "select count(*) from pg_stat_activity
                      where datname = current_database() and application_name like 'replica_agent%'";
        wait_for("all sessions", || (trio.master.value(taken) == expected).then_some(()));
        assert_eq!(trio.slaves[0].value(taken), "1");
    }
}

/// pg_dump locks each of them, which reading through the table above them does not need.
#[test]
fn check_names_partitions_that_cannot_be_dumped() {
    role("p_dumps", "");
    let trio = Setup::new(
        "create schema \"Far\";
         create table t (id int primary key) partition by range (id);
         create table t1 partition of t for values from (1) to (10);
         create table t2 partition of t for values from (10) to (20) partition by range (id);
         create table \"Far\".\"T3\" partition of t2 default",
    )
    .slave_schema("")
    .slaves(1)
    .schema()
    .build();
    trio.master.run("select pyreplica.allow_agent('p_dumps'); grant select on t, t1 to p_dumps");
    trio.agent.configure(&trio.config().replacen("user=postgres", "user=p_dumps", 1));
    let grant = "GRANT USAGE ON SCHEMA \"Far\", \"public\" TO \"p_dumps\"; GRANT SELECT ON \"Far\".\"T3\", \"public\".\"t2\" TO \"p_dumps\"";
    trio.agent.run(&["check"]).expect_code(1).expect_text(&["public.t: Far.T3, public.t2", grant]);
    trio.master.run(grant);
    trio.agent.run(&["check"]).expect_code(0);
    trio.once().expect_code(0);
    trio.assert_same();
}
