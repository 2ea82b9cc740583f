//! synchronous_commit = off on the master: a slave never has what a crash of the master can still lose.

use pyreplica_tests::trio::Setup;

#[test]
fn a_slave_never_has_what_the_master_lost() {
    let mut trio = Setup::new("create table t (id serial primary key, v text)")
        .master_setting("synchronous_commit", "off")
        .master_setting("wal_writer_delay", "10s")
        .agent_line("batch_rows = 3")
        .start();
    for round in 0..4 {
        // GIVEN commits that the server has told the client but not flushed
        let mut session = trio.master.session();
        for i in 0..50 {
            session.run(&format!("insert into t (v) values ('{round} {i}')"));
        }
        drop(session);
        // WHEN the master crashes at once
        trio.master.server.crash();
        trio.master.server.boot();
        // THEN slaves have nothing that the master has not
        trio.catch_up_and_compare();
    }
}
