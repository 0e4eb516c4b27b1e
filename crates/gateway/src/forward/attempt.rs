//! One attempt at one instance, over HTTP/1.1 or, for gRPC, HTTP/2.
//!
//! Promises: a kept connection that turns out closed costs nothing but a new one; the time limit runs until the answer's head, or to its
//! end if it is short.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header, uri};

use super::Call;
use super::flight::Flight;
use crate::affinity::Session;
use crate::baggage;
use crate::body::{Answer, Cursor, Payload};
use crate::headers;
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

async fn http1(
    call: &Call<'_>,
    passed: Passed<'_>,
    flight: &Flight,
    payload: &Payload,
) -> Result<(AnswerHead, Exchange), Failure> {
    let instance = flight.instance();
    let outbound = Outbound {
        method: &call.parts.method,
        path: passed.path,
        query: call.parts.uri.query(),
        headers: &call.parts.headers,
        host: host(call),
        from: &call.caller.address,
        traceparent: call.trace.as_bytes(),
        request_id: call.request_id.as_bytes(),
        revision: flight.pool().revision_value.as_bytes(),
        session: passed.session,
    };
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
fn host<'a>(call: &'a Call<'_>) -> &'a [u8] {
    let authority = call.parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let named = || call.parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    authority.or_else(named).unwrap_or(b"localhost")
}

async fn http2(
    call: &Call<'_>,
    passed: Passed<'_>,
    flight: &Flight,
    payload: &Payload,
) -> Result<(Response<hyper::body::Incoming>, h2::Stream), Failure> {
    let instance = flight.instance();
    let first = instance.h2.send(instance.address, false, grpc_request(call, passed, flight, payload)?).await;
    match first {
        Err(Failure::Stale) if payload.can_replay() => {
            instance.h2.send(instance.address, true, grpc_request(call, passed, flight, payload)?).await
        }
        other => other,
    }
}

fn grpc_request(
    call: &Call<'_>,
    passed: Passed<'_>,
    flight: &Flight,
    payload: &Payload,
) -> Result<Request<Cursor>, Failure> {
    let mut request = Request::new(payload.cursor());
    *request.method_mut() = call.parts.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() =
        target(call, passed.path).map_err(|_| Failure::Protocol("the request's path cannot be passed on"))?;
    let map = request.headers_mut();
    for (name, value) in &call.parts.headers {
        if !headers::is_left_out(name) {
            map.append(name.clone(), value.clone());
        }
    }
    // gRPC wants to know that trailers are understood; the field ended here and is written anew.
    map.insert(header::TE, HeaderValue::from_static("trailers"));
    map.insert(headers::REQUEST_ID, call.request_id.clone());
    if let Ok(traceparent) = HeaderValue::from_bytes(call.trace.as_bytes()) {
        map.insert(headers::TRACEPARENT, traceparent);
    }
    map.insert(headers::FORWARDED_FOR, forwarded_for(call));
    map.insert(headers::FORWARDED_PROTO, HeaderValue::from_static("http"));
    assign(map, call, &flight.pool().revision_value, passed.session);
    Ok(request)
}

/// Which arm the call was assigned to, and by which session.
fn assign(map: &mut HeaderMap, call: &Call<'_>, revision: &HeaderValue, session: Option<Session>) {
    map.insert(headers::REVISION, revision.clone());
    let digits = session.map(Session::digits);
    let digits = digits.as_ref().map(<[u8; 16]>::as_slice);
    let mut list = Vec::new();
    baggage::write(&mut list, &call.parts.headers, revision.as_bytes(), digits);
    // What came in as values, and digits, are valid values.
    if let Ok(list) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        map.insert(baggage::BAGGAGE, list);
    }
    if let Some(Ok(session)) = digits.map(HeaderValue::from_bytes) {
        map.insert(headers::SESSION, session);
    }
}

fn forwarded_for(call: &Call<'_>) -> HeaderValue {
    let before = call.parts.headers.get_all(headers::FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let chain: Vec<_> = before.chain([call.caller.address.as_bytes()]).collect();
    // Values that came in and an address are valid: the fallback is never seen.
    HeaderValue::from_bytes(&chain.join(&b", "[..])).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn target(call: &Call<'_>, path: &str) -> Result<Uri, http::Error> {
    let authority = uri::Authority::try_from(host(call)).unwrap_or_else(|_| uri::Authority::from_static("localhost"));
    let path = if path.is_empty() { "/" } else { path };
    let path = match call.parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Uri::builder().scheme("http").authority(authority).path_and_query(path).build()
}

/// What HTTP/2 answers must not carry anyway ends here.
fn strip(map: &mut HeaderMap) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        map.remove(name);
    }
}
