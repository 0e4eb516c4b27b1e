//! JSON with one form only: keys sorted, no spaces. What is hashed must not depend on a map's order.

use serde::Serialize;
use serde_json::{Map, Value};

/// The canonical bytes of a document.
///
/// Numbers are written as `serde_json` writes them (shortest form that reads back the same), texts with its escapes. Within one
/// version of the package document that is fixed by a golden test.
pub(crate) fn to_vec(document: &impl Serialize) -> Vec<u8> {
    let value =
        serde_json::to_value(document).expect("documents have text keys and no failing parts, so they are JSON");
    sorted(value).to_string().into_bytes()
}

/// Sorts the keys of every object, also where some other crate of the program asked `serde_json` to keep their order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|one, two| one.0.cmp(&two.0));
            Value::Object(entries.into_iter().collect::<Map<_, _>>())
        }
        scalar => scalar,
    }
}
