//! `modelyard export mlflow SERVICE`: what became of a service's revisions, written into an MLflow server's registry and runs.

use std::collections::BTreeMap;

use clap::Args;
use modelyard_core::ServiceName;
use serde_json::{Value, json};

use crate::api;
use crate::cli::Connect;
use crate::client::Client;
use crate::context::Context;
use crate::exit::{Exit, Failed};
use crate::mlflow::Server;
use crate::terminal::{Paint, table};

/// Arguments of `export mlflow`.
#[derive(Debug, Args)]
pub struct Mlflow {
    /// The service.
    service: ServiceName,
    /// The MLflow server. MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who asks.
    #[arg(long, value_name = "URL", env = "MLFLOW_TRACKING_URI", default_value = "http://127.0.0.1:5000")]
    server: String,
    /// The alias that is moved to the version that serves. Default: the service's environment.
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

/// A version on the MLflow server.
struct Known {
    model: String,
    version: String,
    run: Option<String>,
}

impl Mlflow {
    /// Writes it; what was written before stays as it is.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let asked = self;
        let (client, server) = (context.client(&asked.connect)?, Server::new(&asked.server)?);
        let path = format!("/api/services/{}", asked.service);
        let status: api::Status = client.get(&path)?;
        let history: api::History = client.get(&format!("{path}/history"))?;
        let stable = status.stable.as_ref().map(|pool| pool.revision);
        let mut written = Vec::new();
        let mut serves = None;
        for revision in &history.revisions {
            let Some(model) = &revision.model else { continue };
            let known = known(&client, &server, model, revision)?;
            let state = state(&history, revision, stable == Some(revision.number));
            let key = format!("modelyard.{}.{}", status.environment, asked.service);
            for (key, value) in [
                (key.as_str(), state.as_str()),
                ("modelyard.version", revision.version.as_str()),
                ("modelyard.digest", revision.package.as_str()),
            ] {
                let body = json!({ "name": known.model, "version": known.version, "key": key, "value": value });
                server.post("model-versions/set-tag", &body)?;
            }
            outcomes(&server, &asked.service, &history, revision, known.run.as_deref())?;
            written.push(
                json!({ "model": known.model, "version": known.version, "revision": revision.number, "state": state }),
            );
            if stable == Some(revision.number) {
                serves = Some(known);
            }
        }
        let alias = asked.alias.unwrap_or_else(|| status.environment.clone());
        if let Some(known) = &serves {
            let body = json!({ "name": known.model, "alias": alias, "version": known.version });
            server.post("registered-models/alias", &body)?;
        }
        let told = json!({ "service": asked.service, "server": server.base(), "alias": serves.is_some().then_some(alias), "versions": written });
        context.print(&told, || {
            let word = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
            let row = |one: &Value| {
                vec![
                    format!("{}/{}", word(one, "model"), word(one, "version")),
                    format!("r{}", one["revision"]),
                    word(one, "state"),
                ]
            };
            table(&["on MLflow", "revision", "state"], written.iter().map(row).collect(), Paint::stdout())
        })?;
        Ok(Exit::Done)
    }
}

/// What is to be said of a revision.
fn state(history: &api::History, revision: &api::RevisionLine, serves: bool) -> String {
    let last = history.rollouts.iter().rev().find(|rollout| rollout.to == Some(revision.number));
    let outcome = last.map_or_else(
        || "without a rollout".to_owned(),
        |rollout| {
            let outcome = rollout.outcome.as_deref().unwrap_or("running");
            let cause = rollout.cause.as_deref().map(|cause| format!(", {cause}")).unwrap_or_default();
            format!("{outcome} ({}{cause})", rollout.strategy)
        },
    );
    format!("revision {}: {outcome}{}", revision.number, if serves { "; serves" } else { "" })
}

/// The version on the server that a revision's package came from, or one that is made for it.
fn known(client: &Client, server: &Server, model: &str, revision: &api::RevisionLine) -> miette::Result<Known> {
    let version: Value = client.get(&format!("/api/models/{model}/versions/{}", revision.version))?;
    let note = |key: &str| version["package"]["annotations"][format!("mlflow.{key}")].as_str().map(str::to_owned);
    if let (Some(model), Some(version)) = (note("model"), note("version")) {
        return Ok(Known { model, version, run: note("run_id") });
    }
    let filter = format!("name = '{model}' and tags.`modelyard.digest` = '{}'", revision.package);
    let found = server.get("model-versions/search", &[("filter", &filter), ("max_results", "1")])?;
    let there = found["model_versions"].get(0).cloned();
    let made = match there {
        Some(there) => there,
        None => {
            let models = server.get("registered-models/search", &[("filter", &format!("name = '{model}'"))])?;
            if models["registered_models"].get(0).is_none() {
                server.post("registered-models/create", &json!({ "name": model }))?;
            }
            let tags: Vec<Value> =
                BTreeMap::from([("modelyard.digest", &revision.package), ("modelyard.version", &revision.version)])
                    .into_iter()
                    .map(|(key, value)| json!({ "key": key, "value": value }))
                    .collect();
            let source = format!("modelyard:/{model}:{}", revision.version);
            let body = json!({ "name": model, "source": source, "tags": tags });
            server.post("model-versions/create", &body)?["model_version"].clone()
        }
    };
    let number = made["version"].as_str().map(str::to_owned);
    let number = number.ok_or_else(|| Failed::new("the MLflow server named no version", "see its log"))?;
    Ok(Known { model: model.to_owned(), version: number, run: None })
}

/// How each rollout of a revision ended, as metrics of the run that made the model: one step for each.
fn outcomes(
    server: &Server,
    service: &ServiceName,
    history: &api::History,
    revision: &api::RevisionLine,
    run: Option<&str>,
) -> Result<(), Failed> {
    let Some(run) = run else { return Ok(()) };
    for (step, rollout) in history.rollouts.iter().enumerate() {
        let (Some(ended), true) = (rollout.ended, rollout.to == Some(revision.number)) else { continue };
        let promoted = f64::from(u8::from(rollout.outcome.as_deref() == Some("promoted")));
        let seconds = ended.0.saturating_sub(rollout.started.0) as f64 / 1e3;
        for (what, value) in [("promoted", promoted), ("rollout_seconds", seconds)] {
            let key = format!("modelyard.{service}.{what}");
            let body = json!({ "run_id": run, "key": key, "value": value, "timestamp": ended.0, "step": step + 1 });
            server.post("runs/log-metric", &body)?;
        }
    }
    Ok(())
}
