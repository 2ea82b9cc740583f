//! Copies a table of a slave again while the stream of the slave goes on.
//!
//! In: a row of `pyreplica_agent.copy_request`, written by `replica_agent copy --table`. Out: the table as on the master,
//! and the row gone, or with the error.
//!
//! # How
//!
//! 1. At a position Q the table is held: its rows of `copied_table` are deleted, and the stream skips its changes. The
//!    master is told nothing later than Q, so its log keeps what follows.
//! 2. A thread copies it under a snapshot `Sc`, in a transaction of its own that replaces the rows there.
//! 3. The stream goes on to what is committed then, a position P whose snapshot sees nothing else. One transaction of
//!    the slave sets the position back to Q, and says that the table was copied under `Sc` and all the others, and
//!    queued statements, under P's snapshot. So the stream goes once more over what lies between, applies of it what
//!    the table lacks and skips the rest.
//!
//! If the copy fails, 3 takes the old snapshot in place of `Sc`, and the table catches up as it was. A crash before 3 leaves
//! a table that is not in `copied_table` and asked for: it is copied at the next start, before the stream begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver};
use postgres::Client;

use crate::commit::Claim;
use crate::control::Control;
use crate::copy::{CapturedTable, CopiedTable, Crew, Manner, Master};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::feed::Context;
use crate::logging;
use crate::member::{Ended, Member};
use crate::pipe::Pipe;
use crate::pipeline::guarded;
use crate::position::Position;
use crate::session;
use crate::tables::Tables;
use crate::wake::Stop;

/// A table at hand.
pub struct Again {
    table: CapturedTable,
    /// Where the stream stood when the table was held.
    from: Position,
    result: Receiver<Result<CopiedTable>>,
    quit: Stop,
}

/// Whoever lets go of the slave leaves nobody behind who copies to it.
impl Drop for Again {
    fn drop(&mut self) {
        self.quit.set();
    }
}

type Name = (String, String);

fn failed(slave: &str, e: postgres::Error) -> Error {
    Error::from_pg(format!("could not read or write the copy requests of slave \"{slave}\""), e)
}

/// Asks the agent that serves the slave to copy a table again.
pub fn request(client: &mut Pipe, agent: &str, slave: &str, table: &CapturedTable) -> Result<()> {
    client
        .execute(include_str!("sql/request_copy.sql"), &[&agent, &slave, &table.schema, &table.name])
        .map_err(|e| failed(slave, e))?;
    Ok(())
}

