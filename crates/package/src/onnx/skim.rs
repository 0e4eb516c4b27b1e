//! A walk through an ONNX file that notes what a package must know and leaves the weights where they are.
//!
//! Promises: memory stays under a few times [`MAX_NOTED_BYTES`] whatever the file; a file of gigabytes costs a few reads.
//! Source: the field numbers of `onnx.proto` (ONNX IR version 13).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use prost::Message;

use super::OnnxError;
use super::proto::{Entry, Opset, ValueInfo};
use crate::wire::{Content, Wire};

/// Names and types of inputs, outputs and weights that are noted, in bytes: hundreds of times what real models have.
const MAX_NOTED_BYTES: u64 = 8 << 20;

/// Protocol Buffers cannot say more, and no ONNX reader loads more.
const MAX_FILE_BYTES: u64 = (2 << 30) - 1;

/// How deep messages may lie within each other. Source: the limit of the Protocol Buffers libraries, which the engine has too.
const MAX_DEPTH: u32 = 100;

/// What was noted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) has_graph: bool,
    pub(super) ir_version: i64,
    pub(super) producer_name: String,
    pub(super) producer_version: String,
    pub(super) opsets: Vec<Opset>,
    pub(super) inputs: Vec<ValueInfo>,
    pub(super) outputs: Vec<ValueInfo>,
    /// Names of the outermost graph's weights.
    pub(super) weights: BTreeSet<String>,
    /// Operators, subgraphs and functions included.
    pub(super) operators: u64,
    /// Files that hold weights, and the length that each must have at least.
    pub(super) external: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    /// The outermost graph, whose inputs and outputs are the model's.
    Graph,
    Subgraph,
    Node,
    Attribute,
    Function,
    SparseWeight,
}

/// Walks through the file of `length` bytes.
pub(super) fn skim(source: impl Read + Seek, length: u64) -> Result<Notes, OnnxError> {
    if length > MAX_FILE_BYTES {
        return Err(OnnxError::TooLarge(
            "it has more than 2 GiB, which no ONNX reader loads: keep its weights in files beside it",
        ));
    }
    let mut walk = Walk { wire: Wire::new(source), notes: Notes::default(), room: MAX_NOTED_BYTES };
    if let Some(what) = foreign(walk.wire.peek()?) {
        return Err(OnnxError::Foreign(what));
    }
    walk.message(Kind::Model, length, MAX_DEPTH)?;
    Ok(walk.notes)
}

/// What the file is instead, by its first bytes.
pub(crate) fn foreign(start: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 7] = [
        (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to get the model itself"),
        (b"PK\x03\x04", "a zip archive, as PyTorch and Keras save models: export the model to ONNX"),
        (b"\x89HDF", "an HDF5 file, as Keras saves models: export the model to ONNX"),
        (b"\x80\x04", "a Python pickle: export the model to ONNX"),
        (b"\x80\x05", "a Python pickle: export the model to ONNX"),
        (b"\x1f\x8b", "a gzip file: unpack it first"),
        (b"<", "a web page or XML: the download went wrong"),
    ];
    known.into_iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| what)
}

struct Walk<R> {
    wire: Wire<R>,
    notes: Notes,
    /// Bytes that may still be noted.
    room: u64,
}

impl<R: Read + Seek> Walk<R> {
    fn message(&mut self, kind: Kind, end: u64, depth: u32) -> Result<(), OnnxError> {
        use Kind::*;
        let depth = depth.checked_sub(1).ok_or(OnnxError::TooLarge("its graphs lie too deep within each other"))?;
        while let Some((number, content)) = self.wire.field(end)? {
            let end = match (kind, number, content) {
                (Model, 1, Content::Varint(version)) => {
                    self.notes.ir_version = version.cast_signed();
                    continue;
                }
                (_, _, Content::Until(end)) => end,
                (_, _, Content::Varint(_) | Content::Fixed) => continue,
            };
            match (kind, number) {
                (Model, 2) => self.notes.producer_name = self.text(end)?,
                (Model, 3) => self.notes.producer_version = self.text(end)?,
                (Model, 7) => {
                    self.notes.has_graph = true;
                    self.message(Graph, end, depth)?;
                }
                (Model, 8) => {
                    let opset = self.note(end)?;
                    self.notes.opsets.push(opset);
                }
                (Model, 25) => self.message(Function, end, depth)?,
                (Graph | Subgraph, 1) | (Function, 7) => {
                    self.notes.operators += 1;
                    self.message(Node, end, depth)?;
                }
                (Graph, 5) => self.weight(end, true)?,
                (Subgraph, 5) | (Attribute, 5 | 10) | (SparseWeight, 1 | 2) => self.weight(end, false)?,
                (Graph | Subgraph, 15) | (Attribute, 22 | 23) => self.message(SparseWeight, end, depth)?,
                (Graph, 11) => {
                    let input = self.note(end)?;
                    self.notes.inputs.push(input);
                }
                (Graph, 12) => {
                    let output = self.note(end)?;
                    self.notes.outputs.push(output);
                }
                (Node, 5) => self.message(Attribute, end, depth)?,
                (Attribute, 6 | 11) => self.message(Subgraph, end, depth)?,
                _ => self.wire.skip(end)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, end: u64) -> Result<Vec<u8>, OnnxError> {
        const TOO_MUCH: OnnxError = OnnxError::TooLarge("its inputs, outputs and names have more than 8 MiB");
        self.room = self.room.checked_sub(self.wire.left(end)).ok_or(TOO_MUCH)?;
        Ok(self.wire.bytes(end)?)
    }

    fn text(&mut self, end: u64) -> Result<String, OnnxError> {
        String::from_utf8(self.take(end)?).map_err(|_| OnnxError::Broken("a name is not UTF-8".to_owned()))
    }

    fn note<M: Message + Default>(&mut self, end: u64) -> Result<M, OnnxError> {
        M::decode(&*self.take(end)?).map_err(|error| OnnxError::Broken(error.to_string()))
    }

    /// A weight: its name if wanted, and where its data is if not in the file.
    fn weight(&mut self, end: u64, named: bool) -> Result<(), OnnxError> {
        const EXTERNAL: u64 = 1;
        let (mut place, mut is_external) = (Vec::<Entry>::new(), false);
        while let Some((number, content)) = self.wire.field(end)? {
            match (number, content) {
                (8, Content::Until(end)) if named => {
                    let name = self.text(end)?;
                    self.notes.weights.insert(name);
                }
                (13, Content::Until(end)) => place.push(self.note(end)?),
                (14, Content::Varint(location)) => is_external = location == EXTERNAL,
                (_, Content::Until(end)) => self.wire.skip(end)?,
                _ => {}
            }
        }
        if is_external { self.external(&place) } else { Ok(()) }
    }

    /// Source: onnx, `docs/ExternalData.md`.
    fn external(&mut self, place: &[Entry]) -> Result<(), OnnxError> {
        let find = |key: &str| place.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let broken = |why: &str| OnnxError::Broken(why.to_owned());
        let number = |key| match find(key) {
            None => Ok(0),
            Some(text) => text.parse::<u64>().map_err(|_| broken("where a weight lies in its file is no number")),
        };
        let location = find("location").ok_or_else(|| broken("a weight lies in another file that is not named"))?;
        let length = number("offset")?.checked_add(number("length")?);
        let length = length.ok_or_else(|| broken("where a weight lies in its file is impossible"))?;
        let location = location.trim_start_matches("./").to_owned();
        let known = self.notes.external.entry(location).or_default();
        *known = length.max(*known);
        Ok(())
    }
}
