//! The checks of one slave: its server, its tables against the master's, rights, and what may surprise there.
//!
//! In: a session on the slave and the facts of the master. Out: findings in the `Report`. Changes nothing.

use postgres::Client;

use crate::check::{grant_select, row_security, MasterFacts, Report, Server};
use crate::check_mapping;
use crate::check_sequences;
use crate::config::{Config, Initial, Slave};
use crate::copy::CapturedTable;
use crate::error::{Error, Result};
use crate::mapping::{Name, Rule};
use crate::quote;
use crate::session::replication_role_grant;
use crate::shape::{shapes, Shape};
use crate::twice;

/// What the applier needs on a table.
const RIGHTS: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];

pub(crate) fn check(
    client: &mut Client,
    config: &Config,
    slave: &Slave,
    facts: Option<&MasterFacts>,
    report: &mut Report,
) -> Result<Server> {
    let at = format!("slave \"{}\"", slave.name);
    let server = Server::read(client, &at)?;
    if server.in_recovery {
        report.error(
            format!("{at}: the server is a standby and cannot be written to"),
            "Connect to its primary.",
        );
    }
    let failed = |e| Error::from_pg(format!("could not check {at}"), e);
    let silent: bool = client
        .query_one("select current_setting('session_replication_role') = 'replica'", &[])
        .map_err(failed)?
        .get(0);
    if !silent {
        report.warning(
            format!("{at}: role \"{}\" may not set session_replication_role, so triggers and foreign keys there fire for replicated changes too", server.user),
            format!("Run there as superuser: {}", replication_role_grant(&server.user)),
        );
    }
    // One part that cannot be looked at does not hide the others.
    let part = |result: std::result::Result<(), postgres::Error>, report: &mut Report| {
        if let Err(e) = result {
            report.failed(&failed(e));
        }
    };
    part(own_schema(client, &at, &server, report), report);
    part(unread_log(client, &at, report), report);
    part(orphans(client, &at, config.agent_name(), slave, report), report);
    let Some(facts) = facts else { return Ok(server) };

    if (&server.identity, &server.database) == (&facts.server.identity, &facts.server.database) {
        report.error(
            format!(
                "{at} is the master itself: both are database \"{}\" of the same server",
                server.database
            ),
            "Correct the dsn of the slave.",
        );
        return Ok(server);
    }
    let mut route = facts.route.clone();
    route.find_slave(client, &slave.name).unwrap_or_else(|e| report.failed(&e));
    let other_ways = route.other_ways(client, config.agent_name(), &slave.name, &facts.sources);
    for (node, agents) in other_ways.map_err(failed)? {
        report.warning(
            format!("{at}: changes made on node \"{node}\" come by agent {agents} as well"),
            "Unless they are of different tables they come twice: let only one of the two masters forward them.",
        );
    }
    // UTF8 takes every character and SQL_ASCII every byte; but not every byte is a character.
    let (theirs, ours) = (facts.server.encoding.as_str(), server.encoding.as_str());
    if theirs != ours && (theirs == "SQL_ASCII" || !matches!(ours, "UTF8" | "SQL_ASCII")) {
        report.warning(
            format!("{at}: its encoding is {ours}, that of the master {theirs}"),
            "Text that the slave's encoding cannot hold stops it; create its database with the master's encoding.",
        );
    }
    let mapping = &slave.mapping;
    check_mapping::names(mapping, &facts.tables, &at, report);
    // As the master calls them, and as they are to be found here.
    let wanted = mapping.wanted(facts.tables.clone());
    let tables: Vec<CapturedTable> = wanted.iter().map(|table| mapping.on_slave(table)).collect();
    if is_on_record(client).map_err(failed)? {
        let system_identifier = &facts.server.system_identifier;
        twice::refuse(client, config.agent_name(), &slave.name, system_identifier, &wanted)
            .unwrap_or_else(|e| report.failed(&e));
    }
    let shapes = shapes(client, &at, &tables, RIGHTS)?;
    let mut to_make = Vec::new();
    for (on_master, table) in wanted.iter().zip(&tables) {
        let of = |shapes: &'_ [Shape], table: &CapturedTable| {
            shapes.iter().position(|s| s.schema == table.schema && s.name == table.name)
        };
        match (of(&facts.shapes, on_master), of(&shapes, table)) {
            (Some(shape), Some(here)) => {
                let rule = mapping.rule(&on_master.schema, &on_master.name).map(|rule| &**rule);
                compare(table, rule, &facts.shapes[shape], &shapes[here], &at, &server.user, report);
            }
            (Some(_), None) if slave.schema => {
                to_make.push(table.schema.as_str());
                may_dump(on_master, facts, &at, report);
            }
            (Some(_), None) => report.error(
                format!("{at}: table {} does not exist", table.full_name()),
                "Create it as on the master; pg_dump --schema-only writes the statements.",
            ),
            (None, _) => {}
        }
    }
    for (table, columns) in facts.tables.iter().zip(&facts.columns) {
        if mapping.wants(&table.schema, &table.name) {
            check_mapping::expressions(client, mapping, (table, columns), &at, report)?;
        }
    }
    part(may_make(client, &at, &server, &to_make, report), report);
    part(firing(client, &at, silent, &tables, report), report);
    if silent {
        part(unchecked(client, &at, &tables, report), report);
    }
    if slave.sequences {
        check_sequences::check(client, slave, &server.user, facts, report)?;
    }
    if slave.initial == Initial::Copy {
        part(filled(client, &at, config.agent_name(), slave, &wanted, &shapes, report), report);
    }
    Ok(server)
}

