//! Blobs: bytes named by their digest, `blobs/sha256/<hex>` as in the OCI image layout.
//!
//! Promises: a blob appears whole or not at all (temporary file, then rename), read-only, and never changes; memory stays flat;
//! storing the right bytes again mends a blob that was damaged.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

pub use crate::copying::Blob;
use crate::copying::{copy, fill, make_read_only};
use crate::storage::Bucket;
use crate::{Error, leftovers};

/// A folder of blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
    /// What has everything when the folder has not.
    bucket: Option<Arc<Bucket>>,
}

/// A blob that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name and length.
    pub blob: Blob,
    /// Whether it was there before.
    pub reused: bool,
}

/// The digest of some bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// 256 KiB: large enough that the hash, not the calls, sets the pace; small enough to stay in the processor's cache.
const CHUNK: usize = 256 << 10;

/// Hashes everything from `source`, giving each piece to `each` on the way; stops early when `each` says so.
fn hash(source: &mut dyn Read, mut each: impl FnMut(&[u8]) -> io::Result<bool>) -> io::Result<Option<Blob>> {
    let (mut hash, mut size_bytes, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let length = fill(source, &mut chunk)?;
        if length == 0 {
            return Ok(Some(Blob { digest: Digest::from_sha256(hash.finalize().into()), size_bytes }));
        }
        hash.update(&chunk[..length]);
        size_bytes += length as u64;
        if !each(&chunk[..length])? {
            return Ok(None);
        }
    }
}

/// The blob that `source` holds, when `other` holds the very same bytes; else `None`.
fn hash_if_same(source: &mut dyn Read, other: &mut dyn Read) -> io::Result<Option<Blob>> {
    let mut theirs = vec![0; CHUNK];
    let found =
        hash(source, |ours| Ok(fill(other, &mut theirs[..ours.len()])? == ours.len() && theirs.starts_with(ours)))?;
    let at_end = fill(other, &mut theirs[..1])? == 0;
    Ok(found.filter(|_| at_end))
}

impl Blobs {
    /// Opens the folder, making it if needed, and removes what writers that were killed left there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made.
    pub fn open(layout: &Path) -> Result<Self, Error> {
        let root = layout.join("blobs/sha256");
        fs::create_dir_all(&root).map_err(Error::file("could not make", &root))?;
        leftovers::sweep(&root);
        Ok(Self { root, bucket: None })
    }

    /// The same folder before a bucket, which has everything.
    #[must_use]
    pub(crate) fn before(mut self, bucket: Option<Arc<Bucket>>) -> Self {
        self.bucket = bucket;
        self
    }

    /// Fetches a blob into the folder if it is only in the bucket.
    fn bring(&self, digest: &Digest) -> Result<(), Error> {
        match &self.bucket {
            Some(bucket) if !self.path(digest).is_file() => bucket.bring(&digest.into(), &self.path(digest)).map(drop),
            _ => Ok(()),
        }
    }

    /// Keeps a blob of the folder in the bucket too.
    fn share(&self, digest: &Digest) -> Result<(), Error> {
        match &self.bucket {
            Some(bucket) if !bucket.touch(&digest.into())? => bucket.upload(&digest.into(), &self.path(digest)),
            _ => Ok(()),
        }
    }

