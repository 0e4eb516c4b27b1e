//! Answers: heads, and refusals with the codes of the specification.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::Error;

/// Header that names a manifest's or blob's digest.
pub const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Why a request is refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    status: StatusCode,
    code: Code,
    message: String,
}

/// The error codes of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unsupported,
    Unknown,
}

impl Code {
    const fn name(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unsupported => "UNSUPPORTED",
            Self::Unknown => "UNKNOWN",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::BlobUploadUnknown | Self::ManifestUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid => StatusCode::BAD_REQUEST,
            Self::ManifestBlobUnknown => StatusCode::NOT_FOUND,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Refusal {
    /// A refusal with the usual status of its code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { status: code.status(), code, message: message.into() }
    }

    /// With another status.
    pub fn with(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match &error {
            Error::Damaged { .. } => tracing::error!(%error, "a blob is damaged"),
            other => {
                tracing::error!(error = %other, source = ?std::error::Error::source(other), "the registry's files")
            }
        }
        let full = matches!(&error, Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
        let status = match &error {
            Error::Storage { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ if full => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // What lies where on this machine is for its log.
        let told = match &error {
            Error::Damaged { expected, .. } => format!("blob {expected} is damaged on this registry; push it again"),
            Error::Storage { .. } => "the registry's store does not answer; try again later".to_owned(),
            _ if full => "the registry's disk is full; nothing was stored".to_owned(),
            _ => "the registry could not read or write its files; its log says why".to_owned(),
        };
        Self::new(Code::Unknown, told).with(status)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({ "errors": [{ "code": self.code.name(), "message": self.message }] });
        (self.status, axum::Json(body)).into_response()
    }
}

/// What a handler gives.
pub type Answer = Result<Response, Refusal>;

/// An answer with headers and no body.
pub fn bare<const N: usize>(status: StatusCode, headers: [(HeaderName, String); N]) -> Response {
    let mut response = status.into_response();
    for (name, value) in headers {
        // Names, digests and numbers are visible ASCII: the fallback is never seen.
        let value = HeaderValue::from_str(&value).unwrap_or_else(|_| HeaderValue::from_static(""));
        response.headers_mut().insert(name, value);
    }
    if !response.headers().contains_key(header::CONTENT_LENGTH) && status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}
