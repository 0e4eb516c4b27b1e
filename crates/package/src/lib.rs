//! A model folder becomes a package: `modelyard.toml` and files in, an immutable OCI artefact in the local registry out.
//!
//! Promises: the same folder gives the same digest on any machine, whatever the umask, file order, times or locale; every mistake in
//! `modelyard.toml` is reported at once; a sample that does not fit the signature is found here, not in production.
//! Absent on purpose: running the model. Packaging needs neither Python nor the inference engine.

mod bare;
pub mod bill;
mod build;
mod canonical;
pub mod choice;
mod description;
mod draft;
mod error;
mod files;
mod flags;
pub mod foreign;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod image;
pub mod kinds;
mod lineage;
pub mod lock;
pub mod mlflow;
pub mod onnx;
mod profile;
mod publish;
mod python;
pub mod rebuild;
mod samples;
mod scaffold;
mod schema;
pub mod vm;
pub mod wheel;
mod wire;
mod written;

pub use bare::{build_model, is_model, package_of_model};
pub use build::{BuildOptions, Built, Named, build};
pub use description::{Description, Mistake, Model, Placed, Samples};
pub use error::Error;
pub use kinds::is_called_like_a_pickle;
pub use lineage::needs_ancestors;
pub use samples::SampleFault;
pub use scaffold::{scaffold, slug};
pub use schema::json_schema;

/// Name of the file that describes a model folder.
pub const DESCRIPTION: &str = "modelyard.toml";
