//! Shadows: what they are sent, how their answers are compared, and that nothing they do is felt by callers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use common::caller::Caller;
use common::grpc::{Echo, GrpcCaller};
use common::instance::{Instance, answer, reset};
use common::{Gateway, table_with, wait_for};
use modelyard_core::mirror::{Comparison, Mirror};
use modelyard_core::route::RouteTable;
use modelyard_core::sample::Tolerance;
use modelyard_core::{RevisionNumber, Weight};

const INFER: &str = "/v2/models/wine/infer";
const RED: &str =
    r#"{"model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}]}"#;
const NEAR: &str =
    r#"{"model_version":"2","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.250001,0.749999]}]}"#;
const WHITE: &str =
    r#"{"model_version":"3","outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.75,0.25]}]}"#;

fn mirror(revision: u32) -> Mirror {
    Mirror {
        revision: RevisionNumber(revision),
        share: Weight::ALL,
        limit: 64,
        timeout_ms: 20_000,
        tolerance: Tolerance::default(),
        top_k: 1,
        against: None,
    }
}

/// A table with stable as revision 1 and shadows from revision 2.
fn shadowed(generation: u64, stable: SocketAddr, shadows: &[(SocketAddr, Mirror)]) -> RouteTable {
    let stable = [stable];
    let addresses: Vec<_> = shadows.iter().map(|(address, mirror)| (mirror.revision.0, [*address])).collect();
    let mut pools: Vec<(u32, u16, &[SocketAddr])> = vec![(1, 10_000, &stable)];
    pools.extend(addresses.iter().map(|(revision, address)| (*revision, 0, &address[..])));
    table_with(generation, &pools, |route| {
        route.mirrors = shadows.iter().map(|(_, mirror)| mirror.clone()).collect();
    })
}

/// Waits until what is counted of a shadow is as wanted.
fn wait_until(gateway: &Gateway, revision: u32, what: &str, mut is: impl FnMut(&Comparison) -> bool) -> Comparison {
    let mut last = Comparison::default();
    wait_for(what, || {
        last = counted(gateway, revision);
        is(&last).then(|| last.clone())
    })
}

fn counted(gateway: &Gateway, revision: u32) -> Comparison {
    let mut report = gateway.report();
    let service = report.services.values_mut().next().unwrap();
    service.mirrors.remove(&RevisionNumber(revision)).unwrap_or_default()
}

#[test]
fn several_shadows_get_marked_copies_and_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, near, other) = (Instance::answering(RED), Instance::answering(NEAR), Instance::answering(WHITE));
    gateway.put(&shadowed(1, stable.address, &[(near.address, mirror(2)), (other.address, mirror(3))]));
    let mut caller = Caller::connect(gateway.address);
    for index in 0..20 {
        let headers = format!("x-request-id: r-{index}\r\nx-own: 1\r\nmodelyard-shadow: true\r\n");
        let reply = caller.send("POST", &format!("{INFER}?a=1"), &headers, b"{\"inputs\":[]}").unwrap();
        assert_eq!((reply.status, reply.text().as_str(), reply.header("modelyard-revision")), (200, RED, "1"));
    }
    let close = wait_until(&gateway, 2, "the first shadow's comparisons", |sum| sum.compared == 20);
    assert_eq!((close.sent, close.shed, close.failed, close.incomparable), (20, 0, 0, 0));
    assert_eq!((close.exact, close.agreed, close.worst.len()), (0, 20, 0));
    assert_eq!((close.latency.count(), close.stable_latency.count()), (20, 20));
    let far = wait_until(&gateway, 3, "the second shadow's comparisons", |sum| sum.compared == 20);
    assert_eq!((far.agreed, far.outputs["y"].same_label, far.outputs["y"].rows), (0, 0, 20));
    assert_eq!((far.worst.len(), far.worst[0].difference), (8, 0.5));
    assert!(
        far.worst[0].request_id.starts_with("r-") && far.worst[0].what.contains("0.2500 against 0.7500"),
        "{far:?}"
    );
    let (copy, original) = (near.last(), stable.last());
    assert!(copy.head.starts_with("POST /v2/models/wine/infer?a=1 HTTP/1.1\r\n"), "{}", copy.head);
    assert_eq!((copy.body.as_slice(), copy.header("x-own")), (b"{\"inputs\":[]}".as_slice(), vec!["1"]));
    assert_eq!((copy.header("modelyard-shadow"), copy.header("modelyard-revision")), (vec!["true"], vec!["2"]));
    let ids = |instance: &Instance| -> BTreeSet<String> {
        instance.seen.lock().unwrap().iter().map(|seen| seen.header("x-request-id")[0].to_owned()).collect()
    };
    assert!(ids(&near) == ids(&stable) && ids(&other) == ids(&stable));
    // The trace goes on, the span is another one, and is linked.
    let links: BTreeSet<_> =
        near.seen.lock().unwrap().iter().map(|seen| seen.header("modelyard-shadow-of")[0].to_owned()).collect();
    let spans: BTreeSet<_> =
        stable.seen.lock().unwrap().iter().map(|seen| seen.header("traceparent")[0].to_owned()).collect();
    assert_eq!(links, spans);
    let (link, span) = (copy.header("modelyard-shadow-of")[0], copy.header("traceparent")[0]);
    assert!(link[..36] == span[..36] && link != span, "{link} {span}");
    assert!(original.header("modelyard-shadow").is_empty(), "a caller cannot mark requests: {}", original.head);
    gateway.end();
}

