//! Configuration and manifest of an image.
//!
//! Source: OCI image specification 1.1, "Image Configuration", "Image Manifest", "Annotations" (`org.opencontainers.image.*`).

use std::collections::BTreeMap;

use modelyard_core::image::{PACKAGE, PACKAGE_DIR, PORT, PROGRAM, USER};
use modelyard_registry::manifest::{ARCHITECTURE, CREATED, Descriptor, MANIFEST, TITLE, VERSION};
use serde_json::{Value, json};

use super::python::{ENVIRONMENT, HOME};
use super::{Ingredients, Layer};
use crate::canonical;
use crate::publish::rfc3339;

/// Where ONNX Runtime stands in an image.
pub const ENGINE: &str = "/usr/lib/modelyard/libonnxruntime.so";

/// Folders of programs when the base names none. Source: Docker's default.
const FOLDERS: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is said of the image, in its labels and in its manifest alike.
fn words(made_of: &Ingredients<'_>, moment: u64) -> BTreeMap<String, String> {
    let package = made_of.package;
    let lineage = package.lineage.as_ref();
    let image = |name: &str| format!("org.opencontainers.image.{name}");
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let said = [
        (TITLE.to_owned(), Some(package.name.to_string())),
        (VERSION.to_owned(), Some(package.version.to_string())),
        (CREATED.to_owned(), Some(rfc3339(moment))),
        (image("description"), given(&package.description)),
        (image("authors"), given(&package.authors.join(", "))),
        (image("licenses"), package.license.clone()),
        (image("source"), lineage.and_then(|lineage| lineage.source.clone())),
        (image("revision"), lineage.and_then(|lineage| lineage.revision.clone())),
        (image("base.name"), made_of.base.map(|base| base.name.clone())),
        (image("base.digest"), made_of.base.map(|base| base.digest.to_string())),
        (PACKAGE.to_owned(), Some(made_of.digest.to_string())),
    ];
    said.into_iter().filter_map(|(key, text)| Some((key, text?))).collect()
}

/// The configuration: what is started, as whom, with what.
pub fn configuration(made_of: &Ingredients<'_>, moment: u64, layers: &[Layer]) -> Vec<u8> {
    let below = made_of.base.map(|base| &base.config);
    let mut labels: BTreeMap<String, Value> = below
        .and_then(|config| config["config"]["Labels"].as_object())
        .map(|labels| labels.clone().into_iter().collect())
        .unwrap_or_default();
    labels.extend(words(made_of, moment).into_iter().map(|(key, text)| (key, json!(text))));
    let created = rfc3339(moment);
    let own = &layers[made_of.base.map_or(0, |base| base.layers.len())..];
    let steps =
        own.iter().map(|layer| json!({ "created": created, "created_by": format!("modelyard: {}", layer.what) }));
    let history = below.and_then(|config| config["history"].as_array()).cloned().unwrap_or_default();
    let history: Vec<Value> = history.into_iter().chain(steps).collect();
    let diffs: Vec<String> = layers.iter().map(|layer| layer.diff.to_string()).collect();
    canonical::to_vec(&json!({
        "architecture": ARCHITECTURE, "os": "linux", "created": created,
        "config": {
            "User": USER,
            "ExposedPorts": { (format!("{PORT}/tcp")): {} },
            "Env": environment(made_of),
            "Entrypoint": [PROGRAM],
            "Cmd": ["serve"],
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": diffs },
        "history": history,
    }))
}

/// Variables: those of the base, and over them our own.
fn environment(made_of: &Ingredients<'_>) -> Vec<String> {
    let below = made_of.base.and_then(|base| base.config["config"]["Env"].as_array()).into_iter().flatten();
    let mut all: Vec<String> = below.filter_map(Value::as_str).map(str::to_owned).collect();
    if all.iter().all(|one| !one.starts_with("PATH=")) {
        all.push(FOLDERS.to_owned());
    }
    let mut own = vec![
        format!("MODELYARD_PACKAGE_DIR={PACKAGE_DIR}"),
        format!("MODELYARD_HTTP=0.0.0.0:{PORT}"),
        // Who reaches the port is decided by whoever publishes it.
        "MODELYARD_REACHABLE=true".to_owned(),
        "ORT_DISABLE_TELEMETRY=1".to_owned(),
    ];
    own.extend(match &made_of.python {
        Some(_) => vec![format!("MODELYARD_HOME={HOME}"), format!("MODELYARD_PYTHON_ENVIRONMENT={ENVIRONMENT}")],
        None => vec!["MODELYARD_HOME=/tmp/modelyard".to_owned()],
    });
    own.extend(made_of.engine.map(|_| format!("MODELYARD_ONNXRUNTIME={ENGINE}")));
    let name = |one: &str| one.split('=').next().unwrap_or_default().to_owned();
    all.retain(|one| own.iter().all(|other| name(other) != name(one)));
    all.extend(own);
    all
}

/// The manifest. Its subject is the package, so that a registry lists the image there.
pub fn manifest(made_of: &Ingredients<'_>, moment: u64, layers: &[Layer], config: &Descriptor) -> Vec<u8> {
    let layers: Vec<&Descriptor> = layers.iter().map(|layer| &layer.descriptor).collect();
    canonical::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": layers,
        "subject": Descriptor::new(MANIFEST, *made_of.digest, made_of.manifest_bytes),
        "annotations": words(made_of, moment),
    }))
}
