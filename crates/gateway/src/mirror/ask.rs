//! One copy at one instance of a shadow: asked once, never again, within a time, and no longer listened to than can be compared.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;

use super::aside::Hearing;
use super::shadow::Plan;
use super::{Copied, micros_since, tee};
use crate::body::Payload;
use crate::compare::{BODY, Said};
use crate::forward::attempt::host;
use crate::table::Instance;
use crate::trace::TraceParent;
use crate::upstream::h1::{Connection, Exchange, Outbound, Streaming};
use crate::upstream::{Failure, h2};

// 64 KiB and four times stable's: other words for the same numbers, and some more of them. What is longer says something else in any case.
const SLACK: usize = 64 << 10;
const TIMES: usize = 4;

/// Most bytes of a shadow's answer that are read: they are read where requests are answered, and a flood must not be felt there.
fn most(copied: &Copied) -> usize {
    let body = copied.stable.as_ref().and_then(|stable| stable.said.body.as_ref());
    body.map_or(0, bytes::Bytes::len).saturating_mul(TIMES).saturating_add(SLACK).min(BODY)
}

/// What a shadow answered, and how long its head took.
pub struct Answered {
    /// What it answered.
    pub said: Said,
    /// Microseconds to the head.
    pub micros: u64,
    /// Its body was longer than is read.
    pub is_flood: bool,
}

/// Asks.
///
/// # Errors
/// [`Failure`]; a body that breaks off is one.
pub async fn ask(copied: &Copied, plan: &Plan, instance: &Rc<Instance>, now_ms: u64) -> Result<Answered, Failure> {
    // A span of its own in the same trace; a header links it with the one that it is a copy of.
    let trace = TraceParent::next(Some(copied.trace.as_bytes()));
    let outbound = Outbound {
        method: &copied.parts.method,
        path: &copied.path,
        query: copied.parts.uri.query(),
        headers: &copied.parts.headers,
        host: host(&copied.parts),
        from: &copied.from,
        traceparent: trace.as_bytes(),
        request_id: copied.id.as_bytes(),
        revision: plan.revision_value.as_bytes(),
        flags: plan.flags.as_ref().map(HeaderValue::as_bytes),
        session: copied.session,
        shadow_of: Some(copied.trace.as_bytes()),
    };
    let payload =
        if copied.body.is_empty() && !copied.is_grpc { Payload::Empty } else { Payload::Whole(copied.body.clone()) };
    let sent = Instant::now();
    if copied.is_grpc {
        grpc(&outbound, &payload, instance, most(copied), sent).await
    } else {
        http1(&outbound, &payload, (plan, most(copied)), instance, now_ms, sent).await
    }
}

async fn http1(
    outbound: &Outbound<'_>,
    payload: &Payload,
    (plan, most): (&Plan, usize),
    instance: &Rc<Instance>,
    now_ms: u64,
    sent: Instant,
) -> Result<Answered, Failure> {
    let connection = match instance.h1.take() {
        Some(connection) => connection,
        None => Connection::open(instance.address).await?,
    };
    let mut exchange = Exchange::start(connection, outbound, payload);
    let head = poll_fn(|cx| exchange.poll_head(cx)).await?;
    let micros = micros_since(sent);
    let mut hearing = Hearing::new(tee::said(head.status, &head.headers, false), most);
    let mut streaming = Streaming::new(exchange, head.framing, head.keep_alive, instance.clone(), now_ms, plan.timeout);
    while let Some(frame) = poll_fn(|cx| streaming.poll_frame(cx)).await {
        if !take(&mut hearing, &frame?) {
            break; // with the body goes its connection: a flood ends here
        }
    }
    Ok(finish(hearing, micros))
}

async fn grpc(
    outbound: &Outbound<'_>,
    payload: &Payload,
    instance: &Instance,
    most: usize,
    sent: Instant,
) -> Result<Answered, Failure> {
    let request = h2::request(outbound, payload)?;
    let (response, _stream) = instance.h2.send(instance.address, false, request).await?;
    let micros = micros_since(sent);
    let (head, mut body) = response.into_parts();
    let mut hearing = Hearing::new(tee::said(head.status, &head.headers, true), most);
    while let Some(frame) = body.frame().await {
        if !take(&mut hearing, &frame.map_err(|error| Failure::Broken(error.to_string()))?) {
            break; // the stream is reset
        }
    }
    Ok(finish(hearing, micros))
}

/// Takes a frame. Returns whether to go on.
fn take(hearing: &mut Hearing, frame: &Frame<bytes::Bytes>) -> bool {
    if let Some(data) = frame.data_ref() {
        hearing.data(data);
    }
    if let Some(trailers) = frame.trailers_ref() {
        let trailers: &HeaderMap = trailers;
        hearing.trailers(trailers);
    }
    !hearing.is_too_long()
}

fn finish(mut hearing: Hearing, micros: u64) -> Answered {
    hearing.end();
    let is_flood = hearing.is_too_long();
    Answered { said: hearing.finish().1, micros, is_flood }
}
