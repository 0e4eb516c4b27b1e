//! A model that another tool put into an OCI registry, and the description that makes a package of it.
//!
//! Promises: what its configuration says of the model is kept: name, version, licence, authors, parameters, where it comes from. The model is data.
//! Absent on purpose: fetching it (`modelyard_registry::client::fetch_foreign`), samples.
//!
//! Source: KitOps' Kitfile reference; CNCF ModelPack specification, "Model configuration".

use std::path::Path;

use modelyard_core::{ModelName, Version};
use serde_json::{Map, Value, json};

use crate::{DESCRIPTION, bare};

/// Most characters of one text that is taken over.
const MOST_TEXT: usize = 2_000;

/// What the configuration of an artefact says, whoever's layout it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Name, as it is written there.
    pub name: Option<String>,
    /// Version, as it is written there.
    pub version: Option<String>,
    /// One line for lists.
    pub description: Option<String>,
    /// Licence, as an SPDX expression.
    pub license: Option<String>,
    /// Authors.
    pub authors: Vec<String>,
    /// Path of the model: a file or a folder.
    pub model: Option<String>,
    /// Parameters that are plain values.
    pub parameters: Map<String, Value>,
    /// Further notes, by name.
    pub notes: Map<String, Value>,
}

/// Reads a Kitfile that is written as JSON.
pub fn kitfile(config: &Value) -> Said {
    let (package, model) = (&config["package"], &config["model"]);
    let either = |key: &str| text(&package[key]).or_else(|| text(&model[key]));
    let mut notes = Map::new();
    note(&mut notes, "kitops.framework", text(&model["framework"]));
    note(&mut notes, "kitops.manifest-version", text(&config["manifestVersion"]));
    let named = |key: &str| -> Option<String> {
        let names = config[key].as_array()?.iter().filter_map(|one| text(&one["name"]).or_else(|| text(&one["path"])));
        Some(names.take(50).collect::<Vec<String>>().join(", ")).filter(|names| !names.is_empty())
    };
    note(&mut notes, "kitops.datasets", named("datasets"));
    Said {
        name: either("name"),
        version: either("version"),
        description: either("description"),
        license: either("license"),
        authors: texts(&package["authors"]),
        model: text(&model["path"]),
        parameters: plain(&model["parameters"]),
        notes,
    }
}

/// Reads the configuration of a ModelPack artefact.
pub fn modelpack(config: &Value) -> Said {
    let (descriptor, about) = (&config["descriptor"], &config["config"]);
    let mut notes = Map::new();
    for (name, value) in [
        ("modelpack.family", &descriptor["family"]),
        ("modelpack.vendor", &descriptor["vendor"]),
        ("modelpack.source", &descriptor["sourceURL"]),
        ("modelpack.documentation", &descriptor["docURL"]),
        ("modelpack.revision", &descriptor["revision"]),
        ("modelpack.architecture", &about["architecture"]),
        ("modelpack.format", &about["format"]),
        ("modelpack.precision", &about["precision"]),
        ("modelpack.quantization", &about["quantization"]),
    ] {
        note(&mut notes, name, text(value));
    }
    Said {
        name: text(&descriptor["name"]),
        version: text(&descriptor["version"]),
        description: text(&descriptor["description"]).or_else(|| text(&descriptor["title"])),
        license: texts(&descriptor["licenses"]).into_iter().next(),
        authors: texts(&descriptor["authors"]),
        notes,
        ..Said::default()
    }
}

/// The text of `modelyard.toml` for files that lie in `folder`; `None` when there is one already, which then counts.
///
/// # Errors
/// Why no description can be written.
pub fn describe(
    said: &Said,
    folder: &Path,
    files: &[String],
    name: &ModelName,
    version: &Version,
) -> Result<Option<String>, String> {
    if files.iter().any(|file| file == DESCRIPTION) {
        return Ok(None);
    }
    let model = model(said, folder, files);
    let native = model.as_ref().is_some_and(|path| bare::is_native(&folder.join(path)));
    let card = files.iter().find(|path| ["readme.md", "model_card.md"].contains(&path.to_lowercase().as_str()));
    let mut told = json!({
        "model": {"name": name, "version": version},
        "runtime": {"kind": if native { "onnx" } else { "none" }},
        "annotations": said.notes,
        "parameters": said.parameters,
    });
    let line = said.description.as_deref().and_then(|text| text.lines().next()).filter(|line| !line.trim().is_empty());
    let about = [("description", line), ("license", said.license.as_deref()), ("card", card.map(String::as_str))];
    for (key, value) in about {
        if let Some(value) = value {
            told["model"][key] = json!(value);
        }
    }
    if !said.authors.is_empty() {
        told["model"]["authors"] = json!(said.authors);
    }
    if let Some(model) = &model {
        told["runtime"]["model"] = json!(model);
    }
    let belongs = |file: &&String| {
        let is_model = model.as_ref().is_some_and(|path| *file == path || file.starts_with(&format!("{path}/")));
        !is_model && Some(*file) != card
    };
    let others: Vec<&String> = files.iter().filter(belongs).collect();
    if !others.is_empty() {
        told["files"] = json!(others);
    }
    told.as_object_mut().into_iter().for_each(|tables| tables.retain(|_, table| *table != json!({})));
    let text = toml::to_string(&told).map_err(|error| format!("what it says cannot be written down: {error}"))?;
    Ok(Some(format!("# From an OCI registry.\n\n{text}")))
}

