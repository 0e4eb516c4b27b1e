//! TensorFlow SavedModel: `saved_model.pb`, read for its signatures; the graph is walked through, not run.
//!
//! Promises: memory is bounded by [`MAX_NOTED_BYTES`]; the graph costs a walk over its operators.
//! Source: TensorFlow, `saved_model.proto`, `meta_graph.proto`, `types.proto`, `tensor_shape.proto`, `graph.proto`, `function.proto`.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::model_file::ModelKind;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use prost::Message;
use serde_json::{Value, json};

use super::{Found, KindError, Source, broken, names_fault, told, wire_error};
use crate::wire::{Content, Wire};

/// Signatures and names that are noted, in bytes: hundreds of times what real models have. In memory they take some thirty times as much.
const MAX_NOTED_BYTES: u64 = 2 << 20;
/// The signature that servers answer with unless they are told another.
const SERVING: &str = "serving_default";
/// The tag of the graph that is for serving.
const SERVE: &str = "serve";
/// A step of loading, which TensorFlow keeps among the signatures.
const INIT: &str = "__saved_model_init_op";
/// Operators that reach past the model: into files, or back into Python.
const REACHING: [&str; 6] = ["ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc"];
const VARIABLES: [&str; 3] = ["VarHandleOp", "VariableV2", "Variable"];

#[derive(Clone, PartialEq, Message)]
struct SignatureEntry {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    signature: Option<SignatureDef>,
}

