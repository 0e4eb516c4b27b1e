//! The JSON Schema of `modelyard.toml`, for editors.

#![expect(dead_code, reason = "the schema is made from these declarations; no value of them is ever made")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};
use serde_json::Value;

/// What a model folder says of itself.
#[derive(JsonSchema)]
#[schemars(rename = "modelyard.toml", deny_unknown_fields)]
struct File {
    /// Name, version and words.
    model: Model,
    /// How it is run.
    runtime: Runtime,
    /// What a `python` package takes and gives; other runtimes have none here.
    signature: Option<Signature>,
    /// What inputs mean, by name.
    inputs: Option<BTreeMap<String, Meaning>>,
    /// What outputs mean, by name.
    outputs: Option<BTreeMap<String, Meaning>>,
    /// Files beside the model's own: paths, folders, or names with `*`.
    files: Option<Vec<String>>,
    /// A JSON file with a list of samples, or the list itself.
    samples: Option<Samples>,
    /// Training parameters.
    parameters: Option<BTreeMap<String, Value>>,
    /// Evaluation metrics.
    metrics: Option<BTreeMap<String, f64>>,
    /// What it was trained with and needs, by name.
    dependencies: Option<BTreeMap<String, String>>,
    /// Data that the model's inputs and outputs are like.
    reference: Option<Reference>,
    /// Typed flags that a revision may set.
    flags: Option<BTreeMap<String, Flag>>,
    /// What an instance needs.
    resources: Option<Resources>,
    /// Free annotations.
    annotations: Option<BTreeMap<String, String>>,
    /// What it was made from.
    lineage: Option<Lineage>,
    /// What the package needs as a Python package.
    python: Option<Python>,
    /// How container images are made of it.
    image: Option<Image>,
}

/// The table `[image]`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Image {
    /// The image that they are put on: `registry.example/debian:13@sha256:…`, or an OCI layout, as a folder or archive.
    #[schemars(length(min = 1, max = 500))]
    base: String,
}

/// The table `[inputs.NAME]` or `[outputs.NAME]`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Meaning {
    /// What it is, for people.
    #[schemars(length(min = 1, max = 500))]
    description: Option<String>,
    /// The unit of its numbers, such as `g/l`.
    #[schemars(length(min = 1, max = 500))]
    unit: Option<String>,
    /// What each of its codes stands for.
    values: Option<BTreeMap<String, String>>,
    /// What stands in each place of its last axis, in order.
    columns: Option<Vec<String>>,
}

/// The table `[lineage]`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Lineage {
    /// Packages that it was built from: `wine:1.0.0`, or `wine@sha256:…`.
    #[schemars(length(max = 64))]
    built_from: Option<Vec<String>>,
    /// Where its source is, such as the address of a repository.
    #[schemars(length(min = 1, max = 500))]
    source: Option<String>,
    /// Which revision of the source.
    #[schemars(length(min = 1, max = 500))]
    revision: Option<String>,
    /// Data that it was trained and measured with, by name: files of the folder (only their digests are kept), or digests.
    datasets: Option<BTreeMap<String, String>>,
}

/// The table `[python]`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Python {
    /// Versions of Python that it may be installed for, such as `">=3.10,<3.14"`; `>=3.10` unless it stands here.
    requires: Option<String>,
}

/// The table `[model]`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Model {
    /// Name of the model: lower-case letters, digits and single `-`, `_` or `.` between them.
    #[schemars(regex(pattern = "^[a-z](?:[a-z0-9]|[-_.][a-z0-9])*$"), length(max = 63))]
    name: String,
    /// Version of the package; it names this one package for ever.
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$"), length(max = 128))]
    version: String,
    /// One line for lists.
    description: Option<String>,
    /// Licence, as an SPDX expression.
    license: Option<String>,
    /// Authors.
    authors: Option<Vec<String>>,
    /// Path of the model card.
    card: Option<String>,
}

/// Where the samples are.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Samples {
    /// A JSON file with a list.
    File(String),
    /// The list itself.
    Inline(Vec<Value>),
}

