//! On which machine an instance is to run. Pure, and written down with the event that asks for the instance.
//!
//! Promises: the same state gives the same machines. First those in reach, then those where nothing of the service failed of late, then those with fewest
//! instances of the revision, then with fewest of all, then by name.

use std::collections::BTreeMap;

use modelyard_core::machine::{MachineId, MachineSeen};
use modelyard_core::service::Pools;
use modelyard_core::{Millis, RevisionNumber, Timestamp};

use crate::store::fold::{ServiceState, World};

/// A machine on which an instance failed is given a rest, if there is another one.
const REST: Millis = Millis::seconds(60);

/// What is known of the machines.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// Every machine of every environment.
    pub machines: Vec<MachineSeen>,
    /// Instances on each, of all services.
    pub load: BTreeMap<MachineId, usize>,
}

impl Sites {
    /// The machines, and what the log says runs there.
    pub fn new(machines: Vec<MachineSeen>, world: &World) -> Self {
        let mut load = BTreeMap::new();
        let instances = world.services.values().flat_map(|service| service.instances.values());
        for machine in instances.filter(|instance| instance.stays()).filter_map(|instance| instance.machine.clone()) {
            *load.entry(machine).or_default() += 1;
        }
        Self { machines, load }
    }
}

/// Places the instances of one service, one after the other.
pub struct Placer<'s> {
    state: &'s ServiceState,
    /// None of a service that runs on this machine.
    sites: Option<Vec<Site>>,
}

#[derive(Debug)]
struct Site {
    id: MachineId,
    lost: bool,
    failed: bool,
    load: usize,
    /// Instances of the service there that are meant to stay, by revision.
    pools: BTreeMap<RevisionNumber, usize>,
}

impl Site {
    fn of(&self, revision: RevisionNumber) -> usize {
        self.pools.get(&revision).copied().unwrap_or(0)
    }

    fn is_free_for(&self, revision: RevisionNumber) -> bool {
        self.pools.keys().all(|&other| other == revision)
    }
}

impl<'s> Placer<'s> {
    /// For the service as it stands. `sites` is asked only when it matters.
    pub fn new(state: &'s ServiceState, sites: impl FnOnce() -> Sites, now: Timestamp) -> Self {
        let spec = state.spec.as_ref().filter(|spec| spec.target.has_machines());
        let sites = spec.map(|spec| {
            let Sites { machines, load } = sites();
            let named = |id: &MachineId| spec.machines.is_empty() || spec.machines.contains(&id.name);
            let ours = machines
                .into_iter()
                .filter(|seen| seen.listed && seen.target == spec.target)
                .filter(|seen| seen.id.environment == spec.environment && named(&seen.id));
            ours.map(|seen| Site {
                lost: seen.out_of_reach.is_some(),
                failed: state.failed_on.get(&seen.id).is_some_and(|&at| now - at < REST),
                load: load.get(&seen.id).copied().unwrap_or(0),
                pools: pools(state, &seen.id),
                id: seen.id,
            })
            .collect()
        });
        Self { state, sites }
    }

    /// Where the next instance of a revision goes: nowhere in particular, for a service of this machine.
    ///
    /// # Errors
    /// When there is no machine for it, in words.
    pub fn place(&mut self, revision: RevisionNumber) -> Result<Option<MachineId>, String> {
        let Some(sites) = &mut self.sites else { return Ok(None) };
        let spec = self.state.spec.as_ref();
        let apart = spec.is_some_and(|spec| spec.pools == Pools::Apart);
        // Whoever serves now is placed whatever happens: one pool beside another is better than no answer.
        let serves = self.state.stable.is_none_or(|stable| stable == revision);
        let room: Vec<usize> = match apart {
            false => (0..sites.len()).collect(),
            true => match separate(sites, revision) {
                room if room.iter().all(|&at| sites[at].lost) && serves => (0..sites.len()).collect(),
                room => room,
            },
        };
        let rank = |&at: &usize| {
            let site: &Site = &sites[at];
            (site.lost, site.failed, site.of(revision), site.load, site.id.clone())
        };
        let Some(best) = room.into_iter().min_by_key(rank) else {
            return Err(match sites.is_empty() {
                true => "the environment has no machine for it; `modelyard env set` names machines".to_owned(),
                false => "pools are apart, and every machine carries another pool; add a machine, or lower `instances`"
                    .to_owned(),
            });
        };
        let site = &mut sites[best];
        site.load += 1;
        *site.pools.entry(revision).or_default() += 1;
        Ok(Some(site.id.clone()))
    }
}

