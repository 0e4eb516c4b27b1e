//! The package index: wheels and source distributions for pip, uv and every other installer, and uploads from twine.
//!
//! Promises: a file name means the same bytes for ever; a file is there whole, with its digests checked, or not at all; memory stays flat whatever its
//! size; what an archive holds is never laid out on disk.
//! Absent on purpose: accounts (who may do what is decided in front of this router), and taking files away: a bad version is yanked.
//!
//! Source: PyPA specifications "Simple repository API" 1.1, "Core metadata", "File yanking"; the upload form of PyPI's legacy API.

mod document;
mod local;
mod meta;
mod negotiate;
pub mod publish;
mod refusal;
mod simple;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use modelyard_core::Digest;

#[cfg(fuzzing)]
pub(crate) use self::document::fuzz as fuzz_archive;
pub use self::document::{Document, MAX_METADATA_BYTES};
pub use crate::names::python::{FileName, Kind, is_range, normalise, normalise_version};

use self::meta::Files;
use crate::blob::Blobs;
use crate::storage::{BlobStore, Gate, Verified};
use crate::{Error, Store, leftovers};

/// A package index that is served.
#[derive(Clone, Debug)]
pub struct Index {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    meta: Box<dyn Files>,
    /// Where files are kept.
    kept: Arc<dyn BlobStore>,
    blobs: Blobs,
    gate: Gate,
    verified: Verified,
    /// Where uploads stand until they are whole.
    incoming: PathBuf,
}

impl Index {
    /// Opens the index of the registry at `root`; its blobs are those of `store`.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Document`] when its files cannot be made or read.
    pub(crate) fn open(root: &Path, store: &Store) -> Result<Self, Error> {
        let incoming = root.join("python-uploads");
        std::fs::create_dir_all(&incoming).map_err(Error::file("could not make", &incoming))?;
        leftovers::sweep(&incoming);
        let storage = store.storage();
        let inner = Inner {
            meta: meta::open(root, storage)?,
            kept: storage.blobs(root),
            blobs: store.blobs().clone(),
            gate: Gate::new(root, storage),
            verified: Verified::default(),
            incoming,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Every blob that a file of the index needs.
    pub(crate) fn blobs(&self) -> Result<Vec<Digest>, Error> {
        self.inner.meta.blobs()
    }

    /// `/simple/`, `/files/` and `/legacy/`.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/simple", get(simple::to_root))
            .route("/simple/", get(simple::root))
            .route("/simple/{project}", get(simple::to_project))
            .route("/simple/{project}/", get(simple::project))
            .route("/files/{name}", get(simple::file))
            .route("/legacy", post(upload::upload))
            .route("/legacy/", post(upload::upload))
            .route("/legacy/{project}/{version}/yank", post(upload::yank).delete(upload::unyank))
            .with_state(self.clone())
    }
}
