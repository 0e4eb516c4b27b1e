//! The gateway that was replaced, while it still finishes: it is told tables, and asked what it has under way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use modelyard_core::measure::GatewayReport;
use modelyard_core::route::RouteTable;
use tokio::net::UnixStream;

// Half of what the control plane waits: it gets its answer even when the predecessor hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// A gateway that was replaced.
#[derive(Clone)]
pub struct Predecessor(PathBuf);

impl Predecessor {
    /// The gateway that listens there.
    pub const fn new(admin: PathBuf) -> Self {
        Self(admin)
    }

    /// Tells it a table. Returns whether it is still there.
    pub async fn tell(&self, table: &RouteTable) -> bool {
        let Ok(json) = serde_json::to_vec(table) else { return true };
        exchange(&self.0, Method::PUT, "/routes", json.into()).await.is_some()
    }

    /// What it counted, if it is still there.
    pub async fn ask(&self) -> Option<GatewayReport> {
        let (_, body) = exchange(&self.0, Method::GET, "/report", Bytes::new()).await?;
        serde_json::from_slice(&body).ok()
    }
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Bytes) -> Option<(StatusCode, Bytes)> {
    let asking = async {
        let stream = UnixStream::connect(socket).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let running = tokio::task::spawn_local(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, "gateway").body(Full::new(body));
        let response = sender.send_request(request.ok()?).await.ok()?;
        let status = response.status();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        running.abort();
        Some((status, body))
    };
    tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
}
