//! Evidence as the control plane would gather it: statistics of each arm, drawn from what the revisions are like.
//!
//! Promises: as many values as answers have labels by then, each counted once. What is not played ([`is_played`]) has no evidence, so
//! whoever judges by it stays inconclusive, as with a metric that never reports.

use std::collections::{BTreeMap, VecDeque};

use modelyard_core::evidence::{ArmEvidence, Evidence, Moments, Statistic};
use modelyard_core::measure::Histogram;
use modelyard_core::metric::{Metric, MetricKind, MetricSource};
use modelyard_core::mirror::Comparison;
use modelyard_core::{Millis, RevisionNumber, Weight};

use super::draws;
use super::scenario::{Labels, Now};

/// Whether values of this metric can be drawn.
pub(super) fn is_played(metric: &Metric) -> bool {
    match (metric.kind, metric.from) {
        (MetricKind::Quantile, from) => from == MetricSource::Latency,
        (MetricKind::Count, from) => matches!(from, MetricSource::Prometheus | MetricSource::Webhook),
        _ => true,
    }
}

/// What a metric usually is, when nobody says.
pub(super) fn usual(metric: &Metric) -> f64 {
    match (metric.kind, metric.bounds) {
        (MetricKind::Accuracy, _) => 0.94,
        (MetricKind::F1, _) => 0.9,
        (MetricKind::LogLoss, _) => 0.3,
        (MetricKind::Brier | MetricKind::Rate, _) => 0.1,
        (MetricKind::Mean, Some((low, high))) => (low + high) / 2.0,
        _ => 1.0,
    }
}

/// Values that wait for their labels.
#[derive(Clone, Debug)]
struct Batch {
    due: Millis,
    revision: RevisionNumber,
    count: u64,
    levels: Vec<(f64, f64)>,
}

/// What is gathered.
#[derive(Clone, Debug)]
pub(super) struct Gathered<'a> {
    metrics: &'a [Metric],
    labels: Labels,
    evidence: Evidence,
    late: VecDeque<Batch>,
    asked: BTreeMap<(RevisionNumber, String), Millis>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(metrics: &'a [Metric], labels: Labels) -> Self {
        Self { metrics, labels, evidence: Evidence::default(), late: VecDeque::new(), asked: BTreeMap::new() }
    }

    /// What is known now.
    pub(super) fn evidence(&self) -> Evidence {
        self.evidence.clone()
    }

    /// Takes in what a revision answered: `count` requests, of which `errors` failed.
    pub(super) fn answered(
        &mut self,
        random: &mut fastrand::Rng,
        now: Millis,
        revision: RevisionNumber,
        (count, errors): (u64, u64),
        is: &Now,
        latency: &Histogram,
    ) {
        let arm = self.evidence.arms.entry(revision).or_default();
        arm.units += count;
        arm.answers += count;
        for metric in self.metrics {
            at_once(random, arm, metric, (count, errors), latency);
        }
        let labelled = draws::binomial(random, count - errors.min(count), self.labels.share);
        if labelled > 0 && !self.metrics.is_empty() {
            let due = Millis(now.0.saturating_add(self.labels.delay.0));
            self.late.push_back(Batch { due, revision, count: labelled, levels: is.metrics.clone() });
        }
        self.ask_elsewhere(random, now, revision, is);
    }

    /// Labels that have come by now.
    pub(super) fn catch_up(&mut self, random: &mut fastrand::Rng, now: Millis) {
        while self.late.front().is_some_and(|batch| batch.due <= now) {
            let Some(batch) = self.late.pop_front() else { return };
            let arm = self.evidence.arms.entry(batch.revision).or_default();
            for (metric, &(value, deviation)) in self.metrics.iter().zip(&batch.levels) {
                labelled(random, arm, metric, batch.count, value, deviation);
            }
        }
    }

    /// Prometheus and web hooks: one value each time that they are asked.
    fn ask_elsewhere(&mut self, random: &mut fastrand::Rng, now: Millis, revision: RevisionNumber, is: &Now) {
        let elsewhere = |metric: &Metric| matches!(metric.from, MetricSource::Prometheus | MetricSource::Webhook);
        for (metric, &(value, deviation)) in self.metrics.iter().zip(&is.metrics).filter(|(m, _)| elsewhere(m)) {
            let last = self.asked.entry((revision, metric.name.clone())).or_insert(now);
            if now.0 < last.0 + metric.every.0 {
                continue;
            }
            *last = now;
            // An average over the interval scatters far less than its values do.
            let drawn = value + draws::normal(random) * deviation / 10.0;
            let arm = self.evidence.arms.entry(revision).or_default();
            let mut all = match arm.metrics.get(&metric.name) {
                Some(Statistic::Value { all, .. }) => *all,
                _ => Moments::default(),
            };
            all.add(drawn);
            arm.metrics.insert(metric.name.clone(), Statistic::Value { last: drawn, all });
        }
    }

    /// Copies for a shadow of what stable answered.
    pub(super) fn mirrored(
        &mut self,
        random: &mut fastrand::Rng,
        revision: RevisionNumber,
        share: Weight,
        count: u64,
        is: &Now,
    ) {
        let copies = draws::binomial(random, count, f64::from(share.basis_points()) / 10_000.0);
        let shadow: &mut Comparison = self.evidence.shadows.entry(revision).or_default();
        let failed = if is.hangs { copies } else { draws::binomial(random, copies, is.error_rate) };
        let compared = copies - failed;
        let differ = draws::binomial(random, compared, is.disagreement);
        shadow.sent += copies;
        shadow.failed += failed;
        shadow.compared += compared;
        shadow.agreed += compared - differ;
        shadow.exact += compared - differ;
    }
}

