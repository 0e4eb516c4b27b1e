//! Bill of materials: what a package is made of, in CycloneDX.
//!
//! Promises: the same package gives the same bytes; every file stands in it with its digest, every pinned dependency with its package URL and the
//! hashes of what may be installed.
//! Absent on purpose: known weaknesses of what is in it. Scanners read the bill for those.
//!
//! Source: CycloneDX 1.6 (ECMA-424), JSON; Package URL specification (types `pypi`, `oci`).

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::Digest;
use modelyard_core::package::Package;
use modelyard_registry::python::normalise;
use serde_json::{Value, json};

use crate::lock::{Lock, Pin};

/// The bill of the package `digest`. `lock` is its `modelyard.lock`, if it has one; `made` says when the bill was made, in RFC 3339. Whether the
/// dependencies are complete is said too: they are when a lock pins them.
pub fn bill(package: &Package, digest: &Digest, lock: Option<&Lock>, made: Option<&str>) -> Value {
    let (id, version) = (escaped(&digest.to_string()), escaped(package.version.as_str()));
    let root = format!("pkg:oci/{}@{id}?tag={version}", package.name);
    let pins = lock.map(|lock| lock.pins.as_slice()).unwrap_or_default();
    let files: Vec<Value> =
        package.files.iter().map(|(path, entry)| file(path, &entry.digest, entry.size_bytes)).collect();
    let mut dependencies = pinned(pins);
    dependencies.extend(stated(package, pins));
    let components = [files, dependencies].concat();
    let needs: Vec<&Value> = components.iter().map(|one| &one["bom-ref"]).collect();
    let mut model = json!({
        "type": "machine-learning-model", "bom-ref": root, "name": package.name, "version": package.version,
        "purl": root, "hashes": [hash(digest)],
    });
    if !package.description.is_empty() {
        model["description"] = json!(package.description);
    }
    if !package.authors.is_empty() {
        model["authors"] = package.authors.iter().map(|name| json!({ "name": name })).collect();
    }
    if let Some(license) = &package.license {
        model["licenses"] = json!([{ "expression": license }]);
    }
    let card = card(package);
    if card.as_object().is_some_and(|card| !card.is_empty()) {
        model["modelCard"] = card;
    }
    let mut metadata = json!({
        "component": model,
        "tools": { "components": [{ "type": "application", "name": "modelyard", "version": env!("CARGO_PKG_VERSION") }] },
    });
    if let Some(made) = made {
        metadata["timestamp"] = json!(made);
    }
    let known = if lock.is_some() { "complete" } else { "unknown" };
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "serialNumber": serial(digest),
        "metadata": metadata,
        "components": components,
        "dependencies": [{ "ref": root, "dependsOn": needs }],
        "compositions": [{ "aggregate": known, "dependencies": [root] }],
    })
}

fn hash(digest: &Digest) -> Value {
    json!({ "alg": "SHA-256", "content": digest.hex() })
}

/// A name-based UUID of the digest: whoever makes the bill again gets the same number. Source: RFC 9562, version 8.
fn serial(digest: &Digest) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("urn:uuid:{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn file(path: &str, digest: &Digest, size: u64) -> Value {
    json!({
        "type": "file", "bom-ref": format!("file:{path}"), "name": path, "hashes": [hash(digest)],
        "properties": [{ "name": "modelyard:size_bytes", "value": size.to_string() }],
    })
}

