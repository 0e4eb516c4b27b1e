//! Where blobs are kept: in a folder, or in a bucket with a folder of this machine before it.
//!
//! Promises: a blob is there whole or not at all; both stores keep the same contract (`tests/storage.rs`).

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Bucket, verified};
use crate::copying::make_read_only;
use crate::digest::{Algorithm, AnyDigest};
use crate::{Error, leftovers};

/// Blobs by digest, of either algorithm.
pub(crate) trait BlobStore: Debug + Send + Sync {
    /// Length of a blob, if it is there.
    fn size(&self, digest: &AnyDigest) -> Result<Option<u64>, Error>;

    /// Marks a blob as cared for, so that no sweep takes it before it has a name; whether it is there.
    fn touch(&self, digest: &AnyDigest) -> Result<bool, Error>;

    /// Brings the bytes of a sealed file to where [`BlobStore::keep`] will want them: what takes long is done before anybody is kept waiting.
    fn send(&self, digest: &AnyDigest, sealed: &Path) -> Result<(), Error>;

    /// Keeps a sealed file, whose digest was checked, as this blob. It may be moved away; its name is on the disk after [`BlobStore::settle`].
    fn keep(&self, digest: &AnyDigest, sealed: &Path) -> Result<(), Error>;

    /// Waits until the names of blobs that were kept are on the disk.
    fn settle(&self, digests: &[&AnyDigest]) -> Result<(), Error>;

    /// Keeps these bytes, whose digest was checked.
    fn put(&self, digest: &AnyDigest, bytes: &[u8]) -> Result<(), Error>;

    /// The bytes of a blob of at most `limit` bytes, not checked.
    fn read(&self, digest: &AnyDigest, limit: u64) -> Result<Vec<u8>, Error>;

    /// Where the bytes of a blob can be read.
    fn open(&self, digest: &AnyDigest) -> Result<Source, Error>;

    /// Reads the whole blob where it is kept and checks its digest; its length.
    fn verify(&self, digest: &AnyDigest) -> Result<u64, Error>;

    /// Every blob.
    fn list(&self) -> Result<Vec<Object>, Error>;

    /// Removes a blob.
    fn remove(&self, digest: &AnyDigest) -> Result<(), Error>;

    /// Removes copies that are older than `grace` and of which nothing is known any more.
    fn forget_copies(&self, is_used: &dyn Fn(&AnyDigest) -> bool, grace: Duration) -> Result<(), Error>;
}

/// Where the bytes of a blob can be read.
pub(crate) enum Source {
    /// In a file of this machine.
    File(File),
    /// In the bucket.
    Bucket(Arc<Bucket>),
}

/// One blob of a list.
pub(crate) struct Object {
    /// Which one.
    pub digest: AnyDigest,
    /// Its length in bytes.
    pub size: u64,
    /// How long nobody has cared for it; none if its time lies ahead.
    pub age: Option<Duration>,
}

/// A folder as in the OCI image layout: `blobs/<algorithm>/<hex>`.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The blobs of the layout at `layout`.
    pub fn new(layout: &Path) -> Self {
        Self { root: layout.join("blobs") }
    }

    fn path(&self, digest: &AnyDigest) -> PathBuf {
        self.root.join(digest.algorithm().name()).join(digest.hex())
    }

    /// A written file gets its name.
    fn name(&self, digest: &AnyDigest, rename: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Error> {
        let path = self.path(digest);
        let folder = path.parent().unwrap_or(&self.root);
        let named = fs::create_dir_all(folder).and_then(|()| rename(&path));
        named.map_err(Error::file("could not write", &path))
    }
}

impl BlobStore for Folder {
    fn size(&self, digest: &AnyDigest) -> Result<Option<u64>, Error> {
        Ok(fs::metadata(self.path(digest)).ok().filter(fs::Metadata::is_file).map(|facts| facts.len()))
    }

    fn touch(&self, digest: &AnyDigest) -> Result<bool, Error> {
        Ok(File::open(self.path(digest)).is_ok_and(|file| {
            let _ = file.set_modified(SystemTime::now());
            true
        }))
    }

    fn send(&self, _digest: &AnyDigest, _sealed: &Path) -> Result<(), Error> {
        Ok(()) // it is in the right file system
    }

    fn keep(&self, digest: &AnyDigest, sealed: &Path) -> Result<(), Error> {
        self.name(digest, |path| fs::rename(sealed, path))
    }

