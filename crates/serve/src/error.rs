//! Why a model server could not start or go on.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a model server could not start or go on. Errors of single requests never come this far.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The package is not run by this server.
    #[error(
        "package `{package}` has the runtime `{runtime}`, which the model server does not run; start its own program instead"
    )]
    Runtime {
        /// Name and version.
        package: String,
        /// The runtime's name.
        runtime: &'static str,
    },
    /// Values of flags that the package or its model cannot take.
    #[error("the flags do not fit the package: {}", .0.join("; "))]
    Flags(Vec<String>),
    /// An address that other machines could reach.
    #[error(
        "refusing to listen on {address}: without tokens only loopback addresses such as 127.0.0.1:8080 are allowed"
    )]
    NotLoopback {
        /// The refused address.
        address: SocketAddr,
    },
    /// The address could not be bound.
    #[error("could not listen on {address}; is another program using the port? (port 0 picks a free one)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The announcement could not be written.
    #[error("could not write the announcement {path}")]
    Announce {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// ONNX Runtime could not be loaded.
    #[error(
        "could not load ONNX Runtime from {path}: {reason}; set MODELYARD_ONNXRUNTIME to a working libonnxruntime, 1.{} or newer",
        ort::MINOR_VERSION
    )]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The model file could not be loaded.
    #[error("could not load the model {path}: {reason}")]
    Load {
        /// The model file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// The Python function could not be loaded.
    #[error("could not load the function {entry}: {reason}")]
    Function {
        /// As the package names it.
        entry: String,
        /// What kept it from being loaded.
        reason: String,
    },
    /// The model takes or gives what the protocol cannot carry.
    #[error("the model {path} cannot be served: {reason}")]
    Unservable {
        /// The model file.
        path: PathBuf,
        /// Which input or output, and why.
        reason: String,
    },
    /// The model does not take or give what its package says.
    #[error("the model {path} is not what the package says: {reason}; build the package again")]
    Signature {
        /// The model file.
        path: PathBuf,
        /// The difference.
        reason: String,
    },
    /// The first inference failed.
    #[error("the warm-up inference of {path} failed: {reason}")]
    WarmUp {
        /// The model file.
        path: PathBuf,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A thread, runtime or signal handler could not be set up.
    #[error("could not set up {what}")]
    SetUp {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The grace period ended before the last request did.
    #[error("{open} connections were still open when the grace period of {grace_seconds} s ended; they were cut off")]
    Drain {
        /// How many.
        open: usize,
        /// The grace period in seconds.
        grace_seconds: u64,
    },
}
