//! What tables need that are captured and not yet on the slave: to wait for what may make them, to be made, to be copied.
//!
//! In: the captured tables. Out: those that the slave is to have are there, with a snapshot from which the stream goes on.

use super::{Ended, Member};
use crate::again;
use crate::check_mapping;
use crate::control::Control;
use crate::copy::{CapturedTable, Crew, Manner, Master, Moment};
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::mapping::Mapping;
use crate::pipe::Pipe;
use crate::report::State;
use crate::schema::{self, Pending};
use crate::session;

impl Member {
    /// A predecessor died while it copied tables that it had made. Without their keys, which are made afterwards, the
    /// stream would look through such a table for each row that it changes: so first the copy is finished. Where it cannot
    /// be, since a statement in the stream is to alter a table, the keys are made now.
    pub fn finish_copy(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        let Context { config, stop, cancels, .. } = context;
        let slave = config.slave(&self.session.name)?;
        let (name, claim) = (&slave.name, self.session.claim());
        let (client, tables) = self.session.parts()?;
        if !schema::is_pending(client, config.agent_name(), name, Pending::Rest)? {
            return Ok(());
        }
        log::info!("slave \"{name}\": goes on with the copy that was cut off");
        let mut made = control.captured()?;
        let mut there = oids(client, name, tables.mapping(), &made)?.into_iter();
        made.retain(|_| there.next() != Some(None));
        tables.all_due(&made);
        match self.bring_new_tables(context, control) {
            Err(e) if !matches!(e.kind(), Kind::Stopped | Kind::Connection) => {
                log::warn!(
                    "slave \"{name}\": could not go on with the copy before what was changed since: {e}"
                );
                schema::finish(config, slave, Pending::Rest, stop, cancels, &claim)
            }
            copied => copied,
        }
    }

    /// The stream may hold a statement that makes a table which the slave lacks, or that gives one the shape which the
    /// master's has: before new tables are copied, all is applied that is there now. Where foreign keys are looked at, that
    /// ends at the moment as of which they are to be copied.
    pub fn wait_for_new_tables(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        let missing = self.awaits_new_tables(control)?;
        if missing.is_empty() {
            return Ok(());
        }
        // These came to light on the way to one that was held for others: the stream is about to pass it.
        control.moment = None;
        let now = control.state()?.now;
        while self.stream(context, control, Some(&now))? != Ended::Target {}
        if self.looks_at_foreign_keys()? {
            self.make_new_tables(context, control, &missing)?;
            // Only now: the tables are locked until they are copied.
            let target = control.moment.insert(Moment::hold(context, &missing)?).target.clone();
            while self.stream(context, control, Some(&target))? != Ended::Target {}
            control.moment_is_reached();
        }
        self.new_tables_arrived()
    }

    pub fn looks_at_foreign_keys(&mut self) -> Result<bool> {
        let name = self.session.name.clone();
        let (client, _) = self.session.parts()?;
        let replica = session::is_replica(client)
            .map_err(|e| Error::from_pg(format!("could not read the settings of slave \"{name}\""), e))?;
        Ok(!replica)
    }

    /// Which tables are there to copy? None if that was known. Their changes are skipped until they have arrived. What a
    /// statement fills its table with, the copy replaces.
    pub fn awaits_new_tables(&mut self, control: &mut Control) -> Result<Vec<CapturedTable>> {
        let captured = control.captured()?;
        let name = &self.session.name.clone();
        let (client, tables) = self.session.parts()?;
        let missing = tables.settle(client, &captured)?;
        let absent = absent(client, name, tables.mapping(), missing.clone())?;
        for table in &absent {
            again::request(client, tables.agent(), name, table)?;
        }
        tables.wait_for(&missing, absent);
        // What was awaited before, when these came to light, comes along.
        Ok(if missing.is_empty() { missing } else { tables.awaited(captured) })
    }

    /// All is applied that could make them.
    pub fn new_tables_arrived(&mut self) -> Result<()> {
        let name = &self.session.name.clone();
        let (client, tables) = self.session.parts()?;
        let waited = tables.arrived();
        for table in absent(client, name, tables.mapping(), waited)? {
            again::forget(client, tables.agent(), name, &table)?;
        }
        Ok(())
    }

    /// Makes those of the tables that the slave lacks, if that is the agent's to do. No moment is held: pg_dump locks the
    /// tables by a session of its own.
    pub fn make_new_tables(
        &mut self,
        context: &Context,
        control: &mut Control,
        missing: &[CapturedTable],
    ) -> Result<()> {
        let Context { config, stop, cancels, .. } = context;
        let slave = config.slave(&self.session.name)?;
        if !slave.schema {
            return Ok(());
        }
        schema::create(config, slave, &mut control.client, missing, stop, cancels, &self.session.claim())
    }