    /// Where a blob is, or would be, as a file.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// Length of the blob, if it is there.
    ///
    /// # Errors
    /// [`Error::Storage`] when the bucket does not answer.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        match &self.bucket {
            Some(bucket) => bucket.size(&digest.into()),
            None => Ok(self.size_here(digest)),
        }
    }

    fn size_here(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.path(digest)).ok().filter(fs::Metadata::is_file).map(|facts| facts.len())
    }

    /// Marks a blob as cared for, so that no sweep takes it before it has a name; whether it is there.
    ///
    /// # Errors
    /// [`Error::Storage`] when the bucket does not answer.
    pub fn touch(&self, digest: &Digest) -> Result<bool, Error> {
        let here = self.touch_here(digest);
        self.bucket.as_ref().map_or(Ok(here), |bucket| bucket.touch(&digest.into()))
    }

    fn touch_here(&self, digest: &Digest) -> bool {
        let marked = File::open(self.path(digest)).map(|file| file.set_modified(SystemTime::now()));
        marked.is_ok()
    }

    /// Stores bytes.
    ///
    /// # Errors
    /// [`Error::File`]; nothing is left behind.
    pub fn put(&self, bytes: &[u8]) -> Result<Stored, Error> {
        let digest = digest_of(bytes);
        match fs::read(self.path(&digest)) {
            Ok(there) if there == bytes && self.touch_here(&digest) => {
                self.share(&digest)?;
                Ok(Stored { blob: Blob { digest, size_bytes: bytes.len() as u64 }, reused: true })
            }
            _ => self.store(&mut &*bytes),
        }
    }

    /// Stores what `source` gives, reading it once.
    ///
    /// # Errors
    /// [`Error::File`]; nothing is left behind.
    pub fn store(&self, source: &mut dyn Read) -> Result<Stored, Error> {
        let failed = |source| Error::File { doing: "could not write into", path: self.root.clone(), source };
        let mut temporary = leftovers::file_in(&self.root).map_err(failed)?;
        let sink = temporary.as_file_mut();
        let blob = copy(source, sink).map_err(Error::file("could not copy into", &self.root))?;
        let reused = self.is_same(temporary.as_file_mut(), &blob).map_err(failed)? && self.touch_here(&blob.digest);
        if !reused {
            self.keep(temporary, &blob)?;
        }
        self.share(&blob.digest)?;
        Ok(Stored { blob, reused })
    }

    /// Stores a file that is probably here already, as `likely`: then it is only compared, and nothing is written.
    ///
    /// # Errors
    /// [`Error::File`]; nothing is left behind.
    pub fn store_again(&self, source: &mut File, likely: &Digest) -> Result<Stored, Error> {
        if let Some(blob) = self.compared(source, likely)? {
            return Ok(Stored { blob, reused: true });
        }
        self.store(source)
    }

    /// Stores what `source` gives, if it has the digest `expected`, and mends a blob that was damaged; reads all of it in any case.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes have another digest; [`Error::File`]. Nothing is left behind.
    pub fn store_expected(&self, source: &mut (impl Read + Seek), expected: &Digest) -> Result<Stored, Error> {
        if let Some(blob) = self.compared(source, expected)? {
            return Ok(Stored { blob, reused: true });
        }
        let mut temporary = leftovers::file_in(&self.root).map_err(Error::file("could not write into", &self.root))?;
        let sink = temporary.as_file_mut();
        let blob = copy(source, sink).map_err(Error::file("could not copy into", &self.root))?;
        if blob.digest != *expected {
            return Err(Error::Damaged { expected: *expected, actual: blob.digest });
        }
        self.keep(temporary, &blob)?;
        self.share(expected)?;
        Ok(Stored { blob, reused: false })
    }

    /// The blob `likely`, cared for and shared, if `source` has its very bytes; else `source` stands at its start again.
    fn compared(&self, source: &mut (impl Read + Seek), likely: &Digest) -> Result<Option<Blob>, Error> {
        let Ok(mut there) = File::open(self.path(likely)) else { return Ok(None) };
        let cannot_read = || Error::file("could not read", &self.root);
        let same = hash_if_same(source, &mut there).map_err(cannot_read())?;
        let same = same.filter(|blob| blob.digest == *likely && self.touch_here(likely));
        match same {
            Some(_) => self.share(likely)?,
            None => source.rewind().map_err(cannot_read())?,
        }
        Ok(same)
    }

    fn is_same(&self, written: &mut File, blob: &Blob) -> io::Result<bool> {
        if self.size_here(&blob.digest) != Some(blob.size_bytes) {
            return Ok(false);
        }
        written.rewind()?;
        let mut there = File::open(self.path(&blob.digest))?;
        Ok(hash_if_same(written, &mut there)?.is_some())
    }

    /// Gives a written blob its name, in place of a damaged one if need be.
    fn keep(&self, temporary: NamedTempFile, blob: &Blob) -> Result<(), Error> {
        let path = self.path(&blob.digest);
        let file = temporary.as_file();
        make_read_only(file, false).and_then(|()| file.sync_all()).map_err(Error::file("could not write", &path))?;
        let kept = temporary.persist(&path).map_err(|failed| failed.error);
        kept.map(drop).map_err(Error::file("could not write", path))
    }

    /// Waits until the names of all blobs are on the disk: what refers to them may be written then.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        File::open(&self.root).and_then(|root| root.sync_all()).map_err(Error::file("could not write", &self.root))
    }

    /// The blob as a file, fetched if need be; its bytes are not checked.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when it is not there, [`Error::Storage`] when the bucket does not answer, [`Error::File`] when it cannot be read.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        self.bring(digest)?;
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoBlob(*digest),
            _ => Error::File { doing: "could not open", path, source },
        })
    }

    /// Reads a small blob whole, checked; at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when it is not there, [`Error::Damaged`] when its bytes changed, [`Error::Document`] when it is too large.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(Error::file("could not read", self.path(digest)))?;
        if bytes.len() as u64 > limit {
            let why = format!("it is longer than {limit} bytes");
            return Err(Error::Document { what: format!("blob {digest}"), why });
        }
        match digest_of(&bytes) {
            actual if actual == *digest => Ok(bytes),
            actual => Err(Error::Damaged { expected: *digest, actual }),
        }
    }

    /// Reads the whole blob and checks its digest; returns its length.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when it is not there, [`Error::Damaged`] when its bytes changed, [`Error::File`] when it cannot be read.
    pub fn verify(&self, digest: &Digest) -> Result<u64, Error> {
        let found = hash(&mut self.open_blob(digest)?, |_| Ok(true));
        match found.map_err(Error::file("could not read", self.path(digest)))? {
            Some(found) if found.digest == *digest => Ok(found.size_bytes),
            found => Err(Error::Damaged { expected: *digest, actual: found.map_or(*digest, |found| found.digest) }),
        }
    }
}

