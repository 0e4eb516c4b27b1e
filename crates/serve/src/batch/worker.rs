//! Slow models and Python functions: threads with an engine each, fed by one bounded queue, merge whatever waits.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Job, Runs, run_all};
use crate::Error;
use crate::engine::Engine;
use crate::health::Health;
use crate::python::CRASH_LOOP;
use crate::refusal::Refusal;

/// How often an idle thread looks whether its Python worker lives.
const LOOK: Duration = Duration::from_millis(500);

/// Threads with an engine each.
#[derive(Debug)]
pub(crate) struct Worker {
    queue: Mutex<VecDeque<Job>>,
    waiting: Condvar,
    limit: usize,
    /// One for each thread.
    pub(crate) runs: Vec<Arc<Runs>>,
    /// Threads whose engine can be asked.
    up: AtomicUsize,
    health: Arc<Health>,
}

impl Worker {
    /// Starts a thread for each engine. They live as long as the process.
    pub(crate) fn start(
        engines: Vec<Engine>,
        limit: usize,
        max_rows: usize,
        health: Arc<Health>,
    ) -> Result<Arc<Self>, Error> {
        let runs = engines.iter().map(|_| Arc::default()).collect();
        let up = AtomicUsize::new(engines.len());
        let worker = Arc::new(Self { queue: Mutex::default(), waiting: Condvar::new(), limit, runs, up, health });
        for (index, engine) in engines.into_iter().enumerate() {
            let own = worker.clone();
            let thread = std::thread::Builder::new().name(format!("engine-{index}"));
            let spawned = thread.spawn(move || own.serve(index, engine, max_rows));
            spawned.map_err(|source| Error::SetUp { what: "the engine's thread", source })?;
        }
        Ok(worker)
    }

    fn serve(&self, index: usize, mut engine: Engine, max_rows: usize) {
        let look = engine.function().is_some().then_some(LOOK);
        loop {
            self.replace_if_gone(&mut engine);
            let jobs = self.take(max_rows, look);
            let run = AssertUnwindSafe(|| run_all(&mut engine, jobs, max_rows, &self.runs[index]));
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("the engine's caller panicked; the requests of this run get 500");
            }
        }
    }

    /// Replaces a Python worker that is gone, for as long as it takes. Meanwhile other threads answer, if there are any.
    fn replace_if_gone(&self, engine: &mut Engine) {
        let Some(function) = engine.function() else { return };
        if function.is_up() {
            return;
        }
        self.up.fetch_sub(1, Relaxed);
        loop {
            self.give_up_if_hopeless(function.lost());
            std::thread::park_timeout(function.pause());
            if function.replace().is_ok() {
                break;
            }
        }
        self.up.fetch_add(1, Relaxed);
        self.health.set_failing(None);
    }

    /// Without any worker, and with one that does not come up again, nobody is kept waiting.
    fn give_up_if_hopeless(&self, lost: u32) {
        if lost < CRASH_LOOP || self.up.load(Relaxed) > 0 {
            return;
        }
        self.health.set_failing(Some(lost));
        let waiting = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        for job in waiting {
            let _ = job.reply.send(Err(Refusal::failing()));
        }
    }

    /// Queues a job.
    pub(crate) fn submit(&self, job: Job) -> Result<(), Refusal> {
        if self.health.is_failing() {
            return Err(Refusal::failing());
        }
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

    /// Waits for jobs, at most for `patience`, and takes as many as may run together at once: what stays behind waits in order.
    fn take(&self, max_rows: usize, patience: Option<Duration>) -> Vec<Job> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = |queue: &mut VecDeque<Job>| queue.is_empty();
        let mut queue = match patience {
            None => self.waiting.wait_while(queue, empty).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.waiting.wait_timeout_while(queue, patience, empty);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let mut rows = 0;
        let fitting = queue.iter().take_while(|job| {
            rows += job.rows;
            rows <= max_rows
        });
        let count = fitting.count().max(1).min(queue.len());
        queue.drain(..count).collect()
    }
}
