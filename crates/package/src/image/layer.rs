//! Layers as blobs of the local registry.
//!
//! Promises: weights are stored as they are, so that their digest is that of their content; what is compressed is compressed once and then found again
//! by its content.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use modelyard_core::Digest;
use modelyard_registry::blob::Blobs;
use modelyard_registry::manifest::Descriptor;
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::tape::Entries;

/// Media type of a layer that is a tar file. Source: OCI image specification 1.1, "Image Layer Filesystem Changeset".
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a layer that is a gzipped tar file.
pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What it holds, in words.
    pub what: String,
    /// Its blob.
    pub descriptor: Descriptor,
    /// Digest of the tar file in it.
    pub diff: Digest,
    /// Whether the registry had it before.
    pub reused: bool,
}

/// Stores a layer as it is.
pub fn plain(blobs: &Blobs, what: &str, entries: &Entries) -> Result<Layer, ImageError> {
    let mut tape = entries.read().map_err(failed(what))?;
    let stored = blobs.store(&mut tape).map_err(|error| unwrapped(what, error))?;
    let descriptor = Descriptor::new(TAR, stored.blob.digest, stored.blob.size_bytes);
    Ok(Layer { what: what.to_owned(), diff: stored.blob.digest, descriptor, reused: stored.reused })
}

/// Stores a layer compressed. `known` is a folder that remembers what was compressed before.
pub fn packed(blobs: &Blobs, what: &str, entries: &Entries, known: Option<&Path>) -> Result<Layer, ImageError> {
    let diff = digest_of(&mut entries.read().map_err(failed(what))?).map_err(failed(what))?;
    let note = known.map(|folder| folder.join(diff.hex()));
    if let Some(descriptor) = note.as_deref().and_then(|note| remembered(blobs, note)) {
        return Ok(Layer { what: what.to_owned(), descriptor, diff, reused: true });
    }
    let mut tape = Hashed { source: entries.read().map_err(failed(what))?, hash: Sha256::new() };
    let stored = {
        // No time, no name, and 255 for the system: whoever compresses it gets the same bytes. 6: twice the pace of 9 for a hundredth more.
        let mut packing = GzBuilder::new().mtime(0).operating_system(255).read(&mut tape, Compression::new(6));
        blobs.store(&mut packing).map_err(|error| unwrapped(what, error))?
    };
    if Digest::from_sha256(tape.hash.finalize().into()) != diff {
        return Err(failed(what)(io::Error::other("a file changed while it was read")));
    }
    let descriptor = Descriptor::new(GZIP, stored.blob.digest, stored.blob.size_bytes);
    if let Some(note) = note {
        // A note that cannot be written costs time, not correctness.
        let _ = note.parent().map(fs::create_dir_all);
        let _ = fs::write(&note, format!("{} {}", descriptor.digest, descriptor.size));
    }
    Ok(Layer { what: what.to_owned(), descriptor, diff, reused: stored.reused })
}

/// The blob that a note names, if it is there and whole.
fn remembered(blobs: &Blobs, note: &Path) -> Option<Descriptor> {
    let text = fs::read_to_string(note).ok()?;
    let (digest, size) = text.split_once(' ')?;
    let (digest, size): (Digest, u64) = (digest.parse().ok()?, size.parse().ok()?);
    let there = blobs.verify(&digest).ok()? == size && blobs.touch(&digest).ok()?;
    there.then(|| Descriptor::new(GZIP, digest, size))
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> ImageError {
    let what = what.to_owned();
    move |source| ImageError::Layer { what, source }
}

/// An error of the source is told as that, not as one of the registry.
fn unwrapped(what: &str, error: modelyard_registry::Error) -> ImageError {
    match error {
        modelyard_registry::Error::File { source, .. } if source.kind() == io::ErrorKind::Other => failed(what)(source),
        other => other.into(),
    }
}

/// SHA-256 of everything that a reader gives.
pub fn digest_of(source: &mut dyn Read) -> io::Result<Digest> {
    let mut hashed = Hashed { source, hash: Sha256::new() };
    io::copy(&mut hashed, &mut io::sink())?;
    Ok(Digest::from_sha256(hashed.hash.finalize().into()))
}

struct Hashed<R> {
    source: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}

/// How far a layer may swell: so many times its own length, and [`SWELL_BYTES`] more. Programs shrink to a third.
const SWELL: u64 = 100;

/// What a small layer may hold in any case, in bytes.
const SWELL_BYTES: u64 = 64 << 20;

/// The tar file of a layer while it is read from end to end: how much it may be is bounded, and it is held against its digest.
pub struct Content<R> {
    source: Hashed<io::Take<R>>,
    most: u64,
}

impl<R: Read> Content<R> {
    /// What `source` gives of a layer whose blob has `size` bytes.
    pub fn of(source: R, size: u64) -> Self {
        let most = size.saturating_mul(SWELL).saturating_add(SWELL_BYTES);
        Self { source: Hashed { source: source.take(most), hash: Sha256::new() }, most }
    }

    /// Reads the rest, and gives back what was `read` of it, unless the whole is too much or not what was said. In words what is wrong.
    pub fn end<T>(mut self, read: Result<T, String>, said: &Digest) -> Result<T, String> {
        let read = read.and_then(|read| {
            // What stands behind the last entry belongs to the digest too.
            io::copy(&mut self.source, &mut io::sink()).map_err(|error| damaged(&error))?;
            Ok(read)
        });
        if self.source.source.limit() == 0 {
            return Err(format!("it swells beyond reason, past {} bytes", self.most));
        }
        let actual = Digest::from_sha256(self.source.hash.finalize().into());
        read.and_then(|read| match actual == *said {
            true => Ok(read),
            false => Err(format!("its content has digest {actual}, and the configuration says {said}")),
        })
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer)
    }
}

/// What is wrong with a layer that cannot be read.
pub fn damaged(error: &io::Error) -> String {
    format!("it is damaged: {error}")
}
