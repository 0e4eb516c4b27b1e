//! An answer's body as what it is: tensors, other JSON, or bytes.

use serde_json::Value;

use super::tensor::{Tensor, Values};
use super::{Said, grpc, raw};

/// What a body is.
pub enum Content {
    /// Named outputs.
    Tensors(Vec<Tensor>),
    /// Other JSON.
    Json(Value),
    /// Anything else.
    Bytes,
}

/// Reads a body.
pub fn content(said: &Said, body: &[u8]) -> Content {
    if said.content_type.starts_with("application/grpc") {
        return grpc::response(body).map_or(Content::Bytes, Content::Tensors);
    }
    let (text, binary) = match said.header_length.map(|length| body.split_at_checked(length)) {
        Some(Some(parts)) => parts,
        Some(None) => return Content::Bytes,
        None => (body, &[][..]),
    };
    let json = said.header_length.is_some() || said.content_type.contains("json");
    let Some(value) = json.then(|| serde_json::from_slice::<Value>(text).ok()).flatten() else { return Content::Bytes };
    match tensors(&value, binary) {
        Some(tensors) => Content::Tensors(tensors),
        None if binary.is_empty() => Content::Json(value),
        None => Content::Bytes,
    }
}

/// Outputs of the inference protocol or of the plain form; `None` when the value is neither, or does not fit what it says.
fn tensors(value: &Value, mut binary: &[u8]) -> Option<Vec<Tensor>> {
    match value.get("outputs")? {
        Value::Array(outputs) if !outputs.is_empty() => {
            let tensors = outputs.iter().map(|output| protocol(output, &mut binary)).collect::<Option<_>>()?;
            binary.is_empty().then_some(tensors)
        }
        Value::Object(outputs) if binary.is_empty() => {
            outputs.iter().map(|(name, value)| nested(name, value)).collect()
        }
        _ => None,
    }
}

/// One output of the protocol; takes its share of the binary data, if it has one.
fn protocol(output: &Value, binary: &mut &[u8]) -> Option<Tensor> {
    let (name, datatype) = (output.get("name")?.as_str()?, output.get("datatype")?.as_str()?);
    let axis = |axis: &Value| usize::try_from(axis.as_u64()?).ok();
    let shape = output.get("shape")?.as_array()?.iter().map(axis).collect::<Option<_>>()?;
    let values = match output.get("parameters").and_then(|parameters| parameters.get("binary_data_size")) {
        Some(size) => {
            let (mine, rest) = binary.split_at_checked(usize::try_from(size.as_u64()?).ok()?)?;
            *binary = rest;
            raw::decode(datatype, mine)?
        }
        None => {
            let mut leaves = Vec::new();
            flatten(output.get("data")?, &mut leaves);
            let is_float = datatype.starts_with("FP") || datatype == "BF16";
            if is_float {
                Values::Floats(leaves.into_iter().map(float).collect::<Option<_>>()?)
            } else {
                plain(&leaves)?
            }
        }
    };
    Tensor::new(name.to_owned(), shape, values)
}

/// All leaves of a nested list, in order. The reader of JSON bounds the depth.
fn flatten<'a>(value: &'a Value, leaves: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, leaves)),
        leaf => leaves.push(leaf),
    }
}

/// A nested list, or a single value, as a tensor; `None` unless it is rectangular and of one kind.
pub fn nested(name: &str, value: &Value) -> Option<Tensor> {
    let mut shape = Vec::new();
    let mut first = value;
    while let Value::Array(items) = first {
        shape.push(items.len());
        let Some(next) = items.first() else { break };
        first = next;
    }
    let mut leaves = Vec::new();
    rectangular(value, &shape, &mut leaves)?;
    Tensor::new(name.to_owned(), shape, plain(&leaves)?)
}

fn rectangular<'a>(value: &'a Value, shape: &[usize], leaves: &mut Vec<&'a Value>) -> Option<()> {
    match (value, shape) {
        (Value::Array(items), [length, inner @ ..]) if items.len() == *length => {
            items.iter().try_for_each(|item| rectangular(item, inner, leaves))
        }
        (Value::Array(_), _) | (_, [_, ..]) => None,
        (leaf, []) => {
            leaves.push(leaf);
            Some(())
        }
    }
}

/// Leaves of one kind.
fn plain(leaves: &[&Value]) -> Option<Values> {
    let all = |is: fn(&Value) -> bool| leaves.iter().all(|leaf| is(leaf));
    if all(|leaf| leaf.is_i64() || leaf.is_u64() || leaf.is_boolean()) && !leaves.is_empty() {
        return leaves.iter().map(|leaf| whole(leaf)).collect::<Option<_>>().map(Values::Integers);
    }
    if all(Value::is_string) && !leaves.is_empty() {
        return Some(Values::Labels(leaves.iter().filter_map(|leaf| Some(leaf.as_str()?.as_bytes().into())).collect()));
    }
    leaves.iter().map(|leaf| float(leaf)).collect::<Option<_>>().map(Values::Floats)
}

fn whole(leaf: &Value) -> Option<i128> {
    match leaf {
        Value::Bool(value) => Some(i128::from(*value)),
        leaf => leaf.as_i64().map(i128::from).or_else(|| leaf.as_u64().map(i128::from)),
    }
}

/// A number; JSON has none for what is not finite, so `null` stands for it, and some servers write its name.
fn float(leaf: &Value) -> Option<f64> {
    match leaf {
        Value::Null => Some(f64::NAN),
        Value::String(name) => match name.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        leaf => leaf.as_f64(),
    }
}
