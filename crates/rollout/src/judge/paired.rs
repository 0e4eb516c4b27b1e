//! Paired differences: what a shadow answers less what stable answered to the same request, held against a limit.

use modelyard_core::evidence::{Moments, Statistic};
use modelyard_core::measure::Histogram;

use super::LEAST_UNITS;
use super::difference::{floored, forecast, of_histogram, quantiles};
use crate::Verdict;
use crate::statistics::sequence;

/// What paired differences say of a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// `pass` when the mean difference certainly lies within the limit on either side, `fail` when it certainly does not.
    pub verdict: Verdict,
    /// The mean difference; not a number without data.
    pub mean: f64,
    /// Smallest mean difference that the pairs do not speak against.
    pub low: f64,
    /// Largest.
    pub high: f64,
}

/// Judges the mean of differences against `limit` on either side of zero, wrong with probability `error` at most, however often it is looked at.
///
/// `differences` may hold many numbers of each of the `pairs` (elements of a tensor). Those of one pair go together, and their mean varies at most as much as one of
/// them does: so the pairs are what is counted.
pub fn paired(differences: &Moments, pairs: u64, limit: f64, error: f64) -> Paired {
    let units = pairs.min(differences.count);
    let unknown =
        Paired { verdict: Verdict::Inconclusive, mean: f64::NAN, low: f64::NEG_INFINITY, high: f64::INFINITY };
    let Some(variance) = differences.variance().filter(|_| units > 1 && differences.mean.is_finite()) else {
        return unknown;
    };
    let mean = differences.mean;
    let variance = floored(variance / units as f64, units, mean.abs().max(limit));
    let half = sequence::half_width(variance, limit.max(mean.abs() / 2.0), error / 2.0);
    let (low, high) = (mean - half, mean + half);
    if low.is_nan() || high.is_nan() {
        return unknown;
    }
    let verdict = match (units >= LEAST_UNITS, low.abs().max(high.abs()) <= limit, low > limit || high < -limit) {
        (false, ..) => Verdict::Inconclusive,
        (_, true, _) => Verdict::Pass,
        (_, _, true) => Verdict::Fail,
        _ => Verdict::Inconclusive,
    };
    Paired { verdict, mean, low, high }
}

/// How much longer the shadow's answers take on average, in ms, with the interval that holds at all times together; none below 50 answers.
///
/// Both answer the same requests; that slow ones are slow for both is left out, which makes the interval wider than it need be.
pub fn latency_difference(stable: &Histogram, shadow: &Histogram, error: f64) -> Option<(f64, f64, f64)> {
    let (stable, shadow) = (of_histogram(stable)?, of_histogram(shadow)?);
    let mean = shadow.value - stable.value;
    let half = sequence::half_width(stable.variance + shadow.variance, (stable.value / 10.0).max(0.1), error / 2.0);
    (stable.units.min(shadow.units) >= LEAST_UNITS && half.is_finite()).then_some((mean, mean - half, mean + half))
}

/// How much longer the shadow's answers take at a quantile, held against a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Slowdown {
    /// The difference in ms, shadow less stable, with its interval; `pass` when it is certainly within the limit, `fail` when certainly past.
    pub found: Paired,
    /// The limit in ms.
    pub limit: f64,
    /// How many more pairs it takes, about, if the difference is what it looks like; none when that cannot be said.
    pub needed: Option<u64>,
}

