//! Taking everything down: the gateway finishes, the instances end, the log says so.
//!
//! Promises: no process of this home is left; the next `up` starts from what was desired, without taking the ends for failures.

use std::sync::Arc;
use std::time::Duration;

use modelyard_core::InstanceId;
use modelyard_core::event::EventBody;
use modelyard_core::instance::InstanceState;
use modelyard_core::ports::Target;
use tokio::time::Instant;

use crate::gateway::process::GatewayProcess;
use crate::http_client::chain;
use crate::ledger::Ledger;

// Longer than the gateway's own limit for requests that hang.
const GATEWAY_LIMIT: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(10);
// Force comes after the grace; a process that outlives this hangs in the kernel.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Takes everything down. The controller must have been closed before.
#[tracing::instrument(name = "control.down", skip_all)]
pub async fn take_down(ledger: &Ledger, target: &Arc<dyn Target>, gateway: Option<&GatewayProcess>) {
    // First who accepts requests, then who answers them.
    if let Some(gateway) = gateway {
        gateway.stop(GATEWAY_LIMIT).await;
    }
    let left = stop_all(target).await;
    for id in &left {
        tracing::error!(instance = %id, "an instance does not end");
    }
    record_ends(ledger, &left).await;
    forget_all(target, &left).await;
    target.leave().await;
    note(ledger, None, vec![EventBody::ControlStopped]).await;
}

/// Asks every instance to end, and waits. Returns those that did not.
async fn stop_all(target: &Arc<dyn Target>) -> Vec<InstanceId> {
    let deadline = Instant::now() + END_LIMIT;
    let mut asked = false;
    loop {
        let running = match target.observe().await {
            // What cannot be asked is not waited for: it is ended when its machine comes back to the next control plane.
            Ok(all) => all
                .into_iter()
                .filter(|status| !matches!(status.state, InstanceState::Exited(_)) && status.out_of_reach.is_none()),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the target cannot be observed");
                return Vec::new();
            }
        };
        let running: Vec<InstanceId> = running.map(|status| status.id).collect();
        if running.is_empty() || Instant::now() > deadline {
            return running;
        }
        if !asked {
            let stops = running.iter().map(|id| target.stop(id, GRACE));
            for result in futures_util::future::join_all(stops).await {
                let _ =
                    result.inspect_err(|error| tracing::error!(error = %chain(error), "an instance cannot be stopped"));
            }
            asked = true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn record_ends(ledger: &Ledger, left: &[InstanceId]) {
    for (name, state) in &ledger.world().services {
        let ended = state.instances.iter().filter(|(id, _)| !left.contains(id));
        let how = "ended with the control plane (`down`)";
        let events = ended.map(|(id, instance)| EventBody::InstanceStopped {
            instance: id.clone(),
            revision: instance.revision,
            how: how.to_owned(),
        });
        note(ledger, Some(name), events.collect()).await;
    }
}

async fn forget_all(target: &Arc<dyn Target>, left: &[InstanceId]) {
    let Ok(all) = target.observe().await else { return };
    for status in all.iter().filter(|status| !left.contains(&status.id) && status.out_of_reach.is_none()) {
        if let Err(error) = target.forget(&status.id).await {
            tracing::warn!(instance = %status.id, error = %chain(&error), "the target does not forget an ended instance");
        }
    }
}

async fn note(ledger: &Ledger, service: Option<&modelyard_core::ServiceName>, events: Vec<EventBody>) {
    if events.is_empty() {
        return;
    }
    if let Err(error) = ledger.note(service, events).await {
        tracing::error!(error = %chain(&error), "the end cannot be recorded");
    }
}
