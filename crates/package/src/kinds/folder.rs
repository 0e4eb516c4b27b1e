//! The model files among the files of a package, and what is only seen of several together: a SavedModel's variables, an `.mlpackage`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use modelyard_core::model_file::{ModelFile, ModelKind};
use modelyard_core::signature::Signature;
use serde::Deserialize;

use super::{Found, KindError, read_from};
use crate::Error;
use crate::draft::{Look, look};

/// What a SavedModel's graph is called in its folder.
const GRAPH: &str = "saved_model.pb";
/// What lists the parts of an `.mlpackage`.
const MANIFEST: &str = "Manifest.json";
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// What was recognised among the files of a package.
#[derive(Debug, Default)]
pub(crate) struct Recognised {
    /// By path; a SavedModel or an `.mlpackage` by its folder.
    pub(crate) models: BTreeMap<String, Found>,
    /// The file of each that was read, and how it looked then.
    pub(crate) looks: BTreeMap<String, Look>,
}

impl Recognised {
    /// For the package document.
    pub(crate) fn files(&self) -> BTreeMap<String, ModelFile> {
        self.models.iter().map(|(path, found)| (path.clone(), found.file.clone())).collect()
    }

    /// What loading them may do, by path.
    pub(crate) fn risks(&self) -> BTreeMap<String, String> {
        let risks = self.models.iter().filter_map(|(path, found)| Some((path.clone(), found.risk.clone()?)));
        risks.collect()
    }

    /// Files that hold weights for certain: what was read, and what belongs to a SavedModel or an `.mlpackage`.
    pub(crate) fn weights<'p>(&self, paths: &'p BTreeSet<String>) -> impl Iterator<Item = String> + use<'p> {
        let folders: Vec<String> = self
            .models
            .iter()
            .filter(|(path, _)| !self.looks.contains_key(*path))
            .map(|(path, found)| match found.file.kind {
                ModelKind::SavedModel if path == "." => "variables/".to_owned(),
                ModelKind::SavedModel => format!("{path}/variables/"),
                _ => format!("{path}/Data/"),
            })
            .collect();
        let read = self.looks.keys().cloned().collect::<BTreeSet<_>>();
        let is_weight =
            move |path: &&String| read.contains(*path) || folders.iter().any(|folder| path.starts_with(folder));
        paths.iter().filter(is_weight).cloned()
    }

    /// The signature of the model at `path`, and outputs without a shape; or why there is none.
    pub(crate) fn signature(&self, path: &str) -> Result<(Signature, BTreeSet<String>), String> {
        let found = self.models.get(path.trim_end_matches('/')).ok_or_else(|| {
            let others: Vec<String> = self.models.keys().take(5).map(|path| format!("`{path}`")).collect();
            let others = match others.is_empty() {
                true => "none was found".to_owned(),
                false => format!("those found are {}", others.join(", ")),
            };
            format!("`{}` is no model of a kind that is known; {others}", path.escape_debug())
        })?;
        Ok((found.signature.clone()?, found.unshaped.clone()))
    }
}

/// Recognises the model files among `paths`, but for those in `known`.
///
/// # Errors
/// [`Error::Kind`] when one is broken.
pub(crate) fn recognise(
    folder: &Path,
    paths: &BTreeSet<String>,
    known: &BTreeSet<String>,
) -> Result<Recognised, Error> {
    let mut recognised = Recognised::default();
    for path in paths.difference(known) {
        let full = folder.join(path);
        let refuse = |source| Error::Kind { path: full.clone(), source };
        let mut file = File::open(&full).map_err(Error::file("could not open", &full))?;
        let facts = file.metadata().map_err(Error::file("could not read", &full))?;
        let Some(found) = read_from(&mut file, facts.len(), path).map_err(refuse)? else { continue };
        let fault = |why| refuse(super::broken(found.file.kind)(why));
        let root = match found.file.kind {
            ModelKind::SavedModel => saved_model(path, &found, paths).map_err(fault)?,
            ModelKind::CoreMl => core_ml(folder, path, paths).map_err(fault)?,
            _ => path.clone(),
        };
        recognised.looks.insert(path.clone(), look(&facts));
        recognised.models.insert(root, found);
    }
    Ok(recognised)
}

