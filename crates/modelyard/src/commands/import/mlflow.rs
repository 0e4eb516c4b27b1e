//! `modelyard import mlflow MODEL|DIR`: a model of an MLflow server, or a folder that MLflow saved, becomes a model folder and a package.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::url::encoded;
use modelyard_core::{ModelName, Version};
use modelyard_package::BuildOptions;
use modelyard_package::mlflow::{MLMODEL, MOST_BYTES, Origin, WITHIN, describe, one_file};
use modelyard_registry::catalog::Way;
use serde_json::{Value, json};

use super::{occupied, unusable};
use crate::commands::env::notice;
use crate::commands::package::{Called, build_into};
use crate::commands::{inspect, lock};
use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::mlflow::Server;
use crate::terminal::{Busy, say};

/// Annotation of what a model is called that nobody registered.
const LOGGED_NAME: &str = "mlflow.logged_model";
/// As many models of one run are looked at.
const MOST_LOGGED: usize = 100;

/// Arguments of `import mlflow`.
#[derive(Debug, Args)]
pub struct Mlflow {
    /// `NAME`, `NAME/VERSION` or `NAME@ALIAS` on the server (with `models:/` before it if you like); `runs:/RUN/NAME` or `models:/m-ID` for one that nobody registered; or a folder.
    #[arg(value_name = "MODEL|DIR")]
    model: String,
    /// The MLflow server. MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who asks.
    #[arg(long, value_name = "URL", env = "MLFLOW_TRACKING_URI", default_value = "http://127.0.0.1:5000")]
    server: String,
    /// What the package is called. Default: as MLflow calls it.
    #[arg(long = "as", value_name = "NAME:VERSION")]
    named: Option<Called>,
    /// The model folder that is made. Default: the model's name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Take a Python flavour's requirements as they are, without pinning everything in `modelyard.lock`.
    #[arg(long)]
    allow_unlocked: bool,
}

impl Mlflow {
    /// Imports it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let asked = self;
        let (origin, source) = if Path::new(&asked.model).join(MLMODEL).is_file() {
            (local(&asked)?, None)
        } else {
            let server = Server::new(&asked.server)?;
            let (origin, address) = registered(&server, &asked)?;
            (origin, Some((server, address)))
        };
        let folder = asked.out.clone().unwrap_or_else(|| PathBuf::from(origin.name.as_str()));
        occupied(&folder)?;
        if source.is_none() && lies_in(&folder, Path::new(&asked.model)) {
            let what = format!("{} would lie in the folder that is imported", folder.display());
            return Err(Usage::new(what, "name another folder with `--out DIR`").into());
        }
        // A folder of this machine is as good as any other that is packaged here.
        let came = source.as_ref().map(|(server, _)| came(server, &origin));
        let within = folder.join(WITHIN);
        {
            let _busy = Busy::with(&format!("fetching {}", asked.model));
            match source {
                Some((server, address)) => {
                    if server.fetch(&address, &within)? == 0 {
                        let help = "see on the server's page which models there are, and what they are called";
                        return Err(Failed::new(format!("there is no model at {address}"), help).into());
                    }
                }
                None => copy(Path::new(&asked.model), &within).map_err(|error| unusable(error, &within))?,
            }
        }
        let mlmodel = read(&within.join(MLMODEL))?;
        let beside = |name: &str| fs::read_to_string(within.join(name)).unwrap_or_default();
        let requirements = one_file(&beside("requirements.txt"), &beside("constraints.txt"));
        let described = describe(&mlmodel, &requirements, &origin).map_err(|why| {
            Failed::new(
                format!("`{}` cannot be packaged: {why}", asked.model),
                "nothing was packaged; the files lie in the folder",
            )
        })?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| unusable(error, &path))
        };
        write(modelyard_package::DESCRIPTION, &described.description)?;
        if described.needs_requirements {
            write("requirements.txt", &requirements)?;
            if !asked.allow_unlocked {
                lock::pin(&folder, false)?;
            }
        }
        if let Some(came) = &came {
            notice(context, came);
        }
        let options = BuildOptions { allow_unlocked: asked.allow_unlocked, came, ..BuildOptions::default() };
        let built = build_into(&inspect::store(context)?, &folder, None, options)?;
        say(&format!(
            "the model folder is {}: add samples there, so that an instance can be told to answer rightly",
            folder.display()
        ));
        let document = json!({
            "name": built.package.name, "version": built.package.version, "digest": built.digest,
            "runtime": built.package.runtime.name(), "folder": folder,
        });
        context.print(&document, || format!("{}:{}  {}", built.package.name, built.package.version, built.digest))?;
        Ok(Exit::Done)
    }
}

