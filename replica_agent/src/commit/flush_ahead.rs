//! Has the slave write the WAL of a long batch to its disk while the batch is still being applied.
//!
//! PREPARE TRANSACTION waits until all WAL before it is on disk; of 50,000 rows that is some ten megabytes, and takes up to a
//! tenth of the time of the batch. PostgreSQL's WAL writer would write it meanwhile, but of itself it looks only every
//! `wal_writer_delay` (200 ms). It is woken where a session commits without waiting for the disk
//! (`XLogSetAsyncXactLSN`), and a transaction that has an id and has written nothing commits like that. So a session
//! beside the one that applies makes such transactions now and then, while batches of several windows are under way.
//!
//! Nothing depends on it: without that session, or before it is there, PREPARE waits as it always did.

use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, Receiver, TryRecvError};

use crate::config::Slave;
use crate::error::Result;
use crate::logging;
use crate::pipe::Pipe;
use crate::session;

/// In this time a slave writes about a megabyte of WAL, for which the WAL writer waits as well (`wal_writer_flush_after`).
const EVERY: Duration = Duration::from_millis(10);

/// The session beside.
pub(super) struct FlushAhead {
    slave: Slave,
    state: State,
    nudged: Instant,
}

enum State {
    /// There was no long batch yet.
    NotNeeded,
    /// The batch does not wait for it.
    Opening(Receiver<Result<Pipe>>),
    Open(Pipe),
    Failed,
}

impl FlushAhead {
    pub fn new(slave: &Slave) -> Self {
        FlushAhead { slave: slave.clone(), state: State::NotNeeded, nudged: Instant::now() }
    }

    /// Wakes the WAL writer, unless that was done just now. Waits for nothing.
    pub fn nudge(&mut self) {
        if self.nudged.elapsed() < EVERY {
            return;
        }
        self.nudged = Instant::now();
        let next = match &mut self.state {
            State::NotNeeded => Some(self.open()),
            State::Opening(opened) => match opened.try_recv() {
                Ok(Ok(pipe)) => Some(State::Open(pipe)),
                Ok(Err(e)) => Some(self.failed(&format!("{e:#}"))),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(State::Failed),
            },
            State::Open(pipe) => nudge(pipe).err().map(|e| self.failed(&e.to_string())),
            State::Failed => None,
        };
        if let Some(next) = next {
            self.state = next;
        }
    }

    fn open(&self) -> State {
        let slave = self.slave.clone();
        let (sender, opened) = bounded(1);
        let open = logging::inherit(move || {
            // Nobody waits for it where the slave's session has ended meanwhile.
            sender.send(session::connect_slave(&slave)).ok();
        });
        match std::thread::Builder::new().name("flush".to_owned()).spawn(open) {
            Ok(_) => State::Opening(opened),
            Err(e) => self.failed(&e.to_string()),
        }
    }

    fn failed(&self, why: &str) -> State {
        log::debug!("slave \"{}\": its WAL is not flushed ahead: {why}", self.slave.name);
        State::Failed
    }
}

fn nudge(pipe: &mut Pipe) -> std::result::Result<(), postgres::Error> {
    pipe.turn();
    // It has not come to the last one.
    if pipe.answered() < pipe.sent() {
        return Ok(());
    }
    pipe.settle(pipe.answered()).map_err(|(_, e)| e)?;
    pipe.send_batch("select pg_current_xact_id()".to_owned());
    pipe.turn();
    Ok(())
}
