//! Packages as the control plane needs them: the document, and a folder with the files.

use std::path::PathBuf;
use std::sync::Arc;

use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_core::ports::PortFuture;

/// A package could not be had.
#[derive(Debug, thiserror::Error)]
#[error("package {digest} cannot be had: {why}")]
pub struct PackageError {
    /// Which.
    pub digest: Digest,
    /// The error chain.
    pub why: String,
}

/// Where packages come from.
pub trait Packages: Send + Sync {
    /// The package's document.
    fn document(&self, digest: Digest) -> PortFuture<'_, Result<Arc<Package>, PackageError>>;

    /// A folder that holds the package's files and its document, verified by digest.
    fn folder(&self, digest: Digest) -> PortFuture<'_, Result<PathBuf, PackageError>>;
}

/// Packages of the local registry.
pub struct RegistryPackages;
impl RegistryPackages { pub fn open(_: &modelyard_core::home::Home) -> Result<Self, String> { Ok(Self) } }
impl Packages for RegistryPackages {
    fn document(&self, _: Digest) -> PortFuture<'_, Result<Arc<Package>, PackageError>> { unimplemented!() }
    fn folder(&self, _: Digest) -> PortFuture<'_, Result<PathBuf, PackageError>> { unimplemented!() }
}
