//! Mail and programs tell what happens, and replication waits for neither. The mail server is a real one.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use pyreplica_tests::cluster::free_port;
use pyreplica_tests::doc::example;
use pyreplica_tests::smtp::{Encryption, MailServer, PASSWORD, USER};
use pyreplica_tests::trio::{Setup, Trio};
use pyreplica_tests::wait::wait_for;
use serde_json::Value;

const TABLE: &str = "create table t (id int primary key, v text)";

/// Section [mail] for a server that encrypts nothing, or for one that does.
fn section(port: u16, more: &str) -> String {
    format!(
        "\n[mail]\nserver = \"127.0.0.1\"\nport = {port}\nfrom = \"replica@example.com\"\n\
         to = [\"dba@example.com\", \"Ops <ops@example.com>\"]\n{more}\n"
    )
}

fn plain(server: &MailServer) -> String {
    section(server.port, "tls = \"none\"")
}

fn with_mail(setup: Setup, section: &str) -> Trio {
    let trio = setup.build();
    trio.agent.configure(&(trio.config() + section));
    trio
}

fn started(mut trio: Trio) -> Trio {
    trio.agent.start();
    trio.catch_up();
    trio
}

/// One conflict: a row that the slave lacks.
fn conflict(trio: &mut Trio) {
    trio.master.run("insert into t values (1, 'a')");
    trio.catch_up();
    trio.slaves[0].run("delete from t where id = 1");
    trio.master.run("delete from t where id = 1");
    trio.catch_up();
}

#[test]
fn start_warning_error_recovery_and_stop_are_mailed() {
    // GIVEN a server that wants a login and has a certificate of its own, and a password in a file
    let server = MailServer::start(Encryption::StartTls);
    let mut trio = Setup::new(TABLE).slaves(1).build();
    let password_file = trio.agent.dir().join("smtp.password");
    std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
    trio.agent.configure(
        &(trio.config()
            + &section(
                server.port,
                &format!(
                    "user = \"{USER}\"\npassword_file = {password_file:?}\nca_file = {:?}\n\
                     subject_error = \"help! {{agent}}/{{slave}}: {{message}}\"",
                    server.ca_file
                ),
            )),
    );
    trio.agent.start();
    trio.catch_up();

    // WHEN it starts, meets a conflict, stands still, goes on and stops
    let start = server.wait_for("started");
    conflict(&mut trio);
    let warning = server.wait_for("warning");
    trio.slaves[0].run("insert into t values (5, 'mine')");
    trio.master.run("insert into t values (5, 'five')");
    let error = server.wait_for("help!");
    trio.slaves[0].run("delete from t where id = 5");
    let recovery = server.wait_for("recovery");
    assert!(trio.agent.stop().success());
    let stop = server.wait_for("stopped");

    // THEN there is one mail of each, to everybody, that says where and what
    assert_eq!(server.mails().len(), 5, "{:#?}", server.mails());
    let agent = &trio.agent_name;
    assert_eq!(start.subject(), format!("PyReplica {agent}: started"));
    assert_eq!((start.from.as_str(), start.user.as_deref()), ("replica@example.com", Some(USER)));
    assert_eq!(start.to, ["dba@example.com", "ops@example.com"]);
    assert_eq!(start.header("Auto-Submitted").as_deref(), Some("auto-generated"));
    assert_eq!(warning.subject(), format!("PyReplica {agent}: warning, conflicts on slave1: 1"));
    assert!(
        warning.body().contains("delete_missing: DELETE of public.t, key (id)=(1)"),
        "{}",
        warning.body()
    );
    assert!(
        error.subject().starts_with(&format!("help! {agent}/slave1: could not apply change")),
        "{error:?}"
    );
    assert!(error.body().contains("public.t") && error.body().contains("23505"), "{}", error.body());
    assert_eq!(recovery.subject(), format!("PyReplica {agent}: recovery, slave1 goes on"));
    assert_eq!(stop.subject(), format!("PyReplica {agent}: stopped"));
    assert!(!trio.agent.log().contains(PASSWORD));
}

