//! The reader on a thread of its own, so that reading overlaps applying.
//!
//! In: a position, and a target or none. Out: windows of batches through a bounded channel. The thread ends when the
//! feed is dropped, at the target, or with the first error, which is the last thing that comes out.
//! Slaves that follow side by side read together, through the `hub`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, never, select, Receiver, SendTimeoutError, Sender, TryRecvError};

use crate::config::{CommitMode, Config};
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::hub::{Hub, Seat};
use crate::identity::Identities;
use crate::large::Log;
use crate::logging::{self, Scopes};
use crate::pipe::Pipe;
use crate::plan::Window;
use crate::position::{Position, Target};
use crate::pulse::{Pulse, Pulses};
use crate::reader::{Found, Limits, Reader};
use crate::rest::{Rest, Step};
use crate::session;
use crate::stages::Totals;
use crate::tell::Tellers;
use crate::wake::{Cancels, Stop, Waker};
use planning::Planning;

mod planning;
mod together;

/// Windows under way; with their size this bounds the memory of a slave.
const WINDOWS_MAX: usize = 2;

/// How long the master may have to wait with its answers for a slave that is slow.
const LOOK_AFTER_MASTER: Duration = Duration::from_millis(20);

/// What all parts of a running agent share.
#[derive(Clone)]
pub struct Context {
    pub config: Config,
    /// One transaction is a batch: after an error in a joined batch, so that all before the one that fails are
    /// committed, and the slave may be mended between two of them.
    pub careful: bool,
    pub stop: Stop,
    pub cancels: Cancels,
    pub waker: Waker,
    /// The word to try again at once.
    pub retries: Waker,
    pub identities: Identities,
    pub totals: Totals,
    pub tellers: Tellers,
    pub scopes: Scopes,
    pub pulses: Pulses,
    /// For slaves that read together.
    hub: Option<Arc<Hub>>,
}

/// Batches of one transaction before it is tried again to join them.
pub const CAREFUL_BATCHES: u32 = 1000;

impl Context {
    pub fn new(config: &Config, stop: &Stop) -> Context {
        Context {
            config: config.clone(),
            careful: false,
            stop: stop.clone(),
            cancels: Cancels::default(),
            waker: Waker::default(),
            retries: Waker::default(),
            identities: Identities::default(),
            totals: Totals::default(),
            tellers: Tellers::default(),
            scopes: Scopes::new(config.agent_name(), &config.logging),
            pulses: Pulses::default(),
            hub: (config.agent.commit == CommitMode::Independent).then(Arc::default),
        }
    }

    /// There is no other slave to read with.
    pub fn read_alone(&mut self) {
        self.hub = None;
    }

    pub fn careful(&self) -> Context {
        Context { careful: true, hub: None, ..self.clone() }
    }

    /// Waits before another attempt; true if the order to stop was given meanwhile.
    pub fn pause(&self, delay: Duration) -> bool {
        self.pulses.watch("a pause").asleep(delay, || {
            select! {
                recv(self.stop.receiver()) -> _ => {}
                recv(self.retries.subscribe()) -> _ => {}
                default(delay) => {}
            }
        });
        self.stop.is_set()
    }

    fn limits(&self) -> Limits {
        let agent = &self.config.agent;
        match self.careful {
            true => Limits { rows: 1, bytes: 1 },
            false => Limits { rows: agent.batch_rows, bytes: agent.batch_bytes },
        }
    }
}

#[derive(Debug)]
pub enum Item {
    Window(Arc<Window>),
    /// All there was has been handed on.
    Level,
    /// All up to the target has been handed on.
    Target,
}

pub struct Feed {
    items: Receiver<Result<Item>>,
    stop: Stop,
    pulse: Pulse,
    /// Dropped with the feed, which wakes the reader from its sleep.
    _quit: Sender<()>,
}

/// For whom a feed reads.
pub struct Slaves {
    pub names: Vec<String>,
    /// Some of them, perhaps.
    pub far: bool,
}

