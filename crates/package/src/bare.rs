//! A bare model file, or a folder that is one model: packaged as it is, without a description.
//!
//! An ONNX file is served natively. What is of another kind is kept, moved and compared, and nothing runs it until a model folder names a program.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_core::model_file::ModelKind;
use modelyard_core::package::Package;
use modelyard_registry::Store;

use crate::build::{file_name, finish, package};
use crate::description::Model;
use crate::draft::Draft;
use crate::{BuildOptions, Built, DESCRIPTION, Error, Named, kinds};

/// Whether a path is that of a bare model: a file whose content is of a known kind or that is called like one, or a folder that is a SavedModel or
/// an `.mlpackage`.
pub fn is_model(path: &Path) -> bool {
    if path.is_dir() {
        let called_so = path.extension().is_some_and(|ending| ending == "mlpackage");
        let is_one = called_so || path.join("saved_model.pb").is_file() || is_core_ml(path);
        return is_one && !path.join(DESCRIPTION).exists();
    }
    // Some names settle it, and then nothing has to be read.
    is_onnx(path) || path.is_file() && kinds::is_settled_by(&path.to_string_lossy()) || kind(path).is_some()
}

fn is_core_ml(folder: &Path) -> bool {
    folder.join("Manifest.json").is_file() && folder.join("Data/com.apple.CoreML").is_dir()
}

fn is_onnx(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|ending| ending == "onnx")
}

/// The kind of a file; that of a broken one too.
fn kind(path: &Path) -> Option<ModelKind> {
    let mut file = File::open(path).ok()?;
    let facts = file.metadata().ok().filter(|facts| facts.is_file())?;
    match kinds::read_from(&mut file, facts.len(), &path.to_string_lossy()) {
        Ok(found) => Some(found?.file.kind),
        Err(kinds::KindError::Broken { kind, .. }) => Some(kind),
        Err(_) => None,
    }
}

/// Whether the native model server serves it: ONNX, by its name or its content.
pub(crate) fn is_native(path: &Path) -> bool {
    is_onnx(path) || kind(path) == Some(ModelKind::Onnx)
}

/// Whether a model says what it takes and gives, so that a description can name it. A folder does, or says itself why not.
pub(crate) fn is_described(path: &Path) -> bool {
    let read = |path: &Path| {
        let mut file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        kinds::read_from(&mut file, length, &path.to_string_lossy()).ok()?
    };
    path.is_dir() || read(path).is_some_and(|found| found.signature.is_ok())
}

/// Reads a bare model; also the folder that it lies in.
fn draft(path: &Path, named: &Named) -> Result<(Draft, PathBuf), Error> {
    // `.` has no name, and neither has a path that ends in `..`.
    let path = std::path::absolute(path).map_err(Error::file("could not find", path))?;
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let model = Model {
        name: named.name.clone(),
        version: named.version.clone(),
        description: String::new(),
        license: None,
        authors: Vec::new(),
        card: None,
    };
    let name = file_name(&path)?;
    let draft = match is_native(&path) {
        true => Draft::of_model(&folder, name, model)?,
        false => Draft::of_kept(&folder, name, model)?,
    };
    Ok((draft, folder))
}

/// Builds a bare model, and the files that hold its weights, into `store`.
///
/// # Errors
/// [`Error`]; the registry then has no new version.
#[tracing::instrument(name = "package", skip_all, fields(model = %path.display()), err)]
pub fn build_model(path: &Path, named: &Named, store: &Store, options: &BuildOptions) -> Result<Built, Error> {
    let start = Instant::now();
    let (draft, folder) = draft(path, named)?;
    finish(draft, &folder, store, options, start)
}

/// A package for a bare model, so that it can be looked at or served without a folder of its own. It is stored nowhere and has no samples.
///
/// # Errors
/// [`Error::Onnx`] and [`Error::Kind`] when the file is no usable model; [`Error::Weights`] when files with weights are missing or outside its
/// folder.
pub fn package_of_model(path: &Path) -> Result<Package, Error> {
    let (draft, _) = draft(path, &Named::after(path)?)?;
    Ok(package(draft, BTreeMap::new()))
}
