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

/// Effects that the mixture bets on, in parts of the planned effect, with their weights; what is left is bet on every size ([`WIDE`]).
// Most on the planned effect: there the test is nearly Wald's. The others keep it quick where the effect is larger and able where it is smaller.
const BETS: [(f64, f64); 5] = [(0.25, 0.03), (0.5, 0.07), (1.0, 0.7), (2.0, 0.1), (4.0, 0.05)];

/// Weight of the bet on every size: normal around zero with the planned effect as deviation. It lets the interval shrink for ever.
const WIDE: f64 = 0.05;

/// How far an estimate with variance `variance` may lie above (or, by symmetry, below) the truth, at all times together, except with
/// probability `error` on that side.
///
/// The truth is refused once the likelihood under the mixture of effects around `effect` is `1 / error` times that under it. Asymptotic in
/// that the estimate is taken as normal and its variance as known. Infinite where the variance is not known.
pub(crate) fn half_width(variance: f64, effect: f64, error: f64) -> f64 {
    let effect = if effect.is_finite() { effect.abs().max(1e-150) } else { 1e-150 };
    if !(variance.is_finite() && variance >= 0.0) || error.is_nan() || error <= 0.0 {
        return f64::INFINITY;
    }
    if variance == 0.0 {
        return 0.0;
    }
    let wanted = (1.0 / error.min(1.0)).ln();
    // In units of the effect: `told` is its square over the variance, what has been told of an effect of that size.
    let told = (effect / variance.sqrt()).powi(2);
    if !(told > 0.0 && told.is_finite()) {
        return if told > 0.0 { 0.0 } else { f64::INFINITY };
    }
    let wide = (WIDE.ln() - (told).ln_1p() / 2.0, told * told / (told + 1.0) / 2.0);
    // Logarithms of the bets' likelihood ratios are convex in the distance, and so is that of their sum: Newton's method from a distance that one
    // bet alone refuses comes down to the edge and never past it, so that stopping early is on the safe side.
    let alone = |&(size, weight): &(f64, f64)| (wanted - weight.ln() + size * size * told / 2.0) / (size * told);
    let start = BETS.iter().map(alone).fold(((wanted - wide.0) / wide.1).sqrt(), f64::min);
    let mut distance = start;
    for _ in 0..12 {
        let (value, slope) = log_ratio(distance, told, wide);
        let step = (value - wanted) / slope;
        if step.is_nan() || step <= 1e-9 * distance {
            break;
        }
        distance -= step;
    }
    distance.max(0.0) * effect
}

/// The logarithm of the mixture's likelihood ratio at a distance, with its slope.
fn log_ratio(distance: f64, told: f64, wide: (f64, f64)) -> (f64, f64) {
    let wide_log = wide.0 + wide.1 * distance * distance;
    let log = |(size, weight): (f64, f64)| weight.ln() + size * told * (distance - size / 2.0);
    let most = BETS.into_iter().map(log).fold(wide_log, f64::max);
    let first = (wide_log - most).exp();
    let (sum, slope) = BETS.into_iter().fold((first, first * 2.0 * wide.1 * distance), |(sum, slope), bet| {
        let part = (log(bet) - most).exp();
        (sum + part, slope + part * bet.0 * told)
    });
    (most + sum.ln(), slope / sum)
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

    /// Reference values from SciPy 1.17 (`scipy.special.betaln`, `scipy.optimize.brentq`) and, for the widths, from halving the mixture written out.
    #[test]
    fn intervals_are_those_of_the_mixtures() {
        let found = share(7, 50, 0.05);
        assert!((found.low - 0.032_848_902_064_917_536).abs() < 1e-8, "{found:?}");
        assert!((found.high - 0.338_385_275_668_363_9).abs() < 1e-8, "{found:?}");
        for (told, width) in
            [(0.5, 4.651_853_095_928_567), (6.8, 0.982_597_384_342_571_9), (100.0, 0.348_918_144_682_730_2)]
        {
            let found = half_width(1.0 / told, 1.0, 0.05);
            assert!((found / width - 1.0).abs() < 1e-6, "{told}: {found}, not {width}");
        }
    }

    #[test]
    fn widths_are_ordinary_numbers_or_infinite() {
        assert_eq!(half_width(0.0, 1.0, 0.05), 0.0);
        assert_eq!(half_width(f64::NAN, 1.0, 0.05), f64::INFINITY);
        assert!(half_width(1e-9, 0.1, 0.05) < half_width(1e-6, 0.1, 0.05));
        assert!(half_width(0.01, f64::NAN, 0.05) > 0.0);
        // Always wider than the one-sided interval of a single look, and near Wald's test at the planned effect.
        for told in [0.01, 0.1, 1.0, 6.0, 10.0, 1e3, 1e6] {
            let width = half_width(1.0 / told, 1.0, 0.05);
            assert!(width > 1.6449 / f64::sqrt(told), "{told}: {width}");
        }
        let edge = half_width(1.0 / 6.8, 1.0, 0.05);
        assert!((0.9..1.0).contains(&edge), "an effect as planned shows at 6.8, where a single look needs 6.2: {edge}");
    }
}