/// What is known the moment the answer is given: latency and errors.
fn at_once(
    random: &mut fastrand::Rng,
    arm: &mut ArmEvidence,
    metric: &Metric,
    (count, errors): (u64, u64),
    latency: &Histogram,
) {
    match (metric.from, metric.kind) {
        (MetricSource::Errors, _) => proportion(arm, metric, count, errors),
        (MetricSource::Latency, MetricKind::Quantile) => {
            let known = arm.metrics.entry(metric.name.clone());
            if let Statistic::Histogram(all) = known.or_insert_with(|| Statistic::Histogram(Histogram::default())) {
                all.add(latency);
            }
        }
        (MetricSource::Latency, _) if latency.count() > 0 => {
            let mean = latency.sum_micros() as f64 / 1e3 / latency.count() as f64;
            mean_of(random, arm, metric, latency.count(), mean, mean / 2.0);
        }
        _ => {}
    }
}

/// What is known once the true label, the reward, or the number in the answer has come.
fn labelled(
    random: &mut fastrand::Rng,
    arm: &mut ArmEvidence,
    metric: &Metric,
    count: u64,
    value: f64,
    deviation: f64,
) {
    if !matches!(metric.from, MetricSource::Feedback | MetricSource::Reward | MetricSource::Response) {
        return;
    }
    match metric.kind {
        MetricKind::Accuracy | MetricKind::Rate => {
            let hits = draws::binomial(random, count, value);
            proportion(arm, metric, count, hits);
        }
        MetricKind::F1 => confusion(random, arm, metric, count, value),
        // Squared differences of normal errors: their mean is the square, their deviation √2 times that.
        MetricKind::Rmse => {
            mean_of(random, arm, metric, count, value * value, value * value * std::f64::consts::SQRT_2)
        }
        MetricKind::Mean | MetricKind::Mae | MetricKind::Brier | MetricKind::LogLoss => {
            mean_of(random, arm, metric, count, value, deviation);
        }
        MetricKind::Quantile | MetricKind::Count => {}
    }
}

fn proportion(arm: &mut ArmEvidence, metric: &Metric, more: u64, more_hits: u64) {
    let known = arm.metrics.entry(metric.name.clone()).or_insert(Statistic::Proportion { units: 0, hits: 0 });
    if let Statistic::Proportion { units, hits } = known {
        *units += more;
        *hits += more_hits;
    }
}

