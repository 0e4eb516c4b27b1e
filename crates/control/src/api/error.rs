//! Refusals as the API answers them.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::http_client::chain;
use crate::{gateway, orders, store};

/// A refusal: what happened, and what to do.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: String,
    help: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(status: StatusCode, error: impl Into<String>, help: impl Into<String>) -> Self {
        Self { status, error: error.into(), help: help.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error, "help": self.help }))).into_response()
    }
}

impl From<orders::Error> for Refusal {
    fn from(error: orders::Error) -> Self {
        use orders::Error as E;
        let status = match &error {
            E::NoService(_) | E::NoRevision { .. } | E::Package(_) => StatusCode::NOT_FOUND,
            E::Open { .. }
            | E::Frozen { .. }
            | E::NotOpen(_)
            | E::NotTried { .. }
            | E::Withdrawn { .. }
            | E::AlreadyStable { .. }
            | E::NothingEarlier(_) => StatusCode::CONFLICT,
            E::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
            E::Misread { .. } => StatusCode::CONFLICT,
            E::OtherName { .. }
            | E::Plan(_)
            | E::Arms { .. }
            | E::Flags(_)
            | E::Definition(_)
            | E::Policy { .. }
            | E::DriftField { .. }
            | E::Incompatible { .. }
            | E::Machines { .. }
            | E::NoImage { .. }
            | E::ApiVersion { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            E::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = match &error {
            E::Store(_) => {
                tracing::error!(error = %chain(&error), "an order could not be recorded");
                error.to_string()
            }
            _ => chain(&error),
        };
        Self::new(status, text, error.help())
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        tracing::error!(error = %chain(&error), "the log cannot be read or written");
        let help = "see the control plane's log; check that the disk is not full";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the event log cannot be read or written", help)
    }
}

impl From<gateway::Error> for Refusal {
    fn from(error: gateway::Error) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            chain(&error),
            "the gateway that ran before still serves; see logs/gateway.log",
        )
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(
            rejection.status(),
            rejection.body_text(),
            "send a JSON document as docs/reference/control-api.md describes it",
        )
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), "see docs/reference/control-api.md for what may be asked")
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            rejection.body_text(),
            "names are lower-case letters, digits and single separators",
        )
    }
}

/// Answer at an address that is none.
pub async fn no_such_address(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"), "see docs/reference/control-api.md")
}

/// Answer to a method that an address does not take.
pub async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    let error = format!("{path} does not take {method}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error, "see docs/reference/control-api.md")
}
