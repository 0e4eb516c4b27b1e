//! Manifests and indexes as a tree: what each refers to.

use std::collections::BTreeSet;

use modelyard_core::Digest;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::BundleError;
use crate::manifest::{Descriptor, FILEPATH, INDEX, MANIFEST, MAX_MANIFEST_BYTES, TITLE};

/// Docker's older name of an index.
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Manifests of one thing: platforms of an image, and what is said of each.
const MOST: usize = 1_000;

/// A manifest or an index, as far as a bundle needs it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    #[serde(default)]
    pub media_type: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default)]
    pub annotations: Option<Map<String, Value>>,
}

impl Node {
    /// What kind of artefact it is.
    pub fn kind(&self) -> Option<&str> {
        self.artifact_type.as_deref().or(self.config.as_ref().map(|config| config.media_type.as_str()))
    }

    /// An annotation.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key)?.as_str()
    }
}

/// A manifest and its bytes.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub descriptor: Descriptor,
    pub bytes: Vec<u8>,
    pub node: Node,
}

/// A manifest or index with everything below it.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Every manifest, the root first, what it refers to after it.
    pub manifests: Vec<Manifest>,
    /// Every other blob, each once.
    pub blobs: Vec<Descriptor>,
}

impl Tree {
    /// The root.
    pub fn root(&self) -> &Manifest {
        &self.manifests[0]
    }

    /// Bytes of all of it.
    pub fn size_bytes(&self) -> u64 {
        self.parts().map(|part| part.size).sum()
    }

    /// Everything, the root first.
    pub fn parts(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().map(|manifest| &manifest.descriptor).chain(&self.blobs)
    }
}

/// Reads everything below `root`; `read` gives the bytes of a manifest, checked.
pub fn walk(
    root: &Descriptor,
    read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, BundleError>,
) -> Result<Tree, BundleError> {
    let mut tree = Tree { manifests: Vec::new(), blobs: Vec::new() };
    let (mut seen, mut left): (BTreeSet<Digest>, Vec<Descriptor>) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(descriptor) = left.pop() {
        if !seen.insert(descriptor.digest) {
            continue;
        }
        let wrong = |why: String| BundleError::Manifest { what: format!("manifest {}", descriptor.digest), why };
        if descriptor.size > MAX_MANIFEST_BYTES || seen.len() > MOST {
            let why = format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes, and an index {MOST} of them");
            return Err(wrong(why));
        }
        let bytes = read(&descriptor)?;
        let node: Node = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if node.manifests.is_empty() == node.config.is_none() {
            return Err(wrong("a manifest has a configuration, and an index has manifests".to_owned()));
        }
        left.extend(node.manifests.iter().rev().cloned());
        tree.manifests.push(Manifest { descriptor, bytes, node });
    }
    let mut known: BTreeSet<Digest> = seen;
    for manifest in &tree.manifests {
        for blob in manifest.node.layers.iter().chain(&manifest.node.config) {
            if known.insert(blob.digest) {
                tree.blobs.push(blob.clone());
            }
        }
    }
    Ok(tree)
}

/// The media type of a manifest: what it says, else what it was listed as, else what it looks like.
pub fn media_type(manifest: &Manifest) -> String {
    let listed = Some(manifest.descriptor.media_type.clone()).filter(|text| !text.is_empty());
    let looks = if manifest.node.config.is_some() { MANIFEST } else { INDEX };
    manifest.node.media_type.clone().or(listed).unwrap_or_else(|| looks.to_owned())
}

/// Whether a media type is that of an index.
pub fn is_index(media_type: &str) -> bool {
    media_type == INDEX || media_type == DOCKER_INDEX
}

/// What people call a part: the file that it is, or its digest.
pub fn called(part: &Descriptor, of: &str) -> String {
    match part.annotations.get(FILEPATH).or(part.annotations.get(TITLE)) {
        Some(path) => format!("`{}` of {of}", path.chars().take(120).collect::<String>().escape_debug()),
        None => format!("blob {} of {of}", part.digest),
    }
}
