//! Packages with the runtime `python`: which files they must have, and whether their dependencies are pinned.

use std::collections::BTreeSet;
use std::path::Path;

use modelyard_core::package::{Entry, LOCK, Runtime, python_versions};

use crate::description::Description;
use crate::draft::read;
use crate::lock::{Lock, direct};
use crate::{Error, files};

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

/// Why the dependencies of the folder are not all pinned; `None` if they are, or if there are none.
///
/// # Errors
/// [`Error`] when a file cannot be read.
pub(crate) fn unlocked(folder: &Path, description: &Description) -> Result<Option<String>, Error> {
    let Runtime::Python { requirements: Some(requirements), .. } = &description.runtime.value else { return Ok(None) };
    let requirements = read(&folder.join(requirements))?;
    let path = folder.join(LOCK);
    if !path.is_file() {
        let why = direct(&requirements).err();
        return Ok(Some(why.unwrap_or_else(|| format!("there is no `{LOCK}`"))));
    }
    let python = python_versions(&description.annotations);
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let checked = Lock::parse(&text).and_then(|lock| lock.check(&requirements, python));
    Ok(checked.err().map(|why| format!("`{LOCK}`: {why}")))
}
