//! Metrics: what a rollout is judged by, as `service.toml` says it. How they are judged: `modelyard-rollout`.

use serde::{Deserialize, Serialize};

use crate::time::{Millis, human};

/// One metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metric {
    /// Name, unique within the service.
    pub name: String,
    /// What is computed from its values.
    pub kind: MetricKind,
    /// Where its values come from.
    pub from: MetricSource,
    /// JSON Pointer (RFC 6901) into the response body: the prediction that a label is compared with (`feedback`), or the number (`response`).
    /// Without one, the first element of the first output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// JSON Pointer into the feedback's body: the true label, or the reward. `/label` and `/reward` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The label that counts as positive (F1, log loss, Brier, rate); `1` or `true` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positive: Option<serde_json::Value>,
    /// Which quantile (`quantile`), 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// Limits that every value is known to keep (`mean` of a bounded reward). A value past them counts as the limit, and a series that has not varied yet
    /// is not taken for constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<(f64, f64)>,
    /// Which way is better; by default as the kind has it (accuracy up, errors and latency down).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// Address of a Prometheus server, or of a web hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where the bearer token for that address is: `env:NAME` or `file:PATH`, as the control plane sees them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// File of certificates (PEM) that an https server's is held against, instead of the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// PromQL with `{service}`, `{revision}` and `{window}` in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// How often it is asked elsewhere.
    #[serde(default = "default_every", with = "human")]
    pub every: Millis,
    /// The group that it counts in (classical judge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Failing it fails the whole, whatever the score.
    #[serde(default)]
    pub critical: bool,
    /// It must have data; without, it counts as failed.
    #[serde(default)]
    pub required: bool,
    /// It is computed and shown, and never decides.
    #[serde(default)]
    pub dry_run: bool,
    /// Smallest allowed value (threshold judge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// Largest allowed value (threshold judge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// How much worse than stable is still no drop (quality guard), in the metric's own unit.
    #[serde(default)]
    pub margin: f64,
}

const fn default_every() -> Millis {
    Millis::seconds(30)
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricKind {
    /// Share of predictions that equal the label.
    Accuracy,
    /// F1 of the positive label.
    F1,
    /// Mean negative log of the probability given to what came true, clipped at 1e-15.
    LogLoss,
    /// Mean squared difference of the probability and what came true.
    Brier,
    /// Root of the mean squared difference of prediction and label.
    Rmse,
    /// Mean absolute difference of prediction and label.
    Mae,
    /// Mean of the values.
    Mean,
    /// Share of the values that are positive (true, 1, or the `positive` label).
    Rate,
    /// A quantile of the values.
    Quantile,
    /// Events per answer: the sum of the values by their number.
    Count,
}

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricSource {
    /// True labels, posted to `/{service}/feedback` by request id, compared with what was predicted.
    Feedback,
    /// A number in the feedback.
    Reward,
    /// A number in the response.
    Response,
    /// Time to the answer, in milliseconds.
    Latency,
    /// Whether the answer was an error of the model (5xx, broken connection).
    Errors,
    /// A Prometheus server: PromQL per revision.
    Prometheus,
    /// A web hook that is asked per revision.
    Webhook,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// Any difference is worse.
    Same,
}

impl Metric {
    /// Which way is better.
    pub fn better(&self) -> Better {
        self.better.unwrap_or(match (self.kind, self.from) {
            (_, MetricSource::Latency | MetricSource::Errors) => Better::Lower,
            (MetricKind::LogLoss | MetricKind::Brier | MetricKind::Rmse | MetricKind::Mae, _) => Better::Lower,
            _ => Better::Higher,
        })
    }
}

/// How metrics become a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Judge {
    /// By which method.
    pub kind: JudgeKind,
    /// Chance of a wrong verdict over the whole rollout, however often it is looked at.
    pub error: f64,
    /// Weight of each group of metrics, summing to 100 (classical judge); groups that are not named share what is left.
    pub groups: std::collections::BTreeMap<String, f64>,
    /// Score from which on it passes (classical judge), 0 to 100.
    pub pass: f64,
    /// Score below which it fails; between the two it is inconclusive.
    pub marginal: f64,
    /// What becomes of values that are not numbers.
    pub missing: Missing,
    /// Whether values beyond three interquartile ranges are left out (classical judge).
    pub outliers: Outliers,
    /// How clear a shift must be (classical judge): the interval of the shift lies past this part of the estimated shift (Hodges-Lehmann) from zero.
    pub tolerance: f64,
    /// Ratio of means past which a metric fails at once, whatever its group (classical judge).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_ratio: Option<f64>,
    /// How long one check lasts (threshold judge); no shorter than the intervals that are kept, which grow from a second on.
    #[serde(with = "human")]
    pub interval: Millis,
    /// Failed checks of a metric that fail the candidate (threshold judge).
    pub max_failed: u32,
    /// Passed checks of each metric before a step may pass (threshold judge).
    pub least_passed: u32,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            kind: JudgeKind::Sequential,
            error: 0.05,
            groups: std::collections::BTreeMap::new(),
            pass: 95.0,
            marginal: 75.0,
            missing: Missing::Remove,
            outliers: Outliers::Keep,
            tolerance: 0.25,
            critical_ratio: None,
            interval: Millis::seconds(1),
            max_failed: 5,
            least_passed: 10,
        }
    }
}

/// The method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JudgeKind {
    /// Confidence sequences: valid however often they are looked at.
    #[default]
    Sequential,
    /// Mann-Whitney with effect size, groups and scores, as Kayenta judges.
    Classical,
    /// Each metric within its limits, check by check, as Flagger judges.
    Threshold,
}

/// What becomes of values that are not numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// They are left out.
    #[default]
    Remove,
    /// They count as 0.
    Zero,
}

/// What becomes of outliers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outliers {
    /// They stay.
    #[default]
    Keep,
    /// They are left out.
    Remove,
}
