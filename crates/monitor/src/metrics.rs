//! The control plane's figures for Prometheus: rollouts, rollbacks, instances, events.
//!
//! Promises: `promtool check metrics` accepts the text; counters are folded from events, so they grow only while one control plane lives.
//! Absent on purpose: requests and latencies, which the gateway counts and exposes itself.

use std::collections::BTreeMap;

use modelyard_core::event::{Event, EventBody, Outcome};
use modelyard_core::exposition::Exposition;
use modelyard_core::failure::Cause;
use modelyard_core::machine::MachineId;
use modelyard_core::{RevisionNumber, RolloutId, ServiceName, Timestamp};

/// What is exposed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlMetrics {
    /// When this control plane started.
    pub started: Timestamp,
    /// Whether the gateway answered when it was last asked.
    pub gateway_up: bool,
    /// Machines of the environments, and whether each is in reach.
    pub machines: BTreeMap<MachineId, bool>,
    /// Open rollouts.
    pub rollouts: BTreeMap<RolloutId, RolloutInfo>,
    /// Instances by service, revision and state (`starting`, `running`, `live`, `draining`, `exited`).
    pub instances: BTreeMap<(ServiceName, RevisionNumber, String), u64>,
    /// Applied shares in basis points by service and revision.
    pub weights: BTreeMap<(ServiceName, RevisionNumber), u64>,
    /// Position of the last event in the log.
    pub last_event: u64,
    /// What was folded from events.
    pub counts: Counts,
}

/// An open rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutInfo {
    /// Its service.
    pub service: String,
    /// Its strategy.
    pub strategy: String,
    /// Its phase: a word of a closed set, not a sentence with figures.
    pub phase: String,
}

/// What is folded from events: grows by [`ControlMetrics::note`] alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    events: BTreeMap<&'static str, u64>,
    outcomes: BTreeMap<(String, &'static str), u64>,
    rollbacks: BTreeMap<(String, &'static str), u64>,
    failures: BTreeMap<(String, Cause), u64>,
    retries: u64,
}

impl ControlMetrics {
    /// Counts an event; called once for each, as it is written.
    pub fn note(&mut self, event: &Event) {
        let service = event.service.as_ref().map(ToString::to_string).unwrap_or_default();
        self.last_event = self.last_event.max(event.seq);
        *self.counts.events.entry(kind(&event.body)).or_default() += 1;
        match &event.body {
            EventBody::RolloutFinished { outcome, cause, .. } => {
                *self.counts.outcomes.entry((service.clone(), outcome.name())).or_default() += 1;
                if *outcome == Outcome::RolledBack {
                    let cause = cause.map_or("none", Cause::name);
                    *self.counts.rollbacks.entry((service, cause)).or_default() += 1;
                }
            }
            EventBody::Failed { failure } => *self.counts.failures.entry((service, failure.cause)).or_default() += 1,
            EventBody::Retried { .. } => self.counts.retries += 1,
            _ => {}
        }
    }
}

/// The event's name, as its JSON has it.
const fn kind(body: &EventBody) -> &'static str {
    match body {
        EventBody::ControlStarted { .. } => "control-started",
        EventBody::ControlStopped => "control-stopped",
        EventBody::GatewayStarted { .. } => "gateway-started",
        EventBody::GatewayAdopted { .. } => "gateway-adopted",
        EventBody::GatewayLost { .. } => "gateway-lost",
        EventBody::MachineLost { .. } => "machine-lost",
        EventBody::MachineBack { .. } => "machine-back",
        EventBody::MachineLeft { .. } => "machine-left",
        EventBody::ServiceSet { .. } => "service-set",
        EventBody::RevisionCreated { .. } => "revision-created",
        EventBody::RolloutStarted { .. } => "rollout-started",
        EventBody::RolloutStepped { .. } => "rollout-stepped",
        EventBody::Verdict { .. } => "verdict",
        EventBody::Ordered { .. } => "ordered",
        EventBody::OrderRefused { .. } => "order-refused",
        EventBody::DesiredSet { .. } => "desired-set",
        EventBody::InstanceStarting { .. } => "instance-starting",
        EventBody::InstanceLive { .. } => "instance-live",
        EventBody::Failed { .. } => "failed",
        EventBody::InstanceDraining { .. } => "instance-draining",
        EventBody::InstanceStopped { .. } => "instance-stopped",
        EventBody::InstanceAdopted { .. } => "instance-adopted",
        EventBody::RouteApplied { .. } => "route-applied",
        EventBody::Retried { .. } => "retried",
        EventBody::Measured { .. } => "measured",
        EventBody::EvidenceSeen { .. } => "evidence-seen",
        EventBody::QualityDropped { .. } => "quality-dropped",
        EventBody::Notified { .. } => "notified",
        EventBody::RolloutFinished { .. } => "rollout-finished",
        EventBody::FlagsSet { .. } => "flags-set",
        EventBody::Frozen { .. } => "frozen",
        EventBody::Unfrozen => "unfrozen",
        EventBody::ServiceRemoved => "service-removed",
        EventBody::AliasMoved { .. } => "alias-moved",
        EventBody::Tagged { .. } => "tagged",
        EventBody::Yanked { .. } => "yanked",
        EventBody::Unyanked { .. } => "unyanked",
        EventBody::PackagePromoted { .. } => "package-promoted",
        EventBody::MeaningsAccepted { .. } => "meanings-accepted",
        EventBody::TokenMade { .. } => "token-made",
        EventBody::TokenRevoked { .. } => "token-revoked",
        EventBody::TokenRefused { .. } => "token-refused",
    }
}

