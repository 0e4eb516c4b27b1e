//! Blobs: given whole or in ranges, taken in one piece, in chunks, or from another repository.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use modelyard_core::Digest;

use super::Distribution;
use super::answer::{Answer, Code, DIGEST, Refusal, bare};
use super::uploads::{Held, drain};
use crate::Error;
use crate::address::Query;
use crate::digest::{Algorithm, AnyDigest, AnyDigestError};
use crate::storage::Source;
use crate::storage::body::file_body;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Distribution {
    /// Whether the repository has the blob, and the blob is there.
    fn has_blob(&self, name: &str, digest: &AnyDigest) -> Result<Option<u64>, Error> {
        let size = self.inner.blobs.size(digest)?;
        let known = || Ok(self.inner.meta.is_linked(name, digest)? || self.is_of_model(name, digest)?);
        Ok(if size.is_some() && known()? { size } else { None })
    }

    /// `length` bytes of a blob of `size` bytes, from `from` on; the last of them only once the whole has shown its digest.
    fn body(&self, digest: &AnyDigest, (from, length): (u64, u64), size: u64) -> Result<Body, Error> {
        Ok(match self.inner.blobs.open(digest)? {
            Source::File(file) => {
                let check = self.inner.verified.check(&file, digest);
                file_body(file, from, length, check)
            }
            Source::Bucket(bucket) => bucket.body(digest, from, length, size),
        })
    }

    /// The whole of a blob, with its length. It is read while it is sent, and breaks off unless it has its digest.
    ///
    /// # Errors
    /// [`Error::NoBlob`], or when the blob cannot be opened.
    pub fn whole(&self, digest: &Digest) -> Result<(u64, Body), Error> {
        let named = AnyDigest::from(digest);
        let size = self.inner.blobs.size(&named)?.ok_or(Error::NoBlob(*digest))?;
        Ok((size, self.body(&named, (0, size), size)?))
    }

    pub(super) fn blob(&self, name: &str, digest: &str, headers: &HeaderMap, with_body: bool) -> Answer {
        let digest = parse(digest)?;
        let Some(size) = self.has_blob(name, &digest)? else {
            return Err(Refusal::new(Code::BlobUnknown, format!("`{name}` has no blob {digest}")));
        };
        let range = match with_body.then(|| headers.get(header::RANGE)).flatten().map(|range| read_range(range, size)) {
            Some(Err(())) => {
                let told =
                    Refusal::new(Code::SizeInvalid, format!("the range lies outside of the blob's {size} bytes"));
                let mut response = told.with(StatusCode::RANGE_NOT_SATISFIABLE).into_response();
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
                return Ok(response);
            }
            Some(Ok(range)) => range,
            None => None,
        };
        let (from, length) = range.unwrap_or((0, size));
        let head = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, format!("\"{digest}\"")),
            (DIGEST, digest.to_string()),
        ];
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        let mut response = bare(status, head);
        if let Some((from, length)) = range
            && let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{}/{size}", from + length - 1))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        if with_body {
            *response.body_mut() = self.body(&digest, (from, length), size)?;
        }
        Ok(response)
    }

    pub(super) fn delete_blob(&self, name: &str, digest: &str) -> Answer {
        let digest = parse(digest)?;
        match self.inner.meta.unlink(name, &digest)? {
            // The bytes go with the next sweep, once nobody refers to them.
            true => Ok(bare(StatusCode::ACCEPTED, [])),
            false => Err(Refusal::new(Code::BlobUnknown, format!("`{name}` has no blob {digest}"))),
        }
    }

    /// Begins an upload; with a digest the body is the blob, with `mount` it may come from another repository.
    pub(super) async fn begin(&self, name: &str, query: &Query, body: Body) -> Answer {
        if let Some(mount) = query.get("mount")
            && let Ok(digest) = parse(mount)
            && self.may_mount(&digest, query.get("from"))?
        {
            let _gate = self.inner.gate.together().await?;
            if self.inner.blobs.touch(&digest)? {
                self.inner.meta.link(name, &digest)?;
                return Ok(created(name, &digest));
            }
        }
        let asked = query.get("digest").map(parse).transpose()?;
        let wanted = match query.get("digest-algorithm") {
            Some(named) => Some(Algorithm::named(named).ok_or_else(|| {
                Refusal::new(Code::DigestInvalid, "the algorithms of this registry are `sha256` and `sha512`")
            })?),
            None => asked.as_ref().map(AnyDigest::algorithm),
        };
        let id = self.inner.uploads.begin(name, wanted.unwrap_or(Algorithm::Sha256))?;
        if let Some(digest) = asked {
            let held = self.inner.uploads.take(name, &id).await?;
            // Its caller does not know the id: what failed is not kept.
            return self.complete(name, &held, &digest, body).await.inspect_err(|_| self.inner.uploads.end(&id));
        }
        Ok(standing(StatusCode::ACCEPTED, name, &id, 0))
    }

    fn may_mount(&self, digest: &AnyDigest, from: Option<&str>) -> Result<bool, Error> {
        match from {
            Some(from) => Ok(self.has_blob(from, digest)?.is_some()),
            None => self.inner.meta.is_linked_anywhere(digest),
        }
    }

    pub(super) async fn upload_status(&self, name: &str, id: &str) -> Answer {
        let held = self.inner.uploads.take(name, id).await?;
        Ok(standing(StatusCode::NO_CONTENT, name, id, held.offset()))
    }

    pub(super) async fn append(&self, name: &str, id: &str, headers: &HeaderMap, body: Body) -> Answer {
        let held = self.inner.uploads.take(name, id).await?;
        if let Some(refused) = out_of_order(headers, held.offset())? {
            drain(body).await;
            return Ok(standing(refused, name, id, held.offset()));
        }
        held.append(body).await?;
        Ok(standing(StatusCode::ACCEPTED, name, id, held.offset()))
    }

    pub(super) async fn finish(&self, name: &str, id: &str, query: &Query, headers: &HeaderMap, body: Body) -> Answer {
        let asked = query.get("digest").ok_or_else(|| {
            Refusal::new(Code::DigestInvalid, "an upload is finished with its digest: PUT …?digest=sha256:…")
        })?;
        let digest = parse(asked)?;
        let held = self.inner.uploads.take(name, id).await?;
        if let Some(refused) = out_of_order(headers, held.offset())? {
            drain(body).await;
            return Ok(standing(refused, name, id, held.offset()));
        }
        self.complete(name, &held, &digest, body).await
    }

    /// Takes the rest of the body, checks the digest, and gives the blob its name.
    async fn complete(&self, name: &str, held: &Held, digest: &AnyDigest, body: Body) -> Answer {
        held.append(body).await?;
        let (found, path) = held.seal(digest.algorithm()).await?;
        if found != *digest {
            self.inner.uploads.end(held.id());
            let why = format!("the bytes that came have digest {found}, not {digest}; nothing was kept");
            return Err(Refusal::new(Code::DigestInvalid, why));
        }
        let (blobs, sent, sealed) = (Arc::clone(&self.inner.blobs), digest.clone(), path.clone());
        let sent = tokio::task::spawn_blocking(move || blobs.send(&sent, &sealed)).await;
        sent.map_err(|error| Error::file("could not keep", &path)(std::io::Error::other(error)))??;
        let _gate = self.inner.gate.together().await?;
        let sealed = path.metadata().map_err(Error::file("could not read", &path))?;
        self.inner.blobs.keep(digest, &path)?;
        self.inner.verified.shown(&sealed);
        // A link that could not be written leaves a blob that nobody refers to; the caller sends it again.
        let linked = self.inner.naming.link(name, digest).await;
        self.inner.uploads.end(held.id());
        linked?;
        Ok(created(name, digest))
    }

    pub(super) async fn cancel(&self, name: &str, id: &str) -> Answer {
        let _held = self.inner.uploads.take(name, id).await?;
        self.inner.uploads.end(id);
        Ok(bare(StatusCode::NO_CONTENT, []))
    }
}

