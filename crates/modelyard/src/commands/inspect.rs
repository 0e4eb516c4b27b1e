//! `modelyard inspect REF|DIR`: what a package is. Also how every command finds a package by its name.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::Digest;
use modelyard_core::meaning::Meaning;
use modelyard_core::model_file::ModelFile;
use modelyard_core::package::{LOCK, Package, Runtime};
use modelyard_core::signature::TensorSpec;
use modelyard_package::{BuildOptions, is_called_like_a_pickle, needs_ancestors};
use modelyard_registry::access::instant;
use modelyard_registry::catalog::Arrival;
use modelyard_registry::storage::Settings;
use modelyard_registry::{Reference, ReferenceError, Store, card};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Paint, columns};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// A package (`wine:2.1.0`, `wine@champion`, `wine@sha256:…`), a model folder, or a bare model.
    #[arg(value_name = "REF|DIR")]
    what: String,
    /// Show its model card instead.
    #[arg(long)]
    card: bool,
}

impl Inspect {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let laid_out = laid_out(context, &self.what)?;
        if self.card {
            return show_card(context, &laid_out);
        }
        let LaidOut { package, digest, .. } = laid_out;
        let mut document = serde_json::to_value(&package)
            .map_err(|error| Failed::from(error, "the package document is no JSON", "report this as a bug"))?;
        document["digest"] = json!(digest);
        // A folder came from nowhere yet.
        let arrivals = match digest.filter(|_| !Path::new(&self.what).exists()) {
            Some(digest) => Some(store(context)?.arrivals(&digest)?),
            None => None,
        };
        if let Some(arrivals) = &arrivals {
            document["arrivals"] = json!(arrivals);
        }
        context.print(&document, || text(digest, &package, arrivals.as_deref()))?;
        Ok(Exit::Done)
    }
}

/// The local registry.
pub fn store(context: &Context) -> miette::Result<Store> {
    Ok(Store::open(context.home.registry(), context.home.unpacked())?)
}

/// The package that a reference names.
pub fn find(context: &Context, what: &str) -> miette::Result<(Digest, Package)> {
    let store = store(context)?;
    let reference: Reference = what.parse().map_err(|error: ReferenceError| {
        let help = "write a model folder that exists, wine, wine:2.1.0, wine@champion or wine@sha256:…";
        Usage::new(error.to_string(), help)
    })?;
    let digest = store.resolve(&reference)?;
    Ok((digest, store.package(&digest)?))
}

/// A package and the folder that holds its files.
#[derive(Debug)]
pub struct LaidOut {
    /// Its document.
    pub package: Package,
    /// Its digest; a bare model file has none.
    pub digest: Option<Digest>,
    /// Its files.
    pub folder: PathBuf,
    /// Keeps a folder that is not the registry's.
    _scratch: Option<TempDir>,
}

/// The package that `what` names, laid out as files. A model folder or file is looked at without taking a version in the registry.
pub fn laid_out(context: &Context, what: &str) -> miette::Result<LaidOut> {
    let path = Path::new(what);
    if modelyard_package::is_model(path) {
        let package = modelyard_package::package_of_model(path)?;
        let folder = super::package::folder_of_model(path)?;
        return Ok(LaidOut { package, digest: None, folder, _scratch: None });
    }
    if path.exists() {
        let folder = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
        return scratch(context, folder);
    }
    let (digest, package) = find(context, what)?;
    let folder = store(context)?.unpack(&digest)?;
    Ok(LaidOut { package, digest: Some(digest), folder, _scratch: None })
}

/// Shows the model card as text.
fn show_card(context: &Context, laid_out: &LaidOut) -> miette::Result<Exit> {
    let package = &laid_out.package;
    let none = || {
        let help = "name one with `card` in modelyard.toml";
        Failed::new(format!("{}:{} has no model card", package.name, package.version), help)
    };
    let path = laid_out.folder.join(package.model_card.as_ref().ok_or_else(none)?);
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| file.take(card::MAX_BYTES).read_to_end(&mut bytes));
    read.map_err(|error| Failed::from(error, format!("could not read {}", path.display()), "package it again"))?;
    let markdown = String::from_utf8_lossy(&bytes).into_owned() + &card::sections(package);
    context.print(&json!({ "name": package.name, "version": package.version, "markdown": markdown }), || {
        card::text(&markdown)
    })?;
    Ok(Exit::Done)
}

/// A registry of which nothing stays: in its folder alone, whatever keeps the home's.
pub fn passing_store() -> miette::Result<(TempDir, Store)> {
    let made = tempfile::Builder::new().prefix("modelyard-").tempdir();
    let scratch = made.map_err(|error| Failed::from(error, "could not make a temporary folder", "set TMPDIR"))?;
    let (registry, unpacked) = (scratch.path().join("registry"), scratch.path().join("unpacked"));
    let store = Store::open_with(registry, unpacked, &Settings::default())?;
    Ok((scratch, store))
}

/// The home's registry, if the folder names packages in it that it was built from; else the home is left alone.
pub fn ancestors(context: &Context, folder: &Path) -> miette::Result<Option<Store>> {
    needs_ancestors(folder).then(|| store(context)).transpose()
}