/// The table of the slave must take every row of the master's and find it again by its key.
fn compare(
    table: &CapturedTable,
    rule: Option<&Rule>,
    on_master: &Shape,
    here: &Shape,
    at: &str,
    user: &str,
    report: &mut Report,
) {
    let name = table.full_name();
    let quoted = table.quoted();
    if !here.is_table() {
        report.error(format!("{at}: {name} is not a table"), "Replace it by a table like the master's.");
        return;
    }
    if !here.missing_rights.is_empty() {
        let role = quote::ident(user);
        report.error(
            format!("{at}: role \"{user}\" lacks rights on table {name}: {}", here.missing_rights.join(", ")),
            format!(
                "Run there: GRANT USAGE ON SCHEMA {} TO {role}; GRANT {} ON {quoted} TO {role}.",
                quote::ident(&table.schema),
                RIGHTS.join(", ")
            ),
        );
    }
    if here.row_security {
        row_security(at, &name, user, report);
    }
    let values = rule.map(|rule| &rule.values);
    let computed = |name: &str| values.is_some_and(|values| values.contains_key(name));
    let sent = check_mapping::sent(rule, on_master);
    for &(column, taken) in &sent {
        match here.column(taken) {
            None => report.error(
                format!("{at}: table {name} has no column \"{taken}\""),
                format!(
                    "Run there: ALTER TABLE {quoted} ADD COLUMN {} {}. Or leave it out with columns = {{ {:?} = false }} \
                     in a [[slave.table]].",
                    quote::ident(taken),
                    column.type_name,
                    column.name
                ),
            ),
            Some(other) if other.generated => report.error(
                format!("{at}: column \"{taken}\" of table {name} is generated, that of the master is not"),
                "Make it an ordinary column on the slave.",
            ),
            Some(other) if other.type_name != column.type_name => report.warning(
                format!(
                    "{at}: column \"{taken}\" of table {name} has type {}, that of the master {}",
                    other.type_name, column.type_name
                ),
                "Values are cast, which may round or cut them; \"verify\" finds such rows. One that cannot be cast stops the slave.",
            ),
            Some(_) => {}
        }
    }
    if let Some(rule) = rule {
        check_mapping::columns(rule, table, on_master, here, &sent, at, report);
    }
    for column in &here.columns {
        let sent = sent.iter().any(|(_, name)| *name == column.name) || computed(&column.name);
        let generated_there = on_master.column(&column.name).is_some_and(|there| there.generated);
        if !sent && generated_there && !column.generated {
            report.warning(
                format!(
                    "{at}: column \"{}\" of table {name} is generated on the master, which does not send it",
                    column.name
                ),
                "Make it generated on the slave too, or compute it there with values in a [[slave.table]]; else it stays \
                 NULL or at its default.",
            );
        }
        if !sent && column.not_null && !column.filled && !column.generated {
            report.error(
                format!("{at}: column \"{}\" of table {name} is NOT NULL without a default, and the master does not send it", column.name),
                format!("Run there: ALTER TABLE {quoted} ALTER COLUMN {} DROP NOT NULL, or give it a default.", quote::ident(&column.name)),
            );
        }
    }
    if !table.key_columns.is_empty() && !here.has_unique(&table.key_columns) {
        let key: Vec<_> = table.key_columns.iter().map(|column| quote::ident(column)).collect();
        report.error(
            format!(
                "{at}: table {name} has no primary key or unique index on ({})",
                table.key_columns.join(", ")
            ),
            format!("Run there: ALTER TABLE {quoted} ADD PRIMARY KEY ({}).", key.join(", ")),
        );
    }
}