/// Holds the difference of two latencies' quantile against `limit` ms, wrong with probability `error` at most, however often it is looked at.
///
/// The interval is made of each quantile's own, so it holds although both answer the same requests; that slow ones are slow for both makes it wider than
/// it need be. A limit that is finer than the histogram's buckets (an eighth of the latency) is told by what lies between them.
pub fn slowdown(stable: &Histogram, shadow: &Histogram, quantile: f64, limit: f64, error: f64) -> Slowdown {
    let of = |histogram: &Histogram| quantiles(&Statistic::Histogram(histogram.clone()), quantile, error / 2.0);
    let (Some((s, s_interval, s_units)), Some((c, c_interval, c_units))) = (of(stable), of(shadow)) else {
        let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
        let found = Paired { verdict: Verdict::Inconclusive, mean: f64::NAN, low, high };
        return Slowdown { found, limit, needed: Some(LEAST_UNITS) };
    };
    let (units, difference) = (s_units.min(c_units), c - s);
    let (low, high) = (c_interval.low - s_interval.high, c_interval.high - s_interval.low);
    let verdict = match (units >= LEAST_UNITS, high <= limit, low > limit) {
        (true, true, _) => Verdict::Pass,
        (true, _, true) => Verdict::Fail,
        _ => Verdict::Inconclusive,
    };
    let needed = match verdict {
        Verdict::Inconclusive if units < LEAST_UNITS => Some(LEAST_UNITS - units),
        Verdict::Inconclusive => {
            forecast((limit - difference).abs(), units, |times| (high - low) / 2.0 / f64::sqrt(times))
        }
        _ => Some(0),
    };
    Slowdown { found: Paired { verdict, mean: difference, low, high }, limit, needed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: impl IntoIterator<Item = f64>) -> Moments {
        let mut moments = Moments::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    }

    #[test]
    fn a_shift_shows_and_noise_does_not() {
        let noise = |n: u64, shift: f64| moments((0..n).map(move |i| ((i * 37 % 101) as f64 - 50.0) / 50.0 + shift));
        assert_eq!(paired(&noise(4_040, 0.0), 4_040, 0.1, 0.05).verdict, Verdict::Pass);
        assert_eq!(paired(&noise(4_040, 0.3), 4_040, 0.1, 0.05).verdict, Verdict::Fail);
        assert_eq!(paired(&noise(4_040, -0.3), 4_040, 0.1, 0.05).verdict, Verdict::Fail, "on either side");
        assert_eq!(paired(&noise(4_040, 0.1), 4_040, 0.1, 0.05).verdict, Verdict::Inconclusive, "at the limit");
        assert_eq!(paired(&noise(40, 0.9), 40, 0.1, 0.05).verdict, Verdict::Inconclusive, "too few");
        assert_eq!(paired(&Moments::default(), 0, 0.1, 0.05).verdict, Verdict::Inconclusive);
    }

    /// Within a pair elements go together: a thousand equal numbers of one pair are one, not a thousand.
    #[test]
    fn pairs_are_counted_and_not_elements() {
        let elements = moments((0..50_000_u64).map(|i| if i / 1_000 % 2 == 0 { 1.0 } else { -0.8 }));
        let few = paired(&elements, 50, 0.05, 0.05);
        assert_eq!(few.verdict, Verdict::Inconclusive, "{few:?}");
        assert_eq!(paired(&elements, 50_000, 0.05, 0.05).verdict, Verdict::Fail, "as independent it would be certain");
    }

    #[test]
    fn equal_answers_pass_after_some_and_unequal_constants_fail() {
        assert_eq!(paired(&moments(vec![0.0; 200]), 200, 0.01, 0.05).verdict, Verdict::Pass);
        assert_eq!(paired(&moments(vec![0.5; 200]), 200, 0.01, 0.05).verdict, Verdict::Fail);
        assert_eq!(paired(&moments(vec![0.5; 20]), 20, 0.01, 0.05).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_quantile_is_held_against_a_limit_once_it_is_certain() {
        let of = |count: u64, micros: u64| {
            let mut histogram = Histogram::default();
            (0..count).for_each(|i| histogram.record(micros + i * 37 % 1_000));
            histogram
        };
        let judge = |count: u64, shadow: u64| slowdown(&of(count, 10_000), &of(count, shadow), 0.95, 5.0, 0.05);
        let verdict = |count, shadow| judge(count, shadow).found.verdict;
        assert_eq!(verdict(2_000, 10_000), Verdict::Pass);
        assert_eq!(verdict(2_000, 5_000), Verdict::Pass, "faster is within any limit");
        assert_eq!(verdict(2_000, 18_000), Verdict::Fail);
        assert_eq!(verdict(40, 90_000), Verdict::Inconclusive, "too few");
        assert_eq!(judge(40, 90_000).needed, Some(10));
        let open = judge(60, 13_000);
        assert_eq!(
            open.found.verdict,
            Verdict::Inconclusive,
            "a rank of 60 tells little of the slowest twentieth: {open:?}"
        );
        let none = slowdown(&Histogram::default(), &of(100, 1), 0.95, 5.0, 0.05);
        assert_eq!((none.found.verdict, none.needed), (Verdict::Inconclusive, Some(LEAST_UNITS)));
    }

    #[test]
    fn latencies_are_compared_side_by_side() {
        let of = |micros: u64| {
            let mut histogram = Histogram::default();
            (0..400).for_each(|i| histogram.record(micros + i * 10));
            histogram
        };
        let (mean, low, high) = latency_difference(&of(10_000), &of(30_000), 0.05).unwrap();
        assert!(low < mean && mean < high && low > 15.0 && high < 25.0, "{mean} ({low} to {high})");
        assert_eq!(latency_difference(&Histogram::default(), &of(1), 0.05), None);
    }
}
