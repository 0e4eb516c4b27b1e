//! The API versions of a service as `status` shows them. Pure.

use modelyard_core::ServiceName;
use modelyard_core::api::{Shown, Standing, deprecation, path};

use crate::controller::route::standing;
use crate::store::fold::{ServiceState, World};

/// All API versions of the service that this one is a version of; nothing while it is the only one.
pub fn versions(world: &World, state: &ServiceState) -> Vec<Shown> {
    let Some(spec) = &state.spec else { return Vec::new() };
    let root: &ServiceName = spec.api.as_ref().map_or(&state.name, |api| &api.of);
    let mut all: Vec<(&ServiceState, Standing)> = world
        .present()
        .filter_map(|state| {
            let spec = state.spec.as_ref()?;
            let belongs = spec.api.as_ref().map_or(state.name == *root, |api| api.of == *root);
            belongs.then(|| (&**state, standing(state, spec)))
        })
        .collect();
    if all.len() < 2 && spec.api.is_none() {
        return Vec::new();
    }
    all.sort_by_key(|(_, standing)| standing.version);
    let standings: Vec<Standing> = all.iter().map(|(_, standing)| *standing).collect();
    let show = |(state, standing): (&ServiceState, Standing)| Shown {
        path: path(root.as_str(), standing.version),
        service: state.name.clone(),
        stable: state.stable,
        deprecated: deprecation(standing.version, &standings),
    };
    all.into_iter().map(show).collect()
}
