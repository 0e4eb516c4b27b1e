//! The head of a request to an instance, written straight into bytes.
//!
//! Promises: exactly one framing, exactly one `Host`; nothing that the caller said about their own connection.

use http::{HeaderMap, HeaderName, Method, header};

use crate::affinity::Session;
use crate::baggage;
use crate::body::Payload;
use crate::headers;

/// What is asked of an instance.
pub struct Outbound<'a> {
    /// The caller's method.
    pub method: &'a Method,
    /// Path and query to pass on; empty stands for `/`.
    pub path: &'a str,
    /// Query without its `?`.
    pub query: Option<&'a str>,
    /// The caller's fields.
    pub headers: &'a HeaderMap,
    /// Host that the caller asked.
    pub host: &'a [u8],
    /// The caller's address.
    pub from: &'a str,
    /// Trace context to pass on.
    pub traceparent: &'a [u8],
    /// The request's id.
    pub request_id: &'a [u8],
    /// The revision that it was assigned to.
    pub revision: &'a [u8],
    /// The revision's flags, if it has any.
    pub flags: Option<&'a [u8]>,
    /// Its session, if it has one.
    pub session: Option<Session>,
    /// Of a shadow's copy: the trace context of the request that it is a copy of.
    pub shadow_of: Option<&'a [u8]>,
}

/// Writes the head of a request with this body.
pub fn write_head(out: &mut Vec<u8>, request: &Outbound<'_>, payload: &Payload) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(if request.path.is_empty() { b"/" } else { request.path.as_bytes() });
    if let Some(query) = request.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(request.host);
    let named = named_fields(request.headers);
    let mut rewritten = Rewritten::default();
    for (name, value) in request.headers {
        if headers::is_left_out(name) {
            rewritten.see(name);
        } else if !named.contains(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    assignment(out, request, &rewritten);
    field(out, "traceparent", request.traceparent);
    field(out, "x-request-id", request.request_id);
    if let Some(shadow_of) = request.shadow_of {
        field(out, "modelyard-shadow", b"true");
        field(out, "modelyard-shadow-of", shadow_of);
    }
    forwarded(out, request, &rewritten);
    framing(out, request.method, payload);
    out.extend_from_slice(b"\r\n\r\n");
}

/// Which of the fields that are written anew the caller sent: those that are not there need no look-up.
#[derive(Default)]
struct Rewritten {
    baggage: bool,
    forwarded: bool,
}

impl Rewritten {
    fn see(&mut self, name: &HeaderName) {
        self.baggage |= *name == baggage::BAGGAGE;
        self.forwarded |= *name == headers::FORWARDED_FOR || *name == headers::FORWARDED_PROTO;
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// Fields that the caller's `Connection` names.
fn named_fields(map: &HeaderMap) -> Vec<HeaderName> {
    if !map.contains_key(header::CONNECTION) {
        return Vec::new(); // the usual case; an empty vector allocates nothing
    }
    map.get_all(header::CONNECTION).iter().flat_map(headers::tokens).filter_map(headers::named).collect()
}

/// Which arm the request was assigned to, and by which session.
fn assignment(out: &mut Vec<u8>, request: &Outbound<'_>, rewritten: &Rewritten) {
    field(out, "modelyard-revision", request.revision);
    if let Some(flags) = request.flags {
        field(out, headers::FLAGS.as_str(), flags);
    }
    let digits = request.session.map(Session::digits);
    let session = digits.as_ref().map(<[u8; 16]>::as_slice);
    if let Some(session) = session {
        field(out, "modelyard-session", session);
    }
    out.extend_from_slice(b"\r\nbaggage: ");
    let given = rewritten.baggage.then_some(request.headers);
    baggage::write(out, given, request.revision, session);
}

fn forwarded(out: &mut Vec<u8>, request: &Outbound<'_>, rewritten: &Rewritten) {
    out.extend_from_slice(b"\r\nx-forwarded-for: ");
    if !rewritten.forwarded {
        out.extend_from_slice(request.from.as_bytes());
        return field(out, "x-forwarded-proto", b"http");
    }
    for before in request.headers.get_all(headers::FORWARDED_FOR) {
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(request.from.as_bytes());
    let proto = request.headers.get(headers::FORWARDED_PROTO).map_or(b"http".as_slice(), |proto| proto.as_bytes());
    field(out, "x-forwarded-proto", proto);
}

fn framing(out: &mut Vec<u8>, method: &Method, payload: &Payload) {
    let length = match payload {
        Payload::Empty => match *method {
            // These usually have a body: its absence is said.
            Method::POST | Method::PUT | Method::PATCH => 0,
            _ => return,
        },
        Payload::Whole(bytes) => bytes.len() as u64,
        Payload::Stream(_, Some(length)) => *length,
        Payload::Stream(_, None) => return field(out, "transfer-encoding", b"chunked"),
    };
    out.extend_from_slice(b"\r\ncontent-length: ");
    write_number(out, length);
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    let (mut digits, mut at, mut rest) = ([0u8; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderValue;

    fn written(map: &HeaderMap, payload: &Payload) -> String {
        let request = Outbound {
            method: &Method::POST,
            path: "/v2/models/wine/infer",
            query: Some("a=1"),
            headers: map,
            host: b"wine.test",
            from: "127.0.0.1",
            traceparent: b"00-t-p-00",
            request_id: b"id",
            revision: b"3",
            flags: Some(b"{\"top\":3}"),
            session: Some(Session(0xab)),
            shadow_of: None,
        };
        let mut out = Vec::new();
        write_head(&mut out, &request, payload);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_caller_s_connection_is_not_the_instance_s() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("host", "evil.test"),
            ("connection", "x-secret, content-length"),
            ("x-secret", "1"),
            ("content-length", "999"),
            ("te", "trailers"),
            ("x-forwarded-for", "10.0.0.1"),
            ("accept", "a"),
            ("accept", "b"),
            ("modelyard-revision", "1"),
            ("modelyard-session", "ffffffffffffffff"),
            ("modelyard-flags", "{}"),
            ("baggage", "a=b"),
        ] {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert_eq!(
            written(&map, &Payload::Whole(Bytes::from_static(b"{}"))),
            "POST /v2/models/wine/infer?a=1 HTTP/1.1\r\nhost: wine.test\r\naccept: a\r\naccept: b\r\n\
             modelyard-revision: 3\r\nmodelyard-flags: {\"top\":3}\r\nmodelyard-session: 00000000000000ab\r\n\
             baggage: a=b,modelyard.revision=3,modelyard.session=00000000000000ab\r\ntraceparent: 00-t-p-00\r\n\
             x-request-id: id\r\nx-forwarded-for: 10.0.0.1, 127.0.0.1\r\nx-forwarded-proto: http\r\ncontent-length: 2\r\n\r\n"
        );
    }

    #[test]
    fn an_absent_body_is_said() {
        assert!(written(&HeaderMap::new(), &Payload::Empty).ends_with("\r\ncontent-length: 0\r\n\r\n"));
        let mut out = Vec::new();
        write_number(&mut out, u64::MAX);
        assert_eq!(out, u64::MAX.to_string().as_bytes());
    }
}
