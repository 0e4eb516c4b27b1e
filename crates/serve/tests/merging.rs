//! Requests share runs of the engine when they come together, and none waits for company.

mod support;

use std::thread;

use serde_json::{Value, json};
use support::http2::Http2;
use support::{Server, input};

const RUNS: &str = "modelyard_engine_runs_total";
const ROWS: &str = "modelyard_engine_rows_total";

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_slow_model_answers_callers_together() {
    let server = Server::start("slow", json!([]));
    let (runs, rows) = (server.metric(RUNS), server.metric(ROWS));
    let (callers, each) = (8, 2);
    thread::scope(|scope| {
        for caller in 0..callers {
            let server = &server;
            scope.spawn(move || {
                for turn in 0..each {
                    let x = f64::from(caller * each + turn);
                    let answer = server.post("/v2/models/slow/infer", &input("x", &[1, 1, 1], json!([x]))).json();
                    assert_eq!(answer["outputs"][0]["data"], json!([x]), "each gets its own row");
                }
            });
        }
    });
    let requests = f64::from(callers * each);
    let (runs, rows) = (server.metric(RUNS) - runs, server.metric(ROWS) - rows);
    assert_eq!(rows, requests, "a row for each request");
    // While one run goes on, seven callers wait: the next run takes them all.
    assert!(runs < requests / 2.0, "{runs} runs for {requests} requests");
}

#[tokio::test]
#[ignore = "needs ONNX Runtime"]
async fn a_fast_model_answers_streams_of_one_connection_together() {
    let server = Server::start("line", json!([]));
    let runs = server.metric(RUNS);
    let caller = Http2::connect(server.address).await;
    let ask = |x: u32| {
        let mut caller = caller.clone();
        async move {
            let body = input("x", &[1, 3], json!([x, 1, 2]));
            let answer = caller.post("/v2/models/line/infer", &body).await.unwrap().json();
            assert_eq!(answer["outputs"][0]["data"], json!([f64::from(x) + 11.0, 20.0]));
        }
    };
    let all: Vec<_> = (0..500).map(|x| tokio::spawn(ask(x))).collect();
    for one in all {
        one.await.unwrap();
    }
    let runs = server.metric(RUNS) - runs;
    assert!(runs < 400.0, "{runs} runs for 500 requests");
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_caller_alone_waits_for_nobody() {
    let server = Server::start("line", json!([]));
    let queued = || -> u64 {
        let stats: Value = server.get("/v2/models/line/stats").json();
        stats["model_stats"][0]["inference_stats"]["queue"]["ns"].as_u64().unwrap()
    };
    let runs = server.metric(RUNS);
    let body = input("x", &[1, 3], json!([1, 2, 3]));
    // The best of several rounds: other programs on the machine may take its turn now and then.
    let round = || {
        let before = queued();
        (0..40).for_each(|_| assert_eq!(server.post("/v2/models/line/infer", &body).status, 200));
        (queued() - before) / 40
    };
    let best = (0..5).map(|_| round()).min().unwrap();
    assert_eq!(server.metric(RUNS) - runs, 200.0, "a run for each request");
    assert!(best < 200_000, "a request waited {best} ns for the engine, which was free");
}
