//! The HTTP face: which path is answered by what.
//!
//! Promises: every error is JSON with one field `error`; a wrong method gets 405 with `Allow`; gRPC is told from the rest by
//! its content type, so both live on one port. Contracts of platforms have their own forms of errors.

mod contract;
mod infer;
mod metadata;
mod metrics;
pub(crate) mod openapi;
mod reply;
mod request;
mod route;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};

use infer::Speech;
pub(crate) use infer::received;
pub(crate) use metadata::{EXTENSIONS, SERVER};
pub(crate) use reply::{Body, status};
use reply::{json, refuse};
use route::{Route, route};

use crate::contract::Contracts;
use crate::refusal::Refusal;
use crate::server::Shared;
pub(crate) use crate::server::Thread;

/// Answers any request to the main port.
pub(crate) async fn answer(thread: &Thread, request: Request<Incoming>) -> Response<Body> {
    if is_grpc(&request) {
        return thread.grpc.answer(request).await;
    }
    // HTTP/2 says GOAWAY instead, and forbids the header.
    let says_close = request.version() < Version::HTTP_2;
    let mut response = match route(request.uri().path(), &thread.shared.contracts) {
        Ok(route) => match allowed(&route, request.method()) {
            true => dispatch(thread, route, request).await,
            false => not_allowed(&route),
        },
        Err(refusal) => refuse(&refusal),
    };
    if says_close && thread.shared.health.is_draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn allowed(route: &Route, method: &Method) -> bool {
    match route {
        route if takes_posts(route) => method == Method::POST,
        _ => matches!(*method, Method::GET | Method::HEAD),
    }
}

fn takes_posts(route: &Route) -> bool {
    match route {
        Route::Infer { .. } | Route::Predict => true,
        Route::Contract(route) => route.predicts(),
        _ => false,
    }
}

fn not_allowed(route: &Route) -> Response<Body> {
    let allow = if takes_posts(route) { "POST" } else { "GET, HEAD" };
    let mut response = reply::error(StatusCode::METHOD_NOT_ALLOWED, &format!("this path takes {allow}"));
    response.headers_mut().insert(hyper::header::ALLOW, HeaderValue::from_static(allow));
    response
}

async fn dispatch(thread: &Thread, route: Route, request: Request<Incoming>) -> Response<Body> {
    let shared = &*thread.shared;
    match route {
        Route::Infer { model, version } => {
            // The names are taken off the path before the request's body is.
            let named = shared.loaded().and_then(|loaded| loaded.model.accepts(&model, version.as_deref()));
            infer::answer(thread, request, Speech::Protocol, named).await
        }
        Route::Predict => infer::answer(thread, request, Speech::Plain, Ok(())).await,
        Route::Contract(route) if route.predicts() => contract::predict(thread, route, request).await,
        Route::Contract(route) => contract::probe(shared, route),
        Route::Live => probed(shared.health.live_answer()),
        Route::Ready => probed(shared.health.ready_answer()),
        Route::Server => json(StatusCode::OK, &metadata::server()),
        Route::Model { model, version } => {
            about(shared, &model, version.as_deref(), |loaded| metadata::model(&loaded.model))
        }
        Route::ModelReady { model, version } => model_ready(shared, &model, version.as_deref()),
        Route::Stats { model, version } => match model {
            Some(model) => about(shared, &model, version.as_deref(), |loaded| metadata::stats(shared, loaded)),
            None => match shared.loaded() {
                Ok(loaded) => json(StatusCode::OK, &metadata::stats(shared, loaded)),
                Err(refusal) => refuse(&refusal),
            },
        },
        Route::OpenApi => match shared.loaded() {
            Ok(loaded) => reply::bytes(StatusCode::OK, "application/json", loaded.openapi.clone()),
            Err(refusal) => refuse(&refusal),
        },
        Route::Metrics => {
            let text = metrics::text(shared);
            reply::bytes(StatusCode::OK, modelyard_core::exposition::CONTENT_TYPE, text.into())
        }
    }
}

/// Answers with something about the model, if it is this one.
fn about(
    shared: &Shared,
    model: &str,
    version: Option<&str>,
    tell: impl FnOnce(&crate::server::Loaded) -> serde_json::Value,
) -> Response<Body> {
    let loaded = shared.loaded().and_then(|loaded| loaded.model.accepts(model, version).map(|()| loaded));
    match loaded {
        Ok(loaded) => json(StatusCode::OK, &tell(loaded)),
        Err(refusal) => refuse(&refusal),
    }
}

fn model_ready(shared: &Shared, model: &str, version: Option<&str>) -> Response<Body> {
    let named = shared.loaded().and_then(|loaded| loaded.model.accepts(model, version));
    match named {
        Ok(()) if shared.health.is_ready() => json(StatusCode::OK, &serde_json::json!({"name": model, "ready": true})),
        Ok(()) => refuse(&Refusal::new(crate::refusal::Kind::Unavailable, "the server is draining")),
        Err(refusal) => refuse(&refusal),
    }
}

fn probed((well, body): (bool, serde_json::Value)) -> Response<Body> {
    json(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

/// Answers a request to the probe port.
pub(crate) fn probe(shared: &Shared, request: &Request<Incoming>) -> Response<Body> {
    match route(request.uri().path(), &Contracts::default()) {
        Ok(route @ (Route::Live | Route::Ready)) if !allowed(&route, request.method()) => not_allowed(&route),
        Ok(Route::Live) => probed(shared.health.live_answer()),
        Ok(Route::Ready) => probed(shared.health.ready_answer()),
        Ok(_) => refuse(&Refusal::not_found("the probe port answers /v2/health/live and /v2/health/ready only")),
        Err(refusal) => refuse(&refusal),
    }
}
