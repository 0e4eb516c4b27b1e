//! Removing blobs that nothing refers to.
//!
//! Promises: what is being pushed stays: a blob is only removed when it is older than the grace, and never while one is being named.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::Distribution;
use super::digest::AnyDigest;
use crate::Error;

/// What a sweep removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs.
    pub blobs: Vec<AnyDigest>,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stay.
    pub kept: usize,
}

#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
    #[serde(default)]
    manifests: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
}

impl Distribution {
    /// Removes blobs that no manifest of any repository or model, and no file of the package index, refers to and that are older
    /// than `grace`; with `dry_run` only says which.
    ///
    /// # Errors
    /// [`Error`] when the registry cannot be read; what was removed until then is gone.
    pub async fn sweep(&self, grace: Duration, dry_run: bool) -> Result<Swept, Error> {
        let _alone = self.inner.gate.alone().await?;
        let used = self.used()?;
        let mut swept = Swept::default();
        for algorithm in ["sha256", "sha512"] {
            let folder = self.inner.root.join("blobs").join(algorithm);
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Ok(digest) = format!("{algorithm}:{}", name.to_string_lossy()).parse::<AnyDigest>() else {
                    continue;
                };
                let Ok(facts) = entry.metadata() else { continue };
                let age = facts.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                if used.contains(&digest) || age.is_none_or(|age| age < grace) {
                    swept.kept += 1;
                    continue;
                }
                if !dry_run {
                    fs::remove_file(entry.path()).map_err(Error::file("could not remove", entry.path()))?;
                    self.inner.meta.forget(&digest)?;
                }
                swept.bytes += facts.len();
                swept.blobs.push(digest);
            }
        }
        Ok(swept)
    }

    /// [`Distribution::sweep`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Distribution::sweep`].
    pub fn sweep_blocking(&self, grace: Duration, dry_run: bool) -> Result<Swept, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map_err(Error::file("could not start a runtime for", &self.inner.root))?
            .block_on(self.sweep(grace, dry_run))
    }

    /// Everything that a manifest or the package index refers to, and the manifests themselves.
    fn used(&self) -> Result<HashSet<AnyDigest>, Error> {
        let mut used = HashSet::new();
        let mut left = self.inner.meta.all_manifests()?;
        left.extend(self.inner.store.list()?.iter().map(|listed| AnyDigest::from(&listed.digest)));
        while let Some(digest) = left.pop() {
            if !used.insert(digest.clone()) {
                continue;
            }
            let parts: Parts = serde_json::from_slice(&self.read(&digest)?)
                .map_err(|error| Error::Document { what: format!("manifest {digest}"), why: error.to_string() })?;
            used.extend(parts.config.iter().chain(&parts.layers).filter_map(|part| part.digest.parse().ok()));
            left.extend(parts.manifests.iter().filter_map(|part| part.digest.parse().ok()));
        }
        used.extend(self.inner.python.blobs()?.iter().map(AnyDigest::from));
        Ok(used)
    }
}