#[test]
fn shadows_with_equal_shares_see_the_same_requests() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, one, two) = (Instance::answering(RED), Instance::answering(RED), Instance::answering(RED));
    let sampled = |revision| Mirror { share: Weight::new(3_000).unwrap(), limit: 1_000, ..mirror(revision) };
    gateway.put(&shadowed(1, stable.address, &[(one.address, sampled(2)), (two.address, sampled(3))]));
    let mut caller = Caller::connect(gateway.address);
    for index in 0..600 {
        caller.send("POST", INFER, &format!("x-request-id: r-{index}\r\n"), b"{}").unwrap();
    }
    let ids = |instance: &Instance| -> BTreeSet<String> {
        instance.seen.lock().unwrap().iter().map(|seen| seen.header("x-request-id")[0].to_owned()).collect()
    };
    let last = wait_until(&gateway, 2, "all comparisons", |sum| sum.sent > 0 && sum.compared == sum.sent);
    wait_until(&gateway, 3, "all comparisons", |sum| sum.compared == last.sent);
    assert_eq!(ids(&one), ids(&two));
    // 180 expected; six standard deviations are 67.
    assert!((113..247).contains(&one.count()) && last.shed == 0, "{}", one.count());
    assert_eq!(counted(&gateway, 2).exact, one.count() as u64);
    gateway.end();
}

/// Beside a test or a canary others answer too; a shadow is held against stable alone.
#[test]
fn only_what_stable_answers_is_copied_where_others_answer_too() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, candidate, shadow) = (Instance::answering(RED), Instance::answering(WHITE), Instance::answering(RED));
    let pools: [(u32, u16, &[SocketAddr]); 3] =
        [(1, 5_000, &[stable.address]), (2, 5_000, &[candidate.address]), (3, 0, &[shadow.address])];
    gateway.put(&table_with(1, &pools, |route| {
        route.mirrors = vec![Mirror { against: Some(RevisionNumber(1)), limit: 1_000, ..mirror(3) }];
    }));
    let mut caller = Caller::connect(gateway.address);
    let by_stable = (0..200).filter(|_| {
        let reply = caller.send("POST", INFER, "", b"{}").unwrap();
        reply.header("modelyard-revision") == "1"
    });
    let by_stable = by_stable.count() as u64;
    assert!((50..150).contains(&by_stable), "{by_stable} of 200 at half");
    let sum = wait_until(&gateway, 3, "every copy", |sum| sum.compared == by_stable);
    assert_eq!((sum.sent, sum.shed, sum.exact), (by_stable, 0, by_stable), "{sum:?}");
    gateway.end();
}

