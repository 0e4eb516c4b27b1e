//! What was known of arms, shadows and drift: tables, and the metrics over time.

use std::collections::BTreeMap;

use modelyard_core::RevisionNumber;
use modelyard_core::event::{Event, EventBody};
use modelyard_core::evidence::{ArmEvidence, Drift, Evidence, Moments};
use modelyard_core::measure::Histogram;
use modelyard_core::metric::{Metric, MetricSource};
use modelyard_core::mirror::{Comparison, Example, OutputComparison};
use modelyard_core::strategy::{AgreeOn, Shadow, Strategy};
use modelyard_rollout::judge::proportion;

use super::facts::Facts;
use super::series::POINTS;
use crate::text::{count, latency, one_line, percent};

/// Most rows of the table of drift: what moved most stands first.
const DRIFTED: usize = 12;

/// Values by metric and revision.
type Values = BTreeMap<(String, RevisionNumber), f64>;

/// Evidence of a rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// The last that was written down.
    last: Option<Evidence>,
    metrics: Vec<Metric>,
    /// How shadows are compared.
    shadow: Shadow,
    /// Whether that decides; shadows beside the arms of another strategy are told of, and no more.
    decides: bool,
    /// Values over time: seconds since the start, by metric and revision.
    pub history: Vec<(f64, Values)>,
}

/// A table for both forms of the report.
pub(super) struct Table {
    pub title: &'static str,
    pub words: String,
    pub heads: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Lines under the table.
    pub notes: Vec<String>,
}

impl Known {
    pub fn from_events(facts: &Facts, events: &[&Event]) -> Self {
        let mut known = Self::default();
        for event in events {
            match &event.body {
                EventBody::RolloutStarted { state, .. } => {
                    let metrics = state.pointer("/plan/metrics").cloned().unwrap_or_default();
                    known.metrics = serde_json::from_value(metrics).unwrap_or_default();
                    let strategy = state.pointer("/plan/strategy").cloned().unwrap_or_default();
                    if let Ok(Strategy::Shadow(shadow)) = serde_json::from_value(strategy) {
                        known.shadow = shadow;
                        known.decides = true;
                    }
                }
                EventBody::EvidenceSeen { evidence } => {
                    let values = known.values(evidence);
                    known.history.push(((event.at - facts.started).as_seconds(), values));
                    known.last = Some((**evidence).clone());
                }
                _ => {}
            }
        }
        let step = known.history.len().div_ceil(POINTS).max(1);
        let end = known.history.len();
        let kept = |index: usize| index.is_multiple_of(step) || index + 1 == end;
        known.history =
            known.history.into_iter().enumerate().filter(|&(i, _)| kept(i)).map(|(_, point)| point).collect();
        known
    }

    fn values(&self, evidence: &Evidence) -> Values {
        let mut values = BTreeMap::new();
        for (&revision, arm) in &evidence.arms {
            for (name, statistic) in &arm.metrics {
                if let Some(value) = statistic.estimate(self.quantile(name)) {
                    values.insert((name.clone(), revision), value);
                }
            }
        }
        values
    }

    fn quantile(&self, metric: &str) -> f64 {
        self.metrics.iter().find(|known| known.name == metric).and_then(|metric| metric.quantile).unwrap_or(0.95)
    }

    /// Names of the metrics that have values, with what their axis is called.
    pub fn metric_names(&self) -> Vec<(String, &'static str)> {
        let mut names: Vec<String> =
            self.history.iter().flat_map(|(_, values)| values.keys()).map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        let unit = |name: &String| {
            let is_latency =
                self.metrics.iter().any(|metric| metric.name == *name && metric.from == MetricSource::Latency);
            if is_latency { "ms" } else { "" }
        };
        names
            .into_iter()
            .map(|name| {
                let unit = unit(&name);
                (name, unit)
            })
            .collect()
    }

    /// The tables that have rows.
    pub fn tables(&self, facts: &Facts) -> Vec<Table> {
        let Some(last) = &self.last else { return Vec::new() };
        let tables = [self.arms(facts, last), self.shadows(facts, last), self.outputs(facts, last), drift(facts, last)];
        tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
    }