impl Feed {
    pub fn start(
        context: &Context,
        slaves: Slaves,
        position: Position,
        target: Option<Target>,
    ) -> Result<Feed> {
        let (sender, items) = bounded(WINDOWS_MAX);
        let (quit, quitted) = bounded(0);
        let news = if target.is_none() { context.waker.subscribe() } else { never() };
        let pulse = context.pulses.watch(&format!("applier of {}", slaves.names.join(", ")));
        let thread_context = context.clone();
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(logging::inherit(move || {
                let read = read(&thread_context, &slaves, position, target, &sender, news, quitted);
                if let Err(e) = read {
                    // Nobody there to hear it: the feed was dropped.
                    sender.send(Err(e)).ok();
                }
            }))
            .map_err(|e| Error::new(Kind::Apply, "could not start a thread").source(e))?;
        Ok(Feed { items, stop: context.stop.clone(), pulse, _quit: quit })
    }

    /// Nothing is there to be taken.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next item; `None` when it does not come in time.
    pub fn next(&self, timeout: Duration) -> Result<Option<Item>> {
        self.pulse.asleep(timeout, || {
            failpoint::hang("feed.next");
            select! {
                recv(self.items) -> item => match item {
                    Ok(item) => item.map(Some),
                    Err(_) => Err(Error::new(Kind::Apply, "the reader ended without a word")),
                },
                recv(self.stop.receiver()) -> _ => Err(Error::new(Kind::Stopped, "asked to stop")),
                default(timeout) => Ok(None),
            }
        })
    }
}

fn read(
    context: &Context,
    slaves: &Slaves,
    position: Position,
    target: Option<Target>,
    items: &Sender<Result<Item>>,
    news: Receiver<()>,
    quit: Receiver<()>,
) -> Result<()> {
    let mut client: Pipe = session::connect_master(&context.config.master.dsn, "read")?;
    let _cancelable = context.cancels.add(&context.config.master.dsn, &client)?;
    let hub = context.hub.as_ref().filter(|_| target.is_none());
    let master = hub.map(|_| together::master_id(&mut client)).transpose()?;
    let names: Vec<&str> = slaves.names.iter().map(String::as_str).collect();
    let log = Log::new(&context.config.master.dsn, &context.cancels);
    let mut reader = Reader::new(client, log, context.config.agent_name(), &names, context.limits())?;
    reader.for_far_slaves(slaves.far);
    let sequences = context.config.slaves.iter().any(|slave| slave.sequences);
    reader.tell_sequences(sequences)?;
    let mut reading = Reading {
        reader,
        sequences,
        planning: Planning::new(),
        rest: Rest::new(context.config.agent.timer, Instant::now()),
        items,
        news,
        quit,
        told: false,
        pulse: context.pulses.watch(&format!("reader of {}", names.join(", "))),
    };
    match (hub, master) {
        (Some(hub), Some(master)) => {
            let read = reading.together(hub, &master, position);
            if read.as_ref().is_err_and(|e| e.kind() == Kind::Connection) {
                hub.forget();
            }
            read
        }
        _ => reading.alone(position, target.as_ref()),
    }
}

/// A reader at work for one feed.
struct Reading<'a> {
    reader: Reader,
    /// Some slave follows the master's sequences.
    sequences: bool,
    planning: Planning,
    rest: Rest,
    items: &'a Sender<Result<Item>>,
    news: Receiver<()>,
    quit: Receiver<()>,
    /// Whoever takes what is read knows that there is no more.
    told: bool,
    pulse: Pulse,
}

