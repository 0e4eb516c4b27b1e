//! What is served: names, the signature, and the check of each request against it.
//!
//! Promises: inputs that come out of [`Inputs::finish`] fit the signature: right names, datatypes and shapes, as many elements
//! as the shape says, nothing twice, nothing missing.
//! Absent on purpose: bytes and JSON (see `codec`), and running anything (see `engine`).

use modelyard_core::signature::{Datatype, Signature, TensorSpec, shape_fits};

use crate::codec::write;
use crate::refusal::{Refusal, shown};
use crate::tensor::{Data, Tensor, elements, shape_text};

/// The protocol's name of what runs an ONNX model.
pub(crate) const ONNX: &str = "onnx_onnxv1";
/// The same for a Python function.
pub(crate) const PYTHON: &str = "python_function";

/// What is served, fixed once loaded.
#[derive(Debug)]
pub(crate) struct Model {
    /// Name that callers use.
    pub(crate) name: String,
    /// A further one.
    pub(crate) also: Option<String>,
    /// Version of the package.
    pub(crate) version: String,
    /// The protocol's name of what runs it.
    pub(crate) platform: &'static str,
    /// What the model takes and gives, as the engine sees it; map outputs are tensors already.
    pub(crate) signature: Signature,
    /// `{"model_name":…,"model_version":…`, the start of every answer.
    pub(crate) answer_head: Vec<u8>,
    /// `{"name":…,"datatype":…,"shape":`, the start of every output of an answer.
    pub(crate) output_heads: Vec<Vec<u8>>,
}

impl Model {
    pub(crate) fn new(name: &str, version: &str, signature: Signature) -> Self {
        let mut answer_head = b"{\"model_name\":".to_vec();
        write::string(name, &mut answer_head);
        answer_head.extend_from_slice(b",\"model_version\":");
        write::string(version, &mut answer_head);
        let output_heads = signature.outputs.iter().map(output_head).collect();
        let (name, version) = (name.to_owned(), version.to_owned());
        Self { name, also: None, version, platform: ONNX, signature, answer_head, output_heads }
    }

    /// Checks name and version of a request.
    pub(crate) fn accepts(&self, name: &str, version: Option<&str>) -> Result<(), Refusal> {
        if name != self.name && Some(name) != self.also.as_deref() {
            return Err(Refusal::not_found(format!(
                "there is no model {} here; this server has `{}`",
                shown(name),
                self.name
            )));
        }
        match version {
            // "1" is what clients send that were written for servers that count versions.
            None | Some("" | "1") => Ok(()),
            Some(version) if version == self.version => Ok(()),
            Some(version) => {
                let (version, name, own) = (shown(version), &self.name, &self.version);
                Err(Refusal::not_found(format!(
                    "there is no version {version} of `{name}` here; this server has `{own}`"
                )))
            }
        }
    }

    /// The index of the output of that name.
    pub(crate) fn output(&self, name: &str) -> Result<usize, Refusal> {
        let found = self.signature.outputs.iter().position(|spec| spec.name == name);
        found.ok_or_else(|| {
            Refusal::invalid(format!(
                "there is no output {}; the model gives {}",
                shown(name),
                names(&self.signature.outputs)
            ))
        })
    }
}

fn output_head(spec: &TensorSpec) -> Vec<u8> {
    let mut head = b"{\"name\":".to_vec();
    write::string(&spec.name, &mut head);
    head.extend_from_slice(format!(",\"datatype\":\"{}\",\"shape\":", spec.datatype).as_bytes());
    head
}

fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<String> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
    names.join(", ")
}

/// Where the data of one input goes, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    index: usize,
    pub(crate) datatype: Datatype,
    pub(crate) elements: usize,
}

/// The inputs of one request, checked one by one.
#[derive(Debug)]
pub(crate) struct Inputs<'m> {
    signature: &'m Signature,
    tensors: Vec<Option<Tensor>>,
}

impl<'m> Inputs<'m> {
    pub(crate) fn new(signature: &'m Signature) -> Self {
        let mut tensors = Vec::with_capacity(signature.inputs.len());
        tensors.resize_with(signature.inputs.len(), || None);
        Self { signature, tensors }
    }

    /// The specification of the input of that name.
    pub(crate) fn spec(&self, name: &str) -> Result<(usize, &'m TensorSpec), Refusal> {
        let inputs = &self.signature.inputs;
        let Some(index) = inputs.iter().position(|spec| spec.name == name) else {
            return Err(Refusal::invalid(format!(
                "there is no input {}; the model takes {}",
                shown(name),
                names(inputs)
            )));
        };
        match self.tensors[index] {
            Some(_) => Err(Refusal::invalid(format!("input {} stands in the request twice", shown(name)))),
            None => Ok((index, &inputs[index])),
        }
    }

    /// Checks name, datatype and shape of an input.
    pub(crate) fn place(&self, name: &str, datatype: &str, shape: &[i64]) -> Result<Slot, Refusal> {
        let (index, spec) = self.spec(name)?;
        if datatype != spec.datatype.name() {
            let (given, wanted) = (shown(datatype), spec.datatype);
            return Err(Refusal::invalid(format!(
                "input `{}` has the datatype {given}; the model takes {wanted}",
                spec.name
            )));
        }
        slot(index, spec, shape)
    }

