//! `modelyard new`: a model folder to start from.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::ModelName;
use modelyard_core::signature::{Signature, TensorSpec};

use crate::{DESCRIPTION, Error, onnx};

/// Makes `folder` with a description, a place for samples and a model card; with `from`, the model is copied and its signature written down.
///
/// # Errors
/// [`Error::Exists`] when the folder holds a description already; [`Error::Onnx`] when `from` is no usable model.
pub fn scaffold(folder: &Path, from: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
    let description = folder.join(DESCRIPTION);
    if description.exists() {
        return Err(Error::Exists(description));
    }
    let signature = from.map(signature_of).transpose()?;
    fs::create_dir_all(folder).map_err(Error::file("could not make", folder))?;
    let mut written = Vec::new();
    let mut write = |name: &str, text: String| {
        let path = folder.join(name);
        if !path.exists() {
            fs::write(&path, text).map_err(Error::file("could not write", &path))?;
            written.push(path);
        }
        Ok::<_, Error>(())
    };
    let name = name_of(folder);
    write("MODEL_CARD.md", model_card(&name))?;
    write("samples.json", "[]\n".to_owned())?;
    write(".gitignore", "__pycache__/\n".to_owned())?;
    write(DESCRIPTION, text(&name, signature.as_ref()))?;
    if let Some(from) = from {
        let path = folder.join("model.onnx");
        if from.canonicalize().ok() != path.canonicalize().ok() || !path.exists() {
            fs::copy(from, &path).map_err(Error::file("could not copy", from))?;
        }
        written.push(path);
    }
    Ok(written)
}

fn signature_of(model: &Path) -> Result<Signature, Error> {
    let bytes = fs::read(model).map_err(Error::file("could not read", model))?;
    let facts = onnx::read(&bytes).map_err(|source| Error::Onnx { path: model.to_owned(), source })?;
    Ok(facts.signature)
}

/// The folder's own name, as far as it can be a model's name.
fn name_of(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = name.replace([' ', '/'], "-");
    ModelName::new(&name).map_or_else(|_| "my-model".to_owned(), |name| name.to_string())
}

fn text(name: &str, signature: Option<&Signature>) -> String {
    let mut text = format!(
        "# What this model is. Every key: docs/reference/modelyard-toml.md\n\
         samples = \"samples.json\" # real requests with the answers that a correct model gives\n\n\
         [model]\nname = \"{name}\"\nversion = \"0.1.0\"\ndescription = \"\"\ncard = \"MODEL_CARD.md\"\n\n\
         [runtime]\nkind = \"onnx\"\nmodel = \"model.onnx\"\n"
    );
    if let Some(signature) = signature {
        text.push_str("\n# The model's signature, read from its graph:\n");
        let mut list = |what: &str, specs: &[TensorSpec]| {
            for spec in specs {
                let _ = writeln!(text, "#   {what:<6} {} {} {:?}", spec.name, spec.datatype, spec.shape);
            }
        };
        list("input", &signature.inputs);
        list("output", &signature.outputs);
        text.push_str("#\n# A sample in samples.json:\n");
        let _ = writeln!(
            text,
            "#   [{{\"inputs\": {{{}}}, \"outputs\": {{{}}}}}]",
            example(&signature.inputs),
            example(&signature.outputs)
        );
    }
    text.push_str("\n[parameters]\n\n[metrics]\n\n[dependencies]\n");
    text
}

fn example(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| format!("\"{}\": …", spec.name)).collect::<Vec<_>>().join(", ")
}

fn model_card(name: &str) -> String {
    format!(
        "# {name}\n\n## What it does\n\n## Data\n\nWhat it was trained on, and what it was not.\n\n## How good it is\n\n\
         Metrics on held-out data, with the data set.\n\n## Limits\n\nWhere it should not be used.\n"
    )
}
