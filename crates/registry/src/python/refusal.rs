//! Why the index refuses a request, in words that pip and twine show.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::Error;

/// A refusal.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    /// With a status and what is wrong.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request is wrong.
    pub fn wrong(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Nothing is there.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        tracing::error!(error = %error, source = ?std::error::Error::source(&error), "the package index");
        match &error {
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "the index's disk is full; nothing was stored")
            }
            Error::Storage { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the index's store does not answer; try again later")
            }
            // What lies where on this machine is for its log.
            _ => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the index could not read or write its files; its log says why",
            ),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, format!("{}\n", self.message)).into_response()
    }
}