#[test]
fn what_hangs_floods_or_dies_is_not_felt_and_every_copy_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering(RED);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let hung = Instance::start(move |_, _| {
        let _ = released.lock().unwrap().recv(); // until the test ends
        false
    });
    let flooding = Instance::start(|stream, _| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 65_536], b"\r\n"].concat();
        stream.write_all(head.as_bytes()).is_ok_and(|()| (0..).all(|_: u64| stream.write_all(&chunk).is_ok()))
    });
    let dying = Instance::start(|stream, _| {
        reset(stream);
        false
    });
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again at once
    let few = |revision| Mirror { limit: 4, timeout_ms: 300, ..mirror(revision) };
    let shadows = [(hung.address, few(2)), (flooding.address, few(3)), (dying.address, few(4)), (refused, few(5))];
    gateway.put(&shadowed(1, stable.address, &shadows));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..200 {
        let reply = caller.post(INFER, b"{}");
        assert_eq!((reply.status, reply.text().as_str()), (200, RED));
    }
    let over = |sum: &Comparison| sum.sent + sum.shed == 200 && sum.failed + sum.incomparable == sum.sent;
    let sum = wait_until(&gateway, 2, "the hung shadow's time-outs", over);
    assert!(sum.shed > 0 && sum.failed == sum.sent && sum.latency.count() == 0, "{sum:?}");
    let sum = wait_until(&gateway, 3, "the end of the floods", over);
    assert!(sum.incomparable + sum.failed > 0 && sum.compared == 0, "{sum:?}");
    for (revision, instance) in [(4, Some(&dying)), (5, None)] {
        let sum = wait_until(&gateway, revision, "the dead shadow's failures", over);
        assert_eq!(sum.failed, sum.sent, "revision {revision}");
        if let Some(instance) = instance {
            assert_eq!(instance.count() as u64, sum.sent, "a copy is sent once");
        }
    }
    let report = gateway.report();
    let service = report.services.values().next().unwrap();
    assert_eq!((service.requests, service.failed), (200, 0));
    gateway.end(); // also while copies are under way
    drop(release);
}

#[test]
fn a_shadow_that_does_not_answer_is_asked_rarely_and_met_again_when_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, shadow) = (
        Instance::answering(RED),
        Instance::start(|stream, _| {
            reset(stream);
            false
        }),
    );
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    let started = std::time::Instant::now();
    let mut asked = 0;
    while asked < 300 || started.elapsed() < std::time::Duration::from_secs(1) {
        assert_eq!(caller.post(INFER, b"{}").status, 200);
        asked += 1;
    }
    // In the first second there is time for rests of 0.1, 0.2 and 0.4 s, and each time for a few copies; before the first for a burst.
    let sum = wait_until(&gateway, 2, "the account of all copies", |sum| sum.sent + sum.shed == asked);
    assert!(sum.shed > asked / 2 && sum.failed == sum.sent && sum.sent >= 3, "{sum:?} of {asked}");
    shadow.behave(|stream, _| answer(stream, 200, RED));
    let sum = wait_until(&gateway, 2, "a comparison", |sum| {
        caller.post(INFER, b"{}");
        sum.compared > 20
    });
    assert_eq!(sum.compared, sum.exact);
    gateway.end();
}

#[test]
fn no_more_is_read_of_a_shadow_than_stables_answer_explains() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let long = |blanks: usize| RED.replacen(':', &format!(":{}", " ".repeat(blanks)), 1);
    let of_shadow = long(300 << 10);
    let shadow = Instance::start(move |stream, _| answer(stream, 200, &of_shadow));
    let stable = Instance::answering(RED);
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"{}");
    let sum = wait_until(&gateway, 2, "an answer that is too long", |sum| sum.incomparable == 1);
    assert_eq!((sum.compared, sum.failed, sum.latency.count()), (0, 0, 1));
    let of_stable = long(100 << 10);
    stable.behave(move |stream, _| answer(stream, 200, &of_stable));
    caller.post(INFER, b"{}");
    wait_until(&gateway, 2, "a comparison with as long a one", |sum| sum.agreed == 1);
    gateway.end();
}

