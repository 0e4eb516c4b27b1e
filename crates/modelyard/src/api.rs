//! What the control plane answers, as far as this program reads it. What it does not read is passed through untouched.

use std::collections::BTreeMap;

use modelyard_core::failure::Cause;
use modelyard_core::service::Desired;
use modelyard_core::{InstanceId, RevisionNumber, RolloutId, ServiceName, Timestamp, Weight};
use modelyard_rollout::Waiting;
use serde::Deserialize;
use serde_json::Value;

/// `GET /api/services/{s}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Name of the service.
    pub service: ServiceName,
    /// Its environment.
    #[serde(default)]
    pub environment: String,
    /// Share of live traffic that is applied, by revision.
    #[serde(default)]
    pub weights: BTreeMap<RevisionNumber, Weight>,
    /// Share of the requests that stable answers and that goes to a shadow as well, by revision.
    #[serde(default)]
    pub mirrors: BTreeMap<RevisionNumber, Weight>,
    /// What is wanted of instances and shares.
    #[serde(default)]
    pub desired: Desired,
    /// The revision that serves.
    #[serde(default)]
    pub stable: Option<Pool>,
    /// The revision that is coming.
    #[serde(default)]
    pub candidate: Option<Pool>,
    /// Further arms of the open rollout.
    #[serde(default)]
    pub arms: Vec<Pool>,
    /// What runs beside the arms and decides nothing.
    #[serde(default)]
    pub beside: Vec<Pool>,
    /// Further revisions that have instances: kept for a rollback, or leaving.
    #[serde(default)]
    pub others: Vec<Pool>,
    /// What was noticed of the revision that serves since the last rollout.
    #[serde(default)]
    pub noticed: Vec<Notice>,
    /// API versions side by side, this service's among them.
    #[serde(default)]
    pub apis: Vec<modelyard_core::api::Shown>,
    /// The change in flight.
    #[serde(default)]
    pub rollout: Option<Rollout>,
}

/// What serves has become worse, or what it is asked has moved.
#[derive(Clone, Debug, Deserialize)]
pub struct Notice {
    /// When it was seen.
    pub at: Timestamp,
    /// The revision that serves.
    pub revision: RevisionNumber,
    /// `quality` or `drift`.
    pub cause: String,
    /// Why, with figures.
    pub why: String,
}

/// One revision and its instances.
#[derive(Clone, Debug, Deserialize)]
pub struct Pool {
    /// Number of the revision.
    pub revision: RevisionNumber,
    /// Version of its package.
    #[serde(default)]
    pub version: String,
    /// Digest of its package.
    #[serde(default)]
    pub digest: String,
    /// Its instances.
    #[serde(default)]
    pub instances: Vec<Instance>,
}

/// One instance.
#[derive(Clone, Debug, Deserialize)]
pub struct Instance {
    /// Identity.
    pub id: InstanceId,
    /// Where it stands.
    #[serde(default)]
    pub state: String,
    /// Where it takes requests.
    #[serde(default)]
    pub address: Option<String>,
    /// Process id.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Where it runs, on targets that have several machines.
    #[serde(default)]
    pub machine: Option<String>,
    /// Why its machine cannot be reached, if so.
    #[serde(default)]
    pub out_of_reach: Option<String>,
}

/// A rollout in flight.
#[derive(Clone, Debug, Deserialize)]
pub struct Rollout {
    /// Identity.
    pub id: RolloutId,
    /// Strategy, by name.
    pub strategy: String,
    /// Where it stands, for people.
    #[serde(default)]
    pub phase: String,
    /// What it waits for, if that may take long.
    #[serde(default)]
    pub waiting: Option<Value>,
    /// Where the candidate answers whatever its weight, if it is a pool of its own.
    #[serde(default)]
    pub preview: Option<String>,
}

/// What a rollout waits for, in words. An unknown kind is one of a newer control plane: its reason is a text all the same.
pub fn waits(waiting: Option<&Value>) -> Option<String> {
    let waiting = waiting.filter(|waiting| !waiting.is_null())?;
    let known = serde_json::from_value::<Waiting>(waiting.clone()).ok().map(|known| known.to_string());
    known.or_else(|| waiting.get("why")?.as_str().map(str::to_owned))
}

