//! A thread that owns one SQLite connection and runs jobs on it, one after the other.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::Error;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The thread's handle. Dropping it finishes the jobs that were given and closes the connection.
#[derive(Debug)]
pub struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::File`] when no thread can be started.
    pub fn start(name: &'static str, mut connection: Connection) -> Result<Self, Error> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let run = move || queue.iter().for_each(|job| job(&mut connection));
        let wrap = |source| Error::File { doing: "start the thread of", path: name.into(), source };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(wrap)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs a job and waits for it. A job that was given runs even if nobody waits any more.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.send(job)?.await.unwrap_or(Err(Error::Closed))
    }

    /// The same outside of a runtime.
    pub fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, result) = mpsc::sync_channel(1);
        self.give(Box::new(move |connection| drop(done.send(job(connection)))))?;
        result.recv().unwrap_or(Err(Error::Closed))
    }

    fn send<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (done, result) = oneshot::channel();
        self.give(Box::new(move |connection| drop(done.send(job(connection)))))?;
        Ok(result)
    }

    fn give(&self, job: Job) -> Result<(), Error> {
        self.jobs.as_ref().ok_or(Error::Closed)?.send(job).map_err(|_| Error::Closed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A job that panicked has said so already.
            let _ = thread.join();
        }
    }
}
