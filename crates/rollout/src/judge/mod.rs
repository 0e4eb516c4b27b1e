//! Judges: from what is known of two arms to a verdict.
//!
//! Promises: the same evidence gives the same verdict, without randomness; a verdict may be looked at after every request; ties, constant series,
//! missing data and tiny samples are ordinary cases that end in `inconclusive`, with what is still needed.
//! Absent on purpose: time. A forecast counts units; whoever knows the traffic makes minutes of them.

mod classical;
mod difference;
mod drift;
mod guard;
mod paired;
mod planning;
mod ratio;
mod threshold;
mod watch;

pub use difference::{Compared, compare};
pub use drift::{DriftJudged, drift, drifted};
pub use guard::{Guarded, guard};
pub use paired::{Paired, Slowdown, latency_difference, paired, slowdown};
pub use planning::{Planned, expect, plan_size};
pub use ratio::sample_ratio;
pub use watch::Watch;

use crate::Verdict;
use crate::statistics::sequence;

/// Least number of units in each arm before anything asymptotic is said.
// 50: sums of fifty are near enough to normal for what follows; simulations of the false promotions begin there.
const LEAST_UNITS: u64 = 50;

/// Most times what came so far that a forecast looks ahead.
// A thousand: past it nobody waits, and the arms look the same.
const FAR: f64 = 1_000.0;

/// How many times what came so far it takes until something holds, if figures stay what they are; none when even [`FAR`] times is too few.
pub(crate) fn times_until(holds: impl Fn(f64) -> bool) -> Option<f64> {
    if !holds(FAR) {
        return None;
    }
    let (mut short, mut enough) = (1.0, FAR);
    for _ in 0..30 {
        let middle = f64::sqrt(short * enough);
        if holds(middle) { enough = middle } else { short = middle }
    }
    Some(enough)
}

/// Whether a share is within a limit, with the interval that holds at all times together.
#[derive(Clone, Debug, PartialEq)]
pub struct Proportion {
    /// `pass` when it is certainly within, `fail` when certainly past.
    pub verdict: Verdict,
    /// Lowest share that the counts do not speak against.
    pub low: f64,
    /// Highest share.
    pub high: f64,
}

/// Judges `hits` of `trials` against a limit, wrong with probability `error` at most, however often it is looked at.
pub fn proportion(hits: u64, trials: u64, limit: f64, error: f64) -> Proportion {
    let interval = sequence::share(hits, trials, error);
    let verdict = match (interval.low > limit, interval.high <= limit) {
        (true, _) => Verdict::Fail,
        (_, true) => Verdict::Pass,
        _ => Verdict::Inconclusive,
    };
    Proportion { verdict, low: interval.low, high: interval.high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_judged_once_it_is_certain() {
        assert_eq!(proportion(0, 0, 0.01, 0.05).verdict, Verdict::Inconclusive);
        assert_eq!(proportion(0, 100, 0.01, 0.05).verdict, Verdict::Inconclusive);
        assert_eq!(proportion(0, 2_000, 0.01, 0.05).verdict, Verdict::Pass);
        assert_eq!(proportion(50, 1_000, 0.01, 0.05).verdict, Verdict::Fail);
        assert_eq!(proportion(0, 10, 1.0, 0.05).verdict, Verdict::Pass, "everything is allowed");
    }
}
