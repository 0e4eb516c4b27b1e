//! The route of one service, from what is desired and what is live. Pure.

use std::collections::BTreeMap;

use modelyard_core::RevisionNumber;
use modelyard_core::instance::InstanceState;
use modelyard_core::route::{Pool, ServiceRoute, effective_split};

use super::lifecycle::TargetSeen;
use crate::store::fold::{ServiceState, Stage};

/// The service's route; none when it was removed.
pub fn route(state: &ServiceState, seen: &TargetSeen) -> Option<ServiceRoute> {
    let spec = state.spec.as_ref()?;
    let pools: BTreeMap<RevisionNumber, Pool> =
        state.desired.instances.keys().filter_map(|&revision| Some((revision, pool(state, seen, revision)?))).collect();
    let default_api = default_api(state);
    let split = effective_split(&state.desired, &pools);
    Some(ServiceRoute {
        default_api,
        apis: BTreeMap::from([(default_api, split)]),
        pools,
        park: state.desired.park,
        routing: spec.routing.clone(),
        ..ServiceRoute::default()
    })
}

fn default_api(state: &ServiceState) -> u16 {
    let leading = state.stable.or_else(|| state.desired.instances.keys().next().copied());
    leading.and_then(|number| state.revisions.get(&number)).map_or(1, |revision| revision.api_version)
}

/// Live instances of a revision, where they listen.
fn pool(state: &ServiceState, seen: &TargetSeen, revision: RevisionNumber) -> Option<Pool> {
    let version = state.revisions.get(&revision)?.version.clone();
    let live = state.staying(revision).filter(|(_, instance)| instance.stage == Stage::Live);
    let address = |id| match seen.instances.get(id)?.state {
        InstanceState::Running { address, .. } => Some(address),
        InstanceState::Starting | InstanceState::Exited(_) => None,
    };
    let instances = live.filter_map(|(id, _)| Some((id.clone(), address(id)?))).collect();
    Some(Pool { version, instances })
}
