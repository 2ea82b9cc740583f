//! When and how soon to try again: the only place that knows SQLSTATEs, and the back-off between attempts.
//! In: SQLSTATEs, failures and successes. Out: waiting times. Does no I/O.

use std::time::Duration;

/// The server said that this session has ended or cannot begin (yet).
pub fn is_connection_lost(sqlstate: &str) -> bool {
    sqlstate.starts_with("08") || matches!(sqlstate, "57P01" | "57P02" | "57P03" | "57P05" | "53300")
}

/// Chance made it fail, or a prepared statement no longer fits its table: with fresh sessions the same transaction
/// may succeed at once.
pub fn is_transient(sqlstate: &str, message: &str) -> bool {
    matches!(sqlstate, "40001" | "40P01" | "55P03" | "26000")
        || (sqlstate == "0A000" && message.contains("cached plan must not change result type"))
}

/// A unique or exclusion constraint found another row.
pub fn is_insert_exists(sqlstate: &str) -> bool {
    matches!(sqlstate, "23505" | "23P01")
}

/// A constraint that can be deferred, or is looked at when a statement is done.
pub fn is_constraint(sqlstate: &str) -> bool {
    is_insert_exists(sqlstate) || sqlstate == "23503"
}

pub fn is_undefined_object(sqlstate: &str) -> bool {
    sqlstate == "42704"
}

/// The server lacked room or memory or connections.
pub fn is_out_of_resources(sqlstate: &str) -> bool {
    sqlstate.starts_with("53")
}

/// Advice for what a function of the slave's own raises.
pub const HINT_INSIDE: &str = "Correct that function, or the trigger that calls it, on the slave: it runs with search_path = pg_catalog unless it sets its own. The agent tries again by itself and resumes with this transaction.";

/// Advice that the server does not give itself.
pub fn hint(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "23505" | "23P01" => {
            "Correct or remove the row on the slave; the agent tries again by itself and resumes with this transaction."
        }
        "23503" => {
            "Correct the rows on the slave; or, if the order of changes is all that is wrong, make the foreign key there DEFERRABLE, or let the agent's role set session_replication_role. The agent tries again by itself and resumes with this transaction."
        }
        "23502" | "23514" => {
            "Correct the rows or the constraint on the slave; the agent tries again by itself and resumes with this transaction."
        }
        "42P01" | "42703" | "42804" | "428C9" | "3F000" => {
            "Make the table on the slave like the one on the master; the agent tries again by itself and resumes with this transaction."
        }
        "42501" => {
            "Grant the privilege to the agent's role on the slave (BYPASSRLS where the table has row-level security); the agent tries again by itself."
        }
        state if is_out_of_resources(state) => {
            "Free or add on the server of the slave what it lacks; the agent tries again by itself."
        }
        _ => return None,
    })
}

/// Time between attempts: 1 s, doubled up to 60 s, back to 1 s after a success.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    /// One line a minute at most is what an operator wants of a server that is down for the night.
    pub const LAST: Duration = Duration::from_secs(60);

    pub fn new() -> Self {
        Backoff { next: Self::FIRST }
    }

    pub fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(Self::LAST);
        delay
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_a_minute() {
        let mut backoff = Backoff::new();
        let seconds: Vec<u64> = (0..8).map(|_| backoff.delay().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.delay().as_secs(), 1);
    }

    #[test]
    fn classes() {
        assert!(is_connection_lost("08006") && is_connection_lost("57P01"));
        assert!(!is_connection_lost("57014") && !is_connection_lost("23505"));
        assert!(is_transient("40P01", "") && !is_transient("23505", ""));
        assert!(is_transient("0A000", "cached plan must not change result type"));
        assert!(!is_transient("0A000", "cross-database references are not implemented"));
    }
}