/// Half of the labels are positive; precision and recall are both the F1 value.
fn confusion(random: &mut fastrand::Rng, arm: &mut ArmEvidence, metric: &Metric, count: u64, f1: f64) {
    let positive = draws::binomial(random, count, 0.5);
    let (found, mistaken) =
        (draws::binomial(random, positive, f1), draws::binomial(random, count - positive, 1.0 - f1));
    let empty = Statistic::Confusion { tp: 0, fp: 0, tn: 0, r#fn: 0 };
    if let Statistic::Confusion { tp, fp, tn, r#fn } = arm.metrics.entry(metric.name.clone()).or_insert(empty) {
        *tp += found;
        *r#fn += positive - found;
        *fp += mistaken;
        *tn += count - positive - mistaken;
    }
}

/// The moments of `count` values at once: their mean scatters by the deviation over √n, the sum of squares by that of χ².
fn mean_of(random: &mut fastrand::Rng, arm: &mut ArmEvidence, metric: &Metric, count: u64, value: f64, deviation: f64) {
    if count == 0 {
        return;
    }
    let within = |drawn: f64| metric.bounds.map_or(drawn, |(low, high)| drawn.clamp(low, high));
    let n = count as f64;
    let mean = within(value + draws::normal(random) * deviation / n.sqrt());
    let free = n - 1.0;
    let squares = deviation * deviation * (free + draws::normal(random) * (2.0 * free).sqrt()).max(0.0);
    let known = arm.metrics.entry(metric.name.clone()).or_insert(Statistic::Mean(Moments::default()));
    if let Statistic::Mean(moments) = known {
        moments.merge(&Moments { count, mean, squares });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(kind: &str, from: &str) -> Metric {
        serde_json::from_value(serde_json::json!({ "name": "m", "kind": kind, "from": from })).unwrap()
    }

    fn gathered(metric: Metric, value: f64, deviation: f64, rounds: u64) -> Option<Statistic> {
        let (metrics, mut random) = ([metric], fastrand::Rng::with_seed(2));
        let mut gathered = Gathered::new(&metrics, Labels::default());
        let is = Now { metrics: vec![(value, deviation)], ..Now::default() };
        for round in 0..rounds {
            let now = Millis(round * 250);
            gathered.answered(&mut random, now, RevisionNumber(2), (10, 0), &is, &Histogram::default());
            gathered.catch_up(&mut random, now);
        }
        gathered.evidence().arms[&RevisionNumber(2)].metrics.get("m").cloned()
    }

    #[test]
    fn values_are_those_of_the_revision() {
        for (kind, value) in [("accuracy", 0.94), ("rate", 0.1), ("f1", 0.9), ("mean", 3.0), ("mae", 2.0)] {
            let statistic = gathered(metric(kind, "feedback"), value, 1.0, 2_000).unwrap();
            let estimate = statistic.estimate(0.5).unwrap();
            assert!((estimate / value - 1.0).abs() < 0.05, "{kind}: {estimate}");
        }
        let Some(Statistic::Mean(moments)) = gathered(metric("mean", "reward"), 3.0, 2.0, 2_000) else {
            panic!("no mean")
        };
        assert_eq!(moments.count, 20_000);
        assert!((moments.variance().unwrap().sqrt() / 2.0 - 1.0).abs() < 0.05, "{moments:?}");
        assert_eq!(gathered(metric("count", "feedback"), 1.0, 1.0, 5), None, "not played");
    }

    #[test]
    fn labels_come_late_and_not_all_of_them() {
        let (metrics, mut random) = ([metric("accuracy", "feedback")], fastrand::Rng::with_seed(2));
        let labels = Labels { share: 0.5, delay: Millis::seconds(60) };
        let mut gathered = Gathered::new(&metrics, labels);
        let is = Now { metrics: vec![(1.0, 0.0)], ..Now::default() };
        gathered.answered(&mut random, Millis(0), RevisionNumber(1), (1_000, 0), &is, &Histogram::default());
        gathered.catch_up(&mut random, Millis(59_999));
        assert!(gathered.evidence().arms[&RevisionNumber(1)].metrics.is_empty());
        gathered.catch_up(&mut random, Millis(60_000));
        let Some(Statistic::Proportion { units, hits }) =
            gathered.evidence().arms[&RevisionNumber(1)].metrics.get("m").cloned()
        else {
            panic!("no labels came")
        };
        assert!(units == hits && (400..600).contains(&units), "{units}");
    }
}
