//! Removing blobs that nothing refers to.
//!
//! Promises: what is being pushed stays: a blob is only removed when it is older than the grace, and never while one is being named.

use std::collections::HashSet;
use std::time::Duration;

use modelyard_core::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Distribution;
use crate::Error;
use crate::digest::AnyDigest;
use crate::manifest::{IMAGE_CONFIG, MAX_MANIFEST_BYTES};
use crate::storage::Object;

/// Manifests that cannot be read, with what is wrong.
pub type Damaged = Vec<(AnyDigest, String)>;

/// What a sweep removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs.
    pub blobs: Vec<AnyDigest>,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that stay.
    pub kept: usize,
    /// Manifests that are damaged or gone, with what is wrong. What they seem to refer to stays.
    pub damaged: Damaged,
}

impl Swept {
    /// As documents have it.
    pub fn document(&self) -> Value {
        let damaged = self.damaged.iter().map(|(digest, why)| json!({ "manifest": digest.to_string(), "why": why }));
        json!({
            "blobs": self.blobs.iter().map(ToString::to_string).collect::<Vec<_>>(), "bytes": self.bytes,
            "kept": self.kept, "damaged": damaged.collect::<Vec<_>>(),
        })
    }
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
        self.sweep_keeping(grace, dry_run, Vec::new).await
    }

    /// [`Distribution::sweep`] that also leaves the packages that `needed` names, with everything that they refer to. It is asked once
    /// nothing can be named any more.
    ///
    /// # Errors
    /// As [`Distribution::sweep`].
    pub async fn sweep_keeping(
        &self,
        grace: Duration,
        dry_run: bool,
        needed: impl FnOnce() -> Vec<Digest>,
    ) -> Result<Swept, Error> {
        let _alone = self.inner.gate.alone().await?;
        let mut left = Vec::new();
        for digest in needed().iter().map(AnyDigest::from) {
            if self.inner.blobs.size(&digest)?.is_some() {
                left.push(digest);
            }
        }
        let gone = self.images_of_removed(&left, dry_run)?;
        let (used, damaged) = self.used(left, &gone)?;
        let mut swept = Swept { damaged, ..Swept::default() };
        for Object { digest, size, age } in self.inner.blobs.list()? {
            if used.contains(&digest) || age.is_none_or(|age| age < grace) {
                swept.kept += 1;
                continue;
            }
            if !dry_run {
                self.inner.blobs.remove(&digest)?;
                self.inner.meta.forget(&digest)?;
            }
            swept.bytes += size;
            swept.blobs.push(digest);
        }
        if !dry_run {
            self.inner.blobs.forget_copies(&|digest| used.contains(digest), grace)?;
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

    /// Container images of packages whose versions were removed here and that nobody needs: they go with their package, unless `dry_run`. What was signed of
    /// it stays: it is small, and says what was.
    fn images_of_removed(&self, needed: &[AnyDigest], dry_run: bool) -> Result<HashSet<AnyDigest>, Error> {
        let listed: HashSet<Digest> = self.inner.store.list()?.iter().map(|listed| listed.digest).collect();
        let mut gone = HashSet::new();
        for (model, said) in self.inner.store.catalog()?.models {
            let removed =
                said.versions.values().filter_map(|notes| notes.removed.as_ref()).map(|removed| removed.digest);
            for package in removed.filter(|digest| !listed.contains(digest)) {
                let subject = AnyDigest::from(&package);
                if needed.contains(&subject) {
                    continue;
                }
                for known in self.inner.meta.referrers(model.as_str(), &subject)? {
                    if known.artifact_type.as_deref() != Some(IMAGE_CONFIG) {
                        continue;
                    }
                    if !dry_run {
                        self.inner.meta.delete_manifest(model.as_str(), &known.digest)?;
                    } else {
                        gone.insert(known.digest);
                    }
                }
            }
        }
        Ok(gone)
    }

    /// Everything that a manifest or the package index refers to, and the manifests themselves; and the manifests that cannot be read.
    fn used(&self, needed: Vec<AnyDigest>, gone: &HashSet<AnyDigest>) -> Result<(HashSet<AnyDigest>, Damaged), Error> {
        let (mut used, mut damaged) = (HashSet::new(), Vec::new());
        let mut left = needed;
        left.extend(self.inner.meta.all_manifests()?.into_iter().filter(|digest| !gone.contains(digest)));
        left.extend(self.inner.store.list()?.iter().map(|listed| AnyDigest::from(&listed.digest)));
        while let Some(digest) = left.pop() {
            if !used.insert(digest.clone()) {
                continue;
            }
            let parts = self.read(&digest).and_then(|bytes| {
                serde_json::from_slice::<Parts>(&bytes)
                    .map_err(|error| Error::Document { what: format!("manifest {digest}"), why: error.to_string() })
            });
            match parts {
                Ok(parts) => {
                    used.extend(parts.config.iter().chain(&parts.layers).filter_map(|part| part.digest.parse().ok()));
                    left.extend(parts.manifests.iter().filter_map(|part| part.digest.parse().ok()));
                }
                Err(error) => {
                    used.extend(self.salvaged(&digest));
                    damaged.push((digest, error.to_string()));
                }
            }
        }
        used.extend(self.inner.python.blobs()?.iter().map(AnyDigest::from));
        Ok((used, damaged))
    }

    /// Digests that still stand in what is left of a damaged manifest: storing it anew must find its parts.
    fn salvaged(&self, digest: &AnyDigest) -> Vec<AnyDigest> {
        let Ok(bytes) = self.inner.blobs.read(digest, MAX_MANIFEST_BYTES) else { return Vec::new() };
        let text = String::from_utf8_lossy(&bytes);
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':')).filter_map(|word| word.parse().ok()).collect()
    }
}