#[test]
fn a_thousand_conflicts_make_one_mail() {
    let server = MailServer::start(Encryption::None);
    let mut trio = started(with_mail(Setup::new(TABLE).slaves(1), &plain(&server)));
    trio.master.run("insert into t select i, 'a' from generate_series(1, 1000) i");
    trio.catch_up();
    trio.slaves[0].run("truncate t");
    trio.master.run("update t set v = 'b' where id <= 500; update t set v = 'c' where id > 500");
    trio.catch_up();
    assert_eq!(trio.slaves[0].value("select count(*) from pyreplica_agent.conflict"), "1000");
    server.wait_for("warning");
    // What it still had to say it says now.
    trio.agent.stop();
    let warnings = server.about("warning");
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].subject().ends_with("conflicts on slave1: 1000"), "{}", warnings[0].subject());
    assert!(warnings[0].body().contains("and 980 more"), "{}", warnings[0].body());
}

#[test]
fn an_outage_makes_a_mail_at_its_beginning_and_one_at_its_end() {
    let server = MailServer::start(Encryption::None);
    let mut trio = started(with_mail(Setup::new(TABLE).slaves(1).own_servers(), &plain(&server)));
    trio.slaves[0].server.stop();
    let error = server.wait_for("error");
    assert!(error.body().contains("slave1"), "{}", error.body());
    let updated = "select updated_at from pyreplica.slave_status";
    for _ in 0..3 {
        let seen = trio.master.value(updated);
        wait_for("another attempt", || (trio.master.value(updated) != seen).then_some(()));
    }
    trio.slaves[0].server.boot();
    server.wait_for("recovery");
    trio.master.run("insert into t values (1, 'a')");
    trio.catch_up_and_compare();
    trio.agent.stop();
    let subjects: Vec<String> = server.mails().iter().map(|mail| mail.subject()).collect();
    assert_eq!(subjects.len(), 4, "started, error, recovery, stopped: {subjects:?}");
}

#[test]
fn sighup_changes_who_is_told_and_disturbs_no_slave() {
    let server = MailServer::start(Encryption::None);
    let mut trio = Trio::start(TABLE);
    let sessions = "select string_agg(pid::text, ' ' order by pid) from pg_stat_activity \
                    where datname = current_database() and application_name like 'replica_agent slave%'";
    let undisturbed = trio.slaves[0].value(sessions);
    trio.agent.configure(&(trio.config() + &plain(&server)));
    trio.agent.reload();
    conflict(&mut trio);
    assert_eq!(server.wait_for("warning").to, ["dba@example.com", "ops@example.com"]);
    assert_eq!(trio.slaves[0].value(sessions), undisturbed);
}

#[test]
fn an_outage_that_a_new_configuration_ends_is_mailed_too() {
    let server = MailServer::start(Encryption::None);
    let mut trio = with_mail(Setup::new(TABLE).slaves(1), &plain(&server));
    let right = trio.config() + &plain(&server);
    trio.agent.configure(&right.replace(&trio.slaves[0].name, "nowhere"));
    trio.agent.start();
    server.wait_for("error");
    trio.agent.configure(&right);
    trio.agent.reload();
    server.wait_for("recovery");
}

/// As when a colleague has left.
#[test]
fn a_recipient_who_is_refused_keeps_the_mail_from_nobody() {
    let server = MailServer::start(Encryption::None);
    let section = plain(&server).replace("dba@", "nobody@");
    let trio = started(with_mail(Setup::new(TABLE).slaves(1), &section));
    assert_eq!(server.wait_for("started").to, ["ops@example.com"]);
    trio.agent.wait_for_log("went to some only: nobody@example.com");
    trio.agent.run(&["check", "--mail"]).expect_code(1).expect_text(&["nobody@example.com", "550"]);
}

#[test]
fn a_mail_server_that_is_down_gets_the_mail_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut trio = started(with_mail(Setup::new(TABLE), &section(port, "tls = \"none\"")));
    trio.agent.wait_for_log("could not send mail");
    trio.agent.wait_for_log("It is tried again for 600 s");
    trio.master.run("insert into t values (1, 'a')");
    trio.catch_up_and_compare();
    let server = MailServer::start_on(TcpListener::bind(("127.0.0.1", port)).unwrap(), Encryption::None);
    server.wait_for("started");
    trio.agent.stop();
}

