//! The API over real HTTP, above the small world of [`crate::testing`].

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use modelyard_core::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::http_client::{Ask, Peer, exchange};
use crate::testing::{Life, Rig, digest, spec};

pub(super) struct Api {
    address: SocketAddr,
    pub(super) life: Life,
    down: Arc<Notify>,
}

pub(super) async fn serve(rig: &Rig) -> Api {
    let life = rig.start();
    let down = Arc::new(Notify::new());
    let app = App {
        ledger: Arc::clone(&life.ledger),
        controller: life.controller.clone(),
        orders: life.orders.clone(),
        target: rig.target.clone(),
        gateway: None,
        down: Arc::clone(&down),
        metrics: Arc::new(Metrics::since(Timestamp(1_000), 0)),
        busy_keys: Default::default(),
        tracked: Default::default(),
        known: Default::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(app)).await });
    Api { address, life, down }
}

impl Api {
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> (u16, String) {
        let ask = Ask { method, path, json: body, limit: Duration::from_secs(20), most: 16 << 20 };
        let answer = exchange(Peer::Tcp(self.address), ask).await.unwrap();
        (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.ask(Method::GET, path, Bytes::new()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.ask(Method::POST, path, body.to_string().into()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn send(&self, path: &str, kind: &str, body: &str) -> (u16, String) {
        let agent = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(agent).await.unwrap();
        tokio::spawn(connection);
        let request = axum::http::Request::post(path).header("host", "localhost").header("content-type", kind);
        let answer =
            sender.send_request(request.body(http_body_util::Full::new(Bytes::from(body.to_owned()))).unwrap());
        let answer = answer.await.unwrap();
        let status = answer.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Waits until answers of now count in a scope.
    async fn until_measured(&self, scope: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let (_, seen) = self.get("/api/services/wine/evidence").await;
            if seen["scope"] == scope && seen["since"].is_u64() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "never measured for {scope}: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn deploy(&self, n: u8, change: Value) -> (u16, Value) {
        let body = json!({"spec": spec(change), "package": digest(n), "by": "ada"});
        self.post("/api/services/wine/rollouts", body).await
    }

    pub(super) async fn outcome(&self, rollout: &Value) -> Value {
        let id = modelyard_core::RolloutId::new(rollout.as_str().unwrap()).unwrap();
        self.life.outcome(&id).await;
        self.get(&format!("/api/rollouts/{id}")).await.1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_deployed_seen_and_rolled_back() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (status, first) = api.deploy(1, json!({})).await;
    assert_eq!((status, &first["strategy"], &first["outcome"]), (202, &json!("canary"), &json!("running")));
    let end = api.outcome(&first["rollout"]).await;
    assert_eq!((&end["outcome"], &end["service"]), (&json!("promoted"), &json!("wine")));
    api.life.rest(2).await;

    rig.gateway.fail(2);
    let (_, second) = api.deploy(2, json!({})).await;
    let end = api.outcome(&second["rollout"]).await;
    assert_eq!((&end["outcome"], &end["cause"]), (&json!("rolled-back"), &json!("error-rate")), "{end}");
    assert!(end["evidence"].as_array().is_some_and(|lines| !lines.is_empty()), "{end}");
    api.life.rest(2).await;

    let (status, shown) = api.get("/api/services/wine").await;
    assert_eq!((status, &shown["service"], &shown["environment"]), (200, &json!("wine"), &json!("dev")));
    assert_eq!((&shown["stable"]["revision"], &shown["stable"]["version"]), (&json!(1), &json!("1.0.0")), "{shown}");
    assert_eq!(shown["weights"], json!({"1": 10_000}));
    let instance = &shown["stable"]["instances"][0];
    assert_eq!(instance["state"], "live");
    assert!(instance["address"].is_string(), "{instance}");
    let (_, history) = api.get("/api/services/wine/history").await;
    assert_eq!(history["rollouts"].as_array().unwrap().len(), 2);
    assert_eq!(history["revisions"][1]["number"], 2);
    let (_, all) = api.get("/api/services").await;
    assert_eq!(all.as_array().unwrap().len(), 1);
    let (status, figures) = api.get("/api/services/wine/figures").await;
    assert!(status == 200 && figures["pools"]["1"]["counters"]["requests"].as_u64() > Some(0), "{figures}");
    for (form, part) in [("markdown", "wine-2"), ("html", "<html")] {
        let (status, report) = api.get(&format!("/api/rollouts/wine-2/report?format={form}")).await;
        assert!(status == 200 && report.as_str().is_some_and(|text| text.contains(part)), "{report}");
    }
    let (_, logs) = api.get("/api/services/wine/logs?lines=5").await;
    assert_eq!(logs["instances"].as_array().unwrap().len(), 2);
    let (status, page) = api.get("/").await;
    assert!(status == 200 && page.as_str().unwrap().contains("/api/services/wine"), "{page}");
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_served_at_a_moment_and_who_decided_it() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (_, first) = api.deploy(1, json!({})).await;
    api.outcome(&first["rollout"]).await;
    api.life.rest(2).await;
    let (_, second) =
        api.deploy(2, json!({"strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "1h"}})).await;
    let split = json!({"1": 9_000, "2": 1_000});
    let shared = |events: &Value| {
        let events = events.as_array().unwrap().iter();
        events
            .filter(|event| event["event"] == "route-applied" && event["weights"] == split)
            .map(|e| e["at"].as_u64().unwrap())
            .next()
    };
    let at_split = loop {
        match shared(&api.get("/api/events?service=wine").await.1) {
            Some(at) => break at,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    api.post("/api/services/wine/orders", json!({"order": "abort", "by": "grace"})).await;
    api.outcome(&second["rollout"]).await;
    api.life.rest(2).await;
    let events = api.get("/api/events?service=wine").await.1;
    let seq_of = |kind: &str| {
        let found = events.as_array().unwrap().iter().rev().find(|event| event["event"] == kind);
        found.map(|event| event["seq"].clone()).unwrap()
    };
    let began = events[0]["at"].as_u64().unwrap();

    let at = async |time: String| api.get(&format!("/api/services/wine/at?time={time}")).await;
    let (status, before) = at((began - 1).to_string()).await;
    assert_eq!((status, &before["serving"], before.get("decided")), (200, &json!([]), None), "{before}");
    let (_, during) = at(at_split.to_string()).await;
    let shares: Vec<_> =
        during["serving"].as_array().unwrap().iter().map(|s| (&s["revision"], &s["weight"], &s["stable"])).collect();
    assert_eq!(
        shares,
        [(&json!(1), &json!(9_000), &json!(true)), (&json!(2), &json!(1_000), &json!(false))],
        "{during}"
    );
    assert_eq!(
        (&during["serving"][1]["version"], &during["serving"][1]["digest"]),
        (&json!("2.0.0"), &json!(digest(2)))
    );
    assert_eq!(
        (&during["decided"]["rollout"], &during["decided"]["by"]),
        (&second["rollout"], &json!({"person": "ada"}))
    );
    assert_eq!(during["decided"].get("outcome"), None, "it was not known then");
    let (_, now) = api.get("/api/services/wine/at").await;
    assert_eq!((&now["serving"][0]["revision"], &now["serving"][0]["weight"]), (&json!(1), &json!(10_000)), "{now}");
    assert_eq!(now["decided"]["outcome"], "aborted");
    let order =
        now["decided"]["decisions"].as_array().unwrap().iter().find(|one| one["seq"] == seq_of("ordered")).unwrap();
    assert_eq!(order["by"], json!({"person": "grace"}), "{order}");
    let (status, _) = at("2026-11-23T17:00:00Z".to_owned()).await;
    assert_eq!(status, 200);
    for (path, expected) in [("wine/at?time=yesterday", 400), ("beer/at", 404)] {
        assert_eq!(api.get(&format!("/api/services/{path}")).await.0, expected, "{path}");
    }

    let (_, walked) = api.get("/api/history/verify").await;
    let anchor = format!("seq={}&hash={}", walked["events"], walked["head"].as_str().unwrap());
    assert_eq!(walked.get("broken"), None, "{walked}");
    assert_eq!(api.get(&format!("/api/history/verify?{anchor}")).await.1.get("broken"), None);
    let wrong = format!("/api/history/verify?seq=2&hash={}", walked["head"].as_str().unwrap());
    assert_eq!(api.get(&wrong).await.1["broken"]["seq"], 2);
    assert_eq!(api.get("/api/history/verify?seq=2").await.0, 400);
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_to_do() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let cases = [
        (api.get("/api/services/wine").await, 404),
        (api.get("/api/services/W%2Fine").await, 404),
        (api.get("/api/nothing").await, 404),
        (api.get("/api/rollouts/wine-1/report").await, 404),
        (api.get("/api/services/wine/history").await, 404),
        (api.get("/api/events?after=-1").await, 400),
        (api.post("/api/services", json!({})).await, 405),
        (api.post("/api/services/wine/orders", json!({"order": "abort"})).await, 404),
        (api.post("/api/services/wine/orders", json!({"order": "explode"})).await, 422),
        (api.post("/api/services/wine/rollback", json!({"to": 0, "nonsense": 1})).await, 422),
        (api.post("/api/services/other/rollouts", json!({"spec": spec(json!({})), "package": digest(1)})).await, 422),
        (api.deploy(99, json!({})).await, 404),
        (api.deploy(1, json!({"strategy": {"kind": "canary", "steps": []}})).await, 422),
        (api.deploy(1, json!({"flags": {"nope": 1}})).await, 422),
        (api.post("/api/gateway/upgrade", json!({})).await, 503),
    ];
    for ((status, body), expected) in cases {
        assert_eq!(status, expected, "{body}");
        assert!(body["error"].as_str().is_some_and(|e| !e.is_empty()), "{body}");
        assert!(body["help"].as_str().is_some_and(|h| !h.is_empty()), "{body}");
    }
    let (status, text) = api.ask(Method::POST, "/api/services/wine/rollouts", vec![b' '; 2 << 20].into()).await;
    assert_eq!(status, 413, "{text}");
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_rollout_is_steered_and_bars_the_next() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (_, first) = api.deploy(1, json!({})).await;
    api.outcome(&first["rollout"]).await;
    let (_, second) =
        api.deploy(2, json!({"strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "1h"}})).await;
    let (status, refused) = api.deploy(3, json!({})).await;
    assert_eq!(status, 409, "{refused}");
    assert!(refused["error"].as_str().unwrap().contains(second["rollout"].as_str().unwrap()), "{refused}");
    let (status, _) = api.post("/api/services/wine/orders", json!({"order": "pause", "by": "ada\u{1b}[31m"})).await;
    assert_eq!(status, 202);
    let path = format!("/api/rollouts/{}", second["rollout"].as_str().unwrap());
    for _ in 0..200 {
        if api.get(&path).await.1["outcome"] == "waiting" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let (_, waiting) = api.get(&path).await;
    assert_eq!((&waiting["outcome"], &waiting["waiting"]["for"]), (&json!("waiting"), &json!("paused")), "{waiting}");
    let (status, back) = api.post("/api/services/wine/rollback", json!({})).await;
    assert_eq!((status, &back["rollout"]), (202, &second["rollout"]));
    assert_eq!(api.outcome(&second["rollout"]).await["outcome"], "aborted");
    let (_, events) = api.get("/api/events?service=wine").await;
    assert!(events.to_string().contains("\"ada[31m\""), "control characters of names are cut");
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_waited_for() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (_, before) = api.get("/api/events").await;
    assert_eq!(before, json!([]));
    let (came, (status, _)) = tokio::join!(api.get("/api/events?service=wine&wait_ms=20000"), api.deploy(1, json!({})));
    assert_eq!((status, &came.1[0]["event"]), (202, &json!("service-set")), "{came:?}");
    let (_, one) = api.get("/api/events?after=1&limit=1").await;
    assert_eq!((one.as_array().unwrap().len(), &one[0]["seq"]), (1, &json!(2)));
    let (_, past) = api.get(&format!("/api/events?after={}&wait_ms=1", u64::MAX)).await;
    assert_eq!(past, json!([]));
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_with_a_key_is_carried_out_once() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let send = async |key: &str, n: u8| {
        let body = json!({"spec": spec(json!({})), "package": digest(n)}).to_string();
        let request = format!(
            "POST /api/services/wine/rollouts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nidempotency-key: \"{key}\"\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let status: u16 = text[9..12].parse().unwrap();
        (status, text.split("\r\n\r\n").nth(1).unwrap().to_owned())
    };
    let first = send("a-1", 1).await;
    assert_eq!(first.0, 202);
    assert_eq!(send("a-1", 1).await, first, "the same order again is answered, not carried out");
    assert_eq!(send("a-1", 2).await.0, 422, "the same key for another order");
    assert_eq!(send("", 1).await.0, 400);
    assert_eq!(api.life.ledger.service(&crate::testing::wine()).rollouts.len(), 1);
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_is_asked_for_and_metrics_are_counted_once() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (_, first) = api.deploy(1, json!({})).await;
    api.outcome(&first["rollout"]).await;
    api.life.rest(2).await;
    for _ in 0..2 {
        let (status, text) = api.ask(Method::GET, "/metrics", Bytes::new()).await;
        assert_eq!(status, 200);
        assert!(text.contains("modelyard_rollout_finished_total{service=\"wine\",outcome=\"promoted\"} 1\n"), "{text}");
        assert!(text.contains("modelyard_instances{service=\"wine\",revision=\"1\",state=\"live\"} 2\n"), "{text}");
    }
    let (status, _) = api.post("/api/down", json!({"by": "ada"})).await;
    assert_eq!(status, 202);
    api.down.notified().await;
    api.life.end().await;
}

/// A segment as the gateway leaves it, with answers of revisions that predict 1.
fn told(rig: &Rig, answers: &[(&str, u32)], at: Timestamp) {
    let response = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, r#"{"outputs":[{"data":[1]}]}"#);
    let line = |(id, revision): &(&str, u32)| {
        json!({
            "line": "answer", "id": id, "at_ms": at.0, "revision": revision, "status": 200, "micros": 900, "path": "/",
            "content_type": "application/json", "response": response,
        })
        .to_string()
    };
    let folder = rig.folder.path().join("tap/wine");
    std::fs::create_dir_all(&folder).unwrap();
    let beside = folder.join("segment.open");
    std::fs::write(&beside, answers.iter().map(line).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    std::fs::rename(beside, folder.join(format!("{:020}.jsonl", at.0))).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_taken_in_every_form_and_shown_as_evidence() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let metrics = json!([{"name": "accuracy", "kind": "accuracy", "from": "feedback"}]);
    let affinity = json!({"drain": "2s", "affinity": {"by": "issued"}});
    let (_, first) = api.deploy(1, json!({"metrics": metrics, "routing": affinity})).await;
    api.outcome(&first["rollout"]).await;
    api.life.rest(2).await;

    // The gateway is asked to tell answers and to keep sessions with their arm.
    let table = rig.gateway.table();
    let route = &table.services[&crate::testing::wine()];
    let rule = route.affinity.as_ref().unwrap();
    assert_eq!((rule.salt.as_str(), rule.secret.len()), ("wine-1", 64), "the salt stays when its rollout has ended");
    assert_eq!(route.tap.as_ref().map(|tap| (tap.share, tap.body_bytes)), Some((modelyard_core::Weight::ALL, 0)));

    api.until_measured("after wine-1").await;
    told(&rig, &["a", "b", "c", "d"].map(|id| (id, 1)), api.life.ledger.now());
    let answered = |evidence: &Value| evidence["evidence"]["arms"]["1"]["answers"] == json!(4);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !answered(&api.get("/api/services/wine/evidence").await.1) {
        assert!(tokio::time::Instant::now() < deadline, "the spool was never read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let feedback = "/api/services/wine/feedback";
    let (status, receipt) = api.post(feedback, json!([{"id": "a", "label": 1}, {"id": "z", "label": 1}])).await;
    assert_eq!((status, receipt), (202, json!({"accepted": 2, "joined": 1, "orphaned": 1})));
    for (kind, body) in [("text/csv", "id,label\nb,0\n"), ("application/x-ndjson", "{\"id\":\"c\",\"label\":1}\n")] {
        let (status, text) = api.send(feedback, kind, body).await;
        assert_eq!(
            (status, serde_json::from_str(&text).unwrap()),
            (202, json!({"accepted": 1, "joined": 1, "orphaned": 0}))
        );
    }
    let (_, seen) = api.get("/api/services/wine/evidence").await;
    assert_eq!(
        seen["evidence"]["arms"]["1"]["metrics"]["accuracy"],
        json!({"of": "proportion", "units": 3, "hits": 2}),
        "{seen}"
    );
    assert_eq!((&seen["scope"], &seen["evidence"]["orphaned_feedback"]), (&json!("after wine-1"), &json!(1)));
    let (_, metrics) = api.get("/metrics").await;
    for part in [
        "modelyard_feedback_total{result=\"joined\"} 3",
        "modelyard_feedback_total{result=\"orphaned\"} 1",
        "modelyard_spool_lines_total{result=\"read\"} ",
        "modelyard_metric_value{service=\"wine\",revision=\"1\",metric=\"accuracy\"} 0.66",
    ] {
        assert!(metrics.as_str().unwrap().contains(part), "{part}");
    }

    for (kind, body, part) in [
        ("application/json", "[{\"id\": 1, \"label\": 1}]", "no string"),
        ("text/csv", "name,label\na,1", "no column `id`"),
        ("text/csv; charset=utf-8", "", "empty"),
        ("application/json", "", "no feedback"),
    ] {
        let (status, text) = api.send(feedback, kind, body).await;
        assert!(status == 422 && text.contains(part), "{status} {text}");
    }
    let (status, _) = api.send(feedback, "text/csv", &"x".repeat(LIMIT + 1)).await;
    assert_eq!(status, 413);
    let (status, _) = api.post("/api/services/beer/feedback", json!({"id": "a", "label": 1})).await;
    assert_eq!(status, 404);
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_without_arms_are_refused() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let arms = json!([{"package": digest(3)}]);
    let body = json!({"spec": spec(json!({})), "package": digest(1), "arms": arms, "by": "ada"});
    let (status, refused) = api.post("/api/services/wine/rollouts", body).await;
    assert_eq!(status, 422);
    assert!(refused["error"].as_str().unwrap().contains("0 further arms"), "{refused}");
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_of_three_arms_is_decided_by_labels() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let metrics = json!([{"name": "accuracy", "kind": "accuracy", "from": "feedback"}]);
    let affinity = json!({"drain": "2s", "affinity": {"by": "issued"}});
    let rules = |strategy: Value| json!({"metrics": metrics, "routing": affinity, "strategy": strategy});
    let (_, first) = api.deploy(1, rules(json!({"kind": "canary"}))).await;
    api.outcome(&first["rollout"]).await;
    let test = json!({
        "kind": "ab", "metric": "accuracy", "share": 3_000, "expected": 0.5, "least-units": 100,
        "arms": [{"package": "wine:3.0.0", "share": 2_000}],
    });
    let (status, refused) = api.deploy(2, rules(test.clone())).await;
    assert!(status == 422 && refused["error"].as_str().unwrap().contains("1 further arms"), "{refused}");
    let body = json!({"spec": spec(rules(test)), "package": digest(2), "arms": [{"package": digest(3)}], "by": "ada"});
    let (status, second) = api.post("/api/services/wine/rollouts", body).await;
    assert_eq!((status, &second["revision"]), (202, &json!(2)), "{second}");
    let since = api
        .life
        .until("the split of the test", |life| {
            life.ledger.service(&crate::testing::wine()).open.as_ref().and_then(|open| open.split.since)
        })
        .await;

    let split = rig.gateway.splits().last().unwrap().clone();
    let shares: Vec<u16> = split.values().map(|share| share.basis_points()).collect();
    assert_eq!(shares, [5_000, 3_000, 2_000]);
    let table = rig.gateway.table();
    let route = &table.services[&crate::testing::wine()];
    let rule = route.affinity.as_ref().unwrap();
    let starts: Vec<(u32, u16)> = rule.starts.iter().map(|(arm, &start)| (arm.0, start)).collect();
    assert_eq!((rule.salt.as_str(), starts), ("wine-2", vec![(2, 0), (3, 3_000)]));
    let (_, shown) = api.get("/api/services/wine").await;
    assert_eq!(
        (&shown["candidate"]["revision"], &shown["arms"][0]["version"]),
        (&json!(2), &json!("3.0.0")),
        "{shown}"
    );

    // Half of stable's answers are right, four of five of the candidate's, half of the third arm's.
    let ids: Vec<String> = (0..4_000).map(|n| format!("r{n}")).collect();
    let (mut labels, mut answers) = (Vec::new(), Vec::new());
    for (n, id) in ids.iter().enumerate() {
        let arm = [0, 1, 0, 2, 0, 1, 0, 2, 0, 1][n % 10];
        let right = if arm == 1 { n / 10 % 5 > 0 } else { n / 10 % 2 > 0 };
        answers.push((id.as_str(), arm + 1));
        labels.push(json!({"id": id, "label": u8::from(right)}));
    }
    api.until_measured("wine-2").await;
    told(&rig, &answers, since);
    let (status, receipt) = api.post("/api/services/wine/feedback", json!(labels)).await;
    assert_eq!((status, &receipt["accepted"]), (202, &json!(4_000)));
    let end = api.outcome(&second["rollout"]).await;
    assert_eq!((&end["outcome"], &end["to"], &end["arms"]), (&json!("promoted"), &json!(2), &json!([3])), "{end}");
    let (_, known) = api.get("/api/rollouts/wine-2/evidence").await;
    assert_eq!(known["evidence"]["arms"]["2"]["metrics"]["accuracy"]["of"], "proportion", "{known}");
    assert_eq!(known["evidence"]["excluded_units"], 0);
    let (_, history) = api.get("/api/services/wine/history").await;
    assert_eq!(history["rollouts"][1]["arms"], json!([3]));
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deploy_would_do_is_told_before_it_starts() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    api.deploy(1, json!({})).await;
    api.life.rest(2).await;
    let test = json!({
        "strategy": {"kind": "ab", "metric": "accuracy", "effect": 0.05, "expected": 0.9},
        "metrics": [{"name": "accuracy", "kind": "accuracy", "from": "feedback"}],
    });
    let body = |change: Value| json!({"spec": spec(change), "package": digest(2), "by": "ada"});
    let (status, told) = api.post("/api/services/wine/plan", body(test.clone())).await;
    assert_eq!((status, &told["strategy"], &told["from"]), (200, &json!("ab"), &json!(1)), "{told}");
    assert_eq!(told["arms"], json!([{"revision": 2, "package": "wine:2.0.0", "instances": 1}]));
    let planned = &told["planned"];
    let number = |key: &str| planned[key].as_f64().unwrap_or_else(|| panic!("no {key}: {told}"));
    assert!(number("units") > 100.0 && number("all_units") > 2.0 * number("units") - 2.0, "{told}");
    assert!((number("seconds") - (number("all_units") / number("per_second")).ceil()).abs() < 1.0, "{told}");
    let mut unknown = test;
    unknown["strategy"].as_object_mut().unwrap().remove("expected");
    let (_, told) = api.post("/api/services/wine/plan", body(unknown)).await;
    assert!(told["planned"]["metric"] == "accuracy" && told["planned"]["units"].is_null(), "{told}");

    // Room: what is expected decides, limits warn, and figures are named.
    let leave = |memory: u64| {
        let room = modelyard_core::ports::Room { memory_bytes: Some(memory), cpu_millis: Some(1_000) };
        rig.target.leave(room);
    };
    leave(100 << 20);
    let hungry = json!({"resources": {"memory_bytes": 96 << 20, "cpu_millis": 1_000}});
    let (_, told) = api.post("/api/services/wine/plan", body(hungry.clone())).await;
    let notes = told["room"]["warnings"].to_string();
    assert!(notes.contains("192 MiB") && notes.contains("100 MiB are left") && notes.contains("2.0 cores"), "{told}");
    assert!(told["room"]["refused"].is_null(), "instances of stable use 1 MiB each: {told}");
    leave(1 << 20);
    let (status, told) = api.post("/api/services/wine/plan", body(hungry.clone())).await;
    let why = told["room"]["refused"].as_str().unwrap_or_default();
    assert!(status == 200 && why.contains("need 2 MiB") && why.contains("1 MiB are left"), "{told}");
    let (status, refused) = api.deploy(2, hungry.clone()).await;
    assert!(status == 507 && refused["help"].as_str().is_some_and(|help| help.contains("rolling")), "{refused}");
    let mut one = hungry;
    one["strategy"] = json!({"kind": "rolling", "max-surge": 1});
    let (_, told) = api.post("/api/services/wine/plan", body(one)).await;
    assert!(told["room"]["refused"].is_null() && told["room"]["memory_bytes"] == 1 << 20, "{told}");
    assert_eq!(api.life.ledger.service(&crate::testing::wine()).rollouts.len(), 1, "nothing was started");
    api.life.end().await;
}

/// Why a rollout waits is known to the machine alone between two lines of the log: callers get the figures of now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_rollout_waits_is_told_with_the_figures_of_now() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    api.deploy(1, json!({})).await;
    api.life.rest(2).await;
    let patient = json!({"strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "50ms"},
        "analysis": {"min-requests": 1_000_000, "window": "1h", "startup-timeout": "5s"}});
    let (_, started) = api.deploy(2, patient).await;
    let path = format!("/api/rollouts/{}", started["rollout"].as_str().unwrap());
    let why = async |pointer: &str, path: &str| {
        let (_, seen) = api.get(path).await;
        seen.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 3 {
        assert!(tokio::time::Instant::now() < deadline, "its figures stand still: {told:?}");
        let text = why("/waiting/why", &path).await;
        if text.contains("1000000") || text.contains("1 000 000") {
            told.insert(text);
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let shown = why("/rollout/waiting/why", "/api/services/wine").await;
    assert!(!shown.is_empty(), "the service says so too");
    // However slow the machine is: what only brings other figures than the line before it is no line.
    let events = api.life.events().await;
    let moved = events.iter().filter_map(|event| {
        let modelyard_core::event::EventBody::RolloutStepped { state, .. } = &event.body else { return None };
        let parts =
            ["/candidate", "/phase", "/desired", "/outcome", "/verdict", "/failure", "/crashes", "/waiting/for"];
        Some(parts.map(|part| state.pointer(part).cloned()))
    });
    let moved: Vec<_> = moved.collect();
    assert!(moved.len() >= 4, "two rollouts began: {moved:?}");
    assert!(moved.windows(2).all(|pair| pair[0] != pair[1]), "figures alone leave no line in the log: {moved:#?}");
    api.life.end().await;
}
