//! Orders that may be sent twice: the second gets the first one's answer.
//!
//! Source: IETF draft `Idempotency-Key` (revision 06). 422 for a key with another request, 409 while the first is still being carried out.
//! Answers are kept for a day. Failures on our side (5xx) are not kept: trying again is right then.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use modelyard_core::{Millis, Timestamp};

use super::error::Refusal;
use super::{App, BODY_LIMIT};
use crate::ledger::lock;
use crate::store::StoredAnswer;

const KEEP: Millis = Millis::seconds(86_400);

/// Keys whose order is being carried out.
pub type BusyKeys = Arc<Mutex<HashSet<String>>>;

/// Carries out a POST with a key once.
pub async fn once(State(app): State<App>, request: Request, next: Next) -> Response {
    match key(request.method(), request.headers()) {
        Ok(None) => next.run(request).await,
        Ok(Some(key)) => answer(&app, key, request, next).await.unwrap_or_else(IntoResponse::into_response),
        Err(refusal) => refusal.into_response(),
    }
}

fn key(method: &Method, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key").filter(|_| method == Method::POST) else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim().trim_matches('"');
    if text.is_empty() || text.len() > 255 {
        let help = "send 1 to 255 printable characters, best a fresh UUID";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the Idempotency-Key cannot be read", help));
    }
    Ok(Some(text.to_owned()))
}

async fn answer(app: &App, key: String, request: Request, next: Next) -> Result<Response, Refusal> {
    let _turn = Turn::take(&app.busy_keys, &key)?;
    let (parts, body) = request.into_parts();
    let too_large = |_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large", "send at most 1 MiB");
    let body = to_bytes(body, BODY_LIMIT).await.map_err(too_large)?;
    let mut hasher = DefaultHasher::new();
    (parts.uri.path(), &body[..]).hash(&mut hasher);
    let fingerprint = format!("{:016x}", hasher.finish());
    if let Some(kept) = app.ledger.store().answer(key.clone()).await? {
        return again(kept, &fingerprint);
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if response.status().is_server_error() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let unreadable = |_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer broke off", "ask again");
    let body = to_bytes(body, BODY_LIMIT).await.map_err(unreadable)?;
    let now = app.ledger.now();
    let json = String::from_utf8_lossy(&body).into_owned();
    let kept = StoredAnswer { key, request: fingerprint, status: parts.status.as_u16(), json, at: now };
    app.ledger.store().keep_answer(kept, Timestamp((now - Timestamp(KEEP.0)).0)).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn again(kept: StoredAnswer, fingerprint: &str) -> Result<Response, Refusal> {
    if kept.request != fingerprint {
        let error = "this Idempotency-Key was used for another request";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, "use a fresh key for each order"));
    }
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    Ok((status, [(header::CONTENT_TYPE, "application/json")], kept.json).into_response())
}

/// The right to carry out the order of a key.
struct Turn {
    keys: BusyKeys,
    key: String,
}

impl Turn {
    fn take(keys: &BusyKeys, key: &str) -> Result<Self, Refusal> {
        if lock(keys).insert(key.to_owned()) {
            return Ok(Self { keys: Arc::clone(keys), key: key.to_owned() });
        }
        let error = "an order with this Idempotency-Key is being carried out";
        Err(Refusal::new(StatusCode::CONFLICT, error, "wait for its answer, or ask again in a moment"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.keys).remove(&self.key);
    }
}
