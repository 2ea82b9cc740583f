//! The threads of a group's slaves: a command goes to all of them, and all answer.
//!
//! In: commands. Out: what each slave does with its session; the first failure, and whose it is.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use crate::applier::Applied;
use crate::commit::SlaveSession;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::lives::{blame, Failure, Outcome};
use crate::pipeline::guarded;
use crate::plan::Window;
use crate::position::Position;
use crate::sequences::Moved;
use crate::wake::Stop;

/// To a slave's thread; every command is answered once.
#[derive(Clone)]
pub enum Command {
    Apply(Arc<Window>),
    Prepare(Position, i64),
    Commit,
    Rollback,
    /// Where the sequences of the master stand; also shows whether the slave is still there.
    Sequences(Arc<[Moved]>),
}

pub enum Answer {
    Done,
    Unknown { schema: String, name: String },
}

/// The slaves' threads, as the one who commands them sees them.
pub struct Crew {
    pub commands: Vec<Sender<Command>>,
    pub answers: Receiver<(usize, Result<Answer>)>,
    pub names: Vec<String>,
}

impl Crew {
    /// Gives a command to all and waits for all answers; the table that is unknown to one of them, if any.
    pub fn all(&self, command: &Command) -> Outcome<Option<(String, String)>> {
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
    pub fn roll_back(&self, failure: Failure) -> Failure {
        if let Err(Failure { error, .. }) = self.all(&Command::Rollback) {
            log::debug!("group: {error:#}");
        }
        failure
    }
}

/// A slave's thread.
pub fn work(
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
