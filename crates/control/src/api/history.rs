//! What served when, and whether the log is still as it was written.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use modelyard_core::{Digest, ServiceName, Timestamp};
use serde::Deserialize;

use super::App;
use super::error::Refusal;
use crate::history::{KINDS, Served, served};
use crate::orders;
use crate::store::{self, Anchor, Walked};

/// Which moment: milliseconds since 1970, or as RFC 3339 has it; now, when it is left out.
#[derive(Deserialize)]
pub struct Moment {
    time: Option<String>,
}

/// `GET /api/services/{service}/at`
pub async fn at(
    State(app): State<App>,
    name: Result<Path<ServiceName>, PathRejection>,
    moment: Result<Query<Moment>, QueryRejection>,
) -> Result<Json<Served>, Refusal> {
    let (Path(name), Query(Moment { time })) = (name?, moment?);
    let at = time.map_or_else(|| Ok(app.ledger.now()), |text| parse(&text))?;
    if app.ledger.service(&name).revisions.is_empty() {
        return Err(orders::Error::NoService(name).into());
    }
    let query = store::Query { service: Some(name.clone()), by: Some(at), kinds: KINDS, ..store::Query::default() };
    let events = app.ledger.read(query).await?;
    Ok(Json(served(&name, at, &events).map_err(store::Error::from)?))
}

fn parse(text: &str) -> Result<Timestamp, Refusal> {
    let parsed = match text.parse::<u64>() {
        Ok(milliseconds) => Some(Timestamp(milliseconds)),
        Err(_) => {
            text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(Timestamp)
        }
    };
    // A moment past what the store can hold is after everything.
    parsed.map(|at| Timestamp(at.0.min(i64::MAX as u64))).ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        let error = format!("`{}` is no moment", shown.escape_debug());
        Refusal::new(StatusCode::BAD_REQUEST, error, "write it as 2026-11-23T17:00:00Z, or in milliseconds since 1970")
    })
}

/// A position and its hash, written down earlier.
#[derive(Deserialize)]
pub struct AnchorQuery {
    seq: Option<u64>,
    hash: Option<Digest>,
}

/// `GET /api/history/verify`: walks the whole chain.
pub async fn verify(
    State(app): State<App>,
    query: Result<Query<AnchorQuery>, QueryRejection>,
) -> Result<Json<Walked>, Refusal> {
    let Query(AnchorQuery { seq, hash }) = query?;
    let anchor = match (seq, hash) {
        (Some(seq), Some(link)) => Some(Anchor { seq, link }),
        (None, None) => None,
        _ => {
            let help = "send both: seq=12&hash=sha256:…";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "an anchor is a position and its hash", help));
        }
    };
    Ok(Json(app.ledger.store().walk(anchor).await?))
}
