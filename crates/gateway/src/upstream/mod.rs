//! Connections to instances: HTTP/1.1 of our own for everything but gRPC, HTTP/2 by hyper for gRPC.
//!
//! HTTP/1.1 is written here because a request then needs no task, channel or header map of its own: it runs within the caller's task.

pub mod h1;
pub mod h2;

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::body::BodyError;
use crate::limits;

/// Why an attempt got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody listens there, or cannot be connected to in time. Nothing was sent.
    #[error("cannot connect to the instance: {0}")]
    Connect(String),
    /// A kept connection turned out to be closed. The instance may be well.
    #[error("a kept connection was closed")]
    Stale,
    /// The connection broke before the answer's head was whole.
    #[error("the instance broke the connection before it answered: {0}")]
    Broken(String),
    /// What came is no HTTP answer.
    #[error("the instance's answer is no valid HTTP: {0}")]
    Protocol(&'static str),
    /// The caller's body failed: nobody else can be asked, and no instance is to blame.
    #[error(transparent)]
    Caller(#[from] BodyError),
}

/// Connects to an instance.
async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let connecting = tokio::time::timeout(limits::CONNECT_TIME, TcpStream::connect(address));
    let stream = match connecting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Failure::Connect(error.to_string())),
        Err(_) => return Err(Failure::Connect("no answer in time".to_owned())),
    };
    stream.set_nodelay(true).map_err(|error| Failure::Connect(error.to_string()))?;
    Ok(stream)
}

/// The error with its causes.
pub fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
