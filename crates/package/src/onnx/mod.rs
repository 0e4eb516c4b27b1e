//! Reading an ONNX file for what a package must say of it: signature, operator sets, producer, files beside it.
//!
//! Promises: no weights are read, nothing is executed, and no bytes make it panic or take more than a few megabytes.
//! Absent on purpose: whether the engine can run the graph; that is found out when it is loaded.

mod proto;
mod skim;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read, Seek};

pub(crate) use self::skim::foreign;
pub(crate) use self::types::check_names;
use modelyard_core::package;
use modelyard_core::signature::Signature;

use crate::wire::WireError;

/// What an ONNX file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Inputs and outputs, as the model server presents them.
    pub signature: Signature,
    /// Outputs whose shape the file does not state; they stand in the signature without axes.
    pub unshaped: BTreeSet<String>,
    /// Facts for the package document.
    pub graph: package::Graph,
    /// Files beside the model that hold some of its weights, relative to its folder, and how long each must be at least.
    pub external: BTreeMap<String, u64>,
}

/// Why a file is no usable ONNX model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// The bytes are no model.
    #[error("it is not an ONNX model, or it is cut short: {0}")]
    Broken(String),
    /// The file is something else that is well known.
    #[error("it is {0}")]
    Foreign(&'static str),
    /// The file cannot be read to its end.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The model is larger than can be handled.
    #[error("{0}")]
    TooLarge(&'static str),
    /// The model has no graph, or no input or output.
    #[error("the model has no {0}")]
    Empty(&'static str),
    /// An input or output is of a kind that no protocol carries.
    #[error("{direction} `{name}` {what}, which cannot be served")]
    Unservable {
        /// `input` or `output`.
        direction: &'static str,
        /// Its name.
        name: String,
        /// What it is.
        what: String,
    },
}

impl From<WireError> for OnnxError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Broken(why) => Self::Broken(why),
            WireError::Unreadable(why) => Self::Unreadable(why),
        }
    }
}

/// Reads the bytes of an ONNX file.
///
/// # Errors
/// [`OnnxError`]; never panics, whatever the bytes.
pub fn read(bytes: &[u8]) -> Result<Facts, OnnxError> {
    read_from(Cursor::new(bytes), bytes.len() as u64)
}

/// Reads an ONNX file of `length` bytes, skipping over its weights.
///
/// # Errors
/// [`OnnxError`]; never panics, whatever the bytes.
pub fn read_from(source: impl Read + Seek, length: u64) -> Result<Facts, OnnxError> {
    let notes = skim::skim(source, length)?;
    if !notes.has_graph {
        return Err(OnnxError::Empty("graph"));
    }
    let (mut signature, mut unshaped) = (Signature::default(), BTreeSet::new());
    for input in &notes.inputs {
        // Before IR version 4 every weight was listed as an input too; since then such an input is one with a default.
        let optional = notes.weights.contains(&input.name);
        if !(optional && notes.ir_version < 4) {
            signature.inputs.push(types::input(input, optional)?);
        }
    }
    for output in &notes.outputs {
        let (specs, shaped) = types::outputs(output)?;
        if !shaped {
            unshaped.insert(output.name.clone());
        }
        signature.outputs.extend(specs);
    }
    match (signature.inputs.is_empty(), signature.outputs.is_empty()) {
        (true, _) => return Err(OnnxError::Empty("input")),
        (_, true) => return Err(OnnxError::Empty("output")),
        (false, false) => {}
    }
    types::check_names("input", &signature.inputs)?;
    types::check_names("output", &signature.outputs)?;
    Ok(Facts { signature, unshaped, graph: facts(&notes), external: notes.external })
}

fn facts(notes: &skim::Notes) -> package::Graph {
    let domain = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    let opsets: BTreeMap<String, i64> = notes.opsets.iter().map(|set| (domain(&set.domain), set.version)).collect();
    let producer = format!("{} {}", notes.producer_name, notes.producer_version).trim().to_owned();
    package::Graph { ir_version: notes.ir_version, opsets, producer, operators: notes.operators }
}