/// How the package is run.
#[derive(JsonSchema)]
#[schemars(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Runtime {
    /// The native model server.
    Onnx {
        /// Path of the ONNX file.
        model: String,
    },
    /// Any program that listens on `$PORT`.
    Command {
        /// Path of the model file or folder whose signature is the package's.
        model: Option<String>,
        /// Program and arguments.
        command: Vec<String>,
        /// Path that answers 200 when the program is ready.
        health: String,
        /// Extra environment.
        environment: Option<BTreeMap<String, String>>,
    },
    /// A Python function behind the native model server.
    Python {
        /// Path of the model file or folder whose signature is the package's, instead of `[signature]`.
        model: Option<String>,
        /// `module:function`, or `mlflow:FOLDER` for an MLflow model.
        #[schemars(length(max = 256))]
        entry: String,
        /// Requirements file; `modelyard lock` pins what it names in `modelyard.lock`.
        requirements: Option<String>,
        /// Whether the function answers many rows at once, so that requests may be merged.
        batch: Option<bool>,
        /// Worker processes of an instance; 1 unless it stands here.
        #[schemars(range(min = 1, max = 64))]
        workers: Option<u16>,
        /// Longest time of one call in seconds; 30 unless it stands here.
        #[schemars(range(min = 1, max = 3600))]
        timeout_seconds: Option<u32>,
    },
    /// Nothing runs it: the package is kept, moved and compared.
    None {
        /// Path of the model file or folder whose signature is the package's.
        model: Option<String>,
    },
}

/// What a Python function takes and gives.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Signature {
    /// Inputs, in their order.
    #[schemars(length(min = 1))]
    inputs: Vec<Tensor>,
    /// Outputs, in their order; none of them is optional.
    #[schemars(length(min = 1))]
    outputs: Vec<Tensor>,
}

/// One named, typed input or output.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Tensor {
    /// Its name.
    name: String,
    /// Its element type, such as `FP32`, `INT64`, `BOOL` or `BYTES`.
    datatype: String,
    /// Axis lengths, outermost first; -1 is free; `[]` is a scalar.
    shape: Vec<i64>,
    /// Whether callers may leave this input out.
    optional: Option<bool>,
}

/// A typed flag and its default.
#[derive(JsonSchema)]
#[schemars(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
enum Flag {
    /// True or false.
    Boolean {
        /// Value unless a revision says otherwise.
        default: bool,
        /// Input of the model that it fills when a caller leaves it out.
        input: Option<String>,
    },
    /// A number within limits.
    Number {
        /// Value unless a revision says otherwise.
        default: f64,
        /// Smallest allowed value.
        minimum: Option<f64>,
        /// Largest allowed value.
        maximum: Option<f64>,
        /// Only whole numbers.
        whole: Option<bool>,
        /// Input of the model that it fills when a caller leaves it out.
        input: Option<String>,
    },
    /// One of several texts.
    String {
        /// Value unless a revision says otherwise.
        default: String,
        /// Allowed values.
        one_of: Option<Vec<String>>,
        /// Input of the model that it fills when a caller leaves it out.
        input: Option<String>,
        /// Model files of the package that it chooses between, by value.
        files: Option<BTreeMap<String, String>>,
    },
}

/// Reference data: how its values are spread goes into the package, the data does not.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Reference {
    /// A `.csv` file whose columns are called as the inputs (`x`, `x[3]`), or a `.json` or `.jsonl` file of rows.
    data: String,
}

/// What an instance needs and may take.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Resources {
    /// Memory limit: `"96MiB"`, `"2GiB"`, or bytes.
    memory: Option<NumberOrText>,
    /// CPU share: a number of cores such as `0.5`, or thousandths such as `"500m"`.
    cpu: Option<NumberOrText>,
}

/// A number, or a number with a unit.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum NumberOrText {
    /// Without a unit.
    Number(f64),
    /// With one.
    Text(String),
}

/// The JSON Schema of `modelyard.toml`.
pub fn json_schema() -> Value {
    schema_for!(File).to_value()
}
