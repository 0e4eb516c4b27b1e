//! A service as `status` shows it. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use modelyard_core::api::Shown;
use modelyard_core::instance::InstanceState;
use modelyard_core::machine::MachineId;
use modelyard_core::measure::GatewayReport;
use modelyard_core::service::{Desired, ServiceSpec};
use modelyard_core::{Digest, InstanceId, RevisionNumber, RolloutId, ServiceName, Version, Weight};
use modelyard_rollout::Waiting;
use serde::Serialize;

use crate::controller::lifecycle::TargetSeen;
use crate::store::fold::{Freeze, Instance, Notice, Open, Record, ServiceState, Stage};
use crate::tracking;

/// A service as it stands.
#[derive(Debug, Serialize)]
pub struct Status {
    service: ServiceName,
    environment: String,
    /// Applied share by revision.
    weights: BTreeMap<RevisionNumber, Weight>,
    /// What is wanted of instances and shares, beside what is seen of them.
    desired: Desired,
    #[serde(skip_serializing_if = "Option::is_none")]
    stable: Option<Pool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate: Option<Pool>,
    /// Further arms of the open rollout.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    arms: Vec<Pool>,
    /// What runs beside the arms and decides nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    beside: Vec<Pool>,
    /// Shadows that get copies of requests, with the share that is copied.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mirrors: BTreeMap<RevisionNumber, Weight>,
    /// Further revisions that have instances: kept for a rollback, or leaving.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Pool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<Rollout>,
    /// By whom and why deploys are barred.
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen: Option<Freeze>,
    /// What was noticed of the revision that serves since the last rollout.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    noticed: Vec<Notice>,
    /// API versions side by side, this service's among them; nothing while it has the only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apis: Vec<Shown>,
    /// How its experiment tracking goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracking: Option<tracking::Shown>,
    spec: ServiceSpec,
}

#[derive(Debug, Serialize)]
struct Pool {
    revision: RevisionNumber,
    version: Version,
    digest: Digest,
    instances: Vec<InstanceLine>,
}

#[derive(Debug, Serialize)]
struct InstanceLine {
    id: InstanceId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    /// Where it runs, on targets that have several machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<MachineId>,
    /// Why its machine cannot be reached, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    out_of_reach: Option<String>,
}

#[derive(Debug, Serialize)]
struct Rollout {
    id: RolloutId,
    strategy: String,
    phase: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// Where the candidate answers whatever its weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview: Option<String>,
}

/// The service as it stands; none when it was removed. `waiting` is what its open rollout waits for now.
pub fn status(
    state: &ServiceState,
    seen: Option<&TargetSeen>,
    report: Option<&GatewayReport>,
    waiting: Option<Waiting>,
    gateway: Option<SocketAddr>,
) -> Option<Status> {
    let spec = state.spec.as_ref()?;
    let coming = state.open.as_ref().map(|open| open.machine.candidate).filter(|&to| state.stable != Some(to));
    let mut others: Vec<RevisionNumber> = state.instances.values().map(|instance| instance.revision).collect();
    others.sort_unstable();
    others.dedup();
    let open = state.open.is_some();
    let arms = state.rollouts.last().filter(|_| open).map_or_else(Vec::new, |record| record.arms.clone());
    let beside = state.open.as_ref().map_or_else(Vec::new, |open| {
        open.machine.beside().iter().filter(|(_, one)| !one.is_out()).map(|(&revision, _)| revision).collect()
    });
    let has_place = |revision: &RevisionNumber| arms.contains(revision) || beside.contains(revision);
    others.retain(|one| Some(*one) != state.stable && Some(*one) != coming && !has_place(one));
    let pool = |revision| pool(state, seen, revision);
    Some(Status {
        service: state.name.clone(),
        environment: spec.environment.to_string(),
        weights: weights(state, report),
        desired: state.desired.clone(),
        stable: state.stable.and_then(pool),
        candidate: coming.and_then(pool),
        arms: arms.into_iter().filter_map(pool).collect(),
        beside: beside.into_iter().filter_map(pool).collect(),
        mirrors: state.desired.mirrors.clone(),
        others: others.into_iter().filter_map(pool).collect(),
        rollout: state
            .open
            .as_ref()
            .map(|open| rollout(open, state.rollouts.last().map(AsRef::as_ref), waiting, gateway)),
        frozen: state.frozen.as_deref().cloned(),
        noticed: state.noticed().map(|notice| (**notice).clone()).collect(),
        apis: Vec::new(),
        tracking: None,
        spec: (**spec).clone(),
    })
}

/// What the gateway applies now, or applied last when it was heard of.
fn weights(state: &ServiceState, report: Option<&GatewayReport>) -> BTreeMap<RevisionNumber, Weight> {
    let Some(report) = report else { return state.applied.clone() };
    let pools = report.services.get(&state.name).into_iter().flat_map(|service| &service.pools);
    let wanted = |revision: &RevisionNumber| state.desired.instances.contains_key(revision);
    let shown = pools.filter(|(revision, pool)| pool.weight > Weight::NONE || wanted(revision));
    shown.map(|(&revision, pool)| (revision, pool.weight)).collect()
}

fn pool(state: &ServiceState, seen: Option<&TargetSeen>, number: RevisionNumber) -> Option<Pool> {
    let revision = state.revisions.get(&number)?;
    let instances = state.instances.iter().filter(|(_, instance)| instance.revision == number);
    Some(Pool {
        revision: number,
        version: revision.version.clone(),
        digest: revision.package,
        instances: instances.map(|(id, instance)| line(id, instance, seen)).collect(),
    })
}

fn line(id: &InstanceId, instance: &Instance, seen: Option<&TargetSeen>) -> InstanceLine {
    let status = seen.and_then(|seen| seen.instances.get(id));
    let state = match (instance.stage, status.map(|status| &status.state)) {
        (_, Some(InstanceState::Exited(_))) => "exited",
        (Stage::Starting, _) => "starting",
        (Stage::Live, _) => "live",
        (Stage::Draining { .. }, _) => "draining",
    };
    let address = match status.map(|status| &status.state) {
        Some(InstanceState::Running { address, .. }) => Some(*address),
        _ => None,
    };
    let pid = status.and_then(|status| status.pid);
    InstanceLine {
        id: id.clone(),
        state,
        address,
        pid,
        memory_bytes: status.and_then(|status| status.memory_bytes),
        machine: instance.machine.clone(),
        out_of_reach: status.and_then(|status| status.out_of_reach.clone()),
    }
}

/// Address of the candidate's own pool, without live traffic; none for strategies that have no second pool.
pub fn preview(open: &Open, gateway: Option<SocketAddr>) -> Option<String> {
    let gateway = gateway.filter(|_| open.machine.has_preview())?;
    Some(format!("http://{gateway}{}", open.machine.preview_path()))
}

fn rollout(open: &Open, record: Option<&Record>, waiting: Option<Waiting>, gateway: Option<SocketAddr>) -> Rollout {
    let progress = open.machine.progress();
    Rollout {
        id: open.id.clone(),
        strategy: record.map_or_else(String::new, |record| record.strategy.clone()),
        phase: open.machine.describe(),
        step: progress.map(|(step, _)| step),
        steps: progress.map(|(_, steps)| steps),
        waiting,
        outcome: open.machine.outcome().map(|outcome| outcome.name()),
        preview: preview(open, gateway),
    }
}
