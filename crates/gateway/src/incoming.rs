//! A caller's request: checked, aimed, and answered by an instance or by the gateway itself.
//!
//! Promises: what is refused is refused with a sentence that says why, in the form that the caller speaks (JSON or gRPC status).

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use hyper::body::Incoming;
use modelyard_core::RevisionNumber;

use crate::body::Answer;
use crate::feedback;
use crate::forward::{self, Aim, Call};
use crate::headers;
use crate::io::Activity;
use crate::local;
use crate::openapi;
use crate::path::{self, Wanted};
use crate::trace::{self, TraceParent};
use crate::worker::Worker;

/// Who asks.
pub struct Caller {
    /// Their address.
    pub ip: IpAddr,
    /// The same, as `X-Forwarded-For` has it.
    pub address: String,
    /// Whether they speak HTTP/2.
    pub http2: bool,
    activity: Rc<Activity>,
}

impl Caller {
    /// A caller on a connection.
    pub fn new(address: IpAddr, http2: bool, activity: Rc<Activity>) -> Self {
        let ip = address.to_canonical();
        Self { ip, address: ip.to_string(), http2, activity }
    }
}

/// Why a request is refused before anybody is asked.
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// Why, for the caller.
    pub why: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// Answers a request.
pub async fn answer(worker: Rc<Worker>, caller: Rc<Caller>, request: Request<Incoming>) -> Response<Answer> {
    let active = caller.activity.begin();
    let began = Instant::now();
    let (parts, body) = request.into_parts();
    let seen = Seen::of(&parts.headers);
    let trace = TraceParent::next(seen.trace.map(HeaderValue::as_bytes));
    let request_id = request_id(seen.request_id, &trace);
    let is_grpc = seen.is_grpc();
    let mut response = match check(&parts, &seen) {
        Err(refusal) => local::refuse(&refusal, is_grpc),
        Ok(()) => {
            let call = Call { parts: &parts, caller: &caller, trace, request_id: &request_id, is_grpc };
            route(&worker, &call, seen.revision, body).await
        }
    };
    if tracing::enabled!(target: "modelyard::access", tracing::Level::DEBUG) {
        tracing::debug!(
            target: "modelyard::access",
            method = %parts.method,
            path = parts.uri.path(),
            status = response.status().as_u16(),
            revision = response.headers().get(headers::REVISION).and_then(|value| value.to_str().ok()),
            micros = began.elapsed().as_micros() as u64,
            request_id = request_id.to_str().unwrap_or_default(),
            trace_id = std::str::from_utf8(trace.trace_id()).unwrap_or_default(),
            "request"
        );
    }
    response.headers_mut().insert(headers::REQUEST_ID, request_id);
    if !caller.http2 && worker.drain.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| body.with_active(active))
}

/// The fields that decide about every request, found in one pass: most are rarely there, and a look-up for each would cost more.
#[derive(Default)]
struct Seen<'a> {
    hosts: u32,
    content_type: Option<&'a HeaderValue>,
    upgrade: Option<&'a HeaderValue>,
    trace: Option<&'a HeaderValue>,
    request_id: Option<&'a HeaderValue>,
    revision: Option<&'a HeaderValue>,
}

impl<'a> Seen<'a> {
    fn of(map: &'a HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in map {
            let place = match name {
                name if *name == header::HOST => {
                    seen.hosts += 1;
                    continue;
                }
                name if *name == header::CONTENT_TYPE => &mut seen.content_type,
                name if *name == header::UPGRADE => &mut seen.upgrade,
                name if *name == headers::TRACEPARENT => &mut seen.trace,
                name if *name == headers::REQUEST_ID => &mut seen.request_id,
                name if *name == headers::REVISION => &mut seen.revision,
                _ => continue,
            };
            place.get_or_insert(value); // of several the first counts
        }
        seen
    }

    fn is_grpc(&self) -> bool {
        let kind = self.content_type.map(HeaderValue::as_bytes);
        kind.is_some_and(|kind| kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web"))
    }
}

/// The caller's request id if it is safe to use, else the trace's id.
fn request_id(given: Option<&HeaderValue>, trace: &TraceParent) -> HeaderValue {
    match given {
        Some(id) if trace::is_request_id(id.as_bytes()) => id.clone(),
        // Hexadecimal digits are a valid value: the fallback is never seen.
        _ => HeaderValue::from_bytes(trace.trace_id()).unwrap_or_else(|_| HeaderValue::from_static("-")),
    }
}

/// What no instance should see.
fn check(parts: &request::Parts, seen: &Seen<'_>) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        let why = "CONNECT is not supported: this gateway is no forward proxy";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, why));
    }
    if seen.hosts > 1 {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the request has more than one Host header"));
    }
    if seen.hosts == 0 && parts.version == Version::HTTP_11 {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "an HTTP/1.1 request needs a Host header"));
    }
    if let Some(upgrade) = seen.upgrade {
        // HTTP/2 offered in passing may be ignored (RFC 9110, section 7.8); anything else the caller counts on.
        if !upgrade.as_bytes().eq_ignore_ascii_case(b"h2c") {
            let why =
                "protocol upgrades (WebSocket and the like) are not supported; send plain HTTP/1.1, HTTP/2 or gRPC";
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, why));
        }
    }
    Ok(())
}

async fn route(
    worker: &Rc<Worker>,
    call: &Call<'_>,
    revision: Option<&HeaderValue>,
    body: Incoming,
) -> Response<Answer> {
    let path = call.parts.uri.path();
    let pin = match revision.map(pinned) {
        Some(Err(refusal)) => return local::refuse(&refusal, call.is_grpc),
        Some(Ok(revision)) => Some(revision),
        None => None,
    };
    let aim = match path::wanted(path) {
        Wanted::Default { service } => Aim { service, api: None, revision: pin, path },
        Wanted::Api { service, api, rest } => Aim { service, api: Some(api), revision: pin, path: rest },
        Wanted::Revision { service, revision, rest } => {
            Aim { service, api: None, revision: Some(revision), path: rest }
        }
        Wanted::Feedback { service, api } if !call.is_grpc => {
            return Box::pin(feedback::answer(worker, call, service, api, body)).await;
        }
        Wanted::OpenApi { service } if !call.is_grpc => return Box::pin(openapi::answer(worker, call, service)).await,
        Wanted::Own(own) if !call.is_grpc => return Box::pin(local::answer(worker, call, own)).await,
        // Boxed, as all that is rare: a request's future is moved, so it had better be small.
        _ if call.is_grpc => return Box::pin(forward::grpc::call(worker, call, body, pin)).await,
        Wanted::Own(_) | Wanted::Feedback { .. } | Wanted::OpenApi { .. } | Wanted::Unknown => {
            let why = format!(
                "nothing is at `{}`; a model answers at /v2/models/NAME/infer or /NAME/v1/predict",
                shorten(path)
            );
            return local::refuse(&Refusal::new(StatusCode::NOT_FOUND, why), false);
        }
    };
    forward::call(worker, call, aim, body).await
}

fn pinned(value: &HeaderValue) -> Result<RevisionNumber, Refusal> {
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "the header modelyard-revision is no revision number, such as 3")
    })
}

/// What of a caller's text is told back.
pub fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
