//! What the gateway answers itself: its metadata, its health, its metrics, and refusals.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use modelyard_core::exposition;
use tokio::sync::oneshot;

use crate::admin::Ask;
use crate::body::Answer;
use crate::forward::Call;
use crate::grpc::{self, Code};
use crate::incoming::Refusal;
use crate::path::Own;
use crate::worker::Worker;

/// The name that the gateway tells.
pub const NAME: &str = "modelyard";
/// The version that the gateway tells.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Answers what is the gateway's own.
pub async fn answer(worker: &Worker, call: &Call<'_>, own: Own) -> Response<Answer> {
    if call.parts.method != Method::GET && call.parts.method != Method::HEAD {
        let why = format!("`{}` takes GET only", call.parts.uri.path());
        let mut response = refuse(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, why), false);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let ready = is_ready(worker);
    match own {
        Own::Server => {
            // What every service offers is the model servers' own; the gateway adds nothing.
            json(StatusCode::OK, &serde_json::json!({ "name": NAME, "version": VERSION, "extensions": [] }))
        }
        Own::Root => {
            let services: Vec<_> = worker.tables.current().services.keys().cloned().collect();
            json(StatusCode::OK, &serde_json::json!({ "name": NAME, "version": VERSION, "services": services }))
        }
        Own::Live => json(StatusCode::OK, &serde_json::json!({ "live": true })),
        Own::Ready if ready => json(StatusCode::OK, &serde_json::json!({ "ready": true })),
        Own::Ready => json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false })),
        Own::Metrics => metrics(worker).await,
    }
}

/// Whether requests are welcome: a table is applied, and the gateway does not end.
pub fn is_ready(worker: &Worker) -> bool {
    worker.tables.current().generation > 0 && !worker.drain.is_draining()
}

async fn metrics(worker: &Worker) -> Response<Answer> {
    let (answer, text) = oneshot::channel();
    let asked = worker.admin.send(Ask::Metrics(answer)).is_ok();
    match text.await {
        Ok(text) if asked => {
            let mut response = Response::new(Answer::whole(text));
            let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => refuse(&Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is ending"), false),
    }
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &serde_json::Value) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A refusal, in the form that the caller speaks.
pub fn refuse(refusal: &Refusal, is_grpc: bool) -> Response<Answer> {
    if is_grpc {
        return refuse_grpc(code_for(refusal.status), &refusal.why);
    }
    let mut response = json(refusal.status, &serde_json::json!({ "error": refusal.why }));
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        // 1 s: an instance of a small model starts within that time.
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The gRPC code that says the same as an HTTP status.
fn code_for(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::InvalidArgument,
        404 => Code::NotFound,
        408 | 504 => Code::DeadlineExceeded,
        413 | 429 => Code::ResourceExhausted,
        405 | 501 => Code::Unimplemented,
        500 => Code::Internal,
        502 | 503 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// A gRPC refusal: head and trailers in one.
pub fn refuse_grpc(code: Code, why: &str) -> Response<Answer> {
    let mut response = Response::new(Answer::empty());
    let map = response.headers_mut();
    map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    map.insert("grpc-status", HeaderValue::from(code as u16));
    // Percent-encoded text is always a valid value.
    if let Ok(message) = HeaderValue::from_str(&grpc::encode_message(why)) {
        map.insert("grpc-message", message);
    }
    response
}

/// A gRPC answer of one message.
pub fn answer_grpc(message: &[u8]) -> Response<Answer> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = Response::new(Answer::framed(Bytes::from(grpc::frame(message)), trailers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
