//! The ONNX Runtime library of this process: loaded once, logging through `tracing`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::Error;

/// The environment lives as long as the process: the library allows one.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Loads the library at `path`, unless one is loaded already.
pub(crate) fn load(path: &Path) -> Result<Environment, Error> {
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*slot {
        return Ok(environment.clone());
    }
    let refused = |reason: String| Error::Library { path: path.to_owned(), reason };
    let builder = ort::init_from(path).map_err(|error| refused(error.to_string()))?;
    let environment = builder
        .with_name("modelyard")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|error| refused(error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(slot.insert(environment).clone())
}

/// Warnings are for developers of graphs ("initializer is not used"); errors come back as results too.
fn log(level: LogLevel, _category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(place, message, "ONNX Runtime"),
        LogLevel::Error | LogLevel::Warning => tracing::debug!(place, message, "ONNX Runtime"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(place, message, "ONNX Runtime"),
    }
}
