//! In front of the API: what a caller's token allows, by role and environment.
//!
//! Promises: once a token exists, everything but `/api/health` demands one; a token of one environment neither sees nor changes services of
//! another; what a token's holder does stands in the log under the token's name.
//! Absent on purpose: the registry's own addresses, which `modelyard_registry::access` guards by repository.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use modelyard_core::event::Order;
use modelyard_core::{EnvironmentName, RolloutId, ServiceName};
use modelyard_registry::access::{self, CHALLENGE, Grant, Presented, Role, Tokens, caller, on_behalf, percent_decoded};
use modelyard_rollout::Waiting;

use crate::api::error::Refusal;
use crate::ledger::Ledger;
use crate::store::fold::ServiceState;

#[derive(Clone)]
struct Guard {
    tokens: Tokens,
    ledger: Arc<Ledger>,
}

/// The router behind the guard.
pub fn guarded(router: Router, tokens: Tokens, ledger: &Arc<Ledger>) -> Router {
    router.layer(from_fn_with_state(Guard { tokens, ledger: Arc::clone(ledger) }, guard))
}

async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    // `up` asks before anybody can have a token, and whoever watches the process too.
    if request.uri().path() == "/api/health" && request.method() == Method::GET {
        return next.run(request).await;
    }
    let secret = access::secret(request.headers());
    let looked = guard.tokens.look_closely(secret.as_deref(), access::now());
    let id = looked.as_ref().ok().and_then(|(_, id)| id.clone());
    let told = |request: &Request, why: &str| {
        guard.tokens.refused(id.as_deref(), why, request.method().as_str(), request.uri().path());
    };
    match looked.map(|(presented, _)| presented) {
        Ok(Presented::NotDemanded) => next.run(request).await,
        Ok(Presented::Valid(grant)) => match why_not(&guard.ledger, &grant, request.method(), request.uri()) {
            Some(why) => {
                told(&request, &why);
                denied(why).into_response()
            }
            None => on_behalf(grant, next.run(request)).await,
        },
        Ok(Presented::Nothing) => unauthorised("a token is needed"),
        Ok(Presented::Invalid) => {
            let why = "this token is none, was revoked, or has expired";
            told(&request, why);
            unauthorised(why)
        }
        Err(error) => {
            tracing::error!(%error, "the tokens cannot be read; nobody is let in");
            let help = "see the control plane's log; `tokens.json` in the home folder cannot be read";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "who may do what cannot be read", help).into_response()
        }
    }
}

fn unauthorised(error: &str) -> Response {
    let help = "set MODELYARD_TOKEN or send `Authorization: Bearer TOKEN`; whoever owns the home folder makes one with `modelyard token create`";
    let mut response = Refusal::new(StatusCode::UNAUTHORIZED, error, help).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    response
}

fn denied(why: String) -> Refusal {
    let help = "nothing was changed; `modelyard token create --role … --environment …` makes a token that may";
    Refusal::new(StatusCode::FORBIDDEN, why, help)
}

