//! Callers who mean harm, on raw sockets: framing tricks, endless heads, dripping bytes, nonsense.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::caller::Caller;
use common::instance::{Instance, answer};
use common::{Gateway, table, table_with};
use modelyard_core::affinity::{Affinity, AffinityRoute, KeySource};

const PATH: &str = "/v2/models/wine/infer";

struct Stage {
    _folder: tempfile::TempDir,
    gateway: Gateway,
    instance: Instance,
}

fn stage() -> Stage {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, seen| answer(stream, 200, &String::from_utf8_lossy(&seen.body)));
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    Stage { _folder: folder, gateway, instance }
}

impl Stage {
    /// Status of the answer to raw bytes; 0 when the connection is closed without one.
    fn status(&self, bytes: &[u8]) -> u16 {
        let mut caller = Caller::connect(self.gateway.address);
        caller.raw(bytes).unwrap();
        caller.head().map_or(0, |reply| reply.status)
    }
}

/// The request line and `Host` of a request for the model, with more fields.
fn with(fields: &str) -> Vec<u8> {
    format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{fields}\r\n").into_bytes()
}

#[test]
fn framing_that_could_be_read_in_two_ways_is_refused() {
    let stage = stage();
    for fields in [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: +5\r\n",
        "content-length: 0x5\r\n",
        "content-length: 5 5\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999999\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "content-length : 5\r\n",
        "transfer-encoding : chunked\r\n",
        "x y: 1\r\n",
        " folded: 1\r\n",
        "x: a\0b\r\n",
    ] {
        assert_eq!(stage.status(&with(fields)), 400, "{fields:?}");
    }
    for (bytes, status) in [
        (b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (b"GET\0/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),
        (b"CONNECT example.org:80 HTTP/1.1\r\nhost: example.org\r\n\r\n", 501),
    ] {
        assert_eq!(stage.status(bytes), status, "{}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(stage.instance.count(), 0, "nothing reached the instance");
    stage.gateway.end();
}

#[test]
fn a_request_hidden_in_a_body_stays_a_body() {
    let stage = stage();
    let hidden = "GET /v2/models/wine/secret HTTP/1.1\r\nhost: x\r\n\r\n";
    // Both framings: the coding wins, the length is not passed on, and nothing after it is read as a request (RFC 9112, section 6.3).
    for fields in
        ["content-length: 4\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"]
    {
        let mut caller = Caller::connect(stage.gateway.address);
        let body = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
        caller.raw(&[with(fields).as_slice(), body.as_bytes(), hidden.as_bytes()].concat()).unwrap();
        if let Ok(reply) = caller.reply() {
            assert!(reply.status == 400 || reply.text() == hidden, "{reply:?}");
        }
        assert!(!caller.rest().contains("HTTP/1.1 200"), "the second request was answered");
    }
    let seen = stage.instance.seen.lock().unwrap().clone();
    assert!(seen.iter().all(|seen| !seen.head.contains("secret")), "{seen:?}");
    assert!(
        seen.iter().all(|seen| seen.header("content-length").is_empty() || seen.header("transfer-encoding").is_empty())
    );
    stage.gateway.end();
}

#[test]
fn bad_chunks_break_the_request_off() {
    let stage = stage();
    for body in ["zz\r\nab\r\n", "-2\r\nab\r\n", "2\r\nabc\r\n0\r\n\r\n", "ffffffffffffffff1\r\n", "2\nab\n0\n\n"] {
        let status = stage.status(&[with("transfer-encoding: chunked\r\n").as_slice(), body.as_bytes()].concat());
        assert!(status == 400 || status == 0, "{body:?}: {status}");
    }
    assert_eq!(stage.instance.count(), 0, "no instance saw a whole request");
    let mut caller = Caller::connect(stage.gateway.address);
    assert_eq!(caller.post(PATH, b"fine").text(), "fine", "the others go on");
    stage.gateway.end();
}

#[test]
fn heads_have_limits() {
    let stage = stage();
    let long = with(&format!("x: {}\r\n", "a".repeat(80 << 10)));
    assert_eq!(stage.status(&long), 431);
    assert_eq!(stage.status(&with(&"x: 1\r\n".repeat(200))), 431);
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(80 << 10));
    let status = stage.status(path.as_bytes());
    assert!([414, 431].contains(&status), "{status}");
    let large = with(&format!("x: {}\r\ncontent-length: 0\r\n", "a".repeat(40 << 10)));
    assert_eq!(stage.status(&large), 200, "large, but within the limit");
    stage.gateway.end();
}

#[test]
fn endless_cookies_and_baggage_do_no_harm() {
    let stage = stage();
    let affinity = AffinityRoute {
        rule: Affinity { by: KeySource::Issued, name: None, lifetime: None },
        salt: "s".to_owned(),
        secret: "0f".repeat(32),
        starts: BTreeMap::new(),
    };
    stage.gateway.put(&table_with(2, &[(1, 10_000, &[stage.instance.address])], |route| {
        route.affinity = Some(affinity);
    }));
    let cookies = "modelyard-session=v1.AAAAAAAAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAA; ".repeat(300);
    let baggage = "modelyard.session=1,k=v;;;=,,".repeat(1_000);
    for fields in [
        format!("cookie: {cookies}\r\n"),
        format!("cookie: {}\r\n", ";=;".repeat(10_000)),
        format!("baggage: {baggage}\r\n"),
        "baggage: ,;=,modelyard.revision\r\ncookie: =;modelyard-session\r\n".to_owned(),
        "cookie: modelyard-session=\"v1.\u{e9}\"\r\nbaggage: \u{e9}\r\nx-forwarded-proto: https, http\r\n".to_owned(),
    ] {
        let mut caller = Caller::connect(stage.gateway.address);
        let reply = caller.send("POST", PATH, &fields, b"fine").unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "fine"));
        assert!(reply.header("set-cookie").starts_with("modelyard-session=v1."), "none of these is ours");
        let seen = stage.instance.last();
        assert_eq!(seen.header("modelyard-session").len(), 1);
        assert!(!seen.header("baggage")[0].contains("modelyard.session=1,"), "forged");
    }
    stage.gateway.end();
}

#[test]
fn bodies_have_limits() {
    let stage = stage();
    let mut caller = Caller::connect(stage.gateway.address);
    caller.raw(&with("content-length: 300000000\r\n")).unwrap();
    let reply = caller.reply().unwrap();
    assert!(reply.status == 413 && reply.text().contains("256 MiB"), "{reply:?}");
    assert_eq!(stage.instance.count(), 0);
    stage.gateway.end();
}

#[test]
fn upgrades_are_refused_or_ignored_clearly() {
    let stage = stage();
    let mut caller = Caller::connect(stage.gateway.address);
    let websocket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n";
    let reply = caller.send("GET", PATH, websocket, b"").unwrap();
    assert!(reply.status == 501 && reply.text().contains("WebSocket"), "{reply:?}");
    let h2c = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    let reply = caller.send("POST", PATH, h2c, b"plain").unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "plain"));
    let seen = stage.instance.last();
    assert!(seen.header("upgrade").is_empty() && seen.header("http2-settings").is_empty(), "{}", seen.head);
    stage.gateway.end();
}

