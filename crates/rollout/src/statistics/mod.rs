//! Whether a share is past its limit, beyond chance: the exact one-sided binomial test.
//!
//! Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
//! Biometrika 26 (1934). ln Γ by Stirling's series with three correction terms after shifting the argument above 10.

pub(crate) mod normal;
pub(crate) mod sequence;

/// How unlikely a count must be, were the candidate exactly at its limit, before it counts as a failure.
///
/// A rollout is looked at four times a second over a handful of windows that overlap heavily; ten minutes are some thousands of
/// independent looks. At 1 in 100 000 each, a candidate exactly *at* its limit is failed by chance in fewer than one of ten
/// ten-minute watches, one at half its limit practically never (Bonferroni's bound; the tests measure both), while a candidate at five
/// times the limit of 1 % fails within some 400 requests.
pub(crate) const SIGNIFICANCE: f64 = 1e-5;

/// Whether `hits` of `trials` is more than a share of `limit` explains, at [`SIGNIFICANCE`].
pub(crate) fn exceeds(trials: u64, hits: u64, limit: f64) -> bool {
    hits > 0 && binomial_tail(trials, hits, limit) < SIGNIFICANCE
}

/// P(X ≥ `hits`) for X binomial with `trials` and probability `p`; 1 where `hits` is no more than expected (then it is never significant).
pub(crate) fn binomial_tail(trials: u64, hits: u64, p: f64) -> f64 {
    if hits == 0 || p >= 1.0 || hits as f64 <= trials as f64 * p {
        return 1.0;
    }
    if p <= 0.0 || hits > trials {
        return 0.0;
    }
    let (n, k) = (trials as f64, hits as f64);
    let log_first = ln_choose(n, k) + k * p.ln() + (n - k) * (-p).ln_1p();
    let (mut term, mut sum) = (log_first.exp(), 0.0);
    let odds = p / (1.0 - p);
    for i in hits..=trials {
        sum += term;
        term *= (trials - i) as f64 / (i + 1) as f64 * odds;
        if term <= sum * 1e-12 {
            break;
        }
    }
    sum.min(1.0)
}

fn ln_choose(n: f64, k: f64) -> f64 {
    ln_gamma(n + 1.0) - ln_gamma(k + 1.0) - ln_gamma(n - k + 1.0)
}

/// ln Γ(x) for x ≥ 1, to about 1e-10.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square / 1_260.0));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values from exact rational arithmetic.
    #[test]
    fn the_tail_is_exact() {
        for (trials, hits, p, exact) in [
            (10, 3, 0.01, 1.138_5e-4),
            (3, 3, 0.01, 1e-6),
            (400, 20, 0.01, 7.84e-9),
            (1, 1, 0.05, 0.05),
            (5, 5, 0.05, 3.125e-7),
        ] {
            let tail = binomial_tail(trials, hits, p);
            assert!((tail / exact - 1.0).abs() < 0.05, "P(X >= {hits} of {trials} at {p}) = {tail:e}, not {exact:e}");
        }
    }

    #[test]
    fn the_edges_hold() {
        assert_eq!(binomial_tail(100, 0, 0.01), 1.0);
        assert_eq!(binomial_tail(100, 1, 0.01), 1.0, "no more than expected");
        assert_eq!(binomial_tail(100, 3, 0.0), 0.0, "no error is allowed at all");
        assert_eq!(binomial_tail(100, 100, 1.0), 1.0, "every error is allowed");
        assert!(binomial_tail(u64::MAX / 2, 1 << 62, 0.1).is_finite());
        assert!(!exceeds(0, 0, 0.01));
    }

    #[test]
    fn more_hits_are_less_likely() {
        for hits in 3..100 {
            assert!(binomial_tail(100, hits + 1, 0.02) <= binomial_tail(100, hits, 0.02));
        }
    }
}
