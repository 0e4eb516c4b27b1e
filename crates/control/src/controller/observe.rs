//! From what was seen to an observation that a rollout can be stepped with. Pure.

use std::collections::BTreeMap;

use modelyard_core::event::Measurement;
use modelyard_core::evidence::Evidence;
use modelyard_core::measure::{Counters, GatewayReport, ServiceReport};
use modelyard_core::{RevisionNumber, Timestamp, Weight};
use modelyard_rollout::{GatewaySeen, Observation, PoolSeen};

use crate::store::fold::{Open, ServiceState, Stage};

/// Everything that the rollout may know now.
pub fn observation(
    state: &ServiceState,
    open: &Open,
    report: Option<&GatewayReport>,
    totals: BTreeMap<RevisionNumber, Counters>,
    evidence: Option<Evidence>,
    at: Timestamp,
) -> Observation {
    Observation {
        at,
        gateway: report.map(|report| gateway(report.services.get(&state.name), totals)),
        pools: pools(state),
        evidence,
        failures: open.failures.clone(),
        orders: open.orders.clone(),
    }
}

fn gateway(report: Option<&ServiceReport>, counters: BTreeMap<RevisionNumber, Counters>) -> GatewaySeen {
    let pools = || report.into_iter().flat_map(|report| &report.pools);
    GatewaySeen {
        weights: pools().filter(|(_, p)| p.weight > Weight::NONE).map(|(&revision, p)| (revision, p.weight)).collect(),
        in_flight: pools().map(|(&revision, pool)| (revision, pool.in_flight())).collect(),
        counters,
    }
}

/// Instances by revision, as they stand in the log.
pub fn pools(state: &ServiceState) -> BTreeMap<RevisionNumber, PoolSeen> {
    let mut pools: BTreeMap<RevisionNumber, PoolSeen> = BTreeMap::new();
    for instance in state.instances.values() {
        let pool = pools.entry(instance.revision).or_default();
        match instance.stage {
            Stage::Starting => pool.running += 1,
            Stage::Live => {
                pool.running += 1;
                pool.live += 1;
            }
            Stage::Draining { .. } => pool.leaving += 1,
        }
    }
    pools
}

/// Figures of every revision that has instances or weight, since `before`.
pub fn measurements(
    state: &ServiceState,
    report: Option<&ServiceReport>,
    totals: &BTreeMap<RevisionNumber, Counters>,
    before: &BTreeMap<RevisionNumber, Counters>,
) -> BTreeMap<RevisionNumber, Measurement> {
    let pools = pools(state);
    let reported = report.map(|report| &report.pools);
    let revisions = pools.keys().chain(reported.into_iter().flat_map(|pools| pools.keys()));
    let measure = |&revision: &RevisionNumber| {
        let pool = reported.and_then(|pools| pools.get(&revision));
        let total = totals.get(&revision).cloned().unwrap_or_default();
        let measurement = Measurement {
            weight: pool.map_or(Weight::NONE, |pool| pool.weight),
            live: pools.get(&revision).map_or(0, |pool| pool.live),
            window: before.get(&revision).map_or_else(|| total.clone(), |before| total.since(before)),
            in_flight: pool.map_or(0, |pool| pool.in_flight()),
        };
        (revision, measurement)
    };
    revisions.map(measure).collect()
}
