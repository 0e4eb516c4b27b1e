//! Objects that refer to a package: their manifests as cosign writes and reads them.

use std::collections::BTreeMap;

use modelyard_core::{Digest, ModelName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Error;
use crate::distribution::Distribution;
use crate::distribution::attach::Whole;
use crate::manifest::{Descriptor, IMAGE_CONFIG, MANIFEST, MAX_MANIFEST_BYTES};

/// Longest part of an object that is read, in bytes: a payload is some hundred, a statement with many files some hundred thousand.
pub const MAX_PART_BYTES: u64 = 8 << 20;

/// Annotation of a layer: the signature over it, base64 of ASN.1 DER; empty for an envelope that is signed within.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Endings of cosign's tags: signatures, attestations, bills of materials.
pub const ENDINGS: [&str; 3] = ["sig", "att", "sbom"];

/// A manifest with a subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    schema_version: u32,
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    /// What it carries.
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Referrer {
    /// Everything that it refers to.
    pub fn parts(&self) -> Vec<Descriptor> {
        self.layers.iter().chain([&self.config]).cloned().collect()
    }

    /// The package that it speaks of, if it says so.
    pub fn subject(&self) -> Option<Digest> {
        self.subject.as_ref().map(|subject| subject.digest)
    }

    /// Whether it is a container image: as large as a program and a model, and made again at will.
    pub fn is_image(&self) -> bool {
        self.config.media_type == IMAGE_CONFIG
            && self.layers.iter().any(|layer| layer.media_type.starts_with("application/vnd.oci.image.layer."))
    }

    /// What kind of object it is.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref()
    }
}

/// Cosign's tag for what is said of a package: `sha256-<hex>.sig`.
pub fn tag(subject: &Digest, ending: &str) -> String {
    format!("sha256-{}.{ending}", subject.hex())
}

/// Reads an object, checked by its digest: as it is, and understood.
pub fn read(distribution: &Distribution, digest: &Digest) -> Result<(Vec<u8>, Referrer), crate::Error> {
    let bytes = distribution.store().blobs().read(digest, MAX_MANIFEST_BYTES)?;
    let referrer = serde_json::from_slice(&bytes)
        .map_err(|error| crate::Error::Document { what: format!("object {digest}"), why: error.to_string() })?;
    Ok((bytes, referrer))
}

/// What stands under the tag: the object, and its layers, to which others can be added.
pub fn tagged(
    distribution: &Distribution,
    model: &ModelName,
    subject: &Digest,
    ending: &str,
) -> Result<(Option<Digest>, Vec<Descriptor>), Error> {
    match of(distribution, model, subject, ending)?.into_iter().find(|(_, is_tagged)| *is_tagged) {
        Some((holder, _)) => Ok((Some(holder), read(distribution, &holder)?.1.layers)),
        None => Ok((None, Vec::new())),
    }
}

/// Layers that are found, each with the object that holds it; and objects that cannot be read.
pub type Layers = (Vec<(Digest, Descriptor)>, Vec<(Digest, crate::Error)>);

/// The layers of one media type in all objects of a package.
pub fn layers(
    distribution: &Distribution,
    model: &ModelName,
    subject: &Digest,
    (ending, media_type): (&str, &str),
) -> Result<Layers, Error> {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for (holder, _) in of(distribution, model, subject, ending)? {
        match read(distribution, &holder) {
            Ok((_, object)) => {
                let layers = object.layers.into_iter().filter(|layer| layer.media_type == media_type);
                found.extend(layers.map(|layer| (holder, layer)));
            }
            Err(error) => unread.push((holder, error)),
        }
    }
    Ok((found, unread))
}

/// Keeps layers as one object under its tag, in place of the object `former`.
///
/// The configuration is the one of an image, because cosign reads these objects as images.
pub fn write(
    distribution: &Distribution,
    model: &ModelName,
    subject: &Digest,
    (ending, artifact_type): (&str, &str),
    layers: Vec<Descriptor>,
    former: Option<Digest>,
) -> Result<Digest, Error> {
    let blobs = distribution.store().blobs();
    let size = blobs.size(subject)?.ok_or(crate::Error::NoPackage(*subject))?;
    let layer_digests: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let config = json!({
        "architecture": "", "created": "0001-01-01T00:00:00Z", "os": "", "config": {},
        "rootfs": { "type": "layers", "diff_ids": layer_digests },
    });
    let config = blobs.put(config.to_string().as_bytes())?.blob;
    let manifest = Referrer {
        schema_version: 2,
        media_type: MANIFEST.to_owned(),
        artifact_type: Some(artifact_type.to_owned()),
        config: Descriptor::new(artifact_type, config.digest, config.size_bytes),
        subject: Some(Descriptor::new(MANIFEST, *subject, size)),
        annotations: BTreeMap::new(),
        layers,
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|error| crate::Error::Document { what: "the object".to_owned(), why: error.to_string() })?;
    let parts = manifest.parts();
    let digest = distribution.keep_whole(
        model.as_str(),
        &Whole {
            bytes: &bytes,
            media_type: MANIFEST.to_owned(),
            subject: Some(*subject),
            artifact_type: Some(artifact_type),
            blobs: &parts,
            tag: Some(&tag(subject, ending)),
            annotations: "{}".to_owned(),
        },
    )?;
    if let Some(former) = former.filter(|former| *former != digest) {
        distribution.detach(model.as_str(), &former)?;
    }
    Ok(digest)
}

/// The objects of a package that hold layers of one of these types: their digests, and whether the tag names them.
pub fn of(
    distribution: &Distribution,
    model: &ModelName,
    subject: &Digest,
    ending: &str,
) -> Result<Vec<(Digest, bool)>, Error> {
    let attached = distribution.attached(model.as_str(), subject, &[tag(subject, ending)])?;
    Ok(attached.into_iter().map(|(digest, tag)| (digest, tag.is_some())).collect())
}
