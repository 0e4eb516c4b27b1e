//! From the package document to the version in the registry: configuration, layers, manifest.
//!
//! Source: CNCF ModelPack specification, `spec.md` and `config.md`; OCI image specification 1.1.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::Digest;
use modelyard_core::package::{DOCUMENT, Package, Runtime};
use modelyard_registry::blob::Blob;
use modelyard_registry::catalog::Way;
use modelyard_registry::manifest::{self as oci, Descriptor, Manifest};
use modelyard_registry::{MAX_DOCUMENT_BYTES, Store};
use serde_json::{Value, json};

use crate::{BuildOptions, Error, canonical};

/// Stores the document, the configuration and the manifest, and gives the version its package; returns its digest and size, each
/// blob counted once.
pub(crate) fn publish(
    package: &Package,
    weights: &BTreeSet<String>,
    store: &Store,
    options: &BuildOptions,
) -> Result<(Digest, u64), Error> {
    let created = options.source_date_epoch.map(rfc3339);
    let document = canonical::to_vec(package);
    if document.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Error::DocumentTooLong(document.len() as u64));
    }
    let document = store.blobs().put(&document)?.blob;
    let configuration = canonical::to_vec(&configuration(package, &document.digest, created.as_deref()));
    let config = store.blobs().put(&configuration)?.blob;
    let manifest = manifest(package, weights, document, config, created);
    let way = options.came.as_ref().unwrap_or(&Way::Built);
    let digest = store.add_from(&package.name, &package.version, &manifest, way)?;
    let parts = manifest.layers.iter().chain([&manifest.config]).map(|part| (part.digest, part.size));
    let sizes: BTreeMap<Digest, u64> = parts.chain(store.blobs().size(&digest)?.map(|size| (digest, size))).collect();
    Ok((digest, sizes.values().sum()))
}

fn manifest(
    package: &Package,
    weights: &BTreeSet<String>,
    document: Blob,
    config: Blob,
    created: Option<String>,
) -> Manifest {
    let layer = |(media_type, guessed): (&str, bool), path: &str, digest, size| {
        let layer = Descriptor::new(media_type, digest, size).noted(oci::FILEPATH, path);
        if guessed { layer.noted(oci::UNTESTED, "true") } else { layer }
    };
    let mut layers = vec![layer((oci::WEIGHT_CONFIG, false), DOCUMENT, document.digest, document.size_bytes)];
    let kind = |path: &str| media_type(package, weights, path);
    layers.extend(package.files.iter().map(|(path, file)| layer(kind(path), path, file.digest, file.size_bytes)));
    let mut annotations = BTreeMap::from([
        (oci::TITLE.to_owned(), package.name.to_string()),
        (oci::VERSION.to_owned(), package.version.to_string()),
    ]);
    annotations.extend(created.map(|created| (oci::CREATED.to_owned(), created)));
    Manifest {
        schema_version: 2,
        media_type: oci::MANIFEST.to_owned(),
        artifact_type: Some(oci::MODEL.to_owned()),
        config: Descriptor::new(oci::MODEL_CONFIG, config.digest, config.size_bytes),
        layers,
        annotations,
    }
}

/// The media type of a file, and whether it is a guess by its name.
fn media_type(package: &Package, weights: &BTreeSet<String>, path: &str) -> (&'static str, bool) {
    if weights.contains(path) {
        return (oci::WEIGHT, false);
    }
    if package.model_card.as_deref() == Some(path) {
        return (oci::DOC, false);
    }
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let guess = match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "onnx" | "safetensors" | "bin" | "pt" | "pth" | "npz" | "npy" | "gguf" | "h5" | "pkl" | "joblib" => oci::WEIGHT,
        "md" | "rst" | "pdf" | "html" => oci::DOC,
        _ if matches!(name, "LICENSE" | "NOTICE" | "README") => oci::DOC,
        _ => match package.runtime {
            Runtime::Onnx { .. } | Runtime::None {} => oci::WEIGHT_CONFIG,
            Runtime::Command { .. } | Runtime::Python { .. } => oci::CODE,
        },
    };
    (guess, true)
}

/// The ModelPack configuration.
fn configuration(package: &Package, document: &Digest, created: Option<&str>) -> Value {
    let layers: Vec<Digest> = [*document].into_iter().chain(package.files.values().map(|file| file.digest)).collect();
    let mut descriptor = json!({
        "name": package.name, "version": package.version, "description": package.description, "authors": package.authors,
    });
    if let Some(created) = created {
        descriptor["createdAt"] = json!(created);
    }
    if let Some(license) = &package.license {
        descriptor["licenses"] = json!([license]);
    }
    json!({
        "descriptor": descriptor,
        "config": {"format": package.runtime.name()},
        "modelfs": {"type": "layers", "diffIds": layers},
    })
}

/// RFC 3339 in UTC; `BuildOptions` refuses what lies past the year 9999.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}
