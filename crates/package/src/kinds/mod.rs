//! Model files of every kind, recognised by their content and read for what a package must say of them.
//!
//! Promises: nothing is unpickled or executed, no weights are read, and no bytes make it panic or take more than some tens of megabytes.
//! A file that certainly is of a kind, by its first bytes or by its name, and is broken, is an error; anything else is just not recognised.
//! Absent on purpose: whether the framework can load the file; that is found out where it is run.

mod archive;
mod core_ml;
mod folder;
mod gguf;
mod pickle;
mod safetensors;
mod saved_model;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek, SeekFrom};

use modelyard_core::model_file::{ModelFile, ModelKind};
use modelyard_core::signature::Signature;
use serde_json::{Value, json};

pub(crate) use self::folder::{Recognised, recognise};
pub use self::pickle::is_called_like_a_pickle;
use crate::onnx::{self, OnnxError};
use crate::wire::{Content, Wire, WireError};

/// Bytes at random places.
pub(crate) trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// What a model file says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its kind and facts, for the package document.
    pub file: ModelFile,
    /// What it takes and gives; or why it does not say.
    pub signature: Result<Signature, String>,
    /// Outputs whose shape the file does not state; they stand in the signature without axes.
    pub unshaped: BTreeSet<String>,
    /// What loading it may do to whoever loads it.
    pub risk: Option<String>,
    /// Whether it needs files beside it: a SavedModel its variables.
    pub needs_variables: bool,
}

impl Found {
    fn new(kind: ModelKind, facts: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        let facts = facts.into_iter().filter(|(_, value)| !is_empty(value));
        let facts: BTreeMap<String, Value> = facts.map(|(name, value)| (name.to_owned(), value)).collect();
        let why = format!("a {kind} file does not say what its model takes and gives");
        let file = ModelFile { kind, facts };
        Self { file, signature: Err(why), unshaped: BTreeSet::new(), risk: None, needs_variables: false }
    }

    fn at_risk(self, risk: impl Into<String>) -> Self {
        Self { risk: Some(risk.into()), ..self }
    }
}

/// Why a model file is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// It is of that kind, and broken.
    #[error("it is no {kind} file, or it is cut short: {why}")]
    Broken {
        /// What it should be.
        kind: ModelKind,
        /// What is wrong.
        why: String,
    },
    /// It cannot be read to its end.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// A broken ONNX file.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

/// For errors of a reader: what it reads, and why not.
fn broken(kind: ModelKind) -> impl Fn(String) -> KindError {
    move |why| KindError::Broken { kind, why }
}

fn wire_error(kind: ModelKind) -> impl Fn(WireError) -> KindError {
    move |error| match error {
        WireError::Broken(why) => KindError::Broken { kind, why },
        WireError::Unreadable(why) => KindError::Unreadable(why),
    }
}

fn unreadable(error: std::io::Error) -> KindError {
    KindError::Unreadable(error.to_string())
}

/// Reads the bytes of a file that is called `name`; `None` when they are of no kind that is known.
///
/// # Errors
/// [`KindError`] when they certainly are of a kind, and broken. Never panics, whatever the bytes.
pub fn read(bytes: &[u8], name: &str) -> Result<Option<Found>, KindError> {
    read_from(&mut Cursor::new(bytes), bytes.len() as u64, name)
}

/// The same of a file of `length` bytes.
pub(crate) fn read_from(source: &mut dyn Source, length: u64, name: &str) -> Result<Option<Found>, KindError> {
    let mut start = Vec::new();
    source.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    source.take(64).read_to_end(&mut start).map_err(unreadable)?;
    let called = called(name);
    // Safetensors begin with the length of their header, which may look like anything.
    let may_begin_so = called == Some(ModelKind::Safetensors) && start.get(8) == Some(&b'{');
    if let Some((kind, what)) = called.zip(onnx::foreign(&start)).filter(|_| !may_begin_so) {
        return Err(broken(kind)(format!("it is {what}")));
    }
    for read in [safetensors::attempt, gguf::attempt, archive::attempt, pickle::attempt, message] {
        source.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        match read(source, length, &start) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            Err(KindError::Unreadable(why)) => return Err(KindError::Unreadable(why)),
            Err(KindError::Broken { kind, why }) if kind == ModelKind::Gguf || called == Some(kind) => {
                return Err(broken(kind)(why));
            }
            // It only began like one.
            Err(_) => {}
        }
    }
    match called {
        Some(kind) => Err(broken(kind)("nothing in it is as it should be".to_owned())),
        None => Ok(pickle::by_name(name)),
    }
}

