//! The process: several replications in one, SIGHUP, systemd, logs.

use std::time::Duration;

use pyreplica_tests::agent::{run_bare, Agent};
use pyreplica_tests::cluster::send_signal;
use pyreplica_tests::db::Db;
use pyreplica_tests::service::Manager;
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;

const TABLE: &str = "create table t (id int primary key, v text)";

fn insert(trio: &Trio, id: u32) {
    trio.master.run(&format!("insert into t values ({id}, 'x')"));
}

/// Whether a row has arrived at a slave that some other trio's agent serves.
fn wait_for_row(trio: &Trio, slave: usize, id: u32) {
    let count = format!("select count(*) from t where id = {id}");
    let there = "select to_regclass('t') is not null";
    wait_for(&format!("row {id} at slave{}", slave + 1), || {
        (trio.slaves[slave].value(there) == "t" && trio.slaves[slave].value(&count) == "1").then_some(())
    });
}

/// The server process of the agent's session on a slave: another one tells that the slave was started anew.
fn backend(trio: &Trio, slave: usize) -> String {
    let sql = format!(
        "select pid from pg_stat_activity where datname = current_database() \
         and application_name = 'replica_agent slave{}'",
        slave + 1
    );
    wait_for("a session of the agent", || Some(trio.slaves[slave].value(&sql)).filter(|pid| !pid.is_empty()))
}

/// An agent.toml without one of the slaves, which stand in blocks of their own.
fn without_slave(config: &str, slave: usize) -> String {
    let blocks: Vec<&str> = config.split("\n[[slave]]").collect();
    let kept = blocks.iter().enumerate().filter(|(i, _)| *i != slave + 1).map(|(_, block)| *block);
    kept.collect::<Vec<_>>().join("\n[[slave]]")
}

#[test]
fn each_file_of_a_directory_is_a_replication() {
    let (one, two) = (Setup::new(TABLE).build(), Setup::new(TABLE).slaves(1).atomic().build());
    let mut agent = Agent::of_directory(&[("one.toml", &one.config()), ("two.toml", &two.config())]);
    agent.run(&["check"]).expect_code(0).expect_text(&["one.toml", "two.toml", "slave2"]);
    insert(&one, 1);
    agent.run(&["once"]).expect_code(0);
    assert_eq!(one.slaves[1].value("select count(*) from t"), "1");

    agent.start();
    insert(&one, 2);
    insert(&two, 3);
    wait_for_row(&one, 0, 2);
    wait_for_row(&one, 1, 2);
    wait_for_row(&two, 0, 3);
    agent.run(&["status"]).expect_code(0).expect_text(&[&one.agent_name, &two.agent_name, "streaming"]);
    let status = agent.run(&["status", "--json"]).expect_code(0);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status[0]["agent"], one.agent_name.as_str());
    assert_eq!(status[1]["slaves"][0]["name"], "slave1");
    agent.run(&["verify"]).expect_code(0);
    one.slaves[1].run("delete from t");
    agent.run(&["verify", "--slave", "slave2"]).expect_code(1).expect_text(&["public.t"]);
    agent.run(&["verify", "--slave", "slave9"]).expect_code(2).expect_text(&["slave9"]);
    agent.run(&["copy"]).expect_code(2).expect_text(&["one replication at a time"]);
    assert!(agent.stop().success());
}

#[test]
fn copy_and_skip_find_the_replication_of_a_directory() {
    let (one, two) = (Setup::new(TABLE).build(), Setup::new(TABLE).slaves(1).build());
    let other = two.config().replace("\"slave1\"", "\"other\"");
    let agent = Agent::of_directory(&[("one.toml", &one.config()), ("two.toml", &other)]);
    agent.run(&["once"]).expect_code(0);
    two.slaves[0].run("insert into t values (7, 'own')");
    agent.run(&["copy"]).expect_code(2).expect_text(&["works on one replication at a time", "--slave"]);
    agent.run(&["copy", "--slave", "nobody"]).expect_code(2).expect_text(&["there is no slave \"nobody\""]);
    agent.run(&["copy", "--slave", "other"]).expect_code(0);
    assert_eq!(two.slaves[0].value("select count(*) from t"), "0");
    agent.run(&["skip", "--slave", "other"]).expect_code(1).expect_text(&["has applied all there is"]);
    agent.write("two.toml", &two.config());
    agent
        .run(&["skip", "--slave", "slave1"])
        .expect_code(2)
        .expect_text(&["one.toml", "two.toml", "several"]);
}

