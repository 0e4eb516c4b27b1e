//! What the gateway counts per revision: cumulative counters and a latency histogram.
//!
//! Promises: counters only grow while one gateway lives, so a window is the difference of two readings.
//! Source of the bucket layout: log-linear buckets as in HdrHistogram, eight per power of two (at most 12.5 % wide).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mirror::Comparison;
use crate::{InstanceId, RevisionNumber, ServiceName, Weight};

/// Number of latency buckets: 8 exact ones below 8 µs, then 8 per power of two up to 2³⁰ µs (about 18 minutes).
pub const BUCKETS: usize = 8 + 27 * 8;

/// The bucket that counts a latency of `micros`.
pub const fn bucket_of(micros: u64) -> usize {
    if micros < 8 {
        return micros as usize;
    }
    let power = 63 - micros.leading_zeros() as usize; // at least 3
    let within = (micros >> (power - 3)) as usize & 7;
    let index = 8 + (power - 3) * 8 + within;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// Smallest latency in µs that bucket `index` counts.
pub const fn bucket_floor(index: usize) -> u64 {
    if index < 8 {
        return index as u64;
    }
    let (power, within) = ((index - 8) / 8 + 3, (index - 8) % 8);
    (1 << power) + ((within as u64) << (power - 3))
}

/// Counts of latencies. Serialised as a list of `[bucket, count]` without the empty ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Sparse", into = "Sparse")]
pub struct Histogram {
    /// Counts by bucket; empty or [`BUCKETS`] long.
    counts: Vec<u64>,
    /// Sum of all latencies in µs.
    sum_micros: u64,
}

#[derive(Serialize, Deserialize)]
struct Sparse {
    sum_micros: u64,
    counts: Vec<(usize, u64)>,
}

impl From<Sparse> for Histogram {
    fn from(sparse: Sparse) -> Self {
        let mut histogram = Self { counts: Vec::new(), sum_micros: sparse.sum_micros };
        for (bucket, count) in sparse.counts {
            *histogram.bucket_mut(bucket.min(BUCKETS - 1)) += count;
        }
        histogram
    }
}

impl From<Histogram> for Sparse {
    fn from(histogram: Histogram) -> Self {
        let counts = histogram.counts.into_iter().enumerate().filter(|&(_, count)| count > 0).collect();
        Self { sum_micros: histogram.sum_micros, counts }
    }
}

impl Histogram {
    /// A histogram from raw bucket counts and the sum of all latencies in µs.
    pub fn from_counts(counts: Vec<u64>, sum_micros: u64) -> Self {
        let mut counts = counts;
        counts.resize(BUCKETS, 0);
        Self { counts, sum_micros }
    }

    fn bucket_mut(&mut self, bucket: usize) -> &mut u64 {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        &mut self.counts[bucket]
    }

    /// Counts one latency.
    pub fn record(&mut self, micros: u64) {
        *self.bucket_mut(bucket_of(micros)) += 1;
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all latencies in µs.
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros
    }

    /// Non-empty buckets as (smallest latency in µs, count), smallest first.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|&(_, &count)| count > 0)
            .map(|(index, &count)| (bucket_floor(index), count))
    }

    /// The latency in µs below which a share `quantile` (0 to 1) of the counts lies, interpolated within its bucket; `None` without counts.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = (quantile.clamp(0.0, 1.0) * total as f64).max(1.0);
        let mut below = 0;
        for (index, &count) in self.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            if (below + count) as f64 >= rank {
                let (floor, ceiling) = (bucket_floor(index) as f64, bucket_floor(index + 1) as f64);
                return Some(floor + (ceiling - floor) * (rank - below as f64) / count as f64);
            }
            below += count;
        }
        None
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        for (bucket, &count) in other.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            *self.bucket_mut(bucket) += count;
        }
        self.sum_micros = self.sum_micros.saturating_add(other.sum_micros);
    }

    /// What was counted since `earlier`, a reading of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (bucket, &count) in earlier.counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let slot = difference.bucket_mut(bucket);
            *slot = slot.saturating_sub(count);
        }
        difference.sum_micros = self.sum_micros.saturating_sub(earlier.sum_micros);
        difference
    }
}

