//! Which database is which: a master is not its own slave, by whatever name, and a physical copy is another node only
//! when it has been told so.

use pyreplica_tests::agent::Agent;
use pyreplica_tests::cluster::Cluster;
use pyreplica_tests::nodes::Nodes;
use pyreplica_tests::trio::Setup;

const TABLE: &str = "create table t (id int primary key)";

#[test]
fn a_slave_that_is_its_master_by_another_name_is_refused() {
    let trio = Setup::new(TABLE).slaves(1).build();
    let master = trio.master.dsn().replace("host=/", "host=//");
    trio.agent.configure(&trio.config().replace(&trio.slaves[0].dsn(), &master));
    for command in ["check", "once"] {
        trio.agent.run(&[command]).expect_code(1).expect_text(&["slave \"slave1\" is the master itself"]);
    }
}

/// What both brought would be applied twice, an UPDATE over later ones.
#[test]
fn two_agents_do_not_bring_the_same_table() {
    let trio = Setup::new("create table t (id int primary key); create table u (id int primary key)")
        .slaves(1)
        .initial("current")
        .build();
    trio.once().expect_code(0);
    let config = trio.config();
    let of_other = config.replace("[agent]\nname = \"", "[agent]\nname = \"other");
    let other = Agent::new(&of_other);
    let told = "gets table public.t from this master by agent";
    for command in ["check", "once"] {
        other.run(&[command]).expect_code(1).expect_text(&[told, "DELETE FROM pyreplica_agent.position"]);
    }
    // They may share the work, and one may take the place of the other.
    trio.agent.configure(&format!("{config}tables = [\"*.t\"]\n"));
    trio.once().expect_code(0);
    other.configure(&format!("{of_other}tables = [\"*.u\"]\n"));
    other.run(&["check"]).expect_code(0);
    other.run(&["once"]).expect_code(0);
    other.configure(&of_other);
    other.run(&["once"]).expect_code(1).expect_text(&[told]);
    trio.slaves[0].run("delete from pyreplica_agent.position where agent not like 'other%'");
    other.run(&["once"]).expect_code(0);
}

/// It has the system identifier of the other one, and its node's id.
#[test]
fn a_promoted_standby_has_to_become_another_node() {
    let a = Cluster::start("a", &[]).create_db("shop", "");
    a.run(&format!("create extension pyreplica; {TABLE}; select pyreplica.add_all_tables('public')"));
    let b = a.server.standby().db("shop");
    b.run("select pg_promote()");
    let mut nodes = Nodes::of(vec![('a', a), ('b', b)], "a<>b");
    for command in ["check", "once"] {
        let refused = nodes.arrow('a', 'b').agent.run(&[command]);
        refused.expect_code(1).expect_text(&["same node", "pyreplica.renew_node"]);
    }
    nodes.db('b').run("select pyreplica.renew_node()");
    nodes.settle();
    nodes.db('a').run("insert into t values (1)");
    nodes.db('b').run("insert into t values (2)");
    nodes.settle();
    assert_eq!(nodes.assert_same("t"), 2);
}
