//! The admin interface: HTTP/1.1 on a private Unix socket.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use modelyard_core::route::RouteTable;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};

use super::plane::{Plane, Refused};
use crate::limits;

/// Serves the admin interface until dropped.
pub async fn serve(plane: Rc<Plane>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(connection(plane.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin socket");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await; // rather than spin
            }
        }
    }
}

async fn connection(plane: Rc<Plane>, stream: UnixStream) {
    let answer = service_fn(move |request| {
        let plane = plane.clone();
        async move { Ok::<_, Infallible>(answer(&plane, request).await) }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

async fn answer(plane: &Plane, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method().clone(), request.uri().path()) {
        (Method::PUT, "/routes") => put_routes(plane, request.into_body()).await,
        (Method::GET, "/routes") => json(StatusCode::OK, &*plane.table()),
        (Method::GET, "/report") => json(StatusCode::OK, &plane.report().await),
        (Method::GET, "/health") => {
            let health = serde_json::json!({
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "generation": plane.table().generation,
                "draining": plane.is_draining(),
            });
            json(StatusCode::OK, &health)
        }
        (Method::POST, "/drain") => {
            plane.drain(false);
            json(StatusCode::ACCEPTED, &serde_json::json!({ "draining": true }))
        }
        (method, path) => {
            let why = format!(
                "there is no {method} {path}; there are PUT and GET /routes, GET /report, GET /health, POST /drain"
            );
            refuse(StatusCode::NOT_FOUND, &why)
        }
    }
}

async fn put_routes(plane: &Plane, body: Incoming) -> Response<Full<Bytes>> {
    let bytes = match Limited::new(body, limits::TABLE).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, &format!("cannot read the route table: {error}")),
    };
    let table: RouteTable = match serde_json::from_slice(&bytes) {
        Ok(table) => table,
        Err(error) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, &format!("this is no route table: {error}")),
    };
    match plane.apply(table).await {
        Ok(generation) => json(StatusCode::OK, &serde_json::json!({ "generation": generation })),
        Err(error @ Refused::Older { .. }) => refuse(StatusCode::CONFLICT, &error.to_string()),
        Err(error @ Refused::Invalid(_)) => refuse(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": why }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let (status, text) = match serde_json::to_vec(value) {
        Ok(text) => (status, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
