//! Packages with the runtime `python`: which files they must have.

use std::collections::BTreeSet;
use std::path::Path;

use modelyard_core::package::{Entry, LOCK};

use crate::files;

/// Adds what the runtime names to `paths`; returns what is missing, if anything is.
pub(crate) fn gather(
    folder: &Path,
    entry: &Entry,
    requirements: Option<&str>,
    paths: &mut BTreeSet<String>,
) -> Option<String> {
    for file in requirements.into_iter().chain(requirements.and(Some(LOCK)).filter(|lock| folder.join(lock).exists())) {
        if let Err(why) = files::length(folder, file) {
            return Some(why);
        }
        paths.insert(file.to_owned());
    }
    match entry {
        Entry::Mlflow { folder: model } => {
            let file = if model == "." { "MLmodel".to_owned() } else { format!("{model}/MLmodel") };
            if let Err(why) = files::length(folder, &file) {
                return Some(format!("`entry` names an MLflow model: {why}"));
            }
            if requirements.is_none() {
                return Some("an MLflow model needs at least mlflow: name its `requirements`".to_owned());
            }
            (!paths.contains(&file)).then(|| format!("`{file}` is in the folder but not in `files`"))
        }
        Entry::Function { module, .. } => {
            let stem = module.replace('.', "/");
            let files = [format!("{stem}.py"), format!("{stem}/__init__.py")];
            // A module that is not here may be part of what is required.
            if requirements.is_some() && !files.iter().any(|file| folder.join(file).exists()) {
                return None;
            }
            match files.iter().find(|file| folder.join(file).exists()) {
                Some(file) if paths.contains(file) => None,
                Some(file) => {
                    Some(format!("`{file}` is in the folder but not in `files`, so instances would not find it"))
                }
                None => files::length(folder, &files[0]).err(),
            }
        }
    }
}
