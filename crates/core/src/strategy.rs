//! The strategies and the policy of a rollout, as a `service.toml` says them. How they advance: `modelyard-rollout`.

use serde::{Deserialize, Serialize};

use crate::Weight;
use crate::beside::ShadowArm;
use crate::time::{Millis, human};

/// How a service goes from stable to candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strategy {
    /// Stop all of stable, start the candidate.
    Recreate(Recreate),
    /// Replace instances in batches on a set schedule.
    Rolling(Rolling),
    /// A second pool with a preview address; traffic moves at once or gradually; blue is kept for a while.
    BlueGreen(BlueGreen),
    /// A small share first, steps with analysis between; stable is the control group.
    Canary(Canary),
    /// A random split, held until the metric named beforehand is decided; promoted if and only if the candidate outperforms.
    Ab(Ab),
    /// Requests are copied to the candidate, answers compared; only stable's answer is returned.
    Shadow(Shadow),
}

impl Strategy {
    /// The strategy's name, as the CLI takes it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Recreate(_) => "recreate",
            Self::Rolling(_) => "rolling",
            Self::BlueGreen(_) => "blue-green",
            Self::Canary(_) => "canary",
            Self::Ab(_) => "ab",
            Self::Shadow(_) => "shadow",
        }
    }

    /// The strategy of that name with its defaults.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "recreate" => Self::Recreate(Recreate::default()),
            "rolling" => Self::Rolling(Rolling::default()),
            "blue-green" => Self::BlueGreen(BlueGreen::default()),
            "canary" => Self::Canary(Canary::default()),
            "ab" => Self::Ab(Ab::default()),
            "shadow" => Self::Shadow(Shadow::default()),
            _ => return None,
        })
    }

    /// The names that [`Strategy::from_name`] knows.
    pub const NAMES: [&'static str; 6] = ["recreate", "rolling", "blue-green", "canary", "ab", "shadow"];
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Canary(Canary::default())
    }
}

/// Stop all of stable, start the candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Recreate {
    /// Whether the gateway parks requests while nothing runs; otherwise it answers 503 with `Retry-After`.
    pub park: bool,
    /// How long the candidate is watched, alone, before it counts as promoted; a failure or a drop of quality starts stable again.
    #[serde(with = "human")]
    pub watch: Millis,
}

impl Default for Recreate {
    fn default() -> Self {
        Self { park: true, watch: Millis(0) }
    }
}

/// Replace instances in batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Rolling {
    /// How many instances are replaced at a time.
    pub batch: u32,
    /// How many instances above the asked number may run for a while.
    pub max_surge: u32,
    /// How many of the asked number may be missing for a while. Not both this and `max_surge` may be zero.
    pub max_unavailable: u32,
    /// Pause between batches, with analysis running.
    #[serde(with = "human")]
    pub pause: Millis,
}

impl Default for Rolling {
    fn default() -> Self {
        Self { batch: 1, max_surge: 1, max_unavailable: 0, pause: Millis::seconds(10) }
    }
}

/// A second pool with a preview address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BlueGreen {
    /// Candidate weights on the way; empty moves all traffic at once. The last step is always the whole.
    pub steps: Vec<Weight>,
    /// How long each step is watched before the next.
    #[serde(with = "human")]
    pub bake: Millis,
    /// How long the candidate is held at its preview address, without live traffic, before the first step.
    #[serde(with = "human")]
    pub preview: Millis,
    /// Wait for a person's `promote` after the preview.
    pub manual: bool,
    /// How long blue is kept after green carries everything; going back is instant until then.
    #[serde(with = "human")]
    pub rollback_window: Millis,
}

impl Default for BlueGreen {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            bake: Millis::seconds(30),
            preview: Millis(0),
            manual: false,
            rollback_window: Millis::seconds(600),
        }
    }
}

/// A small share first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Canary {
    /// Candidate weights, strictly growing. 10 % first by default, never above 20 % before a passing verdict. The last step is always the whole.
    pub steps: Vec<Weight>,
    /// How long each step is watched, at least, before its verdict counts.
    #[serde(with = "human")]
    pub bake: Millis,
    /// Wait for a person's `promote` before each step after the first.
    pub manual: bool,
    /// Shadows beside it: compared with stable, and told of; they decide nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<ShadowArm>,
}

