//! Models, versions, aliases, tags: the registry's catalogue over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use modelyard_core::package::Package;
use modelyard_core::{AliasName, Millis, ModelName, Version};
use modelyard_registry::catalog::{Diff, Filter, FilterError, Found, Known, Retention, Subject, Verdict, diff};
use modelyard_registry::{Reference, ReferenceError, Store, card};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{self, Refusal};
use super::{BODY_LIMIT, actor, guard, openapi};
use crate::catalogue::{self, Catalogue, Cleared};
use crate::http_client::chain;
use crate::mlflow;

/// The addresses of the catalogue, and those that MLflow's clients ask.
pub fn routes(catalogue: Catalogue) -> Router {
    Router::new()
        .route("/api/models", get(list))
        .route("/api/models/{model}", get(model))
        .route("/api/models/{model}/versions/{version}", get(version))
        .route("/api/models/{model}/versions/{version}/card", get(model_card))
        .route("/api/models/{model}/aliases", get(aliases).post(set_alias))
        .route("/api/models/{model}/tags", post(set_tag))
        .route("/api/models/{model}/yank", post(yank))
        .route("/api/diff", get(compare))
        .route("/api/retention", post(retain))
        .route("/api/openapi.json", get(openapi::document))
        .merge(mlflow::routes())
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(guard::loopback_only))
        .with_state(catalogue)
}

type Name = Result<Path<ModelName>, PathRejection>;
type Named = Result<Path<(ModelName, Version)>, PathRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Asked<T> = Result<Query<T>, QueryRejection>;

impl From<catalogue::Error> for Refusal {
    fn from(error: catalogue::Error) -> Self {
        use modelyard_registry::Error as E;
        let status = match &error {
            catalogue::Error::Registry(error) if error.is_missing() => StatusCode::NOT_FOUND,
            catalogue::Error::Registry(E::Refused { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            catalogue::Error::Registry(E::VersionTaken { .. } | E::VersionRemoved { .. }) => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %chain(&error), "the registry failed");
        }
        let help = match &error {
            catalogue::Error::Registry(inner) => miette::Diagnostic::help(inner).map(|help| help.to_string()),
            _ => None,
        };
        Self::new(status, chain(&error), help.unwrap_or_else(|| "see the control plane's log".to_owned()))
    }
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        let help = "write clauses such as accuracy > 0.9 and tag.team = 'x' (docs/guide/registry.md)";
        Self::new(StatusCode::BAD_REQUEST, error.to_string(), help)
    }
}

/// What is looked for.
#[derive(Deserialize)]
pub struct Search {
    #[serde(default)]
    search: String,
}

/// A version as lists show it.
fn shown(found: &Found) -> Value {
    let mut shown = found.document();
    shown["description"] = json!(found.package.description);
    shown
}

/// `GET /api/models`: every model, or the versions that a filter takes.
async fn list(State(catalogue): State<Catalogue>, query: Asked<Search>) -> Result<Json<Value>, Refusal> {
    let Query(Search { search }) = query?;
    if !search.trim().is_empty() {
        let filter: Filter = search.parse()?;
        let found = catalogue.ask(move |store| store.search(&filter)).await?;
        return Ok(Json(json!({ "versions": found.iter().map(shown).collect::<Vec<_>>() })));
    }
    let models = catalogue.ask(Store::known).await?;
    let row = |Known { name, versions, said }: &Known| {
        let said = said.since.map(|_| said); // `null` for a model of which nothing was said
        json!({
            "name": name, "versions": versions.len(), "newest": versions.last().map(|listed| &listed.version),
            "description": said.map(|said| &said.description), "tags": said.map(|said| &said.tags),
        })
    };
    Ok(Json(json!({ "models": models.iter().map(row).collect::<Vec<_>>() })))
}

/// `GET /api/models/{model}`: its versions, aliases and changes.
async fn model(State(catalogue): State<Catalogue>, name: Name) -> Result<Json<Value>, Refusal> {
    let Path(name) = name?;
    let of = name.clone();
    let (versions, said, aliases, changes) = catalogue
        .ask(move |store| {
            let Known { versions, said, .. } = store.known_model(&of)?;
            Ok((store.found(versions)?, said, store.aliases(&of)?, store.changes(&of)?))
        })
        .await?;
    let current: BTreeMap<&AliasName, &Version> =
        aliases.iter().filter_map(|(alias, moves)| Some((alias, moves.last()?.to.as_ref()?))).collect();
    Ok(Json(json!({
        "name": name, "description": said.description, "tags": said.tags, "aliases": current,
        "versions": versions.iter().map(shown).collect::<Vec<_>>(), "changes": changes,
    })))
}

async fn find(catalogue: &Catalogue, name: Named) -> Result<(Found, Option<String>), Refusal> {
    let Path((model, version)) = name?;
    let found = catalogue
        .ask(move |store| {
            let versions = store.versions(&model)?;
            let listed = versions.iter().find(|listed| listed.version == version).cloned();
            let listed = listed.ok_or_else(|| modelyard_registry::Error::no_version(&model, &version, &versions))?;
            let package = store.package(&listed.digest)?;
            let card = card_of(store, &package)?;
            Ok((Found { listed, package }, card))
        })
        .await?;
    Ok(found)
}

