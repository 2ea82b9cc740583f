//! Makes the tables of a slave as the master has them (`schema = true`).
//!
//! In: captured tables that the slave lacks. Out: the tables with what they need (types, functions of defaults,
//! sequences, schemas, extensions), and in `pyreplica_agent.pending_schema` what is to be run when the rows are there.
//!
//! The tables and the list of what is left are one transaction of the slave; each statement of the list is one with its
//! row's removal. So a kill leaves nothing half done. Indexes, keys and triggers come after the copy, foreign keys after
//! the stream has brought all tables to one moment: each is copied under a snapshot of its own.
//!
//! From before one looks what is lacking until that is committed, however long pg_dump takes, one session works under the
//! claim to the slave (`commit/claim.rs`). So who takes over meanwhile ends it: either nothing of it is there, or the
//! tables with their list, and no statement is put on the list twice.
//!
//! Left out: owners and grants (all is the agent's), our triggers, foreign keys to tables that are not captured,
//! publications, tablespaces. What is there already is taken as it is.

mod dump;
mod script;

use std::collections::BTreeSet;

use postgres::{Client, Transaction};

use self::dump::{Entry, Workshop};
use self::script::statements;
use crate::commit::Claim;
use crate::config::{Config, Slave};
use crate::copy::CapturedTable;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::pipe::Pipe;
use crate::quote;
use crate::retry;
use crate::wake::{Cancels, Stop};

/// `pg_constraint`, which has the same OID everywhere.
const CONSTRAINT: u32 = 2606;
/// Something of that name is there.
const DUPLICATES: [&str; 4] = ["42710", "42P06", "42723", "42P07"];

/// A catalog and an OID there.
type Object = (u32, u32);

/// Makes those of the tables that the slave lacks.
pub fn create(
    config: &Config,
    slave: &Slave,
    master: &mut Client,
    tables: &[CapturedTable],
    stop: &Stop,
    cancels: &Cancels,
    claim: &Claim,
) -> Result<()> {
    // The statements of pg_dump are run in a session of their own, which ends with whatever they have set.
    let (mut client, _cancelable) = claim.open(slave, cancels)?;
    let lacking = lacking(&mut client, slave, tables)?;
    if lacking.is_empty() {
        return Ok(());
    }
    log::info!("slave \"{}\": making {} tables as they are on the master", slave.name, lacking.len());
    new_enough(master)?;
    let script = Script::write(config, slave, master, &lacking, stop)?;

    let failed = |e| Error::from_pg(format!("could not make the tables of slave \"{}\"", slave.name), e);
    let mut transaction = client.transaction().map_err(failed)?;
    for statement in statements(&script.before).into_iter().filter(|s| !is_setting(s)) {
        let mut attempt = transaction.savepoint("statement").map_err(failed)?;
        match attempt.batch_execute(statement) {
            Ok(()) => attempt.commit().map_err(failed)?,
            Err(e) if e.code().is_some_and(|code| DUPLICATES.contains(&code.code())) => {
                log::debug!("slave \"{}\": {e}: {}", slave.name, first_line(statement));
                attempt.rollback().map_err(failed)?;
            }
            Err(e) => {
                let e = failed(e);
                if e.kind() == Kind::Connection {
                    return Err(e);
                }
                let hint = e.hint_text().or(lacks_room(&e)).map(str::to_owned);
                return Err(e.detail(format!("Statement: {}", statement)).hint(hint.unwrap_or_else(|| {
                    "Make on the slave by yourself what is missing, with pg_dump --schema-only and a role that \
                     may; what is there already is left as it is."
                        .to_owned()
                })));
            }
        }
    }
    for table in &lacking {
        spare_columns(&mut transaction, table).map_err(failed)?;
    }
    for (late, text) in [(false, &script.after), (true, &script.late)] {
        for statement in statements(text).into_iter().filter(|s| !is_setting(s)) {
            transaction
                .execute(
                    "insert into pyreplica_agent.pending_schema (agent, slave, late, statement)
                     values ($1, $2, $3, $4)",
                    &[&config.agent_name(), &slave.name, &late, &statement],
                )
                .map_err(failed)?;
        }
    }
    failpoint::hit("schema.before_commit");
    transaction.commit().map_err(failed)?;
    failpoint::hit("schema.after_commit");
    Ok(())
}

