//! An atomic group: a batch is committed on all slaves or on none.
//!
//! In: the slaves of the configuration. Out: slaves that move from position to position together.
//!
//! # Protocol
//!
//! 1. All slaves apply the same batch and prepare it under the same number.
//! 2. A row in `pyreplica.decision` on the master, committed, is the decision. Before it all roll back, after it all
//!    commit, whoever dies when.
//! 3. All slaves COMMIT PREPARED; then the row is deleted.
//!
//! Recovery asks for the row: there, commit; not there, roll back. It runs after the advisory lock was taken, in the same
//! session that writes decisions: so no decision of a predecessor can still be under way.
//! A slave that cannot be reached keeps the others waiting.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{bounded, unbounded, Receiver, Sender};

use crate::applier::Applied;
use crate::commit::SlaveSession;
use crate::control::Control;
use crate::copy::CapturedTable;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::feed::{Context, Feed, Item, CAREFUL_BATCHES};
use crate::follow::{report_last, stand_by, Served, ONCE_ATTEMPTS};
use crate::logging;
use crate::member::{Ended, Member};
use crate::pipeline::{guarded, Mode};
use crate::plan::Window;
use crate::position::{Position, Target};
use crate::report::{ErrorLog, Reporter, State};
use crate::retry::{self, Backoff};
use crate::sequences::Moved;
use crate::wake::Stop;

/// An error, and the slave that is to blame; `None` when it is the master, or us.
struct Failure {
    slave: Option<String>,
    error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { slave: None, error }
    }
}

/// To a slave's thread; every command is answered once.
#[derive(Clone)]
enum Command {
    Apply(Arc<Window>),
    Prepare(Position, i64),
    Commit,
    Rollback,
    /// Where the sequences of the master stand; also shows whether the slave is still there.
    Sequences(Arc<[Moved]>),
}

enum Answer {
    Done,
    Unknown { schema: String, name: String },
}

/// Serves all slaves as a group until told to stop, or to the target of `once`.
pub fn follow_group(context: &Context, mode: Mode) -> Result<()> {
    let mut backoff = Backoff::new();
    let mut errors = ErrorLog::default();
    let mut attempts = 0;
    let mut context = context.clone();
    let slaves = context.config.slaves.clone();
    let names: Vec<&str> = slaves.iter().map(|s| s.name.as_str()).collect();
    loop {
        let mut control = None;
        let began = Instant::now();
        let Failure { slave, error } = match serve(&context, mode, &mut control) {
            Ok(Served::Done) => return Ok(()),
            Ok(Served::Passed) => {
                context.careful = false;
                continue;
            }
            Err(failure) => failure,
        };
        if context.stop.is_set() || error.kind() == Kind::Stopped {
            log::debug!("group: {error:#}");
            names.iter().for_each(|name| report_last(control.as_mut(), name, None));
            return Ok(());
        }
        if control.is_none() && error.kind() == Kind::Refused && mode == Mode::Once {
            return Err(error);
        }
        if error.sqlstate().is_some_and(|state| retry::is_transient(state, error.message()))
            && attempts < ONCE_ATTEMPTS
        {
            log::debug!("group: trying again at once after: {error:#}");
            attempts += 1;
            continue;
        }
        if error.kind() == Kind::Apply && !context.careful {
            log::debug!("group: trying again transaction by transaction after: {error:#}");
            context = context.careful();
            continue;
        }
        for name in &names {
            match &slave {
                Some(guilty) if guilty != name => wait_for(control.as_mut(), name),
                _ => report_last(control.as_mut(), name, Some(&error)),
            }
        }
        context.tellers.of(slave.as_deref().unwrap_or_default()).error(&error);
        drop(control);
        attempts += 1;
        if mode == Mode::Once && (error.kind() != Kind::Connection || attempts >= ONCE_ATTEMPTS) {
            return Err(error);
        }
        errors.write(slave.as_deref().unwrap_or("(all)"), &error);
        if began.elapsed() > Backoff::LAST {
            backoff.reset();
            attempts = 0;
        }
        if context.pause(backoff.delay()) {
            return Ok(());
        }
    }
}

