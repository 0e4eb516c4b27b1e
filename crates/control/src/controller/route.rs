//! The route of one service, from what is desired and what is live. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::affinity::{AffinityRoute, KeySource};
use modelyard_core::api::{ApiRoute, Standing};
use modelyard_core::beside::Bounds;
use modelyard_core::event::Outcome;
use modelyard_core::flags;
use modelyard_core::instance::InstanceState;
use modelyard_core::mirror::Mirror;
use modelyard_core::route::{Pool, ServiceRoute, effective_split};
use modelyard_core::service::ServiceSpec;
use modelyard_core::{RevisionNumber, Weight};

use super::lifecycle::TargetSeen;
use super::measured::tap;
use crate::store::fold::{Record, ServiceState, Stage};

/// The service's route; none when it was removed.
pub fn route(state: &ServiceState, seen: &TargetSeen, session_key: &str) -> Option<ServiceRoute> {
    let spec = state.spec.as_ref()?;
    let pools: BTreeMap<RevisionNumber, Pool> =
        state.desired.instances.keys().filter_map(|&revision| Some((revision, pool(state, seen, revision)?))).collect();
    let default_api = spec.api_version();
    let split = effective_split(&state.desired, &pools);
    Some(ServiceRoute {
        default_api,
        apis: BTreeMap::from([(default_api, split)]),
        mirrors: mirrors(state, &pools),
        pools,
        park: state.desired.park,
        routing: spec.routing.clone(),
        affinity: affinity(state, spec, session_key),
        tap: tap(state, spec),
        serves: spec.api.as_ref().map(|api| ApiRoute { of: api.of.clone(), standing: standing(state, spec) }),
    })
}

/// How the service's API version stands: it serves since its first rollout was promoted.
pub fn standing(state: &ServiceState, spec: &ServiceSpec) -> Standing {
    // A service that was removed and deployed anew starts anew: that rollout came from nothing.
    let first = |record: &&Arc<Record>| record.outcome == Some(Outcome::Promoted) && record.from.is_none();
    let first = state.rollouts.iter().rev().find(first).filter(|_| state.stable.is_some());
    Standing {
        version: spec.api_version(),
        since: first.and_then(|record| record.ended),
        sunset: spec.api.as_ref().and_then(|api| api.sunset),
    }
}

/// How sessions stay with their arm.
fn affinity(state: &ServiceState, spec: &ServiceSpec, session_key: &str) -> Option<AffinityRoute> {
    let rule = spec.routing.affinity.clone()?;
    let secret = if rule.by == KeySource::Issued { session_key.to_owned() } else { String::new() };
    Some(AffinityRoute {
        rule,
        salt: state.salt(),
        secret,
        starts: state.open.as_ref().map(|open| open.machine.starts().clone()).unwrap_or_default(),
    })
}

/// Shadows that have somebody to send copies to.
fn mirrors(state: &ServiceState, pools: &BTreeMap<RevisionNumber, Pool>) -> Vec<Mirror> {
    let machine = state.open.as_ref().map(|open| &open.machine);
    let lives = |revision| pools.get(revision).is_some_and(|pool: &Pool| !pool.instances.is_empty());
    let wanted = state.desired.mirrors.iter().filter(|&(revision, &share)| share > Weight::NONE && lives(revision));
    let mirror = |(&revision, &share): (&RevisionNumber, &Weight)| {
        let bounds = machine.map_or_else(Bounds::default, |machine| machine.bounds(revision));
        Mirror {
            revision,
            share,
            limit: bounds.limit,
            timeout_ms: bounds.timeout.0,
            tolerance: bounds.tolerance,
            top_k: bounds.top_k,
            // Other arms may answer beside stable; shadows are held against stable alone.
            against: machine.and_then(|machine| machine.stable),
        }
    };
    wanted.map(mirror).collect()
}

/// Live instances of a revision, where they listen.
fn pool(state: &ServiceState, seen: &TargetSeen, revision: RevisionNumber) -> Option<Pool> {
    let made = state.revisions.get(&revision)?;
    let live = state.staying(revision).filter(|(_, instance)| instance.stage == Stage::Live);
    let address = |id| match seen.instances.get(id)?.state {
        InstanceState::Running { address, .. } => Some(address),
        InstanceState::Starting | InstanceState::Exited(_) => None,
    };
    let instances = live.filter_map(|(id, _)| Some((id.clone(), address(id)?))).collect();
    Some(Pool { version: made.version.clone(), instances, flags: flags::header(&made.flags) })
}
