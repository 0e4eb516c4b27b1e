//! Feature flags: how a revision's values reach its instances, and definitions in flagd's format.
//!
//! Promises: pure; the same definition, context and second give the same answer anywhere. Whatever a definition or a context holds, an
//! evaluation ends after a bounded number of steps and takes bounded memory.
//! Absent on purpose: who asks and over which protocol (the control plane answers OFREP), and what flags a package declares
//! ([`crate::package::Flag`]).

mod cbor;
mod definition;
mod evaluate;
mod fractional;
mod logic;
mod semver;
mod values;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::definition::{Bucketing, Definition};
pub use self::evaluate::{Context, Evaluated, EvaluationError, Reason};
pub use self::values::equal;

/// What the names of flags that Modelyard itself answers begin with; nobody else's may.
pub const RESERVED: &str = "modelyard.";

/// Values of a package's flags, by name.
pub type Values = BTreeMap<String, Value>;

/// The variable that holds every value, as one JSON document.
pub const VARIABLE: &str = "MODELYARD_FLAGS";

/// A flag's own variable: `max-depth` is `MODELYARD_FLAG_MAX_DEPTH`.
pub fn variable(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    std::iter::once("MODELYARD_FLAG_").flat_map(str::chars).chain(name.chars().map(letter)).collect()
}

/// How values reach an instance: one variable for each flag, and all of them as one JSON document. Nothing when there are none.
pub fn environment(values: &Values) -> BTreeMap<String, String> {
    if values.is_empty() {
        return BTreeMap::new();
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut variables: BTreeMap<String, String> =
        values.iter().map(|(name, value)| (variable(name), text(value))).collect();
    let all = serde_json::to_string(values).unwrap_or_else(|error| unreachable!("values are plain data: {error}"));
    variables.insert(VARIABLE.to_owned(), all);
    variables
}

/// Longest value of [`HEADER`] in bytes: servers refuse heads that are much longer.
const LONGEST_HEADER: usize = 4096;

/// The header that tells an instance the values of the revision that a request was assigned to, as one JSON document.
pub const HEADER: &str = "modelyard-flags";

/// The value of [`HEADER`], in visible ASCII; none when there are no flags, or they are too long for a header.
pub fn header(values: &Values) -> Option<String> {
    if values.is_empty() {
        return None;
    }
    let all = serde_json::to_string(values).unwrap_or_else(|error| unreachable!("values are plain data: {error}"));
    let mut ascii = String::with_capacity(all.len());
    for letter in all.chars() {
        match letter {
            ' '..='~' => ascii.push(letter),
            other => other.encode_utf16(&mut [0; 2]).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    (ascii.len() <= LONGEST_HEADER).then_some(ascii)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_become_variables() {
        let values: Values = [("max-depth".into(), json!(3)), ("mode".into(), json!("fast"))].into();
        let expected = [
            ("MODELYARD_FLAGS", r#"{"max-depth":3,"mode":"fast"}"#),
            ("MODELYARD_FLAG_MAX_DEPTH", "3"),
            ("MODELYARD_FLAG_MODE", "fast"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(environment(&values), expected.into());
        assert!(environment(&Values::new()).is_empty());
    }

    #[test]
    fn values_become_a_header() {
        let values: Values = [("mode".into(), json!("f\u{e4}st \u{1f600}")), ("top".into(), json!(3))].into();
        let header = header(&values).unwrap();
        assert_eq!(header, r#"{"mode":"f\u00e4st \ud83d\ude00","top":3}"#);
        assert_eq!(serde_json::from_str::<Values>(&header).unwrap(), values, "it is the same document");
        assert_eq!(super::header(&Values::new()), None);
        assert_eq!(super::header(&[("long".into(), json!("x".repeat(5_000)))].into()), None);
    }
}
