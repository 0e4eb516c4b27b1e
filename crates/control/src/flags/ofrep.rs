//! The OpenFeature Remote Evaluation Protocol: one flag, or all.
//!
//! Promises: answers and errors have the protocol's form; bulk answers carry an `ETag` of what they say, so a caller who has it gets 304.
//! Source: OpenFeature Remote Evaluation Protocol 0.3 (OpenAPI document).

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use modelyard_core::{ServiceName, affinity};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault, Found, Sources};
use super::split::Split;
use crate::api::App;
use crate::http_client::chain;

/// Why nothing can be evaluated.
enum Refused {
    /// The protocol's error.
    Fault(StatusCode, Fault),
    /// Our own fault: the log has the rest.
    Ours(String),
}

impl Refused {
    /// `key` is named by answers about one flag.
    fn into_response(self, key: Option<&str>) -> Response {
        match self {
            Self::Fault(status, fault) => {
                let mut body = json!({"errorCode": fault.code, "errorDetails": fault.details});
                if let Some(key) = key {
                    body["key"] = json!(key);
                }
                (status, Json(body)).into_response()
            }
            Self::Ours(details) => {
                (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"errorDetails": details}))).into_response()
            }
        }
    }
}

/// `POST /api/services/{service}/ofrep/v1/evaluate/flags/{key}`
pub async fn one(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (service, key) = match path {
        Ok(Path(path)) => path,
        Err(rejection) => return undecodable(&rejection).into_response(Some("")),
    };
    match asked(&app, &service, body).await {
        Err(refused) => refused.into_response(Some(&key)),
        Ok((sources, context)) => {
            let told = context.get("targetingKey").cloned();
            let mut asker = sources.asker(context, app.ledger.now().0 / 1_000);
            let answer = sources.answer(&key, &mut asker);
            tell(&sources, &key, told.as_ref(), &answer);
            match answer {
                Ok(found) => Json(success(&key, found)).into_response(),
                Err(fault) => {
                    let missing = fault.code == "FLAG_NOT_FOUND";
                    let status = if missing { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
                    Refused::Fault(status, fault).into_response(Some(&key))
                }
            }
        }
    }
}

/// `POST /api/services/{service}/ofrep/v1/evaluate/flags`
pub async fn all(
    State(app): State<App>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let service = match path {
        Ok(Path(service)) => service,
        Err(rejection) => return undecodable(&rejection).into_response(None),
    };
    let (sources, context) = match asked(&app, &service, body).await {
        Ok(asked) => asked,
        Err(refused) => return refused.into_response(None),
    };
    let told = context.get("targetingKey").cloned();
    let mut asker = sources.asker(context, app.ledger.now().0 / 1_000);
    let mut flags = Vec::new();
    for key in sources.keys() {
        let answer = sources.answer(key, &mut asker);
        tell(&sources, key, told.as_ref(), &answer);
        flags.push(match answer {
            Ok(found) => success(key, found),
            // A revision need not declare what another one does: then the flag is simply not there for this asker.
            Err(fault) if fault.code == "FLAG_NOT_FOUND" => continue,
            Err(fault) => json!({"key": key, "errorCode": fault.code, "errorDetails": fault.details}),
        });
    }
    let mut metadata = sources.definition().map(|definition| definition.metadata().clone()).unwrap_or_default();
    metadata.insert("service".to_owned(), json!(sources.state.name));
    let body = json!({"flags": flags, "metadata": metadata}).to_string();
    let tag = format!("\"{:016x}\"", affinity::hash("ofrep", body.as_bytes()));
    let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|known| names(known, &tag));
    let tag = HeaderValue::from_str(&tag).unwrap_or_else(|_| unreachable!("hexadecimal digits in quotes"));
    match is_known {
        true => (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response(),
        false => {
            let kind = HeaderValue::from_static("application/json");
            ([(header::ETAG, tag), (header::CONTENT_TYPE, kind)], body).into_response()
        }
    }
}

/// Whether an `If-None-Match` names a tag: any of a list, weak or not, and without quotes too, as the protocol's own examples have it.
fn names(known: &HeaderValue, tag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    known.to_str().is_ok_and(|list| list.split(',').any(|one| one.trim() == "*" || bare(one) == bare(tag)))
}

/// The service's flags and the asker's context.
async fn asked(
    app: &App,
    service: &str,
    body: Result<Bytes, BytesRejection>,
) -> Result<(Sources, Map<String, Value>), Refused> {
    let context = context(body)?;
    let nowhere = || {
        let shown: String = service.escape_debug().take(80).collect();
        Refused::Fault(StatusCode::NOT_FOUND, Fault::new("FLAG_NOT_FOUND", format!("there is no service `{shown}`")))
    };
    let name = ServiceName::new(service).map_err(|_| nowhere())?;
    let state = app.ledger.service(&name);
    if state.spec.is_none() {
        return Err(nowhere());
    }
    let split = Split::new(&state, app.controller.report().as_deref());
    let mut packages = std::collections::BTreeMap::new();
    for &number in split.shares.keys() {
        let Some(revision) = state.revisions.get(&number) else { continue };
        let package = app.orders.package(revision.package).await.map_err(|error| {
            tracing::error!(error = %chain(&error), service, "flags cannot be answered");
            Refused::Ours("the package of a revision cannot be read; see the control plane's log".to_owned())
        })?;
        packages.insert(number, package);
    }
    Ok((Sources { state: Arc::clone(&state), split, packages }, context))
}

/// The context of a body. No body is no context: a flag without rules needs none.
fn context(body: Result<Bytes, BytesRejection>) -> Result<Map<String, Value>, Refused> {
    let refuse = |code, details: String| Refused::Fault(StatusCode::BAD_REQUEST, Fault::new(code, details));
    let body = body.map_err(|rejection| {
        Refused::Fault(
            rejection.status(),
            Fault::new("INVALID_CONTEXT", format!("the body cannot be read: {}", rejection.body_text())),
        )
    })?;
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let document: Value = serde_json::from_slice(&body)
        .map_err(|error| refuse("PARSE_ERROR", format!("the body is no JSON: {error}")))?;
    let Value::Object(mut document) = document else {
        return Err(refuse("PARSE_ERROR", "the body is no object; write {\"context\": {…}}".to_owned()));
    };
    let context = match document.remove("context") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(context)) => context,
        Some(_) => return Err(refuse("INVALID_CONTEXT", "`context` is no object".to_owned())),
    };
    match context.get("targetingKey") {
        None | Some(Value::Null | Value::String(_)) => Ok(context),
        Some(_) => Err(refuse("INVALID_CONTEXT", "`targetingKey` is no text".to_owned())),
    }
}

