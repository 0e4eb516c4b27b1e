//! `grpc.health.v1`: the same readiness and liveness, in the form that Kubernetes' gRPC probes ask for.
//!
//! The empty name and the inference service are serving when the server is ready and live.

use std::sync::Arc;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, health_reporter};

use crate::server::Shared;

const INFERENCE: &str = "inference.GRPCInferenceService";

/// The service, kept up to date by a task of this thread.
pub(super) fn service(shared: &Arc<Shared>) -> HealthServer<impl Health> {
    let (reporter, service) = health_reporter();
    let shared = shared.clone();
    tokio::spawn(async move {
        let mut changes = shared.health.changes();
        loop {
            report(&reporter, shared.health.is_ready() && shared.health.is_live()).await;
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