    /// Copies the tables that are captured and not yet here, and makes what comes after their rows.
    pub fn bring_new_tables(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        self.copy_new_tables(context, control)?;
        control.end_moment();
        self.finish_new_tables(context)
    }

    /// Copies them, as of the moment that is held, if one is.
    pub fn copy_new_tables(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        // What the stream has brought since then it would not bring again.
        let position = &self.position.snapshot;
        control.moment.take_if(|moment| !moment.target.snapshot.includes(position));
        let captured = control.captured()?;
        let Context { config, stop, cancels, .. } = context;
        let slave = config.slave(&self.session.name)?;
        let (name, claim) = (&slave.name, self.session.claim());
        check_mapping::refuse(&mut control.client, slave, &captured)?;
        let (client, tables) = self.session.parts()?;
        let mut missing = tables.settle(client, &captured)?;
        // One that was added since then may be made by a statement that the slave has not come to, and is not locked.
        let moment = control.moment.as_ref();
        let is_held = |table: &_| moment.is_none_or(|moment| moment.holds(table));
        missing.retain(|table| tables.is_due(table) && is_held(table));
        if !missing.is_empty() {
            self.reporter.state(control, State::Copying)?;
            if control.moment.is_none() {
                self.make_new_tables(context, control, &missing)?;
            }
            let (client, tables) = self.session.parts()?;
            // Held or in part copied by a predecessor that died, or made anew, they hold what is to be replaced.
            let asked = again::requested(client, config.agent_name(), name)?;
            let there = oids(client, name, tables.mapping(), &missing)?;
            let manner = |(table, oid): (CapturedTable, Option<u32>)| {
                let replaced = asked.contains(&(table.schema.clone(), table.name.clone()))
                    || tables.is_remade(&table, oid);
                (table, if replaced { Manner::Anew } else { Manner::First })
            };
            let missing = missing.into_iter().zip(there).map(manner).collect();
            let master = match &mut control.moment {
                Some(moment) => Master::Held(moment),
                None => Master::Free(&mut control.client),
            };
            let (copied, result) = Crew { config, slave, stop, cancels, claim: &claim }.copy(master, missing);
            for copied in &copied {
                tables.add_copied(copied)?;
            }
            result?;
        }
        Ok(())
    }

    /// What `schema = true` makes when the rows are there.
    pub fn finish_new_tables(&mut self, context: &Context) -> Result<()> {
        let Context { config, stop, cancels, .. } = context;
        let slave = config.slave(&self.session.name)?;
        let name = &slave.name;
        let (client, _) = self.session.parts()?;
        if schema::is_pending(client, config.agent_name(), name, Pending::Rest)? {
            schema::finish(config, slave, Pending::Rest, stop, cancels, &self.session.claim())?;
        }
        Ok(())
    }

    /// Foreign keys of tables that were copied under different snapshots: first the stream brings all to one moment.
    pub fn finish_schema(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        let Context { config, stop, cancels, .. } = context;
        let slave = config.slave(&self.session.name)?;
        let (client, _) = self.session.parts()?;
        if !schema::is_pending(client, config.agent_name(), &slave.name, Pending::Late)? {
            return Ok(());
        }
        let now = control.state()?.now;
        while self.stream(context, control, Some(&now))? != Ended::Target {}
        schema::finish(config, slave, Pending::Late, stop, cancels, &self.session.claim())
    }

    /// The stream named this table, which the slave did not have.
    pub fn settle_unknown(&mut self, control: &mut Control, (schema, name): (&str, &str)) -> Result<()> {
        let (client, tables) = self.session.parts()?;
        // What another member of the group met, this one may have or will meet.
        if let Some(oid) = tables.met(schema, name) {
            tables.settle_unknown(client, schema, name, oid, control.captured_as(oid)?)?;
        }
        Ok(())
    }
}

/// Those of the tables that the slave does not have.
fn absent(
    client: &mut Pipe,
    slave: &str,
    mapping: &Mapping,
    mut tables: Vec<CapturedTable>,
) -> Result<Vec<CapturedTable>> {
    let mut there = oids(client, slave, mapping, &tables)?.into_iter();
    tables.retain(|_| there.next() == Some(None));
    Ok(tables)
}

/// The tables' oids on the slave, in their order; `None` for those that it does not have.
fn oids(
    client: &mut Pipe,
    slave: &str,
    mapping: &Mapping,
    tables: &[CapturedTable],
) -> Result<Vec<Option<u32>>> {
    let (schemas, names): (Vec<String>, Vec<String>) =
        tables.iter().map(|table| mapping.target(&table.schema, &table.name)).unzip();
    let row = client
        .query_one(
            "select array(select to_regclass(format('%I.%I', s, n))::oid
                            from unnest($1::text[], $2::text[]) with ordinality t(s, n, place) order by place)",
            &[&schemas, &names],
        )
        .map_err(|e| Error::from_pg(format!("could not look for new tables on slave \"{slave}\""), e))?;
    Ok(row.get(0))
}
