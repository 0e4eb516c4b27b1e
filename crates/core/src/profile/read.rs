//! Tensors read from bodies, as far as profiles need them.
//!
//! Promises: nothing is copied; a body of any form gives what it has, and what cannot be told apart is left out.
//! Source: Open Inference Protocol v2 (`inputs`, `outputs`: lists of tensors); the plain form (`{"inputs": {name: nested list}}`).

use std::borrow::Cow;

use serde_json::Value;

use super::Side;
use crate::signature::Datatype;

/// Longest text of a category, in bytes; of longer ones only the beginning counts.
const TEXT: usize = 64;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// There is none.
    Missing,
    /// A number; what is no number counts as missing.
    Number(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(&'a str),
}

impl Scalar<'_> {
    /// The value as a number; truth counts as 1.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => (!number.is_nan()).then_some(*number),
            Self::Bool(truth) => Some(f64::from(u8::from(*truth))),
            Self::Missing | Self::Text(_) => None,
        }
    }

    /// The value as a category: whole numbers without a point, long texts cut.
    pub fn category(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Missing => None,
            Self::Number(number) if number.is_nan() => None,
            // Beyond 2^53 neighbours are no longer told apart; no label is.
            Self::Number(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                Some(Cow::Owned((*number as i64).to_string()))
            }
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
            Self::Bool(truth) => Some(Cow::Borrowed(if *truth { "true" } else { "false" })),
            Self::Text(text) => Some(Cow::Borrowed(&text[..text.floor_char_boundary(TEXT)])),
        }
    }
}

impl<'a> From<&'a Value> for Scalar<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Number(number) => number.as_f64().map_or(Self::Missing, Self::Number),
            Value::Bool(truth) => Self::Bool(*truth),
            Value::String(text) => Self::Text(text),
            Value::Null | Value::Array(_) | Value::Object(_) => Self::Missing,
        }
    }
}

/// A tensor of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its datatype, when that is known.
    pub datatype: Option<Datatype>,
    /// Elements of a row: the product of all axes but the first.
    pub width: usize,
    /// Elements, row by row.
    pub elements: Vec<Scalar<'a>>,
}

impl<'a> Tensor<'a> {
    /// How many rows it has.
    pub const fn rows(&self) -> usize {
        self.elements.len() / self.width
    }

    /// At most about `most` of its elements with their places, evenly spaced: whole rows where they are counted in several `columns`.
    pub fn spread(&self, columns: usize, most: usize) -> impl Iterator<Item = (usize, &Scalar<'a>)> {
        let unit = columns.max(1);
        let every = self.elements.len().div_ceil(most.max(unit)).max(1);
        let chosen = self.elements.chunks(unit).enumerate().step_by(every);
        chosen.flat_map(move |(row, elements)| {
            elements.iter().enumerate().map(move |(at, value)| (row * unit + at, value))
        })
    }
}

/// The tensors of one side of a body; empty when it is of none of the known forms.
pub fn tensors(side: Side, body: &Value) -> Vec<Tensor<'_>> {
    let key = match side {
        Side::Input => "inputs",
        Side::Output => "outputs",
    };
    match body.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(listed).collect(),
        Some(Value::Object(named)) => named.iter().filter_map(|(name, value)| nested(name, value)).collect(),
        _ => Vec::new(),
    }
}

/// `{"name": …, "datatype": …, "shape": […], "data": […]}`; the data may be nested too.
fn listed(tensor: &Value) -> Option<Tensor<'_>> {
    let name = tensor.get("name")?.as_str()?;
    let data = tensor.get("data")?;
    let datatype = tensor.get("datatype").and_then(Value::as_str).and_then(Datatype::from_name);
    let mut elements = Vec::new();
    flatten(data, &mut elements);
    let width = match tensor.get("shape").and_then(Value::as_array) {
        Some(shape) => shape
            .iter()
            .skip(1)
            .try_fold(1_usize, |width, axis| width.checked_mul(usize::try_from(axis.as_u64()?).ok()?))?,
        None => nested_width(data),
    };
    tensor_of(name, datatype, width, elements)
}

fn nested<'a>(name: &'a str, value: &'a Value) -> Option<Tensor<'a>> {
    let mut elements = Vec::new();
    flatten(value, &mut elements);
    tensor_of(name, None, nested_width(value), elements)
}

