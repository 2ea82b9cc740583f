//! One life after the other, of a slave by itself or of a group: each begins with fresh sessions, and most end with an error.
//!
//! In: how a life ended. Out: another one, at once or after a while, until told to stop or done; the error is reported,
//! and whom it concerns.

use std::time::Instant;

use crate::control::Control;
use crate::error::{Error, Kind, Result};
use crate::feed::Context;
use crate::pipeline::Mode;
use crate::report::{ErrorLog, State};
use crate::retry::{self, Backoff};

/// In a row: lives that begin at once after an error of chance; and connections that fail until `once` gives up.
const ATTEMPTS: u32 = 3;

/// What is left to do after a life without an error.
pub enum Served {
    Done,
    /// Go on with transactions joined.
    Passed,
}

/// An error, and the slave that is to blame; `None` when it is the master, or us.
pub struct Failure {
    pub slave: Option<String>,
    pub error: Error,
}

pub type Outcome<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { slave: None, error }
    }
}

pub fn blame(slave: &str, error: Error) -> Failure {
    Failure { slave: Some(slave.to_owned()), error }
}

/// Lets these slaves, called so together, live until told to stop, or to the target of `once`.
///
/// A life leaves its control session to us, since there may be an error to report, unless it never had its turn.
pub fn live(
    context: &Context,
    called: &str,
    slaves: &[&str],
    mode: Mode,
    life: impl Fn(&Context, &mut Option<Control>) -> Outcome<Served>,
) -> Result<()> {
    let mut backoff = Backoff::new();
    let mut errors = ErrorLog::default();
    let mut attempts = 0;
    let mut context = context.clone();
    loop {
        let mut control = None;
        let began = Instant::now();
        let Failure { slave, error } = match life(&context, &mut control) {
            Ok(Served::Done) => return Ok(()),
            Ok(Served::Passed) => {
                context.careful = false;
                continue;
            }
            Err(failure) => failure,
        };
        if context.stop.is_set() || error.kind() == Kind::Stopped {
            log::debug!("{called}: {error:#}");
            slaves.iter().for_each(|name| report_last(control.as_mut(), name, None));
            return Ok(());
        }
        if control.is_none() && error.kind() == Kind::Refused && mode == Mode::Once {
            return Err(error);
        }
        if error.sqlstate().is_some_and(|state| retry::is_transient(state, error.message()))
            && attempts < ATTEMPTS
        {
            log::debug!("{called}: trying again at once after: {error:#}");
            attempts += 1;
            continue;
        }
        if error.kind() == Kind::Apply && !context.careful {
            log::debug!("{called}: trying again transaction by transaction after: {error:#}");
            context = context.careful();
            continue;
        }
        for name in slaves {
            match &slave {
                // Another slave of its group has failed.
                Some(guilty) if guilty != name => report(control.as_mut(), name, State::Waiting.name(), None),
                _ => report_last(control.as_mut(), name, Some(&error)),
            }
        }
        context.tellers.of(slave.as_deref().unwrap_or_default()).error(&error);
        drop(control);
        attempts += 1;
        if mode == Mode::Once && (error.kind() != Kind::Connection || attempts >= ATTEMPTS) {
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

/// The last word of a life. The session may be the very thing that failed.
pub fn report_last(control: Option<&mut Control>, slave: &str, error: Option<&Error>) {
    report(control, slave, if error.is_some() { "error" } else { State::Stopped.name() }, error);
}

fn report(control: Option<&mut Control>, slave: &str, state: &str, error: Option<&Error>) {
    let Some(control) = control else { return };
    if let Err(e) = control.report(slave, state, None, error, None) {
        log::debug!("slave \"{slave}\": {e:#}");
    }
}