/// The text for `GET /metrics`.
pub fn render(metrics: &ControlMetrics, version: &str) -> String {
    let mut out = Exposition::default();
    out.family("modelyard_build_info", "gauge", "Version of the running program.").sample(&[("version", &version)], 1);
    let started = metrics.started.0 as f64 / 1e3;
    out.family(
        "modelyard_control_start_time_seconds",
        "gauge",
        "When the control plane started, since the Unix epoch.",
    )
    .sample(&[], started);
    out.family("modelyard_gateway_up", "gauge", "Whether the gateway answered when it was last asked.")
        .sample(&[], u8::from(metrics.gateway_up));
    out.family("modelyard_machine_up", "gauge", "Whether a machine of an environment is in reach.");
    for (machine, up) in &metrics.machines {
        out.sample(&[("machine", machine)], u8::from(*up));
    }
    rollouts(&mut out, metrics);
    instances(&mut out, metrics);
    counters(&mut out, metrics);
    out.finish()
}

fn rollouts(out: &mut Exposition, metrics: &ControlMetrics) {
    out.family("modelyard_rollout_phase_info", "gauge", "Open rollouts and the phase that each is in.");
    for (rollout, info) in &metrics.rollouts {
        let RolloutInfo { service, strategy, phase } = info;
        out.sample(&[("service", service), ("rollout", rollout), ("strategy", strategy), ("phase", phase)], 1);
    }
    out.family("modelyard_rollout_finished_total", "counter", "Rollouts that ended, by outcome.");
    for ((service, outcome), count) in &metrics.counts.outcomes {
        out.sample(&[("service", service), ("outcome", outcome)], count);
    }
    out.family("modelyard_rollback_total", "counter", "Candidates that were taken back, by cause.");
    for ((service, cause), count) in &metrics.counts.rollbacks {
        out.sample(&[("service", service), ("cause", cause)], count);
    }
}

fn instances(out: &mut Exposition, metrics: &ControlMetrics) {
    out.family("modelyard_instances", "gauge", "Instances by state.");
    for ((service, revision, state), count) in &metrics.instances {
        out.sample(&[("service", service), ("revision", revision), ("state", state)], count);
    }
    out.family("modelyard_route_weight_ratio", "gauge", "Share of live traffic that is applied, 0 to 1.");
    for ((service, revision), points) in &metrics.weights {
        out.sample(&[("service", service), ("revision", revision)], *points as f64 / 1e4);
    }
    out.family("modelyard_instance_failures_total", "counter", "Failures that were seen, by cause.");
    for ((service, cause), count) in &metrics.counts.failures {
        out.sample(&[("service", service), ("cause", cause)], count);
    }
}

fn counters(out: &mut Exposition, metrics: &ControlMetrics) {
    out.family("modelyard_events_total", "counter", "Events written to the log.");
    for (kind, count) in &metrics.counts.events {
        out.sample(&[("event", kind)], count);
    }
    out.family("modelyard_event_log_position", "gauge", "Position of the last event in the log.")
        .sample(&[], metrics.last_event);
    out.family("modelyard_retries_total", "counter", "Things that were tried again.")
        .sample(&[], metrics.counts.retries);
}
