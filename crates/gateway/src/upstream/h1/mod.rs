//! HTTP/1.1 towards an instance: one exchange at a time on a connection that is kept afterwards.
//!
//! Promises: request and answer are framed strictly (RFC 9112): an answer that could be read in two ways is refused; a connection is
//! kept only after both sides are complete. An answer that comes before the request's end is passed on while the rest is sent.
//! Absent on purpose: pipelining, upgrades, content codings.

mod chunks;
mod exchange;
mod head;
mod send;
mod streaming;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;

pub use exchange::Exchange;
pub use head::{AnswerHead, Framing};
pub use send::Outbound;
pub use streaming::Streaming;

use super::Failure;
use crate::limits;
use crate::wire::Wire;

/// Room for an answer that fits: most heads and small bodies come in one read.
const READ_ROOM: usize = 8 << 10;

/// A connection to an instance.
pub struct Connection {
    wire: Rc<Wire>,
    read: BytesMut,
    /// Whether it carried an exchange before.
    reused: bool,
    used_ms: u64,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// [`Failure::Connect`].
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = Box::pin(super::connect(address)).await?;
        Ok(Self { wire: Wire::new(stream), read: BytesMut::new(), reused: false, used_ms: 0 })
    }

    /// Whether the instance neither closed it nor sent anything unasked. No system call unless something came.
    fn is_quiet(&self) -> bool {
        self.wire.is_quiet()
    }
}

/// Connections without an exchange, last used last.
#[derive(Default)]
pub struct Idle(RefCell<Vec<Connection>>);

impl Idle {
    /// The connection that was used last, if it is still good.
    pub fn take(&self) -> Option<Connection> {
        let mut idle = self.0.borrow_mut();
        while let Some(connection) = idle.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for later.
    pub fn keep(&self, mut connection: Connection, now_ms: u64) {
        connection.reused = true;
        connection.used_ms = now_ms;
        self.0.borrow_mut().push(connection);
    }

    /// Closes what was not used for long, or was closed by the instance.
    pub fn sweep(&self, now_ms: u64) {
        let oldest = now_ms.saturating_sub(limits::UPSTREAM_IDLE_TIME.as_millis() as u64);
        self.0.borrow_mut().retain(|connection| connection.used_ms >= oldest && connection.is_quiet());
    }

    /// Closes all.
    pub fn close(&self) {
        self.0.take();
    }
}

/// Reads an answer's head, and its body in chunks.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    for method in [http::Method::GET, http::Method::HEAD] {
        let _ = head::take(&mut BytesMut::from(bytes), &method);
    }
    let (mut buffer, mut chunks) = (BytesMut::from(bytes), chunks::Chunks::default());
    while let Ok(chunks::Step::Data(_)) = chunks.step(&mut buffer) {}
}