#[test]
fn errors_of_a_shadow_are_its_failures_and_refusals_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let stable = Instance::answering(RED);
    let shadow = Instance::start(|stream, _| answer(stream, 503, "{}"));
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"{}");
    wait_until(&gateway, 2, "a failure", |sum| sum.failed == 1);
    assert_eq!(shadow.count(), 1, "never asked again");
    shadow.behave(|stream, _| answer(stream, 400, r#"{"error":"no"}"#));
    caller.post(INFER, b"{}");
    wait_until(&gateway, 2, "a refusal of what stable answers", |sum| sum.incomparable == 1);
    stable.behave(|stream, _| answer(stream, 400, r#"{"error":"not so"}"#));
    assert_eq!(caller.post(INFER, b"{}").status, 400);
    let sum = wait_until(&gateway, 2, "the same refusal", |sum| sum.exact == 1);
    assert_eq!((sum.sent, sum.failed, sum.compared, sum.incomparable), (3, 1, 1, 1));
    gateway.end();
}

#[test]
fn what_is_no_prediction_pinned_or_too_long_is_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, shadow) = (Instance::answering(RED), Instance::answering(RED));
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    assert_eq!(caller.get("/v2/models/wine").status, 200);
    assert_eq!(caller.post("/wine/r1/predict", b"{}").status, 200);
    assert_eq!(caller.send("POST", INFER, "modelyard-revision: 1\r\n", b"{}").unwrap().status, 200);
    assert_eq!(caller.send("POST", INFER, "modelyard-revision: 2\r\n", b"{}").unwrap().status, 200);
    assert_eq!(caller.post(INFER, &vec![b' '; 2 << 20]).status, 200);
    let long = wait_until(&gateway, 2, "the long one", |sum| sum.shed == 1);
    assert_eq!((long.sent, shadow.count()), (0, 1), "only the tester's own request came");
    // Long enough to be streamed, short enough to be kept.
    let body = vec![b'7'; 200 << 10];
    assert_eq!(caller.post(INFER, &body).status, 200);
    wait_until(&gateway, 2, "a comparison", |sum| sum.compared == 1);
    assert_eq!(shadow.last().body, body);
    gateway.end();
}

#[test]
fn a_caller_who_leaves_early_ends_the_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let shadow = Instance::answering(RED);
    let stable = Instance::start(|stream, _| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n";
        // Until the gateway gives up this connection, because its caller has left.
        stream.write_all(head.as_bytes()).is_ok_and(|()| (0..).all(|_: u64| stream.write_all(b"1\r\n \r\n").is_ok()))
    });
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    caller.raw(b"POST /v2/models/wine/infer HTTP/1.1\r\nhost: w\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    assert_eq!(caller.head().unwrap().status, 200);
    drop(caller);
    let sum = wait_until(&gateway, 2, "the copy", |sum| sum.latency.count() == 1);
    assert_eq!((sum.sent, sum.compared, sum.incomparable, sum.failed), (1, 0, 0, 0));
    assert_eq!(sum.stable_latency.count(), 0, "there is nothing beside which it stands");
    gateway.end();
}

#[test]
fn counts_survive_tables_and_end_with_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, shadow) = (Instance::answering(RED), Instance::answering(NEAR));
    let with = |generation| shadowed(generation, stable.address, &[(shadow.address, mirror(2))]);
    gateway.put(&with(1));
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"{}");
    wait_until(&gateway, 2, "a comparison", |sum| sum.compared == 1);
    gateway.put(&shadowed(2, stable.address, &[]));
    caller.post(INFER, b"{}");
    assert_eq!(counted(&gateway, 2).sent, 1, "what was counted is still told");
    gateway.put(&with(3));
    caller.post(INFER, b"{}");
    let sum = wait_until(&gateway, 2, "another comparison", |sum| sum.compared == 2);
    assert_eq!((sum.sent, shadow.count()), (2, 2));
    gateway.put(&RouteTable { generation: 4, ..RouteTable::default() });
    gateway.put(&with(5));
    assert_eq!(counted(&gateway, 2).sent, 0);
    gateway.end();
}

#[test]
fn figures_are_told_to_prometheus() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, shadow) = (Instance::answering(RED), Instance::answering(WHITE));
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"{}");
    wait_until(&gateway, 2, "a comparison", |sum| sum.compared == 1);
    let text = caller.get("/metrics").text();
    let labels = r#"{service="wine",revision="2",arm="shadow""#;
    for line in [
        format!("modelyard_shadow_copies_total{labels},result=\"sent\"}} 1\n"),
        format!("modelyard_shadow_copies_total{labels},result=\"shed\"}} 0\n"),
        format!("modelyard_shadow_comparisons_total{labels},result=\"differed\"}} 1\n"),
        format!("modelyard_shadow_comparisons_total{labels},result=\"exact\"}} 0\n"),
        format!("modelyard_shadow_duration_seconds_count{labels}}} 1\n"),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    gateway.end();
}

