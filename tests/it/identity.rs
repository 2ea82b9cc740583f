//! Which database is which: a master is not its own slave, by whatever name, and a physical copy is another node only
//! when it has been told so.

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
