//! Whole answers, of all forms.

use modelyard_core::mirror::Comparison;
use proptest::prelude::*;
use serde_json::json;

use super::sum::result;
use super::*;
use crate::grpc::frame;

const RULES: Rules = Rules { tolerance: Tolerance { absolute: 1e-5, relative: 1e-4 }, top_k: 1 };

fn said(content_type: &str, body: impl Into<Bytes>) -> Said {
    Said { status: 200, content_type: content_type.into(), body: Some(body.into()), ..Said::default() }
}

fn json_said(value: &serde_json::Value) -> Said {
    said("application/json", value.to_string())
}

fn sum(stable: &Said, shadow: &Said) -> Comparison {
    let mut sum = Comparison::default();
    absorb(&mut sum, pair(stable, shadow, &RULES), "r-1");
    sum
}

fn counts(sum: &Comparison) -> (u64, u64, u64, u64) {
    (sum.compared, sum.exact, sum.agreed, sum.incomparable)
}

fn oip(label: i64, score: f64, version: &str) -> serde_json::Value {
    json!({"model_name": "wine", "model_version": version, "id": version, "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [1], "data": [label]},
        {"name": "scores", "datatype": "FP32", "shape": [1, 2], "data": [[score, 1.0 - score]]},
    ]})
}

#[test]
fn protocol_answers_are_compared_output_by_output() {
    let same = sum(&json_said(&oip(1, 0.25, "1")), &json_said(&oip(1, 0.25, "2")));
    assert_eq!(counts(&same), (1, 1, 1, 0), "another version of the model is not another answer");
    let near = sum(&json_said(&oip(1, 0.25, "1")), &json_said(&oip(1, 0.250_001, "2")));
    assert_eq!(counts(&near), (1, 0, 1, 0));
    let other = sum(&json_said(&oip(1, 0.25, "1")), &json_said(&oip(0, 0.75, "2")));
    assert_eq!(counts(&other), (1, 0, 0, 0));
    assert_eq!((other.outputs["label"].same_label, other.outputs["scores"].same_label), (0, 0));
    assert_eq!(other.outputs["scores"].rows, 1);
    let worst = &other.worst[0];
    assert_eq!((worst.request_id.as_str(), worst.what.as_str()), ("r-1", "`label` row 0: 1.000 against 0"));
}

#[test]
fn whole_numbers_given_for_floats_are_floats() {
    let with = |data: serde_json::Value| {
        json_said(&json!({"outputs": [{"name": "y", "datatype": "FP64", "shape": [2], "data": data}]}))
    };
    assert_eq!(counts(&sum(&with(json!([1, null])), &with(json!([1.0, null])))), (1, 1, 1, 0));
}

#[test]
fn binary_and_json_outputs_meet() {
    let head =
        json!({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}]});
    let head = head.to_string();
    let body = [head.as_bytes(), &0.5f32.to_le_bytes(), &2f32.to_le_bytes()].concat();
    let binary = Said { header_length: Some(head.len()), ..said("application/octet-stream", body) };
    let text = json_said(&json!({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [0.5, 2.0]}]}));
    assert_eq!(counts(&sum(&binary, &text)), (1, 1, 1, 0));
    let lying = Said { header_length: Some(9_999), ..binary.clone() };
    assert_eq!(counts(&sum(&binary, &lying)), (0, 0, 0, 1));
}

#[test]
fn plain_and_other_json() {
    let plain = |label: &str| json_said(&json!({"outputs": {"label": [label], "score": [[0.5, 0.5]]}}));
    assert_eq!(counts(&sum(&plain("red"), &plain("red"))), (1, 1, 1, 0));
    let differs = sum(&plain("red"), &plain("white"));
    assert_eq!((differs.outputs["label"].same_label, differs.outputs["score"].agreed), (0, 2));
    assert_eq!(differs.worst[0].what, "`label` row 0: \"red\" against \"white\"");
    let any = |price: f64, tags: serde_json::Value| {
        json_said(&json!({"request_id": price, "price": price, "deep": {"tags": tags, "ok": true}}))
    };
    let near = sum(&any(100.0, json!(["a"])), &any(100.001, json!(["a"])));
    assert_eq!(counts(&near), (1, 0, 1, 0));
    let other = sum(&any(100.0, json!(["a", 2])), &any(90.0, json!(["a"])));
    assert_eq!(counts(&other), (1, 0, 0, 0));
    assert_eq!(
        (other.outputs["price"].largest, other.outputs["deep"].elements, other.outputs["deep"].agreed),
        (10.0, 3, 1)
    );
    assert!(!other.outputs.contains_key("request_id"));
    let missing = sum(&json_said(&json!({"a": 1, "b": [1, 2]})), &json_said(&json!({"a": 1, "c": 2})));
    assert_eq!((missing.outputs["b"].elements, missing.outputs["b"].agreed, missing.outputs.len()), (2, 0, 2));
}

