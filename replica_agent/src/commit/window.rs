//! A window of changes is applied in the transaction at hand, each answer awaited: as its net effect where that can be,
//! else change by change.

use std::time::Instant;

use super::{Phase, SlaveSession};
use crate::applier::{Applied, Before, Target};
use crate::error::{Error, Kind, Result};
use crate::plan::{Plan, Window};
use crate::references;
use crate::retry;
use crate::session;
use crate::wake::Stop;

impl SlaveSession {
    /// Applies a window in the transaction at hand, beginning it if there is none.
    pub fn apply(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        if let (Some(sequences), Some(end)) = (&mut self.sequences, &window.end) {
            sequences.hear(&end.sequences);
        }
        let began = Instant::now();
        let applied = self.apply_window(window, stop)?;
        self.stages.seconds.apply += began.elapsed().as_secs_f64();
        self.stages.window(window);
        Ok(applied)
    }

    fn apply_window(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        let empty = window.chunks.is_empty() && window.large.is_none();
        if empty || self.route.leads_back(window.origin()) {
            return Ok(Applied::Done);
        }
        let first = self.phase == Phase::Idle;
        self.begin(window.origin())?;
        self.note_source(window.origin())?;
        let may_join = !self.exact && !self.applier.sets_aside_any_of(&window.chunks);
        let plan = window.plan.as_ref().filter(|_| may_join);
        match plan {
            Some(plan) if self.net => {
                self.savepoint_before_all_but(first);
                if self.carry_out(window, plan, first, stop)? {
                    return Ok(Applied::Done);
                }
                self.one_by_one(window, stop)
            }
            None if self.replica => self.one_by_one(window, stop),
            plan => self.under_constraints(window, plan, first, stop),
        }
    }

    fn one_by_one(&mut self, window: &Window, stop: &Stop) -> Result<Applied> {
        let SlaveSession { client, tables, applier, .. } = self;
        let mut applied = applier.apply(client, &window.chunks, tables, stop);
        if let (Ok(Applied::Done), Some(large)) = (&applied, &window.large) {
            applied = self.applier.apply_large(&mut self.client, large, &mut self.tables, stop);
        }
        match &applied {
            Ok(Applied::Done | Applied::Refused) => {}
            Ok(_) => self.rollback()?,
            Err(_) => self.let_go(),
        }
        applied
    }

    /// Foreign keys and deferrable constraints do not rest here, and the master looked at them after whole statements or
    /// transactions: what the changes break one by one may hold for the net effect of all, or at the end of the
    /// transaction. If it does not, the change that breaks it is named. TRUNCATE and queued statements have no net effect.
    fn under_constraints(
        &mut self,
        window: &Window,
        plan: Option<&Plan>,
        first: bool,
        stop: &Stop,
    ) -> Result<Applied> {
        self.savepoint_before_all_but(first);
        let (before, applied) = self.attempt(window, stop);
        if !matches!(applied, Ok(Applied::Refused)) {
            return applied;
        }
        if let Some(plan) = plan {
            self.defer_instead(window, before, first)?;
            if self.carry_out(window, plan, first, stop)? && self.holds(window)? {
                return Ok(Applied::Done);
            }
        }
        self.defer_instead(window, before, first)?;
        let (_, applied) = self.attempt(window, stop);
        match applied {
            Ok(Applied::Refused) => {}
            Ok(Applied::Done) if !self.holds(window)? => {}
            applied => return applied,
        }
        self.undo_window(window, first)?;
        self.applier.back_to(before);
        self.one_by_one(window, stop)
    }

    /// One by one; what a constraint refuses is no error yet. And what had been found before.
    fn attempt(&mut self, window: &Window, stop: &Stop) -> (Before, Result<Applied>) {
        let before = self.applier.attempt();
        let applied = self.one_by_one(window, stop);
        self.applier.attempted();
        (before, applied)
    }

    /// Undoes an attempt; in the next one constraints that can wait do.
    fn defer_instead(&mut self, window: &Window, before: Before, first: bool) -> Result<()> {
        self.undo_window(window, first)?;
        self.applier.back_to(before);
        self.run("set constraints all deferred").inspect_err(|_| self.let_go())
    }

    /// Do the slave's constraints hold where transactions end?
    fn holds(&mut self, window: &Window) -> Result<bool> {
        if window.end.is_none() {
            return Ok(true);
        }
        match self.run("set constraints all immediate") {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == Kind::Apply && !is_transient(&e) => Ok(false),
            Err(e) => {
                self.let_go();
                Err(e)
            }
        }
    }

    /// What comes by two ways comes twice, and shows as conflicts: so it is told where the second one begins.
    pub(super) fn note_source(&mut self, origin: Option<&str>) -> Result<()> {
        let (node, master) = (self.route.source(origin), self.route.master());
        if self.sources.contains(node) {
            return Ok(());
        }
        let others: Option<String> = self
            .client
            .query_one(include_str!("../sql/note_source.sql"), &[&self.agent, &self.name, &master, &node])
            .map_err(|e| {
                Error::from_pg(format!("could not note whose changes come to slave \"{}\"", self.name), e)
            })?
            .get(0);
        if let Some(others) = others {
            log::warn!(
                "slave \"{}\": changes made on node \"{node}\" come by agent {others} as well: unless they are of \
                 different tables they come twice",
                self.name
            );
        }
        self.sources.insert(node.to_owned());
        Ok(())
    }

    /// Applies the net effect of a window; false when that cannot be, and then the transaction is where it was before.
    /// `first`: there is nothing else in it; else it has a savepoint.
    fn carry_out(&mut self, window: &Window, plan: &Plan, first: bool, stop: &Stop) -> Result<bool> {
        let Some(targets) = self.targets(plan).inspect_err(|_| self.let_go())? else {
            self.run(&session::plan_as_usual())?;
            return Ok(false);
        };
        let SlaveSession { client, applier, .. } = self;
        let sent = applier.carry_out(client, &window.chunks, plan, &targets, stop);
        let Err(e) = self.answered().and(sent) else { return Ok(true) };
        if stop.is_set() || e.kind() != Kind::Apply || is_transient(&e) {
            self.let_go();
            return Err(e);
        }
        log::debug!("slave \"{}\": change by change after: {e:#}", self.name);
        self.undo_window(window, first)?;
        Ok(false)
    }

    fn targets<'w>(&mut self, plan: &'w Plan) -> Result<Option<Vec<Target<'w>>>> {
        let SlaveSession { client, tables, applier, .. } = self;
        let mut targets = applier.targets(client, plan, tables)?;
        if let Some(targets) = targets.as_mut().filter(|_| !self.replica) {
            references::sort(client, targets, |target| target.sql_name().to_owned())?;
        }
        Ok(targets)
    }

    /// Goes back to before the window at hand.
    fn undo_window(&mut self, window: &Window, first: bool) -> Result<()> {
        self.applier.forget();
        if !first {
            return self.run("rollback to savepoint a_window");
        }
        self.rollback()?;
        self.begin(window.origin())
    }

    /// Sends a savepoint before a window that is not the first.
    fn savepoint_before_all_but(&mut self, first: bool) {
        if !first {
            self.savepoint();
        }
    }

    /// One at a time, or they would nest.
    pub(super) fn savepoint(&mut self) {
        let release = if self.savepoint { "release savepoint a_window; " } else { "" };
        self.client.send_batch(format!("{release}savepoint a_window"));
        self.savepoint = true;
    }
}

fn is_transient(e: &Error) -> bool {
    e.sqlstate().is_some_and(|state| retry::is_transient(state, e.message()))
}