/// Reads all of `source`, which must have the digest `expected`.
pub(crate) fn check(source: &mut dyn Read, expected: &Digest) -> Result<(), Error> {
    let found = hash(source, |_| Ok(true)).map_err(Error::file("could not read blob", expected.to_string()))?;
    match found {
        Some(found) if found.digest == *expected => Ok(()),
        found => Err(Error::Damaged { expected: *expected, actual: found.map_or(*expected, |found| found.digest) }),
    }
}

/// Whether the file at `path` has exactly this content.
pub(crate) fn has_digest(path: &Path, digest: &Digest) -> bool {
    let hashed = File::open(path).and_then(|mut file| hash(&mut file, |_| Ok(true)));
    matches!(hashed, Ok(Some(found)) if found.digest == *digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(path: &Path, bytes: &[u8]) {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_same_bytes_are_stored_once_and_nothing_else_stays() {
        let home = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(home.path()).unwrap();
        let first = blobs.store(&mut &b"hello"[..]).unwrap();
        assert!(
            !first.reused && blobs.store(&mut &b"hello"[..]).unwrap().reused && blobs.put(b"hello").unwrap().reused
        );
        assert_eq!(fs::read_dir(home.path().join("blobs/sha256")).unwrap().count(), 1);
        assert_eq!(blobs.size(&first.blob.digest).unwrap(), Some(5));
    }

    #[test]
    fn storing_again_mends_a_damaged_blob() {
        let home = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(home.path()).unwrap();
        let original = vec![7; 3 * CHUNK + 1];
        let digest = blobs.put(&original).unwrap().blob.digest;
        let path = blobs.path(&digest);
        let source = home.path().join("source");
        fs::write(&source, &original).unwrap();
        let longer: Vec<u8> = original.iter().copied().chain([7]).collect();
        let mut flipped = original.clone();
        flipped[2 * CHUNK] ^= 1;
        for damaged in [&original[1..], &longer, &flipped, &[]] {
            damage(&path, damaged);
            assert!(!blobs.store_again(&mut File::open(&source).unwrap(), &digest).unwrap().reused);
            assert_eq!(blobs.verify(&digest).unwrap(), original.len() as u64);
            damage(&path, damaged);
            assert!(!blobs.put(&original).unwrap().reused);
            assert_eq!(blobs.verify(&digest).unwrap(), original.len() as u64);
        }
        assert!(blobs.store_again(&mut File::open(&source).unwrap(), &digest).unwrap().reused);
    }

    #[test]
    fn a_wrong_guess_costs_nothing_but_time() {
        let home = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(home.path()).unwrap();
        let other = blobs.put(b"other").unwrap().blob.digest;
        let source = home.path().join("source");
        fs::write(&source, "words").unwrap();
        for guess in [other, digest_of(b"nowhere")] {
            let stored = blobs.store_again(&mut File::open(&source).unwrap(), &guess).unwrap();
            assert_eq!(stored.blob, Blob { digest: digest_of(b"words"), size_bytes: 5 });
        }
        assert_eq!(blobs.read(&digest_of(b"words"), 5).unwrap(), b"words");
        assert!(matches!(blobs.read(&digest_of(b"words"), 4), Err(Error::Document { .. })));
        assert!(matches!(blobs.verify(&digest_of(b"nowhere")), Err(Error::NoBlob(_))));
    }
}