/// Cumulative counts of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Attempts that reached an instance of this revision, retries included.
    pub requests: u64,
    /// Attempts that failed by the model's fault: 5xx, a broken connection, a time-out.
    pub errors: u64,
    /// Answers 4xx: the caller's fault, never held against a revision.
    pub refused: u64,
    /// Attempts that failed here and were answered by another instance, so that no caller saw them.
    pub retried: u64,
    /// Time from the request being forwarded to the last byte of the answer's head, by attempt that got an answer.
    pub latency: Histogram,
}

impl Counters {
    /// What was counted since `earlier`, a reading of the same counters.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            refused: self.refused.saturating_sub(earlier.refused),
            retried: self.retried.saturating_sub(earlier.retried),
            latency: self.latency.since(&earlier.latency),
        }
    }

    /// Adds another revision's or gateway's counts.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.refused += other.refused;
        self.retried += other.retried;
        self.latency.add(&other.latency);
    }

    /// Share of attempts that failed by the model's fault, 0 to 1; `None` without requests.
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.errors as f64 / self.requests as f64)
    }
}

/// What a gateway reports of itself: everything the control plane observes of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// Identity of the gateway process's life; counters start from zero when it changes.
    pub epoch: u64,
    /// Generation of the route table that is applied.
    pub generation: u64,
    /// What was counted, by service.
    pub services: BTreeMap<ServiceName, ServiceReport>,
}

/// What a gateway counted for one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Requests from callers.
    pub requests: u64,
    /// Requests that callers saw fail by our or the model's fault (5xx).
    pub failed: u64,
    /// Requests parked right now.
    pub parked: u64,
    /// Pools by revision, those that left the table included while they have requests in flight.
    pub pools: BTreeMap<RevisionNumber, PoolReport>,
    /// What became of copied requests, by shadow; cumulative.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mirrors: BTreeMap<RevisionNumber, Comparison>,
    /// What was told of answers.
    #[serde(default)]
    pub tap: TapReport,
}

/// What a gateway told of a service's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapReport {
    /// Lines that were written to the spool.
    pub told: u64,
    /// Lines that were shed, because the spool was full or could not keep up.
    pub shed: u64,
}

/// What a gateway counted for one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Applied share of the default API version.
    pub weight: Weight,
    /// Cumulative counts.
    pub counters: Counters,
    /// Instances by id, those that left the table included while they have requests in flight.
    pub instances: BTreeMap<InstanceId, InstanceReport>,
}

/// What a gateway counted for one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Requests being answered right now.
    pub in_flight: u64,
    /// Attempts sent to it.
    pub requests: u64,
    /// Attempts that failed by its fault.
    pub errors: u64,
    /// Whether outlier ejection keeps requests away from it right now.
    pub ejected: bool,
}

impl PoolReport {
    /// Requests being answered right now by all instances.
    pub fn in_flight(&self) -> u64 {
        self.instances.values().map(|instance| instance.in_flight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for micros in (0..5_000).chain([1 << 20, (1 << 30) - 1]) {
            let bucket = bucket_of(micros);
            assert!(bucket_floor(bucket) <= micros && micros < bucket_floor(bucket + 1), "{micros} in {bucket}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_lie_within_an_eighth() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|micros| histogram.record(micros));
        for (quantile, exact) in [(0.5, 5_000.0), (0.95, 9_500.0), (0.99, 9_900.0)] {
            let estimate = histogram.quantile(quantile).unwrap();
            assert!((estimate / exact - 1.0).abs() < 0.125, "{quantile}: {estimate}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_window_is_a_difference_and_survives_json() {
        let mut now = Histogram::default();
        now.record(100);
        let earlier: Histogram = serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap();
        assert_eq!(earlier, now);
        now.record(900);
        let window = now.since(&earlier);
        assert_eq!((window.count(), window.sum_micros()), (1, 900));
    }
}
