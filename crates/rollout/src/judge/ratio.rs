//! Whether arms got the shares that they were assigned.

use crate::statistics::ln_gamma;

/// How firmly the assigned shares are believed beforehand, in units.
// 1 000: a split that is off by a tenth shows after some thousand units, one that is off by a hundredth after some hundred thousand.
const PRIOR: f64 = 1_000.0;

/// How likely counts at least this far from the shares are, were the split as assigned: valid however often it is looked at. 1 without data.
///
/// `arms`: units and share (any positive scale) of each arm.
///
/// Source: M. Lindon and A. Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022 (Dirichlet mixture around the assigned shares).
pub fn sample_ratio(arms: &[(u64, f64)]) -> f64 {
    let whole: f64 = arms.iter().map(|&(_, share)| share).sum();
    let units: u64 = arms.iter().map(|&(units, _)| units).sum();
    if arms.len() < 2 || units == 0 || !(whole.is_finite() && whole > 0.0) {
        return 1.0;
    }
    // An arm without a share that got units all the same.
    if arms.iter().any(|&(units, share)| units > 0 && share <= 0.0) {
        return 0.0;
    }
    let total = units as f64;
    let mut log_factor = ln_gamma(PRIOR) - ln_gamma(PRIOR + total);
    for &(units, share) in arms.iter().filter(|&&(_, share)| share > 0.0) {
        let (n, expected) = (units as f64, share / whole);
        let belief = (PRIOR * expected).max(1.0);
        log_factor += ln_gamma(belief + n) - ln_gamma(belief) - n * expected.ln();
    }
    (-log_factor).exp().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_that_hold_are_believed_and_others_are_not() {
        assert_eq!(sample_ratio(&[]), 1.0);
        assert_eq!(sample_ratio(&[(0, 0.5), (0, 0.5)]), 1.0);
        assert!(sample_ratio(&[(5_020, 0.5), (4_980, 0.5)]) > 0.5);
        assert!(sample_ratio(&[(9_000, 0.9), (1_000, 0.1)]) > 0.5);
        assert!(sample_ratio(&[(5_500, 0.5), (4_500, 0.5)]) < 1e-6);
        // Reference value from SciPy 1.17 (`scipy.special.gammaln`).
        assert!((sample_ratio(&[(5_200, 0.5), (4_800, 0.5)]) / 0.002_297_766_645_261_11 - 1.0).abs() < 1e-5);
        assert_eq!(sample_ratio(&[(10, 1.0), (1, 0.0)]), 0.0);
        assert!(sample_ratio(&[(3, 0.5), (0, 0.5)]) > 0.5, "three heads in a row are nothing");
    }
}
