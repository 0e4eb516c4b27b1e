//! Packages with the runtime `python`: their function in worker processes behind the server.
//!
//! Promises: a crash or a hang of the function costs the requests that were in it, not the server; a worker that is gone is replaced, slower and
//! slower while that does not help, and meanwhile the server says that it is not ready; traces go to the log and never into an answer.
//! Absent on purpose: sandboxing. The function runs with the rights of the instance.

mod environment;
mod frame;
mod process;
mod target;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

pub use environment::{EnvironmentError, prepare, uv};
pub(crate) use process::{CallError, Plan, Process};
pub use target::{install, is_for};

use crate::engine::{EngineError, Fault, Output};
use crate::tensor::Tensor;

const WORKER: &str = include_str!("worker.py");

/// A worker that could not be replaced this often in a row makes the server not ready.
pub(crate) const CRASH_LOOP: u32 = 3;

/// A Python interpreter with a package's dependencies, and the program that its workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The interpreter.
    pub python: PathBuf,
    /// The worker's program.
    pub worker: PathBuf,
}

/// The program of workers: its path below the cache, and its text. Where it lies there already, nothing is written.
pub fn worker() -> (String, &'static str) {
    let digest: String = Sha256::digest(WORKER).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    (format!("python/worker-{digest}.py"), WORKER)
}

impl Interpreter {
    /// An interpreter that is there already; the worker's program is kept in `cache`.
    ///
    /// # Errors
    /// What kept the program from being written.
    pub fn at(python: PathBuf, cache: &Path) -> std::io::Result<Self> {
        let (folder, worker) = (cache.join("python"), cache.join(worker().0));
        if std::fs::read(&worker).is_ok_and(|text| text == WORKER.as_bytes()) {
            return Ok(Self { python, worker });
        }
        std::fs::create_dir_all(&folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(WORKER.as_bytes())?;
        file.persist(&worker).map_err(|error| error.error)?;
        Ok(Self { python, worker })
    }
}

/// The function, as an engine: a worker process, and how to replace it.
#[derive(Debug)]
pub(crate) struct Function {
    plan: Arc<Plan>,
    process: Option<Process>,
    /// Workers in a row that were lost before they answered anything.
    lost: u32,
}

impl Function {
    /// Starts the first worker.
    pub(crate) fn start(plan: Arc<Plan>) -> Result<Self, String> {
        Ok(Self { process: Some(Process::start(&plan)?), plan, lost: 0 })
    }

    /// Calls the function. A worker that is lost is not replaced here.
    pub(crate) fn run(&mut self, inputs: &[Option<&Tensor>]) -> Result<Vec<Output>, EngineError> {
        for attempt in 0..2 {
            let Some(process) = &mut self.process else {
                return Err(EngineError {
                    fault: Fault::Gone,
                    message: "the function's worker is being replaced".to_owned(),
                });
            };
            let error = match process.call(&self.plan, inputs) {
                Ok(outputs) => {
                    self.lost = 0;
                    return Ok(outputs);
                }
                // The function answered, if only with an exception: its worker is well.
                Err(CallError::Function(message)) => {
                    self.lost = 0;
                    return Err(EngineError { fault: Fault::Engine, message });
                }
                Err(CallError::Refused(message)) => {
                    self.lost = 0;
                    return Err(EngineError { fault: Fault::Caller, message });
                }
                Err(error) => error,
            };
            self.process = None;
            self.lost += 1;
            match error {
                // It took nothing of the inputs, so another may have them.
                CallError::Unsent if attempt == 0 && self.replace().is_ok() => {}
                CallError::TimedOut => {
                    let seconds = self.plan.timeout.as_secs();
                    tracing::error!(seconds, "the function did not answer in time: its worker was ended");
                    let message = format!("the function did not answer within {seconds} s");
                    return Err(EngineError { fault: Fault::TimedOut, message });
                }
                CallError::Lost(message) => {
                    tracing::error!(%message, "a worker was lost");
                    return Err(EngineError { fault: Fault::Lost, message });
                }
                CallError::Unsent | CallError::Function(_) | CallError::Refused(_) => break,
            }
        }
        Err(EngineError { fault: Fault::Lost, message: "the function's worker ended".to_owned() })
    }

    /// Whether the worker is there; one that ended by itself is noticed here.
    pub(crate) fn is_up(&mut self) -> bool {
        if let Some(process) = &mut self.process
            && process.has_ended()
        {
            tracing::error!("a worker ended between two calls");
            self.process = None;
            self.lost += 1;
        }
        self.process.is_some()
    }

    /// How long to wait before the next replacement: nothing at first, then doubled up to 10 s.
    pub(crate) fn pause(&self) -> Duration {
        match self.lost {
            0 | 1 => Duration::ZERO,
            more => Duration::from_millis(100 << more.min(8)).min(Duration::from_secs(10)),
        }
    }

    pub(crate) const fn lost(&self) -> u32 {
        self.lost
    }

    /// Starts another worker.
    pub(crate) fn replace(&mut self) -> Result<(), String> {
        match Process::start(&self.plan) {
            Ok(process) => {
                self.process = Some(process);
                Ok(())
            }
            Err(why) => {
                self.lost += 1;
                tracing::error!(%why, "a worker could not be replaced");
                Err(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_is_written_once_and_mended() {
        let cache = tempfile::tempdir().unwrap();
        let first = Interpreter::at("/bin/python".into(), cache.path()).unwrap();
        std::fs::write(&first.worker, "tampered").unwrap();
        let second = Interpreter::at("/bin/python".into(), cache.path()).unwrap();
        assert_eq!(first, second);
        assert_eq!(std::fs::read_to_string(&second.worker).unwrap(), WORKER);
    }
}
