//! What differs between two packages. Pure.

use std::collections::BTreeMap;

use modelyard_core::meaning::misread;
use modelyard_core::package::{Lineage, Package};
use modelyard_core::signature::compatible;
use modelyard_core::{ModelName, Version};
use serde::Serialize;
use serde_json::{Value, json};

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it was; none when it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it is; none when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// Everything that differs in one respect, by name.
pub type Changes = BTreeMap<String, Change>;

/// One of the two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    name: ModelName,
    version: Version,
    /// Bytes of all files.
    size_bytes: u64,
}

/// What differs between two packages, by respect; what does not differ is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// The one.
    pub from: Side,
    /// The other.
    pub to: Side,
    /// Respects that differ: `files`, `inputs`, `outputs`, `meanings`, `parameters`, `metrics`, `dependencies`, `flags`, `models`, `risks`, `lineage`,
    /// `other`.
    pub changes: BTreeMap<&'static str, Changes>,
    /// Why callers of the one would break with the other; empty when they would not.
    pub breaks: Vec<String>,
    /// What callers of the one would misunderstand of the other, although it fits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub misread: Vec<String>,
}

/// Compares two packages.
pub fn diff(one: &Package, other: &Package) -> Diff {
    let respects = [
        ("files", of(one, other, |package| map(&package.files))),
        ("inputs", of(one, other, |package| named(&json!(package.signature.inputs)))),
        ("outputs", of(one, other, |package| named(&json!(package.signature.outputs)))),
        ("meanings", of(one, other, meanings)),
        ("parameters", of(one, other, |package| map(&package.parameters))),
        ("metrics", of(one, other, |package| map(&package.metrics))),
        ("dependencies", of(one, other, |package| map(&package.dependencies))),
        ("flags", of(one, other, |package| map(&package.flags))),
        ("models", of(one, other, |package| map(&package.models))),
        ("risks", of(one, other, |package| map(&package.risks))),
        ("lineage", of(one, other, |package| lineage(package.lineage.as_ref()))),
        ("other", of(one, other, rest)),
    ];
    Diff {
        from: side(one),
        to: side(other),
        changes: respects.into_iter().filter(|(_, changes)| !changes.is_empty()).collect(),
        breaks: compatible(&one.signature, &other.signature).err().map(|why| why.0).unwrap_or_default(),
        misread: misread(&one.meanings, &other.meanings),
    }
}

fn side(package: &Package) -> Side {
    let size_bytes = package.files.values().map(|file| file.size_bytes).sum();
    Side { name: package.name.clone(), version: package.version.clone(), size_bytes }
}

fn of(one: &Package, other: &Package, part: impl Fn(&Package) -> BTreeMap<String, Value>) -> Changes {
    let (mut before, mut after) = (part(one), part(other));
    let names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    let change = |name: String| {
        let change = Change { before: before.remove(&name), after: after.remove(&name) };
        (change.before != change.after).then_some((name, change))
    };
    names.into_iter().filter_map(change).collect()
}

fn map(part: &impl Serialize) -> BTreeMap<String, Value> {
    match json!(part) {
        Value::Object(object) => object.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

/// Tensors by their name.
fn named(tensors: &Value) -> BTreeMap<String, Value> {
    let named = |tensor: &Value| Some((tensor["name"].as_str()?.to_owned(), tensor.clone()));
    tensors.as_array().into_iter().flatten().filter_map(named).collect()
}

/// What each input and output means.
fn meanings(package: &Package) -> BTreeMap<String, Value> {
    let inputs = package.meanings.inputs.iter().map(|(name, meaning)| (format!("input {name}"), json!(meaning)));
    let outputs = package.meanings.outputs.iter().map(|(name, meaning)| (format!("output {name}"), json!(meaning)));
    inputs.chain(outputs).collect()
}

/// What it was made from: packages by their model, data sets by their name.
fn lineage(lineage: Option<&Lineage>) -> BTreeMap<String, Value> {
    let Some(lineage) = lineage else { return BTreeMap::new() };
    let ancestors = lineage.built_from.iter();
    let ancestors = ancestors.map(|one| (format!("built from {}", one.name), json!(one.to_string())));
    let datasets = lineage.datasets.iter().map(|(name, digest)| (format!("data set {name}"), json!(digest)));
    let texts = [("source", &lineage.source), ("revision", &lineage.revision)];
    let texts = texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), json!(text.as_ref()?))));
    ancestors.chain(datasets).chain(texts).collect()
}

/// What has no place of its own.
fn rest(package: &Package) -> BTreeMap<String, Value> {
    let mut all = map(package);
    for told in [
        "name",
        "version",
        "files",
        "signature",
        "meanings",
        "parameters",
        "metrics",
        "dependencies",
        "flags",
        "models",
        "risks",
        "lineage",
        "format_version",
    ] {
        all.remove(told);
    }
    // Long documents are compared, and told as how much there is of them.
    for (long, count) in [("samples", package.samples.len()), ("profile", usize::from(package.profile.is_some()))] {
        if let Some(value) = all.get_mut(long) {
            *value = json!({ "count": count, "digest": crate::blob::digest_of(value.to_string().as_bytes()) });
        }
    }
    all
}
