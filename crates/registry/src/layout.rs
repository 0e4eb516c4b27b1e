//! The layout's two documents, `oci-layout` and `index.json`, and the lock that keeps writers apart.
//!
//! Source: OCI image layout specification 1.0.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::manifest::Index;
use crate::storage::{Locked, Postgres};
use crate::{Error, leftovers};

/// Name of the index.
const INDEX: &str = "index.json";

/// Folder of a layout.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Where the documents are when they are not in the folder.
    shared: Option<Arc<Postgres>>,
}

/// Held by the one writer; released when dropped.
pub(crate) enum Writing {
    /// Of all processes that share the folder.
    Here(#[expect(dead_code, reason = "held until dropped")] File),
    /// Of all that share the database.
    Everywhere(Locked),
}

impl Layout {
    /// Where it lies.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn open(root: &Path, shared: Option<Arc<Postgres>>) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(Error::file("could not make", root))?;
        leftovers::sweep(root);
        let layout = Self { root: root.to_owned(), shared };
        let marker = root.join("oci-layout");
        if !marker.is_file() {
            write_whole(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        }
        if layout.shared.is_none() && !layout.index_path().is_file() {
            let writing = layout.lock()?;
            if !layout.index_path().is_file() {
                layout.write_index(&Index::default(), &writing)?;
            }
        }
        Ok(layout)
    }

    /// Waits until no other process writes.
    pub(crate) fn lock(&self) -> Result<Writing, Error> {
        if let Some(shared) = &self.shared {
            return shared.lock().map(Writing::Everywhere);
        }
        let path = self.root.join(".lock");
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(Error::file("could not open", &path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| Error::file("could not lock", &path)(error.into()))?;
        Ok(Writing::Here(lock))
    }

    fn index_path(&self) -> PathBuf {
        self.root.join(INDEX)
    }

    pub(crate) fn index(&self) -> Result<Index, Error> {
        if self.shared.is_some() {
            return self.read(INDEX);
        }
        read_document(&self.index_path())
    }

    /// Replaces the index. The lock is proof that nobody else does.
    pub(crate) fn write_index(&self, index: &Index, writing: &Writing) -> Result<(), Error> {
        self.write(INDEX, index, writing)
    }

    /// A document beside the index; what is nowhere is empty.
    pub(crate) fn read<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, Error> {
        let Some(shared) = &self.shared else {
            let path = self.root.join(name);
            return if path.is_file() { read_document(&path) } else { Ok(T::default()) };
        };
        let Some(json) = shared.document(name)? else { return Ok(T::default()) };
        serde_json::from_str(&json)
            .map_err(|error| Error::Document { what: format!("`{name}`"), why: error.to_string() })
    }

    /// Replaces a document beside the index. The lock is proof that nobody else does.
    pub(crate) fn write(&self, name: &str, document: &impl Serialize, writing: &Writing) -> Result<(), Error> {
        let (Some(shared), Writing::Everywhere(locked)) = (&self.shared, writing) else {
            return write_document(&self.root.join(name), document);
        };
        let json = serde_json::to_string(document)
            .map_err(|error| Error::Document { what: format!("`{name}`"), why: error.to_string() })?;
        shared.write_document(name, &json, locked)
    }
}

/// Longest index or list of aliases that is read, in bytes: some hundred thousand versions.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// Reads a JSON document.
pub(crate) fn read_document<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(Error::file("could not read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        let why = format!("it is longer than {MAX_DOCUMENT_BYTES} bytes");
        return Err(Error::Document { what: format!("`{}`", path.display()), why });
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Document { what: format!("`{}`", path.display()), why: error.to_string() })
}

/// Replaces a JSON document whole.
pub(crate) fn write_document(path: &Path, document: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec_pretty(document)
        .map_err(|error| Error::Document { what: format!("`{}`", path.display()), why: error.to_string() })?;
    write_whole(path, &bytes)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut temporary = leftovers::file_in(folder)?;
        temporary.write_all(bytes)?;
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|failed| failed.error)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(Error::file("could not write", path))
}
