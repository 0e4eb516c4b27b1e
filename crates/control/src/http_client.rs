//! One HTTP/1.1 exchange over a fresh connection: for probes and for the gateway's Unix socket.
//!
//! Promises: nothing is shared between exchanges, so a stuck peer holds up only its own; answers are read up to a limit.
//! Absent on purpose: pooling, redirects, TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Why an exchange brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to {peer}")]
    Connect {
        /// Whom.
        peer: String,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("{peer} broke the connection off")]
    Broken {
        /// Who.
        peer: String,
        /// The error beneath.
        #[source]
        source: hyper::Error,
    },
    /// The answer was too long, or broke off.
    #[error("{peer} sent an answer that cannot be read: {why}")]
    Body {
        /// Who.
        peer: String,
        /// What is wrong with it.
        why: String,
    },
    /// No answer in time.
    #[error("{peer} did not answer within {} ms", limit.as_millis())]
    Timeout {
        /// Who.
        peer: String,
        /// The limit.
        limit: Duration,
    },
    /// The request cannot be written.
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
}

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Peer<'a> {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(&'a Path),
}

impl std::fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Body.
    pub body: Bytes,
}

/// What is asked, and how long and how much is waited for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Method.
    pub method: http::Method,
    /// Path.
    pub path: &'a str,
    /// JSON body; empty for none.
    pub json: Bytes,
    /// Longest time for the whole exchange.
    pub limit: Duration,
    /// Largest answer in bytes.
    pub most: usize,
}

/// Sends one request and reads the answer.
///
/// # Errors
/// [`Error`] when no whole answer came in time. Any status is an answer.
pub async fn exchange(peer: Peer<'_>, ask: Ask<'_>) -> Result<Answer, Error> {
    let limit = ask.limit;
    let name = peer.to_string();
    match tokio::time::timeout(limit, connect_and_send(peer, ask)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout { peer: name, limit }),
    }
}

async fn connect_and_send(peer: Peer<'_>, ask: Ask<'_>) -> Result<Answer, Error> {
    let name = peer.to_string();
    let wrap = |source| Error::Connect { peer: name.clone(), source };
    match peer {
        Peer::Tcp(address) => send(TcpStream::connect(address).await.map_err(wrap)?, name, ask).await,
        Peer::Unix(path) => send(UnixStream::connect(path).await.map_err(wrap)?, name, ask).await,
    }
}

async fn send<S>(stream: S, peer: String, ask: Ask<'_>) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| Error::Broken { peer: peer.clone(), source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(ask.json))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        collect(response, ask.most).await.map_err(|why| Error::Body { peer: peer.clone(), why })
    };
    // The connection is driven here, not in a task of its own: a time-out drops both together.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    }
}

async fn collect(response: Response<hyper::body::Incoming>, most: usize) -> Result<Answer, String> {
    let status = response.status();
    let body = Limited::new(response.into_body(), most).collect().await.map_err(|error| error.to_string())?;
    Ok(Answer { status, body: body.to_bytes() })
}

/// An error with everything beneath it, for events and logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        below = cause.source();
    }
    text
}
