//! What a wheel asks of where it is installed: a range of Python versions, and the framework in the version that the package was checked with.
//!
//! Promises: an ONNX model asks for exactly one ONNX Runtime unless its author gave a range; a Python function asks for exactly what its lock pins.
//! Absent on purpose: hashes. `Requires-Dist` has no place for them; the lock lies beside the function, for `pip install --require-hashes`.
//!
//! Source: PyPA specifications "Dependency specifiers" and "Core metadata" (`Requires-Dist`, `Requires-Python`).

use std::fs;
use std::path::Path;

use modelyard_core::package::{
    Entry, LOCK, ONNXRUNTIME, ONNXRUNTIME_PYTHON, PYTHON_REQUIRES, Package, Runtime, python_versions,
};
use modelyard_registry::python::{is_range, normalise, normalise_version};

use super::WheelError;
use crate::lock::{Lock, direct};

/// Versions of Python that the loader runs on.
const PYTHON: &str = ">=3.10";
/// What the loader needs of NumPy where nobody says more: 3 may break what 2 kept.
const NUMPY: &str = ">=1.24,<3";

/// What a wheel asks of where it is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// `Requires-Python`.
    pub python: String,
    /// Each `Requires-Dist`.
    pub required: Vec<String>,
    /// Whether a function gets arrays rather than nested lists.
    pub arrays: bool,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Needs {
    /// Those of a package that is laid out in `folder`.
    ///
    /// # Errors
    /// [`WheelError`] for a program, and for versions that Python's tools would not take.
    pub fn of(package: &Package, folder: &Path) -> Result<Self, WheelError> {
        match &package.runtime {
            Runtime::Onnx { .. } => of_model(package),
            Runtime::Python { entry, requirements, locked, .. } => {
                let requirements = requirements.as_deref().map(|file| (file, *locked));
                of_function(package, folder, entry, requirements)
            }
            Runtime::Command { .. } | Runtime::None {} => Err(WheelError::Runtime(package.runtime.name())),
        }
    }
}

fn of_model(package: &Package) -> Result<Needs, WheelError> {
    let engine = if pinned(package, "onnxruntime-gpu").is_some() { "onnxruntime-gpu" } else { "onnxruntime" };
    let named = pinned(package, engine);
    // The engine of somebody else's choice may exist for other versions of Python than ours.
    let python = if named.is_none_or(|version| version == ONNXRUNTIME) { ONNXRUNTIME_PYTHON } else { PYTHON };
    let mut needs = Needs {
        python: package.annotations.get(PYTHON_REQUIRES).map_or(python, String::as_str).to_owned(),
        required: vec![
            requirement(package, engine, &format!("=={ONNXRUNTIME}"))?,
            requirement(package, "numpy", NUMPY)?,
            format!("{}; extra == \"pandas\"", requirement(package, "pandas", "")?),
        ],
        arrays: true,
        notes: Vec::new(),
    };
    if let Some(range) = named.filter(|range| is_range(range)) {
        needs.notes.push(format!(
            "the wheel takes any {engine} {range}: name one version in `[dependencies]` to have exactly what was checked"
        ));
    }
    Ok(needs)
}

fn of_function(
    package: &Package,
    folder: &Path,
    entry: &Entry,
    requirements: Option<(&str, bool)>,
) -> Result<Needs, WheelError> {
    let mut needs = Needs { python: python_versions(&package.annotations).to_owned(), ..Needs::default() };
    let text = |file: &str| {
        let path = folder.join(file);
        fs::read(&path).map_err(|source| WheelError::File { path, source })
    };
    let mut names = Vec::new();
    match requirements {
        None => {}
        Some((_, true)) => {
            let lock = Lock::parse(&String::from_utf8_lossy(&text(LOCK)?)).map_err(WheelError::Requirements)?;
            for pin in lock.pins {
                let marker = if pin.marker.is_empty() { String::new() } else { format!("; {}", pin.marker) };
                needs.required.push(format!("{}=={}{marker}", pin.name, pin.version));
                names.push(pin.name);
            }
        }
        Some((file, false)) => {
            for (name, rest) in direct(&text(file)?).map_err(WheelError::Requirements)? {
                needs.required.push(format!("{name}{rest}"));
                names.push(name);
            }
            needs.notes.push(
                "the package is not locked, so that tomorrow the wheel may be installed with other dependencies: run `modelyard lock`"
                    .to_owned(),
            );
        }
    }
    let has = |name: &str| names.iter().any(|known| known == name);
    // What an unlocked package needs beyond what it names is anybody's guess; most of it brings NumPy.
    let guessed = requirements.is_some_and(|(_, locked)| !locked);
    needs.arrays = has("numpy") || guessed || matches!(entry, Entry::Mlflow { .. });
    if !has("numpy") {
        needs.required.push(format!("numpy{NUMPY}"));
    }
    if !has("pandas") {
        needs.required.push("pandas; extra == \"pandas\"".to_owned());
    }
    Ok(needs)
}

fn pinned<'p>(package: &'p Package, name: &str) -> Option<&'p str> {
    package.dependencies.iter().find(|(key, _)| normalise(key).as_deref() == Some(name)).map(|(_, value)| value.trim())
}

/// A requirement with the version that the package was made with, else with `otherwise`.
fn requirement(package: &Package, name: &str, otherwise: &str) -> Result<String, WheelError> {
    let range = match pinned(package, name) {
        None => otherwise.to_owned(),
        Some(range) if is_range(range) => range.split_whitespace().collect(),
        Some(version) => match normalise_version(version) {
            Some(version) => format!("=={version}"),
            None => return Err(WheelError::Dependency { name: name.to_owned(), version: version.to_owned() }),
        },
    };
    Ok(format!("{name}{range}"))
}
