//! `modelyard new`: a model folder to start from.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::ModelName;
use modelyard_core::model_file::ModelKind;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use serde_json::{Map, Value, json};

use crate::bare::{is_native, package_of_model};
use crate::build::file_name;
use crate::draft::{external, facts};
use crate::{DESCRIPTION, Error, files};

/// What the model of the native server is called in a new folder.
const MODEL: &str = "model.onnx";

/// The model that a folder is made for.
struct Copied {
    /// Path in the folder.
    path: String,
    /// What it is, if the native model server does not serve it.
    kept: Option<ModelKind>,
    /// What it takes and gives, as far as it says so.
    signature: Signature,
}

/// Makes `folder` with a description, a place for samples and a model card; with `from`, the model is copied (with the files that
/// hold its weights) and its signature written down, as far as its kind tells one.
///
/// # Errors
/// [`Error::Exists`] when the folder holds a description already; [`Error::Onnx`] and [`Error::Kind`] when `from` is no usable model.
pub fn scaffold(folder: &Path, from: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
    let description = folder.join(DESCRIPTION);
    if description.exists() {
        return Err(Error::Exists(description));
    }
    let mut written = Vec::new();
    let model = match from {
        Some(from) if is_native(from) => Some(copy_native(from, folder, &mut written)?),
        Some(from) => Some(copy_kept(from, folder, &mut written)?),
        None => None,
    };
    fs::create_dir_all(folder).map_err(Error::file("could not make", folder))?;
    let mut write = |name: &str, text: String| {
        let path = folder.join(name);
        if !path.exists() {
            fs::write(&path, text).map_err(Error::file("could not write", &path))?;
            written.push(path);
        }
        Ok::<_, Error>(())
    };
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = slug(&absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default());
    write("MODEL_CARD.md", model_card(&name))?;
    write("samples.json", "[]\n".to_owned())?;
    write(".gitignore", "__pycache__/\n".to_owned())?;
    write(DESCRIPTION, text(&name, model.as_ref()))?;
    Ok(written)
}

/// Copies the model as `model.onnx`, and beside it the files that hold its weights, under their own names.
fn copy_native(from: &Path, folder: &Path, written: &mut Vec<PathBuf>) -> Result<Copied, Error> {
    let (facts, _) = facts(from)?;
    let parent = from.parent().unwrap_or(Path::new("."));
    let file = from.file_name().unwrap_or_default().to_string_lossy();
    let weights = external(parent, &file, &facts)?;
    for path in weights {
        copy(&parent.join(&path), &folder.join(&path), written)?;
    }
    copy(from, &folder.join(MODEL), written)?;
    Ok(Copied { path: MODEL.to_owned(), kept: None, signature: facts.signature })
}

/// Copies a model of another kind, a file or a folder, under its own name.
fn copy_kept(from: &Path, folder: &Path, written: &mut Vec<PathBuf>) -> Result<Copied, Error> {
    let package = package_of_model(from)?;
    let from = std::path::absolute(from).map_err(Error::file("could not find", from))?;
    let parent = from.parent().unwrap_or(Path::new("/"));
    let path = file_name(&from)?.to_owned();
    let mut files = BTreeSet::new();
    files::expand(parent, &path, &mut files).map_err(|why| Error::Path { path: path.clone(), why })?;
    for file in files {
        copy(&parent.join(&file), &folder.join(&file), written)?;
    }
    let kept = package.models.get(&path).map(|model| model.kind);
    Ok(Copied { path, kept, signature: package.signature })
}

/// Copies a file, unless it lies there already.
fn copy(source: &Path, target: &Path, written: &mut Vec<PathBuf>) -> Result<(), Error> {
    let own = |path: &Path| path.canonicalize().ok();
    if own(target).is_some() {
        return if own(source) == own(target) { Ok(()) } else { Err(Error::Exists(target.to_owned())) };
    }
    if let Some(inner) = target.parent() {
        fs::create_dir_all(inner).map_err(Error::file("could not make", inner))?;
    }
    fs::copy(source, target).map_err(Error::file("could not copy", source))?;
    written.push(target.to_owned());
    Ok(())
}

/// The nearest name that a model may have: `My Model (2)` becomes `my-model-2`.
pub fn slug(text: &str) -> ModelName {
    let mut name = String::new();
    for c in text.to_lowercase().chars() {
        let separator = name.is_empty() || name.ends_with(['-', '_', '.']);
        match c {
            'a'..='z' => name.push(c),
            '0'..='9' if !name.is_empty() => name.push(c),
            '_' | '.' if !separator => name.push(c),
            _ if !separator => name.push('-'),
            _ => {}
        }
    }
    let name: String = name.chars().take(63).collect();
    let name = name.trim_end_matches(['-', '_', '.']);
    ModelName::new(name).unwrap_or_else(|_| ModelName::new("model").expect("`model` keeps the rules of names"))
}

