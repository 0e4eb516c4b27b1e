//! What a run is told of a rollout's events. Pure.
//!
//! Promises: one event gives the same points whenever it is read, with its own time and its position in the log as the step, so that telling it twice
//! adds nothing.

use std::collections::BTreeMap;

use modelyard_core::event::{Actor, Event, EventBody, Measurement, Outcome};
use modelyard_core::evidence::Evidence;
use modelyard_core::{RevisionNumber, Timestamp};
use serde::Serialize;

use crate::store::fold::{Record, ServiceState};

/// Kinds of events that a run is told of.
pub const KINDS: &[&str] =
    &["rollout-started", "rollout-stepped", "measured", "evidence-seen", "verdict", "rollout-finished"];

/// Longest parameter or tag, in characters: what older servers take.
const TEXT_CHARS: usize = 500;
/// Longest name of a metric, in characters.
const KEY_CHARS: usize = 200;

/// One value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    key: String,
    value: f64,
    /// When, in milliseconds since 1970.
    timestamp: u64,
    /// Position in the log.
    step: u64,
}

/// How a run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As MLflow calls it.
    pub status: &'static str,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// What is to be written into a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Values.
    pub metrics: Vec<Point>,
    /// What the rollout is.
    pub params: BTreeMap<String, String>,
    /// Where it stands.
    pub tags: BTreeMap<String, String>,
    /// How it ended.
    pub end: Option<End>,
    /// Whether the candidate was promoted.
    pub promoted: bool,
}

impl Batch {
    /// Leaves out the values that were told up to a position.
    pub fn after(&mut self, position: u64) {
        self.metrics.retain(|point| point.step > position);
    }

    fn tag(&mut self, key: &str, value: &str) {
        self.tags.insert(format!("modelyard.{key}"), cut(value));
    }

    fn point(&mut self, event: &Event, key: String, value: Option<f64>) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.metrics.push(Point { key: called(&key), value, timestamp: event.at.0, step: event.seq });
        }
    }

    /// Adds what an event says.
    pub fn add(&mut self, event: &Event, cast: &Cast<'_>) {
        match &event.body {
            EventBody::RolloutStarted { .. } => {
                if let Actor::Person(name) = &event.actor {
                    self.tag("by", name);
                }
            }
            EventBody::RolloutStepped { phase, .. } => self.tag("phase", phase),
            EventBody::Measured { revisions } => {
                for (&revision, measurement) in revisions {
                    self.measured(event, &cast.role(revision), measurement);
                }
            }
            EventBody::EvidenceSeen { evidence } => self.evidence(event, cast, evidence),
            EventBody::Verdict { verdict, why, .. } => {
                self.tag("verdict", verdict);
                self.tag("verdict.why", why);
                let value = match verdict.as_str() {
                    "pass" => 1.0,
                    "fail" => -1.0,
                    _ => 0.0,
                };
                self.point(event, "verdict".to_owned(), Some(value));
            }
            EventBody::RolloutFinished { outcome, cause, failure, .. } => {
                self.tag("outcome", outcome.name());
                if let Some(cause) = cause {
                    self.tag("cause", cause.name());
                }
                if let Some(failure) = failure {
                    self.tag("why", &failure.detail);
                }
                let seconds = event.at.0.saturating_sub(cast.record.started.0) as f64 / 1e3;
                self.point(event, "rollout_seconds".to_owned(), Some(seconds));
                self.promoted |= *outcome == Outcome::Promoted;
                self.end = Some(End { status: status(*outcome), at: event.at.0 });
            }
            _ => {}
        }
    }

    fn measured(&mut self, event: &Event, role: &str, measurement: &Measurement) {
        let window = &measurement.window;
        let quantile = |share: f64| window.latency.quantile(share).map(|micros| micros / 1e3);
        for (name, value) in [
            ("weight", Some(f64::from(measurement.weight.basis_points()) / 1e4)),
            ("live_instances", Some(f64::from(measurement.live))),
            ("requests", Some(window.requests as f64)),
            ("error_rate", window.error_rate()),
            ("latency_p50_ms", quantile(0.5)),
            ("latency_p95_ms", quantile(0.95)),
            ("latency_p99_ms", quantile(0.99)),
        ] {
            self.point(event, format!("{role}/{name}"), value);
        }
    }

    fn evidence(&mut self, event: &Event, cast: &Cast<'_>, evidence: &Evidence) {
        for (&revision, arm) in &evidence.arms {
            let role = cast.role(revision);
            for (name, statistic) in &arm.metrics {
                self.point(event, format!("{role}/metric/{name}"), statistic.estimate(cast.quantile(name)));
                self.point(event, format!("{role}/metric/{name}.count"), Some(statistic.count() as f64));
            }
        }
    }
}

/// Who plays which part in a rollout.
pub struct Cast<'a> {
    /// The service.
    pub state: &'a ServiceState,
    /// The rollout.
    pub record: &'a Record,
}

impl Cast<'_> {
    fn role(&self, revision: RevisionNumber) -> String {
        match revision {
            one if one == self.record.to => "candidate".to_owned(),
            one if Some(one) == self.record.from => "stable".to_owned(),
            one => format!("r{one}"),
        }
    }

    fn quantile(&self, metric: &str) -> f64 {
        let metrics = self.state.spec.iter().flat_map(|spec| &spec.metrics);
        metrics.filter(|known| known.name == metric).find_map(|known| known.quantile).unwrap_or(0.95)
    }

    /// When the rollout began.
    pub fn started(&self) -> Timestamp {
        self.record.started
    }

    /// What a run is told first: what the rollout is.
    pub fn begin(&self) -> Batch {
        let mut batch = Batch::default();
        let mut param = |key: String, value: String| batch.params.insert(key, cut(&value));
        param("strategy".to_owned(), self.record.strategy.clone());
        param("service".to_owned(), self.state.name.to_string());
        let others = self.record.arms.iter().chain(&self.record.beside).copied();
        // A run takes a hundred parameters at once, and no plan has a dozen arms.
        let all = self.record.from.into_iter().chain([self.record.to]).chain(others).take(20);
        for revision in all {
            let Some(made) = self.state.revisions.get(&revision) else { continue };
            let role = self.role(revision);
            param(format!("{role}.revision"), revision.to_string());
            param(format!("{role}.model"), made.model.to_string());
            param(format!("{role}.version"), made.version.to_string());
            param(format!("{role}.digest"), made.package.to_string());
            if !made.flags.is_empty() {
                param(format!("{role}.flags"), serde_json::to_string(&made.flags).unwrap_or_default());
            }
        }
        batch.tag("service", self.state.name.as_str());
        if let Some(spec) = &self.state.spec {
            batch.tag("environment", spec.environment.as_str());
        }
        batch
    }
}

/// MLflow's word for an outcome.
const fn status(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Promoted | Outcome::Compared => "FINISHED",
        Outcome::RolledBack => "FAILED",
        Outcome::Aborted => "KILLED",
    }
}

/// A name that MLflow takes for a metric.
fn called(key: &str) -> String {
    let taken = |c: char| if c.is_ascii_alphanumeric() || "_-. /".contains(c) { c } else { '_' };
    key.chars().map(taken).take(KEY_CHARS).collect()
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_CHARS).collect()
}
