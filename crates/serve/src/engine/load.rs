//! Loading a model file, and what it takes and gives in the protocol's words.
//!
//! A sequence of maps (what scikit-learn's converter calls ZipMap) becomes two outputs: `NAME`, one row per map and one column
//! per key, and `NAME_labels`, the keys. A single map becomes one row without the row axis. A sequence of tensors becomes one
//! tensor with the sequence as its first axis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{TensorElementType, ValueType};

use super::{Engine, Fill, Onnx, Runner};
use crate::Error;
use crate::python::{Function, Plan};

/// How an output of the engine becomes tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// It is one.
    Tensor(Datatype),
    /// One map, or a sequence of them.
    Map { key: Datatype, value: Datatype, sequence: bool },
    /// A sequence of tensors of one shape.
    Sequence(Datatype),
}

/// How to load a model again and again, a time for each thread.
#[derive(Clone, Debug)]
pub(crate) struct Blueprint {
    pub(crate) source: Source,
    /// What fills inputs that callers leave out, in the signature's order; empty until the signature is known.
    pub(crate) fills: Vec<Option<Fill>>,
}

/// Where an engine comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A model file.
    Onnx { environment: Environment, path: PathBuf, share_weights: bool },
    /// A Python function.
    Python(Arc<Plan>),
}

impl Blueprint {
    /// Loads the model with `threads` threads within a run; a Python function has those that it takes.
    pub(crate) fn load(&self, threads: usize) -> Result<Engine, Error> {
        let runner = match &self.source {
            Source::Onnx { environment, path, share_weights } => {
                Runner::Onnx(Onnx::load(environment, path, threads, *share_weights)?)
            }
            Source::Python(plan) => {
                let refused = |reason| Error::Function { entry: plan.entry.to_string(), reason };
                Runner::Python(Box::new(Function::start(plan.clone()).map_err(refused)?))
            }
        };
        Ok(Engine { runner, fills: self.fills.clone() })
    }
}

impl Onnx {
    fn load(environment: &Environment, path: &Path, threads: usize, share_weights: bool) -> Result<Self, Error> {
        let session = open(environment, path, threads, share_weights)
            .map_err(|error| Error::Load { path: path.to_owned(), reason: explained(&error) })?;
        let unservable = |reason| Error::Unservable { path: path.to_owned(), reason };
        let forms = session.outputs().iter().map(|outlet| form(outlet.name(), outlet.dtype()));
        let forms = forms.collect::<Result<_, _>>().map_err(unservable)?;
        let required = session.inputs().iter().map(|outlet| outlet.name().to_owned());
        let optional = session.overridable_initializers().into_iter().map(|initializer| initializer.name().to_owned());
        Ok(Self { inputs: required.chain(optional).collect(), forms, session })
    }
}

/// What the loader said, and what to do about the failures that do not speak for themselves.
fn explained(error: &ort::Error) -> String {
    let said = error.message().trim();
    match said.contains("construct locale") {
        true => format!(
            "{said} (the model changes the case of texts, for which the engine needs a locale: install it, for example with \
             `locale-gen en_US.UTF-8`, or export the model without lower-casing)"
        ),
        false => said.to_owned(),
    }
}

fn open(environment: &Environment, path: &Path, threads: usize, share_weights: bool) -> ort::Result<Session> {
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        // Spinning would burn the cores that other instances, the gateway and the caller share.
        .with_intra_op_spinning(false)?
        // Patterns are kept per input shape, for ever: batches come in every size.
        .with_memory_pattern(false)?
        .with_execution_providers([ep::CPU::default().with_arena_allocator(true).build()])?
        .with_log_level(LogLevel::Warning)?
        // Packing lays weights out anew on the heap of every instance; unpacked ones stay pages of their file, which are there once.
        .with_prepacking(!share_weights)?;
    builder.commit_from_file(path)
}

impl Engine {
    /// What the model takes and gives; `None` for a function, which does not say.
    pub(crate) fn signature(&self) -> Option<Result<Signature, String>> {
        match &self.runner {
            Runner::Onnx(onnx) => Some(onnx.signature()),
            Runner::Python(_) => None,
        }
    }
}

impl Onnx {
    fn signature(&self) -> Result<Signature, String> {
        let mut inputs = Vec::new();
        for outlet in self.session.inputs() {
            inputs.push(tensor_spec("input", outlet.name(), outlet.dtype(), false)?);
        }
        for initializer in self.session.overridable_initializers() {
            inputs.push(tensor_spec("input", initializer.name(), initializer.dtype(), true)?);
        }
        let mut outputs = Vec::new();
        for (outlet, form) in self.session.outputs().iter().zip(&self.forms) {
            outputs.extend(output_specs(outlet.name(), outlet.dtype(), *form));
        }
        Ok(Signature { inputs, outputs })
    }
}

fn output_specs(name: &str, kind: &ValueType, form: Form) -> Vec<TensorSpec> {
    let spec = |name: String, datatype, shape: Vec<i64>| TensorSpec { name, datatype, shape, optional: false };
    match form {
        Form::Tensor(datatype) => vec![spec(name.to_owned(), datatype, axes(kind))],
        Form::Map { key, value, sequence } => {
            let shape = if sequence { vec![-1, -1] } else { vec![-1] };
            vec![spec(name.to_owned(), value, shape), spec(format!("{name}_labels"), key, vec![-1])]
        }
        Form::Sequence(datatype) => {
            let ValueType::Sequence(inner) = kind else { return Vec::new() };
            vec![spec(name.to_owned(), datatype, [-1].into_iter().chain(axes(inner)).collect())]
        }
    }
}

fn axes(kind: &ValueType) -> Vec<i64> {
    kind.tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default()
}

fn tensor_spec(what: &str, name: &str, kind: &ValueType, optional: bool) -> Result<TensorSpec, String> {
    let ValueType::Tensor { ty, shape, .. } = kind else {
        return Err(format!("its {what} `{name}` is no tensor but {kind}"));
    };
    let datatype = datatype(*ty)
        .ok_or_else(|| format!("its {what} `{name}` has elements of {ty}, which the protocol cannot carry"))?;
    Ok(TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec(), optional })
}

fn form(name: &str, kind: &ValueType) -> Result<Form, String> {
    let refused = || format!("its output `{name}` is {kind}, which the protocol cannot carry");
    let map = |key: &TensorElementType, value: &TensorElementType, sequence| {
        let key = datatype(*key).filter(|key| matches!(key, Datatype::Int64 | Datatype::Bytes));
        let value = datatype(*value).filter(|value| matches!(value, Datatype::Fp32 | Datatype::Fp64 | Datatype::Int64));
        Ok(Form::Map { key: key.ok_or_else(refused)?, value: value.ok_or_else(refused)?, sequence })
    };
    match kind {
        ValueType::Tensor { ty, .. } => datatype(*ty).map(Form::Tensor).ok_or_else(refused),
        ValueType::Map { key, value } => map(key, value, false),
        ValueType::Sequence(inner) => match &**inner {
            ValueType::Map { key, value } => map(key, value, true),
            ValueType::Tensor { ty, .. } => datatype(*ty).map(Form::Sequence).ok_or_else(refused),
            _ => Err(refused()),
        },
        ValueType::Optional(_) => Err(refused()),
    }
}

fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}