#[test]
#[ignore = "needs promtool"]
fn prometheus_has_nothing_to_say_about_the_figures() {
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (stable, shadow) = (Instance::answering(RED), Instance::answering(WHITE));
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    caller.post(INFER, b"{}");
    wait_until(&gateway, 2, "a comparison", |sum| sum.compared == 1);
    let text = caller.get("/metrics").body;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(&text).unwrap();
    let said = promtool.wait_with_output().unwrap();
    let words = [said.stdout, said.stderr].concat();
    assert!(said.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
    gateway.end();
}

/// `ModelInferRequest` with a name; the echo sends it back, which reads as a response without outputs.
fn message() -> Vec<u8> {
    [b"\0\0\0\0\x06".as_slice(), b"\x0a\x04wine"].concat()
}

#[test]
fn grpc_calls_are_copied_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (stable, shadow) = runtime.block_on(async { (Echo::start("stable").await, Echo::start("shadow").await) });
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    runtime.block_on(async {
        let mut caller = GrpcCaller::connect(gateway.address).await;
        for method in ["ModelInfer", "ModelInfer", "ModelMetadata"] {
            let reply = caller.call(&format!("/inference.GRPCInferenceService/{method}"), message()).await;
            assert_eq!((reply.status(), reply.header("x-label")), ("0", "stable"));
        }
    });
    let sum = wait_until(&gateway, 2, "the comparisons", |sum| sum.compared == 2);
    assert_eq!((sum.sent, sum.exact, sum.failed), (2, 2, 0));
    assert_eq!(shadow.count(), 2, "metadata is not copied");
    let (path, headers) = shadow.seen.lock().unwrap()[0].clone();
    assert_eq!(path, "/inference.GRPCInferenceService/ModelInfer");
    assert_eq!(
        (&headers["modelyard-shadow"], &headers["modelyard-revision"]),
        (&"true".parse().unwrap(), &"2".parse().unwrap())
    );
    assert!(stable.seen.lock().unwrap().iter().all(|(_, headers)| !headers.contains_key("modelyard-shadow")));
    *shadow.mood.lock().unwrap() = common::grpc::Mood::Refuse(14);
    runtime.block_on(async {
        let mut caller = GrpcCaller::connect(gateway.address).await;
        caller.call("/inference.GRPCInferenceService/ModelInfer", message()).await;
    });
    wait_until(&gateway, 2, "a failure", |sum| sum.failed == 1);
    gateway.end();
}

#[test]
fn streamed_answers_are_compared_up_to_a_length() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let chunked = |stream: &mut std::net::TcpStream, _: &common::instance::Seen| {
        let (one, two) = RED.split_at(30);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = format!("{head}{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len());
        stream.write_all(body.as_bytes()).is_ok()
    };
    let (stable, shadow) = (Instance::start(chunked), Instance::start(chunked));
    gateway.put(&shadowed(1, stable.address, &[(shadow.address, mirror(2))]));
    let mut caller = Caller::connect(gateway.address);
    assert_eq!(caller.post(INFER, b"{}").text(), RED);
    let sum = wait_until(&gateway, 2, "a chunked answer", |sum| sum.compared == 1);
    assert_eq!((sum.exact, sum.outputs["y"].elements), (1, 2));
    for instance in [&stable, &shadow] {
        // Its length is told, and no end is asked for.
        instance.behave(|stream, _| answer(stream, 200, &format!("{{\"text\":\"{}\"}}", "x".repeat(300 << 10))));
    }
    assert_eq!(caller.post(INFER, b"{}").body.len(), (300 << 10) + 11);
    wait_until(&gateway, 2, "a long answer", |sum| sum.exact == 2);
    stable.behave(|stream, _| answer(stream, 200, &format!("{{\"text\":\"{}\"}}", "x".repeat(2 << 20))));
    assert_eq!(caller.post(INFER, b"{}").body.len(), (2 << 20) + 11, "the caller gets all of it");
    wait_until(&gateway, 2, "a pair that is too long", |sum| sum.incomparable == 1);
    gateway.end();
}
