//! What the registry knows of repositories: manifests, tags, and which blobs each may give.
//!
//! Promises: a change is whole or not at all; readers never wait for more than one small write; every store keeps the same contract
//! (`tests/storage.rs`).

mod postgres;
mod sqlite;

use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::digest::AnyDigest;
use crate::storage::Storage;

/// What is known of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its digest.
    pub digest: AnyDigest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// What it refers to.
    pub subject: Option<String>,
    /// What kind of artefact it is.
    pub artifact_type: Option<String>,
    /// Its annotations, as JSON.
    pub annotations: String,
}

/// What the registry knows of repositories.
pub trait Metadata: std::fmt::Debug + Send + Sync {
    /// Lets a repository give a blob.
    fn link(&self, repository: &str, digest: &AnyDigest) -> Result<(), Error> {
        self.link_all(&[(repository, digest)])
    }

    /// Lets repositories give blobs: all of them, or none.
    fn link_all(&self, links: &[(&str, &AnyDigest)]) -> Result<(), Error>;

    /// Takes a blob from a repository; whether it had it.
    fn unlink(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error>;

    /// Whether a repository may give a blob.
    fn is_linked(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error>;

    /// Whether any repository may give a blob.
    fn is_linked_anywhere(&self, digest: &AnyDigest) -> Result<bool, Error>;

    /// Keeps a manifest and lets tags name it.
    fn put_manifest(&self, repository: &str, known: &Known, tags: &[String]) -> Result<(), Error>;

    /// A manifest of a repository.
    fn manifest(&self, repository: &str, digest: &AnyDigest) -> Result<Option<Known>, Error>;

    /// The digest that a tag names.
    fn tag(&self, repository: &str, tag: &str) -> Result<Option<AnyDigest>, Error>;

    /// Takes a tag away; whether it was there.
    fn delete_tag(&self, repository: &str, tag: &str) -> Result<bool, Error>;

    /// Takes a manifest and the tags that name it away; whether it was there.
    fn delete_manifest(&self, repository: &str, digest: &AnyDigest) -> Result<bool, Error>;

    /// At most `most` tags of a repository after `last`, sorted by their bytes.
    fn tags(&self, repository: &str, last: &str, most: usize) -> Result<Vec<String>, Error>;

    /// Manifests of a repository that refer to `subject`, by digest.
    fn referrers(&self, repository: &str, subject: &AnyDigest) -> Result<Vec<Known>, Error>;

    /// At most `most` repositories after `last`.
    fn repositories(&self, last: &str, most: usize) -> Result<Vec<String>, Error>;

    /// Whether a repository has anything.
    fn has_repository(&self, repository: &str) -> Result<bool, Error>;

    /// Every manifest of every repository.
    fn all_manifests(&self) -> Result<Vec<AnyDigest>, Error>;

    /// Forgets that repositories may give a blob that is no longer there.
    fn forget(&self, digest: &AnyDigest) -> Result<(), Error>;
}

/// Opens the metadata of the registry at `root`.
pub(crate) fn open(root: &Path, storage: &Storage) -> Result<Arc<dyn Metadata>, Error> {
    match &storage.postgres {
        Some(postgres) => Ok(Arc::new(Arc::clone(postgres))),
        None => Ok(Arc::new(sqlite::open(&root.join("distribution.sqlite"))?)),
    }
}
