//! Sums: what is known of a scope's arms, added to and taken from one observation at a time. Pure.
//!
//! Promises: taking away what was added gives what was before (to rounding); one observation costs nothing that grows with their number.
//! A scope is one rollout, or the time after one.

use std::collections::BTreeMap;

use modelyard_core::evidence::{ArmEvidence, Evidence, Moments, RatioMoments, SERIES, Statistic};
use modelyard_core::measure::Histogram;
use modelyard_core::metric::{Metric, MetricKind, MetricSource};
use modelyard_core::strategy::Unit;
use modelyard_core::{Millis, RevisionNumber, Timestamp};
use serde::{Deserialize, Serialize};

/// Values that a sample keeps for quantiles.
const SAMPLE: usize = 4_096;
/// First length of a series' interval; it doubles whenever a series is full.
const STEP_MS: u64 = 1_000;

/// What is known of a scope's arms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Length of a series' interval in milliseconds.
    step_ms: u64,
    /// Units that were met in more than one arm.
    pub excluded_units: u64,
    arms: BTreeMap<RevisionNumber, Arm>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Arm {
    units: u64,
    answers: u64,
    metrics: BTreeMap<String, Statistic>,
    /// Sum and number of the values of each interval.
    series: BTreeMap<String, Vec<(f64, u64)>>,
}

/// One value of one metric of one arm.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// The metric.
    pub metric: &'a Metric,
    /// What is independent of each other.
    pub unit: Unit,
    /// The arm.
    pub revision: RevisionNumber,
    /// Since the scope's start, in milliseconds.
    pub after_ms: u64,
    /// The value.
    pub value: f64,
}

/// Sum and number of the values of one session.
pub type Pair = (f64, f64);

impl Sums {
    /// Counts an answer of an arm.
    pub fn answer(&mut self, revision: RevisionNumber) {
        self.arms.entry(revision).or_default().answers += 1;
    }

    /// Counts a new unit of an arm.
    pub fn unit(&mut self, revision: RevisionNumber) {
        self.arms.entry(revision).or_default().units += 1;
    }

    /// A unit of an arm was met in another one.
    pub fn exclude(&mut self, revision: RevisionNumber) {
        self.excluded_units += 1;
        let arm = self.arms.entry(revision).or_default();
        arm.units = arm.units.saturating_sub(1);
    }

    /// Adds a value. `session` is what the unit had before, where units are sessions; it is brought up to date.
    pub fn add(&mut self, value: Value<'_>, session: Option<&mut Pair>) {
        self.note_interval(value, 1.0);
        let name = &value.metric.name;
        let statistic = self.arms.entry(value.revision).or_default().metrics.entry(name.clone());
        change(statistic.or_insert_with(|| empty(value.metric, value.unit)), value.value, session, true);
    }

    /// Takes a value away again.
    pub fn remove(&mut self, value: Value<'_>, session: Option<&mut Pair>) {
        self.note_interval(value, -1.0);
        let arm = self.arms.entry(value.revision).or_default();
        if let Some(statistic) = arm.metrics.get_mut(&value.metric.name) {
            change(statistic, value.value, session, false);
        }
    }

    fn note_interval(&mut self, value: Value<'_>, sign: f64) {
        self.step_ms = self.step_ms.max(STEP_MS);
        while value.after_ms / self.step_ms >= SERIES as u64 {
            self.step_ms = self.step_ms.saturating_mul(2);
            let series = self.arms.values_mut().flat_map(|arm| arm.series.values_mut());
            series.for_each(|series| *series = series.chunks(2).map(merged).collect());
        }
        // Below SERIES by the loop above.
        let index = (value.after_ms / self.step_ms) as usize;
        let series = self.arms.entry(value.revision).or_default().series.entry(value.metric.name.clone()).or_default();
        if series.len() <= index {
            series.resize(index + 1, (0.0, 0));
        }
        let (sum, count) = &mut series[index];
        *sum += sign * plotted(value);
        *count = if sign > 0.0 { *count + 1 } else { count.saturating_sub(1) };
    }

