//! Where requests go, what instances and callers are told on the way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::caller::Caller;
use common::instance::{Instance, answer};
use common::{Gateway, table, table_with};
use modelyard_core::api::{ApiRoute, Standing};
use modelyard_core::{RevisionNumber, ServiceName, Timestamp, Weight};

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
fn a_version_that_another_service_answers_stands_beside_the_first_whose_callers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let (one, two) = (Instance::answering("one"), Instance::answering("two"));
    let with = |generation, since: Option<u64>, first: bool| {
        let mut both = table(generation, &[(1, 10_000, &[one.address])]);
        let next = table_with(generation, &[(1, 10_000, &[two.address])], |route| {
            route.apis = route.apis.values().map(|split| (2, split.clone())).collect();
            route.default_api = 2;
            // 2027-03-01T00:00:00Z
            let sunset = Some(Timestamp(1_803_859_200_000));
            let standing = Standing { version: 2, since: since.map(Timestamp), sunset };
            route.serves = Some(ApiRoute { of: ServiceName::new("wine").unwrap(), standing });
        });
        let route = next.services.into_values().next().unwrap();
        both.services.insert(ServiceName::new("wine-v2").unwrap(), route);
        both.services.retain(|name, _| first || name.as_str() != "wine");
        both
    };
    gateway.put(&with(1, None, true));
    let mut caller = Caller::connect(gateway.address);
    assert_eq!(caller.post("/wine/v2/predict", b"{}").text(), "two");
    assert_eq!(
        caller.post("/v2/models/wine/infer", b"{}").header("deprecation"),
        "",
        "the next one does not serve yet"
    );

    gateway.put(&with(2, Some(1_795_910_400_000), true));
    let old = [
        ("/v2/models/wine/infer", 200),
        ("/wine/v1/predict", 200),
        ("/wine/r1/predict", 200),
        ("/wine/v1/feedback", 409),
        ("/wine/v9/x", 404),
        ("/wine/v9/feedback", 404),
    ];
    for (path, status) in old {
        let reply = caller.post(path, b"{}");
        let told = ["deprecation", "sunset", "link"].map(|name| reply.header(name));
        let expected = match status {
            // Who asks for a version that there is not, is no caller of an old one.
            404 => ["", "", ""],
            _ => ["@1795910400", "Mon, 01 Mar 2027 00:00:00 GMT", "</wine/v2>; rel=\"successor-version\""],
        };
        assert_eq!((reply.status, told), (status, expected), "{path}: {reply:?}");
    }
    for path in ["/wine/v2/predict", "/v2/models/wine-v2/infer", "/wine-v2/v2/predict", "/wine-v2/r1/predict"] {
        let reply = caller.post(path, b"{}");
        assert_eq!((reply.text().as_str(), reply.header("deprecation")), ("two", ""), "{path}");
    }
    for path in ["/wine/v3/predict", "/wine-v2/v1/predict"] {
        assert_eq!(caller.post(path, b"{}").status, 404, "{path}");
    }

    // The first one leaves: its callers get an answer that helps, those of the next notice nothing.
    gateway.put(&with(3, Some(1_795_910_400_000), false));
    assert_eq!(caller.post("/wine/v2/predict", b"{}").text(), "two");
    for path in ["/v2/models/wine/infer", "/wine/v1/predict"] {
        let reply = caller.post(path, b"{}");
        assert!(
            reply.status == 404 && reply.text().contains("is gone") && reply.text().contains("/wine/v2"),
            "{reply:?}"
        );
    }
    gateway.end();
}

#[test]
fn one_document_describes_every_version_that_answers_under_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(folder.path());
    let document = |field: &str| {
        let schema = format!(r##"{{"Answer": {{"type": "object", "required": ["{field}"]}}}}"##);
        let answer = r##"{"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}}"##;
        format!(
            r##"{{"openapi": "3.1.0", "info": {{"title": "x", "version": "1"}}, "paths": {{"/predict": {{"post": {{"responses": {{"200": {answer}}}}}}}}}, "components": {{"schemas": {schema}}}}}"##
        )
    };
    let describing = |text: String| {
        Instance::start(move |stream, seen| {
            let asked = seen.head.starts_with("GET /openapi.json HTTP/1.1\r\n");
            answer(stream, if asked { 200 } else { 404 }, if asked { &text } else { "no" })
        })
    };
    let (one, silent) = (describing(document("grade")), Instance::start(|stream, _| answer(stream, 404, "no")));
    let mut both = table(1, &[(1, 10_000, &[one.address])]);
    let mut add = |version: u16, address| {
        let next = table_with(1, &[(1, 10_000, &[address])], |route| {
            route.apis = route.apis.values().map(|split| (version, split.clone())).collect();
            route.default_api = version;
            let standing = Standing { version, since: Some(Timestamp(0)), sunset: None };
            route.serves = Some(ApiRoute { of: ServiceName::new("wine").unwrap(), standing });
        });
        let name = ServiceName::new(format!("wine-v{version}")).unwrap();
        both.services.insert(name, next.services.into_values().next().unwrap());
    };
    let two = describing(document("score"));
    add(2, two.address);
    add(3, silent.address);
    gateway.put(&both);
    let mut caller = Caller::connect(gateway.address);
    let reply = caller.get("/wine/openapi.json?x=1");
    let merged: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
    let paths: Vec<&str> = merged["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((reply.status, paths), (200, vec!["/v1/predict", "/v2/predict"]), "{merged}");
    assert_eq!(merged["components"]["schemas"]["v2.Answer"]["required"][0], "score");
    assert_eq!(merged["paths"]["/v1/predict"]["post"]["deprecated"], true);
    let told = merged["info"]["description"].as_str().unwrap();
    assert!(told.contains("`/wine/v3` (`wine-v3`): says nothing of itself"), "{told}");
    assert_eq!(caller.get("/beer/openapi.json").status, 404);
    assert_eq!(caller.post("/wine/openapi.json", b"{}").status, 405);
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
