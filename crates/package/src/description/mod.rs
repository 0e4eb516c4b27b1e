//! `modelyard.toml`: what a model folder says of itself.
//!
//! Promises: every mistake at once, each at its place in the text and, for a misspelt key, with what was probably meant.
//! Absent on purpose: files. Whether what it names is there is looked up when the package is built.

mod lineage;
mod meanings;
mod reader;
mod signature;
mod tables;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use modelyard_core::package::{Flag, PYTHON_REQUIRES, Resources, Runtime};
use modelyard_core::signature::Signature;
use modelyard_core::{ModelName, Version};
use serde_json::Value;
use toml::de::{DeTable, DeValue};

pub(crate) use self::lineage::DataSet;
pub use self::lineage::Lineage;
pub use self::meanings::Said;
use self::reader::{Reader, Table};
pub(crate) use self::tables::request_path_fault;

/// Keys that stand above the first table.
const ALONE: [&str; 2] = ["files", "samples"];
const KEYS: [&str; 17] = [
    "model",
    "runtime",
    "signature",
    "inputs",
    "outputs",
    "files",
    "samples",
    "parameters",
    "metrics",
    "dependencies",
    "flags",
    "reference",
    "resources",
    "annotations",
    "lineage",
    "python",
    "image",
];
const REFERENCE: [&str; 1] = ["data"];
const IMAGE: [&str; 1] = ["base"];
const MODEL: [&str; 6] = ["name", "version", "description", "license", "authors", "card"];

/// What `modelyard.toml` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Name, version and words.
    pub model: Model,
    /// How it is run.
    pub runtime: Placed<Runtime>,
    /// The model file whose signature is the package's, where the runtime itself names none: of a program, a function, or nothing.
    pub model_file: Option<Placed<String>>,
    /// What a `python` package takes and gives; that of an ONNX model is read from the model itself.
    pub signature: Option<Placed<Signature>>,
    /// What its inputs and outputs mean.
    pub meanings: Said,
    /// Files beside the model's own: paths, folders, or patterns with `*` within one folder.
    pub files: Vec<Placed<String>>,
    /// Where the samples are.
    pub samples: Option<Placed<Samples>>,
    /// Training parameters.
    pub parameters: BTreeMap<String, Value>,
    /// Evaluation metrics.
    pub metrics: BTreeMap<String, f64>,
    /// What it was trained with and needs.
    pub dependencies: BTreeMap<String, String>,
    /// File of data that the model's inputs and outputs are like: its profile goes into the package.
    pub reference: Option<Placed<String>>,
    /// Typed flags.
    pub flags: BTreeMap<String, Placed<Flag>>,
    /// What an instance needs.
    pub resources: Resources,
    /// Free annotations.
    pub annotations: BTreeMap<String, String>,
    /// What it was made from.
    pub lineage: Option<Lineage>,
    /// The image that container images of it are put on. It is no part of the package.
    pub base: Option<String>,
}

/// The table `[model]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Name of the model.
    pub name: ModelName,
    /// Version of the package.
    pub version: Version,
    /// One line for lists.
    pub description: String,
    /// Licence, as an SPDX expression.
    pub license: Option<String>,
    /// Authors.
    pub authors: Vec<String>,
    /// Path of the model card.
    pub card: Option<Placed<String>>,
}

/// Samples as they are written down.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// A JSON file with a list.
    File(String),
    /// The list itself.
    Inline(Vec<Value>),
}

/// A value and its place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Bytes of the text that say it.
    pub at: Range<usize>,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong and what to write instead.
    pub what: String,
    /// Its line, from 1.
    pub line: usize,
    /// Bytes of the text that are meant.
    pub at: Range<usize>,
}

impl Mistake {
    /// A mistake at a place of `text`.
    pub(crate) fn new(text: &str, at: Range<usize>, what: String) -> Self {
        let before = text.as_bytes().get(..at.start).unwrap_or(text.as_bytes());
        Self { what, line: before.iter().filter(|&&byte| byte == b'\n').count() + 1, at }
    }
}

impl Description {
    /// What a file says of itself that has no description.
    pub(crate) fn of(model: Model, runtime: Runtime) -> Self {
        Self {
            model,
            runtime: Placed { value: runtime, at: 0..0 },
            model_file: None,
            signature: None,
            meanings: Said::default(),
            files: Vec::new(),
            samples: None,
            parameters: BTreeMap::new(),
            metrics: BTreeMap::new(),
            dependencies: BTreeMap::new(),
            reference: None,
            flags: BTreeMap::new(),
            resources: Resources::default(),
            annotations: BTreeMap::new(),
            lineage: None,
            base: None,
        }
    }

    /// Reads the text of a `modelyard.toml`.
    ///
    /// # Errors
    /// Every [`Mistake`], in the order of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader::new(text);
        let (document, broken) = DeTable::parse_recoverable(text);
        if !broken.is_empty() {
            broken.iter().for_each(|error| reader.mistake(error.span().unwrap_or(0..0), error.message()));
            return Err(reader.into_mistakes());
        }
        let whole = Table { name: String::new(), at: 0..0, entries: document.get_ref(), known: &KEYS };
        let read = read(&mut reader, &whole);
        match (read, reader.into_mistakes()) {
            (Some(description), mistakes) if mistakes.is_empty() => Ok(description),
            (_, mistakes) => Err(mistakes),
        }
    }
}