fn undecodable(rejection: &PathRejection) -> Refused {
    Refused::Fault(StatusCode::NOT_FOUND, Fault::new("FLAG_NOT_FOUND", rejection.body_text()))
}

fn success(key: &str, found: Found) -> Value {
    let mut body = json!({"key": key, "reason": found.reason.name(), "metadata": found.metadata});
    if let Some((value, variant)) = found.chosen {
        body["value"] = value;
        body["variant"] = Value::String(variant);
    }
    body
}

/// One event for each evaluation, in OpenTelemetry's words (semantic conventions 1.44, feature flags). At level debug: it names the user.
pub fn tell(sources: &Sources, key: &str, targeting_key: Option<&Value>, answer: &Answer) {
    let reason = match answer {
        Ok(found) => found.reason.name().to_ascii_lowercase(),
        Err(_) => "error".to_owned(),
    };
    let found = answer.as_ref().ok();
    let variant = found.and_then(|found| found.chosen.as_ref()).map(|(_, variant)| variant.as_str());
    let version = found.and_then(|found| found.metadata.get("version")).and_then(Value::as_str);
    let fault = answer.as_ref().err();
    let context_id = targeting_key.and_then(Value::as_str);
    tracing::debug!(
        feature_flag.key = key,
        feature_flag.result.variant = variant,
        feature_flag.result.reason = reason,
        feature_flag.context.id = context_id,
        feature_flag.set.id = sources.state.name.as_str(),
        feature_flag.version = version,
        feature_flag.provider.name = "modelyard",
        error.type = fault.map(|fault| fault.code.to_ascii_lowercase()),
        error.message = fault.map(|fault| fault.details.as_str()),
        "feature_flag.evaluation"
    );
}
