//! Evidence: what is known of each arm's metrics, as sufficient statistics. Small, cumulative, and all that a judge needs.
//!
//! Promises: evidence of one rollout only grows; adding two parts gives the evidence of the whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measure::Histogram;
use crate::strategy::DriftMeasure;
use crate::{Millis, RevisionNumber};

/// What is known of a rollout's arms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// By revision.
    pub arms: BTreeMap<RevisionNumber, ArmEvidence>,
    /// Units (requests or sessions) that were met in more than one arm; they are left out of every arm.
    #[serde(default)]
    pub excluded_units: u64,
    /// Feedback that belongs to no known answer (yet).
    #[serde(default)]
    pub orphaned_feedback: u64,
    /// Shadows compared with stable, by the shadow's revision.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shadows: BTreeMap<RevisionNumber, crate::mirror::Comparison>,
    /// Drift of each revision against its reference, by revision, worst first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drift: BTreeMap<RevisionNumber, Vec<Drift>>,
}

/// What is known of one arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmEvidence {
    /// Units assigned to it, those without a value yet included. A sample ratio mismatch shows here.
    pub units: u64,
    /// Answers that were given.
    pub answers: u64,
    /// By metric.
    pub metrics: BTreeMap<String, Statistic>,
    /// Of each metric, the mean of each interval (oldest first, at most [`SERIES`]); not a number where nothing came. For the classical judge.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub series: BTreeMap<String, Vec<Option<f64>>>,
    /// Length of an interval of the series; 0 where it is not known.
    #[serde(default)]
    pub step: Millis,
}

impl ArmEvidence {
    /// Takes each metric from an earlier time where more is known of it then.
    pub fn or_as_before(&mut self, before: &Self) {
        for (name, then) in &before.metrics {
            if self.metrics.get(name).is_none_or(|now| now.count() < then.count()) {
                self.metrics.insert(name.clone(), then.clone());
                if let Some(series) = before.series.get(name) {
                    self.series.insert(name.clone(), series.clone());
                }
            }
        }
    }
}

/// Intervals that a series keeps.
pub const SERIES: usize = 240;

/// Sufficient statistics of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Statistic {
    /// Yes or no per unit.
    Proportion {
        /// Units with a value.
        units: u64,
        /// Units that said yes.
        hits: u64,
    },
    /// A number per unit.
    Mean(Moments),
    /// A ratio of two sums per unit (several values in a session): the mean of all values, with units as what is independent.
    Ratio(RatioMoments),
    /// F1 and the like.
    Confusion {
        /// True positives.
        tp: u64,
        /// False positives.
        fp: u64,
        /// True negatives.
        tn: u64,
        /// False negatives.
        r#fn: u64,
    },
    /// Values by bucket, for quantiles (latency in µs).
    Histogram(Histogram),
    /// Values by size, for quantiles of what is no latency: a sorted sample of at most 4096 values, and how many it stands for.
    Sample {
        /// How many values were seen.
        seen: u64,
        /// Some of them, drawn evenly, in ascending order.
        values: Vec<f64>,
    },
    /// Events and how long (or how many requests) they were watched.
    Count {
        /// Events.
        events: u64,
        /// Exposure.
        exposure: f64,
    },
    /// One number that somebody else computed (Prometheus, web hook): the last one, and how many came.
    Value {
        /// The last one.
        last: f64,
        /// The moments of all.
        all: Moments,
    },
}