    /// Puts the data of an input in its place.
    pub(crate) fn fill(&mut self, slot: Slot, shape: Vec<i64>, data: Data) -> Result<(), Refusal> {
        if let Data::Bytes(texts) = &data
            && let Some(index) = texts.iter().position(|text| text.contains('\0'))
        {
            let name = &self.signature.inputs[slot.index].name;
            return Err(Refusal::invalid(format!(
                "input `{name}`: element {index} holds a NUL character, which ONNX strings cannot carry"
            )));
        }
        debug_assert_eq!(data.len(), slot.elements, "the codec counts elements");
        self.tensors[slot.index] = Some(Tensor { shape, data });
        Ok(())
    }

    /// All inputs in the signature's order; `None` for an optional one that was left out.
    pub(crate) fn finish(self) -> Result<Vec<Option<Tensor>>, Refusal> {
        let missing =
            self.signature.inputs.iter().zip(&self.tensors).find(|(spec, tensor)| tensor.is_none() && !spec.optional);
        match missing {
            Some((spec, _)) => Err(Refusal::invalid(format!("input `{}` is missing", spec.name))),
            None => Ok(self.tensors),
        }
    }
}

/// Checks a shape against what the model takes.
pub(crate) fn slot(index: usize, spec: &TensorSpec, shape: &[i64]) -> Result<Slot, Refusal> {
    let name = &spec.name;
    let Some(elements) = elements(shape) else {
        return Err(Refusal::invalid(format!("input `{name}` has the impossible shape {}", shape_text_short(shape))));
    };
    if !shape_fits(&spec.shape, shape) {
        let (given, wanted) = (shape_text_short(shape), shape_text(&spec.shape));
        return Err(Refusal::invalid(format!(
            "input `{name}` has the shape {given}; the model takes {wanted} (-1 is free)"
        )));
    }
    if elements == 0 && shape[0] == 0 {
        return Err(Refusal::invalid(format!("input `{name}` has no rows: the first axis of its shape is 0")));
    }
    Ok(Slot { index, datatype: spec.datatype, elements })
}

/// A caller's shape, cut to 16 axes.
fn shape_text_short(shape: &[i64]) -> String {
    match shape.get(..16) {
        Some(some) if shape.len() > 16 => {
            format!("{}… of {} axes", shape_text(some).trim_end_matches(']'), shape.len())
        }
        _ => shape_text(shape),
    }
}

/// What an answer shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Echoed.
    pub(crate) id: Option<String>,
    /// Outputs by index, in the order asked for, and whether as binary data.
    pub(crate) outputs: Vec<(usize, bool)>,
}

impl Wanted {
    /// Every output, in the signature's order.
    pub(crate) fn all(model: &Model, id: Option<String>, binary: bool) -> Self {
        Self { id, outputs: (0..model.signature.outputs.len()).map(|index| (index, binary)).collect() }
    }
}

/// A request that fits the signature.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) inputs: Vec<Option<Tensor>>,
    pub(crate) wanted: Wanted,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn model() -> Model {
        let spec = |name: &str, datatype, shape: &[i64], optional| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional,
        };
        let inputs = vec![spec("x", Datatype::Fp32, &[-1, 4], false), spec("word", Datatype::Bytes, &[-1, 1], true)];
        let outputs = vec![spec("label", Datatype::Int64, &[-1], false), spec("p", Datatype::Fp32, &[-1, 3], false)];
        Model::new("iris", "2.1.0", Signature { inputs, outputs })
    }

    fn refused(name: &str, datatype: &str, shape: &[i64]) -> String {
        let model = model();
        Inputs::new(&model.signature).place(name, datatype, shape).unwrap_err().message
    }

    #[test]
    fn refusals_say_what_is_wrong_and_what_is_right() {
        assert_eq!(refused("y", "FP32", &[1, 4]), "there is no input `y`; the model takes `x`, `word`");
        assert_eq!(refused("x", "FP64", &[1, 4]), "input `x` has the datatype `FP64`; the model takes FP32");
        assert_eq!(refused("x", "FP32", &[1, 5]), "input `x` has the shape [1,5]; the model takes [-1,4] (-1 is free)");
        assert!(refused("x", "FP32", &[-1, 4]).contains("impossible shape"));
        assert!(refused("x", "FP32", &[i64::MAX, 4]).contains("impossible shape"));
        assert!(refused("x", "FP32", &[0, 4]).contains("no rows"));
        assert!(refused("x", "FP32", &[1; 99]).contains("of 99 axes"));
    }

    #[test]
    fn twice_and_missing_are_refused_and_optional_is_not() {
        let model = model();
        let mut inputs = Inputs::new(&model.signature);
        assert_eq!(Inputs::new(&model.signature).finish().unwrap_err().message, "input `x` is missing");
        let slot = inputs.place("x", "FP32", &[1, 4]).unwrap();
        inputs.fill(slot, vec![1, 4], Data::Fp32(vec![0.0; 4])).unwrap();
        assert!(inputs.place("x", "FP32", &[1, 4]).unwrap_err().message.contains("twice"));
        assert!(inputs.finish().unwrap()[1].is_none());
    }

    #[test]
    fn only_this_model_and_its_versions_are_here() {
        let model = model();
        for version in [None, Some(""), Some("1"), Some("2.1.0")] {
            assert!(model.accepts("iris", version).is_ok());
        }
        assert!(model.accepts("iris", Some("3")).unwrap_err().message.contains("`2.1.0`"));
        assert!(model.accepts("wine", None).unwrap_err().message.contains("`iris`"));
    }
}
