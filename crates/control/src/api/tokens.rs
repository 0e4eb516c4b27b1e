//! Tokens: list, make, revoke. For admins; a token's secret is told once, in the answer that made it.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{delete, get};
use axum::{Json, Router};
use modelyard_core::{EnvironmentName, Timestamp};
use modelyard_registry::access::{Grant, Role, Scope, Tokens, now};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::Refusal;
use super::guard::loopback_only;

/// The addresses of this module.
pub fn routes(tokens: Tokens) -> Router {
    Router::new()
        .route("/api/tokens", get(list).post(create))
        .route("/api/tokens/{id}", delete(revoke))
        .layer(from_fn(loopback_only))
        .with_state(tokens)
}

fn failed(error: modelyard_registry::Error) -> Refusal {
    tracing::error!(error = %crate::http_client::chain(&error), "the tokens");
    let help = "see the control plane's log; nothing was changed";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the tokens cannot be read or written", help)
}

/// `GET /api/tokens`
async fn list(State(tokens): State<Tokens>) -> Result<Json<Vec<Value>>, Refusal> {
    Ok(Json(tokens.list().map_err(failed)?.iter().map(|entry| entry.document(now())).collect()))
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
    State(tokens): State<Tokens>,
    body: Result<Json<New>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let Json(New { name, role, environment, repositories, expires }) = body?;
    let grant = Grant { name, role, scope: Scope { environment, repositories }, expires };
    if !grant.has_name() {
        let help = "give the name of whoever will hold it: 1 to 100 characters";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "the token has no name that can be shown", help));
    }
    let (entry, secret) = tokens.create(grant, now()).map_err(failed)?;
    let mut answer = entry.document(now());
    answer["token"] = json!(secret);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `DELETE /api/tokens/{id}`
async fn revoke(State(tokens): State<Tokens>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let revoked = tokens.revoke(&id, now()).map_err(failed)?;
    let none = || {
        Refusal::new(StatusCode::NOT_FOUND, "there is no such token that still counts", "see `modelyard token list`")
    };
    Ok(Json(revoked.ok_or_else(none)?.document(now())))
}
