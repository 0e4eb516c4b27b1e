//! A Python function behind the server: answers, the signature both ways, batches, crashes, hangs, traces, the drain. Real interpreters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Server, input};

const DOUBLE: &str = "def predict(inputs):\n    return {'y': [[2 * a for a in row] for row in inputs['x']]}\n";

/// The interpreter with NumPy that peers are tested with.
fn numpy() -> Vec<(&'static str, &'static str)> {
    let python =
        std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers' packages");
    let environment = std::path::Path::new(&python).parent().unwrap().parent().unwrap().display().to_string();
    vec![("MODELYARD_PYTHON_ENVIRONMENT", Box::leak(environment.into_boxed_str()))]
}

fn ask(server: &Server, rows: &Value) -> support::Answer {
    let count = rows.as_array().unwrap().len() as i64 / 2;
    server.post("/v2/models/f/infer", &input("x", &[count, 2], rows.clone()))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_function_answers_over_rest_without_numpy() {
    let server = Server::function(DOUBLE, json!({}), &[]);
    let answer = ask(&server, &json!([1, 2, 3, 4]));
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (200, &json!([2.0, 4.0, 6.0, 8.0])));
    assert_eq!(server.get("/v2/models/f").json()["platform"], "python_function");
    let plain = server.post("/predict", &json!({"inputs": {"x": [[5, 6]]}}));
    assert_eq!(plain.json()["outputs"]["y"], json!([[10.0, 12.0]]));
    let wrong = server.post("/v2/models/f/infer", &input("x", &[1, 3], json!([1, 2, 3])));
    assert!(wrong.status == 400 && wrong.error().contains("[-1,2]"), "{}", wrong.error());
}

#[test]
fn every_datatype_comes_back_as_it_went() {
    let kinds = [
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
        "BYTES",
    ];
    let of = |kind: &str| match kind {
        "BOOL" => json!([true, false]),
        "BYTES" => json!(["ä", ""]),
        _ => json!([1, 2]),
    };
    let specs: Vec<Value> = kinds.iter().map(|kind| json!({"name": kind, "datatype": kind, "shape": [-1]})).collect();
    let inputs: Vec<Value> = kinds
        .iter()
        .filter(|kind| **kind != "FP16") // it has no agreed form in JSON requests, but comes back
        .map(|kind| json!({"name": kind, "datatype": kind, "shape": [2], "data": of(kind)}))
        .collect();
    let takes: Vec<&Value> = specs.iter().filter(|spec| spec["name"] != "FP16").collect();
    let source = "def predict(inputs):\n    return {**inputs, 'FP16': inputs['FP32'].astype('f2') if hasattr(inputs['FP32'], 'astype') else inputs['FP32']}\n";
    let document = json!({"signature": {"inputs": takes, "outputs": specs}});
    let server = Server::function(source, document, &[]);
    let answer = server.post("/v2/models/f/infer", &json!({"inputs": inputs}));
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    for output in answer.json()["outputs"].as_array().unwrap() {
        let kind = output["datatype"].as_str().unwrap();
        let want = if kind.starts_with("FP") { json!([1.0, 2.0]) } else { of(kind) };
        assert_eq!(output["data"], want, "{kind}");
    }
}

#[test]
#[ignore = "needs the Python peers"]
fn arrays_are_numpys_and_flags_and_parameters_come_along() {
    let source = "import numpy\n\
        def predict(inputs, flags, parameters):\n    \
            assert isinstance(inputs['x'], numpy.ndarray) and inputs['x'].dtype == numpy.float32\n    \
            assert list(inputs['word']) == ['a', 'b'] and inputs['scale'].shape == ()\n    \
            return inputs['x'] * inputs['scale'] * numpy.float32(flags['factor']) + numpy.float32(parameters['bias'])\n";
    let document = json!({
        "signature": {"inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]}, {"name": "word", "datatype": "BYTES", "shape": [-1]},
            {"name": "scale", "datatype": "FP32", "shape": [], "optional": true},
        ]},
        "flags": {
            "factor": {"type": "number", "default": 3.0}, "scale": {"type": "number", "default": 2.0, "input": "scale"},
        },
        "parameters": {"bias": 1},
    });
    let server = Server::function(source, document, &numpy());
    let body = |extra: &[Value]| {
        let mut inputs = vec![
            json!({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}),
            json!({"name": "word", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}),
        ];
        inputs.extend_from_slice(extra);
        json!({ "inputs": inputs })
    };
    let answer = server.post("/v2/models/f/infer", &body(&[]));
    assert_eq!(answer.status, 200, "{} {}", answer.error(), server.log());
    assert_eq!(answer.json()["outputs"][0]["data"], json!([7.0, 13.0, 19.0, 25.0]));
    let answer = server
        .post("/v2/models/f/infer", &body(&[json!({"name": "scale", "datatype": "FP32", "shape": [], "data": [1]})]));
    assert_eq!(answer.json()["outputs"][0]["data"], json!([4.0, 7.0, 10.0, 13.0]), "a caller weighs more than a flag");
}

#[test]
#[ignore = "needs the Python peers"]
fn what_does_not_fit_the_signature_is_refused_and_named() {
    let source = "import numpy\n\
        def predict(inputs):\n    \
            return {1: numpy.zeros((1, 2)), 2: {'z': []}, 3: numpy.zeros((1, 3), 'f4'), 4: {}, 5: None, 6: [[1, 2], [3]]}[int(inputs['x'][0][0])]\n";
    let server = Server::function(source, json!({}), &numpy());
    for (which, what) in [
        (1, "array of float64, and the signature says FP32"),
        (2, "'z', which the signature has not"),
        (3, "has the shape [1, 3]"),
        (4, "output `y` is missing"),
        (5, "something else than FP32"),
        (6, "ragged"),
    ] {
        let answer = ask(&server, &json!([which, 0]));
        assert!(answer.status == 500 && answer.error().contains(what), "{which}: {}", answer.error());
    }
}