#[test]
fn a_mail_that_cannot_be_sent_is_given_up() {
    let mut trio = with_mail(Setup::new(TABLE), &section(free_port(), "tls = \"none\"\nretry_seconds = 0"));
    trio.agent.start();
    trio.agent.wait_for_log("Given up");
    trio.catch_up();
}

/// It takes connections and says nothing, with and without TLS from the first byte.
#[test]
fn a_mail_server_that_hangs_holds_up_nothing() {
    for tls in ["none", "tls"] {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let mut trio = started(with_mail(Setup::new(TABLE), &section(port, &format!("tls = \"{tls}\""))));
        conflict(&mut trio);
        trio.slaves[0].run("insert into t values (5, 'mine')");
        trio.master.run("insert into t values (5, 'five')");
        trio.wait_for_slave(1);
        trio.slaves[0].run("delete from t where id = 5");
        trio.catch_up_and_compare();
        assert!(trio.agent.stop().success());
        assert!(trio.agent.log().contains("gave up what mail had left to send"), "{}", trio.agent.log());
    }
}

#[test]
fn check_sends_a_test_mail_and_says_what_is_wrong() {
    let encrypted = MailServer::start(Encryption::StartTls);
    let tls = MailServer::start(Encryption::Tls);
    let trio = Setup::new(TABLE).slaves(1).build();
    let check = |section: &str| {
        trio.agent.configure(&(trio.config() + section));
        let finished = trio.agent.run(&["check", "--mail"]);
        assert!(!finished.text().contains(PASSWORD), "{}", finished.text());
        finished
    };
    let login = format!("user = \"{USER}\"\npassword = \"{PASSWORD}\"\nca_file = {:?}", encrypted.ca_file);
    let good = check(&section(encrypted.port, &login));
    good.expect_code(0).expect_text(&["took a test for dba@example.com, Ops <ops@example.com>"]);
    assert_eq!(encrypted.about("test").len(), 1);

    let wrong = login.replace(PASSWORD, "wrong");
    check(&section(encrypted.port, &wrong)).expect_code(1).expect_text(&["535", "Correct user and password"]);
    let unknown = login.replace("ca_file", "#");
    check(&section(encrypted.port, &unknown))
        .expect_code(1)
        .expect_text(&["certificate verify failed", "ca_file"]);
    let unverified = unknown + "\ntls_verify = false";
    check(&section(encrypted.port, &unverified)).expect_code(0).expect_text(&["WARNING", "tls_verify"]);

    let wrapped = format!("tls = \"tls\"\nca_file = {:?}", tls.ca_file);
    check(&section(tls.port, &wrapped)).expect_code(0);
    assert_eq!(tls.about("test").len(), 1);
    check(&section(tls.port, "tls = \"tls\"")).expect_code(1).expect_text(&["certificate verify failed"]);
    check(&section(encrypted.port, &wrapped))
        .expect_code(1)
        .expect_text(&["wrong version number", "starttls"]);

    let plain = MailServer::start(Encryption::None);
    check(&section(plain.port, "")).expect_code(1).expect_text(&["STARTTLS"]);
    check(&section(tls.port, "")).expect_code(1).expect_text(&["no answer within", "first byte"]);
    check(&section(free_port(), "")).expect_code(1).expect_text(&["refused", "Is the mail server running"]);
    check("").expect_code(1).expect_text(&["no section [mail]"]);
}

#[test]
fn bad_mail_settings_are_refused() {
    let trio = Setup::new(TABLE).slaves(1).build();
    for (wrong, told) in [
        ("tls = \"ssl\"", "starttls"),
        ("sever = \"x\"", "unknown key \"sever\" in [mail]"),
        ("subject_error = \"{slaves}\"", "unknown placeholder \"{slaves}\""),
        ("user = \"x\"", "password"),
        ("password = \"x\"\npassword_file = \"y\"", "both password and password_file"),
    ] {
        trio.agent.configure(&(trio.config() + &section(25, wrong)));
        trio.agent.run(&["check"]).expect_code(2).expect_text(&[told]);
    }
    let address = section(25, "").replace("dba@example.com", "dba");
    trio.agent.configure(&(trio.config() + &address));
    trio.agent.run(&["check"]).expect_code(2).expect_text(&["\"dba\"", "no mail address"]);
}

