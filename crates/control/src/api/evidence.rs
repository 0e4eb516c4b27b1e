//! Evidence: what is known of the arms, and feedback in bulk.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use modelyard_core::event::EventBody;
use modelyard_core::evidence::{Evidence, Statistic};
use modelyard_core::feedback::{self, Feedback, LIMIT};
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, RolloutId, ServiceName, Timestamp};
use modelyard_rollout::judge::plan_size;
use serde_json::{Value, json};

use super::App;
use super::error::Refusal;
use super::rollouts::{find, unknown};
use crate::evidence::{self, Following, Receipt, csv};
use crate::http_client::chain;
use crate::orders;
use crate::store;
use crate::store::fold::ServiceState;

pub(super) type Name = Result<Path<ServiceName>, PathRejection>;

impl From<evidence::Error> for Refusal {
    fn from(error: evidence::Error) -> Self {
        tracing::error!(error = %chain(&error), "evidence cannot be read or written");
        let help = "see the control plane's log; check that the disk is not full";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the evidence cannot be read or written", help)
    }
}

/// `GET /api/services/{service}/evidence`
pub async fn of_service(State(app): State<App>, name: Name) -> Result<Json<Value>, Refusal> {
    let state = present(&app, name)?;
    let known = app.controller.evidence(&state.name);
    let known = known.or_else(|| app.controller.book().evidence(&state.name).map(Arc::unwrap_or_clone));
    Ok(Json(document(&app, &state, known.unwrap_or_default())))
}

/// `GET /api/rollouts/{rollout}/evidence`: of an open one what is known now, of an ended one what was known when it was decided.
pub async fn of_rollout(
    State(app): State<App>,
    id: Result<Path<RolloutId>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(id) = id?;
    let world = app.ledger.world();
    let (state, record) = find(&world, &id).ok_or_else(|| unknown(&id))?;
    if state.undecided().is_some_and(|open| open.id == id) {
        let known = app.controller.evidence(&state.name).unwrap_or_default();
        return Ok(Json(document(&app, state, known)));
    }
    let known = match decided_by(&app, &id).await? {
        Some(evidence) => evidence,
        None => app.controller.book().of_scope(&state.name, id.as_str()).await?.unwrap_or_default(),
    };
    Ok(Json(json!({
        "service": state.name, "rollout": id, "since": record.started, "until": record.ended, "evidence": known,
    })))
}

/// The last evidence that the log has of a rollout.
async fn decided_by(app: &App, id: &RolloutId) -> Result<Option<Evidence>, store::Error> {
    let events = app.ledger.read(store::Query { rollout: Some(id.clone()), ..store::Query::default() }).await?;
    let seen = |body| match body {
        EventBody::EvidenceSeen { evidence } => Some(*evidence),
        _ => None,
    };
    Ok(events.into_iter().rev().find_map(|event| seen(event.body)))
}

/// What is known, of what, and what it is waited for.
fn document(app: &App, state: &ServiceState, known: Evidence) -> Value {
    let now = app.ledger.now();
    let following = app.controller.book().following(&state.name).unwrap_or_default();
    let planned = planned(state, &following, &known, now);
    let mut document = json!({
        "service": state.name, "scope": following.scope, "since": following.since, "until": following.until,
        "unit": following.unit, "metrics": following.metrics, "evidence": known,
    });
    if let Some(planned) = planned {
        document["planned"] = planned;
    }
    if let Some(open) = &state.open {
        document["rollout"] = json!(open.id);
        document["phase"] = json!(open.machine.describe());
        document["waiting"] = json!(app.controller.waiting(state));
    }
    document
}

/// How large the service's present test is planned, and how long it takes at the traffic so far.
fn planned(state: &ServiceState, following: &Following, known: &Evidence, now: Timestamp) -> Option<Value> {
    let spec = state.spec.as_ref()?;
    let statistic = statistic(state, spec, following, known);
    let units: u64 = known.arms.values().map(|arm| arm.units).sum();
    let mut planned = plan_of(spec, statistic, per_second(following, known, now))?;
    planned["units_so_far"] = json!(units);
    Some(planned)
}

