//! Signatures of packages, as cosign makes them.
//!
//! A payload (simple signing) names the package's digest; the signature over the payload stands as an annotation of the payload's layer. All
//! signatures of a package are layers of one object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_core::{Digest, ModelName};
use serde::{Deserialize, Serialize};

use super::bytes::Fault;
use super::object::{self, MAX_PART_BYTES, SIGNATURE};
use super::{Error, SigningKey, VerifyingKey};
use crate::distribution::Distribution;
use crate::manifest::Descriptor;

/// Media type of a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Artefact type of signature objects.
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// What a payload says of itself.
const KIND: &str = "cosign container image signature";
/// Ending of the tag.
const ENDING: &str = "sig";

#[derive(Serialize, Deserialize)]
struct Payload {
    critical: Critical,
    // Cosign writes `null` where nothing is said.
    optional: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Serialize, Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

/// What signing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signature object.
    pub object: Digest,
    /// The tag that names it.
    pub tag: String,
    /// Id of the key.
    pub key: String,
    /// Whether this key had signed the package before; then nothing was added.
    pub before: bool,
}

/// A signature of a package whose bytes are in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The object that holds it.
    pub object: Digest,
    /// Its payload.
    pub payload: Digest,
    /// Under which name the package was signed.
    pub name: String,
    /// Which of the keys made it; none when it is none of them.
    pub key: Option<String>,
}

/// Signs a package of the local registry under a name. A package that the key has signed already is left as it is.
///
/// # Errors
/// [`Error::Key`], [`Error::Registry`]. A signature object that is damaged is not added to: it is an error too.
pub fn sign(
    distribution: &Distribution,
    model: &ModelName,
    digest: &Digest,
    name: &str,
    key: &SigningKey,
) -> Result<Signed, Error> {
    let (former, mut layers) = object::tagged(distribution, model, digest, ENDING)?;
    let (object_tag, id) = (object::tag(digest, ENDING), key.public().id());
    let (found, _) = signatures(distribution, model, digest, std::slice::from_ref(key.public()))?;
    if let Some(found) = found.iter().find(|found| found.key.is_some() && found.name == name) {
        return Ok(Signed { object: found.object, tag: object_tag, key: id, before: true });
    }
    let kind = KIND.to_owned();
    let identity = Identity { reference: name.to_owned() };
    let payload = Payload { critical: Critical { identity, image: Image { digest: *digest }, kind }, optional: None };
    let payload = serde_json::to_vec(&payload)
        .map_err(|error| crate::Error::Document { what: "the payload".to_owned(), why: error.to_string() })?;
    let signature = STANDARD.encode(key.sign(&payload)?);
    let blob = distribution.store().blobs().put(&payload)?.blob;
    layers.push(Descriptor::new(PAYLOAD, blob.digest, blob.size_bytes).noted(SIGNATURE, signature));
    let object = object::write(distribution, model, digest, (ENDING, ARTIFACT), layers, former)?;
    Ok(Signed { object, tag: object_tag, key: id, before: false })
}

/// Every signature of a package, checked against `keys`, and what is wrong with those that are damaged.
///
/// # Errors
/// [`Error::Registry`] when the registry itself cannot be read.
pub fn signatures(
    distribution: &Distribution,
    model: &ModelName,
    digest: &Digest,
    keys: &[VerifyingKey],
) -> Result<(Vec<Found>, Vec<Fault>), Error> {
    let (layers, unread) = object::layers(distribution, model, digest, (ENDING, PAYLOAD))?;
    let told = |(holder, error)| Fault::new(format!("object {holder} that refers to the package"), &error);
    let (mut found, mut faults) = (Vec::new(), unread.into_iter().map(told).collect::<Vec<_>>());
    for (object, layer) in layers {
        match check(distribution, digest, &layer, keys) {
            Ok((name, key)) => found.push(Found { object, payload: layer.digest, name, key }),
            Err(why) => faults.push(Fault { what: format!("signature in object {object}"), why }),
        }
    }
    Ok((found, faults))
}

/// Under which name one signature was made, and by which of the keys.
fn check(
    distribution: &Distribution,
    digest: &Digest,
    layer: &Descriptor,
    keys: &[VerifyingKey],
) -> Result<(String, Option<String>), String> {
    let read = distribution.store().blobs().read(&layer.digest, MAX_PART_BYTES);
    let bytes = read.map_err(|error| format!("its payload: {error}"))?;
    let payload: Payload = serde_json::from_slice(&bytes).map_err(|error| format!("its payload is none: {error}"))?;
    let signature = layer.annotations.get(SIGNATURE).ok_or("its layer carries no signature")?;
    let signature = STANDARD.decode(signature).map_err(|_| "it is no base64")?;
    let Critical { identity, image, kind } = payload.critical;
    if kind != KIND {
        return Err("its payload is of another kind".to_owned());
    }
    if image.digest != *digest {
        return Err(format!("it speaks of another package, {}", image.digest));
    }
    let key = keys.iter().find(|key| key.accepts(&bytes, &signature)).map(VerifyingKey::id);
    Ok((identity.reference, key))
}
