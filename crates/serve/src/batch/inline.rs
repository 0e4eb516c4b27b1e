//! Fast models: each I/O thread has an engine of its own and runs it between two turns of its event loop.
//!
//! The task that runs the engine is woken by the first request and stands behind all tasks that are ready in the same turn,
//! so that it finds the requests of all connections that were readable, and merges them. With one connection it runs at once.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::{Job, Runs, run_all};
use crate::engine::Engine;
use crate::refusal::Refusal;

/// The queue between the connections of one I/O thread and its engine.
#[derive(Debug)]
pub(crate) struct Lane {
    jobs: Mutex<Vec<Job>>,
    waiting: Notify,
    limit: usize,
    pub(crate) runs: Arc<Runs>,
}

impl Lane {
    pub(crate) fn new(limit: usize) -> Self {
        Self { jobs: Mutex::default(), waiting: Notify::new(), limit, runs: Arc::default() }
    }

    /// Queues a job.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refusal> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= self.limit {
            return Err(Refusal::busy(self.limit));
        }
        jobs.push(job);
        let first = jobs.len() == 1;
        drop(jobs);
        if first {
            self.waiting.notify_one();
        }
        Ok(())
    }

    pub(crate) fn depth(&self) -> usize {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Runs what is queued, for ever.
    pub(crate) async fn serve(self: Arc<Self>, mut engine: Engine, max_rows: usize) {
        loop {
            self.waiting.notified().await;
            let jobs = std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner));
            // A panic costs its callers their answers (500), not everyone the server.
            let run = AssertUnwindSafe(|| run_all(&mut engine, jobs, max_rows, &self.runs));
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("the engine's caller panicked; the requests of this run get 500");
            }
        }
    }
}
