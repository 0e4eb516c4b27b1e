//! The tap: what is told of answers and feedback, as lines in a bounded spool on disk that the control plane reads and deletes.
//!
//! Promises: no thread that answers requests waits for the disk: lines go through a bounded channel to a thread of their own, and what does not
//! fit (there, in memory, or in the spool) is shed and counted. Feedback is on the disk before it counts as accepted. Both work without a
//! control plane. Source of the form: `core::mirror::Told`.

mod spool;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;

use bytes::Bytes;
use modelyard_core::measure::TapReport;
use modelyard_core::mirror::{Tap, ToldFeedback};
use modelyard_core::{RevisionNumber, ServiceName};
use tokio::sync::oneshot;

use crate::affinity::Session;
use crate::compare::Said;
use crate::error::Error;

/// Name of the spool's folder within the state folder; each service has a folder in it.
pub const FOLDER: &str = "tap";

// 1 Ki messages and 32 MiB: a burst of some tens of milliseconds; a disk that is slower for longer sheds.
const WAITING: usize = 1024;
const WAITING_BYTES: usize = 32 << 20;
/// Longest response body that is told when no bodies are asked for.
const PREDICTION: u64 = 64 << 10;

/// What was told of one service.
#[derive(Debug, Default)]
pub struct Counts {
    told: AtomicU64,
    shed: AtomicU64,
}

impl Counts {
    /// As reports have it.
    pub fn report(&self) -> TapReport {
        TapReport { told: self.told.load(Ordering::Relaxed), shed: self.shed.load(Ordering::Relaxed) }
    }

    fn told(&self, lines: u64) {
        self.told.fetch_add(lines, Ordering::Relaxed);
    }

    fn shed(&self, lines: u64) {
        self.shed.fetch_add(lines, Ordering::Relaxed);
    }
}

/// One service's tap.
#[derive(Debug)]
pub struct Route {
    /// The service.
    pub service: ServiceName,
    /// What is told.
    pub rule: Tap,
    /// What was told.
    pub counts: Arc<Counts>,
}

impl Route {
    /// Longest response body that is told.
    pub const fn response_bytes(&self) -> u64 {
        if self.rule.body_bytes == 0 { PREDICTION } else { self.rule.body_bytes }
    }
}

/// An answer to be told.
#[derive(Debug)]
pub struct Answer {
    /// The request's id.
    pub id: String,
    /// When it was answered, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who answered.
    pub revision: RevisionNumber,
    /// Whether it is a shadow's.
    pub shadow: bool,
    /// The request's session.
    pub session: Option<Session>,
    /// Time to the answer in µs.
    pub micros: u64,
    /// Path as the instance saw it.
    pub path: String,
    /// The request's body, if it is known.
    pub request: Option<Bytes>,
    /// What was answered.
    pub said: Arc<Said>,
}

impl Answer {
    fn bytes(&self) -> usize {
        let body = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        512 + self.path.len() + body(&self.request) + body(&self.said.body)
    }
}

/// Why feedback was not kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotKept {
    /// The spool has as many bytes as it may have.
    #[error("the spool is full, because the control plane does not read it; nothing was kept, try again later")]
    Full,
    /// Too much is waiting.
    #[error("too much is waiting to be written; nothing was kept, try again later")]
    Busy,
    /// The disk refuses.
    #[error("it cannot be written to disk ({0}); nothing was kept for certain, try again later")]
    Disk(String),
    /// The gateway ends.
    #[error("the gateway is ending; nothing was kept, try again")]
    Ending,
}

enum Message {
    Answer(Arc<Route>, Box<Answer>),
    Feedback(Arc<Route>, Vec<ToldFeedback>, oneshot::Sender<Result<(), NotKept>>),
}

/// The way to the tap's thread.
#[derive(Clone)]
pub struct Handle {
    messages: SyncSender<Message>,
    waiting: Arc<AtomicUsize>,
}

impl Handle {
    /// Tells of an answer, unless there is no room.
    pub fn tell(&self, route: &Arc<Route>, answer: Answer) {
        let bytes = answer.bytes();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let message = Message::Answer(route.clone(), Box::new(answer));
        if before + bytes > WAITING_BYTES || self.messages.try_send(message).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            route.counts.shed(1);
        }
    }

    /// Keeps feedback; it is on the disk when this says so.
    ///
    /// # Errors
    /// [`NotKept`].
    pub async fn keep(&self, route: Arc<Route>, feedback: Vec<ToldFeedback>) -> Result<(), NotKept> {
        let (done, kept) = oneshot::channel();
        match self.messages.try_send(Message::Feedback(route, feedback, done)) {
            Ok(()) => kept.await.unwrap_or(Err(NotKept::Ending)),
            Err(TrySendError::Full(_)) => Err(NotKept::Busy),
            Err(TrySendError::Disconnected(_)) => Err(NotKept::Ending),
        }
    }
}

/// Starts the tap's thread; it ends when all handles are dropped, with everything written.
///
/// # Errors
/// [`Error::Thread`].
pub fn start(state_dir: &Path) -> Result<(Handle, JoinHandle<()>), Error> {
    let (messages, told) = mpsc::sync_channel(WAITING);
    let handle = Handle { messages, waiting: Arc::default() };
    let (waiting, folder): (_, PathBuf) = (handle.waiting.clone(), state_dir.join(FOLDER));
    let thread = std::thread::Builder::new().name("gateway-tap".to_owned());
    let thread = thread.spawn(move || writer::run(folder, &told, &waiting)).map_err(Error::Thread)?;
    Ok((handle, thread))
}
