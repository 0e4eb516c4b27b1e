//! gRPC calls: what the gateway answers itself, and which service the others are for.
//!
//! Promises: reads no more of a call than is needed to find the model's name; what was read is passed on unchanged.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use http::{Response, StatusCode};
use hyper::body::Incoming;
use modelyard_core::RevisionNumber;

use super::{Aim, Call, find, forward, told};
use crate::body::{Answer, Payload, Replay};
use crate::grpc::{Code, Peek, peek_name};
use crate::headers;
use crate::incoming::{Refusal, shorten};
use crate::limits;
use crate::local::{self, answer_grpc, refuse_grpc};
use crate::worker::Worker;

const INFERENCE: &str = "/inference.GRPCInferenceService/";
const HEALTH: &str = "/grpc.health.v1.Health/";
/// The fully qualified name of the inference service, as health checks ask for it.
const INFERENCE_NAME: &str = "inference.GRPCInferenceService";

/// Answers a gRPC call.
pub async fn call(
    worker: &Rc<Worker>,
    call: &Call<'_>,
    body: Incoming,
    revision: Option<RevisionNumber>,
) -> Response<Answer> {
    let path = call.parts.uri.path();
    let payload = Payload::Stream(Rc::new(RefCell::new(Replay::new(body))), None);
    if let Some(named) = call.parts.headers.get(headers::SERVICE) {
        let service = named.to_str().unwrap_or_default();
        return aimed(worker, call, Aim { service, api: None, revision, path }, &payload).await;
    }
    let method = path.strip_prefix(INFERENCE);
    match method {
        Some("ServerLive") => return answer_grpc(&[8, 1]),
        Some("ServerReady") => return answer_grpc(if local::is_ready(worker) { &[8, 1] } else { &[] }),
        Some("ServerMetadata") => return answer_grpc(&metadata()),
        _ => {}
    }
    let health = path.strip_prefix(HEALTH);
    if method.is_none() && health.is_none() {
        let only = only_service(worker);
        return match only {
            // Reflection and the like: with one service there is no doubt whose it is.
            Some(service) => aimed(worker, call, Aim { service: &service, api: None, revision, path }, &payload).await,
            None => refuse_grpc(
                Code::Unimplemented,
                &format!(
                    "which service `{}` is for cannot be told; name it in the metadata modelyard-service",
                    shorten(path)
                ),
            ),
        };
    }
    let name = match name(&payload).await {
        Ok(name) => name,
        Err((code, why)) => return refuse_grpc(code, &why),
    };
    match (health, name) {
        (Some("Check"), name) => check(worker, name.as_deref().unwrap_or_default()),
        (Some(_), _) => refuse_grpc(Code::Unimplemented, "the gateway answers health checks by Check only"),
        (None, None) => refuse_grpc(Code::InvalidArgument, "the request names no model"),
        (None, Some(service)) => {
            aimed(worker, call, Aim { service: &service, api: None, revision, path }, &payload).await
        }
    }
}

async fn aimed(worker: &Rc<Worker>, call: &Call<'_>, aim: Aim<'_>, payload: &Payload) -> Response<Answer> {
    match find(worker, aim) {
        Ok((service, _)) => told(forward(worker, call, aim, payload).await, service.notice.clone()),
        Err(refusal) => local::refuse(&refusal, true),
    }
}

fn only_service(worker: &Worker) -> Option<String> {
    let table = worker.tables.current();
    let mut names = table.services.keys();
    match (names.next(), names.next()) {
        (Some(only), None) => Some(only.to_string()),
        _ => None,
    }
}

/// `HealthCheckResponse`: 1 is SERVING, 2 is NOT_SERVING.
fn check(worker: &Worker, name: &str) -> Response<Answer> {
    let status = match name {
        "" | INFERENCE_NAME => local::is_ready(worker),
        service => match worker.tables.service(service, None) {
            Some(service) => service.apis.iter().any(|(_, split)| !split.is_empty()),
            None => {
                return local::refuse(
                    &Refusal::new(StatusCode::NOT_FOUND, format!("no service is named `{}`", shorten(name))),
                    true,
                );
            }
        },
    };
    answer_grpc(&[8, if status { 1 } else { 2 }])
}

/// `ServerMetadataResponse`: name and version.
fn metadata() -> Vec<u8> {
    let mut message = Vec::new();
    for (tag, text) in [(0x0a, local::NAME), (0x12, local::VERSION)] {
        message.extend_from_slice(&[tag, text.len() as u8]); // both are shorter than 128 bytes
        message.extend_from_slice(text.as_bytes());
    }
    message
}

/// The name in the first message; `None` when it has none.
async fn name(payload: &Payload) -> Result<Option<String>, (Code, String)> {
    let Payload::Stream(replay, _) = payload else { return Ok(None) };
    let mut joined: Vec<u8> = Vec::new();
    loop {
        let frame = poll_fn(|cx| replay.borrow_mut().poll_next(cx)).await;
        let ended = frame.is_none();
        if let Some(Err(error)) = frame {
            let refusal = super::receive::refusal(&error);
            return Err((Code::InvalidArgument, refusal.why));
        }
        let replay = replay.borrow();
        let peek = match replay.kept() {
            [only] => peek_name(only),
            several => {
                let here: usize = several.iter().map(bytes::Bytes::len).sum();
                if here > joined.len() {
                    joined = several.concat();
                }
                peek_name(&joined)
            }
        };
        match peek {
            Peek::Name(name) => return Ok(Some(name.to_owned())),
            Peek::Nameless => return Ok(None),
            Peek::Malformed => return Err((Code::InvalidArgument, "the first message is malformed".to_owned())),
            Peek::Compressed => {
                let why = "the first message is compressed, so the model's name cannot be read; send it plain or name the service in the metadata modelyard-service";
                return Err((Code::Unimplemented, why.to_owned()));
            }
            Peek::More if ended => return Err((Code::InvalidArgument, "the call has no message".to_owned())),
            Peek::More if joined.len() > limits::PEEK || !payload.can_replay() => {
                let why = "the model's name does not come early enough in the message; send field 1 first";
                return Err((Code::InvalidArgument, why.to_owned()));
            }
            Peek::More => {}
        }
    }
}