    fn settle(&self, digests: &[&AnyDigest]) -> Result<(), Error> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            if digests.iter().any(|digest| digest.algorithm() == algorithm) {
                let folder = self.root.join(algorithm.name());
                File::open(&folder)
                    .and_then(|file| file.sync_all())
                    .map_err(Error::file("could not write", &folder))?;
            }
        }
        Ok(())
    }

    fn put(&self, digest: &AnyDigest, bytes: &[u8]) -> Result<(), Error> {
        self.name(digest, |path| {
            if fs::read(path).is_ok_and(|there| there == bytes) && self.touch(digest).unwrap_or(false) {
                return Ok(());
            }
            let mut file = leftovers::file_in(path.parent().unwrap_or(&self.root))?;
            file.write_all(bytes)?;
            make_read_only(file.as_file(), false)?;
            file.as_file().sync_all()?;
            file.persist(path).map(drop).map_err(|failed| failed.error)
        })?;
        self.settle(&[digest])
    }

    fn read(&self, digest: &AnyDigest, limit: u64) -> Result<Vec<u8>, Error> {
        let (path, mut bytes) = (self.path(digest), Vec::new());
        let read = File::open(&path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        read.map(|_| bytes).map_err(Error::file("could not read", path))
    }

    fn open(&self, digest: &AnyDigest) -> Result<Source, Error> {
        let path = self.path(digest);
        File::open(&path).map(Source::File).map_err(Error::file("could not open", path))
    }

    fn verify(&self, digest: &AnyDigest) -> Result<u64, Error> {
        let path = self.path(digest);
        let hashed = File::open(&path).and_then(|mut file| verified::hash(&mut file, digest.algorithm()));
        let (found, length) = hashed.map_err(Error::file("could not read", path))?;
        compared(digest, &found).map(|()| length)
    }

    fn list(&self) -> Result<Vec<Object>, Error> {
        let mut objects = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = self.root.join(algorithm.name());
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(Error::file("could not list", &folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(Error::file("could not list", &folder))?;
                // What is being written has another kind of name.
                let Ok(digest) = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy()).parse() else {
                    continue;
                };
                let Ok(facts) = entry.metadata() else { continue };
                let age = facts.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
                objects.push(Object { digest, size: facts.len(), age });
            }
        }
        Ok(objects)
    }

    fn remove(&self, digest: &AnyDigest) -> Result<(), Error> {
        let path = self.path(digest);
        fs::remove_file(&path).map_err(Error::file("could not remove", path))
    }

    fn forget_copies(&self, _is_used: &dyn Fn(&AnyDigest) -> bool, _grace: Duration) -> Result<(), Error> {
        Ok(()) // there are none
    }
}

/// A bucket, which has everything, and a folder before it, which has what this machine made or needed as files.
#[derive(Debug)]
pub(crate) struct Shared {
    folder: Folder,
    bucket: Arc<Bucket>,
}

impl Shared {
    /// The folder before the bucket.
    pub fn new(folder: Folder, bucket: Arc<Bucket>) -> Self {
        Self { folder, bucket }
    }
}

impl BlobStore for Shared {
    fn size(&self, digest: &AnyDigest) -> Result<Option<u64>, Error> {
        self.bucket.size(digest)
    }

    fn touch(&self, digest: &AnyDigest) -> Result<bool, Error> {
        self.folder.touch(digest)?;
        self.bucket.touch(digest)
    }

    fn send(&self, digest: &AnyDigest, sealed: &Path) -> Result<(), Error> {
        self.bucket.upload(digest, sealed)
    }

    fn keep(&self, digest: &AnyDigest, sealed: &Path) -> Result<(), Error> {
        let length = fs::metadata(sealed).map_err(Error::file("could not read", sealed))?.len();
        // A sweep without grace may have taken it since it was sent; now there is none.
        if self.bucket.size(digest)? == Some(length) { Ok(()) } else { self.bucket.upload(digest, sealed) }
    }

    fn settle(&self, _digests: &[&AnyDigest]) -> Result<(), Error> {
        Ok(()) // a bucket says so once it is there
    }

    fn put(&self, digest: &AnyDigest, bytes: &[u8]) -> Result<(), Error> {
        self.bucket.put(digest, bytes.to_vec())?;
        self.folder.put(digest, bytes)
    }

    fn read(&self, digest: &AnyDigest, limit: u64) -> Result<Vec<u8>, Error> {
        if let Ok(bytes) = self.folder.read(digest, limit)
            && AnyDigest::of(digest.algorithm(), &bytes) == *digest
        {
            return Ok(bytes);
        }
        let bytes = self.bucket.read(digest, limit)?;
        if AnyDigest::of(digest.algorithm(), &bytes) == *digest {
            // Without the copy the next one waits longer, and that is all.
            let _ = self.folder.put(digest, &bytes);
        }
        Ok(bytes)
    }

    fn open(&self, digest: &AnyDigest) -> Result<Source, Error> {
        Ok(self.folder.open(digest).unwrap_or_else(|_| Source::Bucket(Arc::clone(&self.bucket))))
    }

    fn verify(&self, digest: &AnyDigest) -> Result<u64, Error> {
        let (found, length) = self.bucket.hash(digest)?;
        compared(digest, &found).map(|()| length)
    }

    fn list(&self) -> Result<Vec<Object>, Error> {
        self.bucket.list()
    }

    fn remove(&self, digest: &AnyDigest) -> Result<(), Error> {
        self.bucket.remove(digest)?;
        if self.folder.size(digest)?.is_some() { self.folder.remove(digest) } else { Ok(()) }
    }

    fn forget_copies(&self, is_used: &dyn Fn(&AnyDigest) -> bool, grace: Duration) -> Result<(), Error> {
        let copies = self.folder.list()?.into_iter();
        let mut stale = copies.filter(|copy| !is_used(&copy.digest) && copy.age.is_some_and(|age| age >= grace));
        stale.try_for_each(|copy| self.folder.remove(&copy.digest))
    }
}

fn compared(expected: &AnyDigest, found: &AnyDigest) -> Result<(), Error> {
    match (found == expected, expected.sha256(), found.sha256()) {
        (true, ..) => Ok(()),
        (false, Some(expected), Some(actual)) => Err(Error::Damaged { expected, actual }),
        _ => Err(Error::Document { what: format!("blob {expected}"), why: verified::CHANGED.to_owned() }),
    }
}
