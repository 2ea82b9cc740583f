//! SIGTERM and SIGINT become the order to stop; the second one does not wait.
//!
//! In: signals. Out: `Stop`. A second signal may end the process anywhere: what a slave has not committed is
//! rolled back, what it has prepared is settled at the next start.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Error, Kind, Result};
use crate::wake::Stop;

/// Listens from now on, on a thread of its own.
pub fn listen(stop: &Stop) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Error::new(Kind::Refused, "could not listen to signals").source(e))?;
    let stop = stop.clone();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => log::info!(
                    "SIGHUP: passwords and certificates are read at every connection; restart for changes in the configuration file"
                ),
                _ if stop.is_set() => {
                    log::warn!("stopped by a second signal");
                    std::process::exit(1);
                }
                _ => stop.set(),
            }
        }
    });
    Ok(())
}
