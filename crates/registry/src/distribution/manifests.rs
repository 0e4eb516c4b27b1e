//! Manifests and indexes: checked before they are kept, given as the very bytes that came.

use axum::body::Body;
use axum::response::IntoResponse;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::Value;

use super::Distribution;
use super::answer::{Answer, Code, DIGEST, Refusal, bare};
use super::attach::IMAGE_ENDING;
use super::blobs::parse;
use super::meta::Known;
use crate::Error;
use crate::address::Query;
use crate::digest::{Algorithm, AnyDigest};
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST, MAX_MANIFEST_BYTES};
use crate::names::is_tag;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAGGED: HeaderName = HeaderName::from_static("oci-tag");

/// What the registry reads of a manifest or index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Part>,
    #[serde(default)]
    layers: Option<Vec<Part>>,
    #[serde(default)]
    manifests: Option<Vec<Part>>,
    #[serde(default)]
    subject: Option<Part>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default)]
    urls: Vec<String>,
}

impl Distribution {
    /// The digest that a tag or digest means in a repository, and what is known of its manifest.
    pub(super) fn find(&self, name: &str, reference: &str) -> Result<Option<Known>, Refusal> {
        let digest = match reference.contains(':') {
            true => Some(parse(reference)?),
            false if !is_tag(reference) => {
                return Err(Refusal::new(Code::ManifestUnknown, "this is neither a tag nor a digest"));
            }
            false => match self.inner.meta.tag(name, reference)? {
                // A version that is called like the tag of an image came later, and names its package for ever.
                Some(digest) if reference.ends_with(IMAGE_ENDING) => self.local_tag(name, reference)?.or(Some(digest)),
                Some(digest) => Some(digest),
                None => self.local_tag(name, reference)?,
            },
        };
        let Some(digest) = digest else { return Ok(None) };
        let known = self.inner.meta.manifest(name, &digest)?;
        Ok(if known.is_some() { known } else { self.local_manifest(name, &digest)? })
    }

    pub(super) fn manifest(&self, name: &str, reference: &str, with_body: bool) -> Answer {
        let known = self.find(name, reference)?.ok_or_else(|| unknown(name, reference))?;
        let head = [
            (header::CONTENT_TYPE, known.media_type.clone()),
            (header::CONTENT_LENGTH, known.size.to_string()),
            (header::ETAG, format!("\"{}\"", known.digest)),
            (DIGEST, known.digest.to_string()),
        ];
        let mut response = bare(StatusCode::OK, head);
        if with_body {
            *response.body_mut() = Body::from(self.read(&known.digest)?);
        }
        Ok(response)
    }

    /// The bytes of a small blob, checked.
    pub(super) fn read(&self, digest: &AnyDigest) -> Result<Vec<u8>, Error> {
        let bytes = self.inner.blobs.read(digest, MAX_MANIFEST_BYTES)?;
        match AnyDigest::of(digest.algorithm(), &bytes) == *digest {
            true => Ok(bytes),
            false => Err(Error::Document { what: format!("blob {digest}"), why: "its bytes have changed".to_owned() }),
        }
    }

    pub(super) async fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        query: &Query,
        headers: &HeaderMap,
        body: Body,
    ) -> Answer {
        let bytes = Limited::new(body, usize::try_from(MAX_MANIFEST_BYTES).unwrap_or(usize::MAX)).collect().await;
        let bytes = bytes.map(http_body_util::Collected::to_bytes).map_err(|_| {
            let why = format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes, and its body must come whole");
            Refusal::new(Code::ManifestInvalid, why).with(StatusCode::PAYLOAD_TOO_LARGE)
        })?;
        let (digest, tags) = named(reference, query, &bytes)?;
        let _gate = self.inner.gate.together().await?;
        let (mut known, parts) = read(&bytes, headers)?;
        known.digest = digest.clone();
        self.check_parts(name, &known, &parts)?;
        self.inner.blobs.put(&digest, &bytes)?;
        self.adopt(name, &tags, &known)?;
        self.inner.meta.put_manifest(name, &known, &tags)?;
        let location = [(header::LOCATION, format!("/v2/{name}/manifests/{digest}")), (DIGEST, digest.to_string())];
        let mut response = bare(StatusCode::CREATED, location);
        let mut note = |header, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                response.headers_mut().append(header, value);
            }
        };
        if let Some(subject) = &known.subject {
            note(SUBJECT, subject);
        }
        query.all("tag").for_each(|tag| note(TAGGED, tag));
        Ok(response)
    }

    /// Whether everything that the manifest is made of is here.
    fn check_parts(&self, name: &str, known: &Known, parts: &Parts) -> Result<(), Refusal> {
        for part in &parts.blobs {
            let digest =
                parse(&part.digest).map_err(|_| invalid(format!("`{}` is no digest", shorten(&part.digest))))?;
            let there = self.inner.blobs.size(&digest)?;
            let linked = self.inner.meta.is_linked(name, &digest)? || self.is_of_model(name, &digest)?;
            match there.filter(|_| linked) {
                None if !part.urls.is_empty() => {} // a layer that is fetched from elsewhere
                None => {
                    let why = format!("`{name}` has no blob {digest}; push it before the manifest");
                    return Err(Refusal::new(Code::ManifestBlobUnknown, why));
                }
                Some(size) if i64::try_from(size) != Ok(part.size) => {
                    return Err(invalid(format!("it says {} bytes of blob {digest}, which has {size}", part.size)));
                }
                Some(_) => drop(self.inner.blobs.touch(&digest)?),
            }
        }
        for part in &parts.manifests {
            if self.find(name, &part.digest)?.is_none() {
                let why = format!("`{name}` has no manifest {}; push it before the index", shorten(&part.digest));
                return Err(Refusal::new(Code::ManifestBlobUnknown, why));
            }
        }
        if let Some(subject) = &known.subject {
            parse(subject).map_err(|_| invalid(format!("its subject `{}` is no digest", shorten(subject))))?;
        }
        Ok(())
    }

    pub(super) fn delete_manifest(&self, name: &str, reference: &str) -> Answer {
        let gone = match reference.contains(':') {
            true => self.inner.meta.delete_manifest(name, &parse(reference)?)?,
            false => self.inner.meta.delete_tag(name, reference)?,
        };
        match gone {
            true => Ok(bare(StatusCode::ACCEPTED, [])),
            false if self.find(name, reference)?.is_some() => {
                let why =
                    format!("`{reference}` is a version of the model `{name}`, which stays for ever; yank it instead");
                Err(Refusal::new(Code::Unsupported, why).with(StatusCode::METHOD_NOT_ALLOWED))
            }
            false => Err(unknown(name, reference)),
        }
    }
}