impl Reading<'_> {
    fn alone(&mut self, mut position: Position, target: Option<&Target>) -> Result<()> {
        let mut doze = None;
        loop {
            match (target.is_some(), self.read(&mut position, target, doze.take(), false)?) {
                (_, Found::Some) | (true, Found::All) => continue,
                (true, Found::Nothing) => return hand_on(self.items, Item::Target),
                (false, found) => match self.rest(found, &never(), None)? {
                    Next::Read(after) => doze = after,
                    Next::Quit => return Ok(()),
                },
            }
        }
    }

    /// Reads a batch for this feed alone, perhaps when it has dozed; `more`: even at its end there is more.
    fn read(
        &mut self,
        position: &mut Position,
        target: Option<&Target>,
        doze: Option<Duration>,
        more: bool,
    ) -> Result<Found> {
        let Reading { reader, planning, items, .. } = self;
        planning.begin();
        let found = reader.read(position, target, doze, &mut |mut part, master| {
            if let Some(end) = &mut part.end {
                end.more |= more;
            }
            planning.add(part, &mut |window| hand_on_window(items, Arc::new(window), master))
        })?;
        if found != Found::Nothing {
            self.news();
        }
        Ok(found)
    }

    fn news(&mut self) {
        self.rest.news(Instant::now());
        self.told = false;
    }

    /// All there was has been read: waits until it is time to read again, or the seat is lost.
    fn rest(&mut self, found: Found, moved: &Receiver<()>, seat: Option<&Seat>) -> Result<Next> {
        if self.quit.try_recv() == Err(TryRecvError::Disconnected) {
            return Ok(Next::Quit);
        }
        self.planning.rested();
        let Reading { reader, rest, .. } = self;
        let wait = match rest.next(reader.is_armed(), Instant::now(), |slow| reader.arm(slow))? {
            Step::Read => return Ok(Next::Read(None)),
            Step::Doze(wait) => {
                // The end of a batch says by itself that there is no more.
                if found == Found::Nothing {
                    self.tell_level(seat.is_none())?;
                }
                return Ok(Next::Read(Some(wait)));
            }
            Step::Sleep(wait) => wait,
        };
        // Does not wait for a slow slave: until then every writer would notify. It hears it again.
        self.told = false;
        self.tell_level(false)?;
        if seat.is_some_and(|seat| !seat.rests(wait)) {
            return Ok(Next::Read(None));
        }
        let Reading { reader, rest, news, quit, pulse, .. } = self;
        let dropped = pulse.asleep(wait, || {
            select! {
                recv(news) -> _ => {
                    rest.woken();
                    reader.notified();
                }
                recv(moved) -> _ => {}
                recv(quit) -> _ => return true,
                // What cannot notify (a prepared transaction) is found by the timer.
                default(wait) => {}
            }
            false
        });
        Ok(if dropped { Next::Quit } else { Next::Read(None) })
    }

    /// Says once that there is no more; to others' slaves only as far as that does not let us wait.
    fn tell_level(&mut self, patient: bool) -> Result<()> {
        if self.told {
            return Ok(());
        }
        self.told = match patient {
            true => hand_on(self.items, Item::Level).map(|()| true)?,
            false => self.items.try_send(Ok(Item::Level)).is_ok(),
        };
        Ok(())
    }
}

/// What to do after a rest.
enum Next {
    /// Read, perhaps after a doze of at most so long.
    Read(Option<Duration>),
    /// The feed was dropped.
    Quit,
}

/// The master's answers are taken in while we wait.
fn hand_on_window(items: &Sender<Result<Item>>, window: Arc<Window>, master: &mut Pipe) -> Result<()> {
    let mut item = Ok(Item::Window(window));
    loop {
        item = match items.send_timeout(item, LOOK_AFTER_MASTER) {
            Ok(()) => return Ok(()),
            Err(SendTimeoutError::Timeout(item)) => item,
            Err(SendTimeoutError::Disconnected(_)) => return Err(nobody_takes()),
        };
        master.turn();
    }
}

fn hand_on(items: &Sender<Result<Item>>, item: Item) -> Result<()> {
    items.send(Ok(item)).map_err(|_| nobody_takes())
}

fn nobody_takes() -> Error {
    Error::new(Kind::Stopped, "nobody takes what is read")
}
