//! `POST /{service}/feedback`: true labels and rewards by request id.
//!
//! Promises: all of a body is kept or nothing; it is on the disk before the answer says so. Works without a control plane, which reads the spool
//! later. Source of the form: `core::feedback`.

use std::rc::Rc;

use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use modelyard_core::feedback::{self, LIMIT, Refused};
use modelyard_core::mirror::ToldFeedback;

use crate::body::Answer;
use crate::forward::{self, Aim, Call};
use crate::incoming::Refusal;
use crate::limits;
use crate::local;
use crate::mirror::now_ms;
use crate::table::Service;
use crate::tap::{NotKept, Route};
use crate::worker::Worker;

/// Answers a post of feedback.
pub async fn answer(
    worker: &Rc<Worker>,
    call: &Call<'_>,
    service: &str,
    api: Option<u16>,
    body: Incoming,
) -> Response<Answer> {
    let found = forward::find(worker, Aim { service, api, revision: None, path: "" }).map(|(service, _)| service);
    let notice = found.as_ref().ok().and_then(|service| service.notice.clone());
    let response = match keep(worker, call, found, body).await {
        Ok(accepted) => local::json(StatusCode::ACCEPTED, &serde_json::json!({ "accepted": accepted })),
        Err(refusal) => {
            let mut response = local::refuse(&refusal, false);
            if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            response
        }
    };
    forward::told(response, notice)
}

async fn keep(
    worker: &Worker,
    call: &Call<'_>,
    found: Result<Rc<Service>, Refusal>,
    body: Incoming,
) -> Result<usize, Refusal> {
    if call.parts.method != Method::POST {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "feedback is posted"));
    }
    let found = found?;
    let route = route(&found)?;
    if call.parts.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        let why = "feedback with a content coding is not read; send it plain";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let kind = call.parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let bytes = match tokio::time::timeout(limits::BODY_TIME, Limited::new(body, LIMIT).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(refusal(&Refused::TooLarge)),
        Ok(Err(_)) => return Err(Refusal::new(StatusCode::BAD_REQUEST, "the body broke off; nothing was kept")),
        Err(_) => {
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time; nothing was kept"));
        }
    };
    let items = feedback::parse(&bytes, feedback::is_lines(kind)).map_err(|refused| refusal(&refused))?;
    let (accepted, at_ms) = (items.len(), now_ms());
    let told = items.into_iter().map(|item| ToldFeedback { id: item.id, at_ms, body: item.body }).collect();
    let kept = worker.aside.tap().keep(route, told).await;
    kept.map(|()| accepted).map_err(|why| not_kept(&why))
}

/// The service's tap.
fn route(found: &Service) -> Result<std::sync::Arc<Route>, Refusal> {
    let tap = found.watch.as_ref().and_then(|watch| watch.tap.clone());
    tap.ok_or_else(|| {
        let why = format!("no metric of `{}` asks for feedback; nothing was kept", found.name);
        Refusal::new(StatusCode::CONFLICT, why)
    })
}

fn refusal(refused: &Refused) -> Refusal {
    let status = match refused {
        Refused::TooLarge | Refused::TooMany | Refused::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::NotJson { .. }
        | Refused::NotAnObject { .. }
        | Refused::Id { .. }
        | Refused::SaysNothing { .. }
        | Refused::Empty => StatusCode::BAD_REQUEST,
    };
    Refusal::new(status, format!("{refused}; nothing was kept"))
}

fn not_kept(why: &NotKept) -> Refusal {
    match why {
        NotKept::Full | NotKept::Busy | NotKept::Ending => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the feedback is not accepted: {why}"))
        }
        NotKept::Disk(_) => {
            tracing::error!(%why, "feedback is not kept");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the feedback is not accepted: {why}"))
        }
    }
}
