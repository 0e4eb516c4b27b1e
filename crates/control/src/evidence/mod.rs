//! Evidence: what was answered by whom, what was learnt of it later, and what follows for each arm.
//!
//! A thread follows the gateway's spool (one folder of segments per service), joins answers and feedback by request id in a file of its own
//! beside the log, and keeps sufficient statistics per arm and metric, so that an observation costs nothing that grows with the traffic.
//!
//! Promises: each line counts once, in whatever order and however often it comes, through kills at any point: a segment is removed once its
//! transaction is on disk. Counts of one rollout never go backwards. Hostile and torn lines are skipped and counted.
//! Absent on purpose: what is concluded (`modelyard-rollout`), and shadows' comparisons (the gateway counts those).

mod aside;
pub mod csv;
pub(crate) mod fetch;
pub mod providers;
mod reader;
mod response;
mod schema;
mod score;
mod sums;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use modelyard_core::evidence::Evidence;
use modelyard_core::feedback::Feedback;
use modelyard_core::metric::Metric;
use modelyard_core::ports::Clock;
use modelyard_core::strategy::Unit;
use modelyard_core::{RevisionNumber, ServiceName, Timestamp};
use modelyard_monitor::{capture, drift};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::ledger::lock;
use aside::Aside;
use reader::{Command, Reader};
pub use schema::Retention;

/// Why evidence cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file was written by a later build.
    #[error("the evidence has schema {found}, which this build does not know; use the newer `modelyard` that wrote it")]
    Newer {
        /// Schema of the file.
        found: i64,
    },
    /// The file is not ours.
    #[error("the file holds another program's database; move it away")]
    Foreign,
    /// SQLite failed.
    #[error("the evidence cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    /// The thread cannot be started.
    #[error("the thread that reads evidence cannot be started")]
    Thread(#[from] std::io::Error),
    /// The thread has ended.
    #[error("evidence is not read any more; the control plane's log says why")]
    Closed,
}

/// What is measured of a service now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Following {
    /// The rollout that it is measured for, or the time after one.
    pub scope: String,
    /// Answers from then on count; none yet when there is none.
    pub since: Option<Timestamp>,
    /// Answers from then on count no more.
    pub until: Option<Timestamp>,
    /// What is measured.
    pub metrics: Vec<Metric>,
    /// What is independent of each other.
    pub unit: Unit,
    /// What inputs and outputs are held against, if drift is looked at.
    pub drift: Option<drift::Rule>,
    /// What is kept as files, if anything is.
    pub capture: Option<capture::Rule>,
}

impl Following {
    /// Whether an answer of that moment counts.
    pub fn counts(&self, at: Timestamp) -> bool {
        self.since.is_some_and(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

/// What became of posted feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Items that were kept.
    pub accepted: u64,
    /// Items whose answer is known.
    pub joined: u64,
    /// Items that wait for their answer.
    pub orphaned: u64,
}

/// What was counted since the start, for Prometheus.
#[derive(Debug, Default)]
pub struct Counts {
    /// Feedback that found its answer.
    pub joined: AtomicU64,
    /// Feedback that came before its answer was known.
    pub orphaned: AtomicU64,
    /// Lines of the spool that were taken in.
    pub read: AtomicU64,
    /// Lines that were known already.
    pub repeated: AtomicU64,
    /// Lines that are none.
    pub skipped: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// Where evidence lies and how it is read.
#[derive(Clone, Debug)]
pub struct Places {
    /// The file.
    pub file: PathBuf,
    /// The spool's folder.
    pub spool: PathBuf,
    /// How much is kept.
    pub retention: Retention,
    /// How long a segment lies before it is read: what is measured now is known a little after it is true.
    pub settle: Duration,
    /// The folder of captured requests.
    pub capture: PathBuf,
    /// How long captured requests are gathered for one file.
    pub capture_span: Duration,
}

/// The latest evidence of each followed service.
type Known = Arc<Mutex<HashMap<ServiceName, Arc<Evidence>>>>;

/// The evidence of one home.
#[derive(Debug)]
pub struct Book {
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    known: Known,
    counts: Arc<Counts>,
    captured: Arc<capture::Counts>,
    followed: Mutex<BTreeMap<ServiceName, Arc<Following>>>,
}

impl Book {
    /// Opens or makes the file, and starts to read. Nothing of a service is read before it is followed.
    ///
    /// # Errors
    /// [`Error`] when the file is not usable.
    pub fn open(places: Places, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let connection = schema::open(&places.file)?;
        let (commands, queue) = mpsc::channel();
        let (known, counts) = (Known::default(), Arc::<Counts>::default());
        let aside = Aside::open(places.capture.clone(), places.capture_span)?;
        let captured = Arc::clone(aside.captures.counts());
        let reader = Reader::new(connection, places, clock, aside, Arc::clone(&known), Arc::clone(&counts));
        let thread = std::thread::Builder::new().name("evidence".into()).spawn(move || reader.run(&queue))?;
        let followed = Mutex::default();
        Ok(Self { commands: Some(commands), thread: Some(thread), known, counts, captured, followed })
    }

    /// Says what is measured of a service from now on; nothing, once it was removed. Asking for what is so already costs nothing.
    pub fn follow(&self, service: &ServiceName, following: Option<Following>) {
        let mut followed = lock(&self.followed);
        if followed.get(service).map(|known| &**known) == following.as_ref() {
            return;
        }
        let following = following.map(Arc::new);
        match &following {
            Some(following) => drop(followed.insert(service.clone(), Arc::clone(following))),
            None => drop(followed.remove(service)),
        }
        self.send(Command::Follow { service: service.clone(), following });
    }

    /// What is measured of a service now.
    pub fn following(&self, service: &ServiceName) -> Option<Arc<Following>> {
        lock(&self.followed).get(service).cloned()
    }

    /// What is known of the service's arms in its present scope.
    pub fn evidence(&self, service: &ServiceName) -> Option<Arc<Evidence>> {
        lock(&self.known).get(service).cloned()
    }

    /// What is known of the arms of any rollout there ever was.
    ///
    /// # Errors
    /// [`Error::Closed`], or SQLite's.
    pub async fn of_scope(&self, service: &ServiceName, scope: &str) -> Result<Option<Evidence>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Past { service: service.clone(), scope: scope.to_owned(), reply });
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Takes in feedback; on disk when it returns.
    ///
    /// # Errors
    /// [`Error::Closed`], or SQLite's.
    pub async fn feedback(&self, service: &ServiceName, items: Vec<Feedback>) -> Result<Receipt, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Feedback { service: service.clone(), items, reply });
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Takes in what somebody else computed.
    pub fn value(&self, service: &ServiceName, scope: &str, revision: RevisionNumber, metric: &str, value: f64) {
        let (service, scope, metric) = (service.clone(), scope.to_owned(), metric.to_owned());
        self.send(Command::Value { service, scope, revision, metric, value });
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What was captured.
    pub fn captured(&self) -> &capture::Counts {
        &self.captured
    }

    fn send(&self, command: Command) {
        // Where the thread is gone, whoever waits for an answer is told so.
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic has said so already.
            let _ = thread.join();
        }
    }
}

/// The folder of a service's segments.
fn folder(spool: &Path, service: &ServiceName) -> PathBuf {
    spool.join(service.as_str())
}
