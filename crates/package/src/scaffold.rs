//! `modelyard new`: a model folder to start from.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::ModelName;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use serde_json::{Map, Value, json};

use crate::draft::{external, facts};
use crate::{DESCRIPTION, Error};

/// Makes `folder` with a description, a place for samples and a model card; with `from`, the model is copied (with the files that
/// hold its weights) and its signature written down.
///
/// # Errors
/// [`Error::Exists`] when the folder holds a description already; [`Error::Onnx`] when `from` is no usable model.
pub fn scaffold(folder: &Path, from: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
    let description = folder.join(DESCRIPTION);
    if description.exists() {
        return Err(Error::Exists(description));
    }
    let mut written = Vec::new();
    let signature = match from {
        Some(from) => Some(copy_model(from, folder, &mut written)?),
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
    write(DESCRIPTION, text(&name, signature.as_ref()))?;
    Ok(written)
}

/// Copies the model as `model.onnx`, and beside it the files that hold its weights, under their own names.
fn copy_model(from: &Path, folder: &Path, written: &mut Vec<PathBuf>) -> Result<Signature, Error> {
    let (facts, _) = facts(from)?;
    let parent = from.parent().unwrap_or(Path::new("."));
    let file = from.file_name().unwrap_or_default().to_string_lossy();
    let weights = external(parent, &file, &facts)?;
    fs::create_dir_all(folder).map_err(Error::file("could not make", folder))?;
    let own = |path: &Path| path.canonicalize().ok();
    let sources = weights.iter().map(|path| (parent.join(path), folder.join(path)));
    for (source, target) in sources.chain([(from.to_owned(), folder.join("model.onnx"))]) {
        if own(&target).is_some() {
            if own(&source) == own(&target) {
                continue;
            }
            return Err(Error::Exists(target));
        }
        if let Some(inner) = target.parent() {
            fs::create_dir_all(inner).map_err(Error::file("could not make", inner))?;
        }
        fs::copy(&source, &target).map_err(Error::file("could not copy", source))?;
        written.push(target);
    }
    Ok(facts.signature)
}

/// The nearest name that a model may have: `My Model (2)` becomes `my-model-2`.
pub(crate) fn slug(text: &str) -> ModelName {
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

fn text(name: &ModelName, signature: Option<&Signature>) -> String {
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
        let sample = json!([{"inputs": example(&signature.inputs), "outputs": example(&signature.outputs)}]);
        let _ =
            writeln!(text, "#\n# The form of a sample in samples.json, to be filled with real values:\n#   {sample}");
    }
    text.push_str("\n[parameters]\n\n[metrics]\n\n[dependencies]\n");
    text
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
