//! Reading an ONNX file for what a package must say of it: signature, operator sets, producer, files beside it.
//!
//! Promises: no weights are decoded, nothing is executed, and no bytes make it panic.
//! Absent on purpose: whether the engine can run the graph; that is found out when it is loaded.

mod proto;

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::package;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use prost::Message;

/// What an ONNX file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Inputs and outputs, as the model server presents them.
    pub signature: Signature,
    /// Facts for the package document.
    pub graph: package::Graph,
    /// Files beside the model that hold some of its weights, relative to its folder.
    pub external: BTreeSet<String>,
}

/// Why a file is no usable ONNX model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// The bytes are no model.
    #[error("it is not an ONNX model, or it is cut short: {0}")]
    Broken(String),
    /// The model has no graph, or no input or output.
    #[error("the model has no {0}")]
    Empty(&'static str),
    /// An input or output is of a kind that no protocol carries.
    #[error("{direction} `{name}` is {what}, which cannot be served")]
    Unservable {
        /// `input` or `output`.
        direction: &'static str,
        /// Its name.
        name: String,
        /// What it is.
        what: String,
    },
}

/// Reads the bytes of an ONNX file.
///
/// # Errors
/// [`OnnxError`]; never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> Result<Facts, OnnxError> {
    let model = proto::Model::decode(bytes).map_err(|error| OnnxError::Broken(error.to_string()))?;
    let graph = model.graph.as_ref().ok_or(OnnxError::Empty("graph"))?;
    let initializers: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let mut signature = Signature::default();
    // Before IR version 4 every weight was listed as an input too; since then such an input is one with a default.
    for input in &graph.input {
        let optional = initializers.contains(input.name.as_str());
        if !(optional && model.ir_version < 4) {
            signature.inputs.push(tensor("input", input, optional)?);
        }
    }
    for output in &graph.output {
        signature.outputs.extend(outputs(output)?);
    }
    match (signature.inputs.is_empty(), signature.outputs.is_empty()) {
        (true, _) => return Err(OnnxError::Empty("input")),
        (_, true) => return Err(OnnxError::Empty("output")),
        (false, false) => {}
    }
    let mut seen = Seen::default();
    seen.graph(graph);
    model.functions.iter().for_each(|function| seen.nodes(&function.node));
    Ok(Facts { signature, graph: facts(&model, seen.operators), external: seen.external })
}

fn facts(model: &proto::Model, operators: u64) -> package::Graph {
    let domain = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    let opsets: BTreeMap<String, i64> =
        model.opset_import.iter().map(|set| (domain(&set.domain), set.version)).collect();
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    package::Graph { ir_version: model.ir_version, opsets, producer, operators }
}

/// What a walk through the graph and its subgraphs collects. Their depth is bounded by the decoder's own limit.
#[derive(Default)]
struct Seen {
    operators: u64,
    external: BTreeSet<String>,
}

impl Seen {
    fn graph(&mut self, graph: &proto::Graph) {
        graph.initializer.iter().for_each(|tensor| self.tensor(tensor));
        self.nodes(&graph.node);
    }

    fn nodes(&mut self, nodes: &[proto::Node]) {
        self.operators += nodes.len() as u64;
        for attribute in nodes.iter().flat_map(|node| &node.attribute) {
            attribute.t.iter().for_each(|tensor| self.tensor(tensor));
            attribute.g.iter().chain(&attribute.graphs).for_each(|graph| self.graph(graph));
        }
    }

    fn tensor(&mut self, tensor: &proto::Tensor) {
        const EXTERNAL: i32 = 1;
        if tensor.data_location == EXTERNAL {
            let location = tensor.external_data.iter().find(|entry| entry.key == "location");
            self.external.extend(location.map(|entry| entry.value.clone()));
        }
    }
}

fn unservable(direction: &'static str, name: &str, what: impl Into<String>) -> OnnxError {
    OnnxError::Unservable { direction, name: name.chars().take(80).collect(), what: what.into() }
}

fn tensor(direction: &'static str, info: &proto::ValueInfo, optional: bool) -> Result<TensorSpec, OnnxError> {
    let kind = info.r#type.as_ref().and_then(|kind| kind.tensor.as_ref());
    let kind = kind.ok_or_else(|| unservable(direction, &info.name, "no tensor"))?;
    spec(direction, &info.name, kind, optional)
}

