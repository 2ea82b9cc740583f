//! What benchmarks share: rounds that take turns, and their medians.
//!
//! Timing machines are noisy: variants run one after the other in each round, and a figure is the median over the
//! rounds of the ratio within a round.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Rounds to run, from the environment; the first argument of a benchmark is cargo's own.
pub fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(5)
}

/// How long something takes.
pub fn time(f: impl FnOnce()) -> Duration {
    let began = Instant::now();
    f();
    began.elapsed()
}

/// The middle one of an odd number of figures, the upper of the two middle ones of an even number.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![1.0]), 1.0);
    }
}
