//! A group in step: what is read is applied, prepared and committed by all of its slaves.
//!
//! In: the feed from the common position on. Out: the position behind the last batch that was decided, and why the walk
//! ended.

use std::time::Instant;

use super::crew::{Command, Crew};
use crate::control::Control;
use crate::copy::CapturedTable;
use crate::failpoint;
use crate::feed::{Context, Feed, Item, Slaves, CAREFUL_BATCHES};
use crate::lives::Outcome;
use crate::position::{Position, Target};
use crate::report::Reporter;

pub enum Reached {
    Target,
    Passed,
    /// With the table that the stream named, if it was the stream.
    NewTables(Option<(String, String)>),
}

/// The walk of a group from batch to batch.
pub struct Walk<'a> {
    pub control: &'a mut Control,
    pub crew: Crew,
    pub reporters: Vec<&'a mut Reporter>,
    pub position: Position,
    pub batch: i64,
    /// The captured tables; `None` when some member does not know them all.
    pub known: Option<Vec<CapturedTable>>,
}

impl Walk<'_> {
    pub fn on(&mut self, context: &Context, target: Option<&Target>) -> Outcome<Reached> {
        let timer = context.config.agent.timer;
        // How far they are is known to their own threads only.
        let slaves = Slaves { names: self.crew.names.clone(), far: true };
        let feed = Feed::start(context, slaves, self.position.clone(), target.cloned())?;
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

    fn commit(&mut self, position: Position) -> Outcome<()> {
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
