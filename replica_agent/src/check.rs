//! Finds what would keep replication from working, all of it at once, each with its cure.
//!
//! In: the configuration, or two open sessions. Out: a `Report`. Changes nothing anywhere.
//! An error keeps a slave from following; a warning is something that its owner should know.

use std::collections::BTreeSet;
use std::fmt;

use postgres::Client;

use crate::check_mapping;
use crate::check_slave;
use crate::commit::Standing;
use crate::config::{Config, Slave};
use crate::control::Control;
use crate::copy::{captured_tables, CapturedTable};
use crate::error::{Error, Kind, Result};
use crate::log_columns::LogColumn;
use crate::mapping::Name;
use crate::node::Route;
use crate::part;
use crate::quote;
use crate::schema;
use crate::sequences::{self, Bounds, Moved};
use crate::session::{connect_master, connect_slave};
use crate::shape::{shapes, Shape};
use crate::wake::Cancels;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warning,
}

#[derive(Clone, Debug)]
pub struct Finding {
    pub level: Level,
    pub message: String,
    pub hint: String,
}

/// What was found, and what was looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub passed: Vec<String>,
}

impl Report {
    pub(crate) fn error(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding { level: Level::Error, message: message.into(), hint: hint.into() });
    }

    pub(crate) fn warning(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding { level: Level::Warning, message: message.into(), hint: hint.into() });
    }

    pub(crate) fn failed(&mut self, e: &Error) {
        let detail = e.detail_text().map(|detail| format!("\nDETAIL:  {detail}")).unwrap_or_default();
        self.error(format!("{e:#}{detail}"), e.hint_text().unwrap_or_default());
    }

    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    pub fn is_ok(&self) -> bool {
        self.count(Level::Error) == 0
    }

    /// The first error, for those who cannot go on with one.
    pub(crate) fn into_result(self) -> Result<()> {
        match self.findings.into_iter().find(|finding| finding.level == Level::Error) {
            None => Ok(()),
            Some(finding) => {
                let error = Error::new(Kind::Refused, finding.message);
                Err(if finding.hint.is_empty() { error } else { error.hint(finding.hint) })
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.passed {
            writeln!(f, "{line}")?;
        }
        for finding in &self.findings {
            let level = match finding.level {
                Level::Error => "ERROR",
                Level::Warning => "WARNING",
            };
            writeln!(f, "{level}:  {}", finding.message)?;
            if !finding.hint.is_empty() {
                writeln!(f, "HINT:  {}", finding.hint)?;
            }
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        writeln!(f, "{errors} {}, {warnings} {}", plural(errors, "error"), plural(warnings, "warning"))
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

/// What the checks of a slave need to know of the master.
pub(crate) struct MasterFacts {
    pub server: Server,
    pub tables: Vec<CapturedTable>,
    pub shapes: Vec<Shape>,
    /// Partitions that the agent's role may not read, each behind the table that it belongs to.
    pub hidden: Vec<(Name, Name)>,
    /// Of the tables, in their order.
    pub columns: Vec<Vec<LogColumn>>,
    pub sequences: Vec<(Moved, Bounds)>,
    pub route: Route,
    /// Nodes whose changes it has to give.
    pub sources: Vec<String>,
}

/// Which database of which server a session is in.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub system_identifier: String,
    /// That of a physical copy is another.
    pub identity: String,
    pub database: String,
    pub encoding: String,
    pub in_recovery: bool,
    pub max_prepared: i32,
    pub user: String,
}

impl Server {
    pub fn read(client: &mut Client, what: &str) -> Result<Server> {
        let row = client
            .query_one(include_str!("sql/server.sql"), &[])
            .map_err(|e| Error::from_pg(format!("could not ask {what} what it is"), e))?;
        Ok(Server {
            system_identifier: row.get(0),
            identity: row.get(1),
            database: row.get(2),
            encoding: row.get(3),
            in_recovery: row.get(4),
            max_prepared: row.get(5),
            user: row.get(6),
        })
    }
}

/// Looks at everything that the configuration names.
pub fn check(config: &Config) -> Report {
    let mut report = Report::default();
    let facts = match connect_master(&config.master.dsn, "check") {
        Err(e) => {
            report.failed(&e);
            None
        }
        Ok(mut master) => {
            if config.slaves.iter().any(|slave| slave.schema) {
                schema::new_enough(&mut master).unwrap_or_else(|e| report.failed(&e));
            }
            master_facts(&mut master, &mut report).unwrap_or_else(|e| {
                report.failed(&e);
                None
            })
        }
    };
    if let Some(facts) = &facts {
        report.passed.push(format!("master: {}, {} tables captured", config.master.dsn, facts.tables.len()));
    }
    let mut servers = Vec::new();
    for slave in &config.slaves {
        let checked = connect_slave(slave).and_then(|mut client: Client| {
            let server = check_slave::check(&mut client, config, slave, facts.as_ref(), &mut report)?;
            if facts.is_some() {
                recognised(&mut client, config, slave)?;
            }
            Ok(server)
        });
        match checked {
            Err(e) => report.failed(&e),
            Ok(server) => {
                report.passed.push(format!("slave \"{}\": {}", slave.name, slave.dsn));
                servers.push((slave, server));
            }
        }
    }
    for (i, (slave, server)) in servers.iter().enumerate() {
        let same = |(_, other): &&(&Slave, Server)| {
            (&other.identity, &other.database) == (&server.identity, &server.database)
        };
        if let Some((other, _)) = servers[..i].iter().find(same) {
            report.error(
                format!("slaves \"{}\" and \"{}\" are the same database", other.name, slave.name),
                "Remove one of them from the configuration.",
            );
        }
    }
    enough_prepared(&servers, &mut report);
    report
}

/// The first thing that keeps this slave from following, with the sessions at hand; warnings are left to `check`.
pub fn preflight(master: &mut Client, slave: &mut Client, config: &Config, which: &Slave) -> Result<()> {
    let mut report = Report::default();
    let facts = master_facts(master, &mut report)?;
    let server = check_slave::check(slave, config, which, facts.as_ref(), &mut report)?;
    enough_prepared(&[(which, server)], &mut report);
    report.into_result()
}

/// Whether the master still knows what the slave has applied.
fn recognised(client: &mut Client, config: &Config, slave: &Slave) -> Result<()> {
    let on_record = check_slave::is_on_record(client).map_err(|e| {
        Error::from_pg(format!("could not look for the position of slave \"{}\"", slave.name), e)
    })?;
    let standing = match on_record {
        true => Standing::read(client, config.agent_name(), &slave.name)?,
        false => None,
    };
    if let Some(standing) = standing {
        Control::open(config, &Cancels::default())?.recognise(&slave.name, &standing)?;
    }
    Ok(())
}

/// What lets a role read tables, the schema and name of each.
pub(crate) fn grant_select<'n>(
    tables: impl Iterator<Item = (&'n str, &'n str)> + Clone,
    user: &str,
) -> String {
    let role = quote::ident(user);
    let schemas: BTreeSet<String> = tables.clone().map(|(schema, _)| quote::ident(schema)).collect();
    let schemas: Vec<String> = schemas.into_iter().collect();
    let tables: Vec<String> = tables.map(|(schema, name)| quote::qualified(schema, name)).collect();
    format!(
        "GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT ON {} TO {role}",
        schemas.join(", "),
        tables.join(", ")
    )
}

/// Policies are in force for the agent's role, and it does not take the rows that they show for all there are.
pub(crate) fn row_security(at: &str, table: &str, user: &str, report: &mut Report) {
    report.error(
        format!("{at}: row security of table {table} is in force for role \"{user}\""),
        format!("Run there as superuser: ALTER ROLE {} BYPASSRLS.", quote::ident(user)),
    );
}

/// Slaves on one server share its prepared transactions.
fn enough_prepared(servers: &[(&Slave, Server)], report: &mut Report) {
    for (i, (slave, server)) in servers.iter().enumerate() {
        let same = |other: &&(&Slave, Server)| other.1.identity == server.identity && other.0.two_phase;
        if !slave.two_phase || servers[..i].iter().any(|other| same(&other)) {
            continue;
        }
        let needed = servers.iter().filter(same).count();
        if server.max_prepared == 0 {
            report.error(
                format!("slave \"{}\": max_prepared_transactions is 0 on its server ({})", slave.name, slave.dsn),
                format!(
                    "Set max_prepared_transactions = {} or more in postgresql.conf of that server and restart it, or \
                     set two_phase = false for the slave in agent.toml.",
                    needed.max(10)
                ),
            );
        } else if (server.max_prepared as usize) < needed {
            report.error(
                format!(
                    "slave \"{}\": max_prepared_transactions is {} on its server, which holds {needed} slaves",
                    slave.name, server.max_prepared
                ),
                format!("Set max_prepared_transactions = {needed} or more in postgresql.conf there and restart it."),
            );
        }
    }
}

/// Checks the master; None when it cannot be asked what it captures.
fn master_facts(master: &mut Client, report: &mut Report) -> Result<Option<MasterFacts>> {
    let failed = |e| Error::from_pg("could not check the master", e);
    let server = Server::read(master, "the master")?;
    if server.in_recovery {
        report.error(
            "master: the server is a standby and cannot be written to",
            "Connect to its primary, for example with target_session_attrs=read-write and both hosts in the dsn.",
        );
    }
    let version: Option<String> = master
        .query_opt("select extversion from pg_extension where extname = 'pyreplica'", &[])
        .map_err(failed)?
        .map(|row| row.get(0));
    let own = env!("CARGO_PKG_VERSION");
    match version {
        None => {
            report.error(
                format!("master: extension pyreplica is not installed in database \"{}\"", server.database),
                "Run CREATE EXTENSION pyreplica there.",
            );
            return Ok(None);
        }
        Some(version) if version != own => report.error(
            format!("master: extension pyreplica has version {version}, the agent has {own}"),
            format!("Install {own} there and run ALTER EXTENSION pyreplica UPDATE, or use the agent of {version}."),
        ),
        Some(_) => {}
    }
    let lacking: Vec<String> =
        master.query_one(include_str!("sql/agent_rights.sql"), &[]).map_err(failed)?.get(0);
    if !lacking.is_empty() {
        report.error(
            format!("master: role \"{}\" may not use the log: {} lacking", server.user, lacking.join(", ")),
            format!(
                "Run as superuser: SELECT pyreplica.allow_agent({})",
                quote::literal(&quote::ident(&server.user))
            ),
        );
    }
    for row in master.query(include_str!("sql/disabled_triggers.sql"), &[]).map_err(failed)? {
        let (table, trigger, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        report.error(
            format!("master: trigger {trigger} on table {table} is disabled: its {kind} are not replicated"),
            format!("Run ALTER TABLE {table} ENABLE TRIGGER {trigger}; if it was written to meanwhile, copy the slaves again."),
        );
    }
    for row in master.query(include_str!("sql/missing_truncate.sql"), &[]).map_err(failed)? {
        let table: String = row.get(0);
        report.warning(
            format!(
                "master: table {table} has no trigger for TRUNCATE: a TRUNCATE of it alone is not replicated"
            ),
            "TRUNCATE the table above it instead, or remove it with pyreplica.remove_table and add it again.",
        );
    }
    for row in master.query(include_str!("sql/incomplete_triggers.sql"), &[]).map_err(failed)? {
        let table: String = row.get(0);
        report.error(
            format!("master: some of the triggers of table {table} were dropped: its changes are not all replicated"),
            format!("Run SELECT pyreplica.remove_table({}), add it again and copy it again.", quote::literal(&table)),
        );
    }
    let tables = captured_tables(master)?;
    if tables.is_empty() {
        report.warning("master: no table is captured", "Begin with SELECT pyreplica.add_table('...').");
    }
    let mut shapes = shapes(master, "the master", &tables, &["SELECT"])?;
    part::keep_sent(&mut shapes, &tables);
    for table in &tables {
        let name = table.full_name();
        if table.key_columns.is_empty() {
            report.error(
                format!("master: table {name} is captured but has no primary key any more"),
                format!("Run ALTER TABLE {} ADD PRIMARY KEY (...).", table.quoted()),
            );
        }
        let Some(shape) =
            shapes.iter().find(|shape| shape.schema == table.schema && shape.name == table.name)
        else {
            continue;
        };
        if shape.row_security {
            row_security("master", &name, &server.user, report);
        }
        if let (Some(condition), true) = (table.part.condition(), shape.missing_rights.is_empty()) {
            // To plan is to look for the right to call its functions.
            let plan = format!("explain select from {}", table.part.source(&table.quoted(), None));
            if let Err(e) = master.batch_execute(&plan) {
                let e =
                    Error::from_pg(format!("master: the row filter of table {name} cannot be evaluated"), e);
                report.error(
                    format!("{e:#}"),
                    format!("Grant role \"{}\" what it needs for: {condition}.", server.user),
                );
            }
        }
        if shape.unlogged {
            report.error(
                format!(
                    "master: table {name} is captured but unlogged: a crash empties it, and not the slaves"
                ),
                format!("Run ALTER TABLE {} SET LOGGED.", table.quoted()),
            );
        }
    }
    let hidden: Vec<_> = tables
        .iter()
        .filter(|table| {
            let same = |shape: &&Shape| shape.schema == table.schema && shape.name == table.name;
            shapes.iter().find(same).is_some_and(|shape| !shape.missing_rights.is_empty())
        })
        .collect();
    if !hidden.is_empty() {
        let names: Vec<_> = hidden.iter().map(|table| table.full_name()).collect();
        let which = hidden.iter().map(|table| (table.schema.as_str(), table.name.as_str()));
        report.error(
            format!("master: role \"{}\" may not read captured tables: {}", server.user, names.join(", ")),
            format!("Run {}.", grant_select(which, &server.user)),
        );
    }
    let (schemas, names): (Vec<_>, Vec<_>) =
        tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())).unzip();
    let hidden = master
        .query(include_str!("sql/hidden_partitions.sql"), &[&schemas, &names])
        .map_err(failed)?
        .iter()
        .map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3))))
        .collect();
    let columns = check_mapping::read_columns(master, &tables)?;
    let sequences = if lacking.is_empty() { sequences::on_master(master, None)? } else { Vec::new() };
    let route = Route::from(master)?;
    let sources = route.sources(master)?;
    Ok(Some(MasterFacts { server, tables, shapes, hidden, columns, sequences, route, sources }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_all_and_counts() {
        let mut report = Report::default();
        report.passed.push("master: fine".into());
        report.warning("w", "");
        report.error("first", "Do this.");
        report.error("second", "");
        assert_eq!(
            report.to_string(),
            "master: fine\nWARNING:  w\nERROR:  first\nHINT:  Do this.\nERROR:  second\n2 errors, 1 warning\n"
        );
        assert!(!report.is_ok());
        let e = report.into_result().unwrap_err();
        assert_eq!((e.message(), e.hint_text()), ("first", Some("Do this.")));
    }
}