impl Default for Canary {
    fn default() -> Self {
        let steps = [1_000, 2_500, 5_000, 10_000];
        Self {
            steps: steps.into_iter().filter_map(|points| Weight::new(points).ok()).collect(),
            bake: Millis::seconds(30),
            manual: false,
            shadows: Vec::new(),
        }
    }
}

/// A random split until the evidence decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Ab {
    /// Share of the candidate; stable has what the arms leave. Half by default.
    pub share: Weight,
    /// Further arms, each with its own package and share.
    pub arms: Vec<Arm>,
    /// Shadows beside them: compared with stable, and told of; they decide nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<ShadowArm>,
    /// What is assigned at random, and independent of each other.
    pub unit: Unit,
    /// Name of the metric (of `[[metrics]]`) that decides.
    pub metric: String,
    /// By how much the candidate must be better, in the metric's own unit.
    pub margin: f64,
    /// Chance of promoting a candidate that is not better by the margin.
    pub error: f64,
    /// Chance of finding an improvement of `effect`, for the planned size.
    pub power: f64,
    /// The improvement that the test is planned for, in the metric's own unit, above the margin.
    pub effect: f64,
    /// What the metric is expected to be in stable (a rate) or its standard deviation (a mean), for the planned size; learnt from stable when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<f64>,
    /// Longest time until the test ends without a decision: the candidate is not promoted. None waits for ever.
    #[serde(with = "human::option", skip_serializing_if = "Option::is_none")]
    pub longest: Option<Millis>,
    /// Least number of units in each arm before anything is decided.
    pub least_units: u64,
}

impl Default for Ab {
    fn default() -> Self {
        Self {
            share: points(5_000),
            arms: Vec::new(),
            shadows: Vec::new(),
            unit: Unit::Request,
            metric: String::new(),
            margin: 0.0,
            error: 0.05,
            power: 0.8,
            effect: 0.05,
            expected: None,
            longest: None,
            least_units: 100,
        }
    }
}

/// A share that is known to be one.
fn points(basis_points: u16) -> Weight {
    Weight::new(basis_points).unwrap_or(Weight::ALL)
}

/// What is assigned at random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Each request.
    #[default]
    Request,
    /// Each session, by the service's affinity.
    Session,
}

/// A further arm beside stable and candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Arm {
    /// What it runs: a reference or a folder, as in `package`.
    pub package: String,
    /// Its share of traffic.
    #[serde(default = "Arm::default_share")]
    pub share: Weight,
    /// Values of its flags, when they differ.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub flags: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Arm {
    pub(crate) fn default_share() -> Weight {
        points(1_000)
    }
}

/// Copies of requests, compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Shadow {
    /// Share of requests that are copied to the candidate.
    pub share: Weight,
    /// Further shadows, each with its own share and, where they differ, bounds.
    pub arms: Vec<ShadowArm>,
    /// Most copies in flight or waiting per shadow; what comes on top is shed.
    pub limit: u32,
    /// Longest time that a copy may take.
    #[serde(with = "human")]
    pub timeout: Millis,
    /// Pairs of answers that must be compared before there is a verdict.
    pub least_pairs: u64,
    /// Largest share of pairs that may disagree.
    pub max_disagreement: f64,
    /// Largest mean difference of any output (shadow less stable, in the output's own unit), on either side; none holds it against nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_difference: Option<f64>,
    /// Largest mean Jensen-Shannon distance of any output whose rows are distributions, 0 to 1; none holds it against nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_distance: Option<f64>,
    /// How much longer its answers may take than stable's to the same requests, in milliseconds at the analysis' `latency_quantile`; none holds it
    /// against nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_slowdown_ms: Option<f64>,
    /// Chance of a wrong verdict, however often it is looked at; shared among what is held against a limit.
    pub error: f64,
    /// How close numbers must be to agree.
    pub tolerance: crate::sample::Tolerance,
    /// Of how many best classes the best must be among (scores).
    pub top_k: u32,
    /// What a pair's agreement is.
    pub agree_on: AgreeOn,
    /// How long it is watched, at least.
    #[serde(with = "human")]
    pub bake: Millis,
    /// What follows a pass: the candidate stays a shadow until a person promotes it, or it goes on as canary by itself.
    pub then: Then,
    /// The canary's steps, when it goes on.
    pub steps: Vec<Weight>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            share: Weight::ALL,
            arms: Vec::new(),
            limit: 64,
            timeout: Millis::seconds(10),
            least_pairs: 200,
            max_disagreement: 0.01,
            max_difference: None,
            max_distance: None,
            max_slowdown_ms: None,
            error: 0.05,
            tolerance: crate::sample::Tolerance::default(),
            top_k: 1,
            agree_on: AgreeOn::Outputs,
            bake: Millis::seconds(30),
            then: Then::Ask,
            steps: Canary::default().steps,
        }
    }
}

