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

struct Api {
    address: SocketAddr,
    life: Life,
    down: Arc<Notify>,
}

async fn serve(rig: &Rig) -> Api {
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

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.ask(Method::GET, path, Bytes::new()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, text) = self.ask(Method::POST, path, body.to_string().into()).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn deploy(&self, n: u8, change: Value) -> (u16, Value) {
        let body = json!({"spec": spec(change), "package": digest(n), "by": "ada"});
        self.post("/api/services/wine/rollouts", body).await
    }

    async fn outcome(&self, rollout: &Value) -> Value {
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
