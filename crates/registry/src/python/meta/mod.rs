//! What the index knows of files: which project and version each belongs to, which blob holds it, whether it was yanked.
//!
//! Promises: a file name means the same bytes for ever; a change is whole or not at all; every store keeps the same contract.

mod postgres;
mod sqlite;

use std::path::Path;
use std::sync::Arc;

use modelyard_core::Digest;

use crate::Error;
use crate::storage::Storage;

/// One file of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub filename: String,
    /// The project, normalised.
    pub project: String,
    /// The version, normalised.
    pub version: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// When it came, in seconds since 1970.
    pub uploaded: i64,
    /// Which versions of Python it needs.
    pub requires_python: Option<String>,
    /// The blob that holds its metadata.
    pub metadata: Option<Digest>,
    /// Why it was yanked, if it was; the reason may be empty.
    pub yanked: Option<String>,
}

/// What became of a file that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is new.
    New,
    /// The very same file was there.
    Same,
    /// Another file has that name.
    Other(Digest),
}

/// What the index knows.
pub trait Files: std::fmt::Debug + Send + Sync {
    /// Adds a file, unless its name is taken.
    fn add(&self, entry: &Entry) -> Result<Added, Error>;

    /// The file of that name.
    fn file(&self, filename: &str) -> Result<Option<Entry>, Error>;

    /// Every file of a project, by name.
    fn files(&self, project: &str) -> Result<Vec<Entry>, Error>;

    /// Every project.
    fn projects(&self) -> Result<Vec<String>, Error>;

    /// Yanks every file of a version, or takes that back; how many files it has.
    fn yank(&self, project: &str, version: &str, reason: Option<&str>) -> Result<usize, Error>;

    /// Every blob that a file or its metadata is in.
    fn blobs(&self) -> Result<Vec<Digest>, Error>;
}

/// Opens the index of the registry at `root`.
pub(crate) fn open(root: &Path, storage: &Storage) -> Result<Box<dyn Files>, Error> {
    match &storage.postgres {
        Some(postgres) => Ok(Box::new(Arc::clone(postgres))),
        None => Ok(Box::new(sqlite::open(&root.join("python.sqlite"))?)),
    }
}
