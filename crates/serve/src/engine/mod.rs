//! One loaded model: in ONNX Runtime, or a Python function in a worker process.
//!
//! Promises: what comes out are plain tensors, maps and sequences included; a fault of the inputs is told from a fault of the
//! engine, and neither message holds the caller's data.
//! Absent on purpose: sharing. One engine belongs to one thread: the binding wants `&mut` for a run, because parts of the
//! engine are not safe to share. Small models are loaded once per thread instead.

mod fill;
mod library;
mod load;
mod outputs;

pub(crate) use fill::{Fill, fills};
pub(crate) use library::load as load_library;
pub(crate) use load::{Blueprint, Form, Source};

use ort::session::{Session, SessionInputValue};
use ort::value::{Tensor as OrtTensor, TensorRef};
use serde::{Deserialize, Serialize};

use crate::python::Function;
use crate::tensor::{Data, Tensor};

/// One output of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Output {
    pub(crate) tensor: Tensor,
    /// Belongs to the whole run (the labels of a map) and has no row per request.
    pub(crate) shared: bool,
    /// How MLflow's scoring server would write it; known of its models only.
    pub(crate) form: Option<Scored>,
}

/// What an MLflow model gave, before it became a tensor: its scoring server writes each in another way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scored {
    /// An array or a list: bare.
    List,
    /// A value of a dict.
    Value,
    /// A column of a table, and what it is called there: a record for each row.
    Column(String),
}

/// What the engine says of a category that the model was not trained on, with the code of a failure of its own.
const UNKNOWN_CATEGORY: &str = "Unknown Category";

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineError {
    /// What is to blame.
    pub(crate) fault: Fault,
    /// What the engine said, without numbers.
    pub(crate) message: String,
}

/// What a failed run is to be blamed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The inputs.
    Caller,
    /// The engine, which can be asked again.
    Engine,
    /// It did not answer in time, and was ended.
    TimedOut,
    /// It ended while it was asked.
    Lost,
    /// It had ended before.
    Gone,
}

impl EngineError {
    fn new(error: &ort::Error) -> Self {
        tracing::debug!(%error, "a run failed");
        // The engine's message can quote an element (`idx=7 must be within …`), and elements are never echoed.
        let mut message = String::new();
        for letter in error.message().chars().take(400) {
            match letter.is_ascii_digit() {
                true if message.ends_with('#') => {}
                true => message.push('#'),
                false => message.push(letter),
            }
        }
        let callers_fault = error.code() == ort::ErrorCode::InvalidArgument || message.contains(UNKNOWN_CATEGORY);
        Self { fault: if callers_fault { Fault::Caller } else { Fault::Engine }, message }
    }
}

/// One loaded model.
pub(crate) struct Engine {
    runner: Runner,
    /// What fills an input that was left out, in the signature's order.
    fills: Vec<Option<Fill>>,
}

enum Runner {
    Onnx(Onnx),
    Python(Box<Function>),
}

struct Onnx {
    session: Session,
    /// Names of the inputs in the signature's order.
    inputs: Vec<String>,
    forms: Vec<Form>,
}

impl Onnx {
    fn run(&mut self, inputs: &[Option<&Tensor>]) -> Result<Vec<Output>, EngineError> {
        let present = self.inputs.iter().zip(inputs).filter_map(|(name, tensor)| tensor.map(|tensor| (name, tensor)));
        let values = present
            .map(|(name, tensor)| Ok((name.as_str().into(), input_value(tensor)?)))
            .collect::<Result<Vec<(std::borrow::Cow<'_, str>, _)>, ort::Error>>();
        let values = values.map_err(|error| EngineError::new(&error))?;
        let found = self.session.run(values).map_err(|error| EngineError::new(&error))?;
        let mut outputs = Vec::with_capacity(self.forms.len() + 1);
        for (form, value) in self.forms.iter().zip(found.values()) {
            outputs::take(*form, &value, &mut outputs).map_err(|error| EngineError::new(&error))?;
        }
        Ok(outputs)
    }
}

impl Engine {
    /// Runs the model on inputs that fit the signature.
    pub(crate) fn run(&mut self, inputs: &[Option<Tensor>]) -> Result<Vec<Output>, EngineError> {
        let filled = self.filled(inputs);
        let left_out = |index: usize| filled.get(index).and_then(Option::as_ref);
        let given: Vec<Option<&Tensor>> =
            inputs.iter().enumerate().map(|(index, tensor)| tensor.as_ref().or_else(|| left_out(index))).collect();
        match &mut self.runner {
            Runner::Onnx(onnx) => onnx.run(&given),
            Runner::Python(function) => function.run(&given),
        }
    }

    /// The function, if it is one: its worker may have to be replaced.
    pub(crate) fn function(&mut self) -> Option<&mut Function> {
        match &mut self.runner {
            Runner::Onnx(_) => None,
            Runner::Python(function) => Some(function),
        }
    }

    /// What flags put where callers left something out; nothing at all for a model without such inputs.
    fn filled(&self, inputs: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
        if self.fills.iter().all(Option::is_none) {
            return Vec::new();
        }
        let theirs = inputs.iter().zip(&self.fills).filter(|(_, fill)| fill.is_none());
        let rows = theirs.filter_map(|(tensor, _)| tensor.as_ref()?.shape.first().copied()).next().unwrap_or(1);
        let fill = |(tensor, fill): (&Option<Tensor>, &Option<Fill>)| match (tensor, fill) {
            (None, Some(fill)) => Some(fill.tensor(rows)),
            _ => None,
        };
        inputs.iter().zip(&self.fills).map(fill).collect()
    }

    /// Tells the engine what fills inputs that are left out.
    pub(crate) fn fill(&mut self, fills: Vec<Option<Fill>>) {
        self.fills = fills;
    }

    /// Whether a flag fills that input when it is left out.
    pub(crate) fn fills(&self, index: usize) -> bool {
        self.fills.get(index).is_some_and(Option::is_some)
    }

    /// Whether the caller says another value than the flag.
    pub(crate) fn is_overridden(&self, inputs: &[Option<Tensor>]) -> bool {
        inputs.iter().enumerate().any(|(index, tensor)| tensor.is_some() && self.fills(index))
    }
}

fn input_value(tensor: &Tensor) -> Result<SessionInputValue<'_>, ort::Error> {
    let shape = tensor.shape.as_slice();
    Ok(match &tensor.data {
        Data::Bool(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Uint8(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Uint16(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Uint32(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Uint64(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Int8(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Int16(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Int32(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Int64(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Fp16(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Bf16(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Fp32(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Fp64(list) => TensorRef::from_array_view((shape, list.as_slice()))?.into(),
        Data::Bytes(list) => OrtTensor::from_string_array((shape, list.as_slice()))?.into(),
    })
}
