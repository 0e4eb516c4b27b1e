//! The log, read and followed.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use modelyard_core::event::Event;
use modelyard_core::{RolloutId, ServiceName};
use serde::Deserialize;
use tokio::time::Instant;

use super::App;
use super::error::Refusal;
use crate::store;

// Callers ask again after the last position they got.
const MOST: u32 = 10_000;
// Below the time-outs of common clients and proxies.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Which events, and how long to wait for the first.
#[derive(Deserialize)]
pub struct EventQuery {
    service: Option<ServiceName>,
    rollout: Option<RolloutId>,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
    limit: Option<u32>,
}

/// `GET /api/events`: at most `limit` events, oldest first; an empty list when nothing came within `wait_ms`.
pub async fn list(
    State(app): State<App>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Json<Vec<Event>>, Refusal> {
    let Query(EventQuery { service, rollout, after, wait_ms, limit }) = query?;
    // A position past any log would not fit the store's numbers; nothing comes after it either way.
    let after = after.min(i64::MAX as u64);
    let limit = Some(limit.unwrap_or(MOST).min(MOST));
    let query = store::Query { service, rollout, after, limit, ..store::Query::default() };
    let deadline = Instant::now() + Duration::from_millis(wait_ms).min(LONGEST_WAIT);
    let mut head = app.ledger.head();
    loop {
        head.mark_unchanged();
        let events = app.ledger.read(query.clone()).await?;
        if !events.is_empty() || tokio::time::timeout_at(deadline, head.changed()).await.is_err() {
            return Ok(Json(events));
        }
    }
}
