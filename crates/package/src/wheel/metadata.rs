//! `METADATA`: what installers, indexes and people read of a package.
//!
//! Promises: nothing that an author wrote can begin a field of its own.
//!
//! Source: PyPA specification "Core metadata" 2.4; SPDX licence expressions as its `License-Expression` takes them.

use std::fmt::Write as _;

use modelyard_core::package::{PYTHON_REQUIRES, Package};
use modelyard_registry::python::{is_range, normalise, normalise_version};

use super::WheelError;
use super::names::Names;

/// Versions of Python that the loader runs on.
const PYTHON: &str = ">=3.10";

/// The text of `METADATA`; `card` is the description.
pub fn render(package: &Package, names: &Names, card: &str) -> Result<String, WheelError> {
    let mut text = String::from("Metadata-Version: 2.4\n");
    let mut field = |name: &str, value: &str| {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        if !value.is_empty() {
            let _ = writeln!(text, "{name}: {value}");
        }
    };
    field("Name", &names.project);
    field("Version", &names.version);
    field("Summary", &package.description.chars().take(512).collect::<String>());
    if let Some(keywords) = package.annotations.get("keywords") {
        field("Keywords", keywords);
    }
    let (with_mail, without): (Vec<&String>, Vec<&String>) = package.authors.iter().partition(|author| is_mail(author));
    let joined = |authors: Vec<&String>| authors.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    field("Author", &joined(without));
    field("Author-email", &joined(with_mail));
    if let Some(license) = &package.license {
        field(if is_spdx(license) { "License-Expression" } else { "License" }, license);
    }
    for classifier in [
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ] {
        field("Classifier", classifier);
    }
    field("Requires-Python", package.annotations.get(PYTHON_REQUIRES).map_or(PYTHON, String::as_str));
    let engine = if pinned(package, "onnxruntime-gpu").is_some() { "onnxruntime-gpu" } else { "onnxruntime" };
    field("Requires-Dist", &requirement(package, engine, ">=1.20")?);
    field("Requires-Dist", &requirement(package, "numpy", ">=1.24")?);
    field("Requires-Dist", &format!("{}; extra == \"pandas\"", requirement(package, "pandas", "")?));
    field("Provides-Extra", "pandas");
    field("Description-Content-Type", "text/markdown; charset=UTF-8");
    text.push('\n');
    text.push_str(card);
    Ok(text)
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

fn is_mail(author: &str) -> bool {
    author.contains('@') && !author.contains(',')
}

/// Whether it has the form of an SPDX expression. Whether each licence exists is for the index to say.
fn is_spdx(text: &str) -> bool {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let (mut depth, mut wants_name) = (0_i32, true);
    for word in spaced.split_whitespace() {
        match word {
            "(" if wants_name => depth += 1,
            ")" if !wants_name && depth > 0 => depth -= 1,
            "AND" | "OR" | "WITH" if !wants_name => wants_name = true,
            name if wants_name && !["AND", "OR", "WITH", ")"].contains(&name) => {
                if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.+".contains(&byte)) {
                    return false;
                }
                wants_name = false;
            }
            _ => return false,
        }
    }
    depth == 0 && !wants_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_told_from_free_text() {
        for good in
            ["Apache-2.0", "MIT OR (Apache-2.0 AND BSD-3-Clause)", "GPL-2.0-or-later WITH Classpath-exception-2.0"]
        {
            assert!(is_spdx(good), "{good}");
        }
        for bad in ["", "Apache License", "MIT OR", "(MIT", "MIT)", "all rights reserved", "AND MIT", "MIT/X11"] {
            assert!(!is_spdx(bad), "{bad}");
        }
    }
}