/// Why a grant does not allow a request, if so.
fn why_not(ledger: &Ledger, grant: &Grant, method: &Method, uri: &Uri) -> Option<String> {
    // Segment by segment, as the router reads them: a name that is written with `%` is that name.
    let segments: Option<Vec<String>> = uri.path().split('/').skip(1).map(percent_decoded).collect();
    let segments = segments.unwrap_or_default();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let role = grant.role;
    let may = match (method, segments.as_slice()) {
        (_, ["api", "tokens", ..] | ["api", "down" | "gateway", ..]) => {
            role == Role::Admin && grant.scope.environment.is_none()
        }
        (&Method::GET | &Method::HEAD, _) | (_, ["api", "services", _, "ofrep", ..]) => true,
        (_, ["api", "services", _, "orders" | "rollback" | "freeze"]) => role.may_steer(),
        _ => role.may_deploy(),
    };
    if !may {
        return Some(format!("a {role} may not do this"));
    }
    if let Some(why) = other_models(grant, &segments) {
        return Some(why);
    }
    let own = grant.scope.environment.as_ref()?;
    let elsewhere = |environment: &EnvironmentName| {
        (environment != own).then(|| format!("this token is for the environment `{own}`, and this is `{environment}`"))
    };
    let everything = || Some(format!("this token is for the environment `{own}`, and this tells of all of them"));
    let of_service = |name: &str| {
        let state = ServiceName::new(name).ok().map(|name| ledger.service(&name))?;
        match &state.spec {
            Some(spec) => elsewhere(&spec.environment),
            // Where a service was that is gone is not kept.
            None if *method == Method::GET && !state.revisions.is_empty() => everything(),
            None => None,
        }
    };
    let of_rollout = |id: &str| {
        let id = RolloutId::new(id).ok()?;
        let world = ledger.world();
        let found = world.services.values().find(|state| state.rollouts.iter().any(|record| record.id == id))?;
        found.spec.as_ref().and_then(|spec| elsewhere(&spec.environment))
    };
    match segments.as_slice() {
        ["api", "services", name, ..] => of_service(name),
        ["api", "rollouts", id, ..] => of_rollout(id),
        ["api", "environments", name, ..] => EnvironmentName::new(*name).ok().and_then(|name| elsewhere(&name)),
        ["api", "events"] => {
            let parameter = |key: &str| {
                let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
                pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back().and_then(percent_decoded)
            };
            match (parameter("service"), parameter("rollout")) {
                (None, None) => everything(),
                (service, rollout) => {
                    service.and_then(|name| of_service(&name)).or_else(|| rollout.and_then(|id| of_rollout(&id)))
                }
            }
        }
        [""] | ["metrics"] | ["api", "history", ..] => everything(),
        _ => None,
    }
}

/// Why a grant for some repositories does not allow a request about models, if so.
fn other_models(grant: &Grant, segments: &[&str]) -> Option<String> {
    if grant.covers_every_repository() {
        return None;
    }
    match segments {
        ["api", "models", name, ..] => {
            (!grant.covers(name)).then(|| format!("this token is not for `{}`", name.escape_default()))
        }
        // Which models these are about stands in queries and bodies.
        ["api", "models" | "diff"] | ["api", "2.0", ..] => {
            Some("this token is for some models, and this may be about all of them".to_owned())
        }
        _ => None,
    }
}

/// Whether the caller may know of a service.
pub fn may_see(state: &ServiceState) -> bool {
    let Some(grant) = caller() else { return true };
    state.spec.as_ref().is_none_or(|spec| grant.counts_in(&spec.environment))
}

/// Whether the caller's token is for a model.
pub fn check_model(model: &str) -> Result<(), Refusal> {
    match caller().filter(|grant| !grant.covers(model)) {
        Some(_) => Err(denied(format!("this token is not for `{model}`"))),
        None => Ok(()),
    }
}

/// Whether the caller may deploy to an environment.
pub fn check_environment(environment: &EnvironmentName) -> Result<(), Refusal> {
    match caller().filter(|grant| !grant.counts_in(environment)) {
        Some(_) => Err(denied(format!("this token is not for the environment `{environment}`"))),
        None => Ok(()),
    }
}

/// Whether the caller may give the order: what waits for a person goes on by the word of one who may approve.
pub fn check_order(state: &ServiceState, order: &Order) -> Result<(), Refusal> {
    let Some(grant) = caller().filter(|grant| !grant.role.may_approve()) else { return Ok(()) };
    let waits = state.open.as_ref().is_some_and(|open| matches!(open.machine.waiting(), Some(Waiting::Person { .. })));
    match order {
        Order::Promote { .. } if waits => {
            Err(denied(format!("the rollout waits for a person, and a {} may not decide that", grant.role)))
        }
        Order::Promote { .. } | Order::Pause | Order::Resume | Order::Abort | Order::Try { .. } => Ok(()),
    }
}
