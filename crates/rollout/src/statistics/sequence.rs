//! Confidence sequences: intervals that hold at all times together, so that they may be looked at after every request.
//!
//! Promises: only sums are needed, so the interval of a moment does not depend on how often was looked before; the same sums give the same interval.
//!
//! Sources: R. Johari, P. Koomen, L. Pekelis, D. Walsh, "Peeking at A/B tests", KDD 2017 (mixture sequential probability ratio test); I. Waudby-Smith,
//! D. Arbour, R. Sinha, E. Kennedy, A. Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (2021); H. Robbins, "Statistical methods
//! related to the law of the iterated logarithm", Ann. Math. Stat. 41 (1970) for the beta-binomial mixture; J. Ville (1939) for why looking is free.

use super::ln_gamma;

/// An interval; infinite where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    pub(crate) const EVERYTHING: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY };
}

/// How far a sum that estimates with variance `variance` may be off, at all times together, except with probability `error` in all.
///
/// The mixture is normal with standard deviation `scale`: the interval is narrowest around the time at which effects of that size show. Asymptotic in
/// that the estimate is taken as normal and its variance as known.
pub(crate) fn half_width(variance: f64, scale: f64, error: f64) -> f64 {
    if !(variance.is_finite() && variance >= 0.0) || scale <= 0.0 {
        return f64::INFINITY;
    }
    if variance == 0.0 {
        return 0.0;
    }
    let spread = scale * scale;
    let ratio = (variance + spread) / variance;
    (variance * (variance + spread) / spread * (2.0 * (1.0 / error).ln() + ratio.ln())).sqrt()
}

/// The scale with which an effect is found soonest, in the mean, by a test that tells better from not better.
///
/// Of the mixtures between a half and twice the effect all need about the same time; by simulation (`cargo xtask bench judges`) the effect itself is good.
pub(crate) fn scale_for(effect: f64) -> f64 {
    effect.abs().max(f64::MIN_POSITIVE)
}

/// Shares that `hits` of `trials` do not speak against, at all times together: exact, however small the counts.
///
/// A share is refused once the likelihood of the counts under a uniform mixture of shares is `1 / error` times that under it.
pub(crate) fn share(hits: u64, trials: u64, error: f64) -> Interval {
    if trials == 0 || hits > trials {
        return Interval { low: 0.0, high: 1.0 };
    }
    let (k, n) = (hits as f64, trials as f64);
    let mixture = ln_gamma(k + 1.0) + ln_gamma(n - k + 1.0) - ln_gamma(n + 2.0);
    let keeps = |p: f64| {
        let likelihood = ln_power(p, k) + ln_power(1.0 - p, n - k);
        mixture - likelihood < (1.0 / error).ln()
    };
    let estimate = k / n;
    Interval { low: edge(0.0, estimate, keeps), high: edge(1.0, estimate, keeps) }
}

fn ln_power(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 { 0.0 } else { exponent * base.ln() }
}

/// The point nearest to `outside` that is kept, by halving towards `inside`.
fn edge(outside: f64, inside: f64, keeps: impl Fn(f64) -> bool) -> f64 {
    if keeps(outside) {
        return outside;
    }
    let (mut out, mut kept) = (outside, inside);
    for _ in 0..60 {
        let middle = f64::midpoint(out, kept);
        if keeps(middle) { kept = middle } else { out = middle }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_around_the_truth_and_hold_at_the_edges() {
        assert_eq!(share(0, 0, 0.05), Interval { low: 0.0, high: 1.0 });
        let none = share(0, 100, 0.05);
        assert!(none.low == 0.0 && (0.05..0.12).contains(&none.high), "{none:?}");
        let all = share(100, 100, 0.05);
        assert!(all.high == 1.0 && (1.0 - all.low - none.high).abs() < 1e-9, "{all:?}");
        let mut before = 1.0;
        for n in [10, 100, 1_000, 100_000] {
            let found = share(n / 10, n, 0.05);
            assert!(found.low < 0.1 && 0.1 < found.high && found.high - found.low < before, "{n}: {found:?}");
            before = found.high - found.low;
        }
    }

    #[test]
    fn widths_are_ordinary_numbers_or_infinite() {
        assert_eq!(half_width(0.0, 1.0, 0.05), 0.0);
        assert_eq!(half_width(f64::NAN, 1.0, 0.05), f64::INFINITY);
        assert!(half_width(1e-9, 0.1, 0.05) < half_width(1e-6, 0.1, 0.05));
        // Always wider than the interval of a single look.
        assert!(half_width(0.01, 0.1, 0.05) > 1.96 * 0.1);
    }
}
