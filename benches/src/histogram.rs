//! Latencies of a run, finer than what the gateway keeps: buckets at most 1.6 % wide, in nanoseconds.
//!
//! Source of the layout: log-linear buckets as in HdrHistogram, 64 per power of two.

const WITHIN: usize = 64;
const FIRST_POWER: usize = 6; // 2⁶ = 64: below it every nanosecond has its own bucket
const BUCKETS: usize = WITHIN * (64 - FIRST_POWER + 1);

/// Counts of latencies in nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < WITHIN as u64 {
        return nanos as usize;
    }
    let power = 63 - nanos.leading_zeros() as usize;
    let within = (nanos >> (power - FIRST_POWER)) as usize & (WITHIN - 1);
    WITHIN * (power - FIRST_POWER + 1) + within
}

/// Middle of a bucket in nanoseconds.
fn middle_of(index: usize) -> f64 {
    if index < WITHIN {
        return index as f64;
    }
    let (power, within) = (index / WITHIN - 1 + FIRST_POWER, index % WITHIN);
    let width = (1u64 << (power - FIRST_POWER)) as f64;
    (WITHIN + within) as f64 * width + width / 2.0
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket_of(nanos)] += 1;
        self.count += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean in µs; 0 without counts.
    pub fn mean_micros(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 / 1e3 }
    }

    /// Largest latency in µs.
    pub fn max_micros(&self) -> f64 {
        self.max as f64 / 1e3
    }

    /// The latency in µs below which a share `quantile` (0 to 1) of the counts lies; 0 without counts.
    pub fn quantile_micros(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += count;
            if count > 0 && seen >= rank {
                return middle_of(index).min(self.max as f64) / 1e3;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut histogram = Histogram::default();
        (1..=100_000).for_each(|nanos| histogram.record(nanos * 100));
        for (quantile, exact) in [(0.5, 5_000.0), (0.9, 9_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let estimate = histogram.quantile_micros(quantile);
            assert!((estimate / exact - 1.0).abs() < 0.02, "{quantile}: {estimate}");
        }
        assert_eq!(histogram.max_micros(), 10_000.0);
        assert_eq!(Histogram::default().quantile_micros(0.5), 0.0);
    }

    #[test]
    fn every_latency_has_a_bucket() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 1 << 40, u64::MAX] {
            let index = bucket_of(nanos);
            assert!(index < BUCKETS);
            assert!((middle_of(index) - nanos as f64).abs() <= nanos as f64 / 64.0 + 1.0, "{nanos}");
        }
    }
}
