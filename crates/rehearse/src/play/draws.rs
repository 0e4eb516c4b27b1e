//! Chance, drawn from the seed: counts of arrivals, of hits, and latencies by bucket.
//!
//! Promises: the same generator draws the same; no draw costs more than a few dozen steps, however many requests it stands for.
//! Sources: inversion for small means (L. Devroye, "Non-Uniform Random Variate Generation", 1986, chapter X), the normal approximation
//! above 30, where its error is far below what chance itself does.

use modelyard_core::measure::{BUCKETS, bucket_of};

/// From this mean on, a count is drawn from the normal approximation.
const LARGE: f64 = 30.0;

/// A standard normal number (Box and Muller 1958).
pub(super) fn normal(random: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

/// How many of things that come independently come, when `mean` are expected.
pub(super) fn poisson(random: &mut fastrand::Rng, mean: f64) -> u64 {
    if mean.is_nan() || mean <= 0.0 {
        return 0;
    }
    if mean > LARGE {
        return (mean + normal(random) * mean.sqrt()).round().max(0.0) as u64;
    }
    let (mut term, mut draw, mut count) = ((-mean).exp(), random.f64(), 0);
    while draw > term && count < 200 {
        draw -= term;
        count += 1;
        term *= mean / count as f64;
    }
    count
}

/// How many of `trials` hit, each with `chance`.
pub(super) fn binomial(random: &mut fastrand::Rng, trials: u64, chance: f64) -> u64 {
    if trials == 0 || chance.is_nan() || chance <= 0.0 {
        return 0;
    }
    if chance >= 1.0 {
        return trials;
    }
    if chance > 0.5 {
        return trials - binomial(random, trials, 1.0 - chance);
    }
    let mean = trials as f64 * chance;
    if mean > LARGE {
        let drawn = (mean + normal(random) * (mean * (1.0 - chance)).sqrt()).round().max(0.0) as u64;
        return drawn.min(trials);
    }
    let odds = chance / (1.0 - chance);
    let (mut term, mut draw, mut hits) = ((trials as f64 * (-chance).ln_1p()).exp(), random.f64(), 0);
    while draw > term && hits < trials {
        draw -= term;
        term *= (trials - hits) as f64 / (hits + 1) as f64 * odds;
        hits += 1;
    }
    hits
}

/// A log-normal distribution of latencies cut into slices: the share of each, and the standard normal number at its middle.
const SLICES: [(f64, f64); 14] = [
    (0.05, -1.960),
    (0.10, -1.282),
    (0.10, -0.842),
    (0.10, -0.524),
    (0.10, -0.253),
    (0.10, 0.0),
    (0.10, 0.253),
    (0.10, 0.524),
    (0.10, 0.842),
    (0.075, 1.214),
    (0.035, 1.626),
    (0.025, 1.960),
    (0.010, 2.326),
    (0.005, 2.807),
];

/// Adds `count` latencies around the median `millis` to bucket counts; their sum in µs.
pub(super) fn latencies(
    random: &mut fastrand::Rng,
    counts: &mut [u64; BUCKETS],
    count: u64,
    millis: f64,
    spread: f64,
) -> u64 {
    let (mut left, mut share, mut sum) = (count, 1.0, 0);
    for (part, z) in SLICES {
        let here = binomial(random, left, part / share);
        let micros = (millis * 1e3 * (spread * z).exp()).round() as u64;
        counts[bucket_of(micros)] += here;
        sum += here * micros;
        left -= here;
        share -= part;
        if left == 0 {
            break;
        }
    }
    sum
}

/// The latency in ms that all but one in a thousand keep.
pub(super) fn longest(millis: f64, spread: f64) -> f64 {
    millis * (spread * 3.09).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_the_mean_and_the_spread_that_they_should() {
        let mut random = fastrand::Rng::with_seed(7);
        let runs = 20_000;
        for (trials, chance) in [(10, 0.3), (1_000, 0.01), (5_000, 0.4), (50, 0.97)] {
            let draws: Vec<f64> = (0..runs).map(|_| binomial(&mut random, trials, chance) as f64).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(runs);
            let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / f64::from(runs);
            let (wanted, deviation) = (trials as f64 * chance, (trials as f64 * chance * (1.0 - chance)).sqrt());
            assert!(
                (mean - wanted).abs() < 5.0 * deviation / f64::from(runs).sqrt() + 0.02,
                "{trials} × {chance}: {mean}"
            );
            assert!((variance.sqrt() / deviation - 1.0).abs() < 0.05, "{trials} × {chance}: {variance}");
        }
        for expected in [0.2, 5.0, 80.0] {
            let mean = (0..runs).map(|_| poisson(&mut random, expected) as f64).sum::<f64>() / f64::from(runs);
            assert!((mean / expected - 1.0).abs() < 0.05, "{expected}: {mean}");
        }
    }

    #[test]
    fn the_edges_hold() {
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(binomial(&mut random, 0, 0.5), 0);
        assert_eq!(binomial(&mut random, 9, 0.0), 0);
        assert_eq!(binomial(&mut random, 9, 1.0), 9);
        assert_eq!(binomial(&mut random, 9, f64::NAN), 0);
        assert_eq!([poisson(&mut random, 0.0), poisson(&mut random, -1.0), poisson(&mut random, f64::NAN)], [0; 3]);
        assert!((0..1_000).all(|_| binomial(&mut random, 3, 0.49) <= 3));
    }

    #[test]
    fn the_slices_are_the_whole_and_the_median_is_the_median() {
        assert!((SLICES.iter().map(|(share, _)| share).sum::<f64>() - 1.0).abs() < 1e-12);
        let (mut random, mut counts) = (fastrand::Rng::with_seed(3), [0; BUCKETS]);
        latencies(&mut random, &mut counts, 100_000, 20.0, 0.5);
        assert_eq!(counts.iter().sum::<u64>(), 100_000);
        let histogram = modelyard_core::measure::Histogram::from_counts(counts.to_vec(), 0);
        let (median, p95) = (histogram.quantile(0.5).unwrap(), histogram.quantile(0.95).unwrap());
        assert!((median / 20_000.0 - 1.0).abs() < 0.15, "{median}");
        assert!((p95 / 45_500.0 - 1.0).abs() < 0.2, "{p95}");
    }
}
