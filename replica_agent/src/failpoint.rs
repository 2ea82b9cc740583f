//! Named places at which the tests let the process die. Nothing is left of them without the feature `failpoints`.
//!
//! `PYREPLICA_FAILPOINT=commit.after_prepare:3` aborts the process when it gets there for the third time. In an atomic
//! group each slave counts: `commit.after_prepare:1` is after the first slave has prepared, `:2` after the second.

/// Every failpoint, in the order in which a batch meets them.
pub const NAMES: &[&str] = &[
    "schema.before_commit",
    "schema.after_commit",
    "copy.before_commit",
    "copy.after_commit",
    "schema.before_pending",
    "again.after_hold",
    "again.after_copy",
    "again.before_commit",
    "again.after_commit",
    "commit.after_begin",
    "commit.after_apply",
    "commit.after_position",
    "commit.after_prepare",
    "commit.sent",
    "group.after_decision",
    "commit.after_commit",
    "group.after_first_commit",
    "report.before",
    "feed.next",
];

#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// A place at which a thread may hang for ever instead.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hang(_name: &str) {}

/// Whether this is the one at which the process is to die: then what comes before it has to be carried out.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn is_chosen(_name: &str) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub fn hang(name: &str) {
    if is_reached(name) {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(feature = "failpoints")]
pub fn is_chosen(name: &str) -> bool {
    debug_assert!(NAMES.contains(&name), "failpoint {name} is listed");
    chosen().is_some_and(|(chosen, _)| chosen == name)
}

#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    if is_reached(name) {
        eprintln!("failpoint {name} reached");
        std::process::abort();
    }
}

#[cfg(feature = "failpoints")]
fn is_reached(name: &str) -> bool {
    use std::sync::atomic::{AtomicU64, Ordering};

    static HITS: AtomicU64 = AtomicU64::new(0);

    let count = chosen().filter(|_| is_chosen(name)).map(|(_, count)| *count);
    count.is_some_and(|count| HITS.fetch_add(1, Ordering::SeqCst) + 1 == count)
}

/// The name, and which time.
#[cfg(feature = "failpoints")]
fn chosen() -> Option<&'static (String, u64)> {
    static CHOSEN: std::sync::OnceLock<Option<(String, u64)>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("PYREPLICA_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().unwrap_or(1)))
    });
    chosen.as_ref()
}