    /// The evidence, as judges want it.
    pub fn evidence(&self) -> Evidence {
        let arms = self.arms.iter().map(|(&revision, arm)| (revision, arm.evidence(self.step_ms))).collect();
        Evidence { arms, excluded_units: self.excluded_units, ..Evidence::default() }
    }
}

impl Arm {
    fn evidence(&self, step_ms: u64) -> ArmEvidence {
        let mean = |&(sum, count): &(f64, u64)| (count > 0).then(|| sum / count as f64);
        let series = self.series.iter().map(|(name, series)| (name.clone(), series.iter().map(mean).collect()));
        ArmEvidence {
            units: self.units,
            answers: self.answers,
            metrics: self.metrics.clone(),
            series: series.collect(),
            step: Millis(step_ms),
        }
    }
}

fn merged(pair: &[(f64, u64)]) -> (f64, u64) {
    pair.iter().fold((0.0, 0), |whole, part| (whole.0 + part.0, whole.1 + part.1))
}

/// A confusion is no number: its series shows how many were right.
fn plotted(value: Value<'_>) -> f64 {
    match value.metric.kind {
        MetricKind::F1 if value.metric.from == MetricSource::Feedback => {
            f64::from(u8::from(value.value == 0.0 || value.value == 3.0))
        }
        _ => value.value,
    }
}

