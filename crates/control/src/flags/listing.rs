//! A service's flags for people, and its definition: seen, set, taken away.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use modelyard_core::flags::equal;
use modelyard_core::package::{Flag, Package};
use modelyard_core::{RevisionNumber, ServiceName, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::Sources;
use super::split::Split;
use crate::api::error::Refusal;
use crate::api::{App, actor};
use crate::orders::{self, in_use};
use crate::store::fold::{Defined, ServiceState};

type Name = Result<Path<ServiceName>, PathRejection>;

/// `GET /api/services/{service}/flags`
pub async fn list(State(app): State<App>, name: Name) -> Result<Json<Value>, Refusal> {
    let state = present(&app, name)?;
    let split = Split::new(&state, app.controller.report().as_deref());
    let mut packages: BTreeMap<RevisionNumber, Arc<Package>> = BTreeMap::new();
    for number in in_use(&state).into_iter().chain(split.shares.keys().copied()) {
        let Some(revision) = state.revisions.get(&number) else { continue };
        packages.insert(number, app.orders.package(revision.package).await.map_err(orders::Error::from)?);
    }
    let sources = Sources { state, split, packages };
    Ok(Json(document(&sources)))
}

fn document(sources: &Sources) -> Value {
    let state = &sources.state;
    let arms: Vec<Value> = sources
        .packages
        .keys()
        .map(|&number| {
            let weight = sources.split.shares.get(&number).copied().unwrap_or(Weight::NONE);
            let version = state.revisions.get(&number).map(|revision| &revision.version);
            json!({"revision": number, "arm": sources.arm(number), "version": version, "weight": weight})
        })
        .collect();
    let mut flags: BTreeMap<&str, Value> = BTreeMap::new();
    // The latest revision's declaration is shown; each revision's value is that of its own.
    for package in sources.packages.values() {
        flags.extend(package.flags.iter().map(|(name, flag)| (name.as_str(), row(sources, name, flag))));
    }
    json!({
        "service": state.name,
        "rollout": state.undecided().map(|open| &open.id),
        "affinity": state.spec.as_ref().and_then(|spec| spec.routing.affinity.as_ref()),
        "arms": arms,
        "flags": flags.into_values().collect::<Vec<_>>(),
        "definition": state.flags.as_deref().map(definition_of),
    })
}

fn row(sources: &Sources, name: &str, flag: &Flag) -> Value {
    let default = flag.default_value();
    let value = |&number: &RevisionNumber| {
        let value = sources.state.revisions.get(&number)?.flags.get(name)?;
        let from = if equal(value, &default) { "package" } else { "revision" };
        Some((number.to_string(), json!({"value": value, "from": from})))
    };
    let values: BTreeMap<String, Value> = sources.packages.keys().filter_map(value).collect();
    let mut row = json!({"name": name, "type": flag.type_name(), "default": default, "values": values});
    if !flag.limits().is_empty() {
        row["limits"] = json!(flag.limits());
    }
    if let Some(input) = flag.input() {
        row["input"] = json!(input);
    }
    if !flag.files().is_empty() {
        row["files"] = json!(flag.files());
    }
    row
}

fn definition_of(held: &Defined) -> Value {
    let flags = held.document.get("flags").and_then(Value::as_object);
    let shown = flags.into_iter().flatten().map(|(key, flag)| {
        json!({
            "key": key, "state": flag.get("state"), "variants": flag.get("variants"),
            "default": flag.get("defaultVariant"), "targeted": flag.get("targeting").is_some_and(Value::is_object),
        })
    });
    json!({
        "at": held.at, "by": held.by, "flags": shown.collect::<Vec<_>>(),
        "mistakes": held.definition.as_ref().err(),
    })
}

/// `GET /api/services/{service}/flags/definition`: the document as it was given, for flagd and its clients.
pub async fn definition(State(app): State<App>, name: Name) -> Result<Json<Value>, Refusal> {
    let state = present(&app, name)?;
    let none = || {
        let error = format!("`{}` has no flag definition", state.name);
        Refusal::new(StatusCode::NOT_FOUND, error, format!("set one with `modelyard flags {} --set FILE`", state.name))
    };
    Ok(Json(state.flags.as_ref().ok_or_else(none)?.document.clone()))
}

/// Who asks.
#[derive(Deserialize)]
pub struct By {
    by: Option<String>,
}

type Asked = Result<Query<By>, QueryRejection>;

/// `PUT /api/services/{service}/flags`: a document in flagd's format.
pub async fn set(
    State(app): State<App>,
    name: Name,
    by: Asked,
    body: Result<Json<Value>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let (Path(name), Query(By { by }), Json(document)) = (name?, by?, body?);
    app.orders.set_flags(&name, Some(document), actor(by)).await?;
    Ok(Json(json!({"service": name, "definition": app.ledger.service(&name).flags.as_deref().map(definition_of)})))
}

/// `DELETE /api/services/{service}/flags`
pub async fn remove(State(app): State<App>, name: Name, by: Asked) -> Result<Json<Value>, Refusal> {
    let (Path(name), Query(By { by })) = (name?, by?);
    app.orders.set_flags(&name, None, actor(by)).await?;
    Ok(Json(json!({"service": name, "definition": null})))
}

fn present(app: &App, name: Name) -> Result<Arc<ServiceState>, Refusal> {
    let Path(name) = name?;
    let state = app.ledger.service(&name);
    if state.spec.is_some() { Ok(state) } else { Err(orders::Error::NoService(name).into()) }
}
