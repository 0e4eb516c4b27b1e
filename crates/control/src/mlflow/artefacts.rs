//! The files of model versions, as MLflow's own server gives files out: listed and downloaded below `/api/2.0/mlflow-artifacts/artifacts`.
//!
//! A version's files are below `MODEL/VERSION`: those of the folder where MLflow's description of the model (`MLmodel`) is. An ONNX model that nobody described
//! that way gets a description made from its package, so that `mlflow.pyfunc.load_model` and `mlflow.onnx.load_model` load it.
//!
//! Promises: a path is looked up among the package's files and never on the disk; a file is read a piece at a time, and its answer breaks off unless it has its
//! digest; a browser shows nothing of it.
//! Absent on purpose: uploads (packages are made by `modelyard package`), ranges, and a description of what MLflow has no flavour for.
//!
//! Source: MLflow REST API 2.0, `mlflow-artifacts`; MLflow documentation, "MLflow Models: storage format", the flavours `onnx` and `python_function`.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use modelyard_core::package::{Package, Runtime};
use modelyard_core::signature::{Datatype, TensorSpec};
use modelyard_core::{Digest, ModelName};
use modelyard_registry::Listed;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Refused, version_of};
use crate::catalogue::Catalogue;

/// Below what MLflow's clients look for files.
pub const BASE: &str = "/api/2.0/mlflow-artifacts/artifacts";

/// What describes a model to MLflow.
const MLMODEL: &str = "MLmodel";

/// Where `modelyard import mlflow` puts the files of a model.
const IMPORTED: &str = "model/";

/// The addresses that MLflow's clients ask for files.
pub fn routes() -> Router<Catalogue> {
    // Spelt out, as every route is: what is served is held against the API's document by its text.
    Router::new()
        .route("/api/2.0/mlflow-artifacts/artifacts", get(list))
        .route("/api/2.0/mlflow-artifacts/artifacts/{*path}", get(download))
}

/// Where MLflow's clients find the files of a version, on the host that they asked.
pub fn address(host: &str, listed: &Listed) -> String {
    format!("http://{host}{BASE}/{}/{}", listed.model, listed.version)
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    path: String,
}

/// `GET …/artifacts?path=MODEL/VERSION/FOLDER`: what is in a folder; nothing where there is none, as MLflow has it.
async fn list(
    State(catalogue): State<Catalogue>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<axum::Json<Value>, Refused> {
    let Query(Asked { path }) = asked.map_err(|error| Refused::invalid(error.body_text()))?;
    let (files, folder) = files_of(&catalogue, &path).await?;
    Ok(axum::Json(json!({ "files": files.children(&folder) })))
}

/// `GET …/artifacts/MODEL/VERSION/FILE`: its bytes.
async fn download(
    State(catalogue): State<Catalogue>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Refused> {
    let Path(path) = path.map_err(|error| Refused::invalid(error.body_text()))?;
    let (mut files, name) = files_of(&catalogue, &path).await?;
    let (length, body) = match files.0.remove(&name) {
        None => return Err(Refused::missing(format!("there is no file {path:?} here"))),
        Some(Content::Made(bytes)) => (bytes.len() as u64, Body::from(bytes)),
        Some(Content::Kept { digest, .. }) => catalogue.blob(digest).await?,
    };
    let headers = [
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
        // A page that somebody packaged must not run where the control plane answers.
        (CONTENT_DISPOSITION, "attachment".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, body).into_response())
}

/// A file of a version.
enum Content {
    /// A blob of the registry.
    Kept { digest: Digest, size_bytes: u64 },
    /// Made for MLflow's clients.
    Made(Vec<u8>),
}

/// The files of a version, by the paths that MLflow knows.
struct Files(BTreeMap<String, Content>);

/// The files of the version that `path` begins with, and the rest of the path.
async fn files_of(catalogue: &Catalogue, path: &str) -> Result<(Files, String), Refused> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let (Some(model), Some(version)) = (parts.next(), parts.next()) else {
        return Err(Refused::invalid(format!("Invalid path {path:?}: it begins with MODEL/VERSION")));
    };
    let rest: Vec<&str> = parts.collect();
    if rest.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(Refused::invalid(format!("Invalid path {path:?}: it leads elsewhere")));
    }
    let model = ModelName::new(model).map_err(|error| Refused::invalid(error.to_string()))?;
    let (_, listed) = version_of(catalogue, model, version).await?;
    let digest = listed.digest;
    let package = catalogue.ask(move |store| store.package(&digest)).await?;
    Ok((Files::new(&package, &listed), rest.join("/")))
}

