//! Bodies in both directions: passed on as they come, with their framing and trailers right.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use common::caller::Caller;
use common::instance::{Instance, answer};
use common::{Gateway, PATIENCE, table, table_with, wait_for};
use modelyard_core::{Millis, RevisionNumber};

const PATH: &str = "/v2/models/wine/infer";

#[test]
fn events_are_passed_on_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let instance = Instance::start(move |stream, _| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            write!(stream, "{:x}\r\n{event}\r\n", event.len()).unwrap();
            // The next one only after the caller has seen this one.
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").is_ok()
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(b"GET /v2/models/wine/events HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(caller.head().unwrap().header("content-type"), "text/event-stream");
    for expected in ["data: 1\n\n", "data: 2\n\n"] {
        assert_eq!(caller.chunk().unwrap(), expected.as_bytes());
        assert_eq!(gateway.report().services.values().next().unwrap().pools[&RevisionNumber(1)].in_flight(), 1);
        go.send(()).unwrap();
    }
    assert!(caller.chunk().unwrap().is_empty());
    caller.line().unwrap();
    instance.behave(|stream, _| answer(stream, 200, "next"));
    assert_eq!(caller.get(PATH).text(), "next", "both connections go on");
    gateway.end();
}

#[test]
fn trailers_go_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, _| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        write!(stream, "{head}2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n").is_ok()
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller
        .raw(b"POST /v2/models/wine/infer HTTP/1.1\r\nhost: x\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-mine\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-mine: 7\r\n\r\n")
        .unwrap();
    let reply = caller.reply().unwrap();
    assert_eq!((reply.text().as_str(), reply.trailers.get("x-sum").map(String::as_str)), ("ok", Some("42")));
    let seen = instance.last();
    assert_eq!((seen.body.as_slice(), seen.header("x-mine")), (b"abcdefg".as_slice(), vec!["7"]));
    gateway.end();
}

#[test]
fn large_bodies_pass_both_ways_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, seen| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()).unwrap();
        stream.write_all(&seen.body).is_ok()
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    for length in [0, 1, 65_535, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let body: Vec<u8> = (0..length).map(|index: usize| (index % 251) as u8).collect();
        let mut writing = caller.stream.get_ref().try_clone().unwrap();
        let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        let sent = body.clone();
        let sender = std::thread::spawn(move || writing.write_all(&[head.as_bytes(), &sent].concat()));
        assert!(caller.reply().unwrap().body == body, "{length}");
        sender.join().unwrap().unwrap();
    }
    gateway.end();
}

#[test]
fn an_answer_before_the_body_s_end_is_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    // An instance of its own kind: it reads the head only, refuses, and closes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    gateway.put(&table(1, &[(1, 10_000, &[address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nstart").as_bytes()).unwrap();
    let reply = caller.reply().unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (413, "no"));
    gateway.end();
}

#[test]
fn answers_without_a_body_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, seen| {
        let status = match seen.head.split(' ').nth(1).unwrap() {
            "/wine/v1/204" | "/204" => "204 No Content\r\n",
            "/304" => "304 Not Modified\r\netag: \"a\"\r\n",
            _ => "200 OK\r\ncontent-length: 7\r\n",
        };
        write!(stream, "HTTP/1.1 {status}\r\n").is_ok()
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(b"HEAD /wine/v1/x HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let head = caller.head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, "7"));
    assert_eq!(caller.get("/wine/v1/204").status, 204);
    let reply = caller.get("/wine/v1/304");
    assert_eq!((reply.status, reply.header("etag"), reply.header("content-length")), (304, "\"a\"", ""));
    gateway.end();
}

#[test]
fn an_answer_that_ends_with_its_connection_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, _| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold school").unwrap();
        false
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    assert_eq!(caller.get(PATH).text(), "old school");
    assert_eq!(caller.get(PATH).text(), "old school", "the caller's connection goes on");
    gateway.end();
}

#[test]
fn a_body_that_breaks_off_is_not_passed_on_as_whole() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nonly this").unwrap();
        false
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(format!("GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let error = caller.reply().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let counted = || gateway.report().services.values().next().unwrap().pools[&RevisionNumber(1)].counters.errors;
    wait_for("the error to be counted", || (counted() == 1).then_some(()));
    gateway.end();
}

#[test]
fn an_instance_that_falls_silent_in_its_answer_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nonly this").unwrap();
        let _ = stream.read(&mut [0]); // until the gateway gives up
        false
    });
    gateway.put(&table_with(1, &[(1, 10_000, &[instance.address])], |route| route.routing.timeout = Millis(200)));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(format!("GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    assert!(caller.reply().is_err());
    gateway.end();
}

#[test]
fn a_caller_who_only_listens_still_gets_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, _| {
        std::thread::sleep(Duration::from_millis(50)); // the caller's end of sending arrives meanwhile
        answer(stream, 200, "late")
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(format!("GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    caller.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(caller.reply().unwrap().text(), "late");
    assert_eq!(caller.rest(), "");
    gateway.end();
}

#[test]
fn expectations_and_pipelines_are_met() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, seen| answer(stream, 200, &String::from_utf8_lossy(&seen.body)));
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller
        .raw(format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(caller.head().unwrap().status, 100);
    caller.raw(b"hi").unwrap();
    assert_eq!(caller.reply().unwrap().text(), "hi");
    assert!(instance.last().header("expect").is_empty());
    let two = |body: &str| format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n{body}");
    caller.raw(format!("{}{}", two("1"), two("2")).as_bytes()).unwrap();
    assert_eq!((caller.reply().unwrap().text(), caller.reply().unwrap().text()), ("1".to_owned(), "2".to_owned()));
    gateway.end();
}

#[test]
fn a_caller_who_leaves_stops_the_instance_s_stream() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (told, stopped) = mpsc::channel();
    let instance = Instance::start(move |stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        while stream.write_all(b"4\r\ntick\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        told.send(()).unwrap();
        false
    });
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(format!("GET {PATH} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    caller.head().unwrap();
    drop(caller);
    stopped.recv_timeout(PATIENCE).expect("the instance still writes");
    let in_flight = || gateway.report().services.values().next().unwrap().pools[&RevisionNumber(1)].in_flight();
    wait_for("nothing in flight", || (in_flight() == 0).then_some(()));
    gateway.end();
}
