//! What served at a moment, and who decided it. Pure: told from the events alone.
//!
//! Promises: the shares are those that the gateway had applied, by package digest; whoever decided is named with the event that says so.
//! Absent on purpose: what the gateway did while nobody asked it. It goes on with the last table that it applied.

use std::collections::BTreeMap;

use modelyard_core::event::{Actor, Event, EventBody};
use modelyard_core::{Digest, ModelName, RevisionNumber, RolloutId, ServiceName, Timestamp, Version, Weight};
use modelyard_monitor::narrate;
use serde::Serialize;
use serde_json::Value;

use crate::store::fold::{FoldError, ServiceState};

/// Kinds of events that say what served, and who decided it.
pub const KINDS: &[&str] = &[
    "service-set",
    "revision-created",
    "rollout-started",
    "rollout-finished",
    "ordered",
    "order-refused",
    "verdict",
    "failed",
    "route-applied",
    "service-removed",
];

/// What served at a moment.
#[derive(Debug, Serialize)]
pub struct Served {
    service: ServiceName,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<String>,
    /// Revisions that got traffic, the most first.
    serving: Vec<Share>,
    /// When the gateway applied these shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    /// Who decided it; none before the first rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided: Option<Decided>,
}

#[derive(Debug, Serialize)]
struct Share {
    revision: RevisionNumber,
    weight: Weight,
    model: ModelName,
    version: Version,
    digest: Digest,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    flags: BTreeMap<String, Value>,
    stable: bool,
}

/// The rollout that these shares are of, and everything that was decided in it until then.
#[derive(Debug, Serialize)]
struct Decided {
    rollout: RolloutId,
    strategy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<RevisionNumber>,
    to: RevisionNumber,
    started: Timestamp,
    by: Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    decisions: Vec<Decision>,
}

#[derive(Debug, Serialize)]
struct Decision {
    seq: u64,
    at: Timestamp,
    by: Actor,
    what: String,
}

/// What served at `at`, from the service's events of [`KINDS`] up to then, oldest first.
///
/// # Errors
/// [`FoldError`] when an event does not fit.
pub fn served(service: &ServiceName, at: Timestamp, events: &[Event]) -> Result<Served, FoldError> {
    let mut state = ServiceState::new(service.clone());
    let (mut since, mut starters) = (None, BTreeMap::new());
    for event in events {
        let before = state.applied.clone();
        state.apply(event)?;
        match &event.body {
            EventBody::RolloutStarted { .. } => drop(starters.insert(event.rollout.clone(), event.actor.clone())),
            EventBody::RouteApplied { .. } if state.applied != before => since = Some(event.at),
            EventBody::ServiceRemoved => (state.applied, since) = (BTreeMap::new(), None),
            _ => {}
        }
    }
    let decided = state.rollouts.last().map(|record| Decided {
        rollout: record.id.clone(),
        strategy: record.strategy.clone(),
        from: record.from,
        to: record.to,
        started: record.started,
        by: starters.remove(&Some(record.id.clone())).unwrap_or(Actor::Controller),
        outcome: record.outcome.map(|outcome| outcome.name()),
        decisions: events.iter().filter(|event| decides(event, &record.id)).map(decision).collect(),
    });
    let environment = state.spec.as_ref().map(|spec| spec.environment.to_string());
    Ok(Served { service: service.clone(), at, environment, serving: shares(&state), since, decided })
}

fn shares(state: &ServiceState) -> Vec<Share> {
    let share = |(&number, &weight): (&RevisionNumber, &Weight)| {
        let revision = state.revisions.get(&number)?;
        Some(Share {
            revision: number,
            weight,
            model: revision.model.clone(),
            version: revision.version.clone(),
            digest: revision.package,
            flags: revision.flags.clone(),
            stable: state.stable == Some(number),
        })
    };
    let given = state.applied.iter().filter(|&(_, &weight)| weight > Weight::NONE);
    let mut shares: Vec<Share> = given.filter_map(share).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.weight));
    shares
}

/// Whether an event belongs to the story of who decided: routes follow from decisions, and are none.
fn decides(event: &Event, rollout: &RolloutId) -> bool {
    event.rollout.as_ref() == Some(rollout)
        && !matches!(event.body, EventBody::RouteApplied { .. } | EventBody::RevisionCreated { .. })
}

fn decision(event: &Event) -> Decision {
    Decision { seq: event.seq, at: event.at, by: event.actor.clone(), what: narrate(event) }
}