fn read(path: &Path) -> Result<String, Failed> {
    let length = fs::metadata(path).map_err(|error| unusable(error, path))?.len();
    if length > MOST_BYTES {
        return Err(Failed::new(format!("{} has more than 4 MiB", path.display()), "that is no model of MLflow"));
    }
    fs::read_to_string(path).map_err(|error| unusable(error, path))
}

/// Whether a folder, which need not be there yet, is another one or lies in it.
fn lies_in(folder: &Path, other: &Path) -> bool {
    let absolute = std::path::absolute(folder).ok();
    let there = absolute.and_then(|path| path.ancestors().find_map(|one| one.canonicalize().ok()));
    there.zip(other.canonicalize().ok()).is_some_and(|(there, other)| there.starts_with(other))
}

/// Copies a folder. Links are not followed: they may lead anywhere.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Where a registered version came from: the page of its model.
fn came(server: &Server, origin: &Origin) -> Way {
    let model = origin.annotations.get("mlflow.model").map_or("", String::as_str);
    Way::imported_from(&format!("{}/models/{model}", server.base().trim_end_matches('/')))
}

fn origin(asked: &Mlflow, name: &str, version: &str) -> Result<Origin, Usage> {
    let help = "say what it is to be called here: `--as NAME:VERSION`";
    let (name, version) = match &asked.named {
        Some(called) => (called.name().clone(), called.version().clone()),
        None => (
            ModelName::new(name).map_err(|error| Usage::new(error.to_string(), help))?,
            Version::new(version).map_err(|error| Usage::new(error.to_string(), help))?,
        ),
    };
    let empty = String::new();
    let (parameters, metrics, annotations) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    Ok(Origin { name, version, description: empty, parameters, metrics, annotations })
}

fn local(asked: &Mlflow) -> Result<Origin, Usage> {
    let path = Path::new(&asked.model).canonicalize().unwrap_or_else(|_| PathBuf::from(&asked.model));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    origin(asked, &name, "1")
}

/// What the server says of a registered version, and where its files are.
fn registered(server: &Server, asked: &Mlflow) -> miette::Result<(Origin, String)> {
    if let Some(wanted) = asked.model.strip_prefix("runs:/") {
        return of_run(server, asked, wanted);
    }
    let wanted = asked.model.strip_prefix("models:/").unwrap_or(&asked.model);
    // No registered model is named so: those have a version or an alias behind their name.
    if wanted != asked.model && wanted.starts_with("m-") && !wanted.contains(['/', '@']) {
        return logged(server, asked, wanted);
    }
    let found = match (wanted.split_once('@'), wanted.rsplit_once('/')) {
        (Some((name, alias)), _) => server.get("registered-models/alias", &[("name", name), ("alias", alias)])?,
        (None, Some((name, version))) => server.get("model-versions/get", &[("name", name), ("version", version)])?,
        (None, None) => newest(server, wanted)?,
    };
    let version = &found["model_version"];
    let word = |key: &str| version[key].as_str().unwrap_or_default().to_owned();
    let (name, number, run) = (word("name"), word("version"), word("run_id"));
    let mut origin = origin(asked, &name, &number)?;
    origin.description = word("description").lines().next().unwrap_or_default().to_owned();
    let told = [
        ("server", server.base()),
        ("model", &name),
        ("version", &number),
        ("run_id", &run),
        ("source", &word("source")),
    ];
    for (key, value) in told.into_iter().filter(|(_, value)| !value.is_empty()) {
        origin.annotations.insert(format!("mlflow.{key}"), value.to_owned());
    }
    if !run.is_empty() {
        figures(&mut origin, &server.get("runs/get", &[("run_id", &run)])?);
    }
    let address = server.get("model-versions/get-download-uri", &[("name", &name), ("version", &number)])?;
    Ok((origin, address["artifact_uri"].as_str().unwrap_or_default().to_owned()))
}

