//! `[signature]`: what a Python function takes and gives.

use std::collections::BTreeSet;

use modelyard_core::nearest;
use modelyard_core::package::Runtime;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::Placed;
use super::reader::{Reader, Table};

pub(super) const SIGNATURE: [&str; 2] = ["inputs", "outputs"];
pub(super) const TENSOR: [&str; 4] = ["name", "datatype", "shape", "optional"];
const OUTPUT: [&str; 3] = ["name", "datatype", "shape"];

/// Most inputs, and most outputs.
const MOST: usize = 4_096;
/// Most axes of one: what NumPy knows since its version 2.
const MOST_AXES: usize = 64;

/// The signature of a `python` package, which must have one; no other runtime may.
pub(super) fn signature(
    reader: &mut Reader<'_>,
    whole: &Table<'_>,
    runtime: Option<&Runtime>,
    names_a_model: bool,
) -> Option<Placed<Signature>> {
    let table = reader.table(whole, "signature", &SIGNATURE);
    let refusal = match (runtime?, &table) {
        (Runtime::Python { .. }, Some(_)) if names_a_model => {
            Some("`[signature]` and `model` say the same thing: the signature is read from the model, or written here")
        }
        (Runtime::Python { .. }, Some(_)) => None,
        (Runtime::Python { .. }, None) if names_a_model => None,
        (Runtime::Python { .. }, None) if whole.entries.contains_key("signature") => None,
        (Runtime::Python { .. }, None) => Some(
            "the table `[signature]` is missing: write what the function takes and gives (docs/reference/modelyard-toml.md)",
        ),
        (Runtime::Onnx { .. }, Some(_)) => Some("an `onnx` package has no `[signature]`: it is read from the model"),
        (Runtime::Command { .. }, Some(_)) => {
            Some("a `command` package has no `[signature]`: a program says itself what it takes")
        }
        (Runtime::None {}, Some(_)) => {
            Some("nothing runs the package: its signature is that of the `model` that it names")
        }
        (_, None) => None,
    };
    if let Some(what) = refusal {
        reader.mistake(table.as_ref().map_or(0..0, |table| table.at.clone()), what);
        return None;
    }
    let table = table?;
    let inputs = tensors(reader, &table, "inputs", &TENSOR)?;
    let outputs = tensors(reader, &table, "outputs", &OUTPUT)?;
    Some(Placed { value: Signature { inputs, outputs }, at: table.at })
}

fn tensors<'v>(
    reader: &mut Reader<'_>,
    within: &Table<'v>,
    key: &str,
    known: &'v [&'v str],
) -> Option<Vec<TensorSpec>> {
    let example = "{name = \"x\", datatype = \"FP32\", shape = [-1, 13]}";
    let list = match within.entries.get(key).map(|value| (value.get_ref(), value.span())) {
        Some((DeValue::Array(list), _)) if !list.is_empty() && list.len() <= MOST => list,
        Some((_, at)) => {
            reader.mistake(at, format!("`{key}`: write a list, such as {key} = [{example}]"));
            return None;
        }
        None => {
            reader
                .mistake(within.at.clone(), format!("`{key}` is missing in `[signature]`: write {key} = [{example}]"));
            return None;
        }
    };
    let (mut specs, mut names) = (Vec::with_capacity(list.len()), BTreeSet::new());
    for value in list {
        let DeValue::Table(entries) = value.get_ref() else {
            reader.mistake(value.span(), format!("`{key}`: write {example}"));
            continue;
        };
        let table = Table { name: format!("signature.{key}"), at: value.span(), entries, known };
        reader.refuse_unknown(&table, known);
        let Some(spec) = tensor(reader, &table) else { continue };
        if !names.insert(spec.name.clone()) {
            reader.mistake(table.at, format!("`{}` stands in `{key}` twice", spec.name.escape_debug()));
        }
        specs.push(spec);
    }
    Some(specs)
}

fn tensor(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<TensorSpec> {
    let name = reader.required(table, "name", "\"x\"");
    let datatype = reader.required(table, "datatype", "\"FP32\"").and_then(|text| datatype(reader, &text));
    let shape = match table.entries.get("shape") {
        Some(value) => shape(reader, value),
        None => {
            reader
                .mistake(table.at.clone(), "`shape` is missing: write for example shape = [-1, 13], where -1 is free");
            None
        }
    };
    let optional = super::tables::truth(reader, table, "optional");
    let name = name?;
    if name.value.is_empty() || name.value.len() > 256 || name.value.chars().any(char::is_control) {
        reader.mistake(name.at, "`name` is no name: write 1 to 256 letters");
        return None;
    }
    Some(TensorSpec { name: name.value, datatype: datatype?, shape: shape?, optional })
}

fn datatype(reader: &mut Reader<'_>, text: &Placed<String>) -> Option<Datatype> {
    // NumPy has no such numbers.
    let known = || Datatype::ALL.into_iter().filter(|&datatype| datatype != Datatype::Bf16);
    let found = known().find(|datatype| datatype.name() == text.value);
    if found.is_none() {
        let hint = match nearest(&text.value, known().map(Datatype::name)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("known are {}", known().map(Datatype::name).collect::<Vec<_>>().join(", ")),
        };
        reader.mistake(text.at.clone(), format!("there is no datatype `{}` here; {hint}", text.value.escape_debug()));
    }
    found
}

fn shape(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>) -> Option<Vec<i64>> {
    let axis = |value: &Value| value.as_i64().filter(|&axis| axis >= -1 && axis <= i64::from(u32::MAX));
    let read = match reader.json("shape", value)? {
        Value::Array(list) if list.len() <= MOST_AXES => list.iter().map(axis).collect(),
        _ => None,
    };
    if read.is_none() {
        reader.mistake(value.span(), "`shape`: write a list of lengths, outermost first, where -1 is free: [-1, 13]");
    }
    read
}