/// What a pair's agreement is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgreeOn {
    /// Every output within tolerance.
    #[default]
    Outputs,
    /// The label, or best class, of every row.
    Labels,
    /// Stable's best class among the shadow's `top-k` best, of every row.
    TopK,
}

/// What follows a shadow's pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// A person decides: `promote` or `abort`.
    #[default]
    Ask,
    /// The candidate goes on as canary.
    Canary,
    /// The candidate is taken away again: the comparison was all that was asked for.
    End,
}

/// What happens when a candidate's quality drops (a guard metric, drift, or a shadow's disagreement), which is no infrastructure failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct QualityPolicy {
    /// What happens by itself.
    pub action: QualityAction,
    /// Population stability index of an input or output from which on it counts as drift, where no rule of `drift` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_psi: Option<f64>,
    /// Measure and limit of single inputs and outputs, or of all. Of those that mean a field the most particular apply, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<DriftRule>,
    /// What inputs and outputs are compared with.
    pub reference: Reference,
    /// Values of a field that must have been seen before its drift counts.
    pub least_values: u64,
}

impl Default for QualityPolicy {
    fn default() -> Self {
        Self {
            action: QualityAction::Ask,
            max_psi: None,
            drift: Vec::new(),
            reference: Reference::Package,
            least_values: 500,
        }
    }
}

impl QualityPolicy {
    /// Whether inputs and outputs are looked at.
    pub fn looks_at_drift(&self) -> bool {
        self.max_psi.is_some() || !self.drift.is_empty()
    }
}

/// By which measure an input or output is held against its reference, and how far it may move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DriftRule {
    /// What it is about: `input`, `output`, `input x`, or a column of it, `input x[3]`; everything when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The measure.
    #[serde(default)]
    pub measure: DriftMeasure,
    /// From which value on it counts as drift; a p-value below which it does (`chi-square`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// Values that must have been seen before it counts; as the policy has it when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least_values: Option<u64>,
}

impl DriftRule {
    /// The limit, or the measure's usual one.
    pub fn limit(&self) -> f64 {
        self.limit.unwrap_or_else(|| self.measure.usual_limit())
    }

    /// How particular the rule is about a field (`input x[3]`); nothing when it does not mean it.
    pub fn means(&self, field: &str) -> Option<usize> {
        let Some(named) = self.field.as_deref() else { return Some(0) };
        let rest = field.strip_prefix(named)?;
        (rest.is_empty() || rest.starts_with([' ', '['])).then_some(named.len())
    }
}

/// How two spreads are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftMeasure {
    /// Population stability index.
    #[default]
    Psi,
    /// Kolmogorov-Smirnov distance; numbers only.
    Ks,
    /// p-value of the chi-square test of homogeneity over the bins.
    ChiSquare,
    /// Jensen-Shannon divergence in bits.
    JensenShannon,
}

impl DriftMeasure {
    /// All measures.
    pub const ALL: [Self; 4] = [Self::Psi, Self::Ks, Self::ChiSquare, Self::JensenShannon];

