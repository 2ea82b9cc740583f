//! Other replicators' capture, as Debian packages them and as their own tools set them up; nobody reads their logs.

use std::path::Path;
use std::process::{Command, Stdio};

use pyreplica_tests::cluster::run;
use pyreplica_tests::db::Db;
use pyreplica_tests::keeper;

use crate::variant::Variant;
use crate::workload::{self, TABLES};

pub const JSONB: Variant = Variant {
    name: "jsonb",
    about: "a plpgsql trigger that logs old and new row as jsonb",
    logical: false,
    packages: "",
    is_there: |_| true,
    install: |db| {
        db.run(
            "create table jsonb_log (id bigserial primary key, xid xid8 default pg_current_xact_id(),
                                     relation oid, op text, old jsonb, new jsonb);
             create function log_jsonb() returns trigger language plpgsql as $$ begin
                 insert into jsonb_log (relation, op, old, new) values (
                     tg_relid, tg_op,
                     case when tg_op <> 'INSERT' then to_jsonb(old) end,
                     case when tg_op <> 'DELETE' then to_jsonb(new) end);
                 return null;
             end $$",
        );
        attach(db, "log_jsonb()");
    },
    log: &["jsonb_log"],
    payload: "select coalesce(sum(coalesce(pg_column_size(old), 0) + coalesce(pg_column_size(new), 0)), 0)
                from jsonb_log",
    clean: "truncate jsonb_log",
};

/// What the trigger of the original PyReplica did, written anew for Python 3: a statement as text for each row, for
/// an UPDATE also a SELECT that finds rows whose old values differ, and NOTIFY.
pub const PLPYTHON: Variant = Variant {
    name: "plpython",
    about: "a plpython3 trigger that does what the original's did",
    logical: false,
    packages: "postgresql-plpython3-15",
    is_there: |db| has_extension(db, "plpython3u"),
    install: |db| {
        db.run("create extension plpython3u");
        db.run(PLPYTHON_LOG);
        attach(db, "log_sql('id')");
    },
    log: &["replica_log"],
    payload: "select coalesce(sum(octet_length(sql)), 0) from replica_log",
    clean: "truncate replica_log",
};

pub const SLONY: Variant = Variant {
    name: "slony",
    about: "Slony-I's log trigger; a node and a set made by slonik, no slon running",
    logical: false,
    packages: "slony1-2-bin postgresql-15-slony1-2",
    is_there: |_| has_program("slonik"),
    install: |db| {
        let mut script = format!(
            "cluster name = bench;\nnode 1 admin conninfo = '{}';\ninit cluster (id = 1, comment = 'master');\n\
             create set (id = 1, origin = 1, comment = 'all');\n",
            conninfo(db)
        );
        for (i, table) in TABLES.iter().enumerate() {
            script += &format!(
                "set add table (set id = 1, origin = 1, id = {}, fully qualified name = 'public.{table}');\n",
                i + 1
            );
        }
        let path = keeper::dir().join("bench.slonik");
        std::fs::write(&path, script).expect("slonik script");
        run(Command::new("slonik").arg(path));
    },
    log: &["_bench.sl_log_1", "_bench.sl_log_2"],
    payload: "select coalesce(sum(pg_column_size(log_cmdargs)), 0)
                from (select * from _bench.sl_log_1 union all select * from _bench.sl_log_2) l",
    clean: "truncate _bench.sl_log_1, _bench.sl_log_2",
};

pub const PGQ: Variant = Variant {
    name: "pgq",
    about: "PgQ's logutriga, which Londiste uses; no ticker running",
    logical: false,
    packages: "postgresql-15-pgq3",
    is_there: |db| has_extension(db, "pgq"),
    install: |db| {
        db.run("create extension pgq; select pgq.create_queue('bench')");
        attach(db, "pgq.logutriga('bench')");
    },
    log: &["pgq.event_1_0", "pgq.event_1_1", "pgq.event_1_2"],
    payload: "select coalesce(sum(octet_length(ev_data)), 0) from pgq.event_1",
    clean: "truncate pgq.event_1_0, pgq.event_1_1, pgq.event_1_2",
};

