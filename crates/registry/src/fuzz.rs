//! Doors for the fuzz targets to parsers that nobody else calls from outside. Compiled for fuzzing only.

use std::fs::File;

use crate::{distribution, python};

/// A pushed manifest, under each media type that it may claim.
pub fn pushed(bytes: &[u8]) {
    distribution::fuzz_manifest(bytes);
}

/// A `Range` and a `Content-Range` for a blob of `size` bytes.
pub fn range(text: &[u8], size: u64) {
    distribution::fuzz_range(text, size);
}

/// The archive of a wheel and of a source distribution.
pub fn archive(file: &mut File) {
    python::fuzz_archive(file);
}

/// A bundle.
pub fn bundle(bytes: &[u8]) {
    crate::bundle::fuzz(bytes);
}
