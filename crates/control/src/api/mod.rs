//! The control API: HTTP/1.1 with JSON, on loopback.
//!
//! Promises: every refusal says what is wrong and what to do (`{"error", "help"}`); bodies are limited; a browser on this machine is not
//! led astray by foreign pages ([`guard`]); a POST with an `Idempotency-Key` is carried out once ([`idempotency`]).
//! Absent on purpose: other addresses than loopback. Who may do what is decided in front of this router (`crate::tokens`).

mod drift;
pub mod error;
mod events;
mod evidence;
mod guard;
mod history;
mod idempotency;
pub mod models;
mod openapi;
mod operations;
mod page;
pub mod promotions;
mod rollouts;
mod services;
mod status;
mod system;
pub mod tokens;
mod versions;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use modelyard_core::event::Actor;
use modelyard_core::feedback::LIMIT;
use modelyard_core::ports::Target;
use modelyard_registry::access;
use tokio::sync::Notify;

use crate::controller::Controller;
use crate::flags;
use crate::gateway::process::GatewayProcess;
use crate::ledger::Ledger;
use crate::orders::Orders;
use crate::tracking::{Known, Tracked};

// The largest document is a service's rules; a megabyte of them is a mistake.
const BODY_LIMIT: usize = 1 << 20;

/// What the API works with.
#[derive(Clone)]
pub struct App {
    /// Log and state.
    pub ledger: Arc<Ledger>,
    /// What is seen.
    pub controller: Controller,
    /// Takes orders.
    pub orders: Orders,
    /// Where logs come from.
    pub target: Arc<dyn Target>,
    /// The gateway's process, where there is one.
    pub gateway: Option<Arc<GatewayProcess>>,
    /// Asks the control plane to take everything down.
    pub down: Arc<Notify>,
    /// Figures for Prometheus.
    pub metrics: Arc<system::Metrics>,
    /// Orders that are being carried out under an idempotency key.
    pub busy_keys: idempotency::BusyKeys,
    /// How experiment tracking goes.
    pub tracked: Arc<Tracked>,
    /// How services are tracked.
    pub known: Arc<Known>,
}

impl App {
    /// Where the gateway takes callers' requests.
    fn gateway_address(&self) -> Option<SocketAddr> {
        self.gateway.as_ref()?.running().map(|running| running.address)
    }
}

pub use guard::loopback_only;
pub use system::Metrics;

/// Every address of the API.
pub fn router(app: App) -> Router {
    let services = Router::new()
        .route("/api/services", get(services::list))
        .route("/api/services/{service}", get(services::one).delete(services::remove))
        .route("/api/services/{service}/rollouts", post(services::deploy))
        .route("/api/services/{service}/plan", post(services::plan))
        .route("/api/services/{service}/orders", post(services::order))
        .route("/api/services/{service}/alternatives", post(services::try_beside))
        .route("/api/services/{service}/rollback", post(services::roll_back))
        .route("/api/services/{service}/freeze", post(services::freeze))
        .route("/api/services/{service}/history", get(services::history))
        .route("/api/services/{service}/at", get(history::at))
        .route("/api/services/{service}/logs", get(services::logs))
        .route("/api/services/{service}/figures", get(services::figures))
        .route("/api/services/{service}/evidence", get(evidence::of_service))
        .route("/api/services/{service}/drift", get(drift::of_service))
        .route("/api/services/{service}/feedback", post(evidence::feedback).layer(DefaultBodyLimit::max(LIMIT)));
    Router::new()
        .route("/", get(page::page))
        .route("/metrics", get(system::metrics))
        .route("/api/health", get(system::health))
        .route("/api/events", get(events::list))
        .route("/api/history/verify", get(history::verify))
        .route("/api/rollouts/{rollout}", get(rollouts::one))
        .route("/api/rollouts/{rollout}/evidence", get(evidence::of_rollout))
        .route("/api/rollouts/{rollout}/report", get(rollouts::report))
        .route("/api/gateway/upgrade", post(system::upgrade))
        .route("/api/down", post(system::down))
        .merge(services)
        .merge(flags::routes())
        .fallback(error::no_such_address)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(from_fn_with_state(app.clone(), idempotency::once))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(guard::loopback_only))
        .with_state(app)
}

/// Who asks, by the name that they give. Control characters and length are cut: names are shown to others.
///
/// A token's name counts before what the caller says of themselves.
pub fn actor(by: Option<String>) -> Actor {
    let by = access::caller().map(|grant| grant.name.clone()).or(by);
    let name: String = by.unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect();
    Actor::Person(if name.trim().is_empty() { "somebody".to_owned() } else { name.trim().to_owned() })
}

#[cfg(test)]
mod alternatives_tests;
#[cfg(test)]
mod models_tests;
#[cfg(test)]
mod tests;