/// A program that appends what it is told to a file, and then does this.
fn program(trio: &Trio, then: &str) -> String {
    let path = trio.agent.dir().join("on-event");
    let script = format!("#!/bin/sh\ncat >> \"$1\"\n{then}\n");
    std::fs::write(&path, script).expect("a script can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .expect("it can be made executable");
    let events = trio.agent.dir().join("events");
    trio.config().replace("[agent]\n", &format!("[agent]\non_event = [{path:?}, {events:?}]\n"))
}

fn events(trio: &Trio) -> Vec<Value> {
    let text = std::fs::read_to_string(trio.agent.dir().join("events")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn a_program_gets_every_event_as_json() {
    let mut trio = Setup::new(TABLE).slaves(1).build();
    trio.agent.configure(&program(&trio, ""));
    trio.agent.start();
    trio.catch_up();
    conflict(&mut trio);
    trio.slaves[0].run("insert into t values (5, 'mine')");
    trio.master.run("insert into t values (5, 'five')");
    wait_for("the error", || events(&trio).iter().any(|event| event["event"] == "error").then_some(()));
    trio.slaves[0].run("delete from t where id = 5");
    trio.catch_up();
    assert!(trio.agent.stop().success());

    let events = events(&trio);
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "warning", "error", "recovery", "stop"], "{events:#?}");
    assert!(events.iter().all(|event| event["agent"] == trio.agent_name.as_str()));
    let (warning, error) = (&events[1], &events[2]);
    let documented: Value = serde_json::from_str(&example("alerts.md", "event")).unwrap();
    for (told, documented) in
        [(warning, &documented), (&warning["conflicts"][0], &documented["conflicts"][0])]
    {
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(told), keys(documented));
    }
    assert_eq!((&warning["slave"], &warning["count"]), (&"slave1".into(), &1.into()));
    assert_eq!(warning["conflicts"][0]["conflict"], "delete_missing");
    assert_eq!(warning["conflicts"][0]["table"], "public.t");
    assert_eq!(warning["conflicts"][0]["key"], "(id)=(1)");
    assert_eq!((&error["slave"], &error["sqlstate"]), (&"slave1".into(), &"23505".into()));
    assert!(error["detail"].as_str().unwrap().contains("(id)=(5)"), "{error}");
}

#[test]
fn a_program_that_fails_is_logged() {
    let mut trio = Setup::new(TABLE).build();
    trio.agent.configure(&program(&trio, "exit 3"));
    trio.agent.start();
    trio.agent.wait_for_log("ended with exit status: 3 for event \"start\"");
    trio.catch_up();
}

#[test]
fn a_program_that_hangs_holds_up_nothing() {
    let mut trio = Setup::new(TABLE).build();
    trio.agent.configure(&program(&trio, "exec sleep 600"));
    trio.agent.start();
    trio.catch_up();
    conflict(&mut trio);
    assert!(trio.agent.stop().success());
    assert_eq!(events(&trio).len(), 1, "the first call hangs");
}

/// The examples of docs/alerts.md, with the addresses of this machine.
#[test]
fn the_documented_examples_work() {
    let server = MailServer::start(Encryption::StartTls);
    let trio = Setup::new(TABLE).slaves(1).build();
    let dir = trio.agent.dir();
    std::fs::write(dir.join("smtp.password"), PASSWORD).unwrap();
    let mail = example("alerts.md", "mail")
        .replace("smtp.example.com\"", &format!("127.0.0.1\"\nca_file = {:?}", server.ca_file))
        .replace("587", &server.port.to_string())
        .replace("/etc/pyreplica", &dir.display().to_string());
    trio.agent.configure(&(trio.config() + &mail));
    trio.agent.run(&["check", "--mail"]).expect_code(0);
    assert_eq!(server.mails().len(), 1);

    let script = example("alerts.md", "program").replace("/var/log/pyreplica", &dir.display().to_string());
    let path = dir.join("on-event");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let setting =
        example("alerts.md", "on_event").replace("/usr/local/bin/on-event", &path.display().to_string());
    let mut trio = trio;
    trio.agent.configure(&trio.config().replace("[agent]\n", &setting));
    trio.agent.start();
    trio.catch_up();
    trio.agent.stop();
    let told = std::fs::read_to_string(trio.agent.dir().join("events.log")).unwrap();
    assert!(told.contains("start") && told.contains("stop"), "{told}");
}
