//! Types of inputs and outputs, as the model server presents them (docs/reference/serving.md).

use modelyard_core::signature::{Datatype, TensorSpec};

use super::OnnxError;
use super::proto::{Dimension, MapType, TensorType, Type, ValueInfo};

fn unservable(direction: &'static str, name: &str, what: impl Into<String>) -> OnnxError {
    OnnxError::Unservable { direction, name: name.chars().take(80).collect(), what: what.into() }
}

/// An input: a tensor of a stated shape.
pub(super) fn input(info: &ValueInfo, optional: bool) -> Result<TensorSpec, OnnxError> {
    let refuse = |what: &str| unservable("input", &info.name, what);
    let kind = info.r#type.as_ref().ok_or_else(|| refuse("has no type"))?;
    let tensor = kind.tensor.as_ref().ok_or_else(|| refuse(&format!("is {}", described(kind))))?;
    let datatype = datatype_of("input", &info.name, tensor)?;
    // The engine reports such an input like one without axes, so no request with rows would ever fit.
    let shape = axes(tensor).ok_or_else(|| refuse("has no shape (export it with one; its axes may be free)"))?;
    Ok(TensorSpec { name: info.name.clone(), datatype, shape, optional })
}

/// The tensors that one output becomes, and whether its shape is stated. Maps (what scikit-learn's converter calls ZipMap)
/// become `NAME`, one row per map and one column per key, and `NAME_labels`, the keys.
pub(super) fn outputs(info: &ValueInfo) -> Result<(Vec<TensorSpec>, bool), OnnxError> {
    let refuse = |what: &str| unservable("output", &info.name, what);
    let kind = info.r#type.as_ref().ok_or_else(|| refuse("has no type"))?;
    let odd_map = "is a map of other than whole-number or text keys to numbers";
    if let Some(map) = &kind.map {
        return Ok((map_outputs(&info.name, map, vec![-1]).ok_or_else(|| refuse(odd_map))?, true));
    }
    if let Some(tensor) = &kind.tensor {
        return tensor_output(&info.name, tensor, None);
    }
    let inner = kind.sequence.as_ref().and_then(|sequence| sequence.elem_type.as_deref());
    match inner {
        Some(Type { map: Some(map), .. }) => {
            Ok((map_outputs(&info.name, map, vec![-1, -1]).ok_or_else(|| refuse(odd_map))?, true))
        }
        Some(Type { tensor: Some(tensor), .. }) => tensor_output(&info.name, tensor, Some(-1)),
        _ => Err(refuse(&format!("is {}", described(kind)))),
    }
}

fn tensor_output(name: &str, tensor: &TensorType, before: Option<i64>) -> Result<(Vec<TensorSpec>, bool), OnnxError> {
    let (datatype, stated) = (datatype_of("output", name, tensor)?, axes(tensor));
    let shape = before.into_iter().chain(stated.clone().unwrap_or_default()).collect();
    Ok((vec![TensorSpec { name: name.to_owned(), datatype, shape, optional: false }], stated.is_some()))
}

fn map_outputs(name: &str, map: &MapType, shape: Vec<i64>) -> Option<Vec<TensorSpec>> {
    let value = datatype(map.value_type.as_ref()?.tensor.as_ref()?.elem_type)?;
    let key = datatype(map.key_type)?;
    let carried = matches!(value, Datatype::Fp32 | Datatype::Fp64 | Datatype::Int64)
        && matches!(key, Datatype::Int64 | Datatype::Bytes);
    let spec = |name: String, datatype, shape| TensorSpec { name, datatype, shape, optional: false };
    carried.then(|| vec![spec(name.to_owned(), value, shape), spec(format!("{name}_labels"), key, vec![-1])])
}

/// Whether every tensor has a name of its own.
pub(crate) fn check_names(direction: &'static str, specs: &[TensorSpec]) -> Result<(), OnnxError> {
    for (index, spec) in specs.iter().enumerate() {
        let shown = spec.name.escape_debug().to_string();
        if spec.name.is_empty() || spec.name.len() > 1_024 || spec.name.chars().any(char::is_control) {
            return Err(unservable(
                direction,
                &shown,
                format!("(number {}) has a name that no request can hold", index + 1),
            ));
        }
        if specs[..index].iter().any(|other| other.name == spec.name) {
            return Err(unservable(direction, &shown, "has the name of another"));
        }
    }
    Ok(())
}

/// Axis lengths; `None` when no shape is stated. A symbolic or missing length is free. ONNX writes axes of unknown length with a
/// name, with nothing, or (wrongly, but often) with 0 or −1.
fn axes(kind: &TensorType) -> Option<Vec<i64>> {
    let axis = |axis: &Dimension| axis.value.filter(|&length| length > 0).unwrap_or(-1);
    kind.shape.as_ref().map(|shape| shape.dim.iter().map(axis).collect())
}

fn described(kind: &Type) -> &'static str {
    match kind {
        Type { sequence: Some(_), .. } => "a sequence",
        Type { map: Some(_), .. } => "a map",
        Type { optional: Some(_), .. } => "an optional value",
        Type { sparse: Some(_), .. } => "a sparse tensor",
        _ => "of a kind that is not known",
    }
}

fn datatype_of(direction: &'static str, name: &str, tensor: &TensorType) -> Result<Datatype, OnnxError> {
    datatype(tensor.elem_type)
        .ok_or_else(|| unservable(direction, name, format!("has elements of {}", element_name(tensor.elem_type))))
}

/// Source: `TensorProto.DataType` of `onnx.proto`.
fn datatype(element: i32) -> Option<Datatype> {
    Some(match element {
        1 => Datatype::Fp32,
        2 => Datatype::Uint8,
        3 => Datatype::Int8,
        4 => Datatype::Uint16,
        5 => Datatype::Int16,
        6 => Datatype::Int32,
        7 => Datatype::Int64,
        8 => Datatype::Bytes,
        9 => Datatype::Bool,
        10 => Datatype::Fp16,
        11 => Datatype::Fp64,
        12 => Datatype::Uint32,
        13 => Datatype::Uint64,
        16 => Datatype::Bf16,
        _ => return None,
    })
}

/// Names of the element types that no protocol carries.
fn element_name(element: i32) -> String {
    let known = match element {
        0 => "no stated type",
        14 => "COMPLEX64",
        15 => "COMPLEX128",
        17..=20 => "an 8-bit float",
        21 | 22 => "4-bit integers",
        23 => "FLOAT4E2M1",
        24 => "FLOAT8E8M0",
        25 | 26 => "2-bit integers",
        _ => return format!("the unknown type {element}"),
    };
    known.to_owned()
}
