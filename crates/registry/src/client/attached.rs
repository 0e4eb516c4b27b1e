//! What was said of a package travels with it: signatures, provenance, bills of materials.
//!
//! Promises: objects go after their package; a registry without the referrers API gets the list that the specification puts in its place.
//!
//! Source: OCI distribution specification 1.1, "Referrers" and "Unavailable Referrers API".

use modelyard_core::{Digest, ModelName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::{Method, StatusCode, header};

use super::error::ClientError;
use super::http::{Http, Sent};
use super::transfer;
use crate::distribution::Distribution;
use crate::distribution::attach::Whole;
use crate::manifest::{INDEX, MANIFEST, MAX_MANIFEST_BYTES};
use crate::remote::Remote;
use crate::trust::object::{self, ENDINGS, MAX_PART_BYTES, Referrer, tag};

/// Objects of one package that are fetched, at most: who may push to a registry must not fill another disk.
const MOST: usize = 64;

#[derive(Deserialize, Serialize)]
struct List {
    manifests: Vec<Value>,
}

/// Pushes what refers to a package that was pushed, container images apart; how many objects.
///
/// # Errors
/// [`ClientError`].
pub fn push_referrers(
    distribution: &Distribution,
    model: &ModelName,
    subject: &Digest,
    remote: &Remote,
) -> Result<usize, ClientError> {
    let tags = ENDINGS.map(|ending| tag(subject, ending));
    let attached = distribution.attached(model.as_str(), subject, &tags)?;
    if attached.is_empty() {
        return Ok(0);
    }
    let http = Http::new(remote)?;
    let mut pushed = 0;
    for (digest, tag) in &attached {
        let (bytes, referrer) = object::read(distribution, digest)?;
        if referrer.is_image() {
            continue;
        }
        pushed += 1;
        let missing = transfer::missing(&http, &referrer.parts())?;
        transfer::send(&http, distribution.store(), &missing, &|_, _| {})?;
        let reference = tag.clone().unwrap_or_else(|| digest.to_string());
        let listed = http.put_object(&reference, MANIFEST, &bytes, digest)?;
        if !listed && referrer.subject().is_some() {
            list(&http, subject, digest, bytes.len(), &referrer)?;
        }
    }
    Ok(pushed)
}

/// Adds an object to the list under the tag `sha256-<hex>`, for a registry that keeps none itself.
fn list(http: &Http, subject: &Digest, object: &Digest, size: usize, referrer: &Referrer) -> Result<(), ClientError> {
    let name = format!("sha256-{}", subject.hex());
    let mut listed = listed(http, &name)?;
    if listed.iter().any(|entry| entry["digest"] == object.to_string()) {
        return Ok(());
    }
    let mut entry = json!({ "mediaType": MANIFEST, "digest": object, "size": size });
    if let Some(kind) = referrer.artifact_type() {
        entry["artifactType"] = json!(kind);
    }
    listed.push(entry);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": listed }).to_string();
    http.put_manifest(&name, INDEX, index.as_bytes(), &crate::blob::digest_of(index.as_bytes()))
}

fn listed(http: &Http, tag: &str) -> Result<Vec<Value>, ClientError> {
    match http.manifest(tag) {
        Ok((bytes, _)) => Ok(serde_json::from_slice::<List>(&bytes).map(|list| list.manifests).unwrap_or_default()),
        Err(ClientError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Fetches what refers to a package that was pulled; how many objects.
///
/// # Errors
/// [`ClientError`].
pub fn pull_referrers(
    distribution: &Distribution,
    model: &ModelName,
    digest: &Digest,
    remote: &Remote,
) -> Result<usize, ClientError> {
    let http = Http::new(remote)?;
    let mut objects: Vec<(String, Option<String>)> = Vec::new();
    for tag in ENDINGS.map(|ending| tag(digest, ending)) {
        match http.manifest(&tag) {
            Ok((_, found)) => objects.push((found.to_string(), Some(tag))),
            Err(ClientError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    for entry in referrers(&http, digest)? {
        let known = entry["digest"].as_str().filter(|found| objects.iter().all(|(there, _)| there != found));
        objects.extend(known.map(|found| (found.to_owned(), None)));
    }
    let mut fetched = 0;
    for (object, tag) in objects.into_iter().take(MOST) {
        fetched += usize::from(fetch(distribution, model, digest, &http, &object, tag)?);
    }
    Ok(fetched)
}

/// The descriptors of what refers to the package.
fn referrers(http: &Http, digest: &Digest) -> Result<Vec<Value>, ClientError> {
    const DOING: &str = "list what refers to the package";
    let accept = [(header::ACCEPT, INDEX.to_owned())];
    let mut answer = http.ask(&Method::GET, &format!("/referrers/{digest}"), &accept, &Sent::Nothing, DOING)?;
    match answer.status() {
        StatusCode::OK => {
            let list: Result<List, _> = answer.body_mut().with_config().limit(MAX_MANIFEST_BYTES).read_json();
            Ok(list.map(|list| list.manifests).unwrap_or_default())
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(http.refused(DOING, answer)),
        _ => listed(http, &format!("sha256-{}", digest.hex())),
    }
}

/// Fetches one object; whether it was one of those that are kept: small, and about this package.
fn fetch(
    distribution: &Distribution,
    model: &ModelName,
    subject: &Digest,
    http: &Http,
    object: &str,
    tag: Option<String>,
) -> Result<bool, ClientError> {
    let (bytes, found) = http.manifest(object)?;
    let Ok(referrer) = serde_json::from_slice::<Referrer>(&bytes) else { return Ok(false) };
    let about_another = referrer.subject().is_some_and(|about| about != *subject);
    let parts = referrer.parts();
    if about_another || parts.iter().any(|part| part.size > MAX_PART_BYTES) {
        return Ok(false);
    }
    let blobs = distribution.store().blobs();
    let mut missing = Vec::new();
    for part in &parts {
        if blobs.size(&part.digest)? != Some(part.size) {
            missing.push(part.clone());
        }
    }
    transfer::fetch(http, distribution.store(), &missing, &|_, _| {})?;
    // What stands here under the tag stays a referrer: signatures of both places count.
    distribution.keep_whole(
        model.as_str(),
        &Whole {
            bytes: &bytes,
            media_type: MANIFEST.to_owned(),
            subject: Some(*subject),
            artifact_type: Some(referrer.artifact_type().unwrap_or_default()),
            blobs: &parts,
            tag: tag.as_deref().filter(|tag| !distribution.has_tag(model.as_str(), tag)),
            annotations: "{}".to_owned(),
        },
    )?;
    tracing::debug!(%found, "an object that refers to the package was fetched");
    Ok(true)
}