/// Nothing yet, in the form that fits the metric. Losses are means: of squares for RMSE, whose root whoever shows it takes.
pub fn empty(metric: &Metric, unit: Unit) -> Statistic {
    let yes_or_no =
        matches!(metric.kind, MetricKind::Accuracy | MetricKind::Rate) || metric.from == MetricSource::Errors;
    match (metric.from, metric.kind) {
        (MetricSource::Prometheus | MetricSource::Webhook, _) => {
            Statistic::Value { last: f64::NAN, all: Moments::default() }
        }
        (MetricSource::Feedback, MetricKind::F1) => Statistic::Confusion { tp: 0, fp: 0, tn: 0, r#fn: 0 },
        (MetricSource::Latency, MetricKind::Quantile) => Statistic::Histogram(Histogram::default()),
        (_, MetricKind::Quantile) => Statistic::Sample { seen: 0, values: Vec::new() },
        (_, MetricKind::Count) => Statistic::Count { events: 0, exposure: 0.0 },
        _ if unit == Unit::Session => Statistic::Ratio(RatioMoments::default()),
        _ if yes_or_no => Statistic::Proportion { units: 0, hits: 0 },
        _ => Statistic::Mean(Moments::default()),
    }
}

fn change(statistic: &mut Statistic, value: f64, session: Option<&mut Pair>, adds: bool) {
    let by = |count: &mut u64, amount: u64| {
        *count = if adds { count.saturating_add(amount) } else { count.saturating_sub(amount) };
    };
    match statistic {
        Statistic::Proportion { units, hits } => {
            by(units, 1);
            by(hits, u64::from(value > 0.5));
        }
        Statistic::Mean(moments) if adds => moments.add(value),
        Statistic::Mean(moments) => take_away(moments, value),
        Statistic::Ratio(moments) => {
            let mut alone = (0.0, 0.0);
            let pair = session.unwrap_or(&mut alone);
            weigh(moments, *pair, -1.0);
            let sign = if adds { 1.0 } else { -1.0 };
            *pair = (pair.0 + sign * value, (pair.1 + sign).max(0.0));
            weigh(moments, *pair, 1.0);
        }
        Statistic::Confusion { tp, fp, tn, r#fn } => match value as u8 {
            3 => by(tp, 1),
            2 => by(r#fn, 1),
            1 => by(fp, 1),
            _ => by(tn, 1),
        },
        Statistic::Histogram(histogram) => {
            let mut one = Histogram::default();
            one.record((value * 1e3).round().max(0.0) as u64);
            if adds { histogram.add(&one) } else { *histogram = histogram.since(&one) }
        }
        Statistic::Sample { seen, values } if adds => draw(seen, values, value),
        Statistic::Sample { seen, values } => {
            *seen = seen.saturating_sub(1);
            if let Ok(at) = values.binary_search_by(|other| other.total_cmp(&value)) {
                values.remove(at);
            }
        }
        Statistic::Count { events, exposure } => {
            by(events, value.round().max(0.0) as u64);
            *exposure = if adds { *exposure + 1.0 } else { (*exposure - 1.0).max(0.0) };
        }
        Statistic::Value { last, all } => {
            *last = value;
            all.add(value);
        }
    }
}

/// Adds a unit's pair, or takes it away; a unit without values counts for nothing.
fn weigh(moments: &mut RatioMoments, (numerator, denominator): Pair, sign: f64) {
    if denominator <= 0.0 {
        return;
    }
    moments.units = if sign > 0.0 { moments.units + 1 } else { moments.units.saturating_sub(1) };
    moments.numerator += sign * numerator;
    moments.denominator += sign * denominator;
    moments.numerator_squares += sign * numerator * numerator;
    moments.denominator_squares += sign * denominator * denominator;
    moments.products += sign * numerator * denominator;
}

/// Welford's step backwards.
fn take_away(moments: &mut Moments, value: f64) {
    if moments.count <= 1 {
        *moments = Moments::default();
        return;
    }
    let left = (moments.count - 1) as f64;
    let mean = (moments.mean * moments.count as f64 - value) / left;
    moments.squares = (moments.squares - (value - moments.mean) * (value - mean)).max(0.0);
    moments.mean = mean;
    moments.count -= 1;
}

/// An even sample of a stream (Vitter 1985, algorithm R). The draw follows from the position alone: same values, same sample.
fn draw(seen: &mut u64, values: &mut Vec<f64>, value: f64) {
    *seen += 1;
    if values.len() >= SAMPLE {
        let place = (u128::from(mixed(*seen)) * u128::from(*seen)) >> 64;
        let Some(place) = usize::try_from(place).ok().filter(|&place| place < SAMPLE) else { return };
        values.remove(place);
    }
    let at = values.partition_point(|other| other.total_cmp(&value).is_lt());
    values.insert(at, value);
}

/// SplitMix64 (Steele, Lea and Flood 2014).
const fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Time since the scope's start.
pub fn after(at: Timestamp, since: Timestamp) -> u64 {
    (at - since).0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn metric(kind: &str, from: &str) -> Metric {
        serde_json::from_value(json!({"name": "m", "kind": kind, "from": from})).unwrap()
    }

    fn value(metric: &Metric, unit: Unit, after_ms: u64, value: f64) -> Value<'_> {
        Value { metric, unit, revision: RevisionNumber(1), after_ms, value }
    }

    fn statistic(sums: &Sums) -> Statistic {
        sums.evidence().arms[&RevisionNumber(1)].metrics["m"].clone()
    }

    proptest! {
        #[test]
        fn what_is_taken_away_was_never_there(kept in prop::collection::vec(0.0..100.0f64, 1..40), gone in prop::collection::vec(0.0..100.0f64, 1..40)) {
            for (kind, from) in [("mean", "reward"), ("quantile", "latency"), ("count", "reward"), ("quantile", "reward")] {
                let metric = metric(kind, from);
                let (mut whole, mut plain) = (Sums::default(), Sums::default());
                kept.iter().chain(&gone).for_each(|&v| whole.add(value(&metric, Unit::Request, 0, v), None));
                gone.iter().for_each(|&v| whole.remove(value(&metric, Unit::Request, 0, v), None));
                kept.iter().for_each(|&v| plain.add(value(&metric, Unit::Request, 0, v), None));
                match (statistic(&whole), statistic(&plain)) {
                    (Statistic::Mean(a), Statistic::Mean(b)) => {
                        prop_assert_eq!(a.count, b.count);
                        prop_assert!((a.mean - b.mean).abs() < 1e-8 && (a.squares - b.squares).abs() < 1e-6);
                    }
                    (Statistic::Histogram(a), Statistic::Histogram(b)) => {
                        prop_assert_eq!(a.buckets().collect::<Vec<_>>(), b.buckets().collect::<Vec<_>>());
                    }
                    (a, b) => prop_assert_eq!(a, b),
                }
            }
        }

        #[test]
        fn sessions_are_counted_as_if_all_was_known_at_once(sessions in prop::collection::vec(prop::collection::vec(0.0..10.0f64, 1..6), 1..10)) {
            let metric = metric("accuracy", "feedback");
            let mut sums = Sums::default();
            let mut pairs = vec![(0.0, 0.0); sessions.len()];
            // Round by round, as requests of many sessions come mixed.
            for round in 0..6 {
                for (session, pair) in sessions.iter().zip(&mut pairs) {
                    if let Some(&v) = session.get(round) {
                        sums.add(value(&metric, Unit::Session, 0, v), Some(pair));
                    }
                }
            }
            let Statistic::Ratio(found) = statistic(&sums) else { panic!("sessions give ratios") };
            prop_assert_eq!(found.units, sessions.len() as u64);
            let total: f64 = sessions.iter().flatten().sum();
            let squares: f64 = sessions.iter().map(|s| s.iter().sum::<f64>().powi(2)).sum();
            let products: f64 = sessions.iter().map(|s| s.iter().sum::<f64>() * s.len() as f64).sum();
            prop_assert!((found.numerator - total).abs() < 1e-9 && (found.products - products).abs() < 1e-6);
            prop_assert!((found.numerator_squares - squares).abs() < 1e-6);
        }
    }

    #[test]
    fn series_double_their_interval_instead_of_growing() {
        let metric = metric("mean", "latency");
        let mut sums = Sums::default();
        for second in 0..1_000u64 {
            sums.add(value(&metric, Unit::Request, second * 1_000, second as f64), None);
        }
        let series = sums.evidence().arms[&RevisionNumber(1)].series["m"].clone();
        assert_eq!((sums.step_ms, series.len()), (8_000, 125));
        assert_eq!((series[0], series[124]), (Some(3.5), Some(995.5)));
        sums.remove(value(&metric, Unit::Request, 999_000, 999.0), None);
        assert_eq!(sums.evidence().arms[&RevisionNumber(1)].series["m"][124], Some(995.0));
    }

    #[test]
    fn quantiles_of_a_long_stream_come_from_an_even_sample() {
        let metric = metric("quantile", "reward");
        let mut sums = Sums::default();
        (0..100_000).for_each(|n| sums.add(value(&metric, Unit::Request, 0, f64::from(n)), None));
        let Statistic::Sample { seen, values } = statistic(&sums) else { panic!("a sample") };
        assert_eq!((seen, values.len()), (100_000, SAMPLE));
        assert!(values.is_sorted());
        let median = statistic(&sums).estimate(0.5).unwrap();
        // Five standard errors of the median of 4 096 even draws: 5 · 50 000 / √4 096.
        assert!((median - 50_000.0).abs() < 3_907.0, "{median}");
    }

    #[test]
    fn sums_survive_a_restart() {
        let metric = metric("rate", "errors");
        let mut sums = Sums::default();
        sums.unit(RevisionNumber(1));
        sums.answer(RevisionNumber(1));
        sums.add(value(&metric, Unit::Request, 5, 1.0), None);
        sums.exclude(RevisionNumber(1));
        let again: Sums = serde_json::from_str(&serde_json::to_string(&sums).unwrap()).unwrap();
        assert_eq!(again, sums);
        assert_eq!((again.evidence().excluded_units, again.evidence().arms[&RevisionNumber(1)].units), (1, 0));
    }
}
