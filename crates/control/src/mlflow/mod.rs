//! MLflow's model registry API, as far as `mlflow.MlflowClient` needs it: registered models are models, model versions are versions.
//!
//! A version's number, which MLflow's clients insist on, is its place among all versions that the model ever had; its own name is the tag
//! `modelyard.version`, and is understood wherever the number is.
//! Promises: field names, status codes and error codes are MLflow's; whatever a client changes is in the catalogue and the log like any other
//! change. A version is a package that is here already: its `source` names it.
//! Absent on purpose: stages (aliases took their place), renaming (a name is part of a package), runs, experiments, uploads.
//!
//! Source: MLflow REST API 2.0, model registry; fields as `mlflow.protos.model_registry_pb2` has them.

mod answer;
mod artefacts;
mod search;

use axum::Router;
use axum::extract::State;
use axum::http::Method;
use axum::routing::get;
use modelyard_core::event::Actor;
use modelyard_core::{AliasName, ModelName};
use modelyard_registry::catalog::Subject;
use modelyard_registry::{Reference, Selector};
use serde_json::{Map, Value, json};

use self::answer::{Asked, Refused, exists, model_of, model_value, version_of, version_value};
pub use self::artefacts::BASE as FILES;
use crate::catalogue::Catalogue;

type Answer = Result<Value, Refused>;

/// The addresses that MLflow's clients ask.
pub fn routes() -> Router<Catalogue> {
    let all = get(call).post(call).patch(call).delete(call);
    artefacts::routes().route("/api/2.0/mlflow/{family}/{call}", all)
}

/// Every call that is answered: method, family, name.
pub const CALLS: [(&str, &str, &str); 19] = [
    ("POST", "registered-models", "create"),
    ("GET", "registered-models", "get"),
    ("PATCH", "registered-models", "update"),
    ("GET", "registered-models", "search"),
    ("POST", "registered-models", "search"),
    ("POST", "registered-models", "get-latest-versions"),
    ("GET", "registered-models", "get-latest-versions"),
    ("POST", "registered-models", "set-tag"),
    ("DELETE", "registered-models", "delete-tag"),
    ("GET", "registered-models", "alias"),
    ("POST", "registered-models", "alias"),
    ("DELETE", "registered-models", "alias"),
    ("POST", "model-versions", "create"),
    ("GET", "model-versions", "get"),
    ("PATCH", "model-versions", "update"),
    ("GET", "model-versions", "search"),
    ("GET", "model-versions", "get-download-uri"),
    ("POST", "model-versions", "set-tag"),
    ("DELETE", "model-versions", "delete-tag"),
];

async fn call(State(catalogue): State<Catalogue>, asked: Asked) -> Result<axum::Json<Value>, Refused> {
    let Asked { method, host, family, call, fields } = asked;
    let fields = Fields(fields);
    let answered = match (family.as_str(), call.as_str(), &method) {
        ("registered-models", "create", &Method::POST) => create_model(&catalogue, &fields).await,
        ("registered-models", "get", &Method::GET) => one_model(&catalogue, fields.model()?).await,
        ("registered-models", "update", &Method::PATCH) => describe_model(&catalogue, &fields).await,
        ("registered-models", "search", &Method::GET | &Method::POST) => search::models(&catalogue, &fields).await,
        ("registered-models", "get-latest-versions", &Method::GET | &Method::POST) => latest(&catalogue, &fields).await,
        ("registered-models", "set-tag", &Method::POST) => tag(&catalogue, &fields, false, true).await,
        ("registered-models", "delete-tag", &Method::DELETE) => tag(&catalogue, &fields, false, false).await,
        ("registered-models", "alias", &Method::GET) => by_alias(&catalogue, &fields).await,
        ("registered-models", "alias", &Method::POST | &Method::DELETE) => {
            set_alias(&catalogue, &fields, method == Method::POST).await
        }
        ("model-versions", "create", &Method::POST) => create_version(&catalogue, &fields).await,
        ("model-versions", "get", &Method::GET) => one_version(&catalogue, fields.model()?, fields.version()?).await,
        ("model-versions", "update", &Method::PATCH) => describe_version(&catalogue, &fields).await,
        ("model-versions", "search", &Method::GET) => search::versions(&catalogue, &fields).await,
        ("model-versions", "get-download-uri", &Method::GET) => download(&catalogue, &fields, &host).await,
        ("model-versions", "set-tag", &Method::POST) => tag(&catalogue, &fields, true, true).await,
        ("model-versions", "delete-tag", &Method::DELETE) => tag(&catalogue, &fields, true, false).await,
        _ => Err(Refused::no_such_call(&format!("{method} {family}/{call}"))),
    };
    answered.map(axum::Json)
}