#[test]
fn a_broken_file_stops_only_its_own_replication() {
    let trio = Setup::new(TABLE).build();
    let broken = trio.config().replace("commit =", "comit =");
    let mut agent = Agent::of_directory(&[("bad.toml", &broken), ("good.toml", &trio.config())]);
    for command in ["check", "once"] {
        agent.run(&[command]).expect_code(2).expect_text(&["bad.toml", "comit"]);
    }
    let status = agent.run(&["status", "--json"]).expect_code(2);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert!(status[0]["error"].as_str().unwrap().contains("comit"), "{status}");
    agent.start();
    insert(&trio, 1);
    wait_for_row(&trio, 0, 1);
    agent.wait_for_log("bad.toml");
    assert!(agent.stop().success());
}

#[test]
fn two_files_of_one_agent_are_refused() {
    let trio = Setup::new(TABLE).build();
    let agent = Agent::of_directory(&[("a.toml", &trio.config()), ("b.toml", &trio.config())]);
    for command in ["run", "once", "check"] {
        agent.run(&[command]).expect_code(2).expect_text(&["same agent name", "a.toml", "b.toml"]);
    }
}

#[test]
fn an_empty_directory_is_told() {
    Agent::of_directory(&[]).run(&["run"]).expect_code(2).expect_text(&["has no file *.toml"]);
}

#[test]
fn sighup_starts_new_slaves_stops_removed_ones_and_leaves_the_others_alone() {
    let mut trio = Setup::new(TABLE).slaves(3).build();
    let all = trio.config();
    trio.agent.configure(&without_slave(&all, 2));
    trio.agent.start();
    insert(&trio, 1);
    wait_for_row(&trio, 0, 1);
    wait_for_row(&trio, 1, 1);
    let undisturbed = backend(&trio, 0);

    // WHEN the second is removed and the third comes
    trio.agent.configure(&without_slave(&all, 1));
    trio.agent.reload();
    trio.agent.wait_for_log("slave \"slave2\": stopped");
    insert(&trio, 2);
    wait_for_row(&trio, 0, 2);
    wait_for_row(&trio, 2, 1);
    wait_for_row(&trio, 2, 2);
    assert_eq!(trio.slaves[1].value("select count(*) from t"), "1");
    assert_eq!(trio.master.value("select state from pyreplica.slave where name = 'slave2'"), "stopped");

    // THEN the first has not noticed, also not when a setting of another one changes, which starts anew
    let restarted = backend(&trio, 2);
    let changed = all.replacen("name = \"slave3\"", "name = \"slave3\"\napply = \"exact\"", 1);
    trio.agent.configure(&without_slave(&changed, 1));
    trio.agent.reload();
    wait_for("slave3 to be started anew", || (backend(&trio, 2) != restarted).then_some(()));
    insert(&trio, 3);
    wait_for_row(&trio, 2, 3);
    assert_eq!(backend(&trio, 0), undisturbed);

    // AND a removed one that comes back goes on
    trio.agent.configure(&all);
    trio.agent.reload();
    trio.catch_up_and_compare();
    assert_eq!(backend(&trio, 0), undisturbed);
    assert!(trio.agent.stop().success());
}

#[test]
fn a_broken_new_configuration_is_refused() {
    let mut trio = Trio::start(TABLE);
    let undisturbed = backend(&trio, 0);
    let good = trio.config();
    for (broken, told) in [
        (good.replace("commit =", "comit ="), "unknown key \"comit\""),
        (good.replace("[agent]", "[agent"), "line 4"),
        (good.replace("slave2", "slave1"), "two slaves have the name"),
    ] {
        trio.agent.configure(&broken);
        trio.agent.reload();
        trio.agent.wait_for_log(told);
    }
    assert!(trio.agent.log().contains("stays as it was"));
    insert(&trio, 1);
    trio.catch_up_and_compare();
    assert_eq!(backend(&trio, 0), undisturbed);
}

#[test]
fn a_group_starts_anew_as_a_group() {
    let mut trio = Setup::new(TABLE).atomic().start();
    let before = [backend(&trio, 0), backend(&trio, 1)];
    trio.agent.configure(&trio.config().replacen(
        "name = \"slave2\"",
        "name = \"slave2\"\napply = \"exact\"",
        1,
    ));
    trio.agent.reload();
    wait_for("both to be started anew", || {
        (backend(&trio, 0) != before[0] && backend(&trio, 1) != before[1]).then_some(())
    });
    insert(&trio, 1);
    trio.catch_up_and_compare();
    // A setting of the agent itself, and another kind of commit.
    trio.agent.configure(&trio.config().replace("\"atomic\"", "\"independent\""));
    trio.agent.reload();
    insert(&trio, 2);
    trio.catch_up_and_compare();
    assert!(trio.agent.stop().success());
    trio.assert_nothing_prepared();
}