fn scratch(context: &Context, folder: &Path) -> miette::Result<LaidOut> {
    let (scratch, store) = passing_store()?;
    // What it was built from is in the home's registry, not in this one.
    let ancestors = ancestors(context, folder)?;
    let options = BuildOptions { allow_unlocked: true, ancestors, ..super::package::options()? };
    let built = super::package::build_into(&store, folder, None, options)?;
    let folder = store.unpack(&built.digest)?;
    Ok(LaidOut { package: built.package, digest: Some(built.digest), folder, _scratch: Some(scratch) })
}

fn text(digest: Option<Digest>, package: &Package, arrivals: Option<&[Arrival]>) -> String {
    let paint = Paint::stdout();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |title: &str, text: String| {
        if !text.is_empty() {
            rows.push(vec![paint.dim(title), text]);
        }
    };
    row("", paint.bold(&format!("{}:{}", package.name, package.version)));
    row("about", package.description.clone());
    row("digest", digest.map(|digest| digest.to_string()).unwrap_or_default());
    for arrival in arrivals.into_iter().flatten() {
        row("came", format!("{}, {}", arrival.way, instant(arrival.at)));
    }
    if arrivals.is_some_and(<[_]>::is_empty) {
        row("came", "nobody knows from where".to_owned());
    }
    row("runtime", runtime(&package.runtime));
    if let Some(graph) = &package.graph {
        let opsets: Vec<String> = graph.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        row("graph", format!("{} operators, {}, {}", graph.operators, opsets.join(", "), graph.producer));
    }
    let said = |spec: &TensorSpec, all: &BTreeMap<String, Meaning>| {
        let meaning = all.get(&spec.name).map(Meaning::line).unwrap_or_default();
        let joint = if meaning.is_empty() { "" } else { ": " };
        format!("{}{joint}{meaning}", tensor(spec))
    };
    package.signature.inputs.iter().for_each(|spec| row("input", said(spec, &package.meanings.inputs)));
    package.signature.outputs.iter().for_each(|spec| row("output", said(spec, &package.meanings.outputs)));
    row("samples", package.samples.len().to_string());
    let metrics: Vec<String> = package.metrics.iter().map(|(name, value)| format!("{name} {value}")).collect();
    row("metrics", metrics.join(", "));
    let parameters: Vec<String> = package.parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    row("parameters", parameters.join(", "));
    let needs: Vec<String> = package.dependencies.iter().map(|(name, version)| format!("{name} {version}")).collect();
    row("needs", needs.join(", "));
    row("flags", package.flags.keys().cloned().collect::<Vec<_>>().join(", "));
    for (path, model) in &package.models {
        row("model", described(path, model));
    }
    for (path, risk) in &package.risks {
        row("risk", format!("{path} is {risk}"));
    }
    // Packages from before model files were recognised say nothing of risks.
    let unsaid = |path: &&String| !package.risks.contains_key(*path) && is_called_like_a_pickle(path);
    for path in package.files.keys().filter(unsaid) {
        row("risk", format!("{path} is called like a pickle: loading it as one runs whatever code is in it"));
    }
    if let Some(lineage) = &package.lineage {
        lineage.built_from.iter().for_each(|one| row("built from", one.to_string()));
        row("source", lineage.source.clone().unwrap_or_default());
        row("revision", lineage.revision.clone().unwrap_or_default());
        lineage.datasets.iter().for_each(|(name, digest)| row("data set", format!("{name}  {digest}")));
    }
    row("licence", package.license.clone().unwrap_or_default());
    for (path, file) in &package.files {
        row("file", format!("{path}  {}", super::package::size(file.size_bytes)));
    }
    columns(&rows).join("\n")
}

fn runtime(runtime: &Runtime) -> String {
    let Runtime::Python { entry, requirements, locked, batch, workers, timeout_seconds } = runtime else {
        return runtime.name().to_owned();
    };
    let needs = match (requirements, locked) {
        (None, _) => "needs nothing but Python".to_owned(),
        (Some(_), true) => format!("pinned in {LOCK}"),
        (Some(file), false) => format!("{file} is not locked"),
    };
    let batch = if *batch { ", merges requests" } else { "" };
    let workers = if *workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    format!("python {entry}, {needs}, {workers}, {timeout_seconds} s a call{batch}")
}

/// A model file on one line: its kind, and what it says of itself.
fn described(path: &str, model: &ModelFile) -> String {
    const LONGEST: usize = 60;
    let short = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => map.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", "),
        Value::Array(list) => list
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    };
    let fact = |(name, value): (&String, &Value)| {
        let (name, value) = (name.replace('_', " "), short(value));
        let cut = if value.chars().count() > LONGEST { "…" } else { "" };
        format!("{name} {}{cut}", value.chars().take(LONGEST).collect::<String>())
    };
    let facts: Vec<String> = model.facts.iter().map(fact).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(": {}", facts.join("; ")) };
    format!("{path}  {}{facts}", model.kind)
}

fn tensor(spec: &TensorSpec) -> String {
    let axis = |length: &i64| if *length < 0 { "any".to_owned() } else { length.to_string() };
    let shape: Vec<String> = spec.shape.iter().map(axis).collect();
    let optional = if spec.optional { ", optional" } else { "" };
    format!("{}  {} [{}]{optional}", spec.name, spec.datatype, shape.join(", "))
}
