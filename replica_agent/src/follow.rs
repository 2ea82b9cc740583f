//! One slave by itself: its start, its stream, what new tables need. `group` uses the same steps for its members.
//!
//! In: the configuration of a slave. Out: the slave follows the master until it is told to stop, or has reached the
//! target of `once`. An error stops this slave only: it is reported, and tried again after a while.

use std::time::{Duration, Instant};

use crate::again::{self, Again};
use crate::applier::Applied;
use crate::check_mapping;
use crate::commit::{Committed, SlaveSession, Standing};
use crate::config::{Initial, Slave};
use crate::control::Control;
use crate::copy::{CapturedTable, Crew, Manner};
use crate::error::{Error, Kind, Result};
use crate::feed::{Context, Feed, Item, CAREFUL_BATCHES};
use crate::mapping::Mapping;
use crate::pipe::Pipe;
use crate::pipeline::Mode;
use crate::position::{Position, Target};
use crate::report::{ErrorLog, Reporter, State};
use crate::retry::{self, Backoff};
use crate::schema::{self, Pending};

/// How often a standby asks whether it is its turn.
const STANDBY: Duration = Duration::from_secs(3);
/// How long a position waits for something to be committed with.
const AHEAD_FOR: Duration = Duration::from_secs(1);
/// How long answers of the slave are let come in, before the first look for them and later on.
const FIRST_NAP: Duration = Duration::from_micros(500);
const LONGEST_NAP: Duration = Duration::from_millis(8);
/// A slave is looked after for at most one part in so many of the time.
const LOOK_SHARE: u32 = 20;
/// `once` gives up when a connection fails so often in a row.
pub const ONCE_ATTEMPTS: u32 = 3;

/// A slave that has a position, with its session, while it is served.
pub struct Member {
    pub session: SlaveSession,
    pub reporter: Reporter,
    /// Committed on the slave.
    pub position: Position,
    /// What is copied again meanwhile.
    pub(crate) again: Option<Again>,
}

/// Why a stream ended without an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Target,
    /// Tables are there that the slave does not have.
    NewTables,
    /// What was applied with care is applied: transactions can be joined again.
    Passed,
}

/// What is left to do after a life without an error.
pub enum Served {
    Done,
    /// Go on with transactions joined.
    Passed,
}

impl Member {
    /// Takes over a slave that has been recovered: finds its position, or takes the first one, and brings its tables.
    pub fn start(context: &Context, control: &mut Control, mut session: SlaveSession) -> Result<Self> {
        let standing = session.standing()?;
        let resumes = standing.is_some();
        let position = match standing {
            Some(standing) => resume(control, &mut session, standing)?,
            None => {
                let captured = control.captured()?;
                session.tables.all_due(&captured);
                begin(control, &mut session)?
            }
        };
        // The predecessor may have died before it was.
        session.make_durable()?;
        let total = context.totals.of(&session.name);
        session.count_to(total.clone());
        let teller = context.tellers.of(&session.name);
        session.tell_to(teller.clone());
        let mut member = Member {
            reporter: Reporter::new(&session.name, &position, total, teller),
            session,
            position,
            again: None,
        };
        member.reporter.state(control, State::CatchingUp)?;
        if resumes {
            member.wait_for_new_tables(context, control)?;
        }
        member.copy_new_tables(context, control)?;
        member.finish_schema(context, control)?;
        Ok(member)
    }

    /// The stream may hold a statement that makes a table which the slave lacks, or that gives one the shape which the
    /// master's has: before new tables are copied, all is applied that is there now.
    pub fn wait_for_new_tables(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        if self.awaits_new_tables(control)? {
            let now = control.state()?.now;
            while self.stream(context, control, Some(&now))? != Ended::Target {}
            self.new_tables_arrived()?;
        }
        Ok(())
    }