impl Statistic {
    /// How many values it stands on.
    pub fn count(&self) -> u64 {
        match self {
            Self::Proportion { units, .. } => *units,
            Self::Mean(moments) | Self::Value { all: moments, .. } => moments.count,
            Self::Ratio(moments) => moments.units,
            Self::Confusion { tp, fp, tn, r#fn } => tp.saturating_add(*fp).saturating_add(*tn).saturating_add(*r#fn),
            Self::Histogram(histogram) => histogram.count(),
            Self::Sample { seen, .. } => *seen,
            Self::Count { exposure, .. } => *exposure as u64,
        }
    }

    /// The metric's value: a share, a mean, F1, the quantile `quantile` (of latency in ms), events per exposure; none without data.
    pub fn estimate(&self, quantile: f64) -> Option<f64> {
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        match self {
            Self::Proportion { units, hits } => ratio(*hits as f64, *units as f64),
            Self::Mean(moments) => (moments.count > 0).then_some(moments.mean),
            Self::Ratio(moments) => ratio(moments.numerator, moments.denominator),
            Self::Confusion { tp, fp, r#fn, .. } => {
                ratio(2.0 * *tp as f64, (2 * tp).saturating_add(*fp).saturating_add(*r#fn) as f64)
            }
            Self::Histogram(histogram) => histogram.quantile(quantile).map(|micros| micros / 1e3),
            Self::Sample { values, .. } => {
                let rank = (quantile.clamp(0.0, 1.0) * values.len() as f64).ceil().max(1.0) as usize;
                values.get(rank - 1).copied()
            }
            Self::Count { events, exposure } => ratio(*events as f64, *exposure),
            Self::Value { last, .. } => last.is_finite().then_some(*last),
        }
    }
}

/// Moments of numbers, kept as mean and sum of squared deviations (Welford 1962, merged after Chan et al. 1979).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// How many.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub squares: f64,
}

impl Moments {
    /// Adds a number; what is not finite is left out.
    pub fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.count += 1;
            let delta = value - self.mean;
            self.mean += delta / self.count as f64;
            self.squares += delta * (value - self.mean);
        }
    }

    /// Adds another part.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let share = other.count as f64 / count as f64;
        self.squares += other.squares + delta * delta * self.count as f64 * share;
        self.mean += delta * share;
        self.count = count;
    }

    /// Unbiased variance; none below two numbers.
    pub fn variance(&self) -> Option<f64> {
        (self.count > 1).then(|| self.squares / (self.count - 1) as f64)
    }
}

/// Moments of pairs (sum of values, number of values) per unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RatioMoments {
    /// Units.
    pub units: u64,
    /// Sum of the numerators.
    pub numerator: f64,
    /// Sum of the denominators.
    pub denominator: f64,
    /// Sum of squared numerators.
    pub numerator_squares: f64,
    /// Sum of squared denominators.
    pub denominator_squares: f64,
    /// Sum of products.
    pub products: f64,
}

/// How far one input or output has moved from its reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Input or output, with the column: `input x[3]`, `output label`.
    pub field: String,
    /// Values that were seen.
    pub seen: u64,
    /// Population stability index.
    pub psi: f64,
    /// Kolmogorov-Smirnov distance, 0 to 1; none for categories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ks: Option<f64>,
    /// p-value of the chi-square test over the bins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chi_square_p: Option<f64>,
    /// Jensen-Shannon divergence in bits, 0 to 1.
    pub jensen_shannon: f64,
    /// What it is compared with: `package` (profile stored at build time) or `stable`.
    pub reference: String,
}

impl Drift {
    /// The value of a measure, where it makes sense for the field and enough was seen for it.
    pub fn value(&self, measure: DriftMeasure) -> Option<f64> {
        match measure {
            DriftMeasure::Psi => Some(self.psi),
            DriftMeasure::Ks => self.ks,
            DriftMeasure::ChiSquare => self.chi_square_p,
            DriftMeasure::JensenShannon => Some(self.jensen_shannon),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let values: Vec<f64> = (0..100).map(|n| f64::from(n * n % 37) * 1e6).collect();
        let mut whole = Moments::default();
        values.iter().for_each(|&value| whole.add(value));
        let (mut left, mut right) = (Moments::default(), Moments::default());
        values[..33].iter().for_each(|&value| left.add(value));
        values[33..].iter().for_each(|&value| right.add(value));
        left.merge(&right);
        assert_eq!(left.count, whole.count);
        assert!((left.mean / whole.mean - 1.0).abs() < 1e-12);
        assert!((left.variance().unwrap() / whole.variance().unwrap() - 1.0).abs() < 1e-12);
    }
}
