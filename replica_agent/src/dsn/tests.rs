use super::*;
use proptest::prelude::*;

const HOME: (&str, &str) = ("HOME", "/nonexistent");

fn parse(text: &str, env: &[(&str, &str)]) -> Result<Dsn> {
    Dsn::parse_with(text, &|name| {
        env.iter().chain([&HOME]).find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn check(text: &str, expected: &str) {
    let dsn = parse(text, &[("PGUSER", "ann")]).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    assert_eq!(dsn.to_string(), expected, "{text}");
}

fn fails(text: &str, message: &str, hint: &str) {
    let e = parse(text, &[("PGUSER", "ann")]).unwrap_err();
    assert_eq!(e.kind(), Kind::Config);
    assert_eq!(e.message(), message, "{text}");
    assert!(e.hint_text().unwrap_or("").contains(hint), "{text}: {:?}", e.hint_text());
}

#[test]
fn where_it_leads() {
    check("", "host /var/run/postgresql:5432, database \"ann\", user \"ann\"");
    check("host=db1 dbname=shop user=bob", "host db1:5432, database \"shop\", user \"bob\"");
    check("host = db1   port= 6432\tdbname =shop", "host db1:6432, database \"shop\", user \"ann\"");
    check(
        r"dbname='my \'shop\' \\ x' user=a\ b",
        r#"host /var/run/postgresql:5432, database "my 'shop' \ x", user "a b""#,
    );
    check("host=a,b,c port=1,,3 dbname=d", "host a:1,b:5432,c:3, database \"d\", user \"ann\"");
    check("host=a,b port=7 dbname=d", "host a:7,b:7, database \"d\", user \"ann\"");
    check("hostaddr=10.0.0.1 dbname=d", "host 10.0.0.1:5432, database \"d\", user \"ann\"");
    check("dbname=x dbname=y", "host /var/run/postgresql:5432, database \"y\", user \"ann\"");
    check("postgresql://", "host /var/run/postgresql:5432, database \"ann\", user \"ann\"");
    check("postgres://bob@db1/shop", "host db1:5432, database \"shop\", user \"bob\"");
    check(
        "postgresql://bob:x@[::1]:6432,db2/shop?sslmode=require",
        "host ::1:6432,db2:5432, database \"shop\", user \"bob\"",
    );
    check("postgresql://%2Fvar%2Flib/my%20shop", "host /var/lib:5432, database \"my shop\", user \"ann\"");
    check(
        "postgresql:///shop?host=/tmp&port=5433&user=bob",
        "host /tmp:5433, database \"shop\", user \"bob\"",
    );
}

#[test]
fn variables_are_defaults() {
    let env = [
        ("PGHOST", "db9"),
        ("PGPORT", "6000"),
        ("PGUSER", "eve"),
        ("PGDATABASE", "d9"),
        ("PGPASSWORD", "env"),
        ("PGSSLMODE", "verify-full"),
        ("PGCONNECT_TIMEOUT", "3"),
    ];
    let dsn = parse("", &env).unwrap();
    assert_eq!(dsn.to_string(), "host db9:6000, database \"d9\", user \"eve\"");
    assert_eq!(dsn.password(&dsn.hosts[0]).as_deref(), Some("env"));
    assert_eq!((dsn.ssl_mode, dsn.connect_timeout), (SslMode::VerifyFull, Some(Duration::from_secs(3))));
    let dsn = parse("host=db1 password=own sslmode=disable connect_timeout=0", &env).unwrap();
    assert_eq!(dsn.hosts[0].name, "db1");
    assert_eq!(dsn.password(&dsn.hosts[0]).as_deref(), Some("own"));
    assert_eq!((dsn.ssl_mode, dsn.connect_timeout), (SslMode::Disable, None));
}

#[test]
fn errors() {
    fails("hots=db1", "unknown connection option \"hots\"", "\"host\"");
    fails("host=a zzzzzzzzzzzz=1", "unknown connection option \"zzzzzzzzzzzz\"", "");
    fails("service=x", "connection option \"service\" is not supported", "");
    fails("host", "missing \"=\" in option 1 of the connection string", "quotes");
    fails("password=my secret", "missing \"=\" in option 2 of the connection string", "quotes");
    fails("password=my se=cret", "unknown connection option after the password", "quotes");
    fails("password='my secret", "unterminated quoted string in connection option \"password\"", "");
    fails("port=x", "port is not a number from 1 to 65535", "");
    fails("port=0", "port is not a number from 1 to 65535", "");
    fails("port=1,2", "2 ports do not match 1 hosts", "");
    fails("sslmode=verify", "connection option \"sslmode\" cannot be \"verify\"", "verify-ca, verify-full");
    fails("gssencmode=require", "connection option \"gssencmode\" cannot be \"require\"", "");
    fails("connect_timeout=soon", "connection option \"connect_timeout\" is not a number", "");
    fails("hostaddr=db1", "hostaddr \"db1\" is not an address", "");
    fails("postgresql://u:p@ss@h/d", "host name contains \"@\"", "%40");
    fails("postgresql://u:1/2@h/d", "database name in the URI contains \"@\"", "%2F");
    fails("postgresql://h/%zz", "\"%\" in the URI is not followed by two hexadecimal digits", "");
    fails("postgresql://h/%00", "forbidden %00 in the URI", "");
    fails("postgresql://[::1/d", "missing \"]\" after an IPv6 address in the URI", "");
}

#[test]
fn the_same_database() {
    let same = |a: &str, b: &str| {
        let of = |text| parse(text, &[("PGUSER", "ann")]).unwrap();
        of(a).same_database(&of(b))
    };
    assert!(same("host=a dbname=d user=x", "postgresql://y@a:5432/d"));
    assert!(!same("host=a dbname=d", "host=a dbname=e"));
    assert!(!same("host=a dbname=d", "host=a port=5433 dbname=d"));
}

/// A value as libpq's manual says to write it.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn percent(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn any_value_survives_quoting(user in "\\PC{1,20}", password in "\\PC{1,20}", dbname in "\\PC{1,20}") {
        let plain = format!("user={} password = {} dbname={}", quote(&user), quote(&password), quote(&dbname));
        let dsn = parse(&plain, &[]).unwrap();
        prop_assert_eq!((&dsn.user, &dsn.dbname, dsn.password.as_ref()), (&user, &dbname, Some(&password)));
        if dbname.contains('@') {
            return Ok(());
        }
        let uri = format!("postgresql://{}:{}@h/{}", percent(&user), percent(&password), percent(&dbname));
        let dsn = parse(&uri, &[]).unwrap();
        prop_assert_eq!((&dsn.user, &dsn.dbname, dsn.password.as_ref()), (&user, &dbname, Some(&password)));
    }

    #[test]
    fn no_text_makes_it_panic_or_show_the_password(text in "[a-z=' \\\\@:/?&%,\\[\\]]{0,40}", uri in any::<bool>()) {
        let text = if uri { format!("postgres://u:TOPSECRET{text}") } else { format!("password=TOPSECRET{text}") };
        let shown = match parse(&text, &[("PGUSER", "ann")]) {
            // In a URI without "@" it is a host and a port, not a password.
            Ok(dsn) if dsn.password.is_some() => format!("{dsn} {dsn:?}"),
            Ok(_) => String::new(),
            Err(e) => e.report(),
        };
        prop_assert!(!shown.contains("TOPSECRET"), "{} shows {}", text, shown);
    }
}
