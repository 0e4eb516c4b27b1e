//! Where requests go, what instances and callers are told on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::caller::Caller;
use common::instance::Instance;
use common::{Gateway, table, table_with};
use modelyard_core::{RevisionNumber, Weight};

#[test]
fn paths_reach_service_version_and_revision() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    gateway.put(&table(1, &[(1, 10_000, &[one.address]), (2, 0, &[two.address])]));
    let mut caller = Caller::connect(gateway.address);
    let reply = caller.post("/v2/models/wine/infer?a=%20b", b"{}");
    assert_eq!((reply.status, reply.text().as_str()), (200, "one"));
    assert_eq!((reply.header("modelyard-revision"), reply.header("modelyard-version")), ("1", "1.0.0"));
    assert!(one.last().head.starts_with("POST /v2/models/wine/infer?a=%20b HTTP/1.1\r\n"));
    caller.post("/wine/v1/predict", b"{}");
    assert!(one.last().head.starts_with("POST /predict HTTP/1.1\r\n"));
    let reply = caller.post("/wine/r2/predict", b"{}");
    assert_eq!((reply.text().as_str(), reply.header("modelyard-revision")), ("two", "2"));
    let pinned = caller.send("POST", "/v2/models/wine/infer", "modelyard-revision: 2\r\n", b"{}").unwrap();
    assert_eq!(pinned.text(), "two");
    for (path, what) in [
        ("/v2/models/beer/infer", "beer"),
        ("/wine/v7/x", "API version 7"),
        ("/wine/r9/x", "revision 9"),
        ("/x", "nothing is at"),
    ] {
        let reply = caller.get(path);
        assert!(reply.status == 404 && reply.text().contains(what), "{reply:?}");
    }
    assert_eq!(caller.get("/wine/v1").status, 200);
    assert!(one.last().head.starts_with("GET / HTTP/1.1\r\n"));
    gateway.end();
}

#[test]
fn each_request_is_drawn_not_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    gateway.put(&table(1, &[(1, 9_000, &[one.address]), (2, 1_000, &[two.address])]));
    let mut caller = Caller::connect(gateway.address);
    for _ in 0..2_000 {
        assert_eq!(caller.post("/v2/models/wine/infer", b"{}").status, 200);
    }
    // 200 expected; ten standard deviations are 134.
    assert!((66..334).contains(&two.count()), "{}", two.count());
    assert_eq!(one.count() + two.count(), 2_000);
    let report = gateway.report();
    let service = report.services.values().next().unwrap();
    let counted = |revision| &service.pools[&RevisionNumber(revision)];
    assert_eq!(service.requests, 2_000);
    assert_eq!(counted(2).counters.requests, two.count() as u64);
    assert_eq!(counted(1).counters.latency.count(), one.count() as u64);
    assert_eq!((counted(1).weight, counted(1).in_flight()), (Weight::new(9_000).unwrap(), 0));
    gateway.end();
}

#[test]
fn what_is_about_the_caller_s_connection_ends_at_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = format!(
        "connection: x-mine\r\nx-mine: 1\r\nkeep-alive: 5\r\nx-forwarded-for: 10.0.0.1\r\nx-request-id: r-1\r\ntraceparent: {trace}\r\ntracestate: a=b\r\n"
    );
    let reply = caller.send("POST", "/v2/models/wine/infer", &headers, b"{}").unwrap();
    assert_eq!((reply.status, reply.header("x-request-id")), (200, "r-1"));
    let seen = instance.last();
    for gone in ["connection", "x-mine", "keep-alive"] {
        assert!(seen.header(gone).is_empty(), "{}", seen.head);
    }
    assert_eq!(seen.header("host"), ["wine.test"]);
    assert_eq!(seen.header("x-forwarded-for"), ["10.0.0.1, 127.0.0.1"]);
    assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
    assert_eq!((seen.header("x-request-id"), seen.header("tracestate")), (vec!["r-1"], vec!["a=b"]));
    let passed = seen.header("traceparent")[0];
    assert!(passed.starts_with(&trace[..36]) && passed != trace && passed.ends_with("-01"), "{passed}");
    let reply = caller.post("/v2/models/wine/infer", b"{}");
    let made = reply.header("x-request-id");
    assert!(made.len() == 32 && instance.last().header("traceparent")[0].contains(made), "{made}");
    gateway.end();
}

#[test]
fn api_versions_stand_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    gateway.put(&table_with(1, &[(1, 10_000, &[one.address]), (2, 0, &[two.address])], |route| {
        route.apis.insert(2, [(RevisionNumber(2), Weight::ALL)].into());
        route.default_api = 2;
    }));
    let mut caller = Caller::connect(gateway.address);
    assert_eq!(caller.post("/wine/v1/v2/models/wine/infer", b"").text(), "one");
    assert_eq!(caller.post("/wine/v2/v2/models/wine/infer", b"").text(), "two");
    assert_eq!(caller.post("/v2/models/wine/infer", b"").text(), "two");
    gateway.end();
}

#[test]
fn the_gateway_answers_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let mut caller = Caller::connect(gateway.address);
    assert_eq!(caller.get("/v2/health/live").status, 200);
    assert_eq!(caller.get("/v2/health/ready").status, 503, "no table yet");
    let early = caller.post("/v2/models/wine/infer", b"{}");
    assert_eq!((early.status, early.header("retry-after")), (503, "1"));
    let instance = Instance::answering("ok");
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    assert_eq!(caller.get("/v2/health/ready").status, 200);
    assert!(caller.get("/v2").text().contains(r#""name":"modelyard""#));
    assert_eq!(caller.post("/metrics", b"").status, 405);
    caller.post("/v2/models/wine/infer", b"{}");
    let metrics = caller.get("/metrics");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    let line = r#"modelyard_requests_total{service="wine",revision="1",version="1.0.0",code="200"} 1"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
    gateway.end();
}

#[test]
#[ignore = "needs promtool"]
fn promtool_has_nothing_to_say_about_the_metrics() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let instance = Instance::answering("ok");
    gateway.put(&table(1, &[(1, 10_000, &[instance.address])]));
    let mut caller = Caller::connect(gateway.address);
    caller.post("/v2/models/wine/infer", b"{}");
    let metrics = caller.get("/metrics").body;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = promtool.spawn().unwrap();
    running.stdin.take().unwrap().write_all(&metrics).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    gateway.end();
}
