//! MLflow's documents and refusals, and how a call is read.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts as _, Path, Query, Request};
use axum::http::header::HOST;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use modelyard_core::{ModelName, Timestamp};
use modelyard_registry::catalog::{Known, Tags};
use modelyard_registry::{Error, Listed};
use serde_json::{Map, Value, json};

use crate::catalogue::{self, Catalogue};
use crate::http_client::chain;

/// A call as it came.
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// What the caller calls this server; a loopback name, or it had been refused.
    pub host: String,
    /// `registered-models` or `model-versions`.
    pub family: String,
    /// What is asked of it.
    pub call: String,
    /// Query and body.
    pub fields: Map<String, Value>,
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let (mut parts, body) = request.into_parts();
        let Ok(Path((family, call))) = Path::<(String, String)>::from_request_parts(&mut parts, state).await else {
            return Err(Refused::no_such_call("this address"));
        };
        let query = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri).map(|Query(query)| query);
        let query = query.map_err(|error| Refused::invalid(error.body_text()))?;
        let mut fields: Map<String, Value> = query.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
        let method = parts.method.clone();
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
        let host = host.or_else(|| parts.uri.authority().map(|authority| authority.to_string())).unwrap_or_default();
        let bytes = Bytes::from_request(Request::from_parts(parts, body), state).await;
        let bytes = bytes.map_err(|error| Refused::invalid(error.body_text()))?;
        if !bytes.is_empty() {
            let body: Map<String, Value> = serde_json::from_slice(&bytes)
                .map_err(|error| Refused::invalid(format!("the body is no JSON object: {error}")))?;
            fields.extend(body);
        }
        Ok(Self { method, host, family, call, fields })
    }
}

/// A refusal as MLflow's clients read it.
#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refused {
    /// A parameter makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "INVALID_PARAMETER_VALUE", message: message.into() }
    }

    /// There is such a thing already.
    pub fn exists(message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "RESOURCE_ALREADY_EXISTS", message }
    }

    /// There is no such thing.
    pub fn missing(message: String) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "RESOURCE_DOES_NOT_EXIST", message }
    }

    /// There is no such call.
    pub fn no_such_call(what: &str) -> Self {
        let message = format!("{what} is no call that Modelyard answers; see docs/reference/control-api.md");
        Self { status: StatusCode::NOT_FOUND, code: "ENDPOINT_NOT_FOUND", message }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error_code": self.code, "message": self.message }))).into_response()
    }
}

impl From<catalogue::Error> for Refused {
    fn from(error: catalogue::Error) -> Self {
        match &error {
            catalogue::Error::Registry(inner) if inner.is_missing() => Self::missing(error.to_string()),
            catalogue::Error::Registry(Error::Refused { .. }) => Self::invalid(error.to_string()),
            _ => {
                tracing::error!(error = %chain(&error), "the registry failed");
                let message = "the registry cannot be read or written; see the control plane's log".to_owned();
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "INTERNAL_ERROR", message }
            }
        }
    }
}

/// A version by its number, or by its own name where no number is meant.
pub fn version<'k>(model: &'k Known, text: &str) -> Option<&'k Listed> {
    let number = text.parse::<u64>().ok();
    let numbered = model.versions.iter().find(|listed| Some(listed.number) == number);
    numbered.or_else(|| model.versions.iter().find(|listed| listed.version.as_str() == text))
}

async fn find(catalogue: &Catalogue, model: ModelName) -> Result<Option<Known>, Refused> {
    let found = catalogue.ask(move |store| match store.known_model(&model) {
        Err(Error::NoModel(_)) => Ok(None),
        known => known.map(Some),
    });
    Ok(found.await?)
}

/// Whether there is such a model.
pub async fn exists(catalogue: &Catalogue, model: ModelName) -> Result<bool, Refused> {
    Ok(find(catalogue, model).await?.is_some())
}

/// One model.
pub async fn model_of(catalogue: &Catalogue, model: ModelName) -> Result<Known, Refused> {
    let found = find(catalogue, model.clone()).await?;
    found.ok_or_else(|| Refused::missing(format!("Registered Model with name={model} not found")))
}

/// One version.
pub async fn version_of(catalogue: &Catalogue, model: ModelName, version: &str) -> Result<(Known, Listed), Refused> {
    let held = model_of(catalogue, model.clone()).await?;
    let found = self::version(&held, version).cloned();
    let none = || Refused::missing(format!("Model Version (name={model}, version={version}) not found"));
    Ok((held, found.ok_or_else(none)?))
}

fn tags(tags: &Tags) -> Vec<Value> {
    tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}

/// A package as a source: its name for ever.
pub fn source(listed: &Listed) -> String {
    format!("modelyard:/{}:{}", listed.model, listed.version)
}

/// A registered model.
pub fn model_value(held: &Known) -> Value {
    let added: Option<Timestamp> = held.versions.iter().filter_map(|listed| listed.added).min();
    let since = added.into_iter().chain(held.said.since).min().unwrap_or(Timestamp(0));
    let changed = held.said.changes.last().map(|change| change.at);
    let updated = held.versions.iter().filter_map(|listed| listed.added).chain(changed).max().unwrap_or(since);
    let alias = |listed: &Listed| {
        let version = listed.number.to_string();
        listed.aliases.iter().map(move |alias| json!({ "alias": alias, "version": version })).collect::<Vec<_>>()
    };
    let newest: Vec<Value> = held.versions.last().map(|listed| version_value(held, listed)).into_iter().collect();
    json!({
        "name": held.name, "description": held.said.description, "creation_timestamp": since.0,
        "last_updated_timestamp": updated.0, "latest_versions": newest, "tags": tags(&held.said.tags),
        "aliases": held.versions.iter().flat_map(alias).collect::<Vec<_>>(),
    })
}

/// A model version.
pub fn version_value(held: &Known, listed: &Listed) -> Value {
    let notes = held.said.versions.get(&listed.version);
    let added = listed.added.unwrap_or(Timestamp(0)).0;
    let run = listed.tags.get("mlflow.run_id");
    let mut tags = tags(&listed.tags);
    tags.push(json!({ "key": "modelyard.version", "value": listed.version }));
    let message = listed.yanked.as_ref().map_or_else(String::new, |yanked| format!("withdrawn: {}", yanked.why));
    json!({
        "name": listed.model, "version": listed.number.to_string(), "creation_timestamp": added, "last_updated_timestamp": added,
        "current_stage": "None", "description": notes.map_or("", |notes| notes.description.as_str()),
        "source": source(listed), "run_id": run.map_or("", String::as_str), "status": "READY", "status_message": message,
        "run_link": "", "tags": tags, "aliases": listed.aliases,
    })
}
