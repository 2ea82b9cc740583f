//! The stream of one slave: windows from the feed to its session, what is committed to the report.
//!
//! In: the feed from the slave's position on. Out: the reason why it ended. While answers of the slave are outstanding the
//! next window is waited for, not they; what needs round trips of its own comes between two batches.

use std::time::{Duration, Instant};

use super::Member;
use crate::applier::Applied;
use crate::commit::Committed;
use crate::control::Control;
use crate::error::Result;
use crate::feed::{Context, Feed, Item, Slaves, CAREFUL_BATCHES};
use crate::position::{Position, Target};

/// How long a position waits for something to be committed with.
const AHEAD_FOR: Duration = Duration::from_secs(1);
/// How long answers of the slave are let come in, before the first look for them and later on.
const FIRST_NAP: Duration = Duration::from_micros(500);
const LONGEST_NAP: Duration = Duration::from_millis(8);
/// A slave is looked after for at most one part in so many of the time.
const LOOK_SHARE: u32 = 20;

/// Why a stream ended without an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Target,
    /// Tables are there that the slave does not have.
    NewTables,
    /// What was applied with care is applied: transactions can be joined again.
    Passed,
}

impl Member {
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
        let slaves = Slaves { names: vec![name.clone()], far: self.session.is_far() };
        let feed = Feed::start(context, slaves, self.position.clone(), target.cloned())?;
        let (mut looked, mut look_after) = (Instant::now(), timer);
        let mut open = false;
        let mut batches = 0;
        let mut batches_looked = 0;
        // The slave needs more than to go on, which takes round trips of its own.
        let mut attend = false;
        // There was nothing more to read.
        let mut level = false;
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
            if !open && !attend && looked.elapsed() >= look_after {
                self.session.look();
            }
            let waiting = self.session.is_waiting();
            let pause = !open && (attend || self.again.is_some());
            let began = Instant::now();
            let item = match waiting {
                true if pause => Ok(None),
                true => feed.next(nap),
                false => feed.next(timeout),
            };
            let applied = match &item {
                Ok(Some(Item::Window(window))) if context.careful => self.session.step(window, &context.stop),
                Ok(Some(Item::Window(window))) => self.session.take(window, &context.stop),
                // To wait for the answers would keep what comes next waiting too.
                Ok(Some(Item::Level)) if !context.careful => Ok(Applied::Done),
                Ok(None) if waiting && !pause => self.session.take_in_answers(began.elapsed(), &context.stop),
                _ => self.session.settle(&context.stop),
            };
            nap = match &item {
                Ok(None) => LONGEST_NAP.min(nap * 2),
                _ => FIRST_NAP,
            };
            batches += self.hear_of_committed(control, &mut ahead)?;
            if let Applied::UnknownTable { schema, name } = applied? {
                self.wait_for_new_tables(context, control)?;
                self.bring_new_tables(context, control)?;
                self.settle_unknown(control, (&schema, &name))?;
                return Ok(Ended::NewTables);
            }
            if context.careful && batches >= CAREFUL_BATCHES {
                return Ok(Ended::Passed);
            }
            match item? {
                Some(Item::Window(_)) => (open, level) = (!self.session.is_idle(), false),
                Some(Item::Level) if context.careful => {
                    self.reporter.level(control)?;
                    return Ok(Ended::Passed);
                }
                Some(Item::Level) => level = true,
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
            if let Some(calm) = self.session.looked()? {
                let began = Instant::now();
                attend = !calm || !self.session.tables.complete(&control.captured()?);
                let under_way = open || self.session.is_waiting() || !feed.is_empty();
                if !under_way && batches == batches_looked {
                    self.catch_up_sequences(control)?;
                } else if self.session.follows_sequences() {
                    self.session.hear_of_sequences(&control.sequences()?);
                }
                batches_looked = batches;
                (looked, look_after) = (Instant::now(), timer.max(began.elapsed() * LOOK_SHARE));
            }
            if open || self.session.is_waiting() {
                continue;
            }
            if std::mem::take(&mut level) {
                self.reporter.level(control)?;
            }
            if let Some((position, _)) = ahead.take_if(|(_, since)| since.elapsed() >= AHEAD_FOR) {
                self.commit(&position)?;
                self.report(control, false)?;
            }
            if target.is_none() && self.finish_again(context, control)? {
                return Ok(Ended::NewTables);
            }
            if std::mem::take(&mut attend) {
                let began = Instant::now();
                self.session.recover(&mut |_| Ok(true))?;
                if !self.session.tables.complete(&control.captured()?) {
                    self.wait_for_new_tables(context, control)?;
                    self.bring_new_tables(context, control)?;
                    return Ok(Ended::NewTables);
                }
                if target.is_none() {
                    self.begin_again(context, control)?;
                }
                // Nothing was under way meanwhile, and a far slave takes its time.
                (looked, look_after) = (Instant::now(), timer.max(began.elapsed() * LOOK_SHARE));
            }
        }
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
}
