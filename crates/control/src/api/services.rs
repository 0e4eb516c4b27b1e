//! Services: look, deploy, steer, roll back, remove.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use modelyard_core::beside::BesideKind;
use modelyard_core::event::Order;
use modelyard_core::measure::{GatewayReport, ServiceReport};
use modelyard_core::service::ServiceSpec;
use modelyard_core::{Digest, InstanceId, RevisionNumber, ServiceName, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::Refusal;
use super::status::{Status, status};
use super::versions::versions;
use super::{App, actor};
use crate::controller::lifecycle::TargetSeen;
use crate::http_client::chain;
use crate::orders::{self, Accepted, Alternative, ArmPackage, Deploy, Rollback, Tried};
use crate::store::fold::{ServiceState, World};

type Name = Result<Path<ServiceName>, PathRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Taken = Result<(StatusCode, Json<Accepted>), Refusal>;

/// `GET /api/services`
pub async fn list(State(app): State<App>) -> Json<Vec<Status>> {
    let (seen, report) = (app.controller.seen(), app.controller.report());
    let world = app.ledger.world();
    let visible = world.present().filter(|state| crate::tokens::may_see(state));
    Json(visible.filter_map(|state| shown(&app, &world, state, seen.as_deref(), report.as_deref())).collect())
}

/// `GET /api/services/{service}`
pub async fn one(State(app): State<App>, name: Name) -> Result<Json<Status>, Refusal> {
    let state = present(&app, name)?;
    let (seen, report) = (app.controller.seen(), app.controller.report());
    let shown = shown(&app, &app.ledger.world(), &state, seen.as_deref(), report.as_deref());
    Ok(Json(shown.ok_or_else(|| orders::Error::NoService(state.name.clone()))?))
}

fn shown(
    app: &App,
    world: &World,
    state: &ServiceState,
    seen: Option<&TargetSeen>,
    report: Option<&GatewayReport>,
) -> Option<Status> {
    let mut shown = status(state, seen, report, app.controller.waiting(state), app.gateway_address())?;
    shown.apis = versions(world, state);
    shown.apis.retain(|api| world.services.get(&api.service).is_some_and(|state| crate::tokens::may_see(state)));
    shown.tracking = app.tracked.shown(app.known.of(state), state, app.ledger.now());
    Some(shown)
}

/// Body of a deploy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    spec: ServiceSpec,
    package: Digest,
    /// Further arms, in the order of the strategy's.
    #[serde(default)]
    arms: Vec<ArmPackage>,
    /// Packages that were withdrawn are taken too.
    #[serde(default)]
    yanked: bool,
    /// Packages whose codes, units or columns mean something else than stable's are taken too.
    #[serde(default)]
    new_meanings: bool,
    by: Option<String>,
}

/// `POST /api/services/{service}/rollouts`
pub async fn deploy(State(app): State<App>, name: Name, body: Body<DeployBody>) -> Taken {
    let (Path(name), Json(body)) = (name?, body?);
    let packages: Vec<_> = body.arms.iter().map(|arm| arm.package).chain([body.package]).collect();
    if !body.yanked {
        app.orders.refuse_withdrawn(packages.clone()).await?;
    }
    crate::tokens::check_environment(&body.spec.environment)?;
    let by = actor(body.by);
    let misread = app.orders.hold_against_stable(&name, &packages, body.new_meanings).await?;
    let deploy = Deploy { spec: body.spec, package: body.package, arms: body.arms, actor: by.clone() };
    let accepted = app.orders.deploy(&name, deploy).await?;
    app.orders.accept_misread(&name, misread, by).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// `POST /api/services/{service}/plan`: what a deploy with this body would do, and whether it would be refused. Nothing is started.
pub async fn plan(State(app): State<App>, name: Name, body: Body<DeployBody>) -> Result<Json<Value>, Refusal> {
    let (Path(name), Json(body)) = (name?, body?);
    let deploy = Deploy { spec: body.spec, package: body.package, arms: body.arms, actor: actor(body.by) };
    let foreseen = app.orders.foresee(&name, &deploy).await?;
    let state = app.ledger.service(&name);
    let mut document = json!(foreseen);
    let misread = app.orders.misread(&name, deploy.package).await?;
    if !misread.is_empty() {
        document["misread"] = json!(misread);
    }
    if let Some(planned) = state.stable.and_then(|_| super::evidence::foreseen(&app, &state, &deploy.spec)) {
        document["planned"] = planned;
    }
    Ok(Json(document))
}

/// Body of an order.
#[derive(Deserialize)]
pub struct OrderBody {
    #[serde(flatten)]
    order: Order,
    by: Option<String>,
}

/// `POST /api/services/{service}/orders`
pub async fn order(State(app): State<App>, name: Name, body: Body<OrderBody>) -> Taken {
    let (Path(name), Json(body)) = (name?, body?);
    crate::tokens::check_order(&app.ledger.service(&name), &body.order)?;
    Ok((StatusCode::ACCEPTED, Json(app.orders.steer(&name, body.order, actor(body.by)).await?)))
}

/// Body of an alternative: a package, with flags, or a revision.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlternativeBody {
    package: Option<Digest>,
    #[serde(default)]
    flags: BTreeMap<String, Value>,
    revision: Option<RevisionNumber>,
    share: Weight,
    #[serde(default)]
    kind: BesideKind,
    /// A package that was withdrawn is taken too.
    #[serde(default)]
    yanked: bool,
    /// A package whose codes, units or columns mean something else than stable's is taken too.
    #[serde(default)]
    new_meanings: bool,
    by: Option<String>,
}

