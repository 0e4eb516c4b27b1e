//! The strategies and the policy of a rollout, as a `service.toml` says them. How they advance: `modelyard-rollout`.

use serde::{Deserialize, Serialize};

use crate::Weight;
use crate::time::{Millis, human};

/// How a service goes from stable to candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Strategy {
    /// The strategy's name, as the CLI takes it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Recreate(_) => "recreate",
            Self::Rolling(_) => "rolling",
            Self::BlueGreen(_) => "blue-green",
            Self::Canary(_) => "canary",
        }
    }

    /// The strategy of that name with its defaults.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "recreate" => Self::Recreate(Recreate::default()),
            "rolling" => Self::Rolling(Rolling::default()),
            "blue-green" => Self::BlueGreen(BlueGreen::default()),
            "canary" => Self::Canary(Canary::default()),
            _ => return None,
        })
    }

    /// The names that [`Strategy::from_name`] knows.
    pub const NAMES: [&'static str; 4] = ["recreate", "rolling", "blue-green", "canary"];
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
}

impl Default for Recreate {
    fn default() -> Self {
        Self { park: true }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Canary {
    /// Candidate weights, strictly growing. 10 % first by default, never above 20 % before a passing verdict. The last step is always the whole.
    pub steps: Vec<Weight>,
    /// How long each step is watched, at least, before its verdict counts.
    #[serde(with = "human")]
    pub bake: Millis,
    /// Wait for a person's `promote` before each step after the first.
    pub manual: bool,
}

impl Default for Canary {
    fn default() -> Self {
        let steps = [1_000, 2_500, 5_000, 10_000];
        Self {
            steps: steps.into_iter().filter_map(|points| Weight::new(points).ok()).collect(),
            bake: Millis::seconds(30),
            manual: false,
        }
    }
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
