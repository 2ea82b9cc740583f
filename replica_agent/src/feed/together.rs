//! A reader that shares what it reads with those of the other slaves, by the turns that the `hub` gives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{select, Receiver, Sender, TrySendError};

use super::{hand_on, hand_on_window, nobody_takes, Item, Next, Reading};
use crate::commit::MasterId;
use crate::error::{Error, Kind, Result};
use crate::hub::{Batch, Hub, Seat, Turn, BATCH_BYTES, PATIENCE};
use crate::pipe::Pipe;
use crate::plan::Window;
use crate::position::{Position, Target};
use crate::reader::Found;

pub fn master_id(client: &mut Pipe) -> Result<MasterId> {
    let row = client
        .query_one(include_str!("../sql/master_id.sql"), &[])
        .map_err(|e| Error::from_pg("could not read the state of the master", e))?;
    Ok(MasterId { system_identifier: row.get("system_identifier"), timeline: row.get("timeline") })
}

impl Reading<'_> {
    pub fn together(&mut self, hub: &Hub, master: &MasterId, mut position: Position) -> Result<()> {
        hub.join(master);
        let moved = hub.subscribe();
        let mut told = false;
        loop {
            let turn = hub.turn(master, &position).ok_or_else(master_changed)?;
            if !matches!(turn, Turn::Lead(_)) {
                // Only who reads for all sleeps.
                self.reader.disarm()?;
            }
            if matches!(turn, Turn::Take(_) | Turn::Wait { .. }) {
                self.reader.forget_ahead()?;
            }
            let goes_on = match turn {
                Turn::Take(batch) => {
                    told = false;
                    self.news();
                    position = batch.end;
                    for window in batch.windows {
                        hand_on(self.items, Item::Window(window))?;
                    }
                    true
                }
                Turn::Lead(number) => self.lead(hub.seat(number), &mut position, &moved)?,
                Turn::Alone(head) => {
                    let target = head.clone().map(Target::from);
                    let found = self.read(&mut position, target.as_ref(), None, target.is_some())?;
                    match head {
                        Some(head) if found != Found::Some => position = head,
                        None if found == Found::Nothing => hub.raise(&mut position),
                        _ => {}
                    }
                    true
                }
                Turn::Wait { level } => {
                    if level && !std::mem::replace(&mut told, true) {
                        hand_on(self.items, Item::Level)?;
                    }
                    self.wait(&moved)
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// False when the feed was dropped.
    fn wait(&self, moved: &Receiver<()>) -> bool {
        self.pulse.asleep(PATIENCE, || {
            select! {
                recv(moved) -> _ => true,
                recv(self.quit) -> _ => false,
                default(PATIENCE) => true,
            }
        })
    }

    /// Reads for all who stand here, and rests when there is nothing, until the seat is lost or our own slave is slow.
    /// False when the feed was dropped.
    fn lead(&mut self, seat: Seat, position: &mut Position, moved: &Receiver<()>) -> Result<bool> {
        self.reader.tell_sequences(self.sequences)?;
        let mut doze: Option<Duration> = None;
        while seat.rests(doze.unwrap_or_default()) {
            // What was told before is read now.
            if self.news.try_recv().is_ok() {
                self.rest.woken();
            }
            let from = position.clone();
            let mut batch = Growing::new(self.items, &seat);
            let Reading { reader, planning, .. } = self;
            planning.begin();
            let mut plan =
                |part, master: &mut Pipe| planning.add(part, &mut |window| batch.add(window, master));
            let found = reader.read(position, None, doze.take(), &mut plan)?;
            if found == Found::Nothing {
                // What it has learnt of late ones is true of the old snapshot too: there are none in between.
                *position = Position { settled: position.settled, ..from };
            } else {
                self.rest.news(Instant::now());
                self.told = false;
                if !batch.publish(from, position, found == Found::All) {
                    let left = batch.left();
                    drop(seat);
                    for window in left {
                        hand_on(self.items, Item::Window(window))?;
                    }
                    return Ok(true);
                }
            }
            if found != Found::Some {
                seat.level();
                // What we have woken ourselves with. If somebody else moves the head, the seat is lost.
                moved.try_recv().ok();
                match self.rest(found, moved, Some(&seat))? {
                    Next::Read(after) => doze = after,
                    Next::Quit => return Ok(false),
                }
            }
        }
        Ok(true)
    }
}

/// A batch as it is read by who has the seat. As long as it may be shared, nothing waits for the slave of that reader.
struct Growing<'a> {
    items: &'a Sender<Result<Item>>,
    seat: &'a Seat<'a>,
    /// It has grown too large to be shared.
    large: bool,
    windows: Vec<Arc<Window>>,
    /// So many of them have been handed on.
    sent: usize,
    bytes: usize,
}

impl<'a> Growing<'a> {
    fn new(items: &'a Sender<Result<Item>>, seat: &'a Seat<'a>) -> Self {
        Growing { items, seat, large: false, windows: Vec::new(), sent: 0, bytes: 0 }
    }

    fn add(&mut self, window: Window, master: &mut Pipe) -> Result<()> {
        self.bytes += window.bytes();
        self.windows.push(Arc::new(window));
        if !self.large && self.bytes > BATCH_BYTES {
            self.large = true;
            self.seat.too_large();
        }
        if self.large {
            let left = self.left();
            return left.into_iter().try_for_each(|window| hand_on_window(self.items, window, master));
        }
        while let Some(window) = self.windows.get(self.sent) {
            match self.items.try_send(Ok(Item::Window(Arc::clone(window)))) {
                Ok(()) => self.sent += 1,
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Disconnected(_)) => return Err(nobody_takes()),
            }
        }
        Ok(())
    }

    /// Gives it to the others. True if the seat is still ours, and all of it is on its way to our own slave.
    fn publish(&self, from: Position, end: &Position, level: bool) -> bool {
        if self.large {
            return false;
        }
        let batch = Batch { windows: self.windows.clone(), end: end.clone() };
        self.seat.publish(from, batch, self.bytes, level) && self.sent == self.windows.len()
    }

    /// What has not been handed on.
    fn left(&mut self) -> Vec<Arc<Window>> {
        self.windows.drain(..).skip(std::mem::take(&mut self.sent)).collect()
    }
}

/// Before the others noticed: a new session leads to where they read.
fn master_changed() -> Error {
    Error::new(Kind::Connection, "the master has changed")
        .detail("A session that was opened later is on another server, or on the same on another timeline.")
}