    /// Are there tables to copy? If so, their changes are skipped until they have arrived. What a statement fills its
    /// table with, the copy replaces.
    pub fn awaits_new_tables(&mut self, control: &mut Control) -> Result<bool> {
        let captured = control.captured()?;
        let name = &self.session.name.clone();
        let (client, tables) = self.session.parts()?;
        let missing = tables.settle(client, &captured)?;
        let absent = absent(client, name, tables.mapping(), missing.clone())?;
        for table in &absent {
            again::request(client, tables.agent(), name, table)?;
        }
        tables.wait_for(&missing, absent);
        Ok(!missing.is_empty())
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

    /// Copies the tables that are captured and not yet here.
    pub fn copy_new_tables(&mut self, context: &Context, control: &mut Control) -> Result<()> {
        let captured = control.captured()?;
        let Context { config, stop, cancels, .. } = context;
        let slave = config.slave(&self.session.name)?;
        let name = &slave.name;
        check_mapping::refuse(&mut control.client, slave, &captured)?;
        let (client, tables) = self.session.parts()?;
        let mut missing = tables.settle(client, &captured)?;
        // One that was added since then may be made by a statement that the slave has not come to.
        missing.retain(|table| tables.is_due(table));
        if !missing.is_empty() {
            self.reporter.state(control, State::Copying)?;
            if slave.schema {
                schema::create(config, slave, &mut control.client, &missing, stop, cancels)?;
            }
            let crew = Crew { config, slave, stop, cancels };
            // Held by a predecessor that died, or made anew, they hold what is to be replaced.
            let asked = again::requested(client, config.agent_name(), name)?;
            let there = oids(client, name, tables.mapping(), &missing)?;
            let (mut again, mut first) = (Vec::new(), Vec::new());
            for (table, oid) in missing.into_iter().zip(there) {
                let replaced = asked.contains(&(table.schema.clone(), table.name.clone()))
                    || tables.is_remade(&table, oid);
                if replaced { &mut again } else { &mut first }.push(table);
            }
            for (missing, manner) in [(first, Manner::First), (again, Manner::Again)] {
                let (copied, result) = crew.copy(&mut control.client, missing, manner);
                for copied in &copied {
                    tables.add_copied(copied)?;
                    again::forget(client, config.agent_name(), name, &copied.table)?;
                }
                result?;
            }
        }
        if schema::is_pending(client, config.agent_name(), name, Pending::Rest)? {
            schema::finish(config, slave, Pending::Rest, stop, cancels)?;
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
        schema::finish(config, slave, Pending::Late, stop, cancels)
    }

    /// The stream named this table, which the slave does not have.
    pub fn settle_unknown(
        &mut self,
        context: &Context,
        control: &mut Control,
        schema: &str,
        name: &str,
    ) -> Result<()> {
        self.copy_new_tables(context, control)?;
        let (client, tables) = self.session.parts()?;
        // What another member of the group met, this one may have or will meet.
        if let Some(oid) = tables.met(schema, name) {
            tables.settle_unknown(client, schema, name, oid, control.captured_as(oid)?)?;
        }
        Ok(())
    }

    /// Applies the stream from the slave's position on, to the target or until something else is to be done.
    pub fn stream(
        &mut self,
        context: &Context,
        control: &mut Control,
        target: Option<&Target>,
    ) -> Result<Ended> {
        let name = self.session.name.clone();
        let timer = context.config.agent.timer;
        self.catch_up_sequences(control)?;
        let feed = Feed::start(context, &[&name], self.position.clone(), target.cloned())?;
        let (mut looked, mut look_after) = (Instant::now(), timer);
        let mut open = false;
        let mut batches = 0;
        // While something is not answered, between two looks for answers.
        let mut nap = FIRST_NAP;
        // Where the stream is when all that it brought since the last commit had come from this slave, and since when.
        let mut ahead: Option<(Position, Instant)> = None;
        loop {
            let wait = ahead.as_ref().map(|(_, since)| AHEAD_FOR.saturating_sub(since.elapsed()));
            let timeouts = [self.reporter.due(), self.copying_again(), wait];
            // In the middle of a batch there is nothing to do but to go on.
            let timeout = timeouts.into_iter().flatten().filter(|_| !open).fold(timer, Duration::min);
            // What is none of a batch waits for all that was sent. Otherwise what comes next goes out at once: nobody
            // waits for the answers, which are taken in now and then. To take in each as it comes would keep the slave
            // from its work where processors are few.
            let waiting = self.session.is_waiting();
            let look = !open && (looked.elapsed() >= look_after || self.again.is_some());
            let began = Instant::now();
            let item = match waiting {
                true if look => Ok(None),
                true => feed.next(nap),
                false => feed.next(timeout),
            };
            let applied = match &item {
                Ok(Some(Item::Window(window))) if context.careful => self.session.step(window, &context.stop),
                Ok(Some(Item::Window(window))) => self.session.take(window, &context.stop),
                Ok(None) if waiting && !look => self.session.take_in_answers(began.elapsed(), &context.stop),
                _ => self.session.settle(&context.stop),
            };
            nap = match &item {
                Ok(None) => LONGEST_NAP.min(nap * 2),
                _ => FIRST_NAP,
            };
            batches += self.hear_of_committed(control, &mut ahead)?;
            if let Applied::UnknownTable { schema, name } = applied? {
                self.wait_for_new_tables(context, control)?;
                self.settle_unknown(context, control, &schema, &name)?;
                return Ok(Ended::NewTables);
            }
            if context.careful && batches >= CAREFUL_BATCHES {
                return Ok(Ended::Passed);
            }
            match item? {
                Some(Item::Window(_)) => open = !self.session.is_idle(),
                Some(Item::Level) => {
                    self.reporter.level(control)?;
                    if context.careful {
                        return Ok(Ended::Passed);
                    }
                }
                Some(Item::Target) => {
                    if let Some(target) = target {
                        self.move_to(target)?;
                        self.session.make_durable()?;
                        self.report(control, false)?;
                    }
                    return Ok(Ended::Target);
                }
                None if !open && self.reporter.wants_durable() => self.report(control, false)?,
                None => {}
            }
            self.reporter.tick(control)?;
            if open || self.session.is_waiting() {
                continue;
            }
            if let Some((position, _)) = ahead.take_if(|(_, since)| since.elapsed() >= AHEAD_FOR) {
                self.commit(&position)?;
                self.report(control, false)?;
            }
            if target.is_none() && self.finish_again(context, control)? {
                return Ok(Ended::NewTables);
            }
            if looked.elapsed() >= look_after {
                let began = Instant::now();
                self.session.recover(&mut |_| Ok(true))?;
                if !self.session.tables.complete(&control.captured()?) {
                    self.wait_for_new_tables(context, control)?;
                    self.copy_new_tables(context, control)?;
                    return Ok(Ended::NewTables);
                }
                self.catch_up_sequences(control)?;
                if target.is_none() {
                    self.begin_again(context, control)?;
                }
                looked = Instant::now();
                // Nothing is under way meanwhile, and a far slave takes its time.
                look_after = timer.max(began.elapsed() * LOOK_SHARE);
            }
        }
    }

    /// What the stream does not tell: sequences that moved before it began, or without a change of rows.
    pub fn catch_up_sequences(&mut self, control: &mut Control) -> Result<()> {
        if self.session.follows_sequences() {
            self.session.catch_up_sequences(&control.sequences()?)?;
        }
        Ok(())
    }

    /// Takes note of the batches that the slave has committed meanwhile; how many they are.
    fn hear_of_committed(
        &mut self,
        control: &mut Control,
        ahead: &mut Option<(Position, Instant)>,
    ) -> Result<u32> {
        let mut batches = 0;
        while let Some(Committed { end, batch, conflicts, nothing }) = self.session.next_committed() {
            let since = ahead.take().map_or_else(Instant::now, |(_, since)| since);
            if nothing {
                *ahead = Some((end.position, since));
                continue;
            }
            log::debug!(
                "slave \"{}\": batch {batch}, {conflicts} conflicts, {}",
                self.session.name,
                end.position
            );
            self.position = end.position;
            self.report(control, end.more)?;
            batches += 1;
        }
        Ok(batches)
    }

    /// The master drops what a slave has reported, so it hears only of what is durable there.
    fn report(&mut self, control: &mut Control, more: bool) -> Result<()> {
        if !self.session.is_durable() {
            self.reporter.moved_for_now(control, more)?;
            if !self.reporter.wants_durable() || !self.session.make_durable()? {
                return Ok(());
            }
        }
        self.reporter.moved(control, &self.position, more)
    }

    pub(crate) fn commit(&mut self, position: &Position) -> Result<u64> {
        self.session.prepare(position, self.session.batch + 1)?;
        let conflicts = self.session.commit()?;
        self.position = position.clone();
        Ok(conflicts)
    }

    /// All up to the target is applied: says so, even if there was nothing to apply. One that lies behind, since a later
    /// one was waited for meanwhile, is passed already: to go back to it would apply twice what came after it.
    fn move_to(&mut self, target: &Target) -> Result<()> {
        if !target.snapshot.includes(&self.position.snapshot) {
            return Ok(());
        }
        let mut position: Position = target.clone().into();
        if position.rank <= self.position.rank {
            (position.rank, position.last_xid) = (self.position.rank, self.position.last_xid);
        }
        position.last_ts = self.position.last_ts.clone();
        position.settled = self.position.settled;
        if position != self.position {
            self.commit(&position)?;
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

fn resume(control: &mut Control, session: &mut SlaveSession, standing: Standing) -> Result<Position> {
    let name = &session.name;
    let state = control.recognise(name, &standing)?;
    control.ensure_registered(name, &standing.position)?;
    log::info!("slave \"{name}\": stands at log id {}, batch {}", standing.position.rank, standing.batch);
    session.set_timeline(state.id.timeline);
    Ok(standing.position)
}

fn begin(control: &mut Control, session: &mut SlaveSession) -> Result<Position> {
    let name = session.name.clone();
    // First the log is kept for it, then the position is taken: nothing is dropped in between.
    let floor = control.state()?.now.into();
    control.register(&name, &floor)?;
    let state = control.state()?;
    let position = match session.tables.initial() {
        Initial::Oldest => Position::start(),
        Initial::Copy | Initial::Current => state.now.into(),
    };
    control.register(&name, &position)?;
    session.first_position(&state.id, &position)?;
    log::info!("slave \"{name}\": begins at log id {}", position.rank);
    Ok(position)
}

/// Serves one slave until told to stop, or to the target of `once`.
pub fn follow(context: &Context, slave: &Slave, mode: Mode) -> Result<()> {
    let mut backoff = Backoff::new();
    let mut errors = ErrorLog::default();
    let mut attempts = 0;
    let mut context = context.clone();
    let name = &slave.name;
    loop {
        let mut control = None;
        let began = Instant::now();
        let e = match serve(&context, slave, mode, &mut control) {
            Ok(Served::Done) => return Ok(()),
            Ok(Served::Passed) => {
                context.careful = false;
                continue;
            }
            Err(e) => e,
        };
        if context.stop.is_set() || e.kind() == Kind::Stopped {
            log::debug!("slave \"{name}\": {e:#}");
            report_last(control.as_mut(), name, None);
            return Ok(());
        }
        if e.sqlstate().is_some_and(|state| retry::is_transient(state, e.message()))
            && attempts < ONCE_ATTEMPTS
        {
            log::debug!("slave \"{name}\": trying again at once after: {e:#}");
            attempts += 1;
            continue;
        }
        if e.kind() == Kind::Apply && !context.careful {
            log::debug!("slave \"{name}\": trying again transaction by transaction after: {e:#}");
            context = context.careful();
            continue;
        }
        report_last(control.as_mut(), name, Some(&e));
        context.tellers.of(name).error(&e);
        drop(control);
        attempts += 1;
        if mode == Mode::Once && (e.kind() != Kind::Connection || attempts >= ONCE_ATTEMPTS) {
            return Err(e);
        }
        errors.write(name, &e);
        if began.elapsed() > Backoff::LAST {
            backoff.reset();
            attempts = 0;
        }
        if context.pause(backoff.delay()) {
            return Ok(());
        }
    }
}

/// One life of the sessions; the control session is left to the caller, who may have an error to report.
fn serve(context: &Context, slave: &Slave, mode: Mode, control: &mut Option<Control>) -> Result<Served> {
    let control = control.insert(Control::open(&context.config, &context.cancels)?);
    if !stand_by(context, control, &slave.name, mode)? {
        return Ok(Served::Done);
    }
    let mut session = SlaveSession::open(slave, context.config.agent_name(), &context.cancels, |client| {
        context.identities.take(&mut control.client, client, &slave.name)
    })?;
    session.recover(&mut |_| Ok(true))?;
    let mut member = Member::start(context, control, session)?;
    let target = match mode {
        Mode::Run => None,
        Mode::Once => Some(control.state()?.now),
    };
    loop {
        match member.stream(context, control, target.as_ref()) {
            Ok(Ended::NewTables) => member.finish_schema(context, control)?,
            Ok(Ended::Passed) => return Ok(Served::Passed),
            Err(e) if !context.stop.is_set() => return Err(e),
            // At the target, or stopped: the master hears how far it came.
            _ => {
                member.reporter.state(control, State::Stopped)?;
                return Ok(Served::Done);
            }
        }
    }
}

/// Waits until it is our turn; false when told to stop before.
pub fn stand_by(context: &Context, control: &mut Control, slave: &str, mode: Mode) -> Result<bool> {
    let whom = if slave.is_empty() { "the slaves".to_owned() } else { format!("slave \"{slave}\"") };
    if mode == Mode::Once {
        return match control.elect_soon(slave, &context.stop)? {
            true => Ok(true),
            false if context.stop.is_set() => Ok(false),
            false => Err(Error::new(Kind::Refused, format!("another agent serves {whom}"))
                .hint("Leave the work to it, or stop it first.")),
        };
    }
    // We may have held the lock ourselves, in a session that is just ending.
    if control.elect_soon(slave, &context.stop)? {
        return Ok(true);
    }
    let mut told = false;
    while !control.elect(slave)? {
        if !std::mem::replace(&mut told, true) {
            log::info!("another agent serves {whom}: standing by");
        }
        if context.pulses.watch(slave).wait(&context.stop, STANDBY) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The last word of a life. The session may be the very thing that failed.
pub fn report_last(control: Option<&mut Control>, slave: &str, error: Option<&Error>) {
    let Some(control) = control else { return };
    let state = if error.is_some() { "error" } else { "stopped" };
    if let Err(e) = control.report(slave, state, None, error, None) {
        log::debug!("slave \"{slave}\": {e:#}");
    }
}
