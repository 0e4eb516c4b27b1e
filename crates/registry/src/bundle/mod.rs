//! Bundles: one file that carries packages, what was said of them, their wheels and container images to where no network leads, and back.
//!
//! A bundle is an OCI image layout in a tar archive: `oci-layout`, `index.json`, then every blob once. Any tool that reads such archives reads it,
//! and those that other tools write are read here.
//!
//! Promises: the same content gives the same bytes on any machine; memory stays flat whatever the size; every byte is checked against its digest
//! when a bundle is made and again when it is loaded, and what differs is named; nothing gets a name before everything was found right.
//! Absent on purpose: compression (model files hardly shrink, and an archive that cannot grow cannot burst).
//!
//! Source: OCI image layout specification 1.0; POSIX.1-2017 `ustar` and `pax` archives; GNU tar's long names.

mod create;
mod error;
mod file;
mod load;
mod tape;
#[cfg(test)]
mod tests;
mod tree;

pub use self::create::{What, create};
pub use self::error::BundleError;
#[cfg(fuzzing)]
pub(crate) use self::file::fuzz;
pub use self::load::{Loaded, Skipped, load, load_from};

use std::path::Path;

use modelyard_core::Digest;
use serde::Serialize;

/// Media type of what carries a file of the package index.
pub(crate) const PYTHON_FILE: &str = "application/vnd.modelyard.python.file.v1";

/// Annotation of the index: in which repository something stands that has no tag.
pub(crate) const REPOSITORY: &str = "io.modelyard.repository";

/// What something in a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A package.
    Package,
    /// What was said of a package: a signature, provenance, a bill of materials.
    Attached,
    /// A wheel or source distribution.
    Wheel,
    /// A container image, or any other artefact of a repository.
    Image,
}

/// One thing in a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Its name: `wine:2.1.0`, a tag, or the name of a file.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Bytes of everything that it is made of.
    pub size_bytes: u64,
}

/// What is in a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// Everything, in the order of its index.
    pub items: Vec<Item>,
    /// Blobs, each counted once.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What a bundle holds, by its index and its manifests; other blobs are not read.
///
/// # Errors
/// [`BundleError`] when it is none, or lacks something.
pub fn list(path: &Path) -> Result<Contents, BundleError> {
    Ok(file::Bundle::open(path)?.contents())
}