#[test]
fn sighup_finds_new_and_removed_files() {
    let (one, two) = (Setup::new(TABLE).build(), Setup::new(TABLE).build());
    let mut agent = Agent::of_directory(&[("one.toml", &one.config())]);
    agent.start();
    insert(&one, 1);
    wait_for_row(&one, 0, 1);
    let undisturbed = backend(&one, 0);

    agent.write("two.toml", &two.config());
    agent.reload();
    insert(&two, 1);
    wait_for_row(&two, 0, 1);

    // A file that breaks leaves its replication as it was; so does one that takes the name of another's agent.
    agent.write("two.toml", "[master");
    agent.write("three.toml", &one.config());
    agent.reload();
    insert(&two, 2);
    wait_for_row(&two, 0, 2);

    agent.remove("two.toml");
    agent.remove("three.toml");
    agent.reload();
    agent.wait_for_log(&format!("agent \"{}\" ends", two.agent_name));
    insert(&one, 2);
    wait_for_row(&one, 0, 2);
    assert_eq!(backend(&one, 0), undisturbed);
    assert!(agent.stop().success());
}

/// New connections use the password that the file has now.
#[test]
fn a_new_password_is_used_without_a_restart() {
    let mut trio = Setup::new(TABLE).slaves(1).build();
    let role = format!("p_{}", trio.agent_name);
    let slave = &trio.slaves[0];
    slave.run(&format!("create role {role} superuser login password 'first'"));
    let passfile = trio.agent.dir().join("pgpass");
    let write = |password: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(&passfile, format!("*:*:*:{role}:{password}\n")).unwrap();
        std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("first");
    let dsn = format!("host=127.0.0.1 port={} user={role} dbname={}", slave.server.port, slave.name);
    trio.agent
        .configure(&trio.config().replace(&slave.dsn(), &format!("{dsn} passfile={}", passfile.display())));
    trio.agent.start();
    trio.catch_up();
    trio.slaves[0].run(&format!("alter role {role} password 'second'"));
    write("second");
    trio.slaves[0]
        .run(&format!("select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"));
    insert(&trio, 1);
    trio.catch_up_and_compare();
}

#[test]
fn systemd_hears_what_the_agent_does() {
    let manager = Manager::new();
    let mut trio = Setup::new(TABLE).build();
    trio.agent.start_with(&[manager.environment(), ("WATCHDOG_USEC", "2000000")]);
    manager.wait_for("READY=1");
    manager.wait_for(&format!("STATUS={}: 2 streaming", trio.agent_name));
    manager.wait_for("WATCHDOG=1");
    let alive = manager.count("WATCHDOG=1");
    wait_for("more signs of life", || (manager.count("WATCHDOG=1") > alive + 2).then_some(()));
    trio.agent.reload();
    manager.wait_for("RELOADING=1");
    manager.wait_for("MONOTONIC_USEC=");
    wait_for("READY after RELOADING", || (manager.count("READY=1") == 2).then_some(()));
    assert!(trio.agent.stop().success());
    manager.wait_for("STOPPING=1");
}

#[test]
fn the_watchdog_is_not_fed_when_a_thread_hangs() {
    let manager = Manager::new();
    let mut trio = Setup::new(TABLE).build();
    let hangs = ("PYREPLICA_FAILPOINT", "feed.next:1");
    trio.agent.start_with(&[manager.environment(), ("WATCHDOG_USEC", "2000000"), hangs]);
    manager.wait_for("READY=1");
    trio.agent.wait_for_log("hangs: the service manager is to restart the agent");
    assert!(manager.is_silent("WATCHDOG=1", Duration::from_secs(4)));
    trio.agent.kill();
}

