//! JsonLogic's operations, one by one.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn run(rule: Value, data: Value) -> Value {
    Machine::new("flag", Bucketing::Cbor).apply(&rule, &data).unwrap()
}

#[track_caller]
fn all_give(cases: Vec<(Value, Value, Value)>) {
    for (rule, data, expected) in cases {
        assert_eq!(run(rule.clone(), data.clone()), expected, "{rule} on {data}");
    }
}

#[test]
fn data_is_found_by_its_path() {
    let data = json!({"a": {"b": [10, 20, {"c": "xyz"}]}, "e": "", "n": null, "1": "one", "f": 1.5});
    let cases = [
        (json!({"var": "a.b.1"}), json!(20)),
        (json!({"var": ["a.b.2.c"]}), json!("xyz")),
        (json!({"var": "a.b.2.c.1"}), json!("y")),
        (json!({"var": "a.b.length"}), json!(3)),
        (json!({"var": "a.b.2.c.length"}), json!(3)),
        (json!({"var": "a.b.01"}), json!(null)),
        (json!({"var": ["a.x", 7]}), json!(7)),
        (json!({"var": ["n", 7]}), json!(7)),
        (json!({"var": ["e", 7]}), json!("")),
        (json!({"var": 1}), json!("one")),
        (json!({"var": "f.g"}), json!(null)),
        (json!({"var": {"cat": ["a.b", ".0"]}}), json!(10)),
        (json!({"missing": ["a", "n", "e", "x"]}), json!(["n", "e", "x"])),
        (json!({"missing": [["a", "x"]]}), json!(["x"])),
        (json!({"missing_some": [1, ["a", "x"]]}), json!([])),
        (json!({"missing_some": [2, ["a", "x"]]}), json!(["x"])),
    ];
    all_give(cases.into_iter().map(|(rule, expected)| (rule, data.clone(), expected)).collect());
    assert_eq!(run(json!({"var": ""}), json!([1])), json!([1]));
    assert_eq!(run(json!({"var": 1}), json!(["a", "b"])), json!("b"));
}

#[test]
fn choices_evaluate_what_they_choose() {
    let none = json!(null);
    all_give(vec![
        (json!({"if": [true, "a", "b"]}), none.clone(), json!("a")),
        (json!({"if": [false, "a", false, "b", "c"]}), none.clone(), json!("c")),
        (json!({"if": [false, "a"]}), none.clone(), none.clone()),
        (json!({"if": []}), none.clone(), none.clone()),
        (json!({"if": ["x"]}), none.clone(), json!("x")),
        (json!({"?:": [[], 1, 2]}), none.clone(), json!(2)),
        (json!({"and": [1, "a", 0, 2]}), none.clone(), json!(0)),
        (json!({"and": [1, 2]}), none.clone(), json!(2)),
        (json!({"or": [0, "", "a", 1]}), none.clone(), json!("a")),
        (json!({"or": [0, []]}), none.clone(), json!([])),
        // The branch that is not taken is not evaluated: it would be refused.
        (json!({"if": [true, 1, {"nothing": 1}]}), none, json!(1)),
    ]);
}

#[test]
fn values_compare_as_in_javascript() {
    for (rule, expected) in [
        (json!({"==": [1, "1"]}), true),
        (json!({"==": [0, false]}), true),
        (json!({"==": [null, 0]}), false),
        (json!({"==": [null, null]}), true),
        (json!({"==": ["", 0]}), true),
        (json!({"==": ["a", 0]}), false),
        (json!({"==": [[1], 1]}), true),
        (json!({"==": [["a", "b"], "a,b"]}), true),
        (json!({"===": [1, 1.0]}), true),
        (json!({"===": [1, "1"]}), false),
        (json!({"===": [true, 1]}), false),
        (json!({"!=": [1, "2"]}), true),
        (json!({"!==": [1, "1"]}), true),
        (json!({"!": [[]]}), true),
        (json!({"!!": ["0"]}), true),
        (json!({"!!": [{"var": ""}]}), true),
        (json!({"<": [1, 2]}), true),
        (json!({"<": [1, 2, 3]}), true),
        (json!({"<": [1, 4, 3]}), false),
        (json!({"<=": [1, 1, 1]}), true),
        (json!({">": ["10", 9]}), true),
        (json!({">": ["b", "a"]}), true),
        (json!({">": ["a", 1]}), false),
        (json!({"<": ["a", 1]}), false),
        (json!({">=": [3, 2, 2]}), true),
        (json!({"<": [{"var": "age"}, 18]}), true),
        (json!({"in": ["b", ["a", "b"]]}), true),
        (json!({"in": [1, ["1"]]}), false),
        (json!({"in": ["ell", "hello"]}), true),
        (json!({"in": ["x", null]}), false),
        (json!({"starts_with": ["hello", "he"]}), true),
        (json!({"ends_with": ["hello", "he"]}), false),
    ] {
        assert_eq!(run(rule.clone(), json!({"a": 1})), json!(expected), "{rule}");
    }
    assert_eq!(run(json!({"starts_with": [1, "1"]}), json!(null)), json!(null));
    assert_eq!(run(json!({"sem_ver": ["1.2.3", ">=", "1.2"]}), json!(null)), json!(true));
    assert_eq!(run(json!({"sem_ver": ["1.2.3", ">="]}), json!(null)), json!(null));
}