/// `POST /api/services/{service}/alternatives`: tries a revision beside a candidate that is held, changes its share, or takes it away.
pub async fn try_beside(State(app): State<App>, name: Name, body: Body<AlternativeBody>) -> Taken {
    let (Path(name), Json(body)) = (name?, body?);
    let what = match (body.package, body.revision) {
        (Some(package), None) => Tried::Package(ArmPackage { package, flags: body.flags }),
        (None, Some(revision)) if body.flags.is_empty() => Tried::Revision(revision),
        _ => {
            let help = "send `package` and, if they differ, `flags`; or `revision` alone";
            return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "it is not clear what is to be tried", help));
        }
    };
    if let (Tried::Package(arm), false) = (&what, body.yanked) {
        app.orders.refuse_withdrawn(vec![arm.package]).await?;
    }
    let by = actor(body.by);
    let package = match &what {
        Tried::Package(arm) => Some(arm.package),
        // What runs beside already is only changed or taken away.
        Tried::Revision(revision) => app.orders.package_to_try(&name, *revision),
    };
    let misread = app.orders.hold_against_stable(&name, package.as_slice(), body.new_meanings).await?;
    let alternative = Alternative { what, share: body.share, kind: body.kind, actor: by.clone() };
    let accepted = app.orders.try_beside(&name, alternative).await?;
    app.orders.accept_misread(&name, misread, by).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Body of a rollback.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    to: Option<RevisionNumber>,
    by: Option<String>,
}

/// `POST /api/services/{service}/rollback`
pub async fn roll_back(State(app): State<App>, name: Name, body: Body<RollbackBody>) -> Taken {
    let (Path(name), Json(body)) = (name?, body?);
    let rollback = Rollback { to: body.to, actor: actor(body.by) };
    Ok((StatusCode::ACCEPTED, Json(app.orders.roll_back(&name, rollback).await?)))
}

/// Longest reason, in bytes.
const MAX_REASON_BYTES: usize = 1000;

/// Body of a bar on deploys; without `why` it is lifted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeBody {
    why: Option<String>,
    by: Option<String>,
}

/// `POST /api/services/{service}/freeze`
pub async fn freeze(State(app): State<App>, name: Name, body: Body<FreezeBody>) -> Result<Json<Value>, Refusal> {
    let (Path(name), Json(FreezeBody { why, by })) = (name?, body?);
    let is_reason =
        |why: &String| !why.trim().is_empty() && why.len() <= MAX_REASON_BYTES && !why.chars().any(char::is_control);
    if !why.as_ref().is_none_or(is_reason) {
        let help =
            format!("say why on one line of at most {MAX_REASON_BYTES} bytes: others read it when they are refused");
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "the reason is none", help));
    }
    let changed = app.orders.freeze(&name, why.clone(), actor(by)).await?;
    Ok(Json(json!({ "service": name, "frozen": why.is_some(), "why": why, "changed": changed })))
}

/// Who removes.
#[derive(Deserialize)]
pub struct By {
    by: Option<String>,
}

