//! Packages as the control plane needs them: the document, and a folder with the files.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use modelyard_core::home::Home;
use modelyard_core::package::Package;
use modelyard_core::ports::PortFuture;
use modelyard_core::{Digest, EnvironmentName};
use modelyard_registry::distribution::Distribution;

use crate::environments::Environments;
use crate::http_client::chain;
use crate::ledger::lock;
use crate::policy::ImageChoice;

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

    /// Why nothing new is to be deployed from the package, if that was said.
    fn withdrawn(&self, _digest: Digest) -> PortFuture<'_, Result<Option<String>, PackageError>> {
        Box::pin(async { Ok(None) })
    }

    /// A folder that holds the package's files and its document, verified by digest.
    fn folder(&self, digest: Digest) -> PortFuture<'_, Result<PathBuf, PackageError>>;

    /// The container image of the package that an environment runs.
    fn image(
        &self,
        digest: Digest,
        environment: &EnvironmentName,
    ) -> PortFuture<'_, Result<ImageChoice, PackageError>> {
        let _ = (digest, environment);
        Box::pin(async { Ok(ImageChoice::Absent) })
    }

    /// Why the package does not fulfil what an environment demands: every reason.
    fn reasons(
        &self,
        digest: Digest,
        environment: &EnvironmentName,
    ) -> PortFuture<'_, Result<Vec<String>, PackageError>> {
        let _ = (digest, environment);
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// Packages of the local registry.
pub struct RegistryPackages {
    registry: Distribution,
    home: Home,
    // A digest names one document for ever, and a home uses few of them.
    documents: Mutex<HashMap<Digest, Arc<Package>>>,
}

impl RegistryPackages {
    /// Packages of the registry of a home.
    pub fn of(registry: Distribution, home: &Home) -> Self {
        Self { registry, home: home.clone(), documents: Mutex::default() }
    }

    /// Work on files, off the threads that decide: a package may be large, and a disk slow.
    fn call<T: Send + 'static>(
        &self,
        digest: Digest,
        work: impl FnOnce(&Distribution) -> Result<T, String> + Send + 'static,
    ) -> PortFuture<'_, Result<T, PackageError>> {
        let registry = self.registry.clone();
        Box::pin(async move {
            let refuse = |why| PackageError { digest, why };
            let done = tokio::task::spawn_blocking(move || work(&registry)).await;
            done.map_err(|error| refuse(error.to_string()))?.map_err(refuse)
        })
    }
}

/// For `map_err`: the error chain.
fn chained(error: modelyard_registry::Error) -> String {
    chain(&error)
}

impl Packages for RegistryPackages {
    fn document(&self, digest: Digest) -> PortFuture<'_, Result<Arc<Package>, PackageError>> {
        Box::pin(async move {
            if let Some(known) = lock(&self.documents).get(&digest) {
                return Ok(Arc::clone(known));
            }
            let package =
                Arc::new(self.call(digest, move |registry| registry.store().package(&digest).map_err(chained)).await?);
            lock(&self.documents).insert(digest, Arc::clone(&package));
            Ok(package)
        })
    }

    fn withdrawn(&self, digest: Digest) -> PortFuture<'_, Result<Option<String>, PackageError>> {
        self.call(digest, move |registry| {
            let yanked = registry.store().withdrawn(&digest).map_err(chained)?;
            Ok(yanked.map(|yanked| format!("{} withdrew it: {}", yanked.by, yanked.why)))
        })
    }

    fn folder(&self, digest: Digest) -> PortFuture<'_, Result<PathBuf, PackageError>> {
        self.call(digest, move |registry| registry.store().unpack(&digest).map_err(chained))
    }

    fn image(
        &self,
        digest: Digest,
        environment: &EnvironmentName,
    ) -> PortFuture<'_, Result<ImageChoice, PackageError>> {
        let (environment, home) = (environment.clone(), self.home.clone());
        self.call(digest, move |registry| {
            let policy = Environments::at(home.environments()).read(&environment)?.unwrap_or_default().policy;
            let package = registry.store().package(&digest).map_err(chained)?;
            policy.image(registry, &digest, &package).map_err(chained)
        })
    }

    fn reasons(
        &self,
        digest: Digest,
        environment: &EnvironmentName,
    ) -> PortFuture<'_, Result<Vec<String>, PackageError>> {
        let (environment, home) = (environment.clone(), self.home.clone());
        self.call(digest, move |registry| {
            let Some(found) = Environments::at(home.environments()).read(&environment)? else {
                return Ok(Vec::new());
            };
            let package = registry.store().package(&digest).map_err(chained)?;
            Ok(found.policy.reasons(registry, &environment, &digest, &package))
        })
    }
}