    /// Name as it is written in `service.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Psi => "psi",
            Self::Ks => "ks",
            Self::ChiSquare => "chi-square",
            Self::JensenShannon => "jensen-shannon",
        }
    }

    /// What it is called in a sentence.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Psi => "population stability index",
            Self::Ks => "Kolmogorov-Smirnov distance",
            Self::ChiSquare => "p-value of the chi-square test",
            Self::JensenShannon => "Jensen-Shannon divergence",
        }
    }

    /// A limit that is usual.
    // 0.2: the rule of thumb of credit scoring. 0.1 of either distance is about what a shift by a quarter of a deviation makes of a normal
    // spread (KS 0.10). The test finds ever smaller shifts in ever more values, so its p-value is asked to be very small.
    pub const fn usual_limit(self) -> f64 {
        match self {
            Self::Psi => 0.2,
            Self::Ks | Self::JensenShannon => 0.1,
            Self::ChiSquare => 1e-6,
        }
    }

    /// Whether a value is past a limit.
    pub fn is_past(self, value: f64, limit: f64) -> bool {
        if self == Self::ChiSquare { value < limit } else { value > limit }
    }
}

/// What a drop of quality does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QualityAction {
    /// Pause, tell, show the evidence, and wait for a person.
    #[default]
    Ask,
    /// Go back through the steps.
    StepBack,
    /// Go back at once.
    RollBack,
}

/// What drift is measured against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// The profile that was stored in the package at build time.
    #[default]
    Package,
    /// What stable sees and answers over the same time.
    Stable,
}

/// What is watched, and when it counts as failed. All of these are infrastructure: failing any takes the candidate back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Analysis {
    /// Least requests that a candidate must have answered in a step before the verdict can be `pass`.
    pub min_requests: u64,
    /// Largest allowed share of answers that are the model's fault (5xx, broken connections), 0 to 1.
    pub max_error_rate: f64,
    /// Errors needed, at least, before the error rate may fail a candidate.
    pub min_errors: u64,
    /// Latency objective in milliseconds at `latency_quantile`; none by default.
    pub max_latency_ms: Option<f64>,
    /// Latency may be at most this many times that of stable at the same quantile; none by default.
    pub max_latency_ratio: Option<f64>,
    /// The quantile at which latency is held to its objective.
    pub latency_quantile: f64,
    /// How far back error rate and latency look.
    #[serde(with = "human")]
    pub window: Millis,
    /// How long an instance may take to become ready and live.
    #[serde(with = "human")]
    pub startup_timeout: Millis,
    /// Crashes of candidate instances within the rollout that count as a crash loop. Before the candidate has been live, crashes are
    /// only tolerated up to here, since no request was hurt.
    pub crash_loop: u32,
    /// Crashes of a candidate that has been live that are forgiven; the next one takes it back.
    pub crash_tolerance: u32,
    /// How long without enough requests before a bake passes on health alone; none waits for ever.
    pub no_traffic: NoTraffic,
}

/// What to do when a step has baked but too few requests came to judge it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoTraffic {
    /// Stay at the step until enough requests came (inconclusive is an answer).
    #[default]
    Hold,
    /// Go on, on readiness and liveness alone, and say so in the event log.
    Promote,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            min_requests: 50,
            max_error_rate: 0.01,
            min_errors: 3,
            max_latency_ms: None,
            max_latency_ratio: None,
            latency_quantile: 0.95,
            window: Millis::seconds(30),
            startup_timeout: Millis::seconds(120),
            crash_loop: 3,
            crash_tolerance: 0,
            no_traffic: NoTraffic::Hold,
        }
    }
}

/// What happens by itself when the candidate fails for an infrastructure cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RollbackPolicy {
    /// Take the candidate back by itself; otherwise pause and wait for a person.
    pub automatic: bool,
    /// Move all traffic back at once (the default for infrastructure causes), or step by step through the same steps.
    pub stepped: bool,
}

impl Default for RollbackPolicy {
    fn default() -> Self {
        Self { automatic: true, stepped: false }
    }
}
