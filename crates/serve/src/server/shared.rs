//! What all threads of a server see.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use modelyard_core::package::Package;
use tokio::sync::{oneshot, watch};

use crate::batch::{Job, Lane, Reply, Runs, Worker};
use crate::contract::Contracts;
use crate::engine::Blueprint;
use crate::health::Health;
use crate::model::Model;
use crate::options::ServeOptions;
use crate::refusal::{Kind, Refusal};
use crate::stats::{Counts, Totals};
use crate::tensor::Tensor;

/// Runs longer than this leave the event loop: the connections of that thread would wait for it.
const LONG_RUN_NS: u64 = 2_000_000;

/// What all threads of a server see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) package: Package,
    pub(crate) max_body: usize,
    pub(crate) contracts: Contracts,
    pub(crate) health: Arc<Health>,
    pub(crate) loaded: OnceLock<Loaded>,
    /// One per I/O thread.
    pub(crate) counts: Vec<Counts>,
    /// Open connections, one per I/O thread.
    pub(crate) open: Vec<AtomicUsize>,
    /// Tells connections to end, once they are idle.
    pub(crate) closing: watch::Sender<bool>,
    pub(crate) started_seconds: f64,
}

impl Shared {
    pub(crate) fn new(options: &ServeOptions) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        Self {
            name: options.name.clone(),
            package: options.package.clone(),
            max_body: options.max_body_bytes,
            contracts: options.contracts.clone(),
            health: Arc::new(Health::starting()),
            loaded: OnceLock::new(),
            counts: (0..threads).map(|_| Counts::default()).collect(),
            open: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            closing: watch::Sender::new(false),
            started_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.counts.len()
    }

    /// The loaded model.
    pub(crate) fn loaded(&self) -> Result<&Loaded, Refusal> {
        match self.health.is_ready() || self.health.is_draining() {
            true => self.loaded.get().ok_or_else(Refusal::starting),
            false if self.health.is_failing() => Err(Refusal::failing()),
            false => Err(Refusal::starting()),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.open.iter().map(|open| open.load(Relaxed)).sum()
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals::of(self.counts.iter())
    }
}

/// The model and its engines, once loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) model: Model,
    /// One per I/O thread for a fast model; none for a slow one.
    pub(crate) lanes: Vec<Arc<Lane>>,
    /// For the worker that may be made later.
    pub(crate) health: Arc<Health>,
    /// The engine of a slow model; for a fast one, made when a request comes that is too large for the event loop.
    pub(crate) worker: OnceLock<Result<Arc<Worker>, String>>,
    pub(crate) blueprint: Blueprint,
    /// Time of a run in the warm-up, and the size of its inputs.
    pub(crate) cost: Duration,
    pub(crate) cost_size: usize,
    pub(crate) max_rows: usize,
    pub(crate) queue: usize,
    pub(crate) load_time: Duration,
    pub(crate) openapi: Bytes,
}

impl Loaded {
    /// Asks the engine; `thread` is the I/O thread that asks.
    pub(crate) fn ask(&self, thread: usize, inputs: Vec<Option<Tensor>>) -> Result<oneshot::Receiver<Reply>, Refusal> {
        let (job, reply) = Job::new(inputs);
        self.submit(thread, job)?;
        Ok(reply)
    }

    /// Queues a job where it belongs.
    pub(crate) fn submit(&self, thread: usize, job: Job) -> Result<(), Refusal> {
        if !self.lanes.is_empty() && self.is_short(&job) {
            return self.lanes[thread % self.lanes.len()].submit(job);
        }
        let worker = self.worker.get_or_init(|| {
            let engine = self.blueprint.load(1).map_err(|error| error.to_string())?;
            Worker::start(vec![engine], self.queue, self.max_rows, self.health.clone())
                .map_err(|error| error.to_string())
        });
        match worker {
            Ok(worker) => worker.submit(job),
            Err(reason) => Err(Refusal::new(Kind::Engine, reason.as_str())),
        }
    }

    /// Whether the event loop can wait for a job, judged by how much more data it has than the warm-up had.
    fn is_short(&self, job: &Job) -> bool {
        let size = crate::batch::size(&job.inputs);
        let estimate = crate::batch::nanos(self.cost).saturating_mul(size as u64) / (self.cost_size as u64).max(1);
        size <= self.cost_size || estimate <= LONG_RUN_NS
    }

    fn started_worker(&self) -> Option<&Arc<Worker>> {
        self.worker.get().and_then(|worker| worker.as_ref().ok())
    }

    /// What each engine did.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Runs> {
        let of_worker = self.started_worker().into_iter().flat_map(|worker| worker.runs.iter().map(|runs| &**runs));
        self.lanes.iter().map(|lane| &*lane.runs).chain(of_worker)
    }

    /// Requests that wait for an engine.
    pub(crate) fn depth(&self) -> usize {
        self.lanes.iter().map(|lane| lane.depth()).sum::<usize>()
            + self.started_worker().map_or(0, |worker| worker.depth())
    }

    /// A number that grows whenever any engine finishes a run.
    pub(crate) fn progress(&self) -> u64 {
        self.runs().map(|runs| runs.ended.load(Relaxed)).sum()
    }
}
