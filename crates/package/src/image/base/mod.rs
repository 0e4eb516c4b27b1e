//! The image below: which layers it has, and what a program on it finds there.
//!
//! Promises: a base whose layers are not what its configuration says, or that swells beyond reason, is refused before anything is built on it; nothing of it
//! is unpacked.
//! Absent on purpose: zstd, which Modelyard does not read.

mod local;
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::Digest;
use modelyard_registry::blob::Blobs;
use modelyard_registry::manifest::{Descriptor, MAX_MANIFEST_BYTES};
use serde::Deserialize;
use serde_json::Value;

pub use self::local::import;
#[cfg(fuzzing)]
pub(crate) use self::scan::fuzz;
use super::ARCHITECTURE;
use super::elf::Glibc;
use super::error::ImageError;
use super::layer::{GZIP, Layer, TAR};

/// Longest configuration that is read, in bytes.
const MOST_CONFIG_BYTES: u64 = 4 << 20;

/// An image that others are put on. Its blobs are stored.
#[derive(Clone, Debug)]
pub struct Base {
    /// What it is called: `registry.example/python:3.12`.
    pub name: String,
    /// Digest of its manifest, for this platform.
    pub digest: Digest,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Its configuration.
    pub config: Value,
    /// Names of the shared libraries and loaders that it has.
    pub libraries: BTreeSet<String>,
    /// Which C library it has.
    pub glibc: Option<Glibc>,
    /// Interpreters of Python 3 by their minor version, with their path.
    pub pythons: BTreeMap<u32, String>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Base {
    /// Reads an image whose blobs are stored, every layer of it.
    ///
    /// # Errors
    /// [`ImageError::Base`] when it cannot be built on.
    pub fn read(blobs: &Blobs, name: &str, digest: &Digest) -> Result<Self, ImageError> {
        let wrong = |why: String| ImageError::Base { name: name.to_owned(), why, help: HELP };
        let bytes = blobs.read(digest, MAX_MANIFEST_BYTES)?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| wrong(format!("its manifest cannot be read: {error}")))?;
        let config = blobs.read(&manifest.config.digest, MOST_CONFIG_BYTES)?;
        let config: Value = serde_json::from_slice(&config)
            .map_err(|error| wrong(format!("its configuration cannot be read: {error}")))?;
        let (system, architecture) = (config["os"].as_str(), config["architecture"].as_str());
        if system != Some("linux") || architecture != Some(ARCHITECTURE) {
            let told = |part: Option<&str>| part.unwrap_or("?").chars().take(20).collect::<String>();
            let (system, architecture) = (told(system), told(architecture));
            return Err(wrong(format!("it is for {system}/{architecture}, and this is linux/{ARCHITECTURE}")));
        }
        let diffs = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
        if diffs.len() != manifest.layers.len() {
            let (said, there) = (diffs.len(), manifest.layers.len());
            return Err(wrong(format!("its configuration speaks of {said} layers, and it has {there}")));
        }
        let mut base = Self {
            name: name.to_owned(),
            digest: *digest,
            layers: Vec::new(),
            config,
            libraries: BTreeSet::new(),
            glibc: None,
            pythons: BTreeMap::new(),
        };
        for (layer, diff) in manifest.layers.into_iter().zip(diffs) {
            let diff: Digest = diff
                .as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| wrong("its configuration names a layer by what is no SHA-256 digest".to_owned()))?;
            let packed = kind(&layer.media_type).map_err(wrong)?;
            let found = scan::layer(blobs, &layer, packed, &diff)?;
            let found = found.map_err(|why| wrong(format!("layer {}: {why}", layer.digest)))?;
            base.libraries.extend(found.libraries);
            base.pythons.extend(found.pythons);
            base.glibc = found.glibc.or(base.glibc);
            let media_type = if packed { GZIP } else { TAR };
            let descriptor = Descriptor::new(media_type, layer.digest, layer.size);
            base.layers.push(Layer { what: "base".to_owned(), descriptor, diff, reused: true });
        }
        Ok(base)
    }
}

const HELP: &str = "nothing was built on it; tell those who made it, or choose another";

/// Whether layers of a media type are compressed.
fn kind(media_type: &str) -> Result<bool, String> {
    match media_type {
        GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(true),
        TAR | "application/vnd.docker.image.rootfs.diff.tar" => Ok(false),
        other => Err(format!("its layers of the type `{other:.100}` are not read, but tar and tar+gzip")),
    }
}
