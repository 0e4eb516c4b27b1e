//! Which instances to start and which to take away, so that what is desired becomes true. Pure.
//!
//! Promises: deciding twice from one state gives the same; a revision whose instances keep failing is tried ever less often.

use modelyard_core::event::EventBody;
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::{InstanceId, Millis, RevisionNumber, Timestamp};

use super::place::Placer;
use crate::store::fold::{Instance, ServiceState, Stage, Trouble};

// First again at once (one crash is bad luck), then twice as long each time: 0, 0.5, 1, 2, … 30 s.
const FIRST_DELAY: Millis = Millis(500);
const LONGEST_DELAY: Millis = Millis::seconds(30);

/// What to do about the instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moves {
    /// Events that say it; carried out once they are committed.
    pub events: Vec<EventBody>,
    /// When to look again because a start is held back.
    pub again: Option<Timestamp>,
}

/// The moves that make `state.desired` true.
pub fn moves(state: &ServiceState, now: Timestamp, placer: &mut Placer<'_>) -> Moves {
    let mut moves = Moves::default();
    for (&revision, &wanted) in &state.desired.instances {
        let staying = state.staying(revision).count();
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if staying < wanted {
            start(state, revision, wanted - staying, now, placer, &mut moves);
        }
        moves.events.extend(surplus(state, revision, wanted).map(|id| draining(id, revision)));
    }
    let unwanted = |instance: &Instance| instance.stays() && !state.desired.instances.contains_key(&instance.revision);
    let gone = state.instances.iter().filter(|(_, instance)| unwanted(instance));
    moves.events.extend(gone.map(|(id, instance)| draining(id.clone(), instance.revision)));
    moves
}

fn start(
    state: &ServiceState,
    revision: RevisionNumber,
    missing: usize,
    now: Timestamp,
    placer: &mut Placer<'_>,
    moves: &mut Moves,
) {
    let trouble = state.trouble.get(&revision);
    let due = trouble.map_or(now, |trouble| trouble.last + delay(trouble));
    if due > now {
        moves.again = Some(moves.again.map_or(due, |again| again.min(due)));
        return;
    }
    if let Some(trouble) = trouble {
        let what = format!("start of an instance of revision {revision}");
        moves.events.push(EventBody::Retried { what, why: trouble.why.clone(), attempt: trouble.count });
    }
    let last = state.numbered.get(&revision).copied().unwrap_or_default();
    let ids = (last + 1..).take(missing).filter_map(|number| identity(state, revision, number));
    for instance in ids {
        match placer.place(revision) {
            Ok(machine) => moves.events.push(EventBody::InstanceStarting { instance, revision, machine }),
            Err(why) => return moves.events.extend(nowhere(instance, revision, now, &why)),
        }
    }
}

/// An instance for which there is no place: asked for and failed in one, so that a rollout hears of it, and the next try comes later.
fn nowhere(instance: InstanceId, revision: RevisionNumber, at: Timestamp, why: &str) -> [EventBody; 3] {
    let detail = format!("{instance} cannot be placed: {why}");
    let failure = Failure {
        cause: Cause::StartFailed,
        revision,
        instance: Some(instance.clone()),
        at,
        detail,
        evidence: Vec::new(),
    };
    [
        EventBody::InstanceStarting { instance: instance.clone(), revision, machine: None },
        EventBody::Failed { failure: Box::new(failure) },
        EventBody::InstanceStopped { instance, revision, how: "was not started".to_owned() },
    ]
}

/// `wine-r2-7`: the seventh instance of revision 2. Always a valid id: a service name has 63 characters at most.
fn identity(state: &ServiceState, revision: RevisionNumber, number: u32) -> Option<InstanceId> {
    InstanceId::new(format!("{}-r{revision}-{number}", state.name)).ok()
}

fn delay(trouble: &Trouble) -> Millis {
    match trouble.count {
        0 | 1 => Millis(0),
        count => Millis((FIRST_DELAY.0 << (count - 2).min(16)).min(LONGEST_DELAY.0)),
    }
}

