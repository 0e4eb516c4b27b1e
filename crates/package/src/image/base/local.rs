//! Images that lie on this machine: an OCI layout as a folder, or as an archive (`skopeo copy … oci-archive:FILE`, `docker save` since version 25).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use modelyard_registry::blob::Blobs;
use modelyard_registry::client::FoundImage;
use modelyard_registry::manifest::{Descriptor, MAX_MANIFEST_BYTES};
use serde::Deserialize;

use crate::image::ARCHITECTURE;
use crate::image::error::ImageError;

/// Most entries of an archive.
const MOST_ENTRIES: usize = 10_000;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// Where the files of a layout are.
enum Layout {
    Folder(PathBuf),
    /// Start and length of each.
    Archive(PathBuf, BTreeMap<String, (u64, u64)>),
}

/// Stores the blobs of the one image that lies at `path`.
///
/// # Errors
/// [`ImageError::Base`] when there is none, or not one.
pub fn import(blobs: &Blobs, path: &Path) -> Result<FoundImage, ImageError> {
    let name = path.display().to_string();
    let wrong = |why: String| ImageError::Base {
        name: name.clone(),
        why,
        help: "an OCI layout is wanted, as a folder or an archive: `skopeo copy docker-archive:FILE oci-archive:OTHER` makes one of what an older `docker save` wrote",
    };
    let layout = Layout::open(path).map_err(wrong)?;
    let index = layout.small("index.json").map_err(wrong)?;
    let index: Index =
        serde_json::from_slice(&index).map_err(|error| wrong(format!("its index cannot be read: {error}")))?;
    let [listed] = &index.manifests[..] else {
        return Err(wrong(format!("it lists {} images, and one is wanted", index.manifests.len())));
    };
    let read = |digest: &Digest| layout.small(&place(digest)).map_err(wrong);
    let first = read(&listed.digest)?;
    let found = FoundImage::choose(first, ARCHITECTURE, wrong, read)?;
    if found.asked != listed.digest {
        return Err(wrong(format!("manifest {} has other bytes", listed.digest)));
    }
    for part in &found.parts {
        let source = layout.part(&place(&part.digest), part.size).map_err(wrong)?;
        let stored = blobs.store(&mut source.take(part.size))?;
        if stored.blob.digest != part.digest {
            return Err(wrong(format!("blob {} has other bytes, of digest {}", part.digest, stored.blob.digest)));
        }
    }
    blobs.put(&found.manifest)?;
    Ok(found)
}

fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Layout {
    fn open(path: &Path) -> Result<Self, String> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let file = File::open(path).map_err(|error| error.to_string())?;
        let damaged = |error: std::io::Error| format!("the archive is damaged: {error}");
        let mut archive = tar::Archive::new(file);
        let mut found = BTreeMap::new();
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            if found.len() >= MOST_ENTRIES {
                return Err(format!("the archive has more than {MOST_ENTRIES} entries"));
            }
            // Nothing is unpacked: a path only names what is looked for below.
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            if entry.header().entry_type().is_file() {
                found.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(Self::Archive(path.to_owned(), found))
    }

    /// A document of the layout.
    fn small(&self, name: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = self.find(name)?.0.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| format!("{name}: {error}"))?;
        match bytes.len() as u64 > MAX_MANIFEST_BYTES {
            true => Err(format!("{name} is longer than {MAX_MANIFEST_BYTES} bytes")),
            false => Ok(bytes),
        }
    }

    /// A blob of the layout, which must have this length.
    fn part(&self, name: &str, size: u64) -> Result<Box<dyn Read>, String> {
        match self.find(name)? {
            (source, length) if length == size => Ok(source),
            (_, length) => Err(format!("{name} has {length} bytes, and its manifest says {size}")),
        }
    }

    fn find(&self, name: &str) -> Result<(Box<dyn Read>, u64), String> {
        let failed = |error: std::io::Error| format!("{name}: {error}");
        match self {
            Self::Folder(root) => {
                let file = File::open(root.join(name)).map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                Ok((Box::new(file), length))
            }
            Self::Archive(path, entries) => {
                let (start, length) = entries.get(name).ok_or_else(|| format!("it has no {name}"))?;
                let mut file = File::open(path).map_err(failed)?;
                file.seek(SeekFrom::Start(*start)).map_err(failed)?;
                Ok((Box::new(file.take(*length)), *length))
            }
        }
    }
}