/// Whether a file of that name is a model or a risk whatever is in it, broken perhaps.
pub(crate) fn is_settled_by(name: &str) -> bool {
    called(name).is_some() || is_called_like_a_pickle(name)
}

/// What a file of that name must be: names that are never used for anything else.
fn called(name: &str) -> Option<ModelKind> {
    let file = name.rsplit('/').next().unwrap_or(name);
    match file.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "safetensors" => Some(ModelKind::Safetensors),
        "gguf" => Some(ModelKind::Gguf),
        "mlmodel" => Some(ModelKind::CoreMl),
        "pb" if file == "saved_model.pb" => Some(ModelKind::SavedModel),
        _ => None,
    }
}

/// SavedModel, Core ML and ONNX are Protocol Buffers messages that begin with the same bytes: they differ in which fields they have.
///
/// Source: `saved_model.proto` of TensorFlow, `Model.proto` of Core ML, `onnx.proto`.
fn message(source: &mut dyn Source, length: u64, start: &[u8]) -> Result<Option<Found>, KindError> {
    /// Both formats begin with a version, field 1; writers may leave it out when it is zero.
    const BEGINNINGS: [u8; 2] = [0x08, 0x12];
    const MAX_MESSAGE_BYTES: u64 = (2 << 30) - 1;
    if !start.first().is_some_and(|first| BEGINNINGS.contains(first)) || length > MAX_MESSAGE_BYTES {
        return Ok(None);
    }
    let Some(numbers) = outermost(source, length)? else { return Ok(None) };
    source.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let is_core_ml = numbers.contains(&2) && numbers.range(200..=3_000).next().is_some();
    match (numbers.contains(&7), is_core_ml, numbers.iter().all(|number| [1, 2].contains(number))) {
        (_, true, _) => core_ml::read(source, length).map(Some),
        (true, _, _) => of_onnx(source, length).map(Some),
        (_, _, true) => saved_model::read(source, length).map(Some),
        _ => Ok(None),
    }
}

/// Numbers of a message's outermost fields; `None` when it is no message.
fn outermost(source: &mut dyn Source, length: u64) -> Result<Option<BTreeSet<u64>>, KindError> {
    // Models have a few; metadata and functions may be thousands.
    const MAX_FIELDS: usize = 100_000;
    let (mut wire, mut numbers) = (Wire::new(source), BTreeSet::new());
    for _ in 0..MAX_FIELDS {
        let content = match wire.field(length) {
            Ok(None) => return Ok(Some(numbers)),
            Ok(Some((number, content))) => {
                numbers.insert(number);
                content
            }
            Err(WireError::Broken(_)) => return Ok(None),
            Err(WireError::Unreadable(why)) => return Err(KindError::Unreadable(why)),
        };
        if let Content::Until(end) = content {
            wire.skip(end).map_err(wire_error(ModelKind::Onnx))?;
        }
    }
    Ok(None)
}

fn of_onnx(source: &mut dyn Source, length: u64) -> Result<Found, KindError> {
    let facts = match onnx::read_from(&mut *source, length) {
        Err(error @ (OnnxError::Unservable { .. } | OnnxError::Empty(_))) => {
            return Ok(Found { signature: Err(error.to_string()), ..Found::new(ModelKind::Onnx, []) });
        }
        read => read?,
    };
    let graph = facts.graph;
    let told =
        [("producer", told(&graph.producer)), ("operators", json!(graph.operators)), ("opsets", json!(graph.opsets))];
    Ok(Found { signature: Ok(facts.signature), unshaped: facts.unshaped, ..Found::new(ModelKind::Onnx, told) })
}

/// Words from a model file, for people: short, and without control characters.
fn told(text: &str) -> Value {
    const MOST: usize = 200;
    json!(text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim())
}

/// Why the tensors cannot be an interface: one without a name, or two with the same.
fn names_fault(signature: &Signature) -> Option<String> {
    [("input", &signature.inputs), ("output", &signature.outputs)]
        .into_iter()
        .find_map(|(direction, specs)| onnx::check_names(direction, specs).err())
        .map(|error| error.to_string())
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_str().is_some_and(str::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}