impl Files {
    fn new(package: &Package, listed: &Listed) -> Self {
        let onnx = match &package.runtime {
            Runtime::Onnx { model } => Some(model),
            _ => None,
        };
        let beside = onnx.map(|model| format!("{}{MLMODEL}", folder(model)));
        // As a folder that MLflow saved is packaged: as it is, or by the import; others that a package holds are not about the model as a whole.
        let places = [Some(MLMODEL.to_owned()), Some(format!("{IMPORTED}{MLMODEL}")), beside];
        let described = places.into_iter().flatten().find(|path| package.files.contains_key(path));
        let folder = folder(described.as_ref().or(onnx).map_or("", String::as_str));
        let kept = package.files.iter().filter_map(|(path, entry)| {
            let path = path.strip_prefix(folder)?;
            Some((path.to_owned(), Content::Kept { digest: entry.digest, size_bytes: entry.size_bytes }))
        });
        let mut files: BTreeMap<String, Content> = kept.collect();
        if let (None, Some(model)) = (&described, onnx) {
            let made = mlmodel(package, listed, base(model));
            files.insert(MLMODEL.to_owned(), Content::Made(format!("{made:#}\n").into_bytes()));
        }
        Self(files)
    }

    /// What lies in a folder, as MLflow lists it: names, not paths.
    fn children(&self, folder: &str) -> Vec<Value> {
        let within = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut found = BTreeMap::new();
        for (path, content) in &self.0 {
            let Some(rest) = path.strip_prefix(&within) else { continue };
            let size = match content {
                Content::Kept { size_bytes, .. } => *size_bytes,
                Content::Made(bytes) => bytes.len() as u64,
            };
            match rest.split_once('/') {
                Some((name, _)) => found.insert(name, json!({ "path": name, "is_dir": true })),
                None => found.insert(rest, json!({ "path": rest, "is_dir": false, "file_size": size })),
            };
        }
        found.into_values().collect()
    }
}

/// The folder of a path, with its `/`; empty at the top.
fn folder(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..=at])
}

/// The last part of a path.
fn base(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// What MLflow must know to load an ONNX model that it did not save. It reads YAML, which JSON is.
fn mlmodel(package: &Package, listed: &Listed, model: &str) -> Value {
    let signature = &package.signature;
    let signature = specs(&signature.inputs)
        .zip(specs(&signature.outputs))
        .map(|(inputs, outputs)| json!({ "inputs": inputs, "outputs": outputs, "params": null }));
    let mut document = json!({
        "flavors": {
            "onnx": { "data": model, "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"], "code": null },
            "python_function": { "loader_module": "mlflow.onnx", "data": model, "code": null },
        },
        "metadata": { "modelyard.package": format!("{}:{}", listed.model, listed.version), "modelyard.digest": listed.digest },
    });
    if let Some(signature) = signature {
        document["signature"] = signature;
    }
    document
}

/// Inputs or outputs as MLflow writes them, a JSON text within the document; none where it has no word for one, or where nothing is known.
fn specs(tensors: &[TensorSpec]) -> Option<String> {
    let spec = |tensor: &TensorSpec| {
        let kind = json!({ "dtype": numpy(tensor.datatype)?, "shape": tensor.shape });
        let mut spec = json!({ "name": tensor.name, "type": "tensor", "tensor-spec": kind });
        if tensor.optional {
            spec["required"] = json!(false);
        }
        Some(spec)
    };
    let specs: Option<Vec<Value>> = tensors.iter().map(spec).collect();
    specs.filter(|specs| !specs.is_empty()).map(|specs| Value::from(specs).to_string())
}

/// The datatype's name in NumPy, which has none for BF16.
const fn numpy(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "bool",
        Datatype::Uint8 => "uint8",
        Datatype::Uint16 => "uint16",
        Datatype::Uint32 => "uint32",
        Datatype::Uint64 => "uint64",
        Datatype::Int8 => "int8",
        Datatype::Int16 => "int16",
        Datatype::Int32 => "int32",
        Datatype::Int64 => "int64",
        Datatype::Fp16 => "float16",
        Datatype::Fp32 => "float32",
        Datatype::Fp64 => "float64",
        Datatype::Bytes => "object",
        Datatype::Bf16 => return None,
    })
}
