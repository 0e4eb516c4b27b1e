//! OCI manifests and indexes, as far as packages need them.
//!
//! Source: OCI image specification 1.1 (manifest, index, descriptor); CNCF ModelPack specification (media types, annotations).

use std::collections::BTreeMap;

use modelyard_core::Digest;
use serde::{Deserialize, Serialize};

/// Media type of an OCI image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of a container image's configuration.
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's older name of a container image's configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's older name of an image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's older name of an image index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The architecture of this build, as the specification (and Go) names it.
pub const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};
/// Artefact type of a model.
pub const MODEL: &str = "application/vnd.cncf.model.manifest.v1+json";
/// Media type of a model's configuration.
pub const MODEL_CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
/// Layer: model weights as they are.
pub const WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
/// Layer: configuration of the weights; here the package document.
pub const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
/// Layer: documentation.
pub const DOC: &str = "application/vnd.cncf.model.doc.v1.raw";
/// Layer: code.
pub const CODE: &str = "application/vnd.cncf.model.code.v1.raw";

/// Annotation of a layer: path of the file within the package.
pub const FILEPATH: &str = "org.cncf.model.filepath";
/// Annotation of a layer: that its media type is a guess.
pub const UNTESTED: &str = "org.cncf.model.file.mediatype.untested";
/// Annotation of a descriptor: the tag under which it is listed.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation: when it was made.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Annotation: title.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Annotation: version.
pub const VERSION: &str = "org.opencontainers.image.version";

/// Longest manifest that is read, in bytes. Source: the distribution specification asks registries for at least 4 MiB.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// A reference to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What kind of artefact a manifest describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A reference with nothing else to say of the blob.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, artifact_type: None, annotations: BTreeMap::new() }
    }

    /// The same with a note.
    #[must_use]
    pub fn noted(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`MANIFEST`].
    pub media_type: String,
    /// [`MODEL`] for packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration blob.
    pub config: Descriptor,
    /// The layers, in order.
    pub layers: Vec<Descriptor>,
    /// Notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image index: here the list of everything in a layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`INDEX`].
    #[serde(default = "index_type")]
    pub media_type: String,
    /// What is there.
    pub manifests: Vec<Descriptor>,
}

fn index_type() -> String {
    INDEX.to_owned()
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: 2, media_type: index_type(), manifests: Vec::new() }
    }
}
