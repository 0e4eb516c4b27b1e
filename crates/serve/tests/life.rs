//! Start, health and drain of a real server.

mod support;

use std::io::BufReader;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use support::{Server, input, receive, sample, send};

#[test]
#[ignore = "needs ONNX Runtime"]
fn wrong_answers_are_not_live_but_ready() {
    let wrong = json!({"outputs": [{"name": "y", "data": [0.0, 0.0]}]});
    let server = Server::start("line", json!([sample("zeros", input("x", &[1, 3], json!([1, 2, 3])), wrong)]));
    let answer = server.wait_for("/v2/health/live", 503).json();
    assert_eq!((&answer["live"], &answer["cause"]), (&json!(false), &json!("wrong-answers")));
    assert_eq!(answer["error"], "sample `zeros`: at /outputs/0/data/0: expected 0, got 12.5");
    assert_eq!(server.get("/v2/health/ready").status, 200);
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn nothing_is_ready_before_a_warm_up_inference_has_run() {
    let server = Server::launch("slow", json!([]));
    let early = server.probed("/v2/health/ready");
    let request = input("x", &[1, 1, 1], json!([2]));
    let refused = server.post("/v2/models/slow/infer", &request);
    if early == Some(503) && refused.status != 200 {
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    }
    server.wait_for("/v2/health/ready", 200);
    // The first request is as quick as any: what is slow about a first run lies behind us, in the time that loading took.
    let before = server.metric("modelyard_engine_busy_seconds_total");
    assert_eq!(server.post("/v2/models/slow/infer", &request).status, 200);
    let run = server.metric("modelyard_engine_busy_seconds_total") - before;
    let load = server.metric("modelyard_model_load_seconds");
    assert!(load > run / 2.0, "loading took {load} s, and one run takes {run} s");
    assert_eq!(early, Some(503), "a run of {run} s was not waited for");
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_sample_that_the_engine_refuses_never_makes_it_ready() {
    let request = json!({"inputs": [{"name": "i", "datatype": "INT64", "shape": [1], "data": [99]}]});
    let mut server = Server::launch("gather", json!([sample("past the end", request, json!({"outputs": []}))]));
    while server.is_running() {
        assert!(matches!(server.probed("/v2/health/ready"), None | Some(503)));
    }
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn liveness_follows_the_answers_as_they_change() {
    // A model that answers by chance: right in half of all cases.
    let response = json!({"outputs": [{"name": "y", "data": [0.25]}]});
    let mut sample = sample("below a half", input("x", &[1, 1], json!([0])), response);
    sample["tolerance"] = json!({"absolute": 0.25, "relative": 0.0});
    let server = Server::start("coin", json!([sample]));
    for _ in 0..3 {
        server.wait_for("/v2/health/live", 200);
        let ill = server.wait_for("/v2/health/live", 503).json();
        assert_eq!(ill["cause"], "wrong-answers");
        assert!(ill["error"].as_str().unwrap().contains("sample `below a half`"), "{ill}");
        assert_eq!(server.probed("/v2/health/ready"), Some(200), "readiness is another matter");
    }
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn being_busy_does_not_make_a_server_ill() {
    let request = input("x", &[1, 1, 1], json!([2]));
    let server = Server::start("slow", json!([sample("two", request.clone(), json!({"outputs": [{"name": "y"}]}))]));
    server.wait_for("/v2/health/live", 200);
    let (working, most, probes) = (AtomicUsize::new(6), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..4 {
                    assert_eq!(server.post("/v2/models/slow/infer", &request).status, 200);
                }
                working.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // Every single answer, not the first good one.
        while working.load(Ordering::SeqCst) > 0 {
            for path in ["/v2/health/live", "/v2/health/ready"] {
                assert_eq!(server.probed(path), Some(200), "{path} while the engine is busy");
            }
            probes.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(server.metric("modelyard_model_requests_in_flight") as usize, Ordering::SeqCst);
        }
    });
    let (most, probes) = (most.into_inner(), probes.into_inner());
    assert!(most >= 5 && probes >= 10, "{most} requests at once, {probes} probes");
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_drain_answers_everything_that_was_sent() {
    let mut server = Server::start("line", json!([]));
    let body = input("x", &[1, 3], json!([1, 2, 3])).to_string();
    let (address, answered) = (server.address, AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let stream = TcpStream::connect(address).unwrap();
                let (mut writer, mut reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
                // Until the server says that it closes, every request on the connection is answered.
                loop {
                    send(&mut writer, "POST", "/v2/models/line/infer", &[], body.as_bytes()).unwrap();
                    let answer = receive(&mut reader, "POST").expect("an answer on an open connection");
                    assert_eq!(answer.status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        return;
                    }
                }
            });
        }
        while answered.load(Ordering::Relaxed) < 300 {
            std::thread::yield_now();
        }
        server.terminate();
    });
    assert!(server.ended().success());
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_slow_request_outlives_sigterm_and_idle_connections_do_not() {
    let mut server = Server::start("slow", json!([]));
    let body = input("x", &[4, 1, 1], json!([1, 2, 3, 4])).to_string();
    let idle = TcpStream::connect(server.address).unwrap();
    let mut stream = TcpStream::connect(server.address).unwrap();
    send(&mut stream, "POST", "/v2/models/slow/infer", &[], body.as_bytes()).unwrap();
    while !String::from_utf8_lossy(&server.get("/metrics").body)
        .contains("requests_in_flight{model=\"slow\",version=\"2.1.0\"} 1")
    {
        std::thread::yield_now();
    }
    server.terminate();
    let answer = receive(&mut BufReader::new(stream), "POST").unwrap();
    assert_eq!(answer.status, 200);
    assert!(server.ended().success());
    drop(idle);
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_broken_model_ends_the_server_with_its_reason() {
    let mut server = Server::launch("broken", json!([]));
    assert_eq!(server.ended().code(), Some(1));
}