fn tensor_of<'a>(
    name: &'a str,
    datatype: Option<Datatype>,
    width: usize,
    elements: Vec<Scalar<'a>>,
) -> Option<Tensor<'a>> {
    let is_whole = width > 0 && elements.len().is_multiple_of(width);
    is_whole.then_some(Tensor { name, datatype, width, elements })
}

/// Elements of a row, from the first row's nesting.
fn nested_width(value: &Value) -> usize {
    let count = |value: &Value| {
        let mut elements = Vec::new();
        flatten(value, &mut elements);
        elements.len()
    };
    value.as_array().and_then(|rows| rows.first()).map_or(1, count)
}

fn flatten<'a>(value: &'a Value, into: &mut Vec<Scalar<'a>>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| flatten(value, into)),
        scalar => into.push(scalar.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_gives_rows() {
        let flat = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, null]}]});
        let deep = json!({"inputs": [{"name": "x", "shape": [2, 2], "data": [[1, 2], [3, null]]}]});
        let plain = json!({"inputs": {"x": [[1, 2], [3, null]]}});
        for body in [&flat, &deep, &plain] {
            let read = tensors(Side::Input, body);
            assert_eq!((read.len(), read[0].name, read[0].width), (1, "x", 2), "{body}");
            assert_eq!(read[0].elements[2..], [Scalar::Number(3.0), Scalar::Missing], "{body}");
        }
        assert_eq!(tensors(Side::Input, &flat)[0].datatype, Some(Datatype::Fp32));
        let one = json!({"outputs": {"y": [7, 8], "z": "red"}});
        let read = tensors(Side::Output, &one);
        assert_eq!((read[0].width, read[0].elements.len()), (1, 2));
        assert_eq!((read[1].width, &read[1].elements[..]), (1, &[Scalar::Text("red")][..]));
    }

    #[test]
    fn what_has_no_rows_is_left_out() {
        for body in [
            json!({"inputs": [{"name": "x", "shape": [2, 3], "data": [1, 2, 3, 4]}]}),
            json!({"inputs": [{"name": "x", "shape": [1, 0], "data": []}]}),
            json!({"inputs": [{"name": "x", "shape": [1, 18_446_744_073_709_551_615_u64, 3], "data": [1]}]}),
            json!({"inputs": [{"name": "x", "shape": [1, -2], "data": [1, 2]}]}),
            json!({"inputs": [{"data": [1]}, 7, null]}),
            json!({"inputs": "x"}),
            json!([1]),
        ] {
            assert_eq!(tensors(Side::Input, &body), [], "{body}");
        }
    }

    #[test]
    fn a_large_tensor_is_looked_at_evenly() {
        let elements: Vec<Scalar<'_>> = (0..3_000).map(|n| Scalar::Number(f64::from(n))).collect();
        let tensor = Tensor { name: "x", datatype: None, width: 3, elements };
        let places: Vec<usize> = tensor.spread(3, 9).map(|(at, _)| at).collect();
        assert_eq!((tensor.rows(), &places[..6], places.len()), (1_000, &[0, 1, 2, 1_002, 1_003, 1_004][..], 9));
        assert_eq!(tensor.spread(3, 10_000).count(), 3_000);
        assert_eq!(tensor.spread(1, 100).count(), 100);
    }

    #[test]
    fn categories_have_one_form() {
        let long = "ä".repeat(100);
        assert_eq!(Scalar::Number(3.0).category().unwrap(), "3");
        assert_eq!(Scalar::Number(-0.5).category().unwrap(), "-0.5");
        assert_eq!(Scalar::Text(&long).category().unwrap().len(), TEXT);
        assert_eq!((Scalar::Number(f64::NAN).category(), Scalar::Text("1").number()), (None, None));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from),
        ];
        let key = prop_oneof![
            Just("inputs".to_owned()),
            Just("name".to_owned()),
            Just("shape".to_owned()),
            Just("data".to_owned()),
            Just("x".to_owned())
        ];
        leaf.prop_recursive(5, 48, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..5)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(inside in any_json()) {
            let body = json!({"inputs": inside});
            for tensor in tensors(Side::Input, &body) {
                prop_assert!(tensor.width > 0 && tensor.elements.len().is_multiple_of(tensor.width));
            }
        }
    }
}
