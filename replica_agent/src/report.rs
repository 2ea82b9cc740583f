//! What the master and the log hear of one slave: at once when its state changes, else at most once a second.
//!
//! In: states, and positions that the slave has committed. Out: its row of `pyreplica.slave`, lines in the log, a call
//! of `rotate_log` now and then.

use std::fmt;
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::position::Position;
use crate::stages::Total;
use crate::tell::Teller;

/// One update a second and slave keeps `slave_status` fresh, and costs the master nothing that matters.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const ROTATE_EVERY: Duration = Duration::from_secs(5);
/// Rotation may have met a lock, or another slave that was behind: so it is tried now and then even when all is quiet.
const ROTATE_IDLE: Duration = Duration::from_secs(60);
/// Being behind for a moment is part of streaming.
const BEHIND_FOR: Duration = Duration::from_secs(5);
/// The same error again is worth a line a minute.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// The states that the agent writes to `pyreplica.slave`. The words are those of its check constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A table is being copied to it.
    Copying,
    /// More is there than one batch holds.
    CatchingUp,
    /// It has applied all there was.
    Streaming,
    /// Another slave of its atomic group keeps it waiting.
    Waiting,
    /// The agent ended in good order.
    Stopped,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Copying => "copying",
            State::CatchingUp => "catching up",
            State::Streaming => "streaming",
            State::Waiting => "waiting",
            State::Stopped => "stopped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub struct Reporter {
    slave: String,
    teller: Teller,
    state: Option<State>,
    total: Total,
    /// Committed on the slave, not yet told to the master.
    news: Option<Position>,
    /// There is more, which a crash of the slave could still undo.
    volatile: bool,
    /// The stream is going to be set back: the log is still needed from what was last told on.
    held: bool,
    reported: Instant,
    rotated: Instant,
    applied_since_rotation: bool,
    last_level: Instant,
}

impl Reporter {
    /// For a slave that stands at this position: its predecessor may have died before it could tell the master.
    pub fn new(slave: &str, position: &Position, total: Total, teller: Teller) -> Self {
        let now = Instant::now();
        Reporter {
            slave: slave.to_owned(),
            teller,
            state: None,
            total,
            news: Some(position.clone()),
            volatile: false,
            held: false,
            reported: now,
            rotated: now,
            applied_since_rotation: true,
            last_level: now,
        }
    }

    /// Keeps positions back from the master, or tells them again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    pub fn state(&mut self, control: &mut Control, state: State) -> Result<()> {
        if self.state == Some(state) {
            return Ok(());
        }
        log::info!("slave \"{}\": {state}", self.slave);
        self.state = Some(state);
        self.teller.state(state);
        self.write(control)
    }

    /// A batch was committed, and no crash can undo it; `more`: it was cut, there is more to read.
    pub fn moved(&mut self, control: &mut Control, position: &Position, more: bool) -> Result<()> {
        if self.held {
            self.reported = Instant::now();
        } else {
            self.news = Some(position.clone());
        }
        self.volatile = false;
        self.applied(control, more)
    }

    /// A batch was committed that a crash of the slave could still undo: the master does not hear of it yet.
    pub fn moved_for_now(&mut self, control: &mut Control, more: bool) -> Result<()> {
        self.volatile = true;
        self.applied(control, more)
    }

    /// Whether there is something to make durable, and it is time to tell of it.
    pub fn wants_durable(&self) -> bool {
        self.volatile && self.reported.elapsed() >= REPORT_EVERY
    }

    fn applied(&mut self, control: &mut Control, more: bool) -> Result<()> {
        self.applied_since_rotation = true;
        self.teller.well();
        if !more {
            self.level(control)?;
        } else if self.last_level.elapsed() > BEHIND_FOR {
            self.state(control, State::CatchingUp)?;
        }
        self.tick(control)
    }

    /// Nothing more is there to read.
    pub fn level(&mut self, control: &mut Control) -> Result<()> {
        self.last_level = Instant::now();
        self.teller.well();
        self.state(control, State::Streaming)
    }

    /// How long `tick` may wait.
    pub fn due(&self) -> Option<Duration> {
        (self.news.is_some() || self.volatile).then(|| REPORT_EVERY.saturating_sub(self.reported.elapsed()))
    }

    /// Writes what is due.
    pub fn tick(&mut self, control: &mut Control) -> Result<()> {
        if self.news.is_some() && self.reported.elapsed() >= REPORT_EVERY {
            self.write(control)?;
        }
        let rotate_after = if self.applied_since_rotation { ROTATE_EVERY } else { ROTATE_IDLE };
        if self.news.is_none() && self.rotated.elapsed() >= rotate_after {
            self.rotated = Instant::now();
            self.applied_since_rotation = false;
            if let Err(e) = control.rotate() {
                if e.kind() == Kind::Connection {
                    return Err(e);
                }
                log::warn!("the log of the master grows: {e:#}");
            }
        }
        Ok(())
    }

    fn write(&mut self, control: &mut Control) -> Result<()> {
        failpoint::hit("report.before");
        let state = self.state.unwrap_or(State::CatchingUp).to_string();
        if !control.report(&self.slave, &state, self.news.as_ref(), None, Some(&self.total.get()))? {
            return Err(Error::given_up(&format!("slave \"{}\"", self.slave)));
        }
        self.news = None;
        self.reported = Instant::now();
        Ok(())
    }
}

/// Errors of one slave in the log: each at once, the same again once a minute.
#[derive(Default)]
pub struct ErrorLog {
    last: Option<(String, Instant)>,
}

impl ErrorLog {
    pub fn write(&mut self, slave: &str, e: &Error) {
        let report = e.report();
        let repeated =
            self.last.as_ref().is_some_and(|(text, at)| *text == report && at.elapsed() < REPEAT_AFTER);
        if repeated {
            log::debug!("slave \"{slave}\": again {e:#}");
            return;
        }
        log::error!("slave \"{slave}\": {report}");
        self.last = Some((report, Instant::now()));
    }

    pub fn clear(&mut self) {
        self.last = None;
    }
}