/// Puts a run's parameters and metrics into an origin.
fn figures(origin: &mut Origin, run: &Value) {
    let data = |what: &str| run["run"]["data"][what].as_array().cloned().unwrap_or_default();
    let key = |entry: &Value| entry["key"].as_str().unwrap_or_default().to_owned();
    let text = |entry: &Value| entry["value"].as_str().unwrap_or_default().to_owned();
    origin.parameters = data("params").iter().map(|entry| (key(entry), text(entry))).collect();
    origin.metrics = data("metrics").iter().filter_map(|entry| Some((key(entry), entry["value"].as_f64()?))).collect();
}

/// A model that a run logged and nobody registered: `models:/m-…`.
fn logged(server: &Server, asked: &Mlflow, id: &str) -> miette::Result<(Origin, String)> {
    let found = server.get(&format!("logged-models/{}", encoded(id)), &[])?;
    let info = &found["model"]["info"];
    let word = |key: &str| info[key].as_str().unwrap_or_default().to_owned();
    let run = word("source_run_id");
    let run = if run.is_empty() { Value::Null } else { server.get("runs/get", &[("run_id", &run)])? };
    Ok((unregistered(server, asked, &word("name"), id, &run)?, word("artifact_uri")))
}

/// A model by the run that logged it and its name or path there: `runs:/RUN/NAME`.
fn of_run(server: &Server, asked: &Mlflow, wanted: &str) -> miette::Result<(Origin, String)> {
    let (id, path) = wanted.split_once('/').map(|(id, path)| (id, path.trim_matches('/'))).unwrap_or_default();
    if id.is_empty() || path.is_empty() {
        return Err(Usage::new(format!("`{}` names no model of a run", asked.model), "write runs:/RUN/NAME").into());
    }
    let run = server.get("runs/get", &[("run_id", id)])?;
    // MLflow 3 keeps models beside their run, MLflow 2 among its files.
    let outputs = run["run"]["outputs"]["model_outputs"].as_array().into_iter().flatten();
    for id in outputs.rev().filter_map(|output| output["model_id"].as_str()).take(MOST_LOGGED) {
        let (origin, address) = logged(server, asked, id)?;
        if origin.annotations.get(LOGGED_NAME).is_some_and(|name| name == path) {
            return Ok((origin, address));
        }
    }
    let files = run["run"]["info"]["artifact_uri"].as_str().unwrap_or_default().trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or(path);
    Ok((unregistered(server, asked, name, "", &run)?, format!("{files}/{path}")))
}

fn unregistered(server: &Server, asked: &Mlflow, name: &str, id: &str, run: &Value) -> Result<Origin, Usage> {
    let mut origin = origin(asked, name, "1")?;
    figures(&mut origin, run);
    let run = run["run"]["info"]["run_id"].as_str().unwrap_or_default();
    for (key, value) in
        [("mlflow.server", server.base()), (LOGGED_NAME, name), ("mlflow.model_id", id), ("mlflow.run_id", run)]
    {
        if !value.is_empty() {
            origin.annotations.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(origin)
}

fn newest(server: &Server, name: &str) -> miette::Result<Value> {
    if name.contains('\'') {
        return Err(
            Usage::new(format!("`{name}` is no name of a model"), "write NAME, NAME/VERSION or NAME@ALIAS").into()
        );
    }
    let filter = format!("name = '{name}'");
    let query = [("filter", filter.as_str()), ("order_by", "version_number DESC"), ("max_results", "1")];
    let found = server.get("model-versions/search", &query)?;
    match found["model_versions"].get(0) {
        Some(version) => Ok(json!({ "model_version": version })),
        None => {
            let what = format!(
                "there is no model `{name}` on {}, and no folder of that name with an `{MLMODEL}`",
                server.base()
            );
            Err(Failed::new(what, "write NAME, NAME/VERSION or NAME@ALIAS, or the path of a folder").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_found_below_another_before_it_is_there() {
        let made = tempfile::tempdir().unwrap();
        let model = made.path().join("saved");
        fs::create_dir(&model).unwrap();
        assert!(
            lies_in(&model, &model)
                && lies_in(&model.join("a/b"), &model)
                && lies_in(&model.join("../saved/a"), &model)
        );
        assert!(!lies_in(&made.path().join("saved2"), &model) && !lies_in(made.path(), &model));
    }
}
