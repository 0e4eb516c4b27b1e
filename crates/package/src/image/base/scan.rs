//! One layer of a base, read from end to end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read};

use flate2::read::MultiGzDecoder;
use modelyard_core::Digest;
use modelyard_registry::blob::Blobs;
use modelyard_registry::manifest::Descriptor;

use crate::image::elf::{self, Glibc};
use crate::image::error::ImageError;
use crate::image::layer::{Content, damaged};

/// Longest C library that is looked into, in bytes: they have 2 MiB.
const MOST_LIBC_BYTES: u64 = 16 << 20;

/// Most files of a layer.
const MOST_FILES: usize = 1_000_000;

/// What a layer has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Names of shared libraries and loaders.
    pub libraries: BTreeSet<String>,
    /// Which C library is in it.
    pub glibc: Option<Glibc>,
    /// Interpreters of Python 3 by their minor version, with their path.
    pub pythons: BTreeMap<u32, String>,
}

/// Reads a layer: its bytes must be those of its digest, and its tar file that of `diff`. What is wrong with it is told in words.
pub fn layer(
    blobs: &Blobs,
    layer: &Descriptor,
    packed: bool,
    diff: &Digest,
) -> Result<Result<Scanned, String>, ImageError> {
    if blobs.verify(&layer.digest)? != layer.size {
        return Ok(Err("it has another length than its manifest says".to_owned()));
    }
    let file = BufReader::with_capacity(256 << 10, blobs.open_blob(&layer.digest)?);
    let source: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut content = Content::of(source, layer.size);
    let scanned = entries(&mut content);
    Ok(content.end(scanned, diff))
}

fn entries(source: &mut dyn Read) -> Result<Scanned, String> {
    let mut found = Scanned::default();
    let mut archive = tar::Archive::new(source);
    for (count, entry) in archive.entries().map_err(|error| damaged(&error))?.enumerate() {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        if count >= MOST_FILES {
            return Err(format!("it has more than {MOST_FILES} files"));
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if path.split('/').any(|part| part == "..") {
            return Err(format!("the path `{path:.200}` leaves the root"));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if let Some(minor) = python(&path) {
            let path = format!("/{}", path.trim_start_matches("./").trim_start_matches('/'));
            found.pythons.insert(minor, path);
        }
        if !name.contains(".so") {
            continue;
        }
        let is_libc = name == "libc.so.6" || (name.starts_with("libc-2.") && name.ends_with(".so"));
        if is_libc && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            let read = entry.by_ref().take(MOST_LIBC_BYTES).read_to_end(&mut bytes);
            read.map_err(|error| damaged(&error))?;
            found.glibc = found.glibc.max(elf::offered(&bytes));
        }
        found.libraries.insert(name.to_owned());
    }
    Ok(found)
}

/// The minor version of an interpreter that lies where interpreters do: `usr/local/bin/python3.12`.
fn python(path: &str) -> Option<u32> {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let (folder, name) = path.rsplit_once('/')?;
    let known = ["usr/local/bin", "usr/bin", "bin"].contains(&folder) || folder.starts_with("opt/");
    name.strip_prefix("python3.").filter(|_| known)?.parse().ok()
}

/// A layer with these bytes.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let _ = entries(&mut &bytes[..]);
}
