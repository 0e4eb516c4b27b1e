//! Feature flags of a service, as others ask for them: over OFREP, and as a list for people.
//!
//! Three kinds of flags, by precedence: what Modelyard itself knows (`modelyard.revision`, `modelyard.arm`), the values that revisions
//! run with, and the service's definition in flagd's format. Where a rollout spreads sessions over revisions, a session gets the values
//! of the revision that answers it: the same hash as the gateway's.
//! Promises: nothing is decided here; the same state and context give the same answer. A wrong definition of one flag leaves the others.
//! Absent on purpose: the data plane. An application asks for its flags here; models get theirs when they start.
//! Sources: OpenFeature Remote Evaluation Protocol 0.3; OpenFeature's reasons and error codes; OpenTelemetry's semantic conventions for
//! feature flags.

mod answer;
mod listing;
mod ofrep;
mod split;

#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::api::App;

/// Longest body of an evaluation in bytes: a context is what is known of one user.
const CONTEXT_LIMIT: usize = 64 << 10;

/// The addresses of this module.
pub fn routes() -> Router<App> {
    let evaluate = Router::new()
        .route("/api/services/{service}/ofrep/v1/evaluate/flags", post(ofrep::all))
        .route("/api/services/{service}/ofrep/v1/evaluate/flags/{*key}", post(ofrep::one))
        .layer(DefaultBodyLimit::max(CONTEXT_LIMIT));
    Router::new()
        .route("/api/services/{service}/flags", get(listing::list).put(listing::set).delete(listing::remove))
        .route("/api/services/{service}/flags/definition", get(listing::definition))
        .merge(evaluate)
}
