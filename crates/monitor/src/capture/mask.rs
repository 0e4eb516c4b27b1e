//! Masks: parts of bodies that nobody shall read later.
//!
//! A mask is a JSON Pointer (RFC 6901). Where it meets a list, a part of it that is no number stands for the element of that `name`, so `/inputs/ssn`
//! masks the tensor `ssn` wherever it stands in the list, and in the plain form too; `*` stands for every element or key.
//! Promises: a masked value leaves nothing of itself, not even its length.

use serde_json::Value;

/// What stands in the place of a masked value.
pub const MASKED: &str = "masked";

/// Compiled pointers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masks(Vec<Vec<String>>);

impl Masks {
    /// Compiles pointers. The empty one points at the whole.
    pub fn new(pointers: &[String]) -> Self {
        Self(pointers.iter().map(|pointer| tokens(pointer)).collect())
    }

    /// Whether nothing is masked.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Masks what the pointers point at.
    pub fn apply(&self, body: &mut Value) {
        self.0.iter().for_each(|tokens| mask(body, tokens));
    }
}

/// A pointer that does not begin with `/` is read as if it did: better masked than written because of a slash.
fn tokens(pointer: &str) -> Vec<String> {
    if pointer.is_empty() {
        return Vec::new();
    }
    let parts = pointer.strip_prefix('/').unwrap_or(pointer).split('/');
    parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

fn mask(value: &mut Value, tokens: &[String]) {
    let Some((first, rest)) = tokens.split_first() else {
        return hide(value);
    };
    match value {
        Value::Object(map) if first == "*" => map.values_mut().for_each(|inner| mask(inner, rest)),
        Value::Object(map) => map.get_mut(first).into_iter().for_each(|inner| mask(inner, rest)),
        Value::Array(list) if first == "*" => list.iter_mut().for_each(|inner| mask(inner, rest)),
        Value::Array(list) => match first.parse::<usize>() {
            Ok(at) => list.get_mut(at).into_iter().for_each(|inner| mask(inner, rest)),
            Err(_) => {
                let is_named = |inner: &&mut Value| inner.get("name").and_then(Value::as_str) == Some(first);
                list.iter_mut().filter(is_named).for_each(|inner| mask(inner, rest));
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Of a tensor the name, type and shape stay; its data goes.
fn hide(value: &mut Value) {
    let is_tensor = value.get("name").is_some_and(Value::is_string) && value.get("data").is_some();
    if is_tensor {
        value["data"] = MASKED.into();
    } else {
        *value = MASKED.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn masked(pointers: &[&str], mut body: Value) -> Value {
        Masks::new(&pointers.iter().map(|&pointer| pointer.to_owned()).collect::<Vec<_>>()).apply(&mut body);
        body
    }

    #[test]
    fn a_tensor_is_masked_by_place_by_name_and_in_the_plain_form() {
        let list =
            || json!({"inputs": [{"name": "age", "data": [41]}, {"name": "ssn", "shape": [1], "data": ["123"]}]});
        let hidden =
            json!({"inputs": [{"name": "age", "data": [41]}, {"name": "ssn", "shape": [1], "data": "masked"}]});
        for pointer in ["/inputs/1/data", "/inputs/1", "/inputs/ssn", "/inputs/ssn/data", "inputs/ssn"] {
            assert_eq!(masked(&[pointer], list()), hidden, "{pointer}");
        }
        let plain = masked(&["/inputs/ssn"], json!({"inputs": {"ssn": [["123"]], "age": [[41]]}}));
        assert_eq!(plain, json!({"inputs": {"ssn": "masked", "age": [[41]]}}));
        let swapped = masked(&["/inputs/ssn"], json!({"inputs": [{"name": "ssn", "data": ["123"]}]}));
        assert_eq!(swapped["inputs"][0]["data"], "masked");
    }

    #[test]
    fn pointers_reach_everything_and_miss_without_harm() {
        assert_eq!(
            masked(&["/rows/*/name"], json!({"rows": [{"name": "a"}, {"name": "b", "x": 1}]})),
            json!({"rows": [{"name": "masked"}, {"name": "masked", "x": 1}]})
        );
        assert_eq!(masked(&["/a~1b/m~0n"], json!({"a/b": {"m~n": 1}})), json!({"a/b": {"m~n": "masked"}}));
        assert_eq!(masked(&[""], json!({"a": 1})), json!("masked"));
        let body = json!({"a": [1, 2], "b": null});
        assert_eq!(masked(&["/c", "/a/7", "/b/x", "/a/x", "/a/0/1"], body.clone()), body);
        assert_eq!(masked(&["/a", "/a/0"], body), json!({"a": "masked", "b": null}));
    }
}