/// How large a test by these rules is planned before it starts, and how long it takes at today's traffic. Nothing where no test is asked for; without
/// `units` where too little is known of the metric.
pub fn foreseen(app: &App, state: &ServiceState, spec: &ServiceSpec) -> Option<Value> {
    let Strategy::Ab(ab) = &spec.strategy else { return None };
    let now = app.ledger.now();
    let following = app.controller.book().following(&state.name).unwrap_or_default();
    let known = app.controller.book().evidence(&state.name).map(Arc::unwrap_or_clone).unwrap_or_default();
    let rate = per_second(&following, &known, now).or_else(|| counted_per_second(app, state, now));
    let statistic = statistic(state, spec, &following, &known);
    Some(
        plan_of(spec, statistic, rate)
            .unwrap_or_else(|| json!({ "metric": ab.metric, "unit": ab.unit, "per_second": rate })),
    )
}

/// What is known of the deciding metric in stable, if it was measured under the same definition.
fn statistic<'a>(
    state: &ServiceState,
    spec: &ServiceSpec,
    following: &Following,
    known: &'a Evidence,
) -> Option<&'a Statistic> {
    let Strategy::Ab(ab) = &spec.strategy else { return None };
    let metric = spec.metrics.iter().find(|metric| metric.name == ab.metric)?;
    let stable = known.arms.get(&state.stable?).filter(|_| following.metrics.contains(metric))?;
    stable.metrics.get(&ab.metric)
}

/// Units a second since they are counted.
fn per_second(following: &Following, known: &Evidence, now: Timestamp) -> Option<f64> {
    let units: u64 = known.arms.values().map(|arm| arm.units).sum();
    let watched = following.since.map_or(Millis(0), |since| following.until.unwrap_or(now) - since);
    (units > 0 && watched.0 > 0).then(|| units as f64 / watched.as_seconds())
}

/// Requests a second since the gateway started, where nothing is measured: its epoch is the time of its start.
fn counted_per_second(app: &App, state: &ServiceState, now: Timestamp) -> Option<f64> {
    let report = app.controller.report()?;
    let requests: u64 = report.services.get(&state.name)?.pools.values().map(|pool| pool.counters.requests).sum();
    let seconds = (now - Timestamp(report.epoch / 1_000)).as_seconds();
    (requests > 0 && seconds > 0.0).then(|| requests as f64 / seconds)
}

fn plan_of(spec: &ServiceSpec, statistic: Option<&Statistic>, per_second: Option<f64>) -> Option<Value> {
    let Strategy::Ab(ab) = &spec.strategy else { return None };
    let metric = spec.metrics.iter().find(|metric| metric.name == ab.metric)?;
    let planned = plan_size(ab, metric, statistic)?;
    let seconds = per_second.map(|rate| (planned.all_units as f64 / rate).ceil());
    Some(json!({
        "metric": ab.metric, "unit": ab.unit, "effect": ab.effect, "power": ab.power, "error": ab.error,
        "units": planned.units, "all_units": planned.all_units, "fixed_units": planned.fixed_units,
        "per_second": per_second, "seconds": seconds,
    }))
}

/// `POST /api/services/{service}/feedback`: JSON, one object a line, or a table.
pub async fn feedback(
    State(app): State<App>,
    name: Name,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<(StatusCode, Json<Receipt>), Refusal> {
    let state = present(&app, name)?;
    let body = body.map_err(|rejection| {
        let error = format!("the body cannot be read: {}", rejection.body_text());
        Refusal::new(rejection.status(), error, format!("send at most {} MiB at once", LIMIT >> 20))
    })?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/json");
    let items = read(&body, kind).map_err(|why| {
        let help = "nothing was kept; send JSON objects such as {\"id\": \"<x-request-id>\", \"label\": 1}, or CSV that begins with `id,label`";
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why, help)
    })?;
    Ok((StatusCode::ACCEPTED, Json(app.controller.book().feedback(&state.name, items).await?)))
}

fn read(body: &[u8], kind: &str) -> Result<Vec<Feedback>, String> {
    if !kind.trim_start().to_ascii_lowercase().starts_with("text/csv") {
        return feedback::parse(body, feedback::is_lines(kind)).map_err(|refused| refused.to_string());
    }
    let text = std::str::from_utf8(body).map_err(|error| format!("the table is not UTF-8: {error}"))?;
    csv::parse(text)
}

pub(super) fn present(app: &App, name: Name) -> Result<Arc<ServiceState>, Refusal> {
    let Path(name) = name?;
    let state = app.ledger.service(&name);
    if state.spec.is_some() { Ok(state) } else { Err(orders::Error::NoService(name).into()) }
}