/// `DELETE /api/services/{service}`
pub async fn remove(State(app): State<App>, name: Name, by: Result<Query<By>, QueryRejection>) -> Taken {
    let (Path(name), Query(By { by })) = (name?, by?);
    Ok((StatusCode::ACCEPTED, Json(app.orders.remove(&name, actor(by)).await?)))
}

/// `GET /api/services/{service}/history`; of removed services too.
pub async fn history(State(app): State<App>, name: Name) -> Result<Json<Value>, Refusal> {
    let Path(name) = name?;
    let state = app.ledger.service(&name);
    if state.revisions.is_empty() {
        return Err(orders::Error::NoService(name).into());
    }
    let rollouts = state.rollouts.iter().map(|record| {
        json!({
            "rollout": record.id, "strategy": record.strategy, "from": record.from, "to": record.to, "arms": record.arms, "beside": record.beside,
            "started": record.started, "ended": record.ended,
            "outcome": record.outcome, "cause": record.cause,
        })
    });
    let revisions: Vec<Value> = state.revisions.values().map(|revision| json!(**revision)).collect();
    Ok(Json(json!({ "service": name, "revisions": revisions, "rollouts": rollouts.collect::<Vec<_>>(),
        "noticed": state.notices.iter().map(|notice| json!(**notice)).collect::<Vec<_>>() })))
}

/// Which lines.
#[derive(Deserialize)]
pub struct LogQuery {
    instance: Option<InstanceId>,
    lines: Option<usize>,
}

// More than this nobody reads in a terminal; the whole log is a file in the instance's folder.
const MOST_LINES: usize = 10_000;

/// `GET /api/services/{service}/logs`
pub async fn logs(
    State(app): State<App>,
    name: Name,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let state = present(&app, name)?;
    let Query(LogQuery { instance, lines }) = query?;
    let lines = lines.unwrap_or(100).min(MOST_LINES);
    let asked: Vec<InstanceId> = match instance {
        Some(id) if !is_of(&state, &id) => return Err(no_instance(&state, &id)),
        Some(id) => vec![id],
        None => state.instances.keys().cloned().collect(),
    };
    let mut shown = Vec::new();
    for id in asked {
        let text = app.target.logs(&id, lines).await;
        let text =
            text.map_err(|error| Refusal::new(StatusCode::NOT_FOUND, chain(&error), "the log is gone, or never was"))?;
        let mut entry = json!({ "instance": id, "lines": text });
        if let Some(machine) = state.instances.get(&id).and_then(|instance| instance.machine.as_ref()) {
            entry["machine"] = json!(machine);
        }
        shown.push(entry);
    }
    Ok(Json(json!({ "service": state.name, "instances": shown })))
}

/// Whether an id was given to an instance of this service, ended ones included: another service's log is none of its business.
fn is_of(state: &ServiceState, id: &InstanceId) -> bool {
    let numbers = id.as_str().strip_prefix(state.name.as_str()).and_then(|rest| rest.strip_prefix("-r"));
    let Some((revision, number)) = numbers.and_then(|numbers| numbers.split_once('-')) else { return false };
    let (Ok(revision), Ok(number)) = (revision.parse::<u32>(), number.parse::<u32>()) else { return false };
    state.numbered.get(&RevisionNumber(revision)).is_some_and(|&given| (1..=given).contains(&number))
}

fn no_instance(state: &ServiceState, id: &InstanceId) -> Refusal {
    let error = format!("`{}` never had an instance `{id}`", state.name);
    Refusal::new(StatusCode::NOT_FOUND, error, format!("see `modelyard status {}` for its instances", state.name))
}

/// `GET /api/services/{service}/figures`
pub async fn figures(State(app): State<App>, name: Name) -> Result<Json<ServiceReport>, Refusal> {
    let state = present(&app, name)?;
    let help = "it is started again by itself; see logs/gateway.log";
    let lost = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway is out of reach", help);
    let report = app.controller.report().ok_or_else(lost)?;
    Ok(Json(report.services.get(&state.name).cloned().unwrap_or_default()))
}

fn present(app: &App, name: Name) -> Result<Arc<ServiceState>, Refusal> {
    let Path(name) = name?;
    let state = app.ledger.service(&name);
    if state.spec.is_some() { Ok(state) } else { Err(orders::Error::NoService(name).into()) }
}