/// The digest of a path or query.
pub(super) fn parse(text: &str) -> Result<AnyDigest, Refusal> {
    text.parse().map_err(|error: AnyDigestError| Refusal::new(Code::DigestInvalid, error.to_string()))
}

fn created(name: &str, digest: &AnyDigest) -> Response {
    let head = [(header::LOCATION, format!("/v2/{name}/blobs/{digest}")), (DIGEST, digest.to_string())];
    bare(StatusCode::CREATED, head)
}

/// Where an upload stands.
fn standing(status: StatusCode, name: &str, id: &str, offset: u64) -> Response {
    let head = [
        (header::LOCATION, format!("/v2/{name}/blobs/uploads/{id}")),
        (header::RANGE, format!("0-{}", offset.saturating_sub(1))),
        (UPLOAD_ID, id.to_owned()),
    ];
    bare(status, head)
}

/// Whether a chunk does not begin where the upload stands.
fn out_of_order(headers: &HeaderMap, offset: u64) -> Result<Option<StatusCode>, Refusal> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let wrong = || {
        Refusal::new(Code::BlobUploadInvalid, "`Content-Range` is `FIRST-LAST`, both in bytes from the blob's start")
    };
    let text = range.to_str().map_err(|_| wrong())?.trim_start_matches("bytes ");
    let (first, last) = text.split('/').next().and_then(|range| range.split_once('-')).ok_or_else(wrong)?;
    let (first, last): (u64, u64) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let fits = last >= first && length.is_none_or(|length| length == last - first + 1);
    match (first == offset, fits) {
        (true, true) => Ok(None),
        (true, false) => Err(wrong()),
        (false, _) => Ok(Some(StatusCode::RANGE_NOT_SATISFIABLE)),
    }
}