/// Machines on which a pool may be when pools are apart: those that no other pool is on, and half of all at most, so that there is room for the next.
fn separate(sites: &[Site], revision: RevisionNumber) -> Vec<usize> {
    let half = (sites.len() / 2).max(1);
    let free: Vec<usize> = (0..sites.len()).filter(|&at| sites[at].is_free_for(revision)).collect();
    let own: Vec<usize> = free.iter().copied().filter(|&at| sites[at].of(revision) > 0 && !sites[at].lost).collect();
    if own.len() >= half { own } else { free }
}

/// Instances of the service on a machine that are meant to stay, by revision.
fn pools(state: &ServiceState, machine: &MachineId) -> BTreeMap<RevisionNumber, usize> {
    let mut pools = BTreeMap::new();
    let there = state.instances.values().filter(|instance| instance.machine.as_ref() == Some(machine));
    for instance in there.filter(|instance| instance.stays()) {
        *pools.entry(instance.revision).or_default() += 1;
    }
    pools
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use modelyard_core::service::{ServiceSpec, TargetKind};
    use modelyard_core::{MachineName, ServiceName};

    use super::*;
    use crate::store::fold::{Instance, Stage};

    fn id(name: &str) -> MachineId {
        format!("prod/{name}").parse().unwrap()
    }

    /// Machines of `prod`; a name in capitals is out of reach.
    fn sites(names: &[&str]) -> Sites {
        let seen = |name: &&str| MachineSeen {
            id: id(&name.to_lowercase()),
            target: TargetKind::Ssh,
            listed: true,
            coming: false,
            out_of_reach: (name.to_lowercase() != **name).then(|| "it does not answer".to_owned()),
        };
        Sites { machines: names.iter().map(seen).collect(), load: BTreeMap::new() }
    }

    /// A service with instances of revisions on machines.
    fn state(pools: Pools, instances: &[(u32, &str)]) -> ServiceState {
        let name = ServiceName::new("wine").unwrap();
        let mut spec = ServiceSpec::named(name.clone());
        (spec.target, spec.pools, spec.environment) = (TargetKind::Ssh, pools, "prod".parse().unwrap());
        let mut state = ServiceState::new(name);
        state.spec = Some(Arc::new(spec));
        state.stable = Some(RevisionNumber(1));
        for (number, (revision, machine)) in instances.iter().enumerate() {
            let instance = Instance {
                revision: RevisionNumber(*revision),
                asked_seq: 1,
                asked: Timestamp(0),
                stage: Stage::Live,
                live_since: None,
                machine: Some(id(machine)),
            };
            state.instances.insert(format!("wine-r{revision}-{number}").parse().unwrap(), instance);
        }
        state
    }

    fn placed(state: &ServiceState, sites: Sites, revision: u32, count: usize) -> Vec<String> {
        let mut placer = Placer::new(state, || sites, Timestamp(100_000));
        let place = |_| match placer.place(RevisionNumber(revision)) {
            Ok(Some(machine)) => machine.name.to_string(),
            Ok(None) => "here".to_owned(),
            Err(why) => why,
        };
        (0..count).map(place).collect()
    }

    #[test]
    fn instances_spread_and_ties_go_by_name() {
        let empty = state(Pools::Together, &[]);
        assert_eq!(placed(&empty, sites(&["beta", "alpha"]), 1, 3), ["alpha", "beta", "alpha"]);
        let mut loaded = sites(&["alpha", "beta"]);
        loaded.load.insert(id("alpha"), 5);
        assert_eq!(placed(&empty, loaded, 1, 3), ["beta", "alpha", "beta"], "the revision's own spread comes first");
        let one = state(Pools::Together, &[(1, "alpha")]);
        assert_eq!(placed(&one, sites(&["alpha", "beta"]), 1, 2), ["beta", "alpha"]);
        assert_eq!(placed(&one, sites(&["alpha", "beta"]), 2, 1), ["alpha"], "together, pools share machines");
    }

    #[test]
    fn machines_that_are_lost_or_failed_are_avoided_while_there_are_others() {
        let mut state = state(Pools::Together, &[(1, "beta")]);
        assert_eq!(placed(&state, sites(&["ALPHA", "beta"]), 1, 2), ["beta", "beta"]);
        assert_eq!(placed(&state, sites(&["ALPHA"]), 1, 1), ["alpha"], "the try says why it fails");
        state.failed_on.insert(id("alpha"), Timestamp(99_000));
        assert_eq!(placed(&state, sites(&["alpha", "beta"]), 1, 2), ["beta", "beta"]);
        state.failed_on.insert(id("alpha"), Timestamp(1_000));
        assert_eq!(placed(&state, sites(&["alpha", "beta"]), 1, 1), ["alpha"], "it had its rest");
        assert!(placed(&state, Sites::default(), 1, 1)[0].contains("no machine for it"));
    }

    #[test]
    fn pools_that_are_apart_never_share_a_machine_while_both_are_in_reach() {
        let first = state(Pools::Apart, &[]);
        assert_eq!(
            placed(&first, sites(&["alpha", "beta"]), 1, 2),
            ["alpha", "alpha"],
            "room is left for the next pool"
        );
        assert_eq!(placed(&first, sites(&["alpha", "beta", "gamma", "delta"]), 1, 3), ["alpha", "beta", "alpha"]);
        let one = state(Pools::Apart, &[(1, "alpha"), (1, "alpha")]);
        assert_eq!(placed(&one, sites(&["alpha", "beta"]), 2, 2), ["beta", "beta"]);
        assert_eq!(
            placed(&one, sites(&["alpha", "BETA"]), 2, 1),
            ["beta"],
            "not beside stable: the try fails, and says why"
        );
        assert!(placed(&one, sites(&["alpha"]), 2, 1)[0].contains("pools are apart"));
        let both = state(Pools::Apart, &[(1, "alpha"), (2, "beta")]);
        assert_eq!(placed(&both, sites(&["ALPHA", "beta"]), 1, 1), ["beta"], "what serves is placed whatever happens");
    }

    #[test]
    fn only_the_machines_that_the_service_names_are_taken() {
        let mut state = state(Pools::Together, &[]);
        let mut spec = (**state.spec.as_ref().unwrap()).clone();
        spec.machines = vec![MachineName::new("beta").unwrap()];
        state.spec = Some(Arc::new(spec.clone()));
        let mut all = sites(&["alpha", "beta"]);
        all.machines.push(MachineSeen {
            id: "dev/beta".parse().unwrap(),
            target: TargetKind::Ssh,
            listed: true,
            coming: false,
            out_of_reach: None,
        });
        assert_eq!(placed(&state, all, 1, 2), ["beta", "beta"]);
        let mut left = sites(&["beta"]);
        left.machines[0].listed = false;
        assert!(placed(&state, left, 1, 1)[0].contains("no machine"));
        let mut engines = sites(&["alpha", "beta"]);
        engines.machines[1].target = TargetKind::Docker;
        assert!(placed(&state, engines.clone(), 1, 1)[0].contains("no machine"), "an engine is for another target");
        spec.target = TargetKind::Docker;
        state.spec = Some(Arc::new(spec.clone()));
        assert_eq!(placed(&state, engines, 1, 1), ["beta"]);
        spec.target = TargetKind::Process;
        state.spec = Some(Arc::new(spec));
        assert_eq!(placed(&state, sites(&["beta"]), 1, 1), ["here"]);
    }
}