/// The text of a package's model card, if it has one.
fn card_of(store: &Store, package: &Package) -> Result<Option<String>, modelyard_registry::Error> {
    let file = package.model_card.as_ref().and_then(|path| package.files.get(path));
    let read = |file: &modelyard_core::package::FileEntry| store.blobs().read(&file.digest, card::MAX_BYTES);
    Ok(file.map(read).transpose()?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// `GET /api/models/{model}/versions/{version}`: what is said of it, and its package's document.
async fn version(State(catalogue): State<Catalogue>, name: Named) -> Result<Json<Value>, Refusal> {
    let (found, _) = find(&catalogue, name).await?;
    let mut document = json!(found.listed);
    document["package"] = json!(found.package);
    Ok(Json(document))
}

/// `GET /api/models/{model}/versions/{version}/card`: the model card as a page.
async fn model_card(State(catalogue): State<Catalogue>, name: Named) -> Result<Response, Refusal> {
    let (Found { listed, package }, card) = find(&catalogue, name).await?;
    let none = || {
        let error = format!("`{}:{}` has no model card", listed.model, listed.version);
        Refusal::new(StatusCode::NOT_FOUND, error, "name one with `card` in modelyard.toml and package it anew")
    };
    let card = card.ok_or_else(none)? + &card::sections(&package);
    let page = card::page(&format!("{}:{}", listed.model, listed.version), &card);
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response();
    // Nothing of a card is loaded or run, whatever it holds.
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// `GET /api/models/{model}/aliases`: every alias with every move.
async fn aliases(State(catalogue): State<Catalogue>, name: Name) -> Result<Json<Value>, Refusal> {
    let Path(name) = name?;
    let aliases = catalogue
        .ask(move |store| {
            store.known_model(&name)?;
            store.aliases(&name)
        })
        .await?;
    Ok(Json(json!({ "aliases": aliases })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AliasBody {
    alias: AliasName,
    /// None takes it away.
    version: Option<Version>,
    by: Option<String>,
}

/// `POST /api/models/{model}/aliases`
async fn set_alias(
    State(catalogue): State<Catalogue>,
    name: Name,
    body: Body<AliasBody>,
) -> Result<Json<Value>, Refusal> {
    let (Path(model), Json(AliasBody { alias, version, by })) = (name?, body?);
    let from = catalogue.alias(model.clone(), alias.clone(), version.clone(), &actor(by)).await?;
    Ok(Json(json!({ "name": model, "alias": alias, "from": from, "to": version })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagBody {
    /// None tags the model itself.
    version: Option<Version>,
    key: String,
    /// None takes it away.
    value: Option<String>,
    by: Option<String>,
}

/// `POST /api/models/{model}/tags`
async fn set_tag(State(catalogue): State<Catalogue>, name: Name, body: Body<TagBody>) -> Result<Json<Value>, Refusal> {
    let (Path(model), Json(TagBody { version, key, value, by })) = (name?, body?);
    let of = Subject { model: model.clone(), version: version.clone() };
    let changed = catalogue.tag(of, key.clone(), value.clone(), &actor(by)).await?;
    Ok(Json(json!({ "name": model, "version": version, "key": key, "value": value, "changed": changed })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct YankBody {
    version: Version,
    /// Why; none lets it be deployed again.
    why: Option<String>,
    by: Option<String>,
}

/// `POST /api/models/{model}/yank`
async fn yank(State(catalogue): State<Catalogue>, name: Name, body: Body<YankBody>) -> Result<Json<Value>, Refusal> {
    let (Path(model), Json(YankBody { version, why, by })) = (name?, body?);
    let changed = catalogue.yank(model.clone(), version.clone(), why.clone(), &actor(by)).await?;
    Ok(Json(json!({ "name": model, "version": version, "yanked": why.is_some(), "why": why, "changed": changed })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    keep_last: NonZeroU32,
    #[serde(default)]
    keep_tags: BTreeSet<String>,
    #[serde(default)]
    older_than_ms: u64,
    /// How old a blob must be that is swept: younger ones may be part of a push that goes on.
    #[serde(default = "hour")]
    grace_ms: u64,
    #[serde(default)]
    models: BTreeSet<ModelName>,
    #[serde(default = "yes")]
    dry_run: bool,
    by: Option<String>,
}

const fn hour() -> u64 {
    3_600_000
}

const fn yes() -> bool {
    true
}

/// `POST /api/retention`: removes what the rules do not keep and nobody needs; unless told otherwise it only says what would go.
async fn retain(State(catalogue): State<Catalogue>, body: Body<Rules>) -> Result<Json<Value>, Refusal> {
    let Json(Rules { keep_last, keep_tags, older_than_ms, grace_ms, models, dry_run, by }) = body?;
    let keep_last = usize::try_from(keep_last.get()).unwrap_or(usize::MAX);
    let rules = Retention { keep_last, keep_tags, older_than: Millis(older_than_ms), models };
    let Cleared { versions, swept } =
        catalogue.clear(rules, Duration::from_millis(grace_ms), dry_run, &actor(by)).await?;
    Ok(Json(json!({
        "versions": versions.iter().map(Verdict::document).collect::<Vec<_>>(), "dry_run": dry_run,
        "swept": swept.document(),
    })))
}

#[derive(Deserialize)]
struct Two {
    from: String,
    to: String,
}

/// `GET /api/diff?from=&to=`: what differs between two packages.
async fn compare(State(catalogue): State<Catalogue>, query: Asked<Two>) -> Result<Json<Diff>, Refusal> {
    let Query(Two { from, to }) = query?;
    let read = |text: String| -> Result<Reference, Refusal> {
        text.parse().map_err(|error: ReferenceError| {
            Refusal::new(StatusCode::BAD_REQUEST, chain(&error), "write wine:2.1.0, wine@champion or wine@sha256:…")
        })
    };
    let (one, other) = (read(from)?, read(to)?);
    let compared = catalogue.ask(move |store| {
        let package = |reference: &Reference| store.package(&store.resolve(reference)?);
        Ok(diff(&package(&one)?, &package(&other)?))
    });
    Ok(Json(compared.await?))
}
