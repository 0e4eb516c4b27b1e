//! Rollouts: where one stands, and its report.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use modelyard_core::RolloutId;
use modelyard_core::event::{Actor, Event, EventBody, Order};
use modelyard_core::failure::Failure;
use modelyard_monitor::Report;
use modelyard_rollout::Waiting;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::error::Refusal;
use super::status::preview;
use crate::store;
use crate::store::fold::{Open, Record, ServiceState, World};

type Id = Result<Path<RolloutId>, PathRejection>;

/// `GET /api/rollouts/{rollout}`
pub async fn one(State(app): State<App>, id: Id) -> Result<Json<Value>, Refusal> {
    let Path(id) = id?;
    let world = app.ledger.world();
    let (state, record) = find(&world, &id).ok_or_else(|| unknown(&id))?;
    Ok(Json(document(state, record, app.controller.waiting(state), app.gateway_address())))
}

pub fn find<'a>(world: &'a World, id: &RolloutId) -> Option<(&'a ServiceState, &'a Record)> {
    let of = |state: &'a Arc<ServiceState>| {
        let record = state.rollouts.iter().rev().find(|record| record.id == *id)?;
        Some((&**state, &**record))
    };
    world.services.values().find_map(of)
}

pub fn unknown(id: &RolloutId) -> Refusal {
    let help = "see `modelyard history SERVICE` for the rollouts there were";
    Refusal::new(StatusCode::NOT_FOUND, format!("there is no rollout `{id}`"), help)
}

fn document(state: &ServiceState, record: &Record, waiting: Option<Waiting>, gateway: Option<SocketAddr>) -> Value {
    let open = state.open.as_ref().filter(|open| open.id == record.id);
    let failure = open.and_then(|open| open.machine.failure()).or(record.failure.as_deref());
    let outcome = outcome(open, record);
    let mut document = json!({
        "rollout": record.id, "service": state.name, "strategy": record.strategy,
        "from": record.from, "to": record.to, "arms": record.arms, "beside": record.beside, "started": record.started,
        "outcome": outcome,
        "phase": open.map_or_else(|| outcome.to_owned(), |open| open.machine.describe()),
    });
    if let Some(failure) = failure {
        document["cause"] = json!(failure.cause);
        document["class"] = json!(failure.cause.class());
        document["evidence"] = json!(evidence(failure));
    }
    if let Some(ended) = record.ended {
        document["ended"] = json!(ended);
    }
    if let Some(waiting) = waiting.filter(|_| open.is_some()) {
        document["waiting"] = json!(waiting);
    }
    if let Some(preview) = open.and_then(|open| preview(open, gateway)) {
        document["preview"] = json!(preview);
    }
    document
}

/// `waiting` when only a person can move it; `running` again while a promoted candidate is being taken back within its window.
fn outcome(open: Option<&Open>, record: &Record) -> &'static str {
    let going_back = |open: &Open| open.machine.outcome().is_none() || open.orders.contains(&Order::Abort);
    match record.outcome {
        Some(outcome) if !open.is_some_and(going_back) => return outcome.name(),
        _ => {}
    }
    // A person who has asked for the way back is waited for no longer.
    match open.filter(|open| !open.orders.contains(&Order::Abort)).and_then(|open| open.machine.waiting()) {
        Some(Waiting::Person { .. } | Waiting::Paused) => "waiting",
        _ => "running",
    }
}

fn evidence(failure: &Failure) -> Vec<String> {
    std::iter::once(failure.detail.clone()).chain(failure.evidence.iter().cloned()).collect()
}

/// Form of a report.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Markdown.
    #[default]
    Markdown,
    /// A page that needs nothing else.
    Html,
}

/// Which form.
#[derive(Deserialize)]
pub struct ReportQuery {
    #[serde(default)]
    format: Form,
}

/// `GET /api/rollouts/{rollout}/report`
pub async fn report(
    State(app): State<App>,
    id: Id,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let (Path(id), Query(ReportQuery { format })) = (id?, query?);
    let world = app.ledger.world();
    let (state, _) = find(&world, &id).ok_or_else(|| unknown(&id))?;
    let events = events_around(&app, state, &id).await?;
    let report = Report::of(&id, &events).ok_or_else(|| unknown(&id))?;
    let (kind, text) = render(&report, format);
    // The page carries its own styles and charts; nothing it could load or run from elsewhere is allowed.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy)], text).into_response())
}

fn render(report: &Report, form: Form) -> (&'static str, String) {
    match form {
        Form::Markdown => ("text/markdown; charset=utf-8", report.markdown()),
        Form::Html => ("text/html; charset=utf-8", report.html()),
    }
}

/// The rollout's events, what else happened meanwhile to its service and to the gateway, and the revisions it is about.
async fn events_around(app: &App, state: &ServiceState, id: &RolloutId) -> Result<Vec<Event>, store::Error> {
    let own = app.ledger.read(store::Query { rollout: Some(id.clone()), ..store::Query::default() }).await?;
    let (Some(first), Some(last)) = (own.first(), own.last()) else { return Ok(own) };
    let span = store::Query { after: first.seq - 1, until: Some(last.seq), ..store::Query::default() };
    let mut events = app.ledger.read(span).await?;
    events.retain(|event| event.service.as_ref().is_none_or(|service| *service == state.name));
    let older = state.revisions.values().filter(|revision| revision.created < first.at);
    let made = older.map(|revision| Event {
        seq: 0,
        at: revision.created,
        service: Some(state.name.clone()),
        rollout: None,
        actor: Actor::Controller,
        body: EventBody::RevisionCreated { revision: Box::new((**revision).clone()) },
    });
    Ok(made.chain(events).collect())
}