/// pg_dump locks each partition, which whoever reads the table above them need not be allowed to.
fn may_dump(table: &CapturedTable, facts: &MasterFacts, at: &str, report: &mut Report) {
    let user = &facts.server.user;
    let of_it = |(whole, _): &&(Name, Name)| (&whole.0, &whole.1) == (&table.schema, &table.name);
    let hidden =
        facts.hidden.iter().filter(of_it).map(|(_, (schema, name))| (schema.as_str(), name.as_str()));
    let names: Vec<String> = hidden.clone().map(|(schema, name)| format!("{schema}.{name}")).collect();
    if !names.is_empty() {
        report.error(
            format!(
                "{at}: role \"{user}\" may not read on the master all that pg_dump needs to make table {}: {}",
                table.full_name(),
                names.join(", ")
            ),
            format!("Run on the master: {}.", grant_select(hidden, user)),
        );
    }
}

/// The agent is to make tables in these schemas.
fn may_make(
    client: &mut Client,
    at: &str,
    server: &Server,
    schemas: &[&str],
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    let rows = client.query(
        "select distinct s, n.oid is not null
           from unnest($1::text[]) s left join pg_namespace n on n.nspname = s
          where not case when n.oid is null then has_database_privilege(current_database(), 'CREATE')
                         else has_schema_privilege(n.oid, 'CREATE') end",
        &[&schemas],
    )?;
    let role = quote::ident(&server.user);
    for row in rows {
        let (schema, exists): (String, bool) = (row.get(0), row.get(1));
        let object = match exists {
            true => format!("SCHEMA {}", quote::ident(&schema)),
            false => format!("DATABASE {}", quote::ident(&server.database)),
        };
        report.error(
            format!("{at}: role \"{}\" may not make the tables of schema \"{schema}\"", server.user),
            format!("Run there: GRANT CREATE ON {object} TO {role}."),
        );
    }
    Ok(())
}

/// The agent's own tables: there and usable, or it may create them.
fn own_schema(
    client: &mut Client,
    at: &str,
    server: &Server,
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    let row = client.query_one(include_str!("sql/own_schema_rights.sql"), &[])?;
    let (exists, lacking): (bool, Vec<String>) = (row.get(0), row.get(1));
    let role = quote::ident(&server.user);
    if exists && !lacking.is_empty() {
        report.error(
            format!("{at}: role \"{}\" may not use the agent's own schema: {} lacking", server.user, lacking.join(", ")),
            format!(
                "Run there: GRANT USAGE ON SCHEMA pyreplica_agent TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL \
                 TABLES IN SCHEMA pyreplica_agent TO {role}."
            ),
        );
    } else if !exists && !lacking.is_empty() {
        report.error(
            format!("{at}: role \"{}\" may not create the agent's schema in database \"{}\"", server.user, server.database),
            format!(
                "Run there: GRANT CREATE ON DATABASE {} TO {role}, or CREATE SCHEMA pyreplica_agent AUTHORIZATION {role}.",
                quote::ident(&server.database)
            ),
        );
    }
    Ok(())
}

/// A restored dump of the master keeps the capturing triggers: local writes there fill a log that nobody reads.
fn unread_log(
    client: &mut Client,
    at: &str,
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    if let Some(row) = client.query_opt(include_str!("sql/own_log_size.sql"), &[])? {
        let size: String = row.get(0);
        report.warning(
            format!("{at}: it has a log of its own of {size}, which grows unread by what is written there directly"),
            "If nothing replicates from it, run DROP EXTENSION pyreplica CASCADE there.",
        );
    }
    Ok(())
}

