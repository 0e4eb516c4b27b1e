//! The normal distribution, as far as judges need it.
//!
//! Source: W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), in the form of a continued fraction for the
//! tail (Abramowitz and Stegun 26.2.14) and a series near zero (26.2.11); the quantile by P. J. Acklam's rational approximation with one step of Halley's method.

use std::f64::consts::PI;

/// P(Z > z).
pub(crate) fn upper_tail(z: f64) -> f64 {
    if z.is_nan() {
        return 0.5;
    }
    if z < 0.0 {
        return 1.0 - upper_tail(-z);
    }
    if z > 38.0 {
        return 0.0;
    }
    let density = (-z * z / 2.0).exp() / (2.0 * PI).sqrt();
    if z < 2.5 {
        // Φ(z) = ½ + φ(z)·(z + z³/3 + z⁵/15 + …)
        let (mut term, mut sum, mut odd) = (z, z, 1.0);
        while term > sum * 1e-17 {
            odd += 2.0;
            term *= z * z / odd;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let fraction = (1..=60).rev().fold(z, |rest, n| z + f64::from(n) / rest);
    density / fraction
}

/// The z with P(Z ≤ z) = `p`; infinite at 0 and 1.
pub(crate) fn quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if p >= 1.0 {
        return f64::INFINITY;
    }
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [7.784_695_709_041_462e-3, 3.224_671_290_700_398e-1, 2.445_134_137_142_996, 3.754_408_661_907_416];
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, &c| sum * x + c);
    let tail = |q: f64| horner(&C, q) / (horner(&D, q) * q + 1.0);
    let x = if p < 0.024_25 {
        tail((-2.0 * p.ln()).sqrt())
    } else if p > 0.975_75 {
        -tail((-2.0 * (1.0 - p).ln()).sqrt())
    } else {
        let q = p - 0.5;
        let r = q * q;
        horner(&A, r) * q / (horner(&B, r) * r + 1.0)
    };
    let error = (1.0 - upper_tail(x)) - p;
    let step = error * (2.0 * PI).sqrt() * (x * x / 2.0).exp();
    if step.is_finite() { x - step / (1.0 + x * step / 2.0) } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference values from tables (Abramowitz and Stegun 26.1 and 7.1).
    #[test]
    fn tails_and_quantiles_are_exact() {
        for (z, tail) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457),
            (1.959_963_984_540_054, 0.025),
            (3.0, 1.349_898_031_630_095e-3),
            (6.0, 9.865_876_450_376_98e-10),
        ] {
            assert!((upper_tail(z) / tail - 1.0).abs() < 1e-9, "{z}: {}", upper_tail(z));
            assert!((quantile(1.0 - tail) - z).abs() < 1e-5, "{tail}: {}", quantile(1.0 - tail));
            assert!((upper_tail(-z) + upper_tail(z) - 1.0).abs() < 1e-12);
        }
        let error_function = |x: f64| 1.0 - 2.0 * upper_tail(x * std::f64::consts::SQRT_2);
        assert!((error_function(0.5) - 0.520_499_877_813_046_5).abs() < 1e-12);
        assert_eq!((quantile(0.0), quantile(1.0), upper_tail(100.0)), (f64::NEG_INFINITY, f64::INFINITY, 0.0));
    }
}
