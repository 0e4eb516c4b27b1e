//! Alternatives beside a rollout that is paused, and shadows beside a canary, over the API.

use std::time::Duration;

use serde_json::{Value, json};

use super::tests::{Api, serve};
use crate::testing::{Rig, digest, package, spec};

/// Waits until the service is shown as wanted.
async fn shown(api: &Api, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (_, seen) = api.get("/api/services/wine").await;
        if is(&seen) {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "never {what}: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alternatives_are_tried_beside_a_rollout_that_waits_and_nowhere_else() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (_, first) = api.deploy(1, json!({})).await;
    api.outcome(&first["rollout"]).await;
    api.life.rest(2).await;
    let path = "/api/services/wine/alternatives";
    let third = |share: u16, kind: &str| json!({"package": digest(3), "share": share, "kind": kind, "by": "ada"});
    assert_eq!(api.post(path, third(500, "canary")).await.0, 409, "no rollout is open");
    api.deploy(2, json!({"strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "1h"}})).await;
    shown(&api, "at its first step", |seen| seen["weights"] == json!({"1": 9_000, "2": 1_000})).await;
    let (status, refused) = api.post(path, third(500, "canary")).await;
    assert!(status == 409 && refused["error"].as_str().unwrap().contains("is paused"), "{refused}");
    assert_eq!(api.life.ledger.service(&crate::testing::wine()).revisions.len(), 2, "nothing was made");

    api.post("/api/services/wine/orders", json!({"order": "pause", "by": "ada"})).await;
    shown(&api, "paused", |seen| seen["rollout"]["waiting"]["for"] == "paused").await;
    let (status, tried) = api.post(path, third(500, "canary")).await;
    assert_eq!((status, &tried["revision"], &tried["opened"]), (202, &json!(3), &json!(false)), "{tried}");
    shown(&api, "three shares", |seen| seen["weights"] == json!({"1": 8_500, "2": 1_000, "3": 500})).await;
    // What the first revision runs, as shadow: a revision of its own.
    let (_, tried) = api.post(path, json!({"revision": 1, "share": 2_000})).await;
    assert_eq!(tried["revision"], 4, "{tried}");
    let seen = shown(&api, "two beside it", |seen| seen["mirrors"] == json!({"4": 2_000})).await;
    let beside: Vec<&Value> = seen["beside"].as_array().unwrap().iter().map(|pool| &pool["revision"]).collect();
    assert_eq!(beside, [3, 4], "{seen}");
    let (_, stands) = api.get("/api/rollouts/wine-2").await;
    assert_eq!(stands["beside"], json!([3, 4]), "{stands}");

    for (body, status, part) in [
        (third(2_000, "canary"), 409, "20 % together"),
        (json!({"revision": 99, "share": 100}), 404, "no revision 99"),
        (json!({"revision": 1, "package": digest(3), "share": 100}), 422, "not clear"),
        (json!({"share": 100}), 422, "not clear"),
    ] {
        let (answered, refused) = api.post(path, body).await;
        assert!(answered == status && refused["error"].as_str().unwrap().contains(part), "{answered}: {refused}");
    }
    let order =
        |revision: u32| json!({"order": "try", "revision": revision, "share": 700, "kind": "canary", "by": "ada"});
    assert_eq!(api.post("/api/services/wine/orders", order(2)).await.0, 409, "an order starts nothing");
    api.post("/api/services/wine/orders", order(3)).await;
    shown(&api, "a larger share", |seen| seen["weights"]["3"] == 700).await;
    let (status, _) = api.post(path, json!({"revision": 3, "share": 0})).await;
    assert_eq!(status, 202);
    shown(&api, "one beside it", |seen| seen["weights"] == json!({"1": 9_000, "2": 1_000, "4": 0})).await;

    api.post("/api/services/wine/orders", json!({"order": "resume", "by": "ada"})).await;
    shown(&api, "alone again", |seen| seen["beside"].is_null() && seen["mirrors"].is_null()).await;
    let (_, report) = api.get("/api/rollouts/wine-2/report").await;
    let told = report.as_str().unwrap();
    assert!(
        told.contains("try revision 3 beside it, as canary with 5 %") && told.contains("take revision 3 away"),
        "{told}"
    );
    api.post("/api/services/wine/orders", json!({"order": "abort", "by": "ada"})).await;
    api.outcome(&json!("wine-2")).await;
    api.life.end().await;
}

/// What stable's callers would misread is refused beside a rollout as it is in one, and taken on a person's word, which is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alternative_that_callers_would_misread_is_refused_unless_they_know() {
    let rig = Rig::new();
    for (n, text) in [(1, "Barolo"), (2, "Barolo"), (3, "Grignolino")] {
        let mut made = package(n, "FP32");
        let meaning = json!({"description": "class", "values": {"0": text}});
        made.meanings.outputs.insert("y".into(), serde_json::from_value(meaning).unwrap());
        rig.add_package(n, made);
    }
    let api = serve(&rig).await;
    let (_, first) = api.deploy(1, json!({})).await;
    api.outcome(&first["rollout"]).await;
    api.life.rest(2).await;
    api.deploy(2, json!({"strategy": {"kind": "canary", "steps": [1_000, 10_000], "bake": "1h"}})).await;
    api.post("/api/services/wine/orders", json!({"order": "pause", "by": "ada"})).await;
    shown(&api, "paused", |seen| seen["rollout"]["waiting"]["for"] == "paused").await;
    let third = |new: bool| json!({"package": digest(3), "share": 500, "new_meanings": new, "by": "ada"});
    let path = "/api/services/wine/alternatives";
    let (status, refused) = api.post(path, third(false)).await;
    let told = refused.to_string();
    assert!(status == 409 && told.contains("0 means Grignolino") && told.contains("--new-meanings"), "{refused}");
    assert_eq!(api.life.ledger.service(&crate::testing::wine()).revisions.len(), 2, "nothing was made");
    let (status, tried) = api.post(path, third(true)).await;
    assert_eq!((status, &tried["revision"]), (202, &json!(3)), "{tried}");
    let log = api.life.log().await;
    assert!(log.contains("0 means Grignolino instead of Barolo"), "{log}");
    // One that runs beside already is taken away without a word.
    shown(&api, "beside it", |seen| seen["beside"][0]["revision"] == 3).await;
    assert_eq!(api.post(path, json!({"revision": 3, "share": 0})).await.0, 202);
    api.post("/api/services/wine/orders", json!({"order": "abort", "by": "ada"})).await;
    api.outcome(&json!("wine-2")).await;
    api.life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_beside_a_canary_has_its_own_bounds_in_the_route() {
    let rig = Rig::new();
    let api = serve(&rig).await;
    let (_, first) = api.deploy(1, json!({})).await;
    api.outcome(&first["rollout"]).await;
    api.life.rest(2).await;
    let shadow = json!({"package": "wine:3.0.0", "share": 4_000, "limit": 5, "timeout": "70ms", "top-k": 2,
        "tolerance": {"absolute": 0.5, "relative": 0.0}});
    let strategy = json!({"kind": "canary", "steps": [1_000, 10_000], "bake": "1h", "shadows": [shadow]});
    let rules = spec(json!({"strategy": strategy}));
    let body = |arms: Value| json!({"spec": rules, "package": digest(2), "arms": arms, "by": "ada"});
    let (status, _) = api.post("/api/services/wine/rollouts", body(json!([]))).await;
    assert_eq!(status, 422, "the shadow has no package");
    api.post("/api/services/wine/rollouts", body(json!([{"package": digest(3)}]))).await;
    let seen = shown(&api, "with its shadow", |seen| seen["beside"][0]["instances"][0]["state"] == "live").await;
    assert_eq!((&seen["beside"][0]["version"], &seen["mirrors"]), (&json!("3.0.0"), &json!({"3": 4_000})), "{seen}");
    assert!(seen["arms"].is_null(), "{seen}");
    let table = api.life.until("a table with the mirror", |_| {
        rig.gateway.table().services.get(&crate::testing::wine()).filter(|route| !route.mirrors.is_empty()).cloned()
    });
    let mirror = table.await.mirrors.remove(0);
    let told = (mirror.revision.0, mirror.limit, mirror.timeout_ms, mirror.top_k, mirror.tolerance.absolute);
    assert_eq!(told, (3, 5, 70, 2, 0.5));
    assert_eq!(mirror.against.map(|revision| revision.0), Some(1), "held against stable, though others answer too");
    api.post("/api/services/wine/orders", json!({"order": "abort", "by": "ada"})).await;
    api.outcome(&json!("wine-2")).await;
    api.life.end().await;
}
