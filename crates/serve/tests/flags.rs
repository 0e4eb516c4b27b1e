//! Flags that fill inputs, on a real server with the real engine.

mod support;

use std::thread;

use serde_json::{Value, json};
use support::{Server, input, sample};

fn flag(input: &str, default: f64) -> Value {
    json!({"type": "number", "default": default, "input": input})
}

/// A model that adds three inputs to the sum of each row, all of them filled by flags.
fn server(values: Value) -> Server {
    let flags = json!({"scalar": flag("scalar", 1000.0), "single": flag("single", 100.0), "rows": flag("rows", 10.0)});
    let right = json!({"outputs": [{"name": "y", "data": [1113.0]}]});
    let other = json!({"outputs": [{"name": "y", "data": [-1.0]}]});
    let mut never = sample("under other values", input("x", &[1, 3], json!([1, 1, 1])), other);
    never["flags"] = json!({"scalar": -1});
    let mut always = sample("as it comes", input("x", &[1, 3], json!([1, 1, 1])), right);
    always["flags"] = json!({"scalar": 1000});
    Server::flagged("filled", json!([never, always]), flags, values)
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn inputs_that_are_left_out_get_the_flag_s_value() {
    let server = server(json!({}));
    server.wait_for("/v2/health/live", 200);
    let predict = |inputs: Value| server.post("/predict", &json!({"inputs": inputs})).json();
    assert_eq!(predict(json!({"x": [[1, 1, 1], [2, 2, 2]]})), json!({"outputs": {"y": [[1113.0], [1116.0]]}}));
    let rest = server.post("/v2/models/filled/infer", &input("x", &[2, 3], json!([1, 1, 1, 2, 2, 2]))).json();
    assert_eq!(rest["outputs"][0]["data"], json!([1113.0, 1116.0]));
    let own = json!({"x": [[1, 1, 1]], "scalar": 0, "single": [0], "rows": [[0]]});
    assert_eq!(predict(own), json!({"outputs": {"y": [[3.0]]}}), "a caller may say another value");
    assert_eq!(server.post("/predict", &json!({"inputs": {"scalar": 1}})).error(), "input `x` is missing");
    let metadata = server.get("/v2/models/filled").json();
    let optional = |name: &str| {
        let inputs = metadata["inputs"].as_array().unwrap();
        inputs.iter().find(|input| input["name"] == name).unwrap()["optional"].clone()
    };
    assert_eq!((optional("x"), optional("scalar"), optional("rows")), (json!(null), json!(true), json!(true)));
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn values_of_the_revision_come_before_defaults() {
    let server = server(json!({"scalar": 0, "single": 0.5}));
    let answer = server.post("/predict", &json!({"inputs": {"x": [[1, 1, 1]]}})).json();
    assert_eq!(answer, json!({"outputs": {"y": [[13.5]]}}));
}

#[test]
#[ignore = "needs ONNX Runtime"]
fn requests_are_merged_and_none_gets_another_one_s_value() {
    let server = server(json!({}));
    server.wait_for("/v2/health/live", 200);
    thread::scope(|scope| {
        for caller in 0..8u32 {
            let server = &server;
            scope.spawn(move || {
                for turn in 0..40u32 {
                    let value = f64::from(caller * 1_000 + turn);
                    // Every fourth caller says a value of its own.
                    let own = caller.is_multiple_of(4);
                    let mut inputs = json!({"x": [[value, 0, 0]]});
                    if own {
                        inputs["single"] = json!([-0.25]);
                    }
                    let answer = server.post("/predict", &json!({"inputs": inputs})).json();
                    let expected = value + 1_010.0 + if own { -0.25 } else { 100.0 };
                    assert_eq!(answer, json!({"outputs": {"y": [[expected]]}}));
                }
            });
        }
    });
}