impl Rollout {
    /// Why it waits, and how long still as far as that can be told.
    pub fn waits(&self) -> Option<String> {
        waits(self.waiting.as_ref())
    }

    /// Whether it goes on only when a person says so.
    pub fn waits_for_person(&self) -> bool {
        match &self.waiting {
            Some(Value::Object(waiting)) => waiting.get("for").is_some_and(|what| what == "person"),
            Some(Value::String(what)) => what.contains("person"),
            _ => false,
        }
    }
}

/// `GET /api/rollouts/{id}`, and what `deploy`, `abort` and `rollback` print.
#[derive(Clone, Debug, Deserialize)]
pub struct RolloutEnd {
    /// Identity; a rollback to what already serves starts none.
    #[serde(default)]
    pub rollout: Option<RolloutId>,
    /// Service that it changes.
    pub service: ServiceName,
    /// `promoted`, `rolled-back`, `waiting`, `aborted` or `running`.
    #[serde(default = "running")]
    pub outcome: String,
    /// Why it was taken back.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// What was seen.
    #[serde(default)]
    pub evidence: Option<Value>,
    /// Where it stands, for people.
    #[serde(default)]
    pub phase: Option<String>,
    /// What it waits for, if that may take long.
    #[serde(default)]
    pub waiting: Option<Value>,
    /// Where the candidate answers whatever its weight, if it is a pool of its own.
    #[serde(default)]
    pub preview: Option<String>,
}

fn running() -> String {
    "running".to_owned()
}

impl RolloutEnd {
    /// What was seen, as lines for people.
    pub fn evidence_lines(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match &self.evidence {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(lines)) => lines.iter().map(text).collect(),
            Some(Value::Object(fields)) => {
                fields.iter().map(|(key, value)| format!("{key}: {}", text(value))).collect()
            }
            Some(value) => vec![text(value)],
        }
    }
}

/// `GET /api/services/{s}/history`.
#[derive(Clone, Debug, Deserialize)]
pub struct History {
    /// Every revision, oldest first.
    #[serde(default)]
    pub revisions: Vec<RevisionLine>,
    /// Every rollout, oldest first.
    #[serde(default)]
    pub rollouts: Vec<RolloutLine>,
    /// Drops of quality between rollouts, oldest first.
    #[serde(default)]
    pub noticed: Vec<Notice>,
}

impl History {
    /// A revision with its version and the start of its package's digest: `r1 1.0.0 0a1b2c3d4e5f`.
    pub fn named(&self, number: Option<RevisionNumber>) -> String {
        let Some(number) = number else { return "–".to_owned() };
        let revision = self.revisions.iter().find(|revision| revision.number == number);
        revision
            .map_or_else(|| format!("r{number}"), |one| format!("r{number} {} {}", one.version, short(&one.package)))
    }
}

/// The start of a digest, long enough to tell packages apart by eye.
pub fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

/// One revision of a history.
#[derive(Clone, Debug, Deserialize)]
pub struct RevisionLine {
    /// Number.
    #[serde(alias = "revision")]
    pub number: RevisionNumber,
    /// Version of its package.
    #[serde(default)]
    pub version: String,
    /// Digest of its package.
    #[serde(default, alias = "digest")]
    pub package: String,
    /// Reference to it, if it is known.
    #[serde(default)]
    pub model: Option<String>,
    /// When it was made.
    #[serde(default)]
    pub created: Timestamp,
}

/// One rollout of a history.
#[derive(Clone, Debug, Deserialize)]
pub struct RolloutLine {
    /// Identity.
    pub rollout: RolloutId,
    /// Strategy, by name.
    #[serde(default)]
    pub strategy: String,
    /// Where it started from.
    #[serde(default)]
    pub from: Option<RevisionNumber>,
    /// Where it went.
    #[serde(default)]
    pub to: Option<RevisionNumber>,
    /// When it started.
    #[serde(default)]
    pub started: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// How it ended.
    #[serde(default)]
    pub outcome: Option<String>,
    /// Why it was taken back.
    #[serde(default)]
    pub cause: Option<String>,
}
