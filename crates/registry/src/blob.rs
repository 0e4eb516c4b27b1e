//! Blobs: bytes named by their digest, `blobs/sha256/<hex>` as in the OCI image layout.
//!
//! Promises: a blob appears whole or not at all (temporary file, then rename), read-only, and never changes. Memory stays flat.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::Error;

/// A folder of blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
}

/// A blob's name and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// The digest of some bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// 1 MiB: large enough that the hash, not the calls, sets the pace.
const CHUNK: usize = 1 << 20;

/// Copies everything from `source` to `sink`, hashing on the way.
fn copy(source: &mut dyn Read, sink: &mut dyn Write) -> io::Result<Blob> {
    let (mut hash, mut size_bytes, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let length = match source.read(&mut chunk) {
            Ok(0) => return Ok(Blob { digest: Digest::from_sha256(hash.finalize().into()), size_bytes }),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(&chunk[..length]);
        sink.write_all(&chunk[..length])?;
        size_bytes += length as u64;
    }
}

impl Blobs {
    /// Opens the folder, making it if needed.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made.
    pub fn open(layout: &Path) -> Result<Self, Error> {
        let root = layout.join("blobs/sha256");
        fs::create_dir_all(&root).map_err(Error::file("could not make", &root))?;
        Ok(Self { root })
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// Whether the blob is there.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// [`Error::File`]; nothing is left behind.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob, Error> {
        let blob = Blob { digest: digest_of(bytes), size_bytes: bytes.len() as u64 };
        match self.has(&blob.digest) {
            true => Ok(blob),
            false => self.store(&mut &*bytes),
        }
    }

    /// Stores what `source` gives, reading it once.
    ///
    /// # Errors
    /// [`Error::File`]; nothing is left behind.
    pub fn store(&self, source: &mut dyn Read) -> Result<Blob, Error> {
        let mut temporary = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempfile_in(&self.root)
            .map_err(Error::file("could not write into", &self.root))?;
        let blob = copy(source, temporary.as_file_mut()).map_err(Error::file("could not copy into", &self.root))?;
        let path = self.path(&blob.digest);
        if path.is_file() {
            return Ok(blob);
        }
        let file = temporary.as_file();
        make_read_only(file).and_then(|()| file.sync_all()).map_err(Error::file("could not write", &path))?;
        temporary.persist(&path).map_err(|failed| Error::File {
            doing: "could not write",
            path,
            source: failed.error,
        })?;
        Ok(blob)
    }

    /// Reads a small blob whole, checked; at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::NoPackage`] when it is not there, [`Error::Damaged`] when its bytes changed, [`Error::Document`] when it is too large.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoPackage(*digest),
            _ => Error::File { doing: "could not open", path: path.clone(), source },
        })?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::file("could not read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(Error::Document {
                what: format!("blob {digest}"),
                why: format!("it is longer than {limit} bytes"),
            });
        }
        match digest_of(&bytes) {
            actual if actual == *digest => Ok(bytes),
            actual => Err(Error::Damaged { expected: *digest, actual }),
        }
    }

    /// Reads the whole blob and checks its digest.
    ///
    /// # Errors
    /// [`Error::Damaged`] when its bytes changed, [`Error::File`] when it cannot be read.
    pub fn verify(&self, digest: &Digest) -> Result<u64, Error> {
        let path = self.path(digest);
        let mut file = File::open(&path).map_err(Error::file("could not open", &path))?;
        let found = copy(&mut file, &mut io::sink()).map_err(Error::file("could not read", &path))?;
        match found.digest == *digest {
            true => Ok(found.size_bytes),
            false => Err(Error::Damaged { expected: *digest, actual: found.digest }),
        }
    }
}

fn make_read_only(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o444))
}