/// What the model takes and gives, and how well it did, as far as the bill has words for it.
fn card(package: &Package) -> Value {
    let mut card = json!({});
    let described = |specs: &[modelyard_core::signature::TensorSpec]| -> Vec<Value> {
        let shape = |spec: &modelyard_core::signature::TensorSpec| {
            spec.shape
                .iter()
                .map(|axis| if *axis < 0 { "any".to_owned() } else { axis.to_string() })
                .collect::<Vec<_>>()
        };
        specs
            .iter()
            .map(|spec| json!({ "format": format!("{} {} [{}]", spec.name, spec.datatype, shape(spec).join(", ")) }))
            .collect()
    };
    let (inputs, outputs) = (described(&package.signature.inputs), described(&package.signature.outputs));
    let mut parameters = json!({});
    for (key, list) in [("inputs", inputs), ("outputs", outputs)] {
        if !list.is_empty() {
            parameters[key] = json!(list);
        }
    }
    if parameters.as_object().is_some_and(|parameters| !parameters.is_empty()) {
        card["modelParameters"] = parameters;
    }
    if !package.metrics.is_empty() {
        let metrics: Vec<Value> =
            package.metrics.iter().map(|(name, value)| json!({ "type": name, "value": value.to_string() })).collect();
        card["quantitativeAnalysis"] = json!({ "performanceMetrics": metrics });
    }
    card
}

/// The pins of a lock, one component for each name and version.
fn pinned(pins: &[Pin]) -> Vec<Value> {
    let mut by_name: BTreeMap<(&str, &str), Vec<&Pin>> = BTreeMap::new();
    for pin in pins {
        by_name.entry((&pin.name, &pin.version)).or_default().push(pin);
    }
    let component = |((name, version), pins): ((&str, &str), Vec<&Pin>)| {
        let mut component = library(name, version);
        let hashes: BTreeSet<&String> = pins.iter().flat_map(|pin| &pin.hashes).collect();
        component["hashes"] = hashes.iter().map(|hash| json!({ "alg": "SHA-256", "content": hash })).collect();
        let markers: BTreeSet<&str> =
            pins.iter().map(|pin| pin.marker.as_str()).filter(|marker| !marker.is_empty()).collect();
        if !markers.is_empty() {
            component["properties"] =
                markers.iter().map(|marker| json!({ "name": "modelyard:marker", "value": marker })).collect();
        }
        component
    };
    by_name.into_iter().map(component).collect()
}

/// What the description states and no pin of a lock has: versions of which no file is known.
fn stated(package: &Package, pins: &[Pin]) -> Vec<Value> {
    let is_pinned = |name: &str| pins.iter().any(|pin| pin.name == name);
    let mut open = BTreeMap::new();
    for (name, wanted) in &package.dependencies {
        let version = wanted.strip_prefix("==").unwrap_or(wanted).trim();
        let component = match normalise(name) {
            Some(project) if is_pinned(&project) => continue,
            Some(project) if is_version(version) => library(&project, version),
            _ => json!({
                "type": "library", "bom-ref": format!("stated:{name}"), "name": name,
                "properties": [{ "name": "modelyard:wanted", "value": wanted }],
            }),
        };
        open.insert(component["bom-ref"].to_string(), component);
    }
    open.into_values().collect()
}

fn is_version(text: &str) -> bool {
    text.bytes().next().is_some_and(|first| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-!".contains(&byte))
}

fn library(name: &str, version: &str) -> Value {
    let purl = format!("pkg:pypi/{name}@{}", escaped(version));
    json!({ "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl })
}

/// Percent-encoded as package URLs want it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) => escaped.push(char::from(byte)),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_escape_what_they_must() {
        assert_eq!(escaped("sha256:ab"), "sha256%3Aab");
        assert_eq!(library("numpy", "2.3.0+cpu")["purl"], "pkg:pypi/numpy@2.3.0%2Bcpu");
        assert!(is_version("1.0rc1") && !is_version(">=1") && !is_version(""));
    }

    #[test]
    fn one_version_stands_once_with_every_hash() {
        let pin = |version: &str, marker: &str, hash: &str| Pin {
            name: "numpy".into(),
            version: version.into(),
            marker: marker.into(),
            hashes: vec![hash.into()],
        };
        let pins = [pin("2", "python < '3'", "bb"), pin("2", "python >= '3'", "aa"), pin("3", "", "cc")];
        let components = pinned(&pins);
        assert_eq!(components.len(), 2);
        assert_eq!(components[0]["hashes"][0]["content"], "aa");
        assert_eq!(components[0]["properties"].as_array().unwrap().len(), 2);
        assert_eq!(components[1]["bom-ref"], "pkg:pypi/numpy@3");
    }
}
