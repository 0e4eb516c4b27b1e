//! Flags over real HTTP, above the small world of [`crate::testing`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::http::{Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use modelyard_core::affinity::{hash, owner, point, stretches};
use modelyard_core::event::{Actor, EventBody};
use modelyard_core::package::Package;
use modelyard_core::{RevisionNumber, Timestamp};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::api::{App, Metrics, router};
use crate::testing::{Life, Rig, package, spec, wine};

struct Api {
    address: SocketAddr,
    life: Life,
}

/// What came back: status, `ETag`, body.
struct Answered {
    status: u16,
    tag: Option<String>,
    body: Value,
}

async fn serve(rig: &Rig) -> Api {
    let life = rig.start();
    let app = App {
        ledger: Arc::clone(&life.ledger),
        controller: life.controller.clone(),
        orders: life.orders.clone(),
        target: rig.target.clone(),
        gateway: None,
        down: Arc::new(Notify::new()),
        metrics: Arc::new(Metrics::since(Timestamp(1_000), 0)),
        busy_keys: Default::default(),
        tracked: Default::default(),
        known: Default::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(app)).await });
    Api { address, life }
}

impl Api {
    async fn send(&self, method: Method, path: &str, tag: Option<&str>, body: &str) -> Answered {
        let stream = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(self.address).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        request = request.header("content-type", "application/json");
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let tag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        Answered { status, tag, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    async fn evaluate(&self, key: &str, context: Value) -> (u16, Value) {
        let path = format!("/api/services/wine/ofrep/v1/evaluate/flags/{key}");
        let answered = self.send(Method::POST, &path, None, &json!({ "context": context }).to_string()).await;
        (answered.status, answered.body)
    }

    async fn define(&self, document: &Value) -> (u16, Value) {
        let path = "/api/services/wine/flags?by=ada";
        let answered = self.send(Method::PUT, path, None, &document.to_string()).await;
        (answered.status, answered.body)
    }
}

/// A package with a threshold and a number of neighbours.
fn flagged(n: u8) -> Package {
    let mut document = serde_json::to_value(package(n, "FP32")).unwrap();
    document["flags"] = json!({
        "threshold": {"type": "number", "default": 0.5, "minimum": 0.0, "maximum": 1.0},
        "neighbours": {"type": "number", "default": 5.0, "whole": true},
    });
    serde_json::from_value(document).unwrap()
}

fn definition() -> Value {
    json!({"flags": {
        "banner": {
            "state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "off",
            "targeting": {"if": [{"ends_with": [{"var": "email"}, "@example.com"]}, "on", null]},
        },
        "gone": {"state": "DISABLED", "variants": {"a": 1}, "defaultVariant": "a"},
        "broken": {"state": "ENABLED", "variants": {"a": 1}, "defaultVariant": "a", "targeting": {"cat": ["b"]}},
    }, "metadata": {"team": "shop"}})
}

const TWO: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_of_the_revision_and_of_the_definition_are_answered() {
    let rig = Rig::new();
    rig.add_package(1, flagged(1));
    let api = serve(&rig).await;
    api.life.settle(1, spec(json!({"flags": {"threshold": 1}}))).await;
    api.life.rest(TWO).await;

    let (status, found) = api.evaluate("threshold", json!({"targetingKey": "ada"})).await;
    assert_eq!((status, &found["key"], &found["reason"]), (200, &json!("threshold"), &json!("STATIC")), "{found}");
    assert_eq!((&found["value"], &found["variant"]), (&json!(1.0), &json!("r1")), "a number is written as one");
    assert_eq!(found["metadata"], json!({"service": "wine", "revision": 1, "arm": "stable", "version": "1.0.0"}));
    assert_eq!(api.evaluate("neighbours", json!({})).await.1["value"], json!(5), "a whole number as one");
    assert_eq!(api.evaluate("modelyard.arm", json!({})).await.1["value"], json!("stable"));
    assert_eq!(api.evaluate("modelyard.revision", json!({})).await.1["value"], json!(1));

    assert_eq!(api.define(&definition()).await.0, 200);
    let (status, found) = api.evaluate("banner", json!({"email": "ada@example.com"})).await;
    let told = (status, &found["value"], &found["variant"], &found["reason"], &found["metadata"]["team"]);
    assert_eq!(told, (200, &json!(true), &json!("on"), &json!("TARGETING_MATCH"), &json!("shop")));
    assert_eq!(api.evaluate("banner", json!({})).await.1["reason"], "DEFAULT");
    let (status, off) = api.evaluate("gone", json!({})).await;
    assert_eq!((status, &off["reason"], off.get("value"), off.get("variant")), (200, &json!("DISABLED"), None, None));
    let (status, broken) = api.evaluate("broken", json!({})).await;
    assert_eq!((status, &broken["key"], &broken["errorCode"]), (400, &json!("broken"), &json!("GENERAL")), "{broken}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_have_the_protocol_s_form() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    api.life.settle(1, spec(json!({}))).await;
    let base = "/api/services/wine/ofrep/v1/evaluate/flags";
    let single = format!("{base}/strict");
    for (path, body, status, code) in [
        (single.as_str(), "{\"context\": {}}", 200, None),
        (&single, "", 200, None),
        (&single, "{}", 200, None),
        (&single, "{\"context\": null}", 200, None),
        (&single, "nonsense", 400, Some("PARSE_ERROR")),
        (&single, "[]", 400, Some("PARSE_ERROR")),
        (&single, "{\"context\": 7}", 400, Some("INVALID_CONTEXT")),
        (&single, "{\"context\": {\"targetingKey\": 7}}", 400, Some("INVALID_CONTEXT")),
        (&format!("{base}/nothing"), "{}", 404, Some("FLAG_NOT_FOUND")),
        (&format!("{base}/a/b%20c"), "{}", 404, Some("FLAG_NOT_FOUND")),
        ("/api/services/beer/ofrep/v1/evaluate/flags/strict", "{}", 404, Some("FLAG_NOT_FOUND")),
        ("/api/services/No%20Name/ofrep/v1/evaluate/flags", "{}", 404, Some("FLAG_NOT_FOUND")),
        (base, "nonsense", 400, Some("PARSE_ERROR")),
    ] {
        let answered = api.send(Method::POST, path, None, body).await;
        assert_eq!(answered.status, status, "{path} {body}: {}", answered.body);
        let Some(code) = code else { continue };
        assert_eq!(answered.body["errorCode"], code, "{path} {body}");
        assert!(answered.body["errorDetails"].is_string());
        assert_eq!(answered.body.get("key").is_some(), path.contains("flags/"), "{path}: {}", answered.body);
    }
    let long = json!({"context": {"a": "x".repeat(70_000)}}).to_string();
    let answered = api.send(Method::POST, &single, None, &long).await;
    assert_eq!((answered.status, &answered.body["errorCode"]), (413, &json!("INVALID_CONTEXT")));
    let deep = format!("{{\"context\": {{\"a\": {}1{}}}}}", "[".repeat(1_000), "]".repeat(1_000));
    assert_eq!(api.send(Method::POST, &single, None, &deep).await.status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_has_all_flags_already_is_told_so() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    api.life.settle(1, spec(json!({}))).await;
    api.life.rest(TWO).await;
    api.define(&definition()).await;
    let path = "/api/services/wine/ofrep/v1/evaluate/flags";
    let body = json!({"context": {"email": "ada@example.com"}}).to_string();
    let first = api.send(Method::POST, path, None, &body).await;
    let keys: Vec<&str> = first.body["flags"].as_array().unwrap().iter().map(|f| f["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["banner", "broken", "gone", "modelyard.arm", "modelyard.revision", "strict"]);
    assert_eq!(first.body["flags"][1]["errorCode"], "GENERAL", "one that is broken leaves the others");
    assert_eq!(first.body["metadata"], json!({"team": "shop", "service": "wine"}));
    let tag = first.tag.unwrap();
    for known in
        [tag.clone(), format!("W/{tag}"), tag.trim_matches('"').to_owned(), format!("\"x\", {tag}"), "*".into()]
    {
        let again = api.send(Method::POST, path, Some(&known), &body).await;
        assert_eq!((again.status, again.tag.as_ref(), &again.body), (304, Some(&tag), &Value::Null), "{known}");
    }
    let other = api.send(Method::POST, path, Some(&tag), &json!({"context": {"email": "x@y"}}).to_string()).await;
    assert_eq!(other.status, 200, "another context has other values");
    let mut changed = definition();
    changed["flags"]["banner"]["defaultVariant"] = json!("on");
    changed["flags"]["banner"]["targeting"] = json!(null);
    api.define(&changed).await;
    assert_eq!(api.send(Method::POST, path, Some(&tag), &body).await.status, 200, "another definition too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_are_checked_and_have_a_history() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    assert_eq!(api.define(&definition()).await.0, 404, "there is no service yet");
    api.life.settle(1, spec(json!({}))).await;
    api.life.rest(TWO).await;
    let hidden = json!({"flags": {"strict": {"state": "ENABLED", "variants": {"a": true}}}});
    let (status, refused) = api.define(&hidden).await;
    assert_eq!(status, 422);
    assert!(refused["error"].as_str().unwrap().contains("`strict` is a flag of wine:1.0.0"), "{refused}");
    assert_eq!(api.define(&json!({"flags": {"a": {}}})).await.0, 422);
    assert_eq!(api.define(&definition()).await.0, 200);
    assert_eq!(api.define(&definition()).await.0, 200, "the same again");
    let path = "/api/services/wine/flags";
    let stored = api.send(Method::GET, &format!("{path}/definition"), None, "").await;
    assert_eq!(stored.body, definition());

    assert_eq!(api.send(Method::DELETE, &format!("{path}?by=bob"), None, "").await.status, 200);
    assert_eq!(api.send(Method::GET, &format!("{path}/definition"), None, "").await.status, 404);
    assert_eq!(api.evaluate("banner", json!({})).await.0, 404);
    let events = api.life.events().await;
    let set = events.iter().filter_map(|event| match &event.body {
        EventBody::FlagsSet { definition } => Some((definition.is_some(), event.actor.clone())),
        _ => None,
    });
    let by = |name: &str| Actor::Person(name.to_owned());
    assert_eq!(set.collect::<Vec<_>>(), [(true, by("ada")), (false, by("bob"))], "setting it twice is one event");
}

/// A canary of 30 % that stays there, with sessions by a header.
fn held() -> Value {
    json!({
        "strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "10m"},
        "routing": {"drain": "2s", "affinity": {"by": "header", "name": "x-user"}},
        "flags": {"threshold": 0.7},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_the_arm_and_the_values_that_the_gateway_gives_it() {
    let rig = Rig::new();
    rig.add_package(1, flagged(1));
    let api = serve(&rig).await;
    api.life.settle(1, spec(json!({}))).await;
    api.life.rest(TWO).await;
    api.life.deploy(1, spec(held())).await;
    let two = RevisionNumber(2);
    let splits = api
        .life
        .until("a share for revision 2", |life| {
            let report = life.controller.report()?;
            let pool = report.services.get(&wine())?.pools.get(&two)?;
            (pool.weight.basis_points() == 1_000).then(|| rig.gateway.table())
        })
        .await;
    let route = &splits.services[&wine()];
    let rule = route.affinity.as_ref().unwrap();
    let cut = stretches(&route.apis[&route.default_api], &rule.starts);
    let mut met: BTreeMap<RevisionNumber, u32> = BTreeMap::new();
    for n in 0..200 {
        let user = format!("user-{n}");
        let expected = owner(&cut, point(hash(&rule.salt, user.as_bytes()))).unwrap();
        *met.entry(expected).or_default() += 1;
        let context = json!({"targetingKey": user});
        let (_, found) = api.evaluate("modelyard.revision", context.clone()).await;
        let told = (&found["value"], &found["reason"], &found["metadata"]["rollout"]);
        assert_eq!(told, (&json!(expected), &json!("SPLIT"), &json!("wine-2")), "{user}: {found}");
        let threshold = if expected == two { 0.7 } else { 0.5 };
        let (_, found) = api.evaluate("threshold", context.clone()).await;
        assert_eq!((&found["value"], &found["reason"]), (&json!(threshold), &json!("SPLIT")), "{user}");
        assert_eq!(api.evaluate("neighbours", context).await.1["reason"], "STATIC", "the same on both sides");
    }
    assert!(met.len() == 2, "both arms were met: {met:?}");

    let (status, nobody) = api.evaluate("modelyard.arm", json!({})).await;
    assert_eq!((status, &nobody["errorCode"]), (400, &json!("TARGETING_KEY_MISSING")), "{nobody}");
    let (_, stable) = api.evaluate("threshold", json!({})).await;
    assert_eq!((&stable["value"], &stable["reason"]), (&json!(0.5), &json!("DEFAULT")));

    let listed = api.send(Method::GET, "/api/services/wine/flags", None, "").await.body;
    let arms: Vec<(&Value, &Value)> =
        listed["arms"].as_array().unwrap().iter().map(|a| (&a["arm"], &a["weight"])).collect();
    assert_eq!(arms, [(&json!("stable"), &json!(9_000)), (&json!("candidate"), &json!(1_000))], "{listed}");
    let threshold = listed["flags"].as_array().unwrap().iter().find(|flag| flag["name"] == "threshold").unwrap();
    assert_eq!(threshold["values"]["1"], json!({"value": 0.5, "from": "package"}));
    assert_eq!(threshold["values"]["2"], json!({"value": 0.7, "from": "revision"}));
    assert_eq!(threshold["limits"], "at least 0, at most 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_affinity_no_session_has_an_arm() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    api.life.settle(1, spec(json!({}))).await;
    api.life.rest(TWO).await;
    let mut rules = held();
    rules["routing"] = json!({"drain": "2s"});
    rules["flags"] = json!({"strict": true});
    api.life.deploy(2, spec(rules)).await;
    api.life.until("two applied arms", |life| (life.ledger.service(&wine()).applied.len() == 2).then_some(())).await;
    api.life
        .until("a report of both", |life| {
            let report = life.controller.report()?;
            let pools = &report.services.get(&wine())?.pools;
            (pools.values().filter(|pool| pool.weight.basis_points() > 0).count() == 2).then_some(())
        })
        .await;
    let (status, told) = api.evaluate("modelyard.arm", json!({"targetingKey": "ada"})).await;
    assert_eq!((status, &told["errorCode"]), (400, &json!("GENERAL")));
    assert!(told["errorDetails"].as_str().unwrap().contains("[routing.affinity]"), "{told}");
    assert_eq!(api.evaluate("strict", json!({"targetingKey": "ada"})).await.1["reason"], "DEFAULT");
}

/// Keeps the fields of events.
#[derive(Clone, Default)]
struct Keep(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

impl tracing::field::Visit for Row<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

struct Row<'a>(&'a mut BTreeMap<String, String>);

impl tracing::Subscriber for Keep {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("modelyard_control::flags")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut row = BTreeMap::new();
        event.record(&mut Row(&mut row));
        self.0.lock().unwrap().push(row);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn evaluations_are_told_in_opentelemetry_s_words() {
    let keep = Keep::default();
    let rig = Rig::new();
    let life = rig.start();
    life.settle(1, spec(json!({}))).await;
    life.orders.set_flags(&wine(), Some(definition()), Actor::Person("ada".into())).await.unwrap();
    let state = life.ledger.service(&wine());
    let split = super::split::Split::new(&state, None);
    let packages =
        [(RevisionNumber(1), life.orders.package(state.revisions[&RevisionNumber(1)].package).await.unwrap())];
    let sources = super::answer::Sources { state, split, packages: packages.into() };
    let context = json!({"targetingKey": "ada"}).as_object().unwrap().clone();
    tracing::subscriber::with_default(keep.clone(), || {
        for key in ["strict", "broken"] {
            let answer = sources.answer(key, &mut sources.asker(context.clone(), 0));
            super::ofrep::tell(&sources, key, context.get("targetingKey"), &answer);
        }
    });
    let rows = keep.0.lock().unwrap();
    let expected = [
        ("message", "feature_flag.evaluation"),
        ("feature_flag.key", "strict"),
        ("feature_flag.result.variant", "r1"),
        ("feature_flag.result.reason", "static"),
        ("feature_flag.context.id", "ada"),
        ("feature_flag.set.id", "wine"),
        ("feature_flag.version", "1.0.0"),
        ("feature_flag.provider.name", "modelyard"),
    ];
    let expected: BTreeMap<String, String> = expected.map(|(name, value)| (name.into(), value.into())).into();
    assert_eq!(rows[0], expected);
    assert_eq!((&*rows[1]["feature_flag.result.reason"], &*rows[1]["error.type"]), ("error", "general"), "{rows:?}");
}
