//! What the service manager hears of us: that we are ready, what we are doing, that we are alive. Without systemd,
//! nothing.
//!
//! In: the daemon's state. Out: messages to NOTIFY_SOCKET, as sd_notify(3) describes them.

use std::time::Duration;

use sd_notify::NotifyState;

pub struct Service {
    /// How often the manager wants to hear that we are alive, at least.
    watchdog: Option<Duration>,
    status: String,
}

impl Service {
    pub fn new() -> Service {
        Service { watchdog: watchdog(), status: String::new() }
    }

    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    pub fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// What `systemctl status` shows.
    pub fn status(&mut self, text: &str) {
        if self.status != text {
            self.status = text.to_owned();
            tell(&[NotifyState::Status(text)]);
        }
    }
}

/// As sd_watchdog_enabled(3) has it: without WATCHDOG_PID whoever is asked is meant, which the library does not allow.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let meant = std::env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    let microseconds = number("WATCHDOG_USEC").filter(|microseconds| meant && *microseconds > 0);
    microseconds.map(Duration::from_micros)
}

/// A manager that cannot be told finds out by itself.
fn tell(state: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(false, state) {
        log::debug!("could not notify the service manager: {e}");
    }
}