#[test]
fn logs_are_plain_or_json_and_as_loud_as_each_slave_wants() {
    let mut trio = Setup::new(TABLE).agent_line("log = \"warning\"\nlog_format = \"json\"").build();
    trio.agent.configure(&trio.config().replacen(
        "name = \"slave2\"",
        "name = \"slave2\"\nlog = \"debug\"",
        1,
    ));
    trio.agent.start();
    insert(&trio, 1);
    trio.catch_up();
    trio.slaves[0].run("delete from t");
    trio.master.run("delete from t");
    trio.catch_up();
    trio.agent.stop();
    let lines: Vec<serde_json::Value> = trio
        .agent
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let of = |slave: &str, level: &str| {
        lines.iter().filter(|line| line["slave"] == slave && line["level"] == level).collect::<Vec<_>>()
    };
    assert!(of("slave1", "info").is_empty() && of("slave1", "debug").is_empty(), "{lines:#?}");
    assert!(!of("slave2", "info").is_empty() && !of("slave2", "debug").is_empty(), "{lines:#?}");
    let warnings = of("slave1", "warning");
    assert_eq!(warnings.len(), 1, "{lines:#?}");
    assert!(warnings[0]["message"].as_str().unwrap().contains("delete_missing"), "{}", warnings[0]);
    assert!(warnings[0]["hint"].as_str().unwrap().contains("replica_agent verify"), "{}", warnings[0]);
    assert_eq!(warnings[0]["agent"], trio.agent_name.as_str());

    // The command line wins, and an error that ends the process is JSON too.
    let plain = trio.agent.run(&["--log-format", "plain", "--quiet", "once"]).expect_code(0);
    assert!(!plain.stderr.contains('{') && !plain.stderr.contains("DEBUG"), "{}", plain.stderr);
    let json = run_bare(&["--log-format", "json", "--config", "/nowhere.toml"]).expect_code(2);
    let error: serde_json::Value = serde_json::from_str(json.stderr.trim()).unwrap();
    assert!(error["message"].as_str().unwrap().contains("/nowhere.toml"), "{error}");
}

#[test]
fn the_level_changes_without_a_restart() {
    let mut trio = Trio::start(TABLE);
    let undisturbed = backend(&trio, 0);
    assert!(!trio.agent.log().contains("DEBUG"));
    trio.agent.configure(&trio.config().replace("[agent]\n", "[agent]\nlog = \"debug\"\n"));
    trio.agent.reload();
    insert(&trio, 1);
    trio.catch_up();
    trio.agent.wait_for_log("DEBUG");
    assert_eq!(backend(&trio, 0), undisturbed);
}

#[test]
fn the_manual_page_has_every_command() {
    let page = run_bare(&["man"]).expect_code(0).stdout;
    for part in
        [".TH replica_agent 8", ".SS check", ".SS verify", "\\-\\-mail", "Exit status", "SIGHUP", "FILES"]
    {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
}

/// A server whose processes stand still: connections are accepted, and nobody answers.
struct Hanging(Vec<u32>);

impl Hanging {
    fn server_of(slave: &Db) -> Self {
        let sessions = slave.rows("select pid from pg_stat_activity where pid <> pg_backend_pid()");
        let sessions = sessions.iter().map(|pid| pid.parse().expect("a pid"));
        let all: Vec<u32> = std::iter::once(slave.server.pid()).chain(sessions).collect();
        all.iter().for_each(|&pid| send_signal(pid, "STOP"));
        Hanging(all)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.iter().for_each(|&pid| send_signal(pid, "CONT"));
    }
}

#[test]
fn a_slave_that_does_not_answer_keeps_no_other_and_no_order_waiting() {
    // GIVEN two slaves on servers of their own, of which one does not answer any more, not even whether it has TLS
    let mut trio = Setup::new(TABLE).own_servers().build();
    let slave = &trio.slaves[0];
    slave.run("alter role postgres password 'secret'");
    let over_tcp = format!(
        "host=127.0.0.1 port={} user=postgres password=secret dbname={} sslmode=prefer",
        slave.server.port, slave.name
    );
    trio.agent.configure(&trio.config().replace(&slave.dsn(), &over_tcp));
    trio.agent.start();
    trio.catch_up();
    let hanging = Hanging::server_of(&trio.slaves[0]);
    insert(&trio, 1);
    wait_for_row(&trio, 1, 1);
    // WHEN it is taken out of the configuration THEN the agent gives it up, and the other one is served
    let config = trio.config().replace(&trio.slaves[0].dsn(), &over_tcp);
    let (first, second) =
        (config.find("[[slave]]").expect("a slave"), config.rfind("[[slave]]").expect("two"));
    trio.agent.configure(&(config[..first].to_owned() + &config[second..]));
    trio.agent.reload();
    trio.agent.wait_for_log("slave \"slave1\" did not end in time");
    insert(&trio, 2);
    wait_for_row(&trio, 1, 2);
    // WHEN the agent is told to stop while it waits for such a one THEN it stops
    trio.agent.configure(&config);
    trio.agent.reload();
    assert_eq!(trio.agent.stop().code(), Some(0));
    drop(hanging);
}
