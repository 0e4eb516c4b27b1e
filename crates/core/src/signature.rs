//! Typed inputs and outputs of a model.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Element type of a tensor, by its Open Inference Protocol name.
///
/// Source: Open Inference Protocol v2, "Tensor Data Types"; `BF16` as Triton adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "each variant is its own name in the protocol")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Strings or bytes of any length.
    Bytes,
}

impl Datatype {
    /// Every datatype.
    pub const ALL: [Self; 14] = {
        use Datatype::*;
        [Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes]
    };

    /// The protocol's name, such as `FP32`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The datatype of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// Bytes per element; `None` for `BYTES`, whose elements carry their own length.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One named, typed input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name, as in the graph.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Axis lengths, outermost first; −1 is a free axis; `[]` is a scalar.
    pub shape: Vec<i64>,
    /// An optional input may be left out of a request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// What a model takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Inputs, in the graph's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the graph's order. Empty when the runtime is a program whose answers are not described.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|spec| spec.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|spec| spec.name == name)
    }
}

/// Whether a tensor of `shape` fits `spec`: same rank, and every fixed axis of the same length.
pub fn shape_fits(spec: &[i64], shape: &[i64]) -> bool {
    spec.len() == shape.len() && spec.iter().zip(shape).all(|(&want, &have)| want < 0 || want == have)
}

/// Why callers of one signature cannot be served by another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Incompatible(pub Vec<String>);

/// Whether every caller of `old` is served by `new` too: inputs may only be widened, outputs only added to.
///
/// A signature without inputs and outputs describes nothing (a program's), so there is nothing to hold against it.
///
/// # Errors
/// [`Incompatible`] with every reason.
pub fn compatible(old: &Signature, new: &Signature) -> Result<(), Incompatible> {
    let undescribed = |signature: &Signature| signature.inputs.is_empty() && signature.outputs.is_empty();
    if undescribed(old) || undescribed(new) {
        return Ok(());
    }
    let kept = old.inputs.iter().filter_map(|input| narrowed_input(input, new.input(&input.name)));
    let added = new.inputs.iter().filter(|input| !input.optional && old.input(&input.name).is_none());
    let required = added.map(|input| format!("input `{}` is new and required", input.name));
    let outputs = match new.outputs.is_empty() {
        true => Vec::new(),
        false => old.outputs.iter().filter_map(|output| changed_output(output, new.output(&output.name))).collect(),
    };
    let reasons: Vec<String> = kept.chain(required).chain(outputs).collect();
    if reasons.is_empty() { Ok(()) } else { Err(Incompatible(reasons)) }
}

fn narrowed_input(old: &TensorSpec, new: Option<&TensorSpec>) -> Option<String> {
    let name = &old.name;
    match new {
        None => Some(format!("input `{name}` is gone")),
        Some(new) if new.datatype != old.datatype => {
            Some(format!("input `{name}` takes {} instead of {}", new.datatype, old.datatype))
        }
        Some(new) if !covers(&new.shape, &old.shape) => {
            Some(format!("input `{name}` takes shape {:?} instead of {:?}", new.shape, old.shape))
        }
        Some(new) if old.optional && !new.optional => Some(format!("input `{name}` is no longer optional")),
        Some(_) => None,
    }
}

fn changed_output(old: &TensorSpec, new: Option<&TensorSpec>) -> Option<String> {
    let name = &old.name;
    match new {
        None => Some(format!("output `{name}` is gone")),
        Some(new) if new.datatype != old.datatype => {
            Some(format!("output `{name}` gives {} instead of {}", new.datatype, old.datatype))
        }
        Some(new) if !covers(&old.shape, &new.shape) => {
            Some(format!("output `{name}` gives shape {:?} instead of {:?}", new.shape, old.shape))
        }
        Some(_) => None,
    }
}

/// Whether every shape that fits `narrow` fits `wide`.
fn covers(wide: &[i64], narrow: &[i64]) -> bool {
    wide.len() == narrow.len() && wide.iter().zip(narrow).all(|(&wide, &narrow)| wide < 0 || wide == narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, shape: &[i64], optional: bool) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: shape.to_vec(), optional }
    }

    fn signature(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Signature {
        Signature { inputs, outputs }
    }

    #[test]
    fn widened_inputs_and_added_outputs_are_compatible() {
        let old = signature(vec![tensor("x", &[1, 13], false)], vec![tensor("y", &[-1], false)]);
        let new = signature(
            vec![tensor("x", &[-1, 13], true), tensor("mask", &[-1], true)],
            vec![tensor("y", &[-1], false), tensor("confidence", &[-1], false)],
        );
        assert_eq!(compatible(&old, &new), Ok(()));
        let reasons = compatible(&new, &old).unwrap_err().0;
        assert_eq!(reasons.len(), 3, "narrowed `x`, gone `mask`, gone `confidence`: {reasons:?}");
    }

    #[test]
    fn new_required_inputs_and_other_datatypes_are_named() {
        let old = signature(vec![tensor("x", &[-1], false)], vec![tensor("y", &[-1], false)]);
        let mut new = signature(vec![tensor("x", &[-1], false), tensor("z", &[-1], false)], old.outputs.clone());
        new.outputs[0].datatype = Datatype::Int64;
        let text = compatible(&old, &new).unwrap_err().to_string();
        assert_eq!(text, "input `z` is new and required; output `y` gives INT64 instead of FP32");
    }

    #[test]
    fn a_signature_that_describes_nothing_is_held_against_nobody() {
        let described = signature(vec![tensor("x", &[-1], false)], vec![tensor("y", &[-1], false)]);
        assert_eq!(compatible(&Signature::default(), &described), Ok(()));
        assert_eq!(compatible(&described, &Signature::default()), Ok(()));
    }
}
