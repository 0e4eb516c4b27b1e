//! Tokens: list, make, revoke. For admins; a token's secret is told once, in the answer that made it.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{delete, get};
use axum::{Json, Router};
use modelyard_core::{EnvironmentName, Timestamp};
use modelyard_monitor::narrate;
use modelyard_registry::access::{Grant, Role, Scope, now};
use serde::Deserialize;
use serde_json::{Value, json};

use super::actor;
use super::error::Refusal;
use super::guard::loopback_only;
use crate::store;
use crate::token_log::{self, TOKEN_EVENTS, TokenLog};

/// The addresses of this module.
pub fn routes(tokens: TokenLog) -> Router {
    Router::new()
        .route("/api/tokens", get(list).post(create))
        .route("/api/tokens/history", get(history))
        .route("/api/tokens/{id}", delete(revoke))
        .layer(from_fn(loopback_only))
        .with_state(tokens)
}

fn failed(error: impl Into<token_log::Error>) -> Refusal {
    let error = error.into();
    tracing::error!(error = %crate::http_client::chain(&error), "the tokens");
    let help = match error {
        token_log::Error::Tokens(_) => "see the control plane's log; nothing was changed",
        token_log::Error::Log(_) => "see the control plane's log; `modelyard token list` shows the tokens there are",
    };
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the tokens cannot be read or written", help)
}

/// `GET /api/tokens`
async fn list(State(log): State<TokenLog>) -> Result<Json<Vec<Value>>, Refusal> {
    Ok(Json(log.tokens().list().map_err(failed)?.iter().map(|entry| entry.document(now())).collect()))
}

/// Most events of tokens in one answer: the last ones.
const MOST: usize = 10_000;

/// `GET /api/tokens/history`: what became of tokens, as the log has it, oldest first.
async fn history(State(log): State<TokenLog>) -> Result<Json<Vec<Value>>, Refusal> {
    let query = store::Query { kinds: TOKEN_EVENTS, ..store::Query::default() };
    let events = log.ledger().read(query).await.map_err(failed)?;
    let last = &events[events.len().saturating_sub(MOST)..];
    let told = |event| json!({ "event": event, "told": narrate(event) });
    Ok(Json(last.iter().map(told).collect()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    role: Role,
    environment: Option<EnvironmentName>,
    #[serde(default)]
    repositories: Vec<String>,
    expires: Option<Timestamp>,
}

/// `POST /api/tokens`
async fn create(
    State(log): State<TokenLog>,
    body: Result<Json<New>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let Json(New { name, role, environment, repositories, expires }) = body?;
    let grant = Grant { name, role, scope: Scope { environment, repositories }, expires };
    if !grant.has_name() {
        let help = "give the name of whoever will hold it: 1 to 100 characters";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "the token has no name that can be shown", help));
    }
    let (entry, secret) = log.create(grant, &actor(None)).await.map_err(failed)?;
    let mut answer = entry.document(now());
    answer["token"] = json!(secret);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `DELETE /api/tokens/{id}`
async fn revoke(State(log): State<TokenLog>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let revoked = log.revoke(&id, &actor(None)).await.map_err(failed)?;
    let none = || {
        Refusal::new(StatusCode::NOT_FOUND, "there is no such token that still counts", "see `modelyard token list`")
    };
    Ok(Json(revoked.ok_or_else(none)?.document(now())))
}