fn wait_for(control: Option<&mut Control>, slave: &str) {
    let Some(control) = control else { return };
    if let Err(e) = control.report(slave, &State::Waiting.to_string(), None, None, None) {
        log::debug!("slave \"{slave}\": {e:#}");
    }
}

fn serve(
    context: &Context,
    mode: Mode,
    control: &mut Option<Control>,
) -> std::result::Result<Served, Failure> {
    let mut own = Control::open(&context.config, &context.cancels)?;
    // The group's lock first; then those of the slaves, which "replica_agent copy" may hold.
    if !stand_by(context, &mut own, "", mode)? {
        return Ok(Served::Done);
    }
    for slave in &context.config.slaves {
        if !own.elect_soon(&slave.name, &context.stop)? {
            return Err(blame(
                &slave.name,
                Error::new(Kind::Refused, format!("slave \"{}\" is in use by another agent", slave.name)),
            ));
        }
    }
    // Whose turn it is not has nothing to report.
    let control = control.insert(own);

    let mut members = Vec::new();
    for session in recover(context, control)? {
        let name = session.name.clone();
        members.push(Member::start(context, control, session).map_err(|e| blame(&name, e))?);
    }
    align(context, control, &mut members)?;

    let target = match mode {
        Mode::Run => None,
        Mode::Once => Some(control.state()?.now),
    };
    loop {
        match lock_step(context, control, &mut members, target.as_ref()) {
            Ok(Ended::NewTables) => finish_schema(context, control, &mut members)?,
            Ok(Ended::Passed) => return Ok(Served::Passed),
            Err(failure) if !context.stop.is_set() => return Err(failure),
            // At the target, or stopped: the master hears how far they came.
            _ => break,
        }
    }
    for member in &mut members {
        member.reporter.state(control, State::Stopped)?;
    }
    Ok(Served::Done)
}