/// The tables that are asked for and have not failed.
pub fn requested(client: &mut Pipe, agent: &str, slave: &str) -> Result<BTreeSet<Name>> {
    let rows = client
        .query(
            "select schema_name, table_name from pyreplica_agent.copy_request
              where agent = $1 and slave = $2 and error is null",
            &[&agent, &slave],
        )
        .map_err(|e| failed(slave, e))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// What became of a request: the error if there is one, `None` while it stands, or when it is done.
pub fn error_of(
    client: &mut Pipe,
    agent: &str,
    slave: &str,
    table: &CapturedTable,
) -> Result<Option<String>> {
    let row = client
        .query_opt(
            "select error from pyreplica_agent.copy_request
              where agent = $1 and slave = $2 and schema_name = $3 and table_name = $4",
            &[&agent, &slave, &table.schema, &table.name],
        )
        .map_err(|e| failed(slave, e))?;
    Ok(row.and_then(|row| row.get(0)))
}

/// The request is done, or nobody waits for it any more.
pub fn forget(client: &mut Pipe, agent: &str, slave: &str, table: &CapturedTable) -> Result<()> {
    client
        .execute(include_str!("sql/forget_copy_request.sql"), &[&agent, &slave, &table.schema, &table.name])
        .map_err(|e| failed(slave, e))?;
    Ok(())
}

fn note_error(client: &mut Pipe, agent: &str, slave: &str, (schema, name): &Name, text: &str) -> Result<()> {
    client
        .execute(
            "update pyreplica_agent.copy_request set error = $5
              where agent = $1 and slave = $2 and schema_name = $3 and table_name = $4",
            &[&agent, &slave, schema, name, &text],
        )
        .map_err(|e| failed(slave, e))?;
    Ok(())
}

impl Member {
    /// How soon it is to be asked whether a copy is done.
    pub(crate) fn copying_again(&self) -> Option<Duration> {
        self.again.as_ref().map(|_| Duration::from_millis(500))
    }

    /// Between two batches: takes up a request, if none is at hand.
    pub(crate) fn begin_again(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        let (agent, slave) = (context.config.agent_name(), self.session.name.clone());
        if self.again.is_some() {
            return Ok(());
        }
        let (client, tables) = self.session.parts()?;
        let Some(name) = requested(client, agent, &slave)?.into_iter().next() else { return Ok(()) };
        let captured = tables.mapping().wanted(control.captured()?);
        let Some(table) = captured.into_iter().find(|t| (&t.schema, &t.name) == (&name.0, &name.1)) else {
            return note_error(
                client,
                agent,
                &slave,
                &name,
                "the table is not captured on the master, or left out for this slave",
            );
        };
        log::info!("slave \"{slave}\": copying table {} again", table.full_name());
        tables.hold(client, &table)?;
        self.reporter.hold(true);
        failpoint::hit("again.after_hold");

        let (sender, result) = bounded(1);
        let quit = Stop::new();
        let (context, thread_quit, copied) = (context.clone(), quit.clone(), table.clone());
        let claim = self.session.claim();
        std::thread::Builder::new()
            .name("copy".to_owned())
            .spawn(logging::inherit(move || {
                let result = guarded(|| copy_aside(&context, &slave, &claim, copied, &thread_quit));
                // Nobody waits when the slave was let go of.
                sender.send(result).ok();
            }))
            .map_err(|e| Error::new(Kind::Apply, "could not start a thread").source(e))?;
        self.again = Some(Again { table, from: self.position.clone(), result, quit });
        Ok(())
    }

    /// Between two batches: if the copy at hand is done, goes back to where it began, and gives true: the stream is to be
    /// started anew.
    pub(crate) fn finish_again(&mut self, context: &Context, control: &mut Control) -> Result<bool> {
        let Some(result) = self.again.as_ref().and_then(|again| again.result.try_recv().ok()) else {
            return Ok(false);
        };
        let Some(again) = self.again.take() else { return Ok(false) };
        // A position between two batches may have a snapshot that sees more than was applied; a target has not.
        let now = control.state()?.now;
        while self.stream(context, control, Some(&now))? != Ended::Target {}
        let (agent, slave) = (context.config.agent_name(), self.session.name.clone());
        let Again { table, from, .. } = &again;
        let (copied, error) = match result {
            Ok(copied) => (Some(copied), None),
            Err(e) => (None, Some(e)),
        };
        if let Some(e) = &error {
            log::error!("slave \"{slave}\": {}", e.report());
        }
        let level = self.position.snapshot.clone();
        let rows = self.session.tables.rewound(table, copied.as_ref(), &level)?;
        self.session.also(&mut |client| {
            for row in &rows {
                client
                    .execute(
                        include_str!("sql/copied_table.sql"),
                        &[
                            &agent,
                            &slave,
                            &row.schema,
                            &row.name,
                            &row.trigger_oid,
                            &row.snapshot,
                            &row.rows,
                            &row.table_oid,
                        ],
                    )
                    .map_err(|e| failed(&slave, e))?;
            }
            match &error {
                None => forget(client, agent, &slave, table),
                Some(e) => {
                    let name = (table.schema.clone(), table.name.clone());
                    note_error(client, agent, &slave, &name, &e.text())
                }
            }
        })?;
        failpoint::hit("again.before_commit");
        self.commit(from)?;
        let (initial, mapping) = (self.session.tables.initial(), Arc::clone(self.session.tables.mapping()));
        let (client, _) = self.session.parts()?;
        self.session.tables = Tables::load(client, agent, &slave, initial, &mapping)?;
        self.reporter.hold(false);
        failpoint::hit("again.after_commit");
        Ok(true)
    }
}

fn copy_aside(
    context: &Context,
    slave: &str,
    claim: &Claim,
    table: CapturedTable,
    quit: &Stop,
) -> Result<CopiedTable> {
    let Context { config, cancels, .. } = context;
    let slave = config.slave(slave)?;
    let mut master: Client = session::connect_master(&config.master.dsn, "copy")?;
    let _cancelable = cancels.add(&config.master.dsn, &master)?;
    let crew = Crew { config, slave, stop: quit, cancels, claim };
    let (mut copied, result) = crew.copy(Master::Free(&mut master), vec![(table, Manner::Aside)]);
    result?;
    failpoint::hit("again.after_copy");
    copied.pop().ok_or_else(|| Error::new(Kind::Stopped, "copy was stopped"))
}