fn orphans(
    client: &mut Client,
    at: &str,
    agent: &str,
    slave: &Slave,
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    let prefix = format!("pyreplica:{agent}:{}:", slave.name);
    let rows = client.query(
        "select gid, to_char(prepared, 'YYYY-MM-DD HH24:MI:SS TZ') from pg_prepared_xacts
          where database = current_database() and starts_with(gid, $1) and prepared < now() - interval '1 minute'
          order by prepared",
        &[&prefix],
    )?;
    for row in rows {
        let (gid, since): (String, String) = (row.get(0), row.get(1));
        report.warning(
            format!("{at}: transaction \"{gid}\" is prepared since {since} and holds its locks"),
            "The agent settles it when it runs; start it. If it does run, look at its log.",
        );
    }
    Ok(())
}

/// Can it be read which tables have been copied, and by whom?
pub(crate) fn is_on_record(client: &mut Client) -> std::result::Result<bool, postgres::Error> {
    let readable = "select coalesce(bool_and(has_table_privilege(t, 'SELECT')), false)
                      from unnest(array[to_regclass('pyreplica_agent.copied_table'), to_regclass('pyreplica_agent.position')]) t
                     having count(t) = 2";
    Ok(client.query_opt(readable, &[])?.is_some_and(|row| row.get(0)))
}

/// Triggers and rules that act on what is applied.
fn firing(
    client: &mut Client,
    at: &str,
    silent: bool,
    tables: &[CapturedTable],
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    let schemas: Vec<_> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    let enabled = if silent { "AR" } else { "OA" };
    for row in client.query(include_str!("sql/firing.sql"), &[&schemas, &names, &enabled])? {
        let (kind, name, table): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let verb = if silent { "ENABLE" } else { "DISABLE" };
        report.warning(
            format!("{at}: {} {name} on table {table} fires for replicated changes", kind.to_lowercase()),
            format!("If that is not wanted: ALTER TABLE {table} {verb} {kind} {name}."),
        );
    }
    Ok(())
}

/// PostgreSQL checks a deferrable key by a trigger, which rests in the agent's session.
fn unchecked(
    client: &mut Client,
    at: &str,
    tables: &[CapturedTable],
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    let schemas: Vec<_> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    for row in client.query(include_str!("sql/deferrable.sql"), &[&schemas, &names])? {
        let (constraint, table): (String, String) = (row.get(0), row.get(1));
        report.warning(
            format!("{at}: constraint {constraint} of table {table} is deferrable, so it is not checked for replicated changes"),
            "Rows of the slave's own that are in the way of the master's are not noticed: see that there are none.",
        );
    }
    Ok(())
}

/// Before the initial copy its tables must be empty; afterwards they are not looked at.
fn filled(
    client: &mut Client,
    at: &str,
    agent: &str,
    slave: &Slave,
    tables: &[CapturedTable],
    here: &[Shape],
    report: &mut Report,
) -> std::result::Result<(), postgres::Error> {
    let readable: bool = client
        .query_one(
            "select exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                             where n.nspname = 'pyreplica_agent' and c.relname = 'copy_request'
                               and has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT'))",
            &[],
        )?
        .get(0);
    let copied: Vec<(String, String)> = if readable {
        client
            .query(
                // What is being copied again holds what it is to lose.
                "select schema_name, table_name from pyreplica_agent.copied_table where agent = $1 and slave = $2
                 union select schema_name, table_name from pyreplica_agent.copy_request where agent = $1 and slave = $2",
                &[&agent, &slave.name],
            )?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect()
    } else {
        Vec::new()
    };
    let mut filled = Vec::new();
    for table in tables {
        let there = slave.mapping.on_slave(table);
        let shape = here.iter().find(|shape| shape.schema == there.schema && shape.name == there.name);
        let can_be_read =
            |shape: &&Shape| shape.is_table() && shape.missing_rights.is_empty() && !shape.row_security;
        let Some(shape) = shape.filter(can_be_read) else { continue };
        if copied.iter().any(|(schema, name)| *schema == table.schema && *name == table.name) {
            continue;
        }
        let holds: bool = client
            .query_one(&format!("select exists (select from {}{})", shape.only(), there.quoted()), &[])?
            .get(0);
        if holds {
            filled.push(there.full_name());
        }
    }
    if !filled.is_empty() {
        report.error(
            format!("{at}: initial is \"copy\", and these tables already hold rows: {}", filled.join(", ")),
            "TRUNCATE them there, or run \"replica_agent copy\", which empties all captured tables, or set \
             initial = \"current\" if both sides are in step.",
        );
    }
    Ok(())
}
