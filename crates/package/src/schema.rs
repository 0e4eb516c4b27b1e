//! The JSON Schema of `modelyard.toml`, for editors.

use schemars::{JsonSchema, schema_for};
use serde_json::Value;

use crate::description::{Model, Samples, WrittenResources};

/// The file as its schema sees it; only its form matters.
#[derive(JsonSchema)]
#[schemars(rename = "modelyard.toml", deny_unknown_fields)]
#[expect(dead_code, reason = "the schema is made from the declaration; no value of it is ever made")]
struct File {
    /// Name, version and words.
    model: Model,
    /// How it is run.
    runtime: Runtime,
    /// Files beside the model's own: paths, folders, or names with `*`.
    files: Option<Vec<String>>,
    /// A JSON file with a list of samples, or the list itself.
    samples: Option<Samples>,
    /// Training parameters.
    parameters: Option<std::collections::BTreeMap<String, Value>>,
    /// Evaluation metrics.
    metrics: Option<std::collections::BTreeMap<String, f64>>,
    /// What it was trained with and needs, by name.
    dependencies: Option<std::collections::BTreeMap<String, String>>,
    /// Typed flags that a revision may set.
    flags: Option<std::collections::BTreeMap<String, Flag>>,
    /// What an instance needs.
    resources: Option<WrittenResources>,
    /// Free annotations.
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// How the package is run.
#[derive(JsonSchema)]
#[schemars(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
enum Runtime {
    /// The native model server.
    Onnx {
        /// Path of the ONNX file.
        model: String,
    },
    /// Any program that listens on `$PORT`.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// Path that answers 200 when the program is ready.
        health: String,
        /// Extra environment.
        environment: Option<std::collections::BTreeMap<String, String>>,
    },
}

/// A typed flag and its default.
#[derive(JsonSchema)]
#[schemars(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
enum Flag {
    /// True or false.
    Boolean {
        /// Value unless a revision says otherwise.
        default: bool,
    },
    /// A number within limits.
    Number {
        /// Value unless a revision says otherwise.
        default: f64,
        /// Smallest allowed value.
        minimum: Option<f64>,
        /// Largest allowed value.
        maximum: Option<f64>,
    },
    /// One of several texts.
    String {
        /// Value unless a revision says otherwise.
        default: String,
        /// Allowed values.
        one_of: Option<Vec<String>>,
    },
}

/// The JSON Schema of `modelyard.toml`.
pub fn json_schema() -> Value {
    schema_for!(File).to_value()
}