    fn arms(&self, facts: &Facts, last: &Evidence) -> Table {
        let mut names: Vec<&String> = last.arms.values().flat_map(|arm| arm.metrics.keys()).collect();
        names.sort();
        names.dedup();
        let heads = ["Arm", "Units", "Answers"]
            .map(str::to_owned)
            .into_iter()
            .chain(names.iter().map(|name| one_line(name, 60)));
        let cell = |arm: &ArmEvidence, name: &String| {
            let value = arm.metrics.get(name).and_then(|statistic| statistic.estimate(self.quantile(name)));
            value.map_or("–".to_owned(), number)
        };
        let row = |(revision, arm): (&RevisionNumber, &ArmEvidence)| {
            let head = [
                format!("{} ({})", facts.name(*revision), facts.role(*revision).name()),
                count(arm.units),
                count(arm.answers),
            ];
            head.into_iter().chain(names.iter().map(|name| cell(arm, name))).collect()
        };
        let mut notes = Vec::new();
        if last.excluded_units > 0 {
            notes.push(format!(
                "{} units were met in more than one arm and are left out of all.",
                count(last.excluded_units)
            ));
        }
        if last.orphaned_feedback > 0 {
            notes.push(format!("{} labels belong to no known answer.", count(last.orphaned_feedback)));
        }
        Table {
            title: "Arms",
            words: "What each arm was judged by, at the last look.".to_owned(),
            heads: heads.collect(),
            rows: last.arms.iter().map(row).collect(),
            notes,
        }
    }

    fn shadows(&self, facts: &Facts, last: &Evidence) -> Table {
        let error = self.shadow.error;
        let row = |(revision, shadow): (&RevisionNumber, &Comparison)| {
            let (pairs, agreed) = agreement(shadow, self.shadow.agree_on);
            let differ = pairs.saturating_sub(agreed);
            let interval = proportion(differ, pairs, self.shadow.max_disagreement, error);
            let disagree = match pairs {
                0 => "–".to_owned(),
                _ => format!(
                    "{} ({} to {})",
                    percent(differ as f64 / pairs as f64),
                    percent(interval.low),
                    percent(interval.high)
                ),
            };
            let equal = if shadow.compared == 0 {
                "–".to_owned()
            } else {
                percent(shadow.exact as f64 / shadow.compared as f64)
            };
            let of = |histogram: &Histogram, quantile| histogram.quantile(quantile).map_or("–".to_owned(), latency);
            vec![
                facts.name(*revision),
                count(shadow.sent),
                count(shadow.shed),
                count(shadow.failed),
                count(shadow.compared),
                equal,
                disagree,
                of(&shadow.latency, 0.5),
                of(&shadow.stable_latency, 0.5),
                of(&shadow.latency, 0.95),
                of(&shadow.stable_latency, 0.95),
            ]
        };
        let heads = [
            "Shadow",
            "Copies",
            "Shed",
            "Failed",
            "Compared",
            "Equal",
            "Disagree",
            "p50",
            "p50 of stable",
            "p95",
            "p95 of stable",
        ];
        let worst = |(revision, shadow): (&RevisionNumber, &Comparison)| {
            let told = |example: &Example| {
                format!(
                    "Revision {revision}, request {}: {}",
                    one_line(&example.request_id, 80),
                    one_line(&example.what, 200)
                )
            };
            shadow.worst.iter().map(told).collect::<Vec<_>>()
        };
        let what = match self.shadow.agree_on {
            AgreeOn::Outputs => "pairs with an output out of tolerance",
            AgreeOn::Labels => "rows with another label or best class",
            AgreeOn::TopK => "rows whose best class of stable is not among the shadow's best",
        };
        Table {
            title: "Shadows",
            words: format!(
                "Copies of requests, and how their answers compare with stable's. No caller got a shadow's answer. Disagree counts {what}; \
                 the interval holds with {} certainty however often it is looked at, {}.",
                percent(1.0 - error),
                match self.decides {
                    true => format!("{} is allowed", percent(self.shadow.max_disagreement)),
                    false => "and decides nothing here".to_owned(),
                }
            ),
            heads: heads.map(str::to_owned).into(),
            rows: last.shadows.iter().map(row).collect(),
            notes: last.shadows.iter().flat_map(worst).collect(),
        }
    }

