//! From parts as they are read to windows as they are applied, with what it took.

use std::time::Instant;

use crate::error::Result;
use crate::plan::{Planner, Window};
use crate::reader::Part;
use crate::stages::Spent;

pub struct Planning {
    planner: Planner,
    spent: Spent,
    /// Since then nothing has been counted.
    mark: Instant,
    /// Windows end after transactions when they are so small a part of a full one.
    part: usize,
}

/// The first window for a slave that has nothing to do: one such part of a full one. Each is twice as large as the one
/// before, so the slave has no time to wait for it.
const FIRST_WINDOW: usize = 16;

impl Planning {
    pub fn new() -> Self {
        Planning {
            planner: Planner::default(),
            spent: Spent::default(),
            mark: Instant::now(),
            part: FIRST_WINDOW,
        }
    }

    /// Before each read: what was before is not part of it.
    pub fn begin(&mut self) {
        self.mark = Instant::now();
    }

    /// There was nothing to read: whoever takes the windows waits for the next one.
    pub fn rested(&mut self) {
        self.part = FIRST_WINDOW;
    }

    /// Hands on the windows that a part fills or ends.
    pub fn add(&mut self, part: Part, hand_on: &mut dyn FnMut(Window) -> Result<()>) -> Result<()> {
        self.spent.fetch += self.mark.elapsed().saturating_sub(part.dozed);
        self.mark = Instant::now();
        for chunk in part.chunks {
            if self.part > 1 && self.planner.fills(self.part) && !self.planner.goes_on_with(&chunk) {
                let window = self.planner.finish(None);
                self.hand_on(window, hand_on)?;
            }
            let Err(chunk) = self.planner.add(chunk) else {
                if self.planner.is_full() {
                    let window = self.planner.finish(None);
                    self.hand_on(window, hand_on)?;
                }
                continue;
            };
            if !self.planner.is_empty() {
                let window = self.planner.finish(None);
                self.hand_on(window, hand_on)?;
            }
            if let Err(chunk) = self.planner.add(*chunk) {
                self.hand_on(Window { chunks: vec![*chunk], ..Window::default() }, hand_on)?;
            }
        }
        if let Some(large) = part.large {
            if !self.planner.is_empty() {
                let window = self.planner.finish(None);
                self.hand_on(window, hand_on)?;
            }
            self.hand_on(Window { large: Some(large), ..Window::default() }, hand_on)?;
        }
        if let Some(end) = part.end {
            let window = self.planner.finish(Some(end));
            self.hand_on(window, hand_on)?;
        }
        self.spent.plan += self.mark.elapsed();
        self.mark = Instant::now();
        Ok(())
    }

    /// Whoever takes the window may let us wait.
    fn hand_on(&mut self, mut window: Window, hand_on: &mut dyn FnMut(Window) -> Result<()>) -> Result<()> {
        self.spent.plan += self.mark.elapsed();
        window.spent = std::mem::take(&mut self.spent);
        hand_on(window)?;
        self.mark = Instant::now();
        self.part = (self.part / 2).max(1);
        Ok(())
    }
}
