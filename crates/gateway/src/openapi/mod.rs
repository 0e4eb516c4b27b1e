//! `GET /{service}/openapi.json`: every API version that answers under a name, in one document.
//!
//! Promises: made of what the instances say of themselves at this moment; a version that says nothing is named all the same.

mod merge;

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use modelyard_core::Weight;
use serde_json::Value;

use crate::body::{Answer, Payload};
use crate::forward::{self, Aim, Call};
use crate::incoming::Refusal;
use crate::local;
use crate::table::Service;
use crate::worker::Worker;

use merge::{Part, merge};

/// Longest document of an instance: 1 MiB, some thousand operations.
const LIMIT: usize = 1 << 20;
/// Time for an instance to give its document: it has it ready.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where instances have theirs.
const PATH: &str = "/openapi.json";

/// Answers with the document of a name.
pub async fn answer(worker: &Rc<Worker>, call: &Call<'_>, name: &str) -> Response<Answer> {
    if call.parts.method != Method::GET && call.parts.method != Method::HEAD {
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the document is fetched with GET");
        let mut response = local::refuse(&refusal, false);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let table = worker.tables.current();
    let own = table.at(name, None).map(|service| (service.default_api, service.clone()));
    let further = table.versions.all_further(name);
    let further = further.filter_map(|(api, other)| Some((api, table.services.get(other)?.clone())));
    let services: Vec<(u16, Rc<Service>)> = own.into_iter().chain(further).collect();
    if services.is_empty() {
        return local::refuse(&forward::nobody(worker, name), false);
    }
    let mut parts = Vec::new();
    for (api, service) in services {
        let deprecated = service.notice.as_ref().map(|notice| notice.words());
        let document = document(worker, call, &service).await;
        parts.push(Part { api, service: service.name.to_string(), deprecated, document });
    }
    local::json(StatusCode::OK, &merge(name, parts))
}

/// What the revision with most of a service's traffic says of itself, if it says something that can be used.
async fn document(worker: &Rc<Worker>, call: &Call<'_>, service: &Service) -> Option<Value> {
    let serving = service.pools.values().filter(|pool| pool.weight > Weight::NONE);
    let revision = serving.max_by_key(|pool| pool.weight)?.revision;
    let host = call.parts.headers.get(header::HOST).cloned().unwrap_or_else(|| HeaderValue::from_static("localhost"));
    let (parts, ()) = Request::get(PATH).header(header::HOST, host).body(()).ok()?.into_parts();
    let own =
        Call { parts: &parts, caller: call.caller, trace: call.trace, request_id: call.request_id, is_grpc: false };
    // Pinned: a look at the document is nobody's session and no sample of a test.
    let aim = Aim { service: service.name.as_str(), api: None, revision: Some(revision), path: PATH };
    let asked = async {
        let response = Box::pin(forward::forward(worker, &own, aim, &Payload::Empty)).await;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), LIMIT).collect().await.ok()?;
        serde_json::from_slice::<Value>(&body.to_bytes()).ok()
    };
    let found = tokio::time::timeout(PATIENCE, asked).await.ok()??;
    found["openapi"].as_str().is_some_and(|version| version.starts_with("3.")).then_some(found)
}