    fn outputs(&self, facts: &Facts, last: &Evidence) -> Table {
        let heads = [
            "Shadow".to_owned(),
            "Output".to_owned(),
            "Elements".to_owned(),
            "Agree".to_owned(),
            "Same label".to_owned(),
            format!("In top {}", self.shadow.top_k),
            "Largest difference".to_owned(),
            "Mean difference".to_owned(),
            "Distance".to_owned(),
        ];
        let rows = last.shadows.iter().flat_map(|(revision, shadow)| {
            shadow.outputs.iter().map(|(name, output)| {
                let share = |part: u64, whole: u64| {
                    if whole == 0 { "–".to_owned() } else { percent(part as f64 / whole as f64) }
                };
                let mean = |moments: &Moments| {
                    if moments.count == 0 { "–".to_owned() } else { number(moments.mean) }
                };
                vec![
                    facts.name(*revision),
                    one_line(name, 80),
                    count(output.elements),
                    share(output.agreed, output.elements),
                    share(output.same_label, output.rows),
                    share(output.in_top_k, output.rows),
                    number(output.largest),
                    mean(&output.difference),
                    mean(&output.distance),
                ]
            })
        });
        Table {
            title: "Outputs of shadows",
            words: "Tensor by tensor; differences are shadow less stable, the distance of score rows is Jensen-Shannon's (0 to 1).".to_owned(),
            heads: heads.into(),
            rows: rows.collect(),
            notes: Vec::new(),
        }
    }
}

/// Pairs (or rows) that were held against each other, and those that agree: as the strategy judges them.
fn agreement(shadow: &Comparison, agree_on: AgreeOn) -> (u64, u64) {
    let agreed = |output: &OutputComparison| match agree_on {
        AgreeOn::TopK => output.in_top_k,
        AgreeOn::Outputs | AgreeOn::Labels => output.same_label,
    };
    let rows = shadow.outputs.values().filter(|output| output.rows > 0).map(|output| (output.rows, agreed(output)));
    match agree_on {
        AgreeOn::Outputs => (shadow.compared, shadow.agreed),
        // The output whose labels differ most tells.
        AgreeOn::Labels | AgreeOn::TopK => {
            rows.min_by(|a, b| (a.1 as f64 / a.0 as f64).total_cmp(&(b.1 as f64 / b.0 as f64))).unwrap_or((0, 0))
        }
    }
}

fn drift(facts: &Facts, last: &Evidence) -> Table {
    let heads = ["Revision", "Field", "Values", "PSI", "KS", "χ² p", "Jensen-Shannon", "Against"];
    let mut all: Vec<(RevisionNumber, &Drift)> =
        last.drift.iter().flat_map(|(&revision, fields)| fields.iter().map(move |field| (revision, field))).collect();
    all.sort_by(|a, b| b.1.psi.total_cmp(&a.1.psi));
    let optional = |value: Option<f64>| value.map_or("–".to_owned(), number);
    let row = |&(revision, drift): &(RevisionNumber, &Drift)| {
        vec![
            facts.name(revision),
            one_line(&drift.field, 80),
            count(drift.seen),
            number(drift.psi),
            optional(drift.ks),
            optional(drift.chi_square_p),
            number(drift.jensen_shannon),
            one_line(&drift.reference, 40),
        ]
    };
    Table {
        title: "Drift",
        words: "How far inputs and outputs have moved from their reference; a population stability index above 0.2 is a clear move.".to_owned(),
        heads: heads.map(str::to_owned).into(),
        rows: all.iter().take(DRIFTED).map(row).collect(),
        notes: Vec::new(),
    }
}

/// A number as a person reads it: four significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "–".to_owned(),
        0.0 => "0".to_owned(),
        v if !(1e-4..1e6).contains(&v) => format!("{value:.2e}"),
        v => format!("{value:.*}", (3 - v.log10().floor() as i32).clamp(0, 6) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let shown = [0.0, 0.912_345, 12.345_678, 1234.5, 0.001_234_5, 1e-9, -0.5, f64::NAN].map(number);
        assert_eq!(shown, ["0", "0.9123", "12.35", "1234", "0.001234", "1.00e-9", "-0.5000", "–"]);
    }
}
