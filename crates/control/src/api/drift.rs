//! Drift for people: every measure of every input and output of each revision, with its limit and verdict.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use modelyard_core::RevisionNumber;
use modelyard_rollout::judge;
use serde_json::{Value, json};

use super::App;
use super::error::Refusal;
use super::evidence::{Name, present};
use crate::store::fold::ServiceState;

/// `GET /api/services/{service}/drift`
pub async fn of_service(State(app): State<App>, name: Name) -> Result<Json<Value>, Refusal> {
    let state = present(&app, name)?;
    let policy = state.spec.as_ref().map(|spec| spec.quality.clone()).unwrap_or_default();
    let known = app.controller.book().evidence(&state.name).map(Arc::unwrap_or_clone).unwrap_or_default();
    let revision = |(&number, fields): (&RevisionNumber, &Vec<_>)| {
        let judged = judge::drift(&policy, fields);
        json!({ "revision": number, "role": role(&state, number), "measures": judged })
    };
    let revisions: Vec<Value> = known.drift.iter().map(revision).collect();
    Ok(Json(json!({
        "service": state.name, "watched": policy.looks_at_drift(), "reference": policy.reference, "revisions": revisions,
    })))
}

fn role(state: &ServiceState, number: RevisionNumber) -> &'static str {
    match &state.open {
        _ if state.stable == Some(number) => "stable",
        Some(open) if open.machine.candidate == number => "candidate",
        Some(open) if open.machine.arms().any(|arm| arm == number) => "arm",
        _ => "earlier",
    }
}
