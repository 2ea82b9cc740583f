//! SIGTERM and SIGINT become the order to stop, SIGHUP the wish to read the configuration again. The second order to stop
//! does not wait.
//!
//! In: signals. Out: `Stop`, and news of SIGHUP. A second signal may end the process anywhere: what a slave has not
//! committed is rolled back, what it has prepared is settled at the next start.

use crossbeam_channel::{bounded, Receiver};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Kind, Result};
use crate::wake::Stop;

/// Listens from now on, on a thread of its own; gives a token for SIGHUP, one for several that come together.
pub fn listen(stop: &Stop) -> Result<Receiver<()>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Error::new(Kind::Refused, "could not listen to signals").source(e))?;
    let stop = stop.clone();
    let (hangup, hangups) = bounded(1);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                // One that waits already will see the newest configuration.
                SIGHUP => drop(hangup.try_send(())),
                _ if stop.is_set() => {
                    log::warn!("stopped by a second signal");
                    std::process::exit(1);
                }
                _ => stop.set(),
            }
        }
    });
    Ok(hangups)
}
