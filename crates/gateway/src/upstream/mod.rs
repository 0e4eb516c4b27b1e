//! Connections to instances: HTTP/1.1 of our own for everything but gRPC, HTTP/2 by hyper for gRPC.
//!
//! HTTP/1.1 is written here because a request then needs no task, channel or header map of its own: it runs within the caller's task.

pub mod h1;
pub mod h2;

use std::io;
use std::net::SocketAddr;

use socket2::{SockRef, TcpKeepalive};
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
    prepare(&stream, address).map_err(|error| Failure::Connect(error.to_string()))?;
    Ok(stream)
}

/// Small requests leave at once; and a machine that was cut off is noticed long before a request's time is over, so that another instance can be asked.
fn prepare(stream: &TcpStream, address: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // On this machine the kernel itself acknowledges, and tells of the end. A full window counts as silence, too: large bodies for slow instances
    // would break off for nothing.
    if address.ip().is_loopback() {
        return Ok(());
    }
    let socket = SockRef::from(stream);
    let alive = TcpKeepalive::new().with_time(limits::SILENCE).with_interval(limits::SILENCE / 5).with_retries(3);
    socket.set_tcp_keepalive(&alive)?;
    socket.set_tcp_user_timeout(Some(limits::SILENCE))
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