#[test]
fn traces_go_to_the_log_and_not_into_the_answer() {
    let source = "def predict(inputs):\n    print('seen by the log')\n    \
        if inputs['x'][0][0] == 1: raise ValueError('secret of a caller')\n    return inputs['x']\n";
    let server = Server::function(source, json!({}), &[]);
    let answer = ask(&server, &json!([1, 2]));
    let error = answer.error();
    assert!(answer.status == 500 && error.contains("raised ValueError"), "{error}");
    assert!(!error.contains("secret") && !error.contains("predict.py"), "{error}");
    let log = server.log();
    assert!(
        log.contains("seen by the log") && log.contains("secret of a caller") && log.contains("line 3, in predict"),
        "{log}"
    );
}

/// What of a function's answers tells which process gave them.
const PID: &str = "import os, sys, time\n\
    def predict(inputs):\n    \
        first = inputs['x'][0][0]\n    \
        if first == 1: os._exit(9)\n    \
        if first == 2: time.sleep(600)\n    \
        if first == 3: time.sleep(1)\n    \
        return [[float(os.getpid()), float(len(inputs['x']))] for _ in inputs['x']]\n";

fn pid(server: &Server) -> f64 {
    let answer = ask(server, &json!([0, 0]));
    assert_eq!(answer.status, 200, "{}", answer.error());
    answer.json()["outputs"][0]["data"][0].as_f64().unwrap()
}

#[test]
fn a_crash_costs_its_own_request_and_the_worker_is_replaced() {
    let server = Server::function(PID, json!({}), &[]);
    let before = pid(&server);
    let crashed = ask(&server, &json!([1, 0]));
    assert!(crashed.status == 500 && crashed.error().contains("exit status: 9"), "{}", crashed.error());
    assert_ne!(pid(&server), before);
    // One that is killed while nobody asks is replaced before anybody does.
    let before = pid(&server);
    assert!(std::process::Command::new("kill").args(["-9", &before.to_string()]).status().unwrap().success());
    until("a new worker", || server.log().matches("a worker has loaded its function").count() == 3);
    assert_ne!(pid(&server), before);
}

#[test]
fn a_hang_ends_in_504_and_the_worker_is_replaced() {
    let server = Server::function(PID, json!({"runtime": {"timeout_seconds": 1, "workers": 2}}), &[]);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| ask(&server, &json!([2, 0])));
        let answer = ask(&server, &json!([0, 0]));
        assert_eq!(answer.status, 200, "the other worker answers meanwhile");
        let stuck = stuck.join().unwrap();
        assert!(stuck.status == 504 && stuck.error().contains("within 1 s"), "{}", stuck.error());
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    until("both workers again", || server.log().matches("a worker has loaded its function").count() == 3);
    pid(&server);
}

#[test]
fn a_crash_loop_makes_the_server_not_ready_until_a_worker_comes_up() {
    let source = format!("import os\nif os.path.exists('broken'): os._exit(7)\n{PID}");
    let server = Server::function(&source, json!({}), &[]);
    server.wait_for("/v2/health/live", 200);
    std::fs::write(server.folder().join("broken"), "").unwrap();
    assert_eq!(ask(&server, &json!([1, 0])).status, 500);
    server.wait_for("/v2/health/ready", 503);
    let live = server.wait_for("/v2/health/live", 503).json();
    assert_eq!(live["cause"], "crash-loop", "{live}");
    let refused = ask(&server, &json!([0, 0]));
    assert!(refused.status == 503 && refused.error().contains("end again and again"), "{}", refused.error());
    std::fs::remove_file(server.folder().join("broken")).unwrap();
    server.wait_for("/v2/health/ready", 200);
    server.wait_for("/v2/health/live", 200);
    pid(&server);
}

#[test]
fn what_cannot_be_loaded_says_why_and_ends() {
    let mut server = Server::launch_function("import does_not_exist\n", json!({}), &[]);
    assert!(!server.ended().success());
    let log = server.log();
    assert!(
        log.contains("No module named 'does_not_exist'") && log.contains("ModuleNotFoundError while it was loaded"),
        "{log}"
    );
}

#[test]
fn requests_share_a_call_when_the_function_takes_batches() {
    let document = json!({"runtime": {"batch": true}});
    let server = Server::function(PID, document, &[]);
    let sizes = std::thread::scope(|scope| {
        // The first keeps the worker busy while the others gather.
        let busy = scope.spawn(|| ask(&server, &json!([3, 0])));
        until("a call is going on", || server.metric("modelyard_model_requests_in_flight") > 0.0 || busy.is_finished());
        let others: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&server, &json!([0, 0])))).collect();
        let sizes =
            others.into_iter().map(|other| other.join().unwrap().json()["outputs"][0]["data"][1].as_f64().unwrap());
        sizes.collect::<Vec<f64>>()
    });
    assert!(sizes.iter().all(|&size| size >= 2.0), "{sizes:?}");
}

#[test]
fn sigterm_lets_the_function_finish_and_leaves_no_worker() {
    let mut server = Server::function(PID, json!({}), &[]);
    let worker = pid(&server);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&server, &json!([3, 0])));
        std::thread::sleep(Duration::from_millis(200)); // in the function, which takes a second
        server.terminate();
        assert_eq!(asked.join().unwrap().status, 200);
    });
    assert!(server.ended().success());
    until("the worker is gone", || !std::path::Path::new(&format!("/proc/{worker}")).exists());
}
