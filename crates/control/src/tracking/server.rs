//! An MLflow server as the control plane writes to it.
//!
//! Promises: every call has a deadline and a bounded answer; who asks is told as MLflow's own clients are, and never in the clear to another machine; redirects
//! are not followed.
//!
//! Source: MLflow REST API 2.0.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::header;

use super::told::{Batch, End};
use crate::evidence::fetch::host_of;

/// Longest time for one call.
const LIMIT: Duration = Duration::from_secs(15);
/// Longest answer, in bytes.
const MOST: u64 = 4 << 20;

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Why, for people.
    pub why: String,
    /// Whether another attempt may go better.
    pub may_pass: bool,
    /// Whether the server says that there is no such thing.
    is_missing: bool,
}

impl Trouble {
    fn passing(why: String) -> Self {
        Self { why, may_pass: true, is_missing: false }
    }

    /// The call was cut off.
    pub fn ended(error: &tokio::task::JoinError) -> Self {
        Self::passing(format!("the call ended early: {error}"))
    }

    fn lasting(why: impl Into<String>) -> Self {
        Self { why: why.into(), may_pass: false, is_missing: false }
    }
}

/// A server.
#[derive(Clone)]
pub struct Server {
    agent: Agent,
    base: String,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Position in the log up to which it was told.
    pub told: u64,
}

/// What a new run begins with.
#[derive(Debug)]
pub struct Begin {
    /// The experiment's name.
    pub experiment: String,
    /// The rollout, which is the run's name and the tag that it is found by.
    pub rollout: String,
    /// When it began, in milliseconds since 1970.
    pub at: u64,
}

/// The tag that a rollout's run is found by.
const ROLLOUT: &str = "modelyard.rollout";
/// The tag that says up to which position in the log a run was told.
pub const POSITION: &str = "modelyard.position";

/// Who asks, by the variables that MLflow's own clients read: the header `Authorization`.
pub fn login() -> Option<String> {
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let basic = set("MLFLOW_TRACKING_USERNAME").map(|name| {
        let password = set("MLFLOW_TRACKING_PASSWORD").unwrap_or_default();
        format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
    });
    basic.or_else(|| set("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}")))
}