/// The folder of a SavedModel, whose variables must be there.
fn saved_model(path: &str, found: &Found, paths: &BTreeSet<String>) -> Result<String, String> {
    let Some(parent) = path.strip_suffix(GRAPH) else { return Ok(path.to_owned()) };
    let within = |name: &str| format!("{parent}variables/{name}");
    if found.needs_variables && !paths.contains(&within("variables.index")) {
        return Err(format!("its variables are missing: `{}` belongs beside it", within("variables.index")));
    }
    // `variables.data-00001-of-00003`: each shard tells how many there are.
    let start = within("variables.data-");
    for shard in paths.range(start.clone()..).take_while(|path| path.starts_with(&start)) {
        let Some((_, count)) = shard[start.len()..].split_once("-of-") else { continue };
        let Ok(count) = count.parse::<usize>() else { continue };
        let missing = (0..count.min(100_000)).map(|part| format!("{start}{part:05}-of-{count:05}"));
        if let Some(missing) = missing.into_iter().find(|part| !paths.contains(part)) {
            return Err(format!("a part of its variables is missing: `{missing}`"));
        }
        break;
    }
    Ok(match parent.trim_end_matches('/') {
        "" => ".".to_owned(),
        folder => folder.to_owned(),
    })
}

/// The `.mlpackage` of which a Core ML model is the root, or the model itself.
fn core_ml(folder: &Path, path: &str, paths: &BTreeSet<String>) -> Result<String, String> {
    // `Data/com.apple.CoreML/model.mlmodel` as a rule, so that only folders further out may be one.
    for (at, _) in path.match_indices('/').collect::<Vec<_>>().into_iter().rev() {
        let outer = &path[..at];
        let manifest = format!("{outer}/{MANIFEST}");
        let is_called_so = outer.ends_with(".mlpackage");
        if !paths.contains(&manifest) {
            match is_called_so {
                true => return Err(format!("it lies in an `.mlpackage` without `{MANIFEST}`")),
                false => continue,
            }
        }
        match root(&folder.join(&manifest)) {
            Ok(root) if path[at + 1..] == root => return Ok(outer.to_owned()),
            Ok(root) if is_called_so && !paths.contains(&format!("{outer}/{root}")) => {
                return Err(format!("`{manifest}` names `{}`, which is not there", root.escape_debug()));
            }
            Err(why) if is_called_so => return Err(format!("`{manifest}` {why}")),
            _ => {}
        }
    }
    Ok(path.to_owned())
}

/// Source: `ModelPackage.hpp` of Core ML's tools.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    item_info_entries: BTreeMap<String, Item>,
    root_model_identifier: String,
}

#[derive(Deserialize)]
struct Item {
    path: String,
}

/// Where the manifest of an `.mlpackage` says that its model is, relative to the package.
fn root(manifest: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(manifest).and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err("has more than 1 MiB".to_owned());
    }
    let mut read: Manifest =
        serde_json::from_slice(&bytes).map_err(|error| format!("is no manifest of an `.mlpackage`: {error}"))?;
    let item = read.item_info_entries.remove(&read.root_model_identifier);
    item.map(|item| format!("Data/{}", item.path)).ok_or_else(|| "names no root model".to_owned())
}

impl KindError {
    /// What to do about it.
    pub(crate) const fn help(&self) -> &'static str {
        match self {
            Self::Broken { .. } => "download or export the file again; nothing was packaged",
            Self::Unreadable(_) => "check that the file is there and may be read; nothing was packaged",
            Self::Onnx(_) => {
                "export the model again, then check it with `onnx.checker.check_model`; nothing was packaged"
            }
        }
    }
}
