//! The reader on a thread of its own, so that reading overlaps applying.
//!
//! In: a position, and a target or none. Out: windows of batches through a bounded channel. The thread ends when the
//! feed is dropped, at the target, or with the first error, which is the last thing that comes out.

use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, never, select, Receiver, RecvTimeoutError, Sender};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::identity::Identities;
use crate::plan::{Planner, Window};
use crate::position::{Position, Target};
use crate::reader::{Found, Limits, Part, Reader};
use crate::rest::{Rest, Step};
use crate::session;
use crate::wake::{Cancels, Stop, Waker};

/// Windows under way; with their size this bounds the memory of a slave.
const WINDOWS_MAX: usize = 2;

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
    pub identities: Identities,
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
            identities: Identities::default(),
        }
    }

    pub fn careful(&self) -> Context {
        Context { careful: true, ..self.clone() }
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
    Window(Window),
    /// All there was has been handed on.
    Level,
    /// All up to the target has been handed on.
    Target,
}

pub struct Feed {
    items: Receiver<Result<Item>>,
    stop: Stop,
    /// Dropped with the feed, which wakes the reader from its sleep.
    _quit: Sender<()>,
}

impl Feed {
    /// Starts to read for these slaves.
    pub fn start(
        context: &Context,
        slaves: &[&str],
        position: Position,
        target: Option<Target>,
    ) -> Result<Feed> {
        let (sender, items) = bounded(WINDOWS_MAX);
        let (quit, quitted) = bounded(0);
        let news = if target.is_none() { context.waker.subscribe() } else { never() };
        let slaves: Vec<String> = slaves.iter().map(|&s| s.to_owned()).collect();
        let thread_context = context.clone();
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || {
                let read = read(&thread_context, &slaves, position, target, &sender, &news, &quitted);
                if let Err(e) = read {
                    // Nobody there to hear it: the feed was dropped.
                    sender.send(Err(e)).ok();
                }
            })
            .map_err(|e| Error::new(Kind::Apply, "could not start a thread").source(e))?;
        Ok(Feed { items, stop: context.stop.clone(), _quit: quit })
    }

    /// The next item; `None` when it does not come in time.
    pub fn next(&self, timeout: Duration) -> Result<Option<Item>> {
        let received = select! {
            recv(self.items) -> item => item.map_err(|_| RecvTimeoutError::Disconnected),
            recv(self.stop.receiver()) -> _ => return Err(Error::new(Kind::Stopped, "asked to stop")),
            default(timeout) => return Ok(None),
        };
        match received {
            Ok(item) => item.map(Some),
            Err(_) => Err(Error::new(Kind::Apply, "the reader ended without a word")),
        }
    }
}

fn read(
    context: &Context,
    slaves: &[String],
    mut position: Position,
    target: Option<Target>,
    items: &Sender<Result<Item>>,
    news: &Receiver<()>,
    quit: &Receiver<()>,
) -> Result<()> {
    let agent = &context.config.agent;
    let client = session::connect_master(&context.config.master.dsn, "read")?;
    let _cancelable = context.cancels.add(&context.config.master.dsn, &client)?;
    let names: Vec<&str> = slaves.iter().map(String::as_str).collect();
    let mut reader = Reader::new(client, context.config.agent_name(), &names, context.limits())?;
    let hand_on =
        |item| items.send(Ok(item)).map_err(|_| Error::new(Kind::Stopped, "nobody takes what is read"));
    let mut planner = Planner::default();
    let mut rest = Rest::new(agent.timer, Instant::now());
    loop {
        let found =
            reader.read(&mut position, target.as_ref(), &mut |part| plan(&mut planner, part, &hand_on))?;
        if found != Found::Nothing {
            rest.news(Instant::now());
        }
        match (target.is_some(), found) {
            (_, Found::Some) | (true, Found::All) => continue,
            (true, Found::Nothing) => return hand_on(Item::Target),
            (false, _) => {}
        }
        let mut told = false;
        loop {
            let step = rest.next(reader.is_armed(), Instant::now(), |slow| reader.arm(slow))?;
            let (Step::Nap(wait) | Step::Sleep(wait)) = step else { break };
            if reader.is_armed() {
                // Does not wait for a slow slave: until then every writer would notify. It hears it again.
                items.try_send(Ok(Item::Level)).ok();
            } else if !std::mem::replace(&mut told, true) {
                hand_on(Item::Level)?;
            }
            select! {
                recv(news) -> _ => rest.woken(),
                recv(quit) -> _ => return Ok(()),
                // What cannot notify (a prepared transaction) is found by the timer.
                default(wait) => {}
            }
            if matches!(step, Step::Sleep(_)) {
                break;
            }
        }
    }
}

/// Hands on the windows that a part fills or ends.
fn plan(planner: &mut Planner, part: Part, hand_on: &dyn Fn(Item) -> Result<()>) -> Result<()> {
    for chunk in part.chunks {
        let Err(chunk) = planner.add(chunk) else {
            if planner.is_full() {
                hand_on(Item::Window(planner.finish(None)))?;
            }
            continue;
        };
        if !planner.is_empty() {
            hand_on(Item::Window(planner.finish(None)))?;
        }
        if let Err(chunk) = planner.add(*chunk) {
            hand_on(Item::Window(Window { chunks: vec![*chunk], plan: None, end: None }))?;
        }
    }
    match part.end {
        Some(end) => hand_on(Item::Window(planner.finish(Some(end)))),
        None => Ok(()),
    }
}
