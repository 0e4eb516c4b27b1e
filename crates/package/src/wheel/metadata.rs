//! `METADATA`: what installers, indexes and people read of a package.
//!
//! Promises: nothing that an author wrote can begin a field of its own.
//!
//! Source: PyPA specification "Core metadata" 2.4; SPDX licence expressions as its `License-Expression` takes them.

use std::fmt::Write as _;

use modelyard_core::package::Package;

use super::names::Names;
use super::needs::Needs;

/// The text of `METADATA`; `card` is the description.
pub fn render(package: &Package, names: &Names, needs: &Needs, card: &str) -> String {
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
    field("Requires-Python", &needs.python);
    needs.required.iter().for_each(|required| field("Requires-Dist", required));
    field("Provides-Extra", "pandas");
    field("Description-Content-Type", "text/markdown; charset=UTF-8");
    text.push('\n');
    text.push_str(card);
    text
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
