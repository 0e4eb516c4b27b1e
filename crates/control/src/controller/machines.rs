//! Machines that are out of reach: what that says of instances, and the events that tell it. Pure.
//!
//! Promises: a machine is lost once and back once, also over restarts; a connection that is back within seconds was never gone.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::event::EventBody;
use modelyard_core::machine::{MachineId, MachineSeen};
use modelyard_core::{EnvironmentName, Millis, RevisionNumber, Timestamp};
use modelyard_rollout::PoolSeen;

use crate::store::fold::{Instance, ServiceState};

/// A connection that is back within this is not worth an event.
const BLINK: Millis = Millis::seconds(5);

/// Machines that are out of reach right now.
#[derive(Clone, Debug, Default)]
pub struct Away {
    why: BTreeMap<MachineId, String>,
    /// Environments that have others.
    others: BTreeSet<EnvironmentName>,
}

impl Away {
    /// Of the machines as their target sees them.
    pub fn new(machines: Vec<MachineSeen>) -> Self {
        let mut away = Self::default();
        for MachineSeen { id, out_of_reach, listed, .. } in machines {
            match out_of_reach {
                Some(why) => drop(away.why.insert(id, why)),
                None if listed => drop(away.others.insert(id.environment)),
                None => {}
            }
        }
        away
    }

    /// Why the machine of an instance is out of reach, if it is.
    pub fn why(&self, instance: &Instance) -> Option<&str> {
        self.why.get(instance.machine.as_ref()?).map(String::as_str)
    }

    /// Whether the machine of an instance is out of reach, and another one could do instead.
    pub fn is_alone(&self, instance: &Instance) -> bool {
        let there = instance.machine.as_ref().filter(|machine| self.why.contains_key(machine));
        there.is_some_and(|machine| self.others.contains(&machine.environment))
    }

    /// Notes how many instances of each pool are away. One that was never live is counted by nobody.
    pub fn count(&self, state: &ServiceState, pools: &mut BTreeMap<RevisionNumber, PoolSeen>) {
        for instance in state.instances.values().filter(|instance| instance.live_since.is_some()) {
            if self.why(instance).is_some() {
                pools.entry(instance.revision).or_default().lost += 1;
            }
        }
    }
}

/// How a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Here,
    /// Out of reach, perhaps for a moment.
    Missing {
        since: Timestamp,
    },
    /// So it was told.
    Lost {
        since: Timestamp,
    },
}

/// What was told of the machines.
#[derive(Clone, Debug, Default)]
pub struct RollCall(BTreeMap<MachineId, Stands>);

impl RollCall {
    /// After what the log tells: the machines that are lost, and since when.
    pub fn new(lost: &BTreeMap<MachineId, Timestamp>) -> Self {
        Self(lost.iter().map(|(id, &since)| (id.clone(), Stands::Lost { since })).collect())
    }

    /// Compares with how the machines stand now; what is to be told.
    pub fn call(&mut self, seen: Vec<MachineSeen>, now: Timestamp) -> Vec<EventBody> {
        let (mut before, mut events) = (std::mem::take(&mut self.0), Vec::new());
        for MachineSeen { id, coming, out_of_reach, .. } in seen {
            let stood = before.remove(&id).unwrap_or(Stands::Here);
            let stands = match (out_of_reach, stood) {
                (None, stood) if coming => stood,
                (None, Stands::Lost { since }) => {
                    events.push(EventBody::MachineBack { machine: id.clone(), after_ms: (now - since).0 });
                    Stands::Here
                }
                (None, _) => Stands::Here,
                (Some(_), Stands::Here) => Stands::Missing { since: now },
                (Some(why), Stands::Missing { since }) if now - since >= BLINK => {
                    events.push(EventBody::MachineLost { machine: id.clone(), why });
                    Stands::Lost { since: now }
                }
                (Some(_), stood) => stood,
            };
            self.0.insert(id, stands);
        }
        events.extend(before.into_keys().map(|machine| EventBody::MachineLeft { machine }));
        events
    }
}

#[cfg(test)]
mod tests {
    use modelyard_core::service::TargetKind;

    use super::*;

    fn seen(id: &str, out_of_reach: Option<&str>) -> MachineSeen {
        let out_of_reach = out_of_reach.map(str::to_owned);
        MachineSeen { id: id.parse().unwrap(), target: TargetKind::Ssh, listed: true, coming: false, out_of_reach }
    }

    #[test]
    fn a_machine_is_lost_once_and_back_once_and_a_blink_is_nothing() {
        let mut roll = RollCall::default();
        let (here, gone) = (|| vec![seen("prod/a", None)], || vec![seen("prod/a", Some("no route"))]);
        let at = |seconds: u64| Timestamp(seconds * 1_000);
        assert_eq!(roll.call(here(), at(0)), []);
        assert_eq!(roll.call(gone(), at(1)), []);
        assert_eq!(roll.call(here(), at(4)), [], "a blink");
        assert_eq!(roll.call(gone(), at(5)), []);
        assert_eq!(roll.call(gone(), at(9)), []);
        let machine: MachineId = "prod/a".parse().unwrap();
        let lost = EventBody::MachineLost { machine: machine.clone(), why: "no route".into() };
        assert_eq!(roll.call(gone(), at(10)), [lost]);
        assert_eq!(roll.call(gone(), at(60)), []);
        // The control plane starts anew meanwhile, and does not know how it stands before it was connected to.
        let mut roll = RollCall::new(&[(machine.clone(), at(10))].into());
        let coming = MachineSeen { coming: true, ..seen("prod/a", None) };
        assert_eq!(roll.call(vec![coming], at(70)), []);
        assert_eq!(roll.call(gone(), at(71)), [], "that is told already");
        assert_eq!(roll.call(here(), at(72)), [EventBody::MachineBack { machine: machine.clone(), after_ms: 62_000 }]);
        assert_eq!(roll.call(here(), at(73)), []);
        assert_eq!(roll.call(vec![], at(74)), [EventBody::MachineLeft { machine }]);
        assert_eq!(roll.call(vec![], at(75)), []);
    }

    #[test]
    fn another_machine_could_do_only_within_the_environment() {
        let instance = |machine: &str| Instance {
            revision: RevisionNumber(1),
            asked_seq: 1,
            asked: Timestamp(0),
            stage: crate::store::fold::Stage::Starting,
            live_since: None,
            machine: Some(machine.parse().unwrap()),
        };
        let away = Away::new(vec![seen("prod/a", Some("no route")), seen("prod/b", None), seen("dev/a", Some("down"))]);
        assert_eq!(away.why(&instance("prod/a")), Some("no route"));
        assert!(away.is_alone(&instance("prod/a")) && !away.is_alone(&instance("prod/b")));
        assert!(!away.is_alone(&instance("dev/a")), "nobody is left there");
    }
}
