//! gRPC over one HTTP/2 connection: routed by the model's name in the message, each stream on its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::grpc::{Echo, GrpcCaller, Mood, channel, finish, whole};
use common::{Gateway, table, table_with};
use http_body_util::BodyExt;
use hyper::body::Frame;
use modelyard_core::affinity::{Affinity, AffinityRoute, KeySource, hash, point};
use modelyard_core::api::{ApiRoute, Standing};
use modelyard_core::route::RouteTable;
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// A framed message whose first field is `name`, followed by `rest` bytes in field 7.
fn message(name: &str, rest: usize) -> Vec<u8> {
    let mut message = vec![0x0a, name.len() as u8];
    message.extend_from_slice(name.as_bytes());
    message.push(0x3a);
    let mut length = rest;
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.resize(message.len() + rest, 7);
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}

/// Applies a table from within the test's runtime.
async fn put(gateway: &Gateway, table: &RouteTable) {
    tokio::task::block_in_place(|| gateway.put(table));
}

async fn end(gateway: Gateway) {
    tokio::task::spawn_blocking(|| gateway.end()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stream_of_one_connection_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    put(&gateway, &table(1, &[(1, 9_000, &[one.address]), (2, 1_000, &[two.address])])).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    for round in 0..500 {
        let sent = message("wine", round * 10);
        let reply = caller.call(INFER, sent.clone()).await;
        assert_eq!((reply.status(), reply.body == sent), ("0", true), "{reply:?}");
        assert_eq!(reply.header("modelyard-revision"), if reply.header("x-label") == "one" { "1" } else { "2" });
    }
    // 50 expected; six standard deviations are 40.
    assert!((10..90).contains(&two.count()), "{}", two.count());
    assert_eq!(one.count() + two.count(), 500);
    assert!(one.connections.load(Ordering::SeqCst) <= 2, "one connection per thread is enough");
    let (path, headers) = one.seen.lock().unwrap()[0].clone();
    assert_eq!((path.as_str(), headers["te"].as_bytes()), (INFER, b"trailers".as_slice()));
    assert!(headers.contains_key("traceparent") && headers.contains_key("x-request-id"));
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_deprecated_version_are_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let mut both = table(1, &[(1, 10_000, &[one.address])]);
    let next = table_with(1, &[(1, 10_000, &[two.address])], |route| {
        let standing = Standing { version: 2, since: Some(Timestamp(5_000)), sunset: None };
        route.serves = Some(ApiRoute { of: ServiceName::new("wine").unwrap(), standing });
    });
    both.services.insert(ServiceName::new("wine-v2").unwrap(), next.services.into_values().next().unwrap());
    put(&gateway, &both).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    for (model, label, told) in [("wine", "one", "@5"), ("wine-v2", "two", "")] {
        let reply = caller.call(INFER, message(model, 3)).await;
        assert_eq!((reply.header("x-label"), reply.header("deprecation")), (label, told), "{reply:?}");
    }
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_s_streams_stay_with_their_arm() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let sticky = |generation, by, name: Option<&str>| {
        table_with(generation, &[(1, 5_000, &[one.address]), (2, 5_000, &[two.address])], |route| {
            route.affinity = Some(AffinityRoute {
                rule: Affinity { by, name: name.map(str::to_owned), lifetime: None },
                salt: "wine-7".to_owned(),
                secret: "0f".repeat(32),
                starts: BTreeMap::from([(RevisionNumber(2), 0)]),
            });
        })
    };
    put(&gateway, &sticky(1, KeySource::Header, Some("x-user"))).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    for user in ["ada", "bo", "cy", "di", "ed", "fay", "gus", "hal"] {
        let key = hash("wine-7", user.as_bytes());
        let arm = if point(key) < 5_000 { "2" } else { "1" };
        for _ in 0..4 {
            let fields = HashMap::from([("x-user", user), ("baggage", "a=b"), ("modelyard-session", "forged")]);
            let reply = finish(caller.start_with(INFER, whole(message("wine", 10)), &fields).await).await;
            assert_eq!((reply.status(), reply.header("modelyard-revision")), ("0", arm), "{user}");
        }
        let (_, seen) = if arm == "1" { &one } else { &two }.seen.lock().unwrap().last().cloned().unwrap();
        let session = format!("{key:016x}");
        assert_eq!(seen["modelyard-revision"], arm);
        assert_eq!(seen["modelyard-session"], session);
        assert_eq!(seen["baggage"], format!("a=b,modelyard.revision={arm},modelyard.session={session}"));
        assert_eq!(seen.get_all("baggage").iter().count(), 1);
    }
    put(&gateway, &sticky(2, KeySource::Issued, None)).await;
    for _ in 0..10 {
        let first = caller.call(INFER, message("wine", 10)).await;
        let given = first.header("set-cookie").split(';').next().unwrap().to_owned();
        let fields = HashMap::from([("cookie", &*given.leak())]);
        let again = finish(caller.start_with(INFER, whole(message("wine", 10)), &fields).await).await;
        assert_eq!(again.header("modelyard-revision"), first.header("modelyard-revision"));
        assert_eq!(again.header("set-cookie"), "");
    }
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_passed_on_message_by_message() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let echo = Echo::start("one").await;
    put(&gateway, &table(1, &[(1, 10_000, &[echo.address])])).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    let (sender, body) = channel();
    sender.send(Frame::data(Bytes::from(message("wine", 3)))).unwrap();
    let mut response = caller.start(STREAM, body).await.into_body();
    for length in [3, 5, 70_000] {
        if length != 3 {
            // The next message only after the answer to this one: nothing is held back, in either direction.
            sender.send(Frame::data(Bytes::from(message("wine", length)))).unwrap();
        }
        let (expected, mut got) = (message("wine", length), Vec::new());
        while got.len() < expected.len() {
            got.extend_from_slice(&response.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert!(got == expected, "{length}");
    }
    drop(sender);
    let trailers = response.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_grpc_statuses() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let echo = Echo::start("one").await;
    put(&gateway, &table(1, &[(1, 10_000, &[echo.address])])).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    let unknown = caller.call(INFER, message("beer", 0)).await;
    assert_eq!((unknown.status(), unknown.message()), ("5", "no service is named `beer`"));
    assert_eq!(caller.call(INFER, vec![0, 0, 0, 0, 0]).await.status(), "3");
    assert_eq!(caller.call(INFER, vec![0, 0, 0, 0, 1, 0xff]).await.status(), "3");
    let compressed = caller.call(INFER, vec![1, 0, 0, 0, 1, 0]).await;
    assert!(compressed.status() == "12" && compressed.message().contains("compressed"), "{compressed:?}");
    put(&gateway, &table(2, &[(1, 0, &[])])).await;
    assert_eq!(caller.call(INFER, message("wine", 0)).await.status(), "14");
    assert_eq!(echo.count(), 0);
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_answers_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let echo = Echo::start("one").await;
    put(&gateway, &table(1, &[(1, 10_000, &[echo.address])])).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    let empty = || vec![0, 0, 0, 0, 0];
    for method in ["ServerLive", "ServerReady"] {
        let reply = caller.call(&format!("/inference.GRPCInferenceService/{method}"), empty()).await;
        assert_eq!((reply.status(), reply.body.as_slice()), ("0", [0, 0, 0, 0, 2, 8, 1].as_slice()));
    }
    let metadata = caller.call("/inference.GRPCInferenceService/ServerMetadata", empty()).await;
    assert!(String::from_utf8_lossy(&metadata.body).contains("modelyard"));
    let check = "/grpc.health.v1.Health/Check";
    assert_eq!(caller.call(check, empty()).await.body, [0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(caller.call(check, message("wine", 0)).await.body, [0, 0, 0, 0, 2, 8, 1]);
    assert_eq!(caller.call(check, message("beer", 0)).await.status(), "5");
    assert_eq!(echo.count(), 0);
    // What names no model goes to the only service, or to the one that the metadata names.
    assert_eq!(caller.call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", empty()).await.status(), "0");
    let mut two = table(2, &[(1, 10_000, &[echo.address])]);
    let route = two.services.values().next().unwrap().clone();
    two.services.insert(ServiceName::new("beer").unwrap(), route);
    put(&gateway, &two).await;
    let doubt = caller.call("/my.Own/Method", empty()).await;
    assert!(doubt.status() == "12" && doubt.message().contains("modelyard-service"), "{doubt:?}");
    let named = HashMap::from([("modelyard-service", "beer")]);
    assert_eq!(finish(caller.start_with("/my.Own/Method", whole(empty()), &named).await).await.status(), "0");
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_retried_and_counted_by_their_status() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (good, bad) = (Echo::start("good").await, Echo::start("bad").await);
    *bad.mood.lock().unwrap() = Mood::Refuse(14);
    put(&gateway, &table(1, &[(1, 0, &[good.address]), (2, 10_000, &[bad.address])])).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    let reply = caller.call(INFER, message("wine", 100)).await;
    assert_eq!((reply.status(), reply.header("x-label")), ("0", "good"));
    *bad.mood.lock().unwrap() = Mood::Refuse(3);
    assert_eq!(caller.call(INFER, message("wine", 100)).await.status(), "3", "the caller's fault is not retried");
    let report = tokio::task::block_in_place(|| gateway.report());
    let counted = &report.services.values().next().unwrap().pools[&RevisionNumber(2)].counters;
    assert_eq!((counted.requests, counted.errors, counted.refused, counted.retried), (2, 1, 1, 1));
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_one_connection_carries_open_another() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(modelyard_gateway::GatewayOptions { threads: 1, ..common::options(folder.path()) });
    let echo = Echo::start("one").await;
    put(&gateway, &table_with(1, &[(1, 10_000, &[echo.address])], |route| route.routing.timeout = Millis(20_000)))
        .await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    let mut open = Vec::new();
    for _ in 0..150 {
        let (sender, body) = channel();
        sender.send(Frame::data(Bytes::from(message("wine", 1)))).unwrap();
        open.push((sender, caller.start(STREAM, body).await));
    }
    assert_eq!((echo.count(), echo.connections.load(Ordering::SeqCst)), (150, 2));
    for (sender, response) in open {
        drop(sender);
        assert_eq!(finish(response).await.status(), "0");
    }
    end(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goodbye_and_lets_streams_finish() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let echo = Echo::start("one").await;
    put(&gateway, &table(1, &[(1, 10_000, &[echo.address])])).await;
    let mut caller = GrpcCaller::connect(gateway.address).await;
    let (sender, body) = channel();
    sender.send(Frame::data(Bytes::from(message("wine", 3)))).unwrap();
    let response = caller.start(STREAM, body).await;
    assert_eq!(tokio::task::block_in_place(|| gateway.admin("POST", "/drain", "")).0, 202);
    // GOAWAY reaches the caller: sooner or later it cannot begin another call, while its stream goes on.
    let goodbye = async {
        while caller.try_call(INFER, message("wine", 1)).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), goodbye).await.expect("no goodbye");
    sender.send(Frame::data(Bytes::from(message("wine", 4)))).unwrap();
    drop(sender);
    let reply = finish(response).await;
    assert_eq!(reply.status(), "0");
    assert_eq!(reply.body, [message("wine", 3), message("wine", 4)].concat());
    tokio::task::spawn_blocking(|| gateway.wait()).await.unwrap();
}
