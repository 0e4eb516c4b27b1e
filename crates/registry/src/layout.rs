//! The layout's two documents, `oci-layout` and `index.json`, and the lock that keeps writers apart.
//!
//! Source: OCI image layout specification 1.0.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::manifest::Index;
use crate::{Error, leftovers};

/// Folder of a layout.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// Held by the one writer; released when dropped.
pub(crate) struct Writing {
    _lock: File,
}

impl Layout {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(Error::file("could not make", root))?;
        leftovers::sweep(root);
        let layout = Self { root: root.to_owned() };
        let marker = root.join("oci-layout");
        if !marker.is_file() {
            write_whole(&marker, b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        }
        if !layout.index_path().is_file() {
            let writing = layout.lock()?;
            if !layout.index_path().is_file() {
                layout.write_index(&Index::default(), &writing)?;
            }
        }
        Ok(layout)
    }

    /// Waits until no other process writes.
    pub(crate) fn lock(&self) -> Result<Writing, Error> {
        let path = self.root.join(".lock");
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = options.map_err(Error::file("could not open", &path))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(|error| Error::file("could not lock", &path)(error.into()))?;
        Ok(Writing { _lock: lock })
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) fn index(&self) -> Result<Index, Error> {
        read_document(&self.index_path())
    }

    /// Replaces the index. The lock is proof that nobody else does.
    pub(crate) fn write_index(&self, index: &Index, _writing: &Writing) -> Result<(), Error> {
        write_document(&self.index_path(), index)
    }

    pub(crate) fn document(&self, name: &str) -> PathBuf {
        self.root.join(name)
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
