use super::check::NAMES_BYTES_MAX;
use super::*;

const MASTER: &str = "[master]\ndsn = \"host=db1 dbname=shop user=a\"\n";
const SLAVE: &str =
    "[[slave]]\nname = \"reports\"\ndsn = \"host=db2 dbname=shop user=b password=TOPSECRET\"\n";

fn fails(text: &str, message: &str, hint: &str) {
    let e = Config::parse(text).unwrap_err();
    assert_eq!(e.kind(), Kind::Config);
    assert_eq!(e.message(), message, "{text}");
    assert!(e.hint_text().unwrap_or("").contains(hint), "{text}: {:?}", e.hint_text());
    assert!(!e.report().contains("TOPSECRET"), "{}", e.report());
}

#[test]
fn defaults() {
    let config = Config::parse(&format!("{MASTER}{SLAVE}")).unwrap();
    assert_eq!(config.agent_name(), "shop");
    assert_eq!(config.agent.commit, CommitMode::Independent);
    assert_eq!((config.agent.batch_rows, config.agent.timer), (50_000, Duration::from_secs(5)));
    let slave = config.slave("reports").unwrap();
    assert_eq!((slave.initial, slave.two_phase), (Initial::Copy, true));
    assert!(!format!("{config:?}").contains("TOPSECRET"));
    assert_eq!(config.slave("report").unwrap_err().kind(), Kind::Usage);
}

#[test]
fn everything_can_be_set() {
    let text = format!(
        "{MASTER}[agent]\nname = \"x\"\ncommit = \"atomic\"\nbatch_rows = 7\nbatch_bytes = 8\ntimer_seconds = 0.5\n\
         {SLAVE}initial = \"oldest\"\ntwo_phase = true\n"
    );
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.agent_name(), "x");
    assert_eq!(config.agent.commit, CommitMode::Atomic);
    assert_eq!((config.agent.batch_rows, config.agent.batch_bytes), (7, 8));
    assert_eq!(config.agent.timer, Duration::from_millis(500));
    assert_eq!(config.slaves[0].initial, Initial::Oldest);
}

#[test]
fn slaves_may_be_louder_than_their_agent() {
    let text = format!("{MASTER}[agent]\nlog = \"warn\"\nlog_format = \"json\"\n{SLAVE}log = \"debug\"\n");
    let logging = Config::parse(&text).unwrap().logging;
    assert_eq!(logging.level, Some(LevelFilter::Warn));
    assert_eq!(logging.format, Some(Format::Json));
    assert_eq!(logging.slaves, BTreeMap::from([("reports".to_owned(), LevelFilter::Debug)]));
}

#[test]
fn mail_passwords_are_not_shown() {
    let mail =
        "[mail]\nserver = \"m\"\nfrom = \"a@b.c\"\nto = \"d@e.f\"\nuser = \"u\"\npassword = \"TOPSECRET\"\n";
    let config = Config::parse(&format!("{MASTER}{SLAVE}{mail}")).unwrap();
    assert_eq!(config.alerts.mail.as_ref().map(|mail| mail.port), Some(587));
    assert!(!format!("{config:?}").contains("TOPSECRET"));
    let without_user = mail.replace("user = \"u\"\n", "");
    fails(&format!("{MASTER}{SLAVE}{without_user}"), "[mail] has a password and no user", "");
    fails(
        &format!("{MASTER}[agent]\non_event = []\n{SLAVE}"),
        "on_event in [agent] names no program",
        "list",
    );
}

#[test]
fn errors() {
    let both = |more: &str| format!("{MASTER}{more}{SLAVE}");
    let slave = |more: &str| format!("{MASTER}{SLAVE}{more}");
    fails("", "[master] is missing", "dsn");
    fails(MASTER, "no slave is configured", "[[slave]]");
    fails(SLAVE, "[master] is missing", "dsn");
    fails("[master]\ndns = \"\"\n", "unknown key \"dns\" in [master]", "\"dsn\"");
    fails(&both("[agnet]\n"), "unknown key \"agnet\" at the top level", "\"agent\"");
    fails(&both("[agent]\ncomit = \"atomic\"\n"), "unknown key \"comit\" in [agent]", "\"commit\"");
    fails(&slave("two_face = true\n"), "unknown key \"two_face\" in [[slave]] \"reports\"", "\"two_phase\"");
    fails(&slave("[[slave]]\ndsn = \"\"\n"), "key \"name\" is missing in [[slave]] number 2", "");
    fails(&both("[slave]\n"), "line 4: duplicate key", "");
    fails("[slave]\nname = \"x\"\n[master]\ndsn=\"\"", "\"slave\" is not a list of tables", "[[slave]]");
    fails(&slave(&SLAVE.replace("db2", "db3")), "two slaves have the name \"reports\"", "its own");
    fails(&slave(&SLAVE.replace("reports", "x")), "slaves \"reports\" and \"x\" are the same database", "");
    fails(&format!("{MASTER}{}", SLAVE.replace("db2", "db1")), "slave \"reports\" is the master itself", "");
    fails(&both("[agent]\nbatch_rows = 0\n"), "batch_rows in [agent] is not a whole number from 1 on", "");
    fails(
        &both("[agent]\ntimer_seconds = 0\n"),
        "timer_seconds in [agent] is not a number from 0.1 to 3600",
        "",
    );
    fails(
        &slave("two_phase = false\n[agent]\ncommit = \"atomic\"\n"),
        "slave \"reports\" cannot have two_phase = false",
        "",
    );
    fails(
        &slave("[[slave]]\nname = \"x\"\ndsn = \"hots=db3\"\n"),
        "dsn of slave \"x\": unknown connection option \"hots\"",
        "\"host\"",
    );
}

