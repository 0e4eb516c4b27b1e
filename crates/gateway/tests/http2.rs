//! REST over HTTP/2 without TLS and without an upgrade, as gRPC's neighbour on the same port: instances speak HTTP/1.1 all the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use common::http2::{Http2, Reply, channel, finish, whole};
use common::instance::{Instance, answer, reset};
use common::{Gateway, PATIENCE, table, table_with};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Frame, Incoming};
use modelyard_core::RevisionNumber;
use modelyard_core::route::RouteTable;

const PATH: &str = "/v2/models/wine/infer";
const JSON: &str = "application/json";

/// What every answer has: nothing of a connection, and a revision once an instance gave it.
fn text(reply: &Reply) -> (u16, &str, &str) {
    assert!(reply.header("connection").is_empty() && reply.header("transfer-encoding").is_empty(), "{reply:?}");
    (reply.status, reply.header("modelyard-revision"), std::str::from_utf8(&reply.body).unwrap())
}

/// Applies a table from within the test's runtime.
fn put(gateway: &Gateway, table: &RouteTable) {
    tokio::task::block_in_place(|| gateway.put(table));
}

async fn end(gateway: Gateway) {
    tokio::task::spawn_blocking(|| gateway.end()).await.unwrap();
}

/// The next piece of an answer's body.
async fn piece(response: &mut Response<Incoming>) -> Bytes {
    let frame = tokio::time::timeout(PATIENCE, response.body_mut().frame()).await.expect("nothing comes");
    frame.unwrap().unwrap().into_data().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_of_one_connection_is_drawn_and_instances_see_http_1() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let echo = |label: &'static str| {
        Instance::start(move |stream, seen| {
            answer(stream, 200, &format!("{label} {}", String::from_utf8_lossy(&seen.body)))
        })
    };
    let (one, two) = (echo("one"), echo("two"));
    put(&gateway, &table(1, &[(1, 9_000, &[one.address]), (2, 1_000, &[two.address])]));
    let caller = Http2::connect(gateway.address).await;
    let asked: Vec<_> = (0..500)
        .map(|number| {
            let mut caller = caller.clone();
            tokio::spawn(async move { caller.post(PATH, number.to_string().as_bytes()).await.unwrap() })
        })
        .collect();
    for (number, reply) in asked.into_iter().enumerate() {
        let reply = reply.await.unwrap();
        let (status, revision, body) = text(&reply);
        let label = if revision == "1" { "one" } else { "two" };
        assert_eq!((status, body), (200, &*format!("{label} {number}")));
    }
    // 50 expected; six standard deviations are 40.
    assert!((10..90).contains(&two.count()), "{}", two.count());
    assert_eq!(one.count() + two.count(), 500);
    let seen = one.last();
    assert!(seen.head.starts_with("POST /v2/models/wine/infer HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.header("host"), ["wine.test"]);
    assert_eq!((seen.header("traceparent").len(), seen.header("x-request-id").len()), (1, 1));
    let unknown = caller.clone().post("/v2/models/beer/infer", b"{}").await.unwrap();
    assert!(unknown.status == 404 && text(&unknown).2.contains("beer"), "{unknown:?}");
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_passed_on_as_they_come_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let instance = Instance::start(move |stream, _| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            write!(stream, "{:x}\r\n{event}\r\n", event.len()).unwrap();
            // The next one only after the caller has seen this one.
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        stream.write_all(b"0\r\nx-sum: 3\r\n\r\n").is_ok()
    });
    put(&gateway, &table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Http2::connect(gateway.address).await;
    let mut response = caller.start("/wine/v1/events", JSON, &HashMap::new(), whole(b"{}".to_vec())).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for expected in ["data: 1\n\n", "data: 2\n\n"] {
        assert_eq!(piece(&mut response).await, expected.as_bytes());
        go.send(()).unwrap();
    }
    let trailers = response.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-sum"], "3");

    // A body of no known length, in pieces; and one that no window holds at once.
    instance.behave(|stream, seen| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.body.len()).unwrap();
        stream.write_all(&seen.body).is_ok()
    });
    let (sender, body) = channel();
    let answered = tokio::spawn({
        let mut caller = caller.clone();
        async move { finish(caller.start(PATH, JSON, &HashMap::new(), body).await.unwrap()).await.unwrap() }
    });
    for part in ["[1,", "2,", "3]"] {
        sender.send(Frame::data(Bytes::from(part))).unwrap();
        tokio::task::yield_now().await;
    }
    drop(sender);
    assert_eq!(answered.await.unwrap().body, b"[1,2,3]");
    let large = "x".repeat(5 << 20);
    assert!(caller.post(PATH, large.as_bytes()).await.unwrap().body == large.as_bytes());
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_instance_dies_is_answered_by_another_and_its_neighbours_do_not_notice() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let good = Instance::start(|stream, seen| answer(stream, 200, &String::from_utf8_lossy(&seen.body)));
    let dying = Instance::start(|stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nba");
        reset(stream);
        false
    });
    let retrying = table_with(1, &[(1, 5_000, &[good.address]), (2, 5_000, &[dying.address])], |route| {
        route.routing.retry_budget_percent = 100;
    });
    put(&gateway, &retrying);
    let caller = Http2::connect(gateway.address).await;
    let asked: Vec<_> = (0..200)
        .map(|number| {
            let mut caller = caller.clone();
            tokio::spawn(async move { caller.post(PATH, format!("body {number}").as_bytes()).await.unwrap() })
        })
        .collect();
    for (number, reply) in asked.into_iter().enumerate() {
        let reply = reply.await.unwrap();
        assert_eq!(text(&reply), (200, "1", &*format!("body {number}")));
    }
    let report = tokio::task::block_in_place(|| gateway.report());
    let service = report.services.values().next().unwrap();
    let counted = &service.pools[&RevisionNumber(2)].counters;
    assert!(counted.retried > 0 && counted.retried == counted.errors, "{counted:?}");
    assert_eq!(service.failed, 0);
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_ends_its_stream_and_not_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::start(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").unwrap();
        stream.write_all(&[b'x'; 70_000]).unwrap();
        false
    });
    put(&gateway, &table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Http2::connect(gateway.address).await;
    // The reset may overtake what came before it.
    caller.post(PATH, b"{}").await.unwrap_err();
    instance.behave(|stream, _| answer(stream, 200, "next"));
    assert_eq!(caller.post(PATH, b"{}").await.unwrap().body, b"next");
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goodbye_and_finishes_what_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let instance = Instance::start(move |stream, seen| {
        if seen.body == b"slow" {
            wait.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        answer(stream, 200, "answered")
    });
    put(&gateway, &table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Http2::connect(gateway.address).await;
    let slow = tokio::spawn({
        let mut caller = caller.clone();
        async move { caller.post(PATH, b"slow").await }
    });
    while instance.count() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tokio::task::block_in_place(|| gateway.admin("POST", "/drain", "")).0, 202);
    // GOAWAY reaches the caller: sooner or later it cannot begin another request, while the first goes on.
    let goodbye = async {
        while caller.post(PATH, b"quick").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), goodbye).await.expect("no goodbye");
    assert!(!slow.is_finished());
    go.send(()).unwrap();
    let reply = slow.await.unwrap().unwrap();
    assert_eq!((reply.status, &*reply.body), (200, &b"answered"[..]));
    tokio::task::spawn_blocking(|| gateway.wait()).await.unwrap();
}
