//! One probe of one instance: is it ready, and are its answers right?
//!
//! Source of the native server's paths: Open Inference Protocol v2, `v2/health/ready` and `v2/health/live`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use modelyard_core::sample::Sample;
use serde::Deserialize;

use crate::http_client::{Answer, Ask, Error, Peer, chain, exchange};

/// Longest time for one probe.
pub const LIMIT: Duration = Duration::from_secs(2);
// A sample's answer is small; a program that sends more than this does not answer its sample.
const MOST: usize = 16 << 20;

/// How an instance is asked.
#[derive(Clone, Debug)]
pub enum Check {
    /// The native server checks its samples itself, on its probe port.
    Native {
        /// Where it answers probes.
        probe: SocketAddr,
    },
    /// Any program: its health path, then its samples.
    Command {
        /// Where it takes requests.
        address: SocketAddr,
        /// Path that answers 200 when it is ready.
        health: String,
        /// What it should know to answer.
        samples: Arc<[Sample]>,
    },
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Ready, and its answers are right.
    Live,
    /// It answers, and says that it is not ready.
    NotReady(String),
    /// It does not answer.
    Silent(String),
    /// It answers its samples wrongly.
    Wrong(String),
}

/// Asks once. `deep` asks a program its samples too; the native server always checks its own.
#[tracing::instrument(name = "prober.ask", level = "debug", skip_all)]
pub async fn ask(check: &Check, deep: bool) -> Reply {
    let verdict = match check {
        Check::Native { probe } => native(*probe).await,
        Check::Command { address, health, samples } => {
            command(*address, health, if deep { samples } else { &[] }).await
        }
    };
    verdict.unwrap_or_else(|reply| reply)
}

async fn native(probe: SocketAddr) -> Result<Reply, Reply> {
    #[derive(Deserialize)]
    struct Said {
        cause: Option<String>,
        error: Option<String>,
    }
    ready(probe, "/v2/health/ready").await?;
    let live = get(probe, "/v2/health/live").await?;
    if live.status == StatusCode::OK {
        return Ok(Reply::Live);
    }
    let said = serde_json::from_slice::<Said>(&live.body).unwrap_or(Said { cause: None, error: None });
    let error = said.error.unwrap_or_else(|| describe("/v2/health/live", &live));
    Err(if said.cause.as_deref() == Some("wrong-answers") { Reply::Wrong(error) } else { Reply::NotReady(error) })
}

async fn command(address: SocketAddr, health: &str, samples: &[Sample]) -> Result<Reply, Reply> {
    ready(address, health).await?;
    for sample in samples {
        answer_sample(address, sample).await?;
    }
    Ok(Reply::Live)
}

async fn answer_sample(address: SocketAddr, sample: &Sample) -> Result<(), Reply> {
    let wrong = |why: String| Reply::Wrong(format!("sample `{}`: {why}", sample.name));
    let json = serde_json::to_vec(&sample.request).map_err(|error| wrong(error.to_string()))?;
    let path = sample.path.as_deref().unwrap_or("/predict");
    let answer = send(address, Method::POST, path, json.into()).await?;
    if !answer.status.is_success() {
        return Err(wrong(describe(path, &answer)));
    }
    let body =
        serde_json::from_slice(&answer.body).map_err(|error| wrong(format!("the answer is no JSON: {error}")))?;
    sample.check(&body).map_err(|mismatch| wrong(format!("at `{}`: {}", mismatch.at, mismatch.why)))
}

async fn ready(address: SocketAddr, path: &str) -> Result<(), Reply> {
    let answer = get(address, path).await?;
    if answer.status == StatusCode::OK { Ok(()) } else { Err(Reply::NotReady(describe(path, &answer))) }
}

async fn get(address: SocketAddr, path: &str) -> Result<Answer, Reply> {
    send(address, Method::GET, path, Bytes::new()).await
}

async fn send(address: SocketAddr, method: Method, path: &str, json: Bytes) -> Result<Answer, Reply> {
    let ask = Ask { method, path, json, limit: LIMIT, most: MOST };
    exchange(Peer::Tcp(address), ask).await.map_err(|error| match error {
        Error::Body { .. } | Error::Request(_) => Reply::Wrong(chain(&error)),
        Error::Connect { .. } | Error::Broken { .. } | Error::Timeout { .. } => Reply::Silent(chain(&error)),
    })
}

/// Status and the start of the body: bodies of models may be long, and hold data.
fn describe(path: &str, answer: &Answer) -> String {
    let start: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
    let gap = if start.is_empty() { "" } else { ": " };
    format!("{path} answered {}{gap}{}", answer.status.as_u16(), start.trim())
}
