//! What is uploaded: a file or some bytes, with everything that is announced of it.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_core::Digest;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use sha2::{Digest as _, Sha256};

use super::error::ArtefactError;

/// Something to upload.
#[derive(Clone, Debug)]
pub struct Content {
    source: Source,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// SHA-1 in hexadecimal: what Nexus says of what it has. Nothing depends on it but the comparison with that.
    pub(super) sha1: String,
}

#[derive(Clone, Debug)]
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Content {
    /// A file, which is read once.
    pub fn of_file(path: &Path) -> Result<Self, ArtefactError> {
        let failed = |source| ArtefactError::File { doing: "could not read", path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        Self::read(file, Source::File(path.to_owned())).map_err(failed)
    }

    /// Bytes.
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        let (digest, size_bytes) = (crate::blob::digest_of(&bytes), bytes.len() as u64);
        let mut sha1 = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        sha1.update(&bytes);
        Self { source: Source::Bytes(bytes), digest, size_bytes, sha1: hex(sha1) }
    }

    fn read(mut from: impl Read, source: Source) -> io::Result<Self> {
        let (mut sha256, mut sha1, mut size_bytes) = (Sha256::new(), Context::new(&SHA1_FOR_LEGACY_USE_ONLY), 0);
        let mut chunk = vec![0; 256 << 10];
        loop {
            let length = from.read(&mut chunk)?;
            if length == 0 {
                let digest = Digest::from_sha256(sha256.finalize().into());
                return Ok(Self { source, digest, size_bytes, sha1: hex(sha1) });
            }
            sha256.update(&chunk[..length]);
            sha1.update(&chunk[..length]);
            size_bytes += length as u64;
        }
    }

    /// The bytes, from the start.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match &self.source {
            Source::File(path) => Box::new(File::open(path)?),
            Source::Bytes(bytes) => Box::new(Cursor::new(bytes)),
        })
    }

    /// As RFC 9530 writes it.
    pub(super) fn content_digest(&self) -> String {
        format!("sha-256=:{}:", STANDARD.encode(self.digest.as_bytes()))
    }
}

fn hex(sha1: Context) -> String {
    sha1.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_announced_is_right() {
        // Source: FIPS 180-4 examples for `abc`.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        for content in [Content::of_file(&path).unwrap(), Content::of_bytes(b"abc".to_vec())] {
            assert_eq!(content.digest.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
            assert_eq!(content.sha1, "a9993e364706816aba3e25717850c26c9cd0d89d");
            assert_eq!(content.content_digest(), "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:");
            let mut bytes = Vec::new();
            content.open().unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, b"abc");
        }
    }
}
