//! Model files as they are recognised by their content, whatever they are called.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kind of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// An ONNX graph.
    Onnx,
    /// A TensorFlow SavedModel: a folder with `saved_model.pb`.
    SavedModel,
    /// A Core ML model: an `.mlmodel` file, or an `.mlpackage` folder.
    CoreMl,
    /// A TorchScript archive.
    TorchScript,
    /// A PyTorch ExportedProgram (`.pt2`).
    TorchExport,
    /// What `torch.save` writes: a zip archive with a pickle in it.
    Torch,
    /// Tensors and nothing else.
    Safetensors,
    /// Tensors and their metadata, as llama.cpp reads them.
    Gguf,
    /// A Python pickle, or a file that holds one (joblib, NumPy arrays of objects).
    Pickle,
}

impl ModelKind {
    /// What people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Onnx => "ONNX",
            Self::SavedModel => "TensorFlow SavedModel",
            Self::CoreMl => "Core ML",
            Self::TorchScript => "TorchScript",
            Self::TorchExport => "PyTorch ExportedProgram",
            Self::Torch => "PyTorch pickle",
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
            Self::Pickle => "Python pickle",
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// A model file of a package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// What it is.
    pub kind: ModelKind,
    /// What it says of itself, by name: few and short.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, Value>,
}