impl Server {
    /// The server at an address.
    pub fn new(address: &str) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(LIMIT))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("modelyard/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: agent.into(), base: address.trim_end_matches('/').to_owned() }
    }

    /// Who asks, unless that would go over the network in the clear.
    fn login(&self) -> Result<Option<String>, Trouble> {
        let login = login();
        let host = host_of(&self.base);
        let is_here = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        if login.is_some() && self.base.starts_with("http://") && !is_here {
            return Err(Trouble::passing(format!("the login is not sent to `{host}` in the clear; write https://")));
        }
        Ok(login)
    }

    fn get(&self, call: &str, query: &[(&str, &str)]) -> Result<Value, Trouble> {
        let request = self.agent.get(self.url(call)).query_pairs(query.iter().copied());
        let request = self.login()?.iter().fold(request, |request, login| request.header(header::AUTHORIZATION, login));
        self.read(call, request.call())
    }

    fn post(&self, call: &str, body: &Value) -> Result<Value, Trouble> {
        let request = self.agent.post(self.url(call));
        let request = self.login()?.iter().fold(request, |request, login| request.header(header::AUTHORIZATION, login));
        self.read(call, request.send_json(body))
    }

    fn url(&self, call: &str) -> String {
        format!("{}/api/2.0/mlflow/{call}", self.base)
    }

    fn read(
        &self,
        call: &str,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Trouble> {
        let host = host_of(&self.base);
        let unreachable = |error: ureq::Error| Trouble::passing(format!("`{host}` cannot be reached: {error}"));
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let text =
            answer.body_mut().with_config().limit(MOST).lossy_utf8(true).read_to_string().map_err(unreachable)?;
        let document: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(document);
        }
        let said: String = document["message"].as_str().unwrap_or_default().chars().take(300).collect();
        let code = document["error_code"].as_str();
        // Whatever stands in front of the server may know no better for a moment; what MLflow says itself stays so.
        let may_pass =
            code.is_none() || status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 425 | 429);
        let why = format!("`{host}` answered {status} to {call}{}{said}", if said.is_empty() { "" } else { ": " });
        Err(Trouble { why, may_pass, is_missing: code == Some("RESOURCE_DOES_NOT_EXIST") })
    }

    /// The run of a rollout; it is made if there is none.
    pub fn run(&self, begin: &Begin) -> Result<Run, Trouble> {
        let experiment = self.experiment(&begin.experiment)?;
        let filter = format!("tags.`{ROLLOUT}` = '{}'", begin.rollout);
        let body =
            json!({ "experiment_ids": [experiment], "filter": filter, "max_results": 1, "run_view_type": "ALL" });
        let found = self.post("runs/search", &body)?;
        if let Some(run) = found["runs"].get(0) {
            let tags = run["data"]["tags"].as_array().into_iter().flatten();
            let told = tags.filter(|tag| tag["key"] == POSITION).find_map(|tag| tag["value"].as_str()?.parse().ok());
            return Ok(Run { id: id_of(run)?, told: told.unwrap_or(0) });
        }
        // The tag comes with the run: whoever is killed right after finds it by that.
        let tags =
            [(ROLLOUT, begin.rollout.as_str()), ("mlflow.source.name", "modelyard"), ("mlflow.source.type", "JOB")];
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        let body =
            json!({ "experiment_id": experiment, "run_name": begin.rollout, "start_time": begin.at, "tags": tags });
        Ok(Run { id: id_of(&self.post("runs/create", &body)?["run"])?, told: 0 })
    }

    fn experiment(&self, name: &str) -> Result<String, Trouble> {
        let id = |value: &Value| {
            value.as_str().map(str::to_owned).ok_or_else(|| Trouble::lasting("the server names no experiment"))
        };
        match self.get("experiments/get-by-name", &[("experiment_name", name)]) {
            Ok(found) => id(&found["experiment"]["experiment_id"]),
            Err(trouble) if trouble.is_missing => {
                id(&self.post("experiments/create", &json!({ "name": name }))?["experiment_id"])
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Writes what is new into a run, and how far it was told. The same again changes nothing: MLflow keeps equal points once.
    pub fn log(&self, run: &str, batch: &Batch, position: u64) -> Result<(), Trouble> {
        let pairs = |map: &std::collections::BTreeMap<String, String>| -> Vec<Value> {
            map.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
        };
        let mut tags = pairs(&batch.tags);
        tags.push(json!({ "key": POSITION, "value": position.to_string() }));
        let body = json!({ "run_id": run, "metrics": batch.metrics, "params": pairs(&batch.params), "tags": tags });
        self.post("runs/log-batch", &body)?;
        let Some(End { status, at }) = &batch.end else { return Ok(()) };
        self.post("runs/update", &json!({ "run_id": run, "status": status, "end_time": at })).map(drop)
    }

    /// Moves an alias of a registered model to the version that a package is; the version is made if the server does not know it.
    pub fn move_alias(&self, alias: &str, promoted: &Promoted<'_>) -> Result<(), Trouble> {
        let (model, version) = match promoted.known {
            Some((model, version)) => (model.to_owned(), version.to_owned()),
            None => (promoted.model.to_owned(), self.version(promoted)?),
        };
        let body = json!({ "name": model, "alias": alias, "version": version });
        self.post("registered-models/alias", &body).map(drop)
    }

    fn version(&self, promoted: &Promoted<'_>) -> Result<String, Trouble> {
        let Promoted { model, version, digest, .. } = promoted;
        let number = |made: &Value| made["version"].as_str().map(str::to_owned);
        let filter = format!("name = '{model}' and tags.`modelyard.digest` = '{digest}'");
        let found = self.get("model-versions/search", &[("filter", &filter), ("max_results", "1")])?;
        if let Some(version) = found["model_versions"].get(0).and_then(number) {
            return Ok(version);
        }
        let models = self.get("registered-models/search", &[("filter", &format!("name = '{model}'"))])?;
        if models["registered_models"].get(0).is_none() {
            self.post("registered-models/create", &json!({ "name": model }))?;
        }
        let tags = [("modelyard.digest", digest), ("modelyard.version", version)];
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect();
        let body = json!({ "name": model, "source": format!("modelyard:/{model}:{version}"), "tags": tags });
        let made = self.post("model-versions/create", &body)?;
        number(&made["model_version"]).ok_or_else(|| Trouble::lasting("the server names no version"))
    }
}

/// The package that a rollout promoted.
#[derive(Debug)]
pub struct Promoted<'a> {
    /// Its model's name.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its digest.
    pub digest: &'a str,
    /// Name and version on the server that it came from, if it did.
    pub known: Option<(&'a str, &'a str)>,
}

fn id_of(run: &Value) -> Result<String, Trouble> {
    let id = run["info"]["run_id"].as_str().map(str::to_owned);
    id.ok_or_else(|| Trouble::lasting("the server names no run"))
}