fn text(name: &ModelName, model: Option<&Copied>) -> String {
    let kept = model.filter(|model| model.kept.is_some());
    let files = kept.map_or_else(String::new, |model| format!("files = [{}]\n", json!(model.path)));
    let mut text = format!(
        "# What this model is. Every key: docs/reference/modelyard-toml.md\n\
         samples = \"samples.json\" # real requests with the answers that a correct model gives\n{files}\n\
         [model]\nname = \"{name}\"\nversion = \"0.1.0\"\ndescription = \"\"\ncard = \"MODEL_CARD.md\"\n\n"
    );
    text.push_str(&runtime(model));
    if let Some(signature) = model.map(|model| &model.signature).filter(|signature| **signature != Signature::default())
    {
        text.push_str("\n# The model's signature, as it says itself:\n");
        let mut list = |what: &str, specs: &[TensorSpec]| {
            for spec in specs {
                let _ = writeln!(text, "#   {what:<6} {} {} {:?}", spec.name, spec.datatype, spec.shape);
            }
        };
        list("input", &signature.inputs);
        list("output", &signature.outputs);
        let sample = json!([{"inputs": example(&signature.inputs), "outputs": example(&signature.outputs)}]);
        let _ =
            writeln!(text, "#\n# The form of a sample in samples.json, to be filled with real values:\n#   {sample}");
    }
    text.push_str("\n[parameters]\n\n[metrics]\n\n[dependencies]\n");
    text
}

/// How the model is run. What the native server does not serve is kept as it is, until a function or a program serves it.
fn runtime(model: Option<&Copied>) -> String {
    let Some((model, kind)) = model.and_then(|model| Some((model, model.kept?))) else {
        return format!("[runtime]\nkind = \"onnx\"\nmodel = \"{MODEL}\"\n");
    };
    let tells = model.signature != Signature::default();
    let named = if tells { format!("model = {}\n", json!(model.path)) } else { String::new() };
    format!(
        "# {kind}: it is kept, moved and compared as it is, and nothing runs it. To have it served, write one of\n\
         #   kind = \"python\" with entry = \"predict:predict\", a function (docs/guide/python-functions.md)\n\
         #   kind = \"command\" with command = [\"python3\", \"serve.py\"] and health = \"/health\" (docs/guide/kinds.md)\n\
         [runtime]\nkind = \"none\"\n{named}"
    )
}

/// Zeros of the right shape, one row where the length is free.
fn example(specs: &[TensorSpec]) -> Map<String, Value> {
    specs
        .iter()
        .filter(|spec| !spec.optional)
        .map(|spec| (spec.name.clone(), zeros(spec.datatype, &spec.shape)))
        .collect()
}

fn zeros(datatype: Datatype, shape: &[i64]) -> Value {
    // An image would fill the screen; the first few show the form.
    const SHOWN: i64 = 16;
    match (shape.split_first(), datatype) {
        (Some((&axis, inner)), _) => {
            let shown = axis.clamp(1, SHOWN);
            let mut list = vec![zeros(datatype, inner); usize::try_from(shown).unwrap_or(1)];
            if axis > SHOWN {
                list.push(json!("…"));
            }
            Value::Array(list)
        }
        (None, Datatype::Bytes) => json!("text"),
        (None, Datatype::Bool) => json!(false),
        (None, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64) => json!(0.0),
        (None, _) => json!(0),
    }
}

fn model_card(name: &ModelName) -> String {
    format!(
        "# {name}\n\n## What it does\n\n## Data\n\nWhat it was trained on, and what it was not.\n\n## How good it is\n\n\
         Metrics on held-out data, with the data set.\n\n## Limits\n\nWhere it should not be used.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_one_that_a_model_may_have() {
        for (text, name) in [
            ("My Model (2)", "my-model-2"),
            ("wine_v2.1", "wine_v2.1"),
            ("2024-fraud", "fraud"),
            ("__", "model"),
            ("", "model"),
            ("Ünïcode", "n-code"),
            ("a--b", "a-b"),
        ] {
            assert_eq!(slug(text).as_str(), name, "{text}");
        }
        assert_eq!(slug(&"x-".repeat(100)).as_str().len(), 63);
    }

    proptest::proptest! {
        #[test]
        fn no_name_makes_it_panic(text in ".{0,100}") {
            slug(&text);
        }
    }
}