/// Everything that can be read; `None` only after a mistake.
fn read(reader: &mut Reader<'_>, whole: &Table<'_>) -> Option<Description> {
    reader.refuse_unknown(whole, &KEYS);
    for key in ["model", "runtime"].into_iter().filter(|key| !whole.entries.contains_key(*key)) {
        reader.mistake(0..0, format!("the table `[{key}]` is missing"));
    }
    let model = model(reader, whole);
    let runtime = tables::runtime(reader, whole);
    let model_file = tables::model_file(reader, whole);
    let signature =
        signature::signature(reader, whole, runtime.as_ref().map(|(runtime, _)| runtime), model_file.is_some());
    let meanings = meanings::said(reader, whole);
    let files = reader.texts(whole, "files").unwrap_or_default();
    files.iter().for_each(|path| tables::path(reader, "files", path));
    let samples = samples(reader, whole);
    let parameters = reader.named_values(whole, "parameters");
    let metrics = reader.named_numbers(whole, "metrics");
    let dependencies = reader.named_texts(whole, "dependencies");
    let flags = tables::flags(reader, whole);
    let reference = reference(reader, whole);
    let resources = tables::resources(reader, whole);
    let mut annotations = reader.named_texts(whole, "annotations");
    python(reader, whole, &mut annotations);
    let lineage = lineage::lineage(reader, whole);
    let base = base(reader, whole);
    let (model, (runtime, at)) = (model?, runtime?);
    let runtime = Placed { value: runtime, at };
    Some(Description {
        model,
        runtime,
        model_file,
        signature,
        meanings,
        files,
        samples,
        parameters,
        metrics,
        dependencies,
        reference,
        flags,
        resources,
        annotations,
        lineage,
        base,
    })
}

fn model(reader: &mut Reader<'_>, whole: &Table<'_>) -> Option<Model> {
    let table = reader.table(whole, "model", &MODEL)?;
    let name = reader.parsed(&table, "name", "\"my-model\"");
    let version = reader.parsed(&table, "version", "\"1.0.0\"");
    let description = reader.text(&table, "description").map(|text| text.value).unwrap_or_default();
    let license = reader.text(&table, "license").map(|text| text.value);
    let authors = reader.texts(&table, "authors").into_iter().flatten().map(|text| text.value).collect();
    let card = reader.text(&table, "card");
    card.iter().for_each(|path| tables::path(reader, "card", path));
    Some(Model { name: name?, version: version?, description, license, authors, card })
}

/// `[python]` becomes an annotation, so that a package without it is what it was.
fn python(reader: &mut Reader<'_>, whole: &Table<'_>, annotations: &mut BTreeMap<String, String>) {
    if !whole.entries.contains_key("python") {
        return;
    }
    let requires = reader.table(whole, "python", &["requires"]).and_then(|table| reader.text(&table, "requires"));
    let Some(requires) = requires else { return };
    if !modelyard_registry::python::is_range(&requires.value) {
        reader.mistake(requires.at, "`requires` is no range of Python versions; write for example \">=3.10\"");
    } else if annotations.insert(PYTHON_REQUIRES.to_owned(), requires.value).is_some() {
        reader.mistake(requires.at, format!("`requires` stands in `[annotations]` too, as `{PYTHON_REQUIRES}`"));
    }
}

/// `[image]`: how container images are made of the package.
fn base(reader: &mut Reader<'_>, whole: &Table<'_>) -> Option<String> {
    let table = reader.table(whole, "image", &IMAGE)?;
    let base = reader.required(&table, "base", "\"registry.example/debian@sha256:…\"")?;
    if base.value.is_empty() || base.value.len() > 500 || base.value.chars().any(char::is_control) {
        reader.mistake(base.at, "`base` names no image; write \"registry.example/debian:13@sha256:…\"");
        return None;
    }
    Some(base.value)
}

fn reference(reader: &mut Reader<'_>, whole: &Table<'_>) -> Option<Placed<String>> {
    let table = reader.table(whole, "reference", &REFERENCE)?;
    let data = reader.required(&table, "data", "\"reference.csv\"")?;
    tables::path(reader, "data", &data);
    Some(data)
}

fn samples(reader: &mut Reader<'_>, whole: &Table<'_>) -> Option<Placed<Samples>> {
    let value = whole.entries.get("samples")?;
    let at = value.span();
    match value.get_ref() {
        DeValue::String(_) => {
            let file = reader.text(whole, "samples")?;
            tables::path(reader, "samples", &file);
            Some(Placed { value: Samples::File(file.value), at })
        }
        DeValue::Array(_) => match reader.json("samples", value)? {
            Value::Array(list) => Some(Placed { value: Samples::Inline(list), at }),
            _ => None,
        },
        _ => {
            reader.mistake(at, "`samples`: write the name of a JSON file, or a list");
            None
        }
    }
}
