//! HTTP/2 without TLS and without an upgrade: REST, gRPC, health and the drain on one port.

mod support;

use serde_json::json;
use support::http2::{Http2, infer};
use support::{Server, input, sample};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";

/// SERVING and NOT_SERVING, framed.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];

#[tokio::test]
#[ignore = "needs ONNX Runtime"]
async fn rest_is_answered_over_http_2_beside_grpc() {
    let server = Server::start("line", json!([]));
    let mut caller = Http2::connect(server.address).await;
    let body = input("x", &[1, 3], json!([1, 2, 3]));
    let answer = caller.post("/v2/models/line/infer", &body).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["outputs"][0]["data"]), (200, &json!([12.5, 21.0])));
    assert!(!answer.headers.contains_key("connection"), "a header that HTTP/2 forbids");
    let plain = caller.post("/predict", &json!({"inputs": {"x": [[1, 2, 3]]}})).await.unwrap();
    assert_eq!(plain.json(), json!({"outputs": {"y": [[12.5, 21.0]]}}));
    let refused = caller.post("/v2/models/line/infer", &json!({})).await.unwrap();
    assert_eq!(refused.status, 400);
    let ready = caller.send("GET", "/v2/health/ready", "text/plain", "".into()).await.unwrap();
    assert_eq!(ready.status, 200);
    let wrong = caller.send("DELETE", "/predict", "text/plain", "".into()).await.unwrap();
    assert_eq!((wrong.status.as_u16(), wrong.headers["allow"].as_bytes()), (405, b"POST".as_slice()));
    let called = caller.call(INFER, &infer("line", &[1, 3], &[1.0, 2.0, 3.0])).await.unwrap();
    assert_eq!(called.grpc_status(), "0");
    assert!(called.body.ends_with(&[12.5f32.to_le_bytes(), 21f32.to_le_bytes()].concat()), "{:?}", called.body);
}

#[tokio::test]
#[ignore = "needs ONNX Runtime"]
async fn health_over_grpc_follows_readiness_and_liveness() {
    let right = json!({"outputs": [{"name": "y", "data": [12.5, 21.0]}]});
    let wrong = json!({"outputs": [{"name": "y", "data": [0.0, 0.0]}]});
    for (response, live, expected) in [(right, 200, SERVING), (wrong, 503, NOT_SERVING)] {
        let server = Server::start("line", json!([sample("a", input("x", &[1, 3], json!([1, 2, 3])), response)]));
        server.wait_for("/v2/health/live", live);
        let mut caller = Http2::connect(server.address).await;
        assert_eq!(caller.call(HEALTH, b"").await.unwrap().body, expected);
        let named = [&[10, 30], &b"inference.GRPCInferenceService"[..]].concat();
        assert_eq!(caller.call(HEALTH, &named).await.unwrap().body, expected);
        let answered = caller.call(LIVE, b"").await.unwrap().body;
        assert_eq!(answered.ends_with(&[8, 1]), live == 200, "{answered:?}");
    }
}

#[tokio::test]
#[ignore = "needs ONNX Runtime"]
async fn a_drain_says_goodbye_and_finishes_the_calls_under_way() {
    let mut server = Server::start("slow", json!([]));
    let caller = Http2::connect(server.address).await;
    let started = |grpc: bool| {
        let mut caller = caller.clone();
        tokio::spawn(async move {
            match grpc {
                true => caller.call(INFER, &infer("slow", &[4, 1, 1], &[1.0, 2.0, 3.0, 4.0])).await,
                false => caller.post("/v2/models/slow/infer", &input("x", &[4, 1, 1], json!([1, 2, 3, 4]))).await,
            }
        })
    };
    let (grpc, rest) = (started(true), started(false));
    while server.metric("modelyard_model_requests_in_flight") < 2.0 {
        tokio::task::yield_now().await;
    }
    server.terminate();
    // GOAWAY: sooner or later nothing new can be begun on this connection.
    let mut another = caller.clone();
    while another.call(LIVE, b"").await.is_ok() {
        tokio::task::yield_now().await;
    }
    let (grpc, rest) = (grpc.await.unwrap().unwrap(), rest.await.unwrap().unwrap());
    assert_eq!((grpc.grpc_status(), rest.status.as_u16()), ("0", 200));
    assert!(server.ended().success());
}
