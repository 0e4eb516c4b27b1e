//! The native model server: the Open Inference Protocol v2 over REST and gRPC on one port, in front of ONNX Runtime, or of a Python
//! function in worker processes.
//!
//! Promises: a request that does not fit the signature gets a 4xx with a precise `error` and never reaches the engine;
//! data is never echoed; ready only after a warm-up inference; live only while the package's samples are answered
//! correctly; SIGTERM drains and loses nothing that was accepted.
//! Absent on purpose: weights, retries and routing (the gateway), limits on the process (the target), and several models
//! in one process (a bad model must not take a good one down with it).

mod announce;
mod body;
mod codec;
pub mod contract;
mod engine;
mod error;
#[cfg(fuzzing)]
pub mod fuzz;
#[allow(clippy::all, reason = "written by a generator from proto/inference.proto")]
mod generated {
    include!("generated/inference.rs");

    /// The encoded file descriptor set, for reflection.
    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("generated/inference.bin");
}
mod batch;
mod grpc;
mod health;
mod http;
mod model;
pub mod onnxruntime;
mod options;
mod pages;
pub mod python;
mod refusal;
mod samples;
mod server;
mod stats;
mod tensor;

pub use error::Error;
pub use options::ServeOptions;
pub use server::run;
