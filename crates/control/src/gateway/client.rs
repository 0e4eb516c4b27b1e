//! The gateway's admin interface: HTTP/1.1 over its Unix socket.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use modelyard_core::measure::GatewayReport;
use modelyard_core::route::RouteTable;
use serde::Deserialize;

use super::Error;
use crate::http_client::{Answer, Ask, Peer, exchange};

// Ten ticks of a busy rollout: a gateway that takes longer is as good as gone for deciding, and the next tick asks again.
const LIMIT: Duration = Duration::from_secs(2);
// A thousand services of a few pools each report well below this.
const MOST: usize = 64 << 20;

/// Reads the report.
///
/// # Errors
/// [`Error::Unreachable`], [`Error::Refused`], [`Error::Unreadable`].
pub async fn report(socket: &Path) -> Result<GatewayReport, Error> {
    let answer = ask(socket, Method::GET, "/report", Bytes::new()).await?;
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body).map_err(Error::Unreadable),
        _ => Err(refused(&answer)),
    }
}

/// Gives a whole table.
///
/// # Errors
/// [`Error::Older`] when the gateway has a newer one; else as [`report`].
#[tracing::instrument(name = "gateway.push", skip_all, fields(generation = table.generation), err(level = "info"))]
pub async fn push(socket: &Path, table: &RouteTable) -> Result<(), Error> {
    let json = serde_json::to_vec(table).map_err(Error::Unreadable)?;
    let answer = ask(socket, Method::PUT, "/routes", json.into()).await?;
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::CONFLICT => Err(Error::Older),
        _ => Err(refused(&answer)),
    }
}

/// Whether it answers at all.
pub async fn answers(socket: &Path) -> bool {
    ask(socket, Method::GET, "/health", Bytes::new()).await.is_ok_and(|answer| answer.status == StatusCode::OK)
}

/// Asks it to stop accepting, finish, and exit.
///
/// # Errors
/// As [`report`].
#[tracing::instrument(name = "gateway.drain", skip_all, err)]
pub async fn drain(socket: &Path) -> Result<(), Error> {
    let answer = ask(socket, Method::POST, "/drain", Bytes::new()).await?;
    if answer.status.is_success() { Ok(()) } else { Err(refused(&answer)) }
}

async fn ask(socket: &Path, method: Method, path: &str, json: Bytes) -> Result<Answer, Error> {
    Ok(exchange(Peer::Unix(socket), Ask { method, path, json, limit: LIMIT, most: MOST }).await?)
}

fn refused(answer: &Answer) -> Error {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    let why = match serde_json::from_slice::<Said>(&answer.body) {
        Ok(said) => said.error,
        Err(_) => String::from_utf8_lossy(&answer.body).chars().take(300).collect(),
    };
    Error::Refused { status: answer.status.as_u16(), why }
}
