//! Waiting for a condition with a deadline: the only place where tests let time pass.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that gets here has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `condition` gives something; panics with `what` after the deadline.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(DEADLINE, condition).unwrap_or_else(|| panic!("waited {DEADLINE:?} in vain for {what}"))
}

/// Looks until `condition` gives something, or until `deadline` has passed.
pub fn wait_within<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}
