//! Samples: real requests with their expected responses, and what "the same answer" means.
//!
//! Source of the closeness rule: NumPy `isclose`, |a − b| ≤ absolute + relative·|b|, with `b` the expected value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How far an answer may be from the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Allowed absolute difference.
    #[serde(default = "Tolerance::default_absolute")]
    pub absolute: f64,
    /// Allowed difference relative to the expected value.
    #[serde(default = "Tolerance::default_relative")]
    pub relative: f64,
}

impl Tolerance {
    // Single-precision models on other CPUs differ in the last few bits; a wrong model differs in the first.
    fn default_absolute() -> f64 {
        1e-5
    }

    fn default_relative() -> f64 {
        1e-4
    }

    /// Whether `actual` is close enough to `expected`. NaN equals NaN; infinities equal themselves.
    pub fn accepts(&self, expected: f64, actual: f64) -> bool {
        if expected.is_nan() || actual.is_nan() {
            return expected.is_nan() && actual.is_nan();
        }
        // An infinite expectation would allow anything: relative to it, every difference is small.
        expected == actual
            || expected.is_finite() && (expected - actual).abs() <= self.absolute + self.relative * expected.abs()
    }
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { absolute: Self::default_absolute(), relative: Self::default_relative() }
    }
}

/// One real request with the answer that a correct model gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Name for people and logs, unique within the package.
    pub name: String,
    /// Path of the request below the instance's root; for `onnx` always the inference path of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Request body: for `onnx` an Open Inference Protocol request (`inputs`), for a `command` any JSON.
    pub request: Value,
    /// Expected response body. Only what stands here is compared, so ids and timings may be left out.
    pub response: Value,
    /// How far numbers may be off.
    #[serde(default)]
    pub tolerance: Tolerance,
    /// Values of flags under which the response is right; the sample is asked under no others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, Value>,
}

/// The first place where an answer is not the expected one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mismatch {
    /// JSON Pointer to the place (RFC 6901).
    pub at: String,
    /// What is wrong there, without echoing long data.
    pub why: String,
}

impl Sample {
    /// Compares an answer with the expected one.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn check(&self, answer: &Value) -> Result<(), Mismatch> {
        compare(&self.response, answer, &self.tolerance, &mut String::new())
    }
}

fn compare(expected: &Value, actual: &Value, tolerance: &Tolerance, at: &mut String) -> Result<(), Mismatch> {
    let differ = |at: &str, why: String| Err(Mismatch { at: at.to_owned(), why });
    match (expected, actual) {
        (Value::Number(e), Value::Number(a)) => {
            let exact = e == a;
            let (e, a) = (e.as_f64().unwrap_or(f64::NAN), a.as_f64().unwrap_or(f64::NAN));
            if exact || tolerance.accepts(e, a) { Ok(()) } else { differ(at, format!("expected {e}, got {a}")) }
        }
        (Value::Array(e), Value::Array(a)) if e.len() != a.len() => {
            differ(at, format!("expected {} elements, got {}", e.len(), a.len()))
        }
        (Value::Array(e), Value::Array(a)) => e
            .iter()
            .zip(a)
            .enumerate()
            .try_for_each(|(index, (e, a))| descend(at, &index.to_string(), |at| compare(e, a, tolerance, at))),
        (Value::Object(e), Value::Object(a)) => e.iter().try_for_each(|(key, e)| {
            descend(at, key, |at| match a.get(key) {
                Some(a) => compare(e, a, tolerance, at),
                None => differ(at, "missing in the answer".to_owned()),
            })
        }),
        (e, a) if e == a => Ok(()),
        (e, a) if kind(e) == kind(a) => differ(at, format!("another {}", kind(e))),
        (e, a) => differ(at, format!("expected a {}, got a {}", kind(e), kind(a))),
    }
}

fn descend<T>(at: &mut String, key: &str, look: impl FnOnce(&mut String) -> T) -> T {
    let before = at.len();
    at.push('/');
    at.push_str(&key.replace('~', "~0").replace('/', "~1"));
    let result = look(at);
    at.truncate(before);
    result
}

/// What kind of JSON a value is, for people.
pub const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(response: Value) -> Sample {
        Sample {
            name: "s".into(),
            path: None,
            request: json!({}),
            response,
            tolerance: Tolerance::default(),
            flags: BTreeMap::new(),
        }
    }

    #[test]
    fn close_numbers_and_extra_keys_pass() {
        let s = sample(json!({"outputs": [{"name": "y", "data": [0.5, 1]}]}));
        let answer = json!({"id": "7", "outputs": [{"name": "y", "shape": [2], "data": [0.500_001, 1.0]}]});
        assert_eq!(s.check(&answer), Ok(()));
    }

    #[test]
    fn what_is_not_finite_equals_only_itself() {
        let tolerance = Tolerance::default();
        assert!(tolerance.accepts(f64::INFINITY, f64::INFINITY) && tolerance.accepts(f64::NAN, f64::NAN));
        for (expected, actual) in [(f64::INFINITY, 5.0), (f64::NEG_INFINITY, f64::INFINITY), (5.0, f64::INFINITY)] {
            assert!(!tolerance.accepts(expected, actual), "{expected} {actual}");
        }
    }

    #[test]
    fn a_mismatch_names_the_place() {
        let s = sample(json!({"outputs": [{"data": [0.5, 1.0]}]}));
        let mismatch = s.check(&json!({"outputs": [{"data": [0.5, 2.0]}]})).unwrap_err();
        assert_eq!(mismatch.at, "/outputs/0/data/1");
        assert_eq!(mismatch.why, "expected 1, got 2");
        assert_eq!(s.check(&json!({"outputs": []})).unwrap_err().why, "expected 1 elements, got 0");
        assert_eq!(s.check(&json!({})).unwrap_err().why, "missing in the answer");
    }
}
