//! Slow models: one thread runs the engine, fed by a bounded queue, and merges whatever waits.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::{Job, Runs, run_all};
use crate::Error;
use crate::engine::Engine;
use crate::refusal::Refusal;

/// A thread with an engine.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Mutex<VecDeque<Job>>,
    waiting: Condvar,
    limit: usize,
    pub(crate) runs: Arc<Runs>,
}

impl Worker {
    /// Starts the thread. It lives as long as the process.
    pub(crate) fn start(mut engine: Engine, limit: usize, max_rows: usize) -> Result<Arc<Self>, Error> {
        let worker = Arc::new(Self { queue: Mutex::default(), waiting: Condvar::new(), limit, runs: Arc::default() });
        let own = worker.clone();
        let thread = std::thread::Builder::new().name("engine".to_owned());
        let serve = move || {
            loop {
                let jobs = own.take(max_rows);
                let run = AssertUnwindSafe(|| run_all(&mut engine, jobs, max_rows, &own.runs));
                if std::panic::catch_unwind(run).is_err() {
                    tracing::error!("the engine's caller panicked; the requests of this run get 500");
                }
            }
        };
        thread.spawn(serve).map_err(|source| Error::SetUp { what: "the engine's thread", source })?;
        Ok(worker)
    }

    /// Queues a job.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refusal> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= self.limit {
            return Err(Refusal::busy(self.limit));
        }
        queue.push_back(job);
        drop(queue);
        self.waiting.notify_one();
        Ok(())
    }

    pub(crate) fn depth(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits for jobs, and takes as many as may run together at once: what stays behind waits in order.
    fn take(&self, max_rows: usize) -> Vec<Job> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut queue =
            self.waiting.wait_while(queue, |queue| queue.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let mut rows = 0;
        let fitting = queue.iter().take_while(|job| {
            rows += job.rows;
            rows <= max_rows
        });
        let count = fitting.count().max(1);
        queue.drain(..count).collect()
    }
}
