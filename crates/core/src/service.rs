//! Services and their revisions: what should run, and under which rules it is changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::affinity::Affinity;
use crate::api::{self, Api};
use crate::metric::{Judge, Metric};
use crate::notify::Hook;
use crate::package::Resources;
use crate::strategy::{Analysis, QualityPolicy, RollbackPolicy, Strategy};
use crate::time::{Millis, Timestamp, human};
use crate::tracking::Tracking;
use crate::{Digest, EnvironmentName, MachineName, ModelName, RevisionNumber, ServiceName, Version, Weight};

/// Where instances run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// Processes of this machine.
    #[default]
    Process,
    /// Machines of the environment, reached by ssh.
    Ssh,
    /// Containers of the Docker Engines that the environment names among its machines.
    Docker,
}

/// How the pools of a service share machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pools {
    /// Instances of several revisions may run on one machine.
    #[default]
    Together,
    /// A machine carries instances of one revision only.
    Apart,
}

impl Pools {
    fn is_together(&self) -> bool {
        *self == Self::Together
    }
}

impl TargetKind {
    /// The target's name, as `service.toml` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Ssh => "ssh",
            Self::Docker => "docker",
        }
    }

    /// Whether its instances are placed on machines that the environment names.
    pub const fn has_machines(self) -> bool {
        match self {
            Self::Process => false,
            Self::Ssh | Self::Docker => true,
        }
    }
}

/// What a service should be: the rules that a rollout freezes when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Name under which the model is served.
    pub name: ServiceName,
    /// Environment it belongs to.
    #[serde(default = "default_environment")]
    pub environment: EnvironmentName,
    /// Where its instances run.
    #[serde(default)]
    pub target: TargetKind,
    /// The machines of the environment on which they may run; all of them when none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineName>,
    /// Whether stable and candidate may share machines.
    #[serde(default, skip_serializing_if = "Pools::is_together")]
    pub pools: Pools,
    /// How many instances carry the whole traffic.
    #[serde(default = "default_instances")]
    pub instances: u32,
    /// Limits of each instance; what is left out comes from the package.
    #[serde(default)]
    pub resources: Resources,
    /// Values of the package's flags; what is left out keeps the package's default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, serde_json::Value>,
    /// Configuration handed to each instance as environment variables; part of the revision, so it rolls back with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, String>,
    /// How it goes from stable to candidate.
    #[serde(default)]
    pub strategy: Strategy,
    /// What is watched meanwhile.
    #[serde(default)]
    pub analysis: Analysis,
    /// What happens by itself on failure.
    #[serde(default)]
    pub rollback: RollbackPolicy,
    /// What it is judged by, beside readiness, errors and latency.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// How metrics become a verdict.
    #[serde(default)]
    pub judge: Judge,
    /// What happens when quality drops.
    #[serde(default)]
    pub quality: QualityPolicy,
    /// How the gateway treats its requests.
    #[serde(default)]
    pub routing: Routing,
    /// As which API version of another service it answers; without, it has the first API version of its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// What of its requests and answers is kept; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// Who is told of what becomes of its rollouts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Hook>,
    /// Where its rollouts are tracked; as its environment says, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
}

impl ServiceSpec {
    /// A service with nothing but defaults.
    pub fn named(name: ServiceName) -> Self {
        Self {
            name,
            environment: default_environment(),
            target: TargetKind::default(),
            machines: Vec::new(),
            pools: Pools::default(),
            instances: default_instances(),
            resources: Resources::default(),
            flags: BTreeMap::new(),
            configuration: BTreeMap::new(),
            strategy: Strategy::default(),
            analysis: Analysis::default(),
            rollback: RollbackPolicy::default(),
            metrics: Vec::new(),
            judge: Judge::default(),
            quality: QualityPolicy::default(),
            routing: Routing::default(),
            api: None,
            capture: None,
            notify: Vec::new(),
            tracking: None,
        }
    }

    /// The API version that it answers.
    pub fn api_version(&self) -> u16 {
        self.api.as_ref().map_or(api::FIRST, |api| api.version)
    }
}

/// The environment of those who named none.
pub fn default_environment() -> EnvironmentName {
    EnvironmentName::new("dev").unwrap_or_else(|_| unreachable!("`dev` is an environment name"))
}

const fn default_instances() -> u32 {
    1
}

/// How the gateway treats a service's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Routing {
    /// Longest time a request may take at an instance before the caller gets 504.
    #[serde(with = "human")]
    pub timeout: Millis,
    /// Longest time a request is parked while nothing can serve it; then 503 with `Retry-After`.
    #[serde(with = "human")]
    pub park: Millis,
    /// Most requests parked at once; the next one gets 503.
    pub park_limit: u32,
    /// Further attempts, on other instances, for a request whose instance died or failed before it answered.
    pub retries: u32,
    /// Retries allowed as a share of requests, in percent, so that retries never multiply an overload.
    pub retry_budget_percent: u32,
    /// Longest time an old instance may take to finish its requests.
    #[serde(with = "human")]
    pub drain: Millis,
    /// By what the requests of one session are known; without, each request is spread by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

/// A sampled, bounded log of requests, responses and arms, as Parquet files in the data folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Capture {
    /// Share of requests that are kept.
    pub share: Weight,
    /// Longest body that is kept whole, in bytes; of longer ones only the size is.
    pub body_bytes: u64,
    /// JSON Pointers into request and response whose values are masked before anything is written.
    pub mask: Vec<String>,
    /// Bytes that may be kept; the oldest files go first.
    pub limit_bytes: u64,
    /// How long files are kept.
    #[serde(with = "human")]
    pub retention: Millis,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            share: Weight::ALL,
            body_bytes: 64 << 10,
            mask: Vec::new(),
            limit_bytes: 1 << 30,
            retention: Millis::seconds(30 * 86_400),
        }
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            timeout: Millis::seconds(60),
            park: Millis::seconds(30),
            park_limit: 1_024,
            retries: 2,
            retry_budget_percent: 20,
            drain: Millis::seconds(30),
            affinity: None,
        }
    }
}

/// What a service runs: package, flag values, configuration, resources. Immutable, numbered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// Its number within the service.
    pub number: RevisionNumber,
    /// When it was made.
    pub created: Timestamp,
    /// Model that the package holds.
    pub model: ModelName,
    /// Version of the package.
    pub version: Version,
    /// Digest of the package.
    pub package: Digest,
    /// Digest of the manifest of its container image, on targets that run such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Values of the package's flags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, serde_json::Value>,
    /// Environment variables for each instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, String>,
    /// Limits of each instance.
    #[serde(default)]
    pub resources: Resources,
    /// API version it answers under: `/{service}/v{N}`.
    pub api_version: u16,
}

/// What should be true of a service right now: how many instances of each revision, and how traffic is spread.
///
/// It is part of the log, written in the same transaction as the rollout state that asked for it; the reconciler makes it true.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Instances wanted per revision. A revision that is not listed should have none.
    pub instances: BTreeMap<RevisionNumber, u32>,
    /// Traffic share per revision; sums to the whole, or is empty when nothing is to be served.
    pub weights: BTreeMap<RevisionNumber, Weight>,
    /// Whether requests are parked while nothing can serve them.
    pub park: bool,
    /// Shadows that get copies of requests, by revision: the share that is copied. They have no weight.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mirrors: BTreeMap<RevisionNumber, Weight>,
}
