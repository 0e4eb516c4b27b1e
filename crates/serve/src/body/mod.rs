//! Bodies of the REST protocol: the inference form with its binary extension, and the plain form for people.
//!
//! Promises: one pass of `serde_json` finds the parts without building a tree, then each input's data goes straight into
//! typed elements; keys may stand in any order; unknown keys are passed over, as the protocol wants.

pub(crate) mod answer;
pub(crate) mod envelope;
pub(crate) mod infer;
pub(crate) mod plain;

use crate::codec::json::DataError;
use crate::codec::raw::RawError;
use crate::refusal::Refusal;

/// Why a body is not the JSON that it should be. `serde_json` quotes values in some messages; data is never echoed, so those
/// messages are cut to what was expected.
pub(crate) fn not_json(error: &serde_json::Error) -> Refusal {
    let full = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = full.strip_suffix(&place).unwrap_or(&full);
    let safe = match text.split_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}"),
        None if text.starts_with("invalid type") || text.starts_with("invalid value") => {
            "a value of another type was expected".to_owned()
        }
        None => text.to_owned(),
    };
    Refusal::invalid(format!("the request body is not as it should be: {safe}{place}"))
}

/// What is wrong with the JSON data of input `name`.
pub(crate) fn bad_data(name: &str, expected: usize, error: &DataError) -> Refusal {
    Refusal::invalid(match error {
        DataError::Element { index, wanted } => format!("input `{name}`: element {index} is not {wanted}"),
        DataError::Count { found } => format!("input `{name}` has {found} elements; its shape needs {expected}"),
        DataError::Ragged => format!("input `{name}`: nested lists must all have the same length"),
    })
}

/// What is wrong with the raw data of input `name`.
pub(crate) fn bad_raw(name: &str, expected: usize, error: &RawError) -> Refusal {
    Refusal::invalid(match error {
        RawError::Length { found, needed } => {
            format!("input `{name}` has {found} bytes of data; its shape and datatype need {needed}")
        }
        RawError::Elements { found } => {
            format!(
                "input `{name}`: its bytes end or go on after {found} whole elements with 4-byte lengths; its shape needs {expected}"
            )
        }
        RawError::Utf8 { index } => format!("input `{name}`: element {index} is not UTF-8, which ONNX strings must be"),
    })
}
