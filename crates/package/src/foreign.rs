//! A model that others put into an OCI registry or on a hub, and the description that makes a package of it.
//!
//! Promises: what its configuration says of the model is kept: name, version, licence, authors, parameters, where it comes from. The model is data.
//! Absent on purpose: fetching it (`modelyard_registry::client::fetch_foreign`, `modelyard_registry::hub`), samples.
//!
//! Source: KitOps' Kitfile reference; CNCF ModelPack specification, "Model configuration"; Hugging Face Hub, "Model Cards", "Repository licenses".

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
    /// Where it was made, as lineage: an address, and the revision there.
    pub source: Option<(String, String)>,
}

/// SPDX's name of a licence by the hub's. What is missing here is no licence of SPDX's list, or is called the same.
const LICENCES: [(&str, &str); 24] = [
    ("afl-3.0", "AFL-3.0"),
    ("agpl-3.0", "AGPL-3.0-only"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsl-1.0", "BSL-1.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0"),
    ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("isc", "ISC"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("mit", "MIT"),
    ("mpl-2.0", "MPL-2.0"),
    ("ms-pl", "MS-PL"),
    ("unlicense", "Unlicense"),
    ("zlib", "Zlib"),
];

/// Reads what the Hugging Face Hub says of a model.
pub fn huggingface(about: &Value) -> Said {
    let card = &about["cardData"];
    let many = |value: &Value| text(value).map_or_else(|| texts(value), |one| vec![one]);
    let licences = many(&card["license"]);
    let mut notes = Map::new();
    for (name, value) in [
        ("huggingface.task", text(&about["pipeline_tag"])),
        ("huggingface.library", text(&about["library_name"])),
        ("huggingface.base-model", Some(many(&card["base_model"]).join(", "))),
        ("huggingface.tags", Some(texts(&about["tags"]).into_iter().take(50).collect::<Vec<_>>().join(", "))),
        ("huggingface.license", Some(licences.join(", "))),
        ("huggingface.license-name", text(&card["license_name"])),
        ("huggingface.license-link", text(&card["license_link"])),
        ("huggingface.gated", text(&about["gated"])),
    ] {
        note(&mut notes, name, value.filter(|value| !value.is_empty()));
    }
    // Of several licences it is not said whether all or any of them apply; then the note must do.
    let license = match licences.as_slice() {
        [one] => LICENCES.iter().find(|(hub, _)| hub == one).map(|(_, spdx)| (*spdx).to_owned()),
        _ => None,
    };
    Said { license, authors: text(&about["author"]).into_iter().collect(), notes, ..Said::default() }
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
        source: None,
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

/// Reads the labels of a container image's configuration, as far as the OCI specification names them.
pub fn image(config: &Value) -> Said {
    let label = |name: &str| text(&config["config"]["Labels"][format!("org.opencontainers.image.{name}")]);
    let mut notes = Map::new();
    for name in ["title", "source", "revision", "vendor", "documentation", "url"] {
        note(&mut notes, &format!("image.{name}"), label(name));
    }
    Said {
        version: label("version"),
        description: label("description").or_else(|| label("title")),
        license: label("licenses"),
        authors: label("authors").into_iter().collect(),
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
    // What does not say what it takes (weights alone) is a file among others; it is recognised there all the same.
    let model = model.filter(|path| native || bare::is_described(&folder.join(path)));
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
    if let Some((source, revision)) = &said.source {
        told["lineage"] = json!({"source": source, "revision": revision});
    }
    told.as_object_mut().into_iter().for_each(|tables| tables.retain(|_, table| *table != json!({})));
    let text = toml::to_string(&told).map_err(|error| format!("what it says cannot be written down: {error}"))?;
    let from = if said.source.is_some() { "a public place" } else { "an OCI registry" };
    Ok(Some(format!("# From {from}.\n\n{text}")))
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
    fn what_a_hub_says_is_kept() {
        let said = huggingface(&json!({
            "author": "org", "pipeline_tag": "text-classification", "library_name": "onnx", "tags": ["onnx", "license:apache-2.0", 7],
            "gated": false, "cardData": {"license": "apache-2.0", "base_model": ["a/b", "c/d"]},
        }));
        assert_eq!((said.license.as_deref(), &said.authors[..]), (Some("Apache-2.0"), &["org".to_owned()][..]));
        assert_eq!(said.notes["huggingface.tags"], "onnx, license:apache-2.0");
        assert_eq!(said.notes["huggingface.base-model"], "a/b, c/d");
        assert!(!said.notes.contains_key("huggingface.gated"));
        let source = Some(("https://hub.example/org/name".to_owned(), "c0ffee".to_owned()));
        let told = described(&Said { source, ..said }, &[("model.onnx", b"x")]).unwrap();
        assert_eq!(told["lineage"]["revision"].as_str(), Some("c0ffee"));
        let own = huggingface(&json!({"cardData": {"license": "llama3", "license_name": "x"}}));
        assert_eq!((own.license, &own.notes["huggingface.license"]), (None, &json!("llama3")));
        assert_eq!(huggingface(&json!([])), Said::default());
        assert_eq!(huggingface(&json!({"cardData": {"license": ["mit", "apache-2.0"]}})).license, None);
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
    fn weights_alone_are_a_file_among_others() {
        let weights = b"\x02\0\0\0\0\0\0\0{}";
        let told = described(&Said::default(), &[("model.safetensors", weights), ("config.json", b"{}")]).unwrap();
        assert_eq!((told["runtime"]["kind"].as_str(), told["runtime"].get("model")), (Some("none"), None));
        assert_eq!(told["files"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn strange_configurations_say_nothing() {
        for config in
            [json!(null), json!([1]), json!({"package": 1, "model": []}), json!({"descriptor": {"authors": 3}})]
        {
            let kit = kitfile(&config);
            assert_eq!((kit.name, kit.authors.len(), kit.parameters.len()), (None, 0, 0));
            assert_eq!(modelpack(&config).name, None);
            assert_eq!(image(&config), Said::default());
        }
    }
}
