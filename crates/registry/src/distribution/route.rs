//! Which handler answers.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderName, HeaderValue, Method, StatusCode, request};

use super::Distribution;
use super::answer::{Answer, Code, Refusal};
use crate::address::{Query, Target, percent_decoded, read};
use crate::names::is_repository;

/// Everything below `/v2`.
pub fn router(distribution: Distribution) -> Router {
    Router::new()
        .route("/v2", any(serve))
        .route("/v2/", any(serve))
        .route("/v2/{*rest}", any(serve))
        .with_state(distribution)
}

async fn serve(State(distribution): State<Distribution>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = percent_decoded(parts.uri.path().strip_prefix("/v2").unwrap_or_default());
    let mut response = match path.as_deref().map(|path| read(path.trim_start_matches('/'))) {
        Some(Some((name, target))) => {
            handle(&distribution, &parts, body, name, target).await.unwrap_or_else(IntoResponse::into_response)
        }
        _ => Refusal::new(Code::NameUnknown, "the registry has no such address").into_response(),
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(HeaderName::from_static("docker-distribution-api-version"), version);
    response
}

async fn handle(
    distribution: &Distribution,
    parts: &request::Parts,
    body: Body,
    name: &str,
    target: Target<'_>,
) -> Answer {
    if !matches!(target, Target::Base | Target::Catalog) && !is_repository(name) {
        let told: String = name.chars().take(80).collect();
        let why = format!("`{told}` is no repository name: lower-case letters, digits and separators between slashes");
        return Err(Refusal::new(Code::NameInvalid, why));
    }
    let query = Query::new(parts.uri.query());
    match (&parts.method, target) {
        (&Method::GET | &Method::HEAD, Target::Base) => Ok(axum::Json(serde_json::json!({})).into_response()),
        (&Method::GET, Target::Catalog) => distribution.catalog(&query),
        (&Method::GET, Target::Tags) => distribution.tags(name, &query),
        (&Method::GET, Target::Referrers(digest)) => distribution.referrers(name, digest, &query),
        (&Method::GET, Target::Blob(digest)) => distribution.blob(name, digest, &parts.headers, true),
        (&Method::HEAD, Target::Blob(digest)) => distribution.blob(name, digest, &parts.headers, false),
        (&Method::DELETE, Target::Blob(digest)) => distribution.delete_blob(name, digest),
        (&Method::GET, Target::Manifest(reference)) => distribution.manifest(name, reference, true),
        (&Method::HEAD, Target::Manifest(reference)) => distribution.manifest(name, reference, false),
        (&Method::PUT, Target::Manifest(reference)) => {
            distribution.put_manifest(name, reference, &query, &parts.headers, body).await
        }
        (&Method::DELETE, Target::Manifest(reference)) => distribution.delete_manifest(name, reference),
        (&Method::POST, Target::Begin) => distribution.begin(name, &query, body).await,
        (&Method::GET | &Method::HEAD, Target::Upload(id)) => distribution.upload_status(name, id).await,
        (&Method::PATCH, Target::Upload(id)) => distribution.append(name, id, &parts.headers, body).await,
        (&Method::PUT, Target::Upload(id)) => distribution.finish(name, id, &query, &parts.headers, body).await,
        (&Method::DELETE, Target::Upload(id)) => distribution.cancel(name, id).await,
        (method, _) => Err(Refusal::new(Code::Unsupported, format!("{method} is not answered here"))
            .with(StatusCode::METHOD_NOT_ALLOWED)),
    }
}