/// Instances beyond the wanted number: those that are not live first, then the newest.
fn surplus(state: &ServiceState, revision: RevisionNumber, wanted: usize) -> impl Iterator<Item = InstanceId> + use<> {
    let mut staying: Vec<(&InstanceId, &Instance)> = state.staying(revision).collect();
    staying.sort_by_key(|(_, instance)| (instance.stage != Stage::Live, instance.asked_seq));
    staying.into_iter().skip(wanted).map(|(id, _)| id.clone()).collect::<Vec<_>>().into_iter()
}

fn draining(instance: InstanceId, revision: RevisionNumber) -> EventBody {
    EventBody::InstanceDraining { instance, revision }
}

#[cfg(test)]
mod tests {
    use modelyard_core::ServiceName;
    use modelyard_core::service::Desired;

    use super::super::place::Sites;
    use super::*;

    fn state(wanted: u32, stages: &[Stage]) -> ServiceState {
        let mut state = ServiceState::new(ServiceName::new("wine").unwrap());
        let revision = RevisionNumber(1);
        state.desired = Desired { instances: [(revision, wanted)].into(), ..Desired::default() };
        for (asked_seq, &stage) in (1..).zip(stages) {
            let id = identity(&state, revision, asked_seq as u32).unwrap();
            let instance =
                Instance { revision, asked_seq, asked: Timestamp(0), stage, live_since: None, machine: None };
            state.instances.insert(id, instance);
            *state.numbered.entry(revision).or_default() += 1;
        }
        state
    }

    fn moves(state: &ServiceState, now: Timestamp) -> Moves {
        super::moves(state, now, &mut Placer::new(state, Sites::default, now))
    }

    fn names(moves: &Moves) -> Vec<String> {
        let name = |event: &EventBody| match event {
            EventBody::InstanceStarting { instance, .. } => format!("start {instance}"),
            EventBody::InstanceDraining { instance, .. } => format!("drain {instance}"),
            EventBody::Retried { attempt, .. } => format!("again {attempt}"),
            other => panic!("{other:?}"),
        };
        moves.events.iter().map(name).collect()
    }

    #[test]
    fn missing_instances_get_numbers_that_were_never_given() {
        let draining = Stage::Draining { since: Timestamp(0) };
        let moves = moves(&state(3, &[Stage::Live, draining]), Timestamp(0));
        assert_eq!(names(&moves), ["start wine-r1-3", "start wine-r1-4"]);
    }

    #[test]
    fn those_that_are_not_live_go_first_then_the_newest() {
        let state = state(1, &[Stage::Live, Stage::Starting, Stage::Live]);
        assert_eq!(names(&moves(&state, Timestamp(0))), ["drain wine-r1-3", "drain wine-r1-2"]);
    }

    #[test]
    fn a_revision_that_is_not_desired_goes() {
        let mut state = state(1, &[Stage::Live, Stage::Starting]);
        state.desired = Desired::default();
        assert_eq!(names(&moves(&state, Timestamp(0))), ["drain wine-r1-1", "drain wine-r1-2"]);
    }

    #[test]
    fn failing_starts_are_tried_ever_less_often() {
        let mut state = state(1, &[]);
        for (count, wait) in [(1, 0), (2, 500), (3, 1_000), (4, 2_000), (9, 30_000), (4_000_000, 30_000)] {
            let trouble = Trouble { count, last: Timestamp(10), why: "crash".into() };
            state.trouble.insert(RevisionNumber(1), trouble);
            let due = Timestamp(10 + wait);
            if wait > 0 {
                let early = moves(&state, Timestamp(due.0 - 1));
                assert_eq!(early, Moves { events: vec![], again: Some(due) }, "{count}");
            }
            assert_eq!(names(&moves(&state, due)), [format!("again {count}"), "start wine-r1-1".into()]);
        }
    }
}