/// Connects to all slaves and settles what was left prepared, on each that can be reached, even if another cannot.
fn recover(context: &Context, control: &mut Control) -> std::result::Result<Vec<SlaveSession>, Failure> {
    let mut sessions = Vec::new();
    let mut failure = None;
    for slave in &context.config.slaves {
        let opened = SlaveSession::open(slave, context.config.agent_name(), &context.cancels, |client| {
            context.identities.take(&mut control.client, client, &slave.name)
        });
        let recovered = opened.and_then(|mut session| {
            session.recover(&mut |batch| control.is_decided(batch))?;
            Ok(session)
        });
        match recovered {
            Ok(session) => sessions.push(session),
            Err(e) => {
                failure.get_or_insert_with(|| blame(&slave.name, e));
            }
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => {
            control.forget_decisions()?;
            Ok(sessions)
        }
    }
}

/// Brings all slaves to one position, each by itself (they differ after an initial copy, or when a slave joins), and to
/// one batch number. A crash in the middle is harmless: what is then prepared has no decision and is done again.
fn align(
    context: &Context,
    control: &mut Control,
    members: &mut [Member],
) -> std::result::Result<(), Failure> {
    let same = |members: &[Member]| {
        members.windows(2).all(|w| {
            (w[0].position.rank, &w[0].position.snapshot) == (w[1].position.rank, &w[1].position.snapshot)
        })
    };
    if !same(members) {
        let target = control.state()?.now;
        for member in members.iter_mut() {
            let name = member.session.name.clone();
            while member.stream(context, control, Some(&target)).map_err(|e| blame(&name, e))?
                != Ended::Target
            {}
        }
    }
    assert!(same(members), "every slave of the group has reached the target");
    let batch = members.iter().map(|m| m.session.batch).max().unwrap_or(0);
    members.iter_mut().for_each(|m| m.session.batch = batch);
    Ok(())
}

/// New tables may bring foreign keys, for which a member catches up by itself; then the others do too.
fn finish_schema(
    context: &Context,
    control: &mut Control,
    members: &mut [Member],
) -> std::result::Result<(), Failure> {
    for member in members.iter_mut() {
        let name = member.session.name.clone();
        member.finish_schema(context, control).map_err(|e| blame(&name, e))?;
    }
    align(context, control, members)
}

/// All members move together, until the target or until there are new tables, which are then there.
fn lock_step(
    context: &Context,
    control: &mut Control,
    members: &mut [Member],
    target: Option<&Target>,
) -> std::result::Result<Ended, Failure> {
    let position = members[0].position.clone();
    let batch = members[0].session.batch;
    for member in members.iter_mut() {
        member.catch_up_sequences(control).map_err(|e| blame(&member.session.name, e))?;
    }
    let captured = control.captured()?;
    let complete = members.iter().all(|member| member.session.tables.complete(&captured));
    let (mut sessions, mut reporters) = (Vec::new(), Vec::new());
    for member in members.iter_mut() {
        sessions.push(&mut member.session);
        reporters.push(&mut member.reporter);
    }
    let (ended, position) = std::thread::scope(|scope| {
        let (answer, answers) = unbounded();
        let mut crew = Crew { commands: Vec::new(), answers, names: Vec::new() };
        for (number, session) in sessions.into_iter().enumerate() {
            let (command, commands) = bounded(1);
            crew.commands.push(command);
            crew.names.push(session.name.clone());
            let (answer, stop) = (answer.clone(), &context.stop);
            let of_slave = context.scopes.of(&session.name);
            scope.spawn(move || {
                logging::within(of_slave, || work(session, number, &commands, &answer, stop));
            });
        }
        let known = complete.then_some(captured);
        let mut walk = Walk { control, crew, reporters, position, batch, known };
        let ended = walk.on(context, target)?;
        Ok::<_, Failure>((ended, walk.position))
    })?;
    for member in members.iter_mut() {
        member.position = position.clone();
    }
    match ended {
        Reached::Target => Ok(Ended::Target),
        Reached::Passed => Ok(Ended::Passed),
        Reached::NewTables(unknown) => {
            let mut awaited = false;
            for member in members.iter_mut() {
                awaited |= member.awaits_new_tables(control).map_err(|e| blame(&member.session.name, e))?;
            }
            if awaited {
                let now = control.state()?.now;
                while lock_step(context, control, members, Some(&now))? != Ended::Target {}
                for member in members.iter_mut() {
                    member.new_tables_arrived().map_err(|e| blame(&member.session.name, e))?;
                }
            }
            for member in members {
                let settled = match &unknown {
                    Some((schema, name)) => member.settle_unknown(context, control, schema, name),
                    None => member.copy_new_tables(context, control),
                };
                settled.map_err(|e| blame(&member.session.name, e))?;
            }
            Ok(Ended::NewTables)
        }
    }
}

enum Reached {
    Target,
    Passed,
    /// With the table that the stream named, if it was the stream.
    NewTables(Option<(String, String)>),
}

/// The slaves' threads, as the one who commands them sees them.
struct Crew {
    commands: Vec<Sender<Command>>,
    answers: Receiver<(usize, Result<Answer>)>,
    names: Vec<String>,
}

impl Crew {
    /// Gives a command to all and waits for all answers; the table that is unknown to one of them, if any.
    fn all(&self, command: &Command) -> std::result::Result<Option<(String, String)>, Failure> {
        let gone = || Failure::from(Error::new(Kind::Apply, "a thread of the group has ended"));
        for sender in &self.commands {
            sender.send(command.clone()).map_err(|_| gone())?;
        }
        let (mut unknown, mut failure) = (None, None);
        for _ in &self.commands {
            match self.answers.recv().map_err(|_| gone())? {
                (_, Ok(Answer::Done)) => {}
                (_, Ok(Answer::Unknown { schema, name })) => unknown = Some((schema, name)),
                (number, Err(e)) => {
                    failure.get_or_insert_with(|| blame(&self.names[number], e));
                }
            }
        }
        failure.map_or(Ok(unknown), Err)
    }

    /// After a failure before the decision: whoever can still be reached lets go of its locks at once.
    fn roll_back(&self, failure: Failure) -> Failure {
        if let Err(Failure { error, .. }) = self.all(&Command::Rollback) {
            log::debug!("group: {error:#}");
        }
        failure
    }
}

struct Walk<'a> {
    control: &'a mut Control,
    crew: Crew,
    reporters: Vec<&'a mut Reporter>,
    position: Position,
    batch: i64,
    /// The captured tables; `None` when some member does not know them all.
    known: Option<Vec<CapturedTable>>,
}