/// First byte and length of a single range; none for forms that may be ignored (RFC 9110, section 14.2); `Err` outside of the blob.
fn read_range(value: &HeaderValue, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some((first, last)) =
        value.to_str().ok().and_then(|text| text.strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let (first, last) = (first.trim(), last.trim());
    if last.contains(',') {
        return Ok(None);
    }
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 && size > 0 => {
            let length = suffix.min(size);
            Ok(Some((size - length, length)))
        }
        (Ok(first), _) if first >= size => Err(()),
        (Ok(first), Ok(last)) if last >= first => Ok(Some((first, last.min(size - 1) - first + 1))),
        (Ok(first), Err(_)) if last.is_empty() => Ok(Some((first, size - first))),
        (Err(_), Ok(0)) if first.is_empty() => Err(()),
        _ => Ok(None),
    }
}

/// Reads both kinds of range; what is given lies within the blob.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &[u8], size: u64) {
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    if let Ok(Some((first, length))) = read_range(&value, size) {
        assert!(length > 0 && first.checked_add(length).is_some_and(|end| end <= size), "{first}+{length} of {size}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        let read = |text: &'static str| read_range(&HeaderValue::from_static(text), 10);
        assert_eq!(read("bytes=0-3"), Ok(Some((0, 4))));
        assert_eq!(read("bytes=4-"), Ok(Some((4, 6))));
        assert_eq!(read("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(read("bytes=8-100"), Ok(Some((8, 2))));
        assert_eq!(read("bytes=10-"), Err(()));
        assert_eq!(read("bytes=-0"), Err(()));
        for ignored in ["bytes=3-1", "bytes=0-1,3-4", "lines=1-2", "bytes=", "bytes=a-b"] {
            assert_eq!(read(ignored), Ok(None), "{ignored}");
        }
    }

    #[test]
    fn chunks_come_in_order() {
        let headers =
            |range: &'static str| HeaderMap::from_iter([(header::CONTENT_RANGE, HeaderValue::from_static(range))]);
        assert_eq!(out_of_order(&headers("5-9"), 5).unwrap(), None);
        assert_eq!(out_of_order(&headers("0-9"), 5).unwrap(), Some(StatusCode::RANGE_NOT_SATISFIABLE));
        assert!(out_of_order(&headers("nonsense"), 5).is_err());
        assert!(out_of_order(&headers("5-4"), 5).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_range_leaves_the_blob(text in "[ -~]{0,40}", size in 0_u64..1_000) {
            if let Ok(value) = HeaderValue::from_str(&text)
                && let Ok(Some((from, length))) = read_range(&value, size) {
                proptest::prop_assert!(length > 0 && from + length <= size, "{text} of {size}");
            }
        }
    }
}