/// The model among the files: the one that is named, or the only one that is a model.
fn model(said: &Said, folder: &Path, files: &[String]) -> Option<String> {
    let named = said.model.as_deref().map(|path| path.trim_start_matches("./").trim_end_matches('/'));
    let named = named.filter(|path| !path.is_empty() && *path != ".");
    if let Some(path) = named
        && (files.iter().any(|file| file == path) || is_folder_of(path, files) && bare::is_model(&folder.join(path)))
    {
        return Some(path.to_owned());
    }
    let within = |file: &&String| named.is_none_or(|path| file.starts_with(&format!("{path}/")));
    let mut models = files.iter().filter(within).filter(|file| bare::is_model(&folder.join(file)));
    models.next().filter(|_| models.next().is_none()).cloned()
}

fn is_folder_of(path: &str, files: &[String]) -> bool {
    files.iter().any(|file| file.starts_with(&format!("{path}/")))
}

fn note(notes: &mut Map<String, Value>, name: &str, value: Option<String>) {
    if let Some(value) = value {
        notes.insert(name.to_owned(), json!(value));
    }
}

fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim();
    (!text.is_empty()).then(|| text.chars().take(MOST_TEXT).collect())
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

fn plain(value: &Value) -> Map<String, Value> {
    let plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    let entries = value.as_object().into_iter().flatten().filter(|(_, value)| plain(value));
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(said: &Said, files: &[(&str, &[u8])]) -> Option<toml::Table> {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let paths: Vec<String> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
        let (name, version) = (ModelName::new("wine").unwrap(), Version::new("1.0.0").unwrap());
        let text = describe(said, folder.path(), &paths, &name, &version).unwrap();
        text.map(|text| text.parse().unwrap())
    }

    #[test]
    fn a_kitfile_says_what_the_package_is() {
        let said = kitfile(&json!({
            "manifestVersion": "1.0.0",
            "package": {"name": "wine", "version": "2.1.0", "authors": ["Ada", "Grace"], "description": "Wines.\nTold apart."},
            "model": {"name": "forest", "path": "./model.onnx", "framework": "sklearn", "license": "MIT",
                      "parameters": {"trees": 10, "deep": true, "nested": {"a": 1}}},
            "datasets": [{"name": "training", "path": "data.csv"}, {"path": "more.csv"}],
        }));
        let told = described(&said, &[("model.onnx", b"x"), ("data.csv", b"1"), ("README.md", b"# Wine")]).unwrap();
        assert_eq!(told["model"]["description"].as_str(), Some("Wines."));
        assert_eq!(told["model"]["license"].as_str(), Some("MIT"));
        assert_eq!(told["model"]["card"].as_str(), Some("README.md"));
        assert_eq!(told["model"]["authors"].as_array().unwrap().len(), 2);
        assert_eq!(
            (told["runtime"]["kind"].as_str(), told["runtime"]["model"].as_str()),
            (Some("onnx"), Some("model.onnx"))
        );
        assert_eq!(told["parameters"].as_table().unwrap().len(), 2, "what is no plain value is left out");
        assert_eq!(told["annotations"]["kitops.datasets"].as_str(), Some("training, more.csv"));
        assert_eq!(told["files"].as_array().unwrap(), &[toml::Value::from("data.csv")]);
    }

    #[test]
    fn the_only_model_is_found_and_of_several_none_is_guessed() {
        let runtime = |files: &[(&str, &[u8])]| described(&Said::default(), files).unwrap()["runtime"].clone();
        let one = runtime(&[("weights/model.onnx", b"x"), ("notes.txt", b"y")]);
        assert_eq!(one["model"].as_str(), Some("weights/model.onnx"));
        let two = runtime(&[("a.onnx", b"x"), ("b.onnx", b"y")]);
        assert_eq!((two["kind"].as_str(), two.get("model")), (Some("none"), None));
        assert!(described(&Said::default(), &[(DESCRIPTION, b"")]).is_none(), "a description that is there counts");
    }

    #[test]
    fn strange_configurations_say_nothing() {
        for config in
            [json!(null), json!([1]), json!({"package": 1, "model": []}), json!({"descriptor": {"authors": 3}})]
        {
            let kit = kitfile(&config);
            assert_eq!((kit.name, kit.authors.len(), kit.parameters.len()), (None, 0, 0));
            assert_eq!(modelpack(&config).name, None);
        }
    }
}