/// A table is made whole, also where the master sends some of its columns only: those stay NULL, or at their defaults.
fn spare_columns(
    transaction: &mut Transaction,
    table: &CapturedTable,
) -> std::result::Result<(), postgres::Error> {
    let statement = include_str!("sql/required_columns.sql");
    for row in transaction.query(statement, &[&table.schema, &table.name])? {
        let name: &str = row.get(0);
        if !table.part.sends(name) {
            let (table, column) = (table.quoted(), quote::ident(name));
            transaction.batch_execute(&format!("alter table {table} alter column {column} drop not null"))?;
        }
    }
    Ok(())
}

/// What is left to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// After the copy.
    Rest,
    /// When all tables are of one moment.
    Late,
}

/// Is there anything of that kind left?
pub fn is_pending(client: &mut Pipe, agent: &str, slave: &str, which: Pending) -> Result<bool> {
    let row = client
        .query_one(
            "select exists (select from pyreplica_agent.pending_schema where agent = $1 and slave = $2 and late = $3)",
            &[&agent, &slave, &(which == Pending::Late)],
        )
        .map_err(|e| failed_list(slave, e))?;
    Ok(row.get(0))
}

/// Runs what was left for after the rows, one statement after the other. The server builds an index with several
/// processes if it is set to (`max_parallel_maintenance_workers`).
pub fn finish(
    config: &Config,
    slave: &Slave,
    which: Pending,
    stop: &Stop,
    cancels: &Cancels,
    claim: &Claim,
) -> Result<()> {
    let (mut client, _cancelable) = claim.open(slave, cancels)?;
    let late = which == Pending::Late;
    let rows = client
        .query(
            "select id, statement from pyreplica_agent.pending_schema
              where agent = $1 and slave = $2 and late = $3 order by id",
            &[&config.agent_name(), &slave.name, &late],
        )
        .map_err(|e| failed_list(&slave.name, e))?;
    let what = if late { "foreign keys" } else { "indexes, constraints and triggers" };
    log::info!("slave \"{}\": making {what}, {} statements", slave.name, rows.len());
    for row in rows {
        if stop.is_set() {
            return Err(Error::new(Kind::Stopped, "making indexes was stopped"));
        }
        let (id, statement): (i64, &str) = (row.get(0), row.get(1));
        let failed = |e| {
            Error::from_pg(
                format!("could not finish the schema of slave \"{}\": {}", slave.name, first_line(statement)),
                e,
            )
        };
        let began = std::time::Instant::now();
        let mut transaction = client.transaction().map_err(failed)?;
        transaction.batch_execute(statement).map_err(|e| {
            let e = failed(e);
            match lacks_room(&e) {
                Some(hint) => e.hint(hint),
                None if e.kind() == Kind::Connection => e,
                None => e.hint(format!(
                    "To do without it, delete the row with id {id} from pyreplica_agent.pending_schema on the slave."
                )),
            }
        })?;
        transaction
            .execute("delete from pyreplica_agent.pending_schema where id = $1", &[&id])
            .map_err(failed)?;
        failpoint::hit("schema.before_pending");
        transaction.commit().map_err(failed)?;
        log::debug!("slave \"{}\": {:.1?} for {}", slave.name, began.elapsed(), first_line(statement));
    }
    Ok(())
}

/// Errors if pg_dump is missing, or older than the master.
pub fn new_enough(master: &mut Client) -> Result<()> {
    let number: i32 = master
        .query_one("select current_setting('server_version_num')::int", &[])
        .map_err(|e| Error::from_pg("could not ask the master for its version", e))?
        .get(0);
    let needed = u32::try_from(number / 10_000).unwrap_or(0);
    for program in dump::PROGRAMS {
        let found = dump::version(program)?;
        if found < needed {
            return Err(Error::new(
                Kind::Refused,
                format!("{program} has version {found}, the master {needed}"),
            )
            .hint(dump::INSTALL));
        }
    }
    Ok(())
}