/// Its triggers come with the sync that its own tool makes; the daemon is not needed for that.
pub const BUCARDO: Variant = Variant {
    name: "bucardo",
    about: "Bucardo's delta trigger; a sync made by bucardo, no daemon running. It logs the key only",
    logical: false,
    packages: "bucardo postgresql-plperl-15",
    is_there: |db| has_program("bucardo") && has_extension(db, "plperlu"),
    install: |db| {
        // A sync has a target.
        let target = db.server.create_db("bucardo_target", "");
        workload::create_tables(&target);
        bucardo(db, &["--batch", "install"]);
        for db in [db, &target] {
            let name = format!("dbname={}", db.name);
            let config = [name, format!("dbhost={}", host(db)), format!("dbport={}", db.server.port)];
            let mut arguments = vec!["add", "db", &db.name, "dbuser=postgres"];
            arguments.extend(config.iter().map(String::as_str));
            bucardo(db, &arguments);
        }
        let tables = TABLES.map(|table| format!("public.{table}"));
        let source = format!("db={}", db.name);
        let mut arguments = vec!["add", "table", &source, "relgroup=bench"];
        arguments.extend(tables.iter().map(String::as_str));
        bucardo(db, &arguments);
        let databases = format!("dbs={}:source,{}:target", db.name, target.name);
        bucardo(db, &["add", "sync", "bench", "relgroup=bench", &databases]);
    },
    log: &["bucardo.delta_public_t", "bucardo.delta_public_wide", "bucardo.delta_public_toasted"],
    payload: "select coalesce(sum(pg_column_size(id)), 0)
                from (select id from bucardo.delta_public_t union all select id from bucardo.delta_public_wide
                      union all select id from bucardo.delta_public_toasted) l",
    clean: "truncate bucardo.delta_public_t, bucardo.delta_public_wide, bucardo.delta_public_toasted",
};

const PLPYTHON_LOG: &str = r#"
    create table replica_log (id serial primary key, sql text, replicated boolean default false,
                              username name default current_user, ts timestamp default now());
    create function log_sql() returns trigger language plpython3u as $$
def literal(value):
    return plpy.quote_nullable(None if value is None else str(value))

def equal(row, columns, between):
    return between.join("%s = %s" % (plpy.quote_ident(c), literal(row[c])) for c in columns)

def log(sql):
    if "plan" not in SD:
        SD["plan"] = plpy.prepare("insert into replica_log (sql) values ($1)", ["text"])
    plpy.execute(SD["plan"], [sql])

table = "%s.%s" % (plpy.quote_ident(TD["table_schema"]), plpy.quote_ident(TD["table_name"]))
new, old, key = TD["new"], TD["old"], TD["args"]
if TD["event"] == "INSERT":
    log("INSERT INTO %s (%s) VALUES (%s)" % (table, ", ".join(plpy.quote_ident(c) for c in new),
                                             ", ".join(literal(v) for v in new.values())))
elif TD["event"] == "UPDATE":
    changed = [c for c in new if new[c] != old[c]]
    if not changed:
        return
    differs = " OR ".join("%s IS DISTINCT FROM %s" % (plpy.quote_ident(c), literal(old[c])) for c in changed)
    log("SELECT * FROM %s WHERE %s AND (%s)" % (table, equal(old, key, " AND "), differs))
    log("UPDATE %s SET %s WHERE %s" % (table, equal(new, changed, ", "), equal(old, key, " AND ")))
else:
    log("DELETE FROM %s WHERE %s" % (table, equal(old, key, " AND ")))
plpy.execute("notify replicas")
$$"#;

fn attach(db: &Db, function: &str) {
    for table in TABLES {
        db.run(&format!(
            "create trigger log after insert or update or delete on {table} for each row execute function {function}"
        ));
    }
}

/// Bucardo keeps its own tables in a database `bucardo` of the same server.
fn bucardo(db: &Db, arguments: &[&str]) {
    let mut command = Command::new("bucardo");
    command.arg("--no-bucardorc").arg(format!("--dbhost={}", host(db)));
    command.arg(format!("--dbport={}", db.server.port)).args(["--dbuser=postgres", "--dbname=bucardo"]);
    command.arg(format!("--piddir={}", keeper::dir().display()));
    run(command.args(arguments).stdin(Stdio::null()));
}

/// The directory of the server's socket.
fn host(db: &Db) -> String {
    db.rows("show unix_socket_directories").join("")
}

fn conninfo(db: &Db) -> String {
    format!("host={} port={} user=postgres dbname={}", host(db), db.server.port, db.name)
}

fn has_extension(db: &Db, name: &str) -> bool {
    !db.rows(&format!("select from pg_available_extensions where name = '{name}'")).is_empty()
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| Path::new(&dir).join(name).exists());
    found
}
