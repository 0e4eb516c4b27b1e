//! A model folder becomes a package: `modelyard.toml` and files in, an immutable OCI artefact in the local registry out.
//!
//! Promises: the same folder gives the same digest on any machine, whatever the umask, file order, times or locale; every mistake in
//! `modelyard.toml` is reported at once; a sample that does not fit the signature is found here, not in production.
//! Absent on purpose: running the model. Packaging needs neither Python nor the inference engine.

mod build;
mod canonical;
mod description;
mod draft;
mod error;
mod files;
mod flags;
pub mod lock;
pub mod onnx;
mod profile;
mod publish;
mod python;
mod samples;
mod scaffold;
mod schema;
pub mod wheel;

pub use build::{BuildOptions, Built, Named, build, build_model, package_of_model};
pub use description::{Description, Mistake, Model, Placed, Samples};
pub use draft::is_pickle;
pub use error::Error;
pub use samples::SampleFault;
pub use scaffold::scaffold;
pub use schema::json_schema;

/// Name of the file that describes a model folder.
pub const DESCRIPTION: &str = "modelyard.toml";