impl Walk<'_> {
    fn on(&mut self, context: &Context, target: Option<&Target>) -> std::result::Result<Reached, Failure> {
        let timer = context.config.agent.timer;
        let names: Vec<&str> = self.crew.names.iter().map(String::as_str).collect();
        let feed = Feed::start(context, &names, self.position.clone(), target.cloned())?;
        let mut looked = Instant::now();
        let mut open = false;
        let mut batches = 0;
        loop {
            let timeout =
                self.reporters.iter().filter_map(|r| r.due()).min().map_or(timer, |due| due.min(timer));
            match feed.next(timeout).map_err(|e| self.crew.roll_back(e.into()))? {
                Some(Item::Window(window)) => {
                    open = true;
                    let end = window.end.clone();
                    let apply = Command::Apply(window);
                    if let Some(unknown) = self.crew.all(&apply).map_err(|f| self.crew.roll_back(f))? {
                        self.crew.all(&Command::Rollback)?;
                        return Ok(Reached::NewTables(Some(unknown)));
                    }
                    if let Some(end) = end {
                        open = false;
                        self.commit(end.position)?;
                        for reporter in &mut self.reporters {
                            reporter.moved(self.control, &self.position, end.more)?;
                        }
                        batches += 1;
                        if context.careful && batches >= CAREFUL_BATCHES {
                            return Ok(Reached::Passed);
                        }
                    }
                }
                Some(Item::Level) => {
                    for reporter in &mut self.reporters {
                        reporter.level(self.control)?;
                    }
                    if context.careful {
                        return Ok(Reached::Passed);
                    }
                }
                Some(Item::Target) => return Ok(Reached::Target),
                None => {}
            }
            for reporter in &mut self.reporters {
                reporter.tick(self.control)?;
            }
            if !open && looked.elapsed() >= timer {
                looked = Instant::now();
                let sequences = self.control.sequences()?;
                self.crew.all(&Command::Sequences(sequences.into()))?;
                if self.known != Some(self.control.captured()?) {
                    return Ok(Reached::NewTables(None));
                }
            }
        }
    }

    fn commit(&mut self, position: Position) -> std::result::Result<(), Failure> {
        let batch = self.batch + 1;
        self.crew.all(&Command::Prepare(position.clone(), batch)).map_err(|f| self.crew.roll_back(f))?;
        // If this fails nobody knows whether it was decided: all stay prepared until recovery has looked.
        self.control.decide(batch)?;
        failpoint::hit("group.after_decision");
        self.crew.all(&Command::Commit)?;
        self.control.forget_decisions()?;
        (self.position, self.batch) = (position, batch);
        Ok(())
    }
}

/// A slave's thread.
fn work(
    session: &mut SlaveSession,
    number: usize,
    commands: &Receiver<Command>,
    answers: &Sender<(usize, Result<Answer>)>,
    stop: &Stop,
) {
    for command in commands {
        let answer = guarded(|| obey(session, command, stop));
        if answers.send((number, answer)).is_err() {
            return;
        }
    }
}

fn obey(session: &mut SlaveSession, command: Command, stop: &Stop) -> Result<Answer> {
    match command {
        Command::Apply(window) => {
            if let Applied::UnknownTable { schema, name } = session.apply(&window, stop)? {
                return Ok(Answer::Unknown { schema, name });
            }
        }
        Command::Prepare(position, batch) => session.prepare(&position, batch)?,
        Command::Commit => {
            let conflicts = session.commit()?;
            failpoint::hit("group.after_first_commit");
            log::debug!("slave \"{}\": batch {}, {conflicts} conflicts", session.name, session.batch);
        }
        Command::Rollback => session.rollback()?,
        Command::Sequences(all) => {
            session.ping()?;
            session.catch_up_sequences(&all)?;
        }
    }
    Ok(Answer::Done)
}

fn blame(slave: &str, error: Error) -> Failure {
    Failure { slave: Some(slave.to_owned()), error }
}
