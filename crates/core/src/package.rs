//! The package document: what a package says of itself, stored inside it as `modelyard.json`.
//!
//! A package is named by the digest of its OCI manifest. The document never holds that digest (it is part of what is hashed).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use crate::entry::Entry;
use crate::meaning::Meanings;
use crate::model_file::ModelFile;
use crate::profile::Profile;
use crate::sample::Sample;
use crate::signature::Signature;
use crate::{Digest, ModelName, Version};

/// Version of the package document that this build writes. Loaders read all older ones.
pub const FORMAT_VERSION: u32 = 1;

/// File name of the document inside a package.
pub const DOCUMENT: &str = "modelyard.json";

/// Name of the file that pins what a `python` package needs, in a model folder and in its package.
pub const LOCK: &str = "modelyard.lock";

/// The version of ONNX Runtime that packages are checked with, unless they name another.
pub const ONNXRUNTIME: &str = "1.32.0";

/// Versions of Python that it is published for.
pub const ONNXRUNTIME_PYTHON: &str = ">=3.11,<3.15";

/// The annotation that holds `[python] requires`: versions of Python that the package is for.
pub const PYTHON_REQUIRES: &str = "python.requires";

/// Versions of Python that a `python` package with these annotations is for: those that its worker runs on, unless it says otherwise.
pub fn python_versions(annotations: &BTreeMap<String, String>) -> &str {
    annotations.get(PYTHON_REQUIRES).map_or(">=3.9", String::as_str)
}

/// What a package says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Version of this document's form; [`FORMAT_VERSION`] today.
    pub format_version: u32,
    /// Name of the model.
    pub name: ModelName,
    /// Version of the package.
    pub version: Version,
    /// One line for lists.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// How it is run.
    pub runtime: Runtime,
    /// What it takes and gives.
    pub signature: Signature,
    /// What its inputs and outputs mean, as far as it is said.
    #[serde(default, skip_serializing_if = "Meanings::is_empty")]
    pub meanings: Meanings,
    /// The model file whose signature is the package's, where the runtime itself names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Model files recognised by their content, by path; a SavedModel or an `.mlpackage` by its folder. That of an `onnx` package is told
    /// by `graph` instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelFile>,
    /// What loading a file may do to whoever loads it, by the file's path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub risks: BTreeMap<String, String>,
    /// Facts read from the model file itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<Graph>,
    /// Real requests with expected answers; liveness asks them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// Training parameters, as the author states them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, serde_json::Value>,
    /// Evaluation metrics, as the author states them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// What the model was trained with and needs, pinned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, String>,
    /// Typed flags that a revision may set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, Flag>,
    /// How its inputs and outputs were spread in the reference data: what is seen later is held against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Arc<Profile>>,
    /// What an instance needs.
    #[serde(default)]
    pub resources: Resources,
    /// Every file of the package, this document apart, by its path with `/`.
    pub files: BTreeMap<String, FileEntry>,
    /// Path of the model card within the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_card: Option<String>,
    /// Licence, as an SPDX expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Authors, as people write them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
}

/// What a package was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The packages that it was built from: a model that was trained further, a part of a pipeline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub built_from: Vec<Ancestor>,
    /// Where its source is, such as the address of a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Which revision of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Data that it was trained and measured with, by name; only digests are kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub datasets: BTreeMap<String, Digest>,
}

/// A package that another one was built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Name of the model.
    pub name: ModelName,
    /// Version, if it was named by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Digest of the package.
    pub digest: Digest,
}

impl std::fmt::Display for Ancestor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}:{version}@{}", self.name, self.digest),
            None => write!(f, "{}@{}", self.name, self.digest),
        }
    }
}

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256 of the file's bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// How a package is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Runtime {
    /// The native model server.
    Onnx {
        /// Path of the ONNX file within the package.
        model: String,
    },
    /// Any program that listens on `$PORT`.
    Command {
        /// Program and arguments; relative paths are looked up in the package's folder first.
        command: Vec<String>,
        /// Path that answers 200 when the program is ready.
        health: String,
        /// Extra environment.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        environment: BTreeMap<String, String>,
    },
    /// A Python function behind the native model server, in worker processes with an interpreter of their own.
    Python {
        /// What is called.
        entry: Entry,
        /// Requirements file within the package; none for a function that needs only Python itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requirements: Option<String>,
        /// Whether all of that is pinned with hashes in [`LOCK`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        locked: bool,
        /// Whether the function answers many rows at once, so that requests may be merged.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        batch: bool,
        /// Worker processes of an instance, 1 to 64.
        workers: u16,
        /// Longest time of one call in seconds; the worker is ended and replaced after it.
        timeout_seconds: u32,
    },
    /// Nothing runs it: the package is kept, moved and compared.
    None {},
}

impl Runtime {
    /// The runtime's name, as `design.md` has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Onnx { .. } => "onnx",
            Self::Command { .. } => "command",
            Self::Python { .. } => "python",
            Self::None {} => "none",
        }
    }
}

/// Facts read from an ONNX graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// ONNX IR version.
    pub ir_version: i64,
    /// Operator-set version by domain; the default domain is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// What wrote the file, for example `skl2onnx 1.20.0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub producer: String,
    /// Number of operators, subgraphs included.
    pub operators: u64,
}

/// A typed flag and its default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Flag {
    /// True or false.
    Boolean {
        /// Value unless a revision says otherwise.
        default: bool,
        /// Input of the model that it fills when a caller leaves it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
    },
    /// A number within limits.
    Number {
        /// Value unless a revision says otherwise.
        default: f64,
        /// Smallest allowed value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        minimum: Option<f64>,
        /// Largest allowed value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maximum: Option<f64>,
        /// Only whole numbers.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        whole: bool,
        /// Input of the model that it fills when a caller leaves it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
    },
    /// One of several texts, or any text if none is listed.
    String {
        /// Value unless a revision says otherwise.
        default: String,
        /// Allowed values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        one_of: Vec<String>,
        /// Input of the model that it fills when a caller leaves it out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        /// Model files of the package that it chooses between, by value.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        files: BTreeMap<String, String>,
    },
}

/// What an instance needs and may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory limit in bytes; past it the instance is ended with cause out of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU share in thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
}
