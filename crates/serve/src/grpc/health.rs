//! `grpc.health.v1`: the same readiness and liveness, in the form that Kubernetes' gRPC probes ask for.
//!
//! The empty name and the inference service are serving when the server is ready and live.

use std::sync::Arc;

use futures_util::FutureExt;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::server::Shared;

const INFERENCE: &str = "inference.GRPCInferenceService";

/// The service, kept up to date by a task of this thread.
pub(super) fn service(shared: &Arc<Shared>) -> HealthServer<impl Health> {
    let (reporter, service) = health_reporter();
    // Known before the first call is answered, not only once the task below has its turn.
    let serving = |shared: &Shared| shared.health.is_ready() && shared.health.is_live();
    let mut changes = shared.health.changes();
    report(&reporter, serving(shared)).now_or_never();
    let shared = shared.clone();
    tokio::spawn(async move {
        loop {
            report(&reporter, serving(&shared)).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    });
    service
}

async fn report(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status("", status).await;
    reporter.set_service_status(INFERENCE, status).await;
}
