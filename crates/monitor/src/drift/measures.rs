//! Distances between two spreads over the same bins. Pure arithmetic.

/// How far two spreads are from each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Population stability index, 0 or more: Σ (p − q) · ln(p / q).
    pub psi: f64,
    /// Kolmogorov-Smirnov distance at the ends of the bins, 0 to 1; none for categories.
    pub ks: Option<f64>,
    /// p-value of the χ² test of homogeneity; none where too little was seen for one.
    pub chi_square_p: Option<f64>,
    /// Jensen-Shannon divergence in bits, 0 to 1.
    pub jensen_shannon: f64,
}

/// Expected count below which a bin does not stand for itself in a χ² test.
const EXPECTED: f64 = 5.0;

/// Measures `seen` against `reference`: counts over the same bins, the last one for what is missing. `ordered` says that the others ascend.
///
/// Nothing when either is empty: there is nothing to compare.
pub fn measure(reference: &[u64], seen: &[u64], ordered: bool) -> Option<Measures> {
    // A bin that nobody is in says nothing.
    let both: Vec<(f64, f64)> = reference
        .iter()
        .zip(seen)
        .filter(|(reference, seen)| **reference > 0 || **seen > 0)
        .map(|(&reference, &seen)| (reference as f64, seen as f64))
        .collect();
    let (known, met) = sums(&both);
    if known == 0.0 || met == 0.0 {
        return None;
    }
    let values = reference.len().min(seen.len()).saturating_sub(1);
    Some(Measures {
        psi: stability(&both),
        ks: if ordered { kolmogorov(&reference[..values], &seen[..values]) } else { None },
        chi_square_p: homogeneity(&both),
        jensen_shannon: jensen_shannon(&both),
    })
}

fn sums(pairs: &[(f64, f64)]) -> (f64, f64) {
    pairs.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1))
}

/// Half a value is added to every bin (Jeffreys' prior): one empty bin among few values must not make it infinite.
fn stability(pairs: &[(f64, f64)]) -> f64 {
    let (known, met) = sums(pairs);
    let more = 0.5 * pairs.len() as f64;
    let part = |&(reference, seen): &(f64, f64)| {
        let (p, q) = ((seen + 0.5) / (met + more), (reference + 0.5) / (known + more));
        (p - q) * (p / q).ln()
    };
    pairs.iter().map(part).sum()
}

fn kolmogorov(reference: &[u64], seen: &[u64]) -> Option<f64> {
    let total = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>();
    let (known, met) = (total(reference), total(seen));
    if known == 0.0 || met == 0.0 {
        return None;
    }
    let (mut p, mut q, mut largest) = (0.0, 0.0, 0.0_f64);
    for (&reference, &seen) in reference.iter().zip(seen) {
        p += seen as f64;
        q += reference as f64;
        largest = largest.max((p / met - q / known).abs());
    }
    Some(largest)
}

fn homogeneity(pairs: &[(f64, f64)]) -> Option<f64> {
    let (known, met) = sums(pairs);
    let all = known + met;
    let least = |&(reference, seen): &(f64, f64)| (reference + seen) * known.min(met) / all;
    let (mut bins, few): (Vec<_>, Vec<_>) = pairs.iter().copied().partition(|pair| least(pair) >= EXPECTED);
    if bins.is_empty() {
        return None;
    }
    let rest = sums(&few);
    if rest.0 + rest.1 > 0.0 {
        bins.push(rest);
    }
    let term = |&(reference, seen): &(f64, f64)| {
        let (r, s) = ((reference + seen) * known / all, (reference + seen) * met / all);
        (reference - r).powi(2) / r + (seen - s).powi(2) / s
    };
    let statistic = bins.iter().map(term).sum();
    Some(chi_square_tail(bins.len() - 1, statistic))
}