/// What to do where the statement is right and only the server has no room for it.
fn lacks_room(e: &Error) -> Option<&'static str> {
    e.sqlstate().filter(|state| retry::is_out_of_resources(state)).and_then(retry::hint)
}

fn failed_list(slave: &str, e: postgres::Error) -> Error {
    Error::from_pg(format!("could not read what is left of the schema of slave \"{slave}\""), e)
}

fn lacking(client: &mut Client, slave: &Slave, tables: &[CapturedTable]) -> Result<Vec<CapturedTable>> {
    let (schemas, names) = names(tables);
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where (n.nspname, c.relname) in (select * from unnest($1::text[], $2::text[]))",
            &[&schemas, &names],
        )
        .map_err(|e| Error::from_pg(format!("could not look for the tables of slave \"{}\"", slave.name), e))?;
    let there: BTreeSet<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let is_lacking = |table: &&CapturedTable| !there.contains(&(table.schema.clone(), table.name.clone()));
    Ok(tables.iter().filter(is_lacking).cloned().collect())
}

fn names(tables: &[CapturedTable]) -> (Vec<&str>, Vec<&str>) {
    tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())).unzip()
}

/// The SQL of the tables, by when it is run.
struct Script {
    before: String,
    after: String,
    late: String,
}

impl Script {
    fn write(
        config: &Config,
        slave: &Slave,
        master: &mut Client,
        tables: &[CapturedTable],
        stop: &Stop,
    ) -> Result<Script> {
        let (schemas, names) = names(tables);
        let mut ask = |statement: &str| {
            master
                .query(statement, &[&schemas, &names])
                .map_err(|e| Error::from_pg("could not ask the master what its tables need", e))
        };
        let object = |row: &postgres::Row| -> Object { (row.get(0), row.get(1)) };
        let needs: BTreeSet<Object> = ask(include_str!("sql/schema_needs.sql"))?.iter().map(object).collect();
        let mut left_out = BTreeSet::new();
        for row in ask(include_str!("sql/schema_leaves_out.sql"))? {
            left_out.insert(object(&row));
            if let Some(name) = row.get::<_, Option<String>>(2) {
                log::warn!(
                    "slave \"{}\" does not get foreign key {name}: it refers to a table that is not replicated",
                    slave.name
                );
            }
        }
        let mut of_tables = Vec::new();
        for row in ask(include_str!("sql/schema_relations.sql"))? {
            of_tables.push(format!("--table={}", row.get::<_, String>(0)));
        }

        let workshop = Workshop::open(stop)?;
        let dsn = &config.master.dsn;
        workshop.dump(dsn, "needs", &["--exclude-table=*.*".to_owned()])?;
        workshop.dump(dsn, "tables", &of_tables)?;
        let needed = workshop.contents("needs")?;
        let needed: Vec<&Entry> = needed.iter().filter(|entry| needs.contains(&entry.object)).collect();
        let wanted = workshop.contents("tables")?;
        let (late, wanted): (Vec<&Entry>, Vec<&Entry>) = wanted
            .iter()
            .filter(|entry| !left_out.contains(&entry.object))
            .partition(|entry| is_foreign_key(entry));
        let mut before = workshop.sql("needs", &needed, None)?;
        before.push_str(&workshop.sql("tables", &wanted, Some("pre-data"))?);
        Ok(Script {
            before,
            after: workshop.sql("tables", &wanted, Some("post-data"))?,
            late: workshop.sql("tables", &late, None)?,
        })
    }
}

fn is_foreign_key(entry: &Entry) -> bool {
    entry.object.0 == CONSTRAINT && entry.line.contains(" FK CONSTRAINT ")
}

/// Sessions of ours have their settings.
fn is_setting(statement: &str) -> bool {
    statement.starts_with("SET ") || statement.starts_with("SELECT pg_catalog.set_config(")
}

fn first_line(statement: &str) -> &str {
    statement.lines().next().unwrap_or_default()
}
