//! The control plane itself: health, figures, gateway upgrade, going down.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use modelyard_core::event::EventBody;
use modelyard_core::exposition::{CONTENT_TYPE, Exposition};
use modelyard_core::machine::MachineSeen;
use modelyard_core::{RevisionNumber, ServiceName, Timestamp, Weight};
use modelyard_monitor::capture;
use modelyard_monitor::metrics::{ControlMetrics, RolloutInfo, render};
use serde_json::{Value, json};

use super::App;
use super::error::Refusal;
use crate::evidence::Counts;
use crate::ledger::lock;
use crate::store;
use crate::store::fold::{ServiceState, Stage};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /api/health`
pub async fn health(State(app): State<App>) -> Json<Value> {
    let gateway = app.gateway.as_ref().and_then(|gateway| gateway.running());
    let reachable = app.controller.report().is_some();
    let gateway =
        gateway.map(|running| json!({ "pid": running.pid, "address": running.address, "reachable": reachable }));
    let mut health = json!({ "pid": std::process::id(), "version": VERSION, "gateway": gateway });
    if let Some(broken) = &app.ledger.chain().broken {
        health["history"] = json!({ "broken": broken });
    }
    Json(health)
}

/// `POST /api/gateway/upgrade`: a new process takes the listening sockets over, the old one finishes its requests.
pub async fn upgrade(State(app): State<App>) -> Result<Json<Value>, Refusal> {
    let none = || {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no gateway runs under this control plane",
            "see logs/control.log",
        )
    };
    let gateway = app.gateway.as_ref().ok_or_else(none)?;
    let running = gateway.upgrade().await?;
    app.ledger.note(None, vec![EventBody::GatewayStarted { pid: running.pid }]).await?;
    Ok(Json(json!({ "pid": running.pid, "address": running.address, "version": running.version })))
}

/// `POST /api/down`: instances, gateway and control plane end.
pub async fn down(State(app): State<App>) -> (StatusCode, Json<Value>) {
    app.down.notify_one();
    (StatusCode::ACCEPTED, Json(json!({ "pid": std::process::id(), "state": "stopping" })))
}

/// Figures that are counted from events, once each.
#[derive(Debug)]
pub struct Metrics(Mutex<ControlMetrics>);

impl Metrics {
    /// Counts from the event after `last_event` on.
    #[expect(clippy::field_reassign_with_default, reason = "the other fields are not ours to name")]
    pub fn since(started: Timestamp, last_event: u64) -> Self {
        let mut metrics = ControlMetrics::default();
        metrics.started = started;
        metrics.last_event = last_event;
        Self(Mutex::new(metrics))
    }
}

/// `GET /metrics`
pub async fn metrics(State(app): State<App>) -> Result<Response, Refusal> {
    loop {
        let after = lock(&app.metrics.0).last_event;
        let query = store::Query { after, limit: Some(10_000), ..store::Query::default() };
        let events = app.ledger.read(query).await?;
        let mut metrics = lock(&app.metrics.0);
        // Another scrape may have counted them meanwhile.
        let fresh = events.iter().filter(|event| event.seq > after && metrics.last_event == after).count();
        events.iter().take(fresh).for_each(|event| metrics.note(event));
        if events.is_empty() {
            break;
        }
    }
    let text = {
        let mut metrics = lock(&app.metrics.0);
        metrics.gateway_up = app.controller.report().is_some();
        let is_up = |seen: &MachineSeen| seen.out_of_reach.is_none() && !seen.coming;
        metrics.machines = app.controller.machines().into_iter().map(|seen| (seen.id.clone(), is_up(&seen))).collect();
        present(&app, &mut metrics);
        render(&metrics, VERSION)
    };
    let book = app.controller.book();
    let text = text + &evidence(book.counts()) + &captured(book.captured()) + &drift(&app) + &values(&app);
    let text = text + &app.tracked.figures(app.ledger.now());
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

/// What was read of the spool, and what became of feedback.
fn evidence(counts: &Counts) -> String {
    let mut out = Exposition::default();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.family(
        "modelyard_feedback_total",
        "counter",
        "Feedback by what became of it: joined to its answer, or orphaned when it came.",
    )
    .sample(&[("result", &"joined")], read(&counts.joined))
    .sample(&[("result", &"orphaned")], read(&counts.orphaned));
    out.family(
        "modelyard_spool_lines_total",
        "counter",
        "Lines of the gateway's spool: read, repeated among those, skipped because they are none.",
    )
    .sample(&[("result", &"read")], read(&counts.read))
    .sample(&[("result", &"repeated")], read(&counts.repeated))
    .sample(&[("result", &"skipped")], read(&counts.skipped));
    out.finish()
}

/// What was kept as files.
fn captured(counts: &capture::Counts) -> String {
    let mut out = Exposition::default();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    out.family(
        "modelyard_capture_rows_total",
        "counter",
        "Answers and feedback for Parquet files: kept, or lost because they could not be written.",
    )
    .sample(&[("result", &"kept")], read(&counts.kept))
    .sample(&[("result", &"lost")], read(&counts.lost));
    out.family(
        "modelyard_capture_files_total",
        "counter",
        "Parquet files: completed, or removed because they were too old or too many.",
    )
    .sample(&[("result", &"completed")], read(&counts.files))
    .sample(&[("result", &"removed")], read(&counts.removed));
    out.finish()
}

/// Fields of a revision whose drift is exported: those that moved most.
const DRIFTED: usize = 12;

/// How far inputs and outputs have moved.
fn drift(app: &App) -> String {
    let mut out = Exposition::default();
    let services: Vec<ServiceName> = app.ledger.world().services.keys().cloned().collect();
    let known = |service: ServiceName| Some((app.controller.book().evidence(&service)?, service));
    let known: Vec<_> = services.into_iter().filter_map(known).collect();
    if known.iter().all(|(evidence, _)| evidence.drift.is_empty()) {
        return String::new();
    }
    out.family(
        "modelyard_drift_psi",
        "gauge",
        "Population stability index of an input or output over the last hour, of those that moved most.",
    );
    for (evidence, service) in &known {
        for (revision, fields) in &evidence.drift {
            for field in fields.iter().take(DRIFTED) {
                let labels: [(&str, &dyn std::fmt::Display); 4] = [
                    ("service", service),
                    ("revision", revision),
                    ("field", &field.field),
                    ("reference", &field.reference),
                ];
                out.sample(&labels, field.psi);
            }
        }
    }
    out.finish()
}

/// What each revision is judged by, as far as it is known.
fn values(app: &App) -> String {
    let book = app.controller.book();
    let mut found = Vec::new();
    for service in app.ledger.world().services.keys() {
        let (Some(evidence), Some(following)) = (book.evidence(service), book.following(service)) else { continue };
        let quantile = |name: &str| following.metrics.iter().find(|metric| metric.name == name)?.quantile;
        for (&revision, arm) in &evidence.arms {
            for (name, statistic) in &arm.metrics {
                if let Some(value) = statistic.estimate(quantile(name).unwrap_or(0.95)) {
                    found.push((service.clone(), revision, name.clone(), value));
                }
            }
        }
    }
    if found.is_empty() {
        return String::new();
    }
    let mut out = Exposition::default();
    out.family(
        "modelyard_metric_value",
        "gauge",
        "Value of a service's metric by revision, in the metric's own unit, since it is measured for the present rollout or after the last one.",
    );
    for (service, revision, name, value) in &found {
        let labels: [(&str, &dyn std::fmt::Display); 3] =
            [("service", service), ("revision", revision), ("metric", name)];
        out.sample(&labels, *value);
    }
    out.finish()
}

/// Fills in what is true now.
fn present(app: &App, metrics: &mut ControlMetrics) {
    metrics.rollouts.clear();
    metrics.instances.clear();
    metrics.weights.clear();
    for state in app.ledger.world().services.values() {
        instances(state, metrics);
        weights(state, metrics);
        let Some(open) = &state.open else { continue };
        let info = RolloutInfo {
            service: state.name.to_string(),
            strategy: open.machine.plan.strategy.name().to_owned(),
            phase: phase(open),
        };
        metrics.rollouts.insert(open.id.clone(), info);
    }
}

/// The phase's name without its figures: a label's values must be few.
fn phase(open: &store::fold::Open) -> String {
    let value = serde_json::to_value(open.machine.phase).unwrap_or_default();
    value.get("name").and_then(Value::as_str).unwrap_or("unknown").to_owned()
}

fn instances(state: &ServiceState, metrics: &mut ControlMetrics) {
    for instance in state.instances.values() {
        let stage = match instance.stage {
            Stage::Starting => "starting",
            Stage::Live => "live",
            Stage::Draining { .. } => "draining",
        };
        let key: (ServiceName, RevisionNumber, String) = (state.name.clone(), instance.revision, stage.to_owned());
        *metrics.instances.entry(key).or_default() += 1;
    }
}

fn weights(state: &ServiceState, metrics: &mut ControlMetrics) {
    for (&revision, &weight) in state.applied.iter().filter(|&(_, &weight)| weight > Weight::NONE) {
        metrics.weights.insert((state.name.clone(), revision), u64::from(weight.basis_points()));
    }
}