#[derive(Clone, PartialEq, Message)]
struct SignatureDef {
    #[prost(btree_map = "string, message", tag = "1")]
    inputs: BTreeMap<String, TensorInfo>,
    #[prost(btree_map = "string, message", tag = "2")]
    outputs: BTreeMap<String, TensorInfo>,
    /// Values of inputs that may be left out.
    #[prost(btree_map = "string, bytes", tag = "4")]
    defaults: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorInfo {
    #[prost(int32, tag = "2")]
    dtype: i32,
    #[prost(message, optional, tag = "3")]
    shape: Option<Shape>,
    /// A sparse tensor's parts.
    #[prost(bytes = "vec", optional, tag = "4")]
    sparse: Option<Vec<u8>>,
    /// A tensor of other parts: ragged, and the like.
    #[prost(bytes = "vec", optional, tag = "5")]
    composite: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dim: Vec<Axis>,
    #[prost(bool, tag = "3")]
    unknown_rank: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Axis {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// What is noted of one graph.
#[derive(Default)]
struct Graph {
    has_graph: bool,
    tags: BTreeSet<String>,
    version: String,
    signatures: BTreeMap<String, SignatureDef>,
    operators: u64,
    reaching: BTreeSet<&'static str>,
    has_variables: bool,
}

/// Reads the message of `length` bytes.
pub(super) fn read(source: &mut dyn Source, length: u64) -> Result<Found, KindError> {
    let mut walk = Walk { wire: Wire::new(source), room: MAX_NOTED_BYTES };
    let mut graphs = Vec::new();
    let at_end = wire_error(ModelKind::SavedModel);
    while let Some((number, content)) = walk.wire.field(length).map_err(&at_end)? {
        match (number, content) {
            (2, Content::Until(end)) => graphs.push(walk.graph(end)?),
            (_, Content::Until(end)) => walk.wire.skip(end).map_err(&at_end)?,
            _ => {}
        }
    }
    let serving = graphs.iter().position(|graph| graph.tags.contains(SERVE)).unwrap_or(0);
    if graphs.get(serving).is_none_or(|graph| !graph.has_graph) {
        return Err(fault("it has no graph"));
    }
    Ok(found(graphs.swap_remove(serving)))
}

fn fault(why: impl Into<String>) -> KindError {
    broken(ModelKind::SavedModel)(why.into())
}

fn found(graph: Graph) -> Found {
    let names: Vec<&String> = graph.signatures.keys().filter(|name| *name != INIT).take(64).collect();
    let facts = [
        ("tags", json!(graph.tags.iter().map(|tag| told(tag)).collect::<Vec<_>>())),
        ("tensorflow", told(&graph.version)),
        ("signatures", json!(names.iter().map(|name| told(name)).collect::<Vec<_>>())),
        ("operators", json!(graph.operators)),
        ("variables", if graph.has_variables { json!(true) } else { Value::Null }),
    ];
    let mut found = Found::new(ModelKind::SavedModel, facts);
    match chosen(&graph.signatures).and_then(|definition| signature(definition, &mut found.unshaped)) {
        Ok(signature) => found.signature = Ok(signature),
        Err(why) => found.signature = Err(why),
    }
    found.needs_variables = graph.has_variables;
    if !graph.reaching.is_empty() {
        let operators = graph.reaching.into_iter().collect::<Vec<_>>().join(", ");
        found.risk = Some(format!("a SavedModel whose graph reaches past it when it runs (operators {operators})"));
    }
    found
}

/// The signature that servers answer with, or the only one.
fn chosen(signatures: &BTreeMap<String, SignatureDef>) -> Result<&SignatureDef, String> {
    if let Some(serving) = signatures.get(SERVING) {
        return Ok(serving);
    }
    let mut others = signatures.iter().filter(|(name, _)| *name != INIT);
    match (others.next(), others.next()) {
        (Some((_, only)), None) => Ok(only),
        (None, _) => Err("the SavedModel has no signature: save it with `signatures=`".to_owned()),
        _ => Err(format!("the SavedModel has several signatures, and none of them is called `{SERVING}`")),
    }
}

fn signature(definition: &SignatureDef, unshaped: &mut BTreeSet<String>) -> Result<Signature, String> {
    let mut read = Signature::default();
    for (name, info) in &definition.inputs {
        let (datatype, shape) = tensor("input", name, info)?;
        let shown: String = name.escape_debug().take(80).collect();
        let shape = shape
            .ok_or_else(|| format!("input `{shown}` has no shape: save the model with one; its axes may be free"))?;
        let optional = definition.defaults.contains_key(name);
        read.inputs.push(TensorSpec { name: name.clone(), datatype, shape, optional });
    }
    for (name, info) in &definition.outputs {
        let (datatype, shape) = tensor("output", name, info)?;
        if shape.is_none() {
            unshaped.insert(name.clone());
        }
        let shape = shape.unwrap_or_default();
        read.outputs.push(TensorSpec { name: name.clone(), datatype, shape, optional: false });
    }
    match (read.inputs.is_empty(), read.outputs.is_empty(), names_fault(&read)) {
        (_, _, Some(why)) => Err(why),
        (false, false, None) => Ok(read),
        _ => Err("the signature of the SavedModel has no input or no output".to_owned()),
    }
}

/// Type and axes; no axes when their number is not known.
fn tensor(direction: &str, name: &str, info: &TensorInfo) -> Result<(Datatype, Option<Vec<i64>>), String> {
    let name: String = name.escape_debug().take(80).collect();
    if info.sparse.is_some() || info.composite.is_some() {
        return Err(format!("{direction} `{name}` is no plain tensor, which no protocol carries"));
    }
    let datatype = datatype(info.dtype).ok_or_else(|| {
        format!("{direction} `{name}` has elements of TensorFlow's type {}, which no protocol carries", info.dtype)
    })?;
    let shape = info.shape.as_ref().filter(|shape| !shape.unknown_rank);
    Ok((datatype, shape.map(|shape| shape.dim.iter().map(|axis| axis.size.max(-1)).collect())))
}

/// Source: `DataType` of `types.proto`.
fn datatype(number: i32) -> Option<Datatype> {
    Some(match number {
        1 => Datatype::Fp32,
        2 => Datatype::Fp64,
        3 => Datatype::Int32,
        4 => Datatype::Uint8,
        5 => Datatype::Int16,
        6 => Datatype::Int8,
        7 => Datatype::Bytes,
        9 => Datatype::Int64,
        10 => Datatype::Bool,
        14 => Datatype::Bf16,
        17 => Datatype::Uint16,
        19 => Datatype::Fp16,
        22 => Datatype::Uint32,
        23 => Datatype::Uint64,
        _ => return None,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    MetaGraph,
    MetaInfo,
    GraphDef,
    Library,
    Function,
    Node,
}

struct Walk<'a> {
    wire: Wire<&'a mut dyn Source>,
    /// Bytes that may still be noted.
    room: u64,
}

impl Walk<'_> {
    fn graph(&mut self, end: u64) -> Result<Graph, KindError> {
        let mut graph = Graph::default();
        self.message(Kind::MetaGraph, end, &mut graph)?;
        Ok(graph)
    }

    /// The kinds do not lie within themselves, so that the depth is bounded by their number.
    fn message(&mut self, kind: Kind, end: u64, graph: &mut Graph) -> Result<(), KindError> {
        use Kind::*;
        let at_end = wire_error(ModelKind::SavedModel);
        while let Some((number, content)) = self.wire.field(end).map_err(&at_end)? {
            let Content::Until(end) = content else { continue };
            match (kind, number) {
                (MetaGraph, 1) => self.message(MetaInfo, end, graph)?,
                (MetaGraph, 2) => {
                    graph.has_graph = true;
                    self.message(GraphDef, end, graph)?;
                }
                (MetaGraph, 5) => {
                    let entry = SignatureEntry::decode(&*self.take(end)?).map_err(|error| fault(error.to_string()))?;
                    graph.signatures.insert(entry.name, entry.signature.unwrap_or_default());
                }
                (MetaInfo, 4) => drop(graph.tags.insert(self.text(end)?)),
                (MetaInfo, 5) => graph.version = self.text(end)?,
                (GraphDef, 1) | (Function, 3) => {
                    graph.operators += 1;
                    self.message(Node, end, graph)?;
                }
                (GraphDef, 2) => self.message(Library, end, graph)?,
                (Library, 1) => self.message(Function, end, graph)?,
                (Node, 2) => self.operator(end, graph)?,
                _ => self.wire.skip(end).map_err(&at_end)?,
            }
        }
        Ok(())
    }

    fn operator(&mut self, end: u64, graph: &mut Graph) -> Result<(), KindError> {
        const LONGEST: u64 = 64;
        let at_end = wire_error(ModelKind::SavedModel);
        if self.wire.left(end) > LONGEST {
            return self.wire.skip(end).map_err(at_end);
        }
        let name = self.wire.bytes(end).map_err(at_end)?;
        graph.has_variables |= VARIABLES.iter().any(|variable| variable.as_bytes() == name);
        graph.reaching.extend(REACHING.iter().find(|reaching| reaching.as_bytes() == name));
        Ok(())
    }

    fn take(&mut self, end: u64) -> Result<Vec<u8>, KindError> {
        let too_much = || fault("its signatures and names have more than 2 MiB");
        self.room = self.room.checked_sub(self.wire.left(end)).ok_or_else(too_much)?;
        self.wire.bytes(end).map_err(wire_error(ModelKind::SavedModel))
    }

    fn text(&mut self, end: u64) -> Result<String, KindError> {
        String::from_utf8(self.take(end)?).map_err(|_| fault("a name is not UTF-8"))
    }
}
