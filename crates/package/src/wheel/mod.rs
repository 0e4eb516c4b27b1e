//! The format `wheel`: a model as a Python package, a wheel and a source distribution.
//!
//! Promises: the same package gives the same bytes, whatever the machine, the umask or the order of files; no Python is needed to make it; the loader
//! gives the answers of the model server; every file within is one of the package, so that its digests still hold where it is installed.
//! Absent on purpose: programs (the runtime `command`), and dependencies that training alone needed.
//!
//! Source: PyPA specifications "Binary distribution format", "Recording installed projects", "Source distribution format"; PEP 517.

mod archive;
mod metadata;
mod names;
mod needs;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use modelyard_core::package::{DOCUMENT, Package, Runtime};

use self::archive::{Content, Entry};
use self::names::Names;
use self::needs::Needs;
use crate::BuildOptions;
use crate::written::{self, facts};

/// One file that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// `wheel` or `sdist`.
    pub format: &'static str,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// What is imported.
    pub module: String,
    /// Wheel and source distribution.
    pub files: Vec<Written>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// Why there is no Python package.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum WheelError {
    /// Not a model that the loader can run.
    #[error(
        "a package with the runtime `{0}` cannot be a wheel: only ONNX models and Python functions are imported and asked in Python"
    )]
    #[diagnostic(help("export it as `--format standalone`, or convert the model to ONNX"))]
    Runtime(&'static str),
    /// What a Python function needs cannot be said in a wheel.
    #[error("the wheel cannot say what the package needs: {0}")]
    #[diagnostic(help("run `modelyard lock` and package it again: a wheel asks for what its lock pins"))]
    Requirements(String),
    /// Not a version.
    #[error("`{0}` is no version that Python's tools know (PEP 440)")]
    #[diagnostic(help("choose one such as 1.2.0, 1.2.0rc1 or 2026.11.23 in modelyard.toml"))]
    Version(String),
    /// Not a version of a dependency.
    #[error("`{name} = \"{version}\"` in `[dependencies]` is neither a version nor a range (PEP 440)")]
    #[diagnostic(help("write for example {name} = \"1.32.0\" or {name} = \">=1.20\""))]
    Dependency {
        /// Its name.
        name: String,
        /// What stands there.
        version: String,
    },
    /// A file cannot be read or written.
    #[error("could not write `{}`", path.display())]
    #[diagnostic(help("choose another folder with `--out DIR`, and check that the disk has room"))]
    File {
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: io::Error,
    },
}

/// Writes wheel and source distribution of a package that is laid out in `folder` into `out`.
///
/// # Errors
/// [`WheelError`]; files that were there before are as they were.
#[tracing::instrument(name = "wheel", skip_all, fields(package = %package.name, version = %package.version), err)]
pub fn export(package: &Package, folder: &Path, out: &Path, options: &BuildOptions) -> Result<Exported, WheelError> {
    let mut names = Names::of(package)?;
    let needs = Needs::of(package, folder)?;
    names.notes.extend(needs.notes.iter().cloned());
    let card = card(package, folder)? + &modelyard_registry::card::sections(package);
    let metadata = metadata::render(package, &names, &needs, &card);
    let moment = archive::moment(options.source_date_epoch);
    let (stem, module) = (names.stem(), &names.module);
    let info = format!("{stem}.dist-info");
    let about = |metadata_path: String, folder: &str| {
        [
            Entry::text(metadata_path, metadata.as_str()),
            Entry::text(format!("{folder}/WHEEL"), WHEEL),
            Entry::text(format!("{folder}/entry_points.txt"), entry_points(&names)),
        ]
    };
    let content = content(package, folder, &names, &needs);
    std::fs::create_dir_all(out).map_err(|source| WheelError::File { path: out.to_owned(), source })?;
    let wheel = write("wheel", out.join(format!("{stem}-py3-none-any.whl")), |file| {
        let about = about(format!("{info}/METADATA"), &info);
        archive::wheel(file, &content, &about, &format!("{info}/RECORD"), moment)
    })?;
    let mut source: Vec<Entry> = about("PKG-INFO".to_owned(), "_build").into();
    source.push(Entry::text("pyproject.toml", PYPROJECT));
    source.push(Entry::text("_build/modelyard_backend.py", filled(BACKEND, &names)));
    source.extend(content);
    let sdist =
        write("sdist", out.join(format!("{stem}.tar.gz")), |file| archive::sdist(file, &stem, &source, moment))?;
    Ok(Exported { module: module.clone(), files: vec![wheel, sdist], notes: names.notes })
}

const WHEEL: &str = concat!(
    "Wheel-Version: 1.0\nGenerator: modelyard ",
    env!("CARGO_PKG_VERSION"),
    "\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
);
const PYPROJECT: &str =
    "[build-system]\nrequires = []\nbuild-backend = \"modelyard_backend\"\nbackend-path = [\"_build\"]\n";
const INIT: &str = include_str!("python/init.py");
const MAIN: &str = include_str!("python/main.py");
const ENGINE_ONNX: &str = include_str!("python/engine_onnx.py");
const ENGINE_PYTHON: &str = include_str!("python/engine_python.py");
const BACKEND: &str = include_str!("python/backend.py");

fn filled(template: &str, names: &Names) -> String {
    template.replace("@MODULE@", &names.module).replace("@VERSION@", &names.version).replace("@STEM@", &names.stem())
}

fn entry_points(names: &Names) -> String {
    format!("[console_scripts]\n{}-predict = {}.__main__:answer\n", names.project, names.module)
}

/// The module's files, sorted.
fn content(package: &Package, folder: &Path, names: &Names, needs: &Needs) -> Vec<Entry> {
    let module = &names.module;
    let engine = match package.runtime {
        Runtime::Python { .. } => ENGINE_PYTHON.replace("@LISTS@", if needs.arrays { "False" } else { "True" }),
        Runtime::Onnx { .. } | Runtime::Command { .. } | Runtime::None {} => ENGINE_ONNX.to_owned(),
    };
    let mut entries = vec![
        Entry::text(format!("{module}/__init__.py"), filled(INIT, names)),
        Entry::text(format!("{module}/__main__.py"), filled(MAIN, names)),
        Entry::text(format!("{module}/_engine.py"), engine),
        Entry::text(format!("{module}/py.typed"), ""),
    ];
    let laid_out = package.files.keys().map(String::as_str).chain([DOCUMENT]);
    entries.extend(
        laid_out
            .map(|path| Entry { path: format!("{module}/package/{path}"), content: Content::File(folder.join(path)) }),
    );
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    entries
}

/// The model card, or a line in its place.
fn card(package: &Package, folder: &Path) -> Result<String, WheelError> {
    let Some(card) = &package.model_card else {
        return Ok(format!("# {}\n\n{}\n", package.name, package.description));
    };
    let path = folder.join(card);
    let bytes = std::fs::read(&path).map_err(|source| WheelError::File { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes beside `path` and renames, so that there is the whole file or the one before.
fn write(
    format: &'static str,
    path: PathBuf,
    write: impl FnOnce(File) -> io::Result<File>,
) -> Result<Written, WheelError> {
    let whole = written::Written::whole(&path, |file| facts(&mut write(file.try_clone()?)?));
    let written::Written { path, digest, size_bytes, seconds } =
        whole.map_err(|source| WheelError::File { path, source })?;
    Ok(Written { format, path, digest, size_bytes, seconds })
}
