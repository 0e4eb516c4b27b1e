//! One thread's way to what happens beside requests: the mirror's thread and the tap's.
//!
//! Promises: what a request leaves behind is passed on after its answer was written, by a task of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::tee::{Left, told_path};
use super::{Copied, Job, Registry, Room, Stable};
use crate::body::Payload;
use crate::compare::Said;
use crate::tap;

/// What all threads share of what happens beside requests.
#[derive(Clone)]
pub struct Beside {
    /// What is counted.
    pub registry: Arc<Registry>,
    /// The way to the tap's thread.
    pub tap: tap::Handle,
    /// The way to the mirror's thread.
    pub jobs: mpsc::Sender<Job>,
    /// Memory for copies.
    pub room: Room,
}

/// The way from one thread.
pub struct Aside {
    beside: Beside,
    pending: RefCell<Vec<Left>>,
    wake: Notify,
}

impl Aside {
    /// A thread's way.
    pub fn new(beside: Beside) -> Self {
        Self { beside, pending: RefCell::default(), wake: Notify::new() }
    }

    /// What is counted.
    pub fn registry(&self) -> &Registry {
        &self.beside.registry
    }

    /// The tap.
    pub const fn tap(&self) -> &tap::Handle {
        &self.beside.tap
    }

    /// Takes what a request left behind.
    pub(super) fn leave(&self, left: Box<Left>) {
        self.pending.borrow_mut().push(*left);
        self.wake.notify_one();
    }

    /// Passes everything on that was left.
    pub fn pass_on(&self) {
        for left in self.pending.take() {
            self.pass(left);
        }
    }

    fn pass(&self, left: Left) {
        let body = whole(&left.payload);
        let (ended, said) = left.said.finish();
        let said = Arc::new(said);
        let tap = left.watch.tap.as_ref().filter(|_| left.is_told);
        if let Some(route) = tap {
            let told = tap::Answer {
                id: left.id.to_str().unwrap_or_default().to_owned(),
                at_ms: left.at_ms,
                revision: left.revision,
                shadow: false,
                session: left.session,
                micros: left.micros,
                path: told_path(&left.path, left.query.as_deref()),
                request: body.clone(),
                said: said.clone(),
            };
            self.beside.tap.tell(route, told);
        }
        if left.shadows.is_empty() {
            return;
        }
        let shadows: Vec<_> = left.shadows.iter().map(|(permit, _)| permit.shadow().clone()).collect();
        let stable = Stable { micros: left.micros, said };
        let sent = body.zip(left.parts).and_then(|(body, parts)| {
            let answer = stable.said.body.as_ref().map_or(0, bytes::Bytes::len);
            let held = self.beside.room.take(body.len() + answer + 4096)?; // 4 KiB: head, path and the rest
            let copied = Copied {
                parts,
                path: left.path,
                from: left.from,
                trace: left.trace,
                id: left.id,
                session: left.session,
                is_grpc: left.is_grpc,
                body,
                stable: ended.then_some(stable),
                tap: tap.cloned(),
            };
            let job = Job { copied: Arc::new(copied), shadows: left.shadows, held: Arc::new(held) };
            self.beside.jobs.try_send(job).ok()
        });
        if sent.is_none() {
            shadows.iter().for_each(|shadow| shadow.shed());
        }
    }
}

/// All of the request's body, if it is all here.
fn whole(payload: &Payload) -> Option<bytes::Bytes> {
    match payload {
        Payload::Empty => Some(bytes::Bytes::new()),
        Payload::Whole(bytes) => Some(bytes.clone()),
        Payload::Stream(replay, _) => {
            let whole = payload.has_ended() && payload.can_replay();
            whole.then(|| join(replay.borrow().kept()))
        }
    }
}

/// One piece is passed on as it is.
pub(super) fn join(pieces: &[bytes::Bytes]) -> bytes::Bytes {
    match pieces {
        [one] => one.clone(),
        several => several.concat().into(),
    }
}

/// Passes on whenever something is left.
pub async fn pump(aside: Rc<Aside>) {
    loop {
        aside.wake.notified().await;
        aside.pass_on();
    }
}

/// What is known of an answer that is under way.
pub(super) struct Hearing {
    said: Said,
    pieces: Vec<bytes::Bytes>,
    length: usize,
    limit: usize,
    ended: bool,
}

impl Hearing {
    /// Begins with the head; bodies longer than `limit` are not kept.
    pub const fn new(said: Said, limit: usize) -> Self {
        Self { said, pieces: Vec::new(), length: 0, limit, ended: false }
    }

    /// A piece of the body.
    pub fn data(&mut self, piece: &bytes::Bytes) {
        self.length = self.length.saturating_add(piece.len());
        if self.length > self.limit {
            self.pieces.clear();
        } else {
            self.pieces.push(piece.clone());
        }
    }

    /// Whether the body is longer than is kept.
    pub const fn is_too_long(&self) -> bool {
        self.length > self.limit
    }

    /// The trailers.
    pub fn trailers(&mut self, trailers: &http::HeaderMap) {
        if let Some(status) = super::tee::grpc_status(trailers) {
            self.said.grpc_status = Some(status);
        }
    }

    /// The instance broke it off.
    pub const fn broke_off(&mut self) {
        self.said.status = 0;
        self.ended = true;
    }

    /// The body is complete.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the body came to an end, and the whole.
    pub fn finish(mut self) -> (bool, Said) {
        if self.ended && self.said.status != 0 && !self.is_too_long() {
            self.said.body = Some(join(&self.pieces));
        }
        (self.ended, self.said)
    }
}
