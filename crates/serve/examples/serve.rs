//! Serves a package folder, or a bare ONNX file, without the rest of Modelyard: for tests and measurements.
//!
//! `serve (DIR|FILE.onnx) [NAME] [HTTP] [PROBE] [ANNOUNCE]`. A bare file is served without samples.

use std::path::{Path, PathBuf};

use modelyard_core::package::{DOCUMENT, Package, Runtime};
use modelyard_serve::contract::{Contracts, VertexPaths};
use modelyard_serve::{ServeOptions, onnxruntime, python};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("which package?")?);
    let cache = std::env::temp_dir().join("modelyard-cache");
    let (package, dir) = package(&path)?;
    let python = match &package.runtime {
        Runtime::Python { .. } => Some(python::prepare(&package, &dir, &cache)?),
        _ => None,
    };
    let library = if python.is_some() { PathBuf::new() } else { onnxruntime::locate(&cache)? };
    let mut options = ServeOptions::new(package, dir, library);
    options.python = python;
    if let Some(name) = args.next() {
        options.name = name;
    }
    if let Some(http) = args.next() {
        options.http = http.parse()?;
    }
    options.probe = args.next().filter(|probe| probe != "-").map(|probe| probe.parse()).transpose()?;
    options.announce = args.next().map(PathBuf::from);
    if let Some(threads) = variable("THREADS")? {
        options.threads = threads;
    }
    if let Some(millis) = variable("CHECK_EVERY_MS")? {
        options.check_every = std::time::Duration::from_millis(millis.try_into()?);
    }
    if let Ok(flags) = std::env::var(modelyard_core::flags::VARIABLE) {
        options.flags = serde_json::from_str(&flags)?;
    }
    if let Ok(list) = std::env::var("CONTRACT") {
        options.contracts = Contracts::parse(&list, VertexPaths::default())?;
    }
    if let Some(rows) = variable("MAX_BATCH_ROWS")? {
        options.max_batch_rows = rows;
    }
    Ok(modelyard_serve::run(options)?)
}

fn variable(name: &str) -> Result<Option<usize>, Failure> {
    Ok(std::env::var(name).ok().map(|value| value.parse()).transpose()?)
}

fn package(path: &Path) -> Result<(Package, PathBuf), Failure> {
    if path.is_dir() {
        return Ok((serde_json::from_slice(&std::fs::read(path.join(DOCUMENT))?)?, path.to_owned()));
    }
    let (dir, file) = (path.parent().ok_or("no folder")?, path.file_name().ok_or("no file")?.to_string_lossy());
    let document = serde_json::json!({
        "format_version": 1, "name": "model", "version": "1.0.0", "runtime": {"kind": "onnx", "model": file},
        "signature": {"inputs": [], "outputs": []}, "files": {},
    });
    Ok((serde_json::from_value(document)?, dir.to_owned()))
}