/// What a manifest is made of.
struct Parts {
    blobs: Vec<Part>,
    manifests: Vec<Part>,
}

/// The digest under which the bytes are kept, and the tags that will name them.
fn named(reference: &str, query: &Query, bytes: &[u8]) -> Result<(AnyDigest, Vec<String>), Refusal> {
    let mut tags: Vec<String> = query.all("tag").map(str::to_owned).collect();
    let digest = if reference.contains(':') {
        let asked = parse(reference)?;
        let found = AnyDigest::of(asked.algorithm(), bytes);
        if found != asked {
            return Err(Refusal::new(
                Code::DigestInvalid,
                format!("the manifest that came has digest {found}, not {asked}"),
            ));
        }
        asked
    } else {
        tags.push(reference.to_owned());
        AnyDigest::of(Algorithm::Sha256, bytes)
    };
    match tags.iter().find(|tag| !is_tag(tag)) {
        Some(tag) => {
            let why = format!("`{}` is no tag: at most 128 letters, digits, `_`, `.` and `-`", shorten(tag));
            Err(Refusal::new(Code::ManifestInvalid, why))
        }
        None => Ok((digest, tags)),
    }
}

/// Reads a manifest or index as far as the registry has to.
fn read(bytes: &[u8], headers: &HeaderMap) -> Result<(Known, Parts), Refusal> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if document.schema_version != 2 {
        return Err(invalid(format!("its schemaVersion is {}, not 2", document.schema_version)));
    }
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let sent = sent.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
    let media_type = match (sent, document.media_type) {
        (Some(sent), Some(said)) if sent != said => {
            return Err(invalid(format!("it came as `{}` and says `{}`", shorten(&sent), shorten(&said))));
        }
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) if document.manifests.is_some() => INDEX.to_owned(),
        (None, None) => MANIFEST.to_owned(),
    };
    let is_index = match media_type.as_str() {
        INDEX | DOCKER_INDEX => true,
        MANIFEST | DOCKER_MANIFEST => false,
        other => {
            let why = format!("`{}` is none of the media types of manifests and indexes", shorten(other));
            return Err(Refusal::new(Code::ManifestInvalid, why).with(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
    };
    let (artifact_type, parts) = match (is_index, document.config, document.layers, document.manifests) {
        (true, None, None, Some(manifests)) => (document.artifact_type, Parts { blobs: Vec::new(), manifests }),
        (false, Some(config), Some(mut layers), None) => {
            // Source: image specification: without an artefact type, the configuration's media type says what it is.
            let kind = document.artifact_type.or_else(|| Some(config.media_type.clone()));
            layers.push(config);
            (kind, Parts { blobs: layers, manifests: Vec::new() })
        }
        _ => {
            return Err(invalid(
                "a manifest has `config` and `layers`, an index has `manifests`, and neither has the other's",
            ));
        }
    };
    if let Some(part) = parts.blobs.iter().chain(&parts.manifests).find(|part| part.size < 0) {
        return Err(invalid(format!("a part has a size of {}", part.size)));
    }
    let known = Known {
        digest: AnyDigest::of(Algorithm::Sha256, b""),
        media_type,
        size: bytes.len() as u64,
        subject: document.subject.map(|subject| subject.digest),
        artifact_type,
        annotations: serde_json::to_string(&document.annotations.unwrap_or_default()).unwrap_or_default(),
    };
    Ok((known, parts))
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::ManifestInvalid, format!("the manifest is refused: {}", why.into()))
}

fn unknown(name: &str, reference: &str) -> Refusal {
    Refusal::new(Code::ManifestUnknown, format!("`{name}` has no manifest `{}`", shorten(reference)))
}

fn shorten(text: &str) -> String {
    text.chars().take(150).collect()
}

/// So that a handler can answer with a refusal whose status it chose.
impl From<Refusal> for axum::response::Response {
    fn from(refusal: Refusal) -> Self {
        refusal.into_response()
    }
}

/// Reads a pushed manifest under each media type that it may claim.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    for claimed in [None, Some(crate::manifest::MANIFEST), Some(crate::manifest::INDEX)] {
        let typed = claimed.map(|claimed| (header::CONTENT_TYPE, HeaderValue::from_static(claimed)));
        let _ = read(bytes, &typed.into_iter().collect());
    }
}
