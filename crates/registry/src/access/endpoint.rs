//! `GET /token`: a lasting token in, a short-lived one out, as container clients ask for it.
//!
//! Source: Docker registry token authentication specification. Absent on purpose: its OAuth 2 form with refresh tokens; clients that try it first
//! (405) go on with this one.

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::guard::{NONE, refuse, unauthorised};
use super::{Presented, Tokens, instant, now, secret, short};
use crate::address::Query;

/// Where tokens are given.
pub const PATH: &str = "/token";

/// The address of this module.
pub fn routes(tokens: Tokens) -> Router {
    Router::new().route(PATH, get(give)).with_state(tokens)
}

/// Where a caller finds [`PATH`]: on the host and by the scheme that it used.
pub fn realm(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").unwrap_or("127.0.0.1");
    // It stands between quotes: what could end them is no host.
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(*c)).collect();
    // A proxy in front may end TLS.
    let is_tls = text("x-forwarded-proto") == Some("https");
    format!("{}://{host}{PATH}", if is_tls { "https" } else { "http" })
}

async fn give(State(tokens): State<Tokens>, request: Request) -> Response {
    let secret = secret(request.headers());
    let (holder, at) = (tokens.look_closely(secret.as_deref(), now()), now());
    let holder = match holder {
        Ok((Presented::Valid(grant), Some(id))) => Some((id, grant)),
        // Docker asks without a name before it reads what anybody may read.
        Ok((Presented::Nothing | Presented::NotDemanded, _)) => None,
        Ok((_, id)) => {
            tokens.refused(id.as_deref(), NONE, "GET", PATH);
            return unauthorised(NONE);
        }
        Err(error) => {
            tracing::error!(%error, "the tokens cannot be read; nobody is let in");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "who may do what cannot be read here");
        }
    };
    let query = Query::new(request.uri().query());
    let holder = holder.as_ref().map(|(id, grant)| (id.as_str(), &**grant));
    let Some((token, access)) = tokens.mint().issue(holder, query.all("scope"), at) else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the operating system gave no randomness");
    };
    tracing::debug!(access = access.len(), "a short-lived token was given");
    let answer = json!({
        "token": token, "access_token": token, "expires_in": short::SECONDS,
        "issued_at": instant(at),
    });
    ([(header::CACHE_CONTROL, "no-store")], axum::Json(answer)).into_response()
}
