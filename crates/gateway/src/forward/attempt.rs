//! One attempt at one instance, over HTTP/1.1 or, for gRPC, HTTP/2.
//!
//! Promises: a kept connection that turns out closed costs nothing but a new one; the time limit runs until the answer's head, or to its
//! end if it is short.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Response, header, request};

use super::Call;
use super::flight::Flight;
use crate::affinity::Session;
use crate::body::{Answer, Payload};
use crate::table::Service;
use crate::upstream::h1::{AnswerHead, Connection, Exchange, Outbound, Streaming};
use crate::upstream::{Failure, h2};
use crate::worker::Worker;

/// How an attempt ended.
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is the usual one: a box would cost every request an allocation"
)]
pub enum Attempt {
    /// With an answer; its body keeps the request in flight.
    Answered(Response<Answer>),
    /// Without one.
    Failed(Flight, Failure),
    /// Without one in time.
    TooLong(Flight),
}

/// What an attempt passes on besides the call.
#[derive(Clone, Copy)]
pub struct Passed<'a> {
    /// The path as the instance sees it.
    pub path: &'a str,
    /// The request's session.
    pub session: Option<Session>,
    /// When it is sent.
    pub sent: Instant,
}

/// Asks one instance.
pub async fn run(
    worker: &Rc<Worker>,
    call: &Call<'_>,
    passed: Passed<'_>,
    service: &Service,
    mut flight: Flight,
    payload: &Payload,
) -> Attempt {
    let sent = passed.sent;
    let limit = service.routing.timeout.as_duration();
    let instance = flight.instance().clone();
    if call.is_grpc {
        return match tokio::time::timeout(limit, Box::pin(http2(call, passed, &flight, payload))).await {
            Ok(Ok((response, stream))) => {
                let now = Instant::now();
                flight.answered(service, response.status(), response.headers(), sent, now, worker.ms_at(now));
                flight.hold(stream);
                let mut response = response.map(|body| Answer::http2(body).with_flight(flight));
                strip(response.headers_mut());
                Attempt::Answered(response)
            }
            Ok(Err(failure)) => Attempt::Failed(flight, failure),
            Err(_) => Attempt::TooLong(flight),
        };
    }
    match tokio::time::timeout(limit, http1(call, passed, &flight, payload)).await {
        Ok(Ok((head, exchange))) => {
            let now = Instant::now();
            let now_ms = worker.ms_at(now);
            let mut streaming = Streaming::new(exchange, head.framing, head.keep_alive, instance, now_ms, limit);
            // The usual case: the whole answer is here, and its connection is free before the caller has it. A short rest is waited
            // for: until the caller has the head, another instance can be asked when this one dies in the middle of its answer.
            let body = match streaming.take_whole() {
                Some(bytes) => Answer::whole(bytes),
                None if streaming.is_short() => {
                    let rest = limit.saturating_sub(now.saturating_duration_since(sent));
                    match tokio::time::timeout(rest, Box::pin(streaming.gather())).await {
                        Ok(Ok(bytes)) => Answer::whole(bytes),
                        Ok(Err(why)) => return Attempt::Failed(flight, Failure::Broken(why)),
                        Err(_) => return Attempt::TooLong(flight),
                    }
                }
                None => Answer::http1(streaming),
            };
            flight.answered(service, head.status, &head.headers, sent, now, now_ms);
            let mut response = Response::new(body.with_flight(flight));
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            Attempt::Answered(response)
        }
        Ok(Err(failure)) => Attempt::Failed(flight, failure),
        Err(_) => Attempt::TooLong(flight),
    }
}

/// The request as the instance gets it.
fn outbound<'a>(call: &'a Call<'_>, passed: Passed<'a>, flight: &'a Flight) -> Outbound<'a> {
    Outbound {
        method: &call.parts.method,
        path: passed.path,
        query: call.parts.uri.query(),
        headers: &call.parts.headers,
        host: host(call.parts),
        from: &call.caller.address,
        traceparent: call.trace.as_bytes(),
        request_id: call.request_id.as_bytes(),
        revision: flight.pool().revision_value.as_bytes(),
        flags: flight.pool().flags.as_ref().map(HeaderValue::as_bytes),
        session: passed.session,
        shadow_of: None,
    }
}

async fn http1(
    call: &Call<'_>,
    passed: Passed<'_>,
    flight: &Flight,
    payload: &Payload,
) -> Result<(AnswerHead, Exchange), Failure> {
    let instance = flight.instance();
    let outbound = outbound(call, passed, flight);
    let mut kept = instance.h1.take();
    loop {
        let connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(instance.address).await?,
        };
        let mut exchange = Exchange::start(connection, &outbound, payload);
        match poll_fn(|cx| exchange.poll_head(cx)).await {
            Ok(head) => return Ok((head, exchange)),
            Err(Failure::Stale) if payload.can_replay() => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// The host that the caller asked: the request's target first (RFC 9112, section 3.2.2), then `Host`.
pub fn host(parts: &request::Parts) -> &[u8] {
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let named = || parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    authority.or_else(named).unwrap_or(b"localhost")
}

async fn http2(
    call: &Call<'_>,
    passed: Passed<'_>,
    flight: &Flight,
    payload: &Payload,
) -> Result<(Response<hyper::body::Incoming>, h2::Stream), Failure> {
    let instance = flight.instance();
    let outbound = outbound(call, passed, flight);
    let first = instance.h2.send(instance.address, false, h2::request(&outbound, payload)?).await;
    match first {
        Err(Failure::Stale) if payload.can_replay() => {
            instance.h2.send(instance.address, true, h2::request(&outbound, payload)?).await
        }
        other => other,
    }
}

/// What HTTP/2 answers must not carry anyway ends here.
fn strip(map: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        map.remove(name);
    }
}