fn jensen_shannon(pairs: &[(f64, f64)]) -> f64 {
    let (known, met) = sums(pairs);
    let toward = |p: f64, middle: f64| if p > 0.0 { p * (p / middle).log2() } else { 0.0 };
    let part = |&(reference, seen): &(f64, f64)| {
        let (p, q) = (seen / met, reference / known);
        let middle = f64::midpoint(p, q);
        f64::midpoint(toward(p, middle), toward(q, middle))
    };
    pairs.iter().map(part).sum::<f64>().clamp(0.0, 1.0)
}

/// Probability that χ² with that many degrees of freedom is at least `statistic`: the regularised upper incomplete gamma function Q(k/2, x/2).
///
/// Source: Abramowitz and Stegun, 26.4.4 and 26.4.5; 6.5.29 (series), 6.5.31 (continued fraction, by Lentz's method).
pub(crate) fn chi_square_tail(degrees: usize, statistic: f64) -> f64 {
    if degrees == 0 || statistic <= 0.0 {
        return 1.0;
    }
    let (a, x) = (degrees as f64 / 2.0, statistic / 2.0);
    let scale = (a * x.ln() - x - ln_gamma_of_half(degrees)).exp();
    if x < a + 1.0 {
        return (1.0 - scale * series(a, x)).clamp(0.0, 1.0);
    }
    // So far out that nothing is left: an infinite fraction of nothing would be no number.
    if scale == 0.0 || x.is_infinite() { 0.0 } else { (scale * fraction(a, x)).clamp(0.0, 1.0) }
}

/// ln Γ(n / 2), exact up to rounding: from Γ(1/2) = √π or Γ(1) = 1 upwards.
fn ln_gamma_of_half(n: usize) -> f64 {
    let first = if n.is_multiple_of(2) { 0.0 } else { 0.5 * std::f64::consts::PI.ln() };
    let start = if n.is_multiple_of(2) { 2 } else { 1 };
    (start..n).step_by(2).fold(first, |sum, k| sum + (k as f64 / 2.0).ln())
}

fn series(a: f64, x: f64) -> f64 {
    let (mut term, mut sum) = (1.0 / a, 1.0 / a);
    for n in 1..10_000 {
        term *= x / (a + f64::from(n));
        sum += term;
        if term < sum * f64::EPSILON {
            break;
        }
    }
    sum
}

fn fraction(a: f64, x: f64) -> f64 {
    let tiny = f64::MIN_POSITIVE / f64::EPSILON;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / tiny;
    let mut d = 1.0 / b;
    let mut value = d;
    for n in 1..10_000 {
        let n = f64::from(n);
        let numerator = -n * (n - a);
        b += 2.0;
        d = 1.0 / non_zero(numerator * d + b, tiny);
        c = non_zero(b + numerator / c, tiny);
        value *= c * d;
        if (c * d - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    value
}

fn non_zero(value: f64, tiny: f64) -> f64 {
    if value.abs() < tiny { tiny } else { value }
}

#[cfg(test)]
mod tests {
    use super::chi_square_tail;

    /// Constants: `scipy.stats.chi2.sf`, SciPy 1.17.1.
    #[test]
    fn tails_agree_with_scipy() {
        for (degrees, statistic, tail) in [
            (1, 0.5, 0.479_500_122_186_953_37),
            (1, 3.841_458_820_694_124, 0.05),
            (2, 10.0, 0.006_737_946_999_085_468),
            (9, 3.3, 0.951_204_690_684_097_1),
            (9, 60.0, 1.340_678_048_395_962_5e-9),
            (255, 200.0, 0.995_425_444_541_951_9),
            (255, 300.0, 0.027_727_522_053_904_83),
            (30, 400.0, 2.795_493_857_656_505_7e-66),
        ] {
            let own = chi_square_tail(degrees, statistic);
            assert!((own / tail - 1.0).abs() < 1e-9, "{degrees}, {statistic}: {own} instead of {tail}");
        }
        assert_eq!(
            (chi_square_tail(0, 5.0), chi_square_tail(4, 0.0), chi_square_tail(4, f64::INFINITY)),
            (1.0, 1.0, 0.0)
        );
    }
}