#[test]
fn names() {
    let named = |name: &str| format!("{MASTER}{}", SLAVE.replace("\"reports\"", name));
    fails(&named("\"\""), "name of slave \"\" is empty", "");
    fails(&named("\"a:b\""), "name of slave \"a:b\" contains a colon", "");
    fails(&named("\"a\\nb\""), "name of slave \"a\\nb\" contains a control character", "");
    fails(&named("\" a\""), "name of slave \" a\" begins or ends with a blank", "");
    Config::parse(&named("\"Köln 'x' \\\\ %\"")).unwrap();
    let fits = "x".repeat(NAMES_BYTES_MAX - "shop".len());
    Config::parse(&named(&format!("{fits:?}"))).unwrap();
    let long = format!("{fits}x");
    fails(&named(&format!("{long:?}")), &format!("name of slave \"{long}\" is too long"), "");
    fails(
        &format!("{}{SLAVE}", MASTER.replace("shop", "a:b")),
        "name of agent \"a:b\" contains a colon",
        "name = ... in [agent]",
    );
}

#[test]
fn wrong_values_name_the_key_and_not_the_value() {
    let both = |more: &str| format!("{MASTER}{more}{SLAVE}");
    let slave = |more: &str| format!("{MASTER}{SLAVE}{more}");
    fails("[master]\ndsn = [\"password=TOPSECRET\"]\n", "dsn in [master] is not text in quotes", "");
    fails(&both("[mail]\npassword = 123456\n"), "password in [mail] is not text in quotes", "");
    fails(&both("[mail]\nserver = \"m\"\n"), "key \"from\" is missing in [mail]", "");
    fails(&both("[mail]\nport = 0\n"), "port in [mail] is not a whole number from 1 to 65535", "");
    fails(&both("[mail]\nto = 1\n"), "to in [mail] is not text in quotes or a list of texts", "");
    let commit = "commit in [agent] is not one of \"independent\", \"atomic\"";
    fails(&both("[agent]\ncommit = \"atomc\"\n"), commit, "\"atomic\"");
    fails(&both("[agent]\ncommit = true\n"), commit, "");
    fails(
        &both("[agent]\non_event = \"x\"\n"),
        "on_event in [agent] is not a list of texts, as [\"...\", \"...\"]",
        "",
    );
    let of_slave = |line: &str, what: &str| {
        let key = line.split(' ').next().unwrap();
        fails(&slave(line), &format!("{key} in [[slave]] \"reports\" is not {what}"), "");
    };
    of_slave("two_phase = 1", "true or false");
    of_slave("tables = \"public.*\"", "a list of texts, as [\"...\", \"...\"]");
    of_slave("schemas = [\"x\"]", "a list of names with texts, as { name = \"...\" }");
    let table = "[[slave.table]]\nname = \"t\"\ncolumns = 1\n";
    fails(
        &slave(table),
        "columns in [[slave.table]] \"t\" in [[slave]] \"reports\" is not a list of names, as { name = ... }",
        "",
    );
}

#[test]
fn each_word_that_may_stand_there_is_known() {
    for (section, keys) in [("agent", file::AGENT_KEYS), ("slave", file::SLAVE_KEYS)] {
        for (key, holds) in keys {
            let keys::Holds::Word(words) = holds else { continue };
            for word in *words {
                let line = format!("{key} = \"{word}\"\n");
                Config::parse(&match section {
                    "agent" => format!("{MASTER}[agent]\n{line}{SLAVE}"),
                    _ => format!("{MASTER}{SLAVE}{line}"),
                })
                .unwrap();
            }
        }
    }
}

#[test]
fn what_is_no_toml_names_the_line_and_not_the_text() {
    let check = |text: &str, line: &str| {
        let e = Config::parse(text).unwrap_err();
        assert!(e.message().starts_with(line), "{e}");
        assert!(!e.report().contains("TOPSECRET") && !e.report().contains("999"), "{}", e.report());
    };
    check("[master]\ndsn = \"password=TOPSECRET\n", "line 2: ");
    check("[master]\ndsn = password=TOPSECRET\n", "line 2: ");
    check("[mail]\npassword = 99999999999999999999\n", "line 2: a value cannot be read");
}

#[test]
fn files() {
    let e = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err();
    assert!(
        e.message().starts_with("could not read configuration file \"/nonexistent/agent.toml\": "),
        "{e}"
    );
    assert!(e.hint_text().unwrap().contains("--config"));
    let file = std::env::temp_dir().join(format!("agent-{}.toml", std::process::id()));
    std::fs::write(&file, "[mastr]\n").unwrap();
    let e = Config::load(&file).unwrap_err();
    assert!(e.message().starts_with("configuration file \""), "{e}");
    assert!(e.message().ends_with(": unknown key \"mastr\" at the top level"), "{e}");
    std::fs::remove_file(&file).unwrap();
}
