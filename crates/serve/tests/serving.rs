//! Answers and refusals of a real server with the real engine.

mod support;

use serde_json::{Value, json};
use support::{Server, ask, input, sample};

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_model_answers_in_every_form_and_its_samples_are_live() {
    let request = input("x", &[2, 3], json!([1, 2, 3, 4, 5, 6]));
    let response = json!({"outputs": [{"name": "y", "shape": [2, 2], "data": [[12.5, 21], [17, 24]]}]});
    let server = Server::start("line", json!([sample("two rows", request.clone(), response)]));
    server.wait_for("/v2/health/live", 200);
    let answer = server.post("/v2/models/line/infer", &request).json();
    assert_eq!(answer["outputs"][0]["data"], json!([12.5, 21.0, 17.0, 24.0]));
    assert_eq!(answer["model_version"], "2.1.0");
    let plain = server.post("/predict", &json!({"inputs": {"x": [[1, 2, 3]]}})).json();
    assert_eq!(plain, json!({"outputs": {"y": [[12.5, 21.0]]}}));
    for version in ["1", "2.1.0"] {
        assert_eq!(server.post(&format!("/v2/models/line/versions/{version}/infer"), &request).status, 200);
    }
    assert_eq!(server.post("/v2/models/line/versions/3/infer", &request).status, 404);
    assert_eq!(server.post("/v2/models/other/infer", &request).status, 404);
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn binary_tensors_travel_both_ways() {
    let server = Server::start("line", json!([]));
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"parameters":{"binary_data_size":12}}],"parameters":{"binary_data_output":true}}"#;
    let raw: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let header = format!("inference-header-content-length: {}", json.len());
    let body = [json.as_bytes(), &raw].concat();
    let answer = ask(server.address, "POST", "/v2/models/line/infer", &[&header], &body);
    assert_eq!(answer.status, 200);
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let (head, data) = answer.body.split_at(length);
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 8);
    let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(values, [12.5, 21.0]);
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn every_datatype_comes_back_as_it_went() {
    let server = Server::start("datatypes", json!([]));
    let cases = [
        ("BOOL", json!([true, false])),
        ("UINT8", json!([0, 255])),
        ("UINT16", json!([0, 65_535])),
        ("UINT32", json!([0, u32::MAX])),
        ("UINT64", json!([0, u64::MAX])),
        ("INT8", json!([-128, 127])),
        ("INT16", json!([-32_768, 32_767])),
        ("INT32", json!([i32::MIN, i32::MAX])),
        ("INT64", json!([i64::MIN, i64::MAX])),
        ("FP16", json!([0.5, -65_504.0])),
        ("BF16", json!([0.5, -2.0])),
        ("FP32", json!([0.1, null])),
        ("FP64", json!([1e300, -0.1])),
        ("BYTES", json!(["été \u{2603} \"quoted\"\n", ""])),
    ];
    let tensor = |(kind, data): &(&str, Value)| json!({"name": format!("in_{kind}"), "datatype": kind, "shape": [1, 2], "data": data});
    let request = json!({"inputs": cases.iter().map(tensor).collect::<Vec<_>>()});
    let answer = server.post("/v2/models/datatypes/infer", &request).json();
    for (output, (kind, data)) in answer["outputs"].as_array().unwrap().iter().zip(&cases) {
        assert_eq!((&output["datatype"], &output["data"]), (&json!(kind), data));
    }
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn maps_become_a_table_and_labels() {
    let server = Server::start("maps", json!([]));
    let answer = server.post("/v2/models/maps/infer", &input("x", &[2, 3], json!([0.1, 0.2, 0.7, 1, 0, 0]))).json();
    let outputs = answer["outputs"].as_array().unwrap();
    assert_eq!((&outputs[0]["shape"], &outputs[0]["data"]), (&json!([2, 3]), &json!([0.1, 0.2, 0.7, 1.0, 0.0, 0.0])));
    assert_eq!(
        (&outputs[1]["name"], &outputs[1]["data"]),
        (&json!("p_labels"), &json!(["no", "perhaps \"so\"", "yes"]))
    );
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn maps_with_numbers_as_keys_are_a_table_too() {
    let server = Server::start("numbered", json!([]));
    let metadata = server.get("/v2/models/numbered").json();
    let described = json!([
        {"name": "p", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "p_labels", "datatype": "INT64", "shape": [-1]},
    ]);
    assert_eq!(metadata["outputs"], described);
    let answer = server.post("/v2/models/numbered/infer", &input("x", &[2, 3], json!([1, 2, 3, 4, 5, 6]))).json();
    // The model names its columns 7, -3, 10; a map has its keys in order.
    let expected = json!([
        {"name": "p", "datatype": "FP32", "shape": [2, 3], "data": [2.0, 1.0, 3.0, 5.0, 4.0, 6.0]},
        {"name": "p_labels", "datatype": "INT64", "shape": [3], "data": [-3, 7, 10]},
    ]);
    assert_eq!(answer["outputs"], expected);
    let plain = server.post("/predict", &json!({"inputs": {"x": [[1, 2, 3]]}})).json();
    assert_eq!(plain, json!({"outputs": {"p": [[2.0, 1.0, 3.0]], "p_labels": [-3, 7, 10]}}));
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_sequence_of_tensors_is_one_tensor() {
    let server = Server::start("sequence", json!([]));
    let metadata = server.get("/v2/models/sequence").json();
    assert_eq!(metadata["outputs"], json!([{"name": "rows", "datatype": "FP32", "shape": [-1, 3]}]));
    for rows in [1, 4] {
        let data: Vec<f64> = (0..rows * 3).map(f64::from).collect();
        let body = input("x", &[rows.into(), 3], json!(data));
        let answer = server.post("/v2/models/sequence/infer", &body).json();
        let expected = json!([{"name": "rows", "datatype": "FP32", "shape": [rows, 3], "data": data}]);
        assert_eq!(answer["outputs"], expected);
    }
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn concurrent_requests_get_their_own_rows() {
    for fixture in ["line", "centred"] {
        let server = Server::start(fixture, json!([]));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let server = &server;
                scope.spawn(move || {
                    for turn in 0..100 {
                        let x = f64::from(thread * 100 + turn);
                        let body = input("x", &[1, 3], json!([x, 1, 2]));
                        let answer = server.post(&format!("/v2/models/{fixture}/infer"), &body).json();
                        let expected = if fixture == "line" { json!([x + 11.0, 20.0]) } else { json!([0.0, 0.0, 0.0]) };
                        assert_eq!(answer["outputs"][0]["data"], expected, "{fixture}");
                    }
                });
            }
        });
    }
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn one_callers_bad_index_is_no_others_fault() {
    let server = Server::start("gather", json!([]));
    let ask = |index: i64| {
        let body = json!({"inputs": [{"name": "i", "datatype": "INT64", "shape": [1], "data": [index]}]});
        server.post("/v2/models/gather/infer", &body)
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let answer = ask(if thread == 0 { 4_242_424_242 } else { 3 });
                    match thread {
                        0 => {
                            assert_eq!(answer.status, 400, "{}", answer.error());
                            assert!(!answer.error().contains("4242"), "echoed: {}", answer.error());
                        }
                        _ => assert_eq!(answer.json()["outputs"][0]["data"], json!([4.5])),
                    }
                }
            });
        }
    });
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_category_that_was_not_trained_is_the_callers_fault() {
    let server = Server::start("onehot", json!([]));
    let ask = |category: &str| server.post("/predict", &json!({"inputs": {"x": [[category]]}}));
    assert_eq!(ask("green").json(), json!({"outputs": {"y": [[[0.0, 1.0]]]}}));
    let refused = ask("mauve");
    assert_eq!(refused.status, 400, "{}", refused.error());
    assert!(refused.error().contains("cannot use these inputs") && !refused.error().contains("mauve"));
    assert_eq!(ask("red").json(), json!({"outputs": {"y": [[[1.0, 0.0]]]}}));
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn hostile_bodies_are_refused_and_the_server_lives() {
    let mut server = Server::start("line", json!([]));
    let path = "/v2/models/line/infer";
    let huge = ask(server.address, "POST", path, &["expect: 100-continue"], &[]);
    assert_eq!(huge.status, 400);
    let shapes =
        ["[9223372036854775807,3]", "[-1,3]", "[1,3,1]", "[0,3]", "[]", "[1e9,3]", "[1000000000000,3]", "{}", "null"];
    for shape in shapes {
        let body = format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":[1,2,3]}}]}}"#);
        let answer = ask(server.address, "POST", path, &[], body.as_bytes());
        assert_eq!(answer.status, 400, "{shape}");
        assert!(!answer.error().is_empty());
    }
    let deep = "[".repeat(100_000);
    let nested = format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,3],"data":{deep}"#);
    assert_eq!(ask(server.address, "POST", path, &[], nested.as_bytes()).status, 400);
    assert_eq!(ask(server.address, "POST", path, &["content-encoding: gzip"], b"{}").status, 415);
    assert_eq!(ask(server.address, "DELETE", path, &[], b"").status, 405);
    assert_eq!(ask(server.address, "HEAD", "/v2", &[], b"").status, 200);
    assert!(server.is_running());
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn a_body_past_the_limit_is_refused_before_it_is_read() {
    use std::io::Write;
    let server = Server::start("line", json!([]));
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    let head = "POST /v2/models/line/infer HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let answer = support::receive(&mut std::io::BufReader::new(stream), "POST").unwrap();
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("67108864"), "{}", answer.error());
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn every_contract_is_answered_beside_the_protocol() {
    let server = Server::contracted("line", "all");
    let rows = json!([[1, 2, 3], [4, 5, 6]]);
    let same = json!([[12.5, 21.0], [17.0, 24.0]]);
    let asked = |path: &str, body: Value| {
        let answer =
            ask(server.address, "POST", path, &["content-type: application/json"], body.to_string().as_bytes());
        (answer.status, answer.json())
    };
    // MLflow and SageMaker.
    assert_eq!(asked("/invocations", json!({"inputs": {"x": rows}})), (200, json!({"predictions": {"y": same}})));
    assert_eq!(asked("/invocations", json!({"instances": rows})), (200, json!({"predictions": {"y": same}})));
    let records = json!({"predictions": [{"y": [12.5, 21.0]}, {"y": [17.0, 24.0]}]});
    let split = json!({"columns": ["a", "b", "c"], "data": rows});
    assert_eq!(asked("/invocations", json!({"dataframe_split": split})), (200, records.clone()));
    let csv = ask(server.address, "POST", "/invocations", &["content-type: text/csv"], b"a,b,c\n1,2,3\n4,5,6\n");
    assert_eq!((csv.status, csv.json()), (200, records));
    // Vertex AI, and the plain form on the same path.
    assert_eq!(asked("/predict", json!({"instances": rows})), (200, json!({"predictions": same})));
    assert_eq!(asked("/predict", json!({"inputs": {"x": rows}})), (200, json!({"outputs": {"y": same}})));
    // Azure ML.
    assert_eq!(asked("/score", json!({"input_data": {"x": rows}})), (200, json!({"y": same})));
    assert_eq!(asked("/score", json!({"input_data": split})), (200, json!([{"y": [12.5, 21.0]}, {"y": [17.0, 24.0]}])));
    for path in ["/ping", "/health", "/version", "/ready", "/"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert!(server.get("/ping").body.is_empty());
    let request = input("x", &[1, 3], json!([1, 2, 3]));
    assert_eq!(server.post("/v2/models/line/infer", &request).status, 200);
    assert!(server.get("/openapi.json").json()["paths"]["/invocations"]["post"].is_object());
    let text = String::from_utf8(server.get("/metrics").body).unwrap();
    assert!(text.contains("protocol=\"contract\",code=\"200\"} 8"), "{text}");
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn contracts_refuse_in_their_own_forms_and_are_off_by_default() {
    let server = Server::contracted("line", "mlflow");
    let post = |kind: &str, body: &str| {
        let answer = ask(server.address, "POST", "/invocations", &[kind], body.as_bytes());
        (answer.status, answer.json())
    };
    let (status, error) = post("content-type: application/json", r#"{"inputs":{"x":[["secret"]]}}"#);
    assert_eq!((status, &error["error_code"]), (400, &json!("BAD_REQUEST")));
    assert!(error["message"].as_str().unwrap().contains("has the shape [1,1]"), "{error}");
    for kind in ["application/x-www-form-urlencoded", "text/csv; charset=latin-1", "application/json; odd=1"] {
        let (status, error) = post(&format!("content-type: {kind}"), "{}");
        assert_eq!((status, &error["error_code"]), (415, &json!("BAD_REQUEST")), "{kind}");
    }
    assert_eq!(server.get("/ping").body, b"\n");
    let refused = server.get("/invocations");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    for path in ["/score", "/ready", "/"] {
        assert_eq!(server.get(path).status, 404, "{path} is another contract's");
    }
    let plain = Server::start("line", json!([]));
    for path in ["/ping", "/invocations", "/health", "/version", "/score"] {
        assert_eq!(plain.get(path).status, 404, "{path}");
    }
    assert_eq!(plain.post("/predict", &json!({"instances": [[1, 2, 3]]})).status, 400);
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn probes_of_contracts_fail_until_the_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("open");
    let source = format!(
        "import pathlib, time\nwhile not pathlib.Path({gate:?}).exists():\n    time.sleep(0.005)\n\ndef predict(inputs):\n    return {{'y': inputs['x']}}\n"
    );
    let server = Server::launch_function(&source, json!({}), &[("CONTRACT", "mlflow,sagemaker,azure")]);
    let statuses = || ["/ping", "/health", "/ready"].map(|path| server.get(path).status);
    assert_eq!(statuses(), [503, 404, 503]);
    assert_eq!(server.get("/").status, 200, "the process is alive");
    let early = server.post("/score", &json!({"input_data": [[1, 2]]}));
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")));
    std::fs::write(&gate, "").unwrap();
    server.wait_for("/v2/health/ready", 200);
    assert_eq!(statuses(), [200, 200, 200]);
    assert_eq!(server.post("/score", &json!({"input_data": [[1, 2]]})).json(), json!({"y": [[1.0, 2.0]]}));
}
