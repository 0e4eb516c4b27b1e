//! The archive: one tar file that is an OCI image layout and what `docker load` of every version takes.
//!
//! Source: OCI image specification 1.1, "Image Layout"; Docker's image specification 1.2, "Combined Image JSON + Filesystem Changeset Format".

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use modelyard_core::Digest;
use modelyard_registry::blob::Blobs;
use modelyard_registry::manifest::{ARCHITECTURE, INDEX, MANIFEST, REF_NAME};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Image;
use super::error::ImageError;
use super::tape::Entries;
use crate::canonical;
use crate::written::Written;

/// Annotation of an index: the whole name, which containerd gives an image that it imports.
const NAME: &str = "io.containerd.image.name";

/// Writes an image to `path`, in place of what is there. Every blob is checked on its way.
///
/// # Errors
/// [`ImageError`]; what was there stays.
pub fn archive(blobs: &Blobs, image: &Image, path: &Path) -> Result<Written, ImageError> {
    let entries = entries(blobs, image)?;
    Written::whole(path, |file| copy(&mut entries.read()?, file)).map_err(ImageError::file(path))
}

fn entries(blobs: &Blobs, image: &Image) -> Result<Entries, ImageError> {
    let place = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let tag = image.name.split_once(':').map_or("latest", |(_, tag)| tag);
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST, "digest": image.digest, "size": image.manifest.len(),
            "platform": { "architecture": ARCHITECTURE, "os": "linux" },
            "annotations": { REF_NAME: tag, NAME: format!("docker.io/library/{}", image.name) },
        }],
    });
    let layers: Vec<String> = image.layers.iter().map(|layer| place(&layer.descriptor.digest)).collect();
    let docker = json!([{ "Config": place(&image.config.digest), "RepoTags": [image.name], "Layers": layers }]);
    let mut entries = Entries::new(image.moment);
    entries.bytes("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#);
    entries.bytes("index.json", 0o644, canonical::to_vec(&index));
    entries.bytes("manifest.json", 0o644, canonical::to_vec(&docker));
    entries.bytes(&place(&image.digest), 0o644, image.manifest.clone());
    for part in image.parts() {
        // Where blobs live in a bucket, it may not lie here yet.
        drop(blobs.open_blob(&part.digest)?);
        let file = blobs.path(&part.digest);
        let added = entries.file(&place(&part.digest), 0o644, &file, Some(part.digest));
        added.map_err(ImageError::file(file))?;
    }
    Ok(entries)
}

/// Copies everything; digest and length.
fn copy(source: &mut dyn Read, sink: &mut File) -> io::Result<(Digest, u64)> {
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        match source.read(&mut piece)? {
            0 => return Ok((Digest::from_sha256(hash.finalize().into()), size)),
            length => {
                hash.update(&piece[..length]);
                sink.write_all(&piece[..length])?;
                size += length as u64;
            }
        }
    }
}