#[test]
fn many_who_drip_do_not_keep_others_waiting() {
    let stage = stage();
    let dripping: Vec<_> = (0..200)
        .map(|_| {
            let mut caller = Caller::connect(stage.gateway.address);
            caller.raw(b"POST /v2/models/wine/infer HTTP/1.1\r\nx: ").unwrap();
            caller
        })
        .collect();
    let began = std::time::Instant::now();
    assert_eq!(Caller::connect(stage.gateway.address).post(PATH, b"fine").text(), "fine");
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(dripping);
    stage.gateway.end();
}

#[test]
fn an_endless_head_is_closed_after_a_while() {
    let stage = stage();
    let mut caller = Caller::connect(stage.gateway.address);
    caller.stream.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    caller.raw(b"POST /v2/models/wine/infer HTTP/1.1\r\n").unwrap();
    let began = std::time::Instant::now();
    // A byte now and then does not help.
    while caller.raw(b"x: 1\r\n").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(40), "still open");
        let _ = caller.line();
    }
    assert!(began.elapsed() > Duration::from_secs(10));
    stage.gateway.end();
}

#[test]
fn other_addresses_than_loopback_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = common::options(folder.path());
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        options.listen = address.parse().unwrap();
        let error = modelyard_gateway::run(options.clone()).unwrap_err().to_string();
        assert!(error.contains("loopback") && error.contains("127.0.0.1"), "{error}");
    }
}
