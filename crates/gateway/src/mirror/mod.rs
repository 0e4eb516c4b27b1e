//! Mirrors: copies of requests for shadows, and what becomes of them.
//!
//! A copy is handed over when the caller has its answer: one message with the request, what was answered, and the shadows that get it, through a
//! bounded channel to a thread of its own (low priority, own connections). The shadow's answer is compared on another one.
//! Promises: a service without mirror and tap pays nothing; of others the caller waits for nothing. What is over a shadow's limit, over the
//! memory for all copies, for a shadow that does not answer, or too long to keep is shed before anything is sent, and counted. A copy is sent once, whatever happens. All copies of
//! a request share one draw, so that shadows with equal shares get the same requests.
//! Absent on purpose: copies of requests that no instance answered, of those pinned to a revision (a tester's), and of those that ask about the
//! model rather than of it (metadata, health).

mod aside;
mod ask;
mod registry;
mod rest;
mod shadow;
mod tee;
mod thread;

pub use aside::{Aside, Beside, pump};
pub use registry::Registry;
pub use tee::{Asked, Tee, Watch, now_ms};
pub use thread::start;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, request};

use crate::affinity::Session;
use crate::compare::Said;
use crate::tap;
use crate::trace::TraceParent;
use shadow::{Permit, Plan};

// 64 MiB for all copies of all services: shadows must not take the memory of what they shadow.
const ROOM: usize = 64 << 20;
/// Jobs between the threads. Shadows' limits are usually reached first.
const JOBS: usize = 1024;

/// A request that was answered, for its shadows.
pub struct Job {
    copied: Arc<Copied>,
    shadows: Vec<(Permit, Arc<Plan>)>,
    /// Gives the memory back when the last copy is done with.
    held: Arc<Held>,
}

/// What all copies of a request share.
struct Copied {
    parts: request::Parts,
    path: String,
    from: String,
    trace: TraceParent,
    id: HeaderValue,
    session: Option<Session>,
    is_grpc: bool,
    body: Bytes,
    /// What the caller got; none when they left before its end.
    stable: Option<Stable>,
    tap: Option<Arc<tap::Route>>,
}

/// What the caller got.
struct Stable {
    micros: u64,
    said: Arc<Said>,
}

/// Memory that copies take.
#[derive(Clone, Default)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// Takes room for so many bytes, if there is that much.
    fn take(&self, bytes: usize) -> Option<Held> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { room: self.clone(), bytes }; // dropped, and so given back, when there is no room
        (before + bytes <= ROOM).then_some(held)
    }
}

/// Room that is taken.
struct Held {
    room: Room,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Microseconds since.
fn micros_since(instant: Instant) -> u64 {
    u64::try_from(instant.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let room = Room::default();
        let held = room.take(ROOM).expect("all of it is free");
        assert!(room.take(1).is_none());
        drop(held);
        assert!(room.take(1).is_some());
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }
}
