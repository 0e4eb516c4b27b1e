//! Attestations of packages, as cosign makes them: signed statements that travel as objects with the package as their subject.
//!
//! A statement (in-toto) names the package's digest, a type and what is stated; it stands in an envelope that is a layer. All attestations of a
//! package are layers of one object under the tag `sha256-<hex>.att`.
//!
//! Source: in-toto attestation framework, Statement v1; cosign's attestation specification.

use std::collections::BTreeMap;

use modelyard_core::{Digest, ModelName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bytes::Fault;
use super::dsse::Envelope;
use super::object::{self, MAX_PART_BYTES, SIGNATURE};
use super::signature::Signed;
use super::{Error, SigningKey, VerifyingKey};
use crate::distribution::Distribution;
use crate::manifest::Descriptor;

/// Media type of an envelope.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// Type of what is in it.
const PAYLOAD: &str = "application/vnd.in-toto+json";
/// Artefact type of attestation objects.
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.att.v1+json";
/// What a statement says of itself.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The same of older ones, which cosign still writes.
const STATEMENT_0_1: &str = "https://in-toto.io/Statement/v0.1";
/// Annotation of a layer: what kind of statement it is.
const PREDICATE_TYPE: &str = "predicateType";
/// Ending of the tag.
const ENDING: &str = "att";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Value,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    digest: BTreeMap<String, String>,
}

/// An attestation of a package whose bytes are in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Attested {
    /// The object that holds it.
    pub object: Digest,
    /// Its envelope, a layer of that object: this digest stays when others are added.
    pub envelope: Digest,
    /// What kind of statement it is: a URI.
    pub predicate_type: String,
    /// What is stated.
    pub predicate: Value,
    /// Which of the keys signed it; none when it is none of them, and then it is worth nothing.
    pub key: Option<String>,
}

/// States something of a package and signs it. What the key has stated already, times apart, is left as it is.
///
/// # Errors
/// [`Error::Key`], [`Error::Registry`]. An attestation object that is damaged is not added to: it is an error too.
pub fn attest(
    distribution: &Distribution,
    model: &ModelName,
    digest: &Digest,
    (predicate_type, predicate): (&str, Value),
    key: &SigningKey,
) -> Result<Signed, Error> {
    let (tag, id) = (object::tag(digest, ENDING), key.public().id());
    let (found, _) = attestations(distribution, model, digest, std::slice::from_ref(key.public()))?;
    let same = |other: &&Attested| {
        other.key.is_some()
            && other.predicate_type == predicate_type
            && timeless(&other.predicate) == timeless(&predicate)
    };
    if let Some(found) = found.iter().find(same) {
        return Ok(Signed { object: found.object, tag, key: id, before: true });
    }
    let (former, mut layers) = object::tagged(distribution, model, digest, ENDING)?;
    let statement = Statement {
        kind: STATEMENT.to_owned(),
        subject: vec![Subject { name: model.to_string(), digest: [("sha256".to_owned(), digest.hex())].into() }],
        predicate_type: predicate_type.to_owned(),
        predicate,
    };
    let envelope = Envelope::seal(PAYLOAD, &json(&statement)?, key)?;
    let blob = distribution.store().blobs().put(&json(&envelope)?)?.blob;
    if blob.size_bytes > MAX_PART_BYTES {
        let why = format!("it has {} bytes, and {MAX_PART_BYTES} are read", blob.size_bytes);
        return Err(crate::Error::Document { what: "the statement".to_owned(), why }.into());
    }
    let layer = Descriptor::new(ENVELOPE, blob.digest, blob.size_bytes);
    // The signature is in the envelope; cosign wants the annotation all the same.
    layers.push(layer.noted(SIGNATURE, String::new()).noted(PREDICATE_TYPE, predicate_type.to_owned()));
    let object = object::write(distribution, model, digest, (ENDING, ARTIFACT), layers, former)?;
    Ok(Signed { object, tag, key: id, before: false })
}

/// A predicate without what differs each time.
fn timeless(predicate: &Value) -> Value {
    let mut predicate = predicate.clone();
    if let Some(details) = predicate.get_mut("runDetails").and_then(Value::as_object_mut) {
        details.remove("metadata");
    }
    if let Some(stated) = predicate.as_object_mut() {
        stated.remove("promotedOn");
    }
    predicate
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, crate::Error> {
    serde_json::to_vec(value)
        .map_err(|error| crate::Error::Document { what: "the statement".to_owned(), why: error.to_string() })
}

/// Every attestation of a package, checked against `keys`, and what is wrong with those that are damaged.
///
/// # Errors
/// [`Error::Registry`] when the registry itself cannot be read.
pub fn attestations(
    distribution: &Distribution,
    model: &ModelName,
    digest: &Digest,
    keys: &[VerifyingKey],
) -> Result<(Vec<Attested>, Vec<Fault>), Error> {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    // Objects that cannot be read at all are told with the signatures.
    let (layers, _) = object::layers(distribution, model, digest, (ENDING, ENVELOPE))?;
    for (object, layer) in layers {
        match check(distribution, digest, &layer, keys) {
            Ok((Statement { predicate_type, predicate, .. }, key)) => {
                found.push(Attested { object, envelope: layer.digest, predicate_type, predicate, key });
            }
            Err(why) => faults.push(Fault { what: format!("attestation in object {object}"), why }),
        }
    }
    Ok((found, faults))
}

/// What one envelope states of the package, and by which of the keys.
fn check(
    distribution: &Distribution,
    digest: &Digest,
    layer: &Descriptor,
    keys: &[VerifyingKey],
) -> Result<(Statement, Option<String>), String> {
    let read = distribution.store().blobs().read(&layer.digest, MAX_PART_BYTES);
    let bytes = read.map_err(|error| format!("its envelope: {error}"))?;
    let envelope: Envelope =
        serde_json::from_slice(&bytes).map_err(|error| format!("its envelope is none: {error}"))?;
    let (payload, key) = envelope.open(PAYLOAD, keys)?;
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|error| format!("its statement is none: {error}"))?;
    if ![STATEMENT, STATEMENT_0_1].contains(&statement.kind.as_str()) {
        return Err(format!("its statement is of another kind, `{}`", statement.kind.escape_debug()));
    }
    let hex = digest.hex();
    if statement.subject.iter().all(|subject| subject.digest.get("sha256") != Some(&hex)) {
        return Err("it speaks of another package".to_owned());
    }
    Ok((statement, key))
}