#[test]
fn grpc_answers_are_compared() {
    let message = |score: f32| {
        let tensor =
            [b"\x0a\x01y\x12\x04FP32\x1a\x01\x01".as_slice(), b"\x2a\x06\x32\x04", &score.to_le_bytes()].concat();
        let framed = frame(&[&[0x2a, tensor.len() as u8], tensor.as_slice()].concat());
        Said { grpc_status: Some(0), ..said("application/grpc", framed) }
    };
    assert_eq!(counts(&sum(&message(0.5), &message(0.5))), (1, 1, 1, 0));
    assert_eq!(sum(&message(0.5), &message(0.75)).outputs["y"].largest, 0.25);
    let failed = Said { grpc_status: Some(3), ..said("application/grpc", "") };
    assert_eq!(counts(&sum(&message(0.5), &failed)), (0, 0, 0, 1));
    assert_eq!(counts(&sum(&failed, &failed)), (1, 1, 1, 0), "the same refusal");
}

#[test]
fn what_cannot_be_compared_counts_as_that() {
    let (ok, text) = (json_said(&oip(1, 0.5, "1")), said("text/plain", "hello"));
    let long = Said { body: None, ..ok.clone() };
    let bad = Said { status: 400, ..json_said(&json!({"error": "no"})) };
    let shape = json_said(&json!({"outputs": [{"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 1]}]}));
    for (one, other) in [(&ok, &text), (&ok, &long), (&ok, &bad), (&bad, &ok), (&ok, &shape)] {
        assert_eq!(counts(&sum(one, other)), (0, 0, 0, 1), "{one:?} {other:?}");
    }
    assert_eq!(counts(&sum(&text, &text)), (1, 1, 1, 0));
    assert_eq!(counts(&sum(&text, &said("text/plain", "hallo"))), (1, 0, 0, 0));
    let zipped = Said { encoded: true, ..text.clone() };
    assert_eq!((counts(&sum(&zipped, &zipped)), counts(&sum(&zipped, &text))), ((1, 1, 1, 0), (0, 0, 0, 1)));
}

#[test]
fn sums_stay_small_and_keep_the_worst() {
    let mut sum = Comparison::default();
    for index in 0..200 {
        let answer = |value: f64| json_said(&json!({ format!("made-up-{index}"): value }));
        let outcome = pair(&answer(0.0), &answer(f64::from(index)), &RULES);
        absorb(&mut sum, outcome, &format!("r-{index}"));
    }
    assert_eq!((sum.compared, sum.outputs.len(), sum.worst.len()), (200, 64, 8));
    assert_eq!((sum.worst[0].request_id.as_str(), sum.worst[7].difference), ("r-199", 192.0));
    let text = serde_json::to_string(&sum).unwrap();
    assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), sum, "what is told can be read again");
}

/// JSON that looks like answers, and JSON that does not.
fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        prop::sample::select(vec!["y", "FP32", "BYTES", "NaN"]).prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop::sample::select(vec!["outputs", "name", "datatype", "shape", "data", "parameters", "x"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((key, inner), 0..5).prop_map(|pairs| {
                serde_json::Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(one in values(), other in values(), cut in 0usize..60) {
        let (one, other) = (json_said(&one), json_said(&other));
        let binary = Said { header_length: Some(cut), ..one.clone() };
        for (a, b) in [(&one, &other), (&other, &one), (&binary, &one)] {
            let sum = sum(a, b);
            prop_assert_eq!(sum.compared + sum.incomparable, 1);
            let text = serde_json::to_string(&sum).unwrap();
            prop_assert!(serde_json::from_str::<Comparison>(&text).is_ok(), "{}", text);
        }
        prop_assert_eq!(result(&pair(&one, &one, &RULES)), "exact", "{:?}", one);
    }

    #[test]
    fn no_bytes_make_it_panic(one in prop::collection::vec(any::<u8>(), 0..80), length in prop::option::of(0usize..100)) {
        for kind in ["application/json", "application/grpc", "text/plain", ""] {
            let said = Said { header_length: length, ..said(kind, one.clone()) };
            prop_assert_eq!(counts(&sum(&said, &said)), (1, 1, 1, 0));
        }
    }
}
