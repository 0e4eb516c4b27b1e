//! Whether a service may answer as the API version that it asks for. Pure.
//!
//! Promises: an API version of a service belongs to one service alone, and keeps it: callers who were told an address find the same API there.

use modelyard_core::api::Api;
use modelyard_core::service::ServiceSpec;
use modelyard_core::{ServiceName, Timestamp};

use super::Error;
use crate::store::fold::World;

/// Checks the API version of a service that is to be deployed.
///
/// # Errors
/// [`Error::ApiVersion`] with what is wrong, and what to do.
pub(super) fn check(world: &World, spec: &ServiceSpec, now: Timestamp) -> Result<(), Error> {
    let refuse = |(why, help): (String, String)| Err(Error::ApiVersion { service: spec.name.clone(), why, help });
    let here = world.services.get(&spec.name);
    let address = |api: Option<&Api>| api.map(|api| (api.of.clone(), api.version));
    let (wanted, known) = (spec.api.as_ref(), here.and_then(|state| state.spec.as_ref()));
    let kept = known.is_some_and(|known| address(known.api.as_ref()) == address(wanted));
    if known.is_some() && !kept && here.is_some_and(|state| state.stable.is_some()) {
        return refuse(moved(known.and_then(|known| known.api.as_ref())));
    }
    let Some(api) = wanted else { return Ok(()) };
    if let Some(why) = api.problem(&spec.name) {
        return refuse((why, "change `[api]` in `service.toml`".to_owned()));
    }
    if let Some(sunset) = api.sunset.filter(|&sunset| sunset <= now)
        && known.and_then(|known| known.api.as_ref()).and_then(|api| api.sunset) != Some(sunset)
    {
        let why = "`api.sunset` has passed already".to_owned();
        return refuse((why, "name a day on which the callers of the versions before can have moved on".to_owned()));
    }
    if let Some(first) = world.services.get(&api.of).and_then(|first| first.spec.as_ref())
        && first.environment != spec.environment
    {
        let why =
            format!("`{}` is in the environment `{}`, and this is `{}`", api.of, first.environment, spec.environment);
        return refuse((why, "deploy the versions of one API into one environment".to_owned()));
    }
    match if kept { None } else { taken(world, spec, api) } {
        Some(taken) => refuse(taken),
        None => Ok(()),
    }
}

fn moved(api: Option<&Api>) -> (String, String) {
    let present = match api {
        Some(api) => format!("API version {} of `{}`", api.version, api.of),
        None => "the first API version of its own name".to_owned(),
    };
    let why = format!("it answers as {present}, and its callers would break");
    (why, "deploy under another name what is to answer as another API version".to_owned())
}

/// Why a service that is new to an API version cannot have it.
fn taken(world: &World, spec: &ServiceSpec, api: &Api) -> Option<(String, String)> {
    let present = || world.present().filter_map(|state| Some((&state.name, state.spec.as_ref()?)));
    let claims = |of: &ServiceName| {
        let of = of.clone();
        present().filter(move |(_, other)| other.api.as_ref().is_some_and(|api| api.of == of))
    };
    let highest = claims(&api.of).map(|(_, other)| other.api_version()).max().unwrap_or(1);
    match present().find(|(name, _)| **name == api.of) {
        None => {
            let why = format!("there is no service `{}` whose API it could be a version of", api.of);
            return Some((why, "see `modelyard status` for the services there are, or leave `[api]` out".to_owned()));
        }
        Some((_, first)) if first.api.is_some() => {
            let why = format!("`{}` is itself an API version of another service", api.of);
            let root = first.api.as_ref().map_or_else(String::new, |api| api.of.to_string());
            return Some((why, format!("write `of = \"{root}\"`: versions are counted from the first")));
        }
        Some(_) => {}
    }
    if let Some((name, _)) =
        claims(&api.of).find(|(name, other)| other.api_version() == api.version && **name != spec.name)
    {
        let why = format!("`{name}` answers as API version {} of `{}`", api.version, api.of);
        return Some((why, format!("the next one is `version = {}`", highest.saturating_add(1))));
    }
    claims(&spec.name).next().map(|(name, _)| {
        let why = format!("`{name}` is an API version of it, so that it cannot be one of another service");
        (why, "leave `[api]` out".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use modelyard_core::RevisionNumber;

    use super::*;
    use crate::store::fold::ServiceState;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn spec(service: &str, api: Option<(&str, u16)>) -> ServiceSpec {
        let api = api.map(|(of, version)| Api { of: name(of), version, sunset: None });
        ServiceSpec { api, ..ServiceSpec::named(name(service)) }
    }

    fn world() -> World {
        let mut world = World::default();
        for spec in [spec("wine", None), spec("wine-v2", Some(("wine", 2))), spec("iris", None)] {
            let mut state = ServiceState::new(spec.name.clone());
            state.stable = Some(RevisionNumber(1));
            state.spec = Some(Arc::new(spec));
            world.services.insert(state.name.clone(), Arc::new(state));
        }
        world
    }

    fn refused(spec: &ServiceSpec) -> String {
        let error = check(&world(), spec, Timestamp(1_000)).expect_err("refused");
        format!("{error}; {}", error.help())
    }

    #[test]
    fn the_next_version_and_what_is_there_already_are_taken() {
        for spec in [
            spec("wine-v3", Some(("wine", 3))),
            spec("wine-v2", Some(("wine", 2))),
            spec("wine", None),
            spec("beer", None),
        ] {
            check(&world(), &spec, Timestamp(1_000)).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
        }
    }

    #[test]
    fn a_version_outlives_the_first_one() {
        let mut world = world();
        let wine = Arc::make_mut(world.services.get_mut("wine").unwrap());
        (wine.spec, wine.stable) = (None, None);
        check(&world, &spec("wine-v2", Some(("wine", 2))), Timestamp(1_000)).unwrap();
        let error = check(&world, &spec("wine-v3", Some(("wine", 3))), Timestamp(1_000)).expect_err("refused");
        assert!(error.to_string().contains("no service `wine`"), "{error}");
    }

    #[test]
    fn addresses_that_callers_know_are_never_given_to_others() {
        for (spec, words) in [
            (spec("wine-next", Some(("wine", 2))), ["`wine-v2` answers as API version 2 of `wine`", "version = 3"]),
            (spec("wine-v2", Some(("wine", 3))), ["its callers would break", "another name"]),
            (spec("wine-v2", None), ["API version 2 of `wine`", "another name"]),
            (spec("iris", Some(("wine", 3))), ["first API version of its own name", "another name"]),
            (spec("beer-v2", Some(("beer", 2))), ["no service `beer`", "modelyard status"]),
            (spec("wine-v3", Some(("wine-v2", 3))), ["itself an API version", "of = \"wine\""]),
            (spec("wine-v1", Some(("wine", 1))), ["2 or more", "service.toml"]),
        ] {
            let told = refused(&spec);
            assert!(words.iter().all(|word| told.contains(word)), "{told}");
        }
    }

    #[test]
    fn a_sunset_lies_ahead_when_it_is_set() {
        let mut late = spec("wine-v3", Some(("wine", 3)));
        late.api.as_mut().unwrap().sunset = Some(Timestamp(900));
        assert!(refused(&late).contains("has passed"));
    }
}
