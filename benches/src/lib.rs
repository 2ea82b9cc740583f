//! What benchmarks share: rounds that take turns, medians, arguments, and how results are shown and kept.
//!
//! Timing machines are noisy: variants run one after the other in each round, in an order that changes from round
//! to round, and a figure is the median over the rounds of the ratio within a round.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod consumer;
pub mod empty_trigger;
pub mod live;
pub mod process;
pub mod report;
pub mod rivals;
pub mod table;

use std::time::{Duration, Instant};

/// Rounds to run, from the environment.
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

/// The median over the rounds of `of(figure, base)`, where both are of the same round.
pub fn paired<T>(figures: &[T], base: &[T], of: impl Fn(&T, &T) -> f64) -> f64 {
    median(figures.iter().zip(base).map(|(figure, base)| of(figure, base)).collect())
}

/// 0 to `count`, begun at another place in each round.
pub fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (turn + round) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![1.0]), 1.0);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        assert_eq!(paired(&[2.0, 40.0, 3.0], &[1.0, 20.0, 1.0], |a, b| a / b), 2.0);
    }

    #[test]
    fn each_round_begins_with_another() {
        assert_eq!(turns(3, 4).collect::<Vec<_>>(), [1, 2, 0]);
    }
}
