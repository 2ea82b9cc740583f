//! A slave that is served: where it stands, its session, what the master hears of it. By itself (`follow`) or in a
//! group (`group`) it takes the same steps.
//!
//! In: a session whose slave has been recovered. Out: its position, from the first one on; it moves only with what the
//! slave has committed, and the master hears only of what is durable there.

mod new_tables;
mod stream;

use crate::again::Again;
use crate::commit::{SlaveSession, Standing};
use crate::config::Initial;
use crate::control::Control;
use crate::error::Result;
use crate::feed::Context;
use crate::position::{Position, Target};
use crate::report::{Reporter, State};
use crate::twice;
pub use stream::Ended;

/// A slave that has a position, with its session, while it is served.
pub struct Member {
    pub session: SlaveSession,
    pub reporter: Reporter,
    /// Committed on the slave.
    pub position: Position,
    /// What is copied again meanwhile.
    pub(crate) again: Option<Again>,
}

impl Member {
    /// Takes over a slave that has been recovered: finds its position, or takes the first one, and brings its tables.
    pub fn start(context: &Context, control: &mut Control, mut session: SlaveSession) -> Result<Self> {
        refuse_twice(control, &mut session)?;
        let standing = session.standing()?;
        let resumes = standing.is_some();
        let position = match standing {
            Some(standing) => resume(control, &mut session, standing)?,
            None => {
                let captured = control.captured()?;
                session.tables.all_due(&captured);
                begin(control, &mut session)?
            }
        };
        // The predecessor may have died before it was.
        session.make_durable()?;
        let total = context.totals.of(&session.name);
        session.count_to(total.clone());
        let teller = context.tellers.of(&session.name);
        session.tell_to(teller.clone());
        let mut member = Member {
            reporter: Reporter::new(&session.name, &position, total, teller),
            session,
            position,
            again: None,
        };
        if resumes {
            member.finish_copy(context, control)?;
        }
        member.reporter.state(control, State::CatchingUp)?;
        if resumes {
            member.wait_for_new_tables(context, control)?;
        }
        member.bring_new_tables(context, control)?;
        member.finish_schema(context, control)?;
        Ok(member)
    }

    /// What the stream does not tell: sequences that moved before it began, or without a change of rows.
    pub fn catch_up_sequences(&mut self, control: &mut Control) -> Result<()> {
        if self.session.follows_sequences() {
            self.session.catch_up_sequences(&control.sequences()?)?;
        }
        Ok(())
    }

    /// The master drops what a slave has reported, so it hears only of what is durable there.
    fn report(&mut self, control: &mut Control, more: bool) -> Result<()> {
        if !self.session.is_durable() {
            self.reporter.moved_for_now(control, more)?;
            if !self.reporter.wants_durable() || !self.session.make_durable()? {
                return Ok(());
            }
        }
        self.reporter.moved(control, &self.position, more)
    }

    pub(crate) fn commit(&mut self, position: &Position) -> Result<u64> {
        self.session.prepare(position, self.session.batch + 1)?;
        let conflicts = self.session.commit()?;
        self.position = position.clone();
        Ok(conflicts)
    }

    /// All up to the target is applied: says so, even if there was nothing to apply. One that lies behind, since a later
    /// one was waited for meanwhile, is passed already: to go back to it would apply twice what came after it.
    fn move_to(&mut self, target: &Target) -> Result<()> {
        if !target.snapshot.includes(&self.position.snapshot) {
            return Ok(());
        }
        let mut position: Position = target.clone().into();
        if position.rank <= self.position.rank {
            (position.rank, position.last_xid) = (self.position.rank, self.position.last_xid);
        }
        position.last_ts = self.position.last_ts;
        position.settled = self.position.settled;
        if position != self.position {
            self.commit(&position)?;
        }
        Ok(())
    }
}

fn refuse_twice(control: &mut Control, session: &mut SlaveSession) -> Result<()> {
    let (master, captured) = (control.state()?.id.system_identifier, control.captured()?);
    let name = session.name.clone();
    let (client, tables) = session.parts()?;
    let wanted = tables.mapping().wanted(captured);
    twice::refuse(client, tables.agent(), &name, &master, &wanted)
}

fn resume(control: &mut Control, session: &mut SlaveSession, standing: Standing) -> Result<Position> {
    let name = &session.name;
    let state = control.recognise(name, &standing)?;
    control.ensure_registered(name, &standing.position)?;
    log::info!("slave \"{name}\": stands at log id {}, batch {}", standing.position.rank, standing.batch);
    session.set_timeline(state.id.timeline);
    Ok(standing.position)
}

fn begin(control: &mut Control, session: &mut SlaveSession) -> Result<Position> {
    let name = session.name.clone();
    // First the log is kept for it, then the position is taken: nothing is dropped in between.
    let floor = control.state()?.now.into();
    control.register(&name, &floor)?;
    let state = control.state()?;
    let position = match session.tables.initial() {
        Initial::Oldest => Position::start(),
        Initial::Copy | Initial::Current => state.now.into(),
    };
    control.register(&name, &position)?;
    session.first_position(&state.id, &position)?;
    log::info!("slave \"{name}\": begins at log id {}", position.rank);
    Ok(position)
}