/// What a call carries: of the query, or of the JSON body.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// A text; none when it is left out or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn wanted(&self, name: &'static str) -> Result<&str, Refused> {
        self.text(name).ok_or_else(|| Refused::invalid(format!("Missing value for required parameter '{name}'.")))
    }

    /// A whole number, however it was written.
    pub fn number(&self, name: &str) -> Result<Option<usize>, Refused> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text.parse().map(Some).map_err(|_| Refused::invalid(format!("'{name}' is no whole number")))
            }
        }
    }

    fn model(&self) -> Result<ModelName, Refused> {
        ModelName::new(self.wanted("name")?).map_err(|error| Refused::invalid(error.to_string()))
    }

    /// A version's number, or its own name.
    fn version(&self) -> Result<&str, Refused> {
        self.wanted("version")
    }

    fn alias(&self) -> Result<AliasName, Refused> {
        AliasName::new(self.wanted("alias")?).map_err(|error| Refused::invalid(error.to_string()))
    }

    fn tags(&self) -> impl Iterator<Item = (String, String)> {
        let tag =
            |tag: &Value| Some((tag["key"].as_str()?.to_owned(), tag["value"].as_str().unwrap_or_default().to_owned()));
        self.0
            .get("tags")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(tag)
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// MLflow's calls do not say who asks.
fn somebody() -> Actor {
    Actor::Person("mlflow".to_owned())
}

async fn create_model(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let model = fields.model()?;
    if exists(catalogue, model.clone()).await? {
        return Err(Refused::exists(format!("Registered Model (name={model}) already exists.")));
    }
    let subject = Subject { model: model.clone(), version: None };
    catalogue.describe(subject.clone(), fields.text("description").map(str::to_owned), &somebody()).await?;
    for (key, value) in fields.tags() {
        catalogue.tag(subject.clone(), key, Some(value), &somebody()).await?;
    }
    one_model(catalogue, model).await
}

async fn one_model(catalogue: &Catalogue, model: ModelName) -> Answer {
    Ok(json!({ "registered_model": model_value(&model_of(catalogue, model).await?) }))
}

async fn describe_model(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let model = model_of(catalogue, fields.model()?).await?.name;
    let text = fields.text("description").unwrap_or_default().to_owned();
    catalogue.describe(Subject { model: model.clone(), version: None }, Some(text), &somebody()).await?;
    one_model(catalogue, model).await
}

async fn one_version(catalogue: &Catalogue, model: ModelName, version: &str) -> Answer {
    let (held, listed) = version_of(catalogue, model, version).await?;
    Ok(json!({ "model_version": version_value(&held, &listed) }))
}

async fn describe_version(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let model = fields.model()?;
    let version = version_of(catalogue, model.clone(), fields.version()?).await?.1.version;
    let text = fields.text("description").unwrap_or_default().to_owned();
    catalogue.describe(Subject { model: model.clone(), version: Some(version) }, Some(text), &somebody()).await?;
    one_version(catalogue, model, fields.version()?).await
}

/// The newest version: without stages, all are of the stage `None`.
async fn latest(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let held = model_of(catalogue, fields.model()?).await?;
    let newest: Vec<Value> = held.versions.last().map(|listed| version_value(&held, listed)).into_iter().collect();
    Ok(json!({ "model_versions": newest }))
}

/// Where its files are: an address that says where, since the server that keeps a client's runs may be another.
async fn download(catalogue: &Catalogue, fields: &Fields, host: &str) -> Answer {
    let (_, listed) = version_of(catalogue, fields.model()?, fields.version()?).await?;
    Ok(json!({ "artifact_uri": artefacts::address(host, &listed) }))
}

async fn tag(catalogue: &Catalogue, fields: &Fields, of_version: bool, set: bool) -> Answer {
    let (model, key) = (fields.model()?, fields.wanted("key")?.to_owned());
    let version = match of_version {
        true => Some(version_of(catalogue, model.clone(), fields.version()?).await?.1.version),
        false => model_of(catalogue, model.clone()).await.map(|_| None)?,
    };
    let value = set.then(|| fields.text("value").unwrap_or_default().to_owned());
    catalogue.tag(Subject { model, version }, key, value, &somebody()).await?;
    Ok(json!({}))
}

async fn by_alias(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let (held, alias) = (model_of(catalogue, fields.model()?).await?, fields.alias()?);
    let found = held.versions.iter().find(|listed| listed.aliases.contains(&alias));
    let none = || Refused::invalid(format!("Registered model alias {alias} not found."));
    Ok(json!({ "model_version": version_value(&held, found.ok_or_else(none)?) }))
}

async fn set_alias(catalogue: &Catalogue, fields: &Fields, set: bool) -> Answer {
    let (model, alias) = (model_of(catalogue, fields.model()?).await?.name, fields.alias()?);
    let to = match set {
        true => Some(version_of(catalogue, model.clone(), fields.version()?).await?.1.version),
        false => None,
    };
    match catalogue.alias(model, alias, to, &somebody()).await {
        // Taking away what is not there is no error to MLflow.
        Err(crate::catalogue::Error::Registry(modelyard_registry::Error::NoAlias { .. })) if !set => Ok(json!({})),
        other => other.map(|_| json!({})).map_err(Refused::from),
    }
}

/// A version is a package that is here: the source says which.
async fn create_version(catalogue: &Catalogue, fields: &Fields) -> Answer {
    let (model, source) = (fields.model()?, fields.wanted("source")?.to_owned());
    let unknown = |why: String| {
        Refused::invalid(format!(
            "the source is no package of this registry: {why}; package the model with `modelyard package`, or push it, and name it as \
             modelyard:/NAME:VERSION, models:/NAME/VERSION or NAME@sha256:…"
        ))
    };
    let held = model_of(catalogue, model.clone()).await?;
    let shown = || format!("`{}`", source.chars().take(120).collect::<String>());
    let reference = reference(&source).ok_or_else(|| unknown(shown()))?;
    let version = match &reference.selector {
        Selector::Version(version) if reference.model == model => answer::version(&held, version.as_str()).cloned(),
        _ => {
            let looked = catalogue.ask(move |store| store.resolve(&reference)).await;
            let digest = looked.map_err(|error| unknown(error.to_string()))?;
            held.versions.iter().find(|listed| listed.digest == digest).cloned()
        }
    };
    let version = version.ok_or_else(|| unknown(format!("{} is no version of {model}", shown())))?.version;
    let subject = Subject { model: model.clone(), version: Some(version.clone()) };
    if let Some(text) = fields.text("description") {
        catalogue.describe(subject.clone(), Some(text.to_owned()), &somebody()).await?;
    }
    let run = fields.text("run_id").map(|run| ("mlflow.run_id".to_owned(), run.to_owned()));
    for (key, value) in fields.tags().chain(run) {
        catalogue.tag(subject.clone(), key, Some(value), &somebody()).await?;
    }
    one_version(catalogue, model, version.as_str()).await
}

/// What a source names: our own references, and MLflow's `models:/NAME/VERSION` and `models:/NAME@ALIAS`.
fn reference(source: &str) -> Option<Reference> {
    let text = source.strip_prefix("modelyard:/").or_else(|| source.strip_prefix("models:/")).unwrap_or(source);
    text.trim_start_matches('/').replacen('/', ":", 1).parse().ok()
}
