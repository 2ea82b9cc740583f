//! Partitioned tables and inheritance.

use pyreplica_tests::cluster::run;
use pyreplica_tests::db::Db;
use pyreplica_tests::trio::{Setup, Trio};

use crate::filters::restored;

const PARTITIONED: &str = "create table p (id int, day date, v text, primary key (id, day)) partition by range (day);
    create table p_2020 partition of p for values from ('2020-01-01') to ('2021-01-01');
    create table p_2021 partition of p for values from ('2021-01-01') to ('2022-01-01') partition by list (id);
    create table p_2021_1 partition of p_2021 for values in (1); create table p_2021_x partition of p_2021 default";

const WORK: &str =
    "insert into p values (1, '2020-05-05', 'a'), (2, '2021-05-05', 'b'), (1, '2021-01-01', 'c');
    insert into p_2020 values (9, '2020-09-09', 'direct');
    update p set day = day + 366, v = v || '!' where id = 1 and v = 'a'; update p set v = 'd' where id = 2;
    delete from p where v = 'c'";

#[test]
fn partitions_are_captured_under_their_root() {
    let mut trio = Trio::start(PARTITIONED);
    trio.master.run(WORK);
    trio.catch_up_and_compare();
    assert_eq!(trio.master.value("select relation from pyreplica.replicated_table"), "p");
    assert_eq!(trio.conflicts(0), [""; 0]);
}

#[test]
fn a_slave_may_be_partitioned_in_another_way_or_not_at_all() {
    let plain = "create table p (id int, day date, v text, primary key (id, day))";
    for initial in [true, false] {
        let mut trio = Setup::new(PARTITIONED).slave_schema(plain).build();
        if initial {
            trio.master.run(WORK);
        }
        trio.agent.start();
        trio.catch_up();
        if !initial {
            trio.master.run(WORK);
        }
        trio.catch_up_and_compare();
    }
}

#[test]
fn partitions_made_later_are_captured_too() {
    let mut trio = Trio::start(PARTITIONED);
    let more = "create table p_2022 partition of p for values from ('2022-01-01') to ('2023-01-01')";
    trio.slaves.iter().for_each(|slave| slave.run(more));
    trio.master.run(&format!("{more}; insert into p values (1, '2022-02-02', 'new')"));
    trio.catch_up(); // before the slaves lose the partition
    trio.master.run("alter table p detach partition p_2022");
    trio.slaves.iter().for_each(|slave| slave.run("alter table p detach partition p_2022"));
    trio.master.run("insert into p values (1, '2020-02-02', 'old')");
    trio.catch_up_and_compare();
}

#[test]
fn truncate_of_a_partitioned_table_empties_it() {
    let mut trio = Trio::start(PARTITIONED);
    trio.master.run(WORK);
    trio.master.run("truncate p; insert into p values (5, '2020-01-05', 'after')");
    trio.catch_up_and_compare();
}

#[test]
fn truncate_of_one_partition_leaves_the_others() {
    let mut trio = Trio::start(PARTITIONED);
    trio.master.run(WORK);
    trio.master.run("truncate p_2020; insert into p values (5, '2020-01-05', 'after')");
    trio.catch_up_and_compare();
    assert_ne!(trio.slaves[0].value("select count(*) from p_2021"), "0");
}

#[test]
fn who_attaches_a_filled_partition_is_warned() {
    let mut trio = Setup::new(PARTITIONED).slaves(1).start();
    let sql = "select pyreplica.replicate_ddl('create table public.p_2022 (id int, day date, v text, primary key (id, day))');
               insert into p_2022 values (1, '2022-02-02', 'before');
               select pyreplica.replicate_ddl('alter table public.p attach partition public.p_2022 for values from (''2022-01-01'') to (''2023-01-01'')')";
    let mut psql = trio.master.server.client_program("psql", &trio.master.name);
    let output = psql.args(["-qXc", sql]).output().expect("psql runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("WARNING:  the rows that table public.p_2022 holds already do not reach the slaves"),
        "{told}"
    );
    trio.catch_up();
    trio.agent.run(&["copy", "--slave", "slave1", "--table", "public.p"]).expect_code(0);
    trio.catch_up_and_compare();
}

/// Several jobs at the same time: the trigger for TRUNCATE of a partition may be there before all others.
#[test]
fn a_dump_with_partitions_is_restored_by_jobs() {
    let trio = Setup::new(PARTITIONED).slaves(1).build();
    let Db { server, name, .. } = &trio.master;
    let copy = server.create_db(&format!("{name}_jobs"), "");
    let dump = server.data().with_file_name(&copy.name);
    run(server.client_program("pg_dump", name).args(["-Fd", "-f"]).arg(&dump));
    run(server
        .client_program("pg_restore", name)
        .args(["--exit-on-error", "-j2", "-d", &copy.name])
        .arg(&dump));
    let triggers = "select tgrelid::regclass, tgname from pg_trigger order by 1, 2";
    assert_eq!(copy.rows(triggers), trio.master.rows(triggers));
}

#[test]
fn a_detached_partition_leaves_its_triggers_behind_and_so_do_its_own() {
    let trio = Setup::new(
        "create table p (id int, day date, primary key (id, day)) partition by range (day);
         create table p_2020 partition of p for values from ('2020-01-01') to ('2021-01-01') partition by range (id);
         create table p_2020_0 partition of p_2020 for values from (0) to (100)",
    )
    .slaves(1)
    .build();
    trio.master.run("alter table p detach partition p_2020");
    let left = "select tgname, tgrelid::regclass from pg_trigger where tgrelid::regclass::text ~ '^p_2020'";
    assert_eq!(trio.master.rows(left), Vec::<String>::new());
}

#[test]
fn a_dump_with_partitions_is_restored_without_errors() {
    let trio = Setup::new(PARTITIONED).build();
    let restored = restored(&trio.master);
    let triggers = "select tgrelid::regclass, tgname from pg_trigger order by 1, 2";
    assert_eq!(restored.rows(triggers), trio.master.rows(triggers));
    restored.run("create table p_later partition of p for values from ('2030-01-01') to ('2031-01-01')");
    assert_eq!(restored.value("select count(*) from pg_trigger where tgrelid = 'p_later'::regclass and tgname like '!pyreplica%'"), "2");
}

#[test]
fn inheritance_children_are_tables_of_their_own() {
    let mut trio = Trio::start(
        "create table base (id int primary key, v text); create table derived (w text, primary key (id)) inherits (base)",
    );
    trio.master.run("insert into base values (1, 'base'), (2, 'base'); insert into derived values (1, 'derived', 'w'), (3, 'derived', 'w')");
    trio.master.run("update base set v = v || '!' where id = 1; delete from only base where id = 2; delete from base where id = 3");
    trio.catch_up_and_compare();
    assert_eq!(trio.slaves[0].value("select count(*) from only base"), "1");
    assert_eq!(trio.conflicts(0), [""; 0]);
}