#[test]
fn numbers_and_texts_are_made() {
    for (rule, expected) in [
        (json!({"+": [1, "2", 0.5]}), json!(3.5)),
        (json!({"+": ["7"]}), json!(7)),
        (json!({"+": ["x"]}), json!(null)),
        (json!({"*": [2, 3, 4]}), json!(24)),
        (json!({"-": [5]}), json!(-5)),
        (json!({"-": [5, 2]}), json!(3)),
        (json!({"/": [7, 2]}), json!(3.5)),
        (json!({"/": [7, 0]}), json!(null)),
        (json!({"%": [-7, 3]}), json!(-1)),
        (json!({"max": [1, "9", 3]}), json!(9)),
        (json!({"min": []}), json!(null)),
        (json!({"min": [1, "x"]}), json!(null)),
        (json!({"cat": ["a", 1, 2.0, true, null, [1, null, 2]]}), json!("a12true1,,2")),
        (json!({"cat": [0.1, "|", 1e21, "|", 1.5e-7, "|", 123456789012.5]}), json!("0.1|1e+21|1.5e-7|123456789012.5")),
        (json!({"substr": ["jsonlogic", 4]}), json!("logic")),
        (json!({"substr": ["jsonlogic", -5]}), json!("logic")),
        (json!({"substr": ["jsonlogic", 1, 3]}), json!("son")),
        (json!({"substr": ["jsonlogic", 4, -2]}), json!("log")),
        (json!({"substr": ["jsonlogic", 20]}), json!("")),
        (json!({"substr": ["j\u{e4}son", 1, 1]}), json!("\u{e4}")),
        (json!({"substr": ["json", 3, -3]}), json!("")),
        (json!({"merge": [[1, 2], 3, [[4]]]}), json!([1, 2, 3, [4]])),
        (json!({"log": ["x"]}), json!("x")),
        (json!([1, {"+": [1, 1]}]), json!([1, 2])),
        (json!({"a": {"var": "x"}, "b": 1}), json!({"a": {"var": "x"}, "b": 1})),
    ] {
        assert_eq!(run(rule.clone(), json!(null)), expected, "{rule}");
    }
}

#[test]
fn lists_are_gone_through() {
    let data = json!({"list": [1, 2, 3, 4], "words": ["a", "bb"]});
    let cases = [
        (json!({"map": [{"var": "list"}, {"*": [{"var": ""}, 2]}]}), json!([2, 4, 6, 8])),
        (json!({"filter": [{"var": "list"}, {"%": [{"var": ""}, 2]}]}), json!([1, 3])),
        (json!({"reduce": [{"var": "list"}, {"+": [{"var": "current"}, {"var": "accumulator"}]}, 10]}), json!(20)),
        (json!({"reduce": [{"var": "nothing"}, 1, "start"]}), json!("start")),
        (json!({"all": [{"var": "list"}, {">": [{"var": ""}, 0]}]}), json!(true)),
        (json!({"all": [[], true]}), json!(false)),
        (json!({"some": [{"var": "list"}, {">": [{"var": ""}, 3]}]}), json!(true)),
        (json!({"none": [{"var": "list"}, {">": [{"var": ""}, 4]}]}), json!(true)),
        (json!({"none": [[], true]}), json!(true)),
        (json!({"map": [{"var": "words"}, {"var": "length"}]}), json!([1, 2])),
        (json!({"map": [7, {"var": ""}]}), json!([])),
    ];
    all_give(cases.into_iter().map(|(rule, expected)| (rule, data.clone(), expected)).collect());
}

#[test]
fn every_known_operator_is_carried_out() {
    for &operator in LAZY.iter().chain(&operators::NAMES) {
        let outcome = Machine::new("f", Bucketing::Cbor).apply(&json!({operator: ["a", "b", "c"]}), &json!({}));
        assert!(outcome.is_ok(), "{operator}: {outcome:?}");
    }
    let unknown = Machine::new("f", Bucketing::Cbor).apply(&json!({"nothing": []}), &json!({}));
    assert_eq!(unknown, Err(Fault::Unknown("nothing".to_owned())));
}

/// Any JSON value, and rules that look like rules.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c.0-9-]{0,6}".prop_map(Value::from),
    ];
    let operator = prop::sample::select(LAZY.iter().chain(&operators::NAMES).copied().collect::<Vec<_>>());
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-c]", inner.clone(), 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
            (operator.clone(), prop::collection::vec(inner, 0..4))
                .prop_map(|(operator, arguments)| json!({operator: arguments})),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(rule in anything(), data in anything()) {
        let _ = Machine::new("f", Bucketing::Cbor).apply(&rule, &data);
        let _ = Machine::new("f", Bucketing::Text).apply(&rule, &data);
    }
}