fn spec(
    direction: &'static str,
    name: &str,
    kind: &proto::TensorType,
    optional: bool,
) -> Result<TensorSpec, OnnxError> {
    let datatype = datatype(kind.elem_type)
        .ok_or_else(|| unservable(direction, name, format!("of ONNX element type {}", kind.elem_type)))?;
    Ok(TensorSpec { name: name.to_owned(), datatype, shape: axes(kind), optional })
}

/// A symbolic or missing axis is free. ONNX writes axes of unknown length with a name, with nothing, or (wrongly, but often) with 0 or −1.
fn axes(kind: &proto::TensorType) -> Vec<i64> {
    let axis = |axis: &proto::Dimension| axis.value.filter(|&length| length > 0).unwrap_or(-1);
    kind.shape.iter().flat_map(|shape| &shape.dim).map(axis).collect()
}

/// The tensors that one output becomes: maps (what scikit-learn's converter calls ZipMap) become `NAME`, one row per map and one
/// column per key, and `NAME_labels`, the keys; the model server does the same.
fn outputs(info: &proto::ValueInfo) -> Result<Vec<TensorSpec>, OnnxError> {
    let refuse = |what: &str| unservable("output", &info.name, what);
    let kind = info.r#type.as_ref().ok_or_else(|| refuse("of no stated type"))?;
    if let Some(map) = &kind.map {
        return map_outputs(&info.name, map, vec![-1]).ok_or_else(|| refuse("a map of other than numbers"));
    }
    if let Some(sequence) = &kind.sequence {
        let inner = sequence.elem_type.as_ref().ok_or_else(|| refuse("a sequence of no stated type"))?;
        return match (&inner.map, &inner.tensor) {
            (Some(map), _) => {
                map_outputs(&info.name, map, vec![-1, -1]).ok_or_else(|| refuse("a map of other than numbers"))
            }
            (None, Some(tensor)) => {
                let mut spec = spec("output", &info.name, tensor, false)?;
                spec.shape.insert(0, -1);
                Ok(vec![spec])
            }
            (None, None) => Err(refuse("a sequence of neither tensors nor maps")),
        };
    }
    Ok(vec![tensor("output", info, false)?])
}

fn map_outputs(name: &str, map: &proto::MapType, shape: Vec<i64>) -> Option<Vec<TensorSpec>> {
    let value = map.value_type.as_ref()?.tensor.as_ref()?.elem_type;
    let spec = |name: String, datatype, shape| TensorSpec { name, datatype, shape, optional: false };
    let values = spec(name.to_owned(), datatype(value)?, shape);
    Some(vec![values, spec(format!("{name}_labels"), datatype(map.key_type)?, vec![-1])])
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

#[cfg(test)]
mod tests {
    use super::*;

    const WINE: &[u8] = include_bytes!("../../../../examples/wine/v1/model.onnx");

    #[test]
    fn the_signature_is_read_from_the_graph() {
        let facts = read(WINE).unwrap();
        let specs = facts.signature.inputs.iter().chain(&facts.signature.outputs);
        let shown: Vec<_> = specs.map(|spec| format!("{} {} {:?}", spec.name, spec.datatype, spec.shape)).collect();
        assert_eq!(shown, ["features FP32 [-1, 13]", "label INT64 [-1]", "probabilities FP32 [-1, 3]"]);
        assert!(facts.graph.producer.starts_with("skl2onnx"), "{:?}", facts.graph);
        assert!(facts.graph.opsets.contains_key("ai.onnx.ml") && facts.graph.operators > 0, "{:?}", facts.graph);
    }

    #[test]
    fn broken_files_are_refused() {
        assert!(matches!(read(b"not a model"), Err(OnnxError::Broken(_))));
        assert_eq!(read(b""), Err(OnnxError::Empty("graph")));
        assert!(matches!(read(&WINE[..WINE.len() / 2]), Err(OnnxError::Broken(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(at in 0..WINE.len(), byte: u8, cut in 0..WINE.len()) {
            let mut bytes = WINE.to_vec();
            bytes[at] = byte;
            let _ = read(&bytes);
            let _ = read(&bytes[..cut]);
        }
    }
}
