//! An observation as one rollout looks at it.

use std::collections::BTreeMap;

use modelyard_core::evidence::Evidence;
use modelyard_core::measure::Counters;
use modelyard_core::route::split_among;
use modelyard_core::service::Desired;
use modelyard_core::{RevisionNumber, Weight};

use crate::{GatewaySeen, Observation, PoolSeen, Rollout};

/// An observation, by role.
pub(crate) struct View<'a> {
    seen: &'a Observation,
    stable_revision: Option<RevisionNumber>,
    candidate_revision: RevisionNumber,
    pub(crate) stable: PoolSeen,
    pub(crate) candidate: PoolSeen,
}

impl<'a> View<'a> {
    pub(crate) fn new(rollout: &Rollout, seen: &'a Observation) -> Self {
        let pool = |revision| seen.pools.get(&revision).copied().unwrap_or_default();
        Self {
            seen,
            stable_revision: rollout.stable,
            candidate_revision: rollout.candidate,
            stable: rollout.stable.map(pool).unwrap_or_default(),
            candidate: pool(rollout.candidate),
        }
    }

    /// The same observation with another candidate.
    pub(crate) fn refocus(&mut self, candidate: RevisionNumber) {
        self.candidate_revision = candidate;
        self.candidate = self.pool(candidate);
    }

    /// What the target says of a revision.
    pub(crate) fn pool(&self, revision: RevisionNumber) -> PoolSeen {
        self.seen.pools.get(&revision).copied().unwrap_or_default()
    }

    /// What is known of metrics, shadows and drift.
    pub(crate) fn evidence(&self) -> Option<&'a Evidence> {
        self.seen.evidence.as_ref()
    }

    /// Requests in flight at a revision; none without a report.
    pub(crate) fn in_flight(&self, revision: RevisionNumber) -> Option<u64> {
        Some(self.gateway()?.in_flight.get(&revision).copied().unwrap_or(0))
    }

    /// Counters of a revision; none without a report.
    pub(crate) fn counters_of(&self, revision: RevisionNumber) -> Option<Counters> {
        Some(self.gateway()?.counters.get(&revision).cloned().unwrap_or_default())
    }

    pub(crate) fn gateway(&self) -> Option<&'a GatewaySeen> {
        self.seen.gateway.as_ref()
    }

    /// Whether the gateway reports the very split that can be had of what is desired.
    pub(crate) fn is_settled(&self, desired: &Desired) -> bool {
        let alive = |revision| self.seen.pools.get(&revision).is_some_and(|pool| pool.live > 0);
        self.gateway().is_some_and(|gateway| {
            let reported: BTreeMap<RevisionNumber, Weight> =
                gateway.weights.iter().filter(|&(_, &weight)| weight > Weight::NONE).map(|(&r, &w)| (r, w)).collect();
            reported == split_among(desired, alive)
        })
    }

    /// Whether the gateway reports that the candidate carries at least what it was asked to. More, while stable is dead.
    pub(crate) fn candidate_carries(&self, asked: Weight) -> bool {
        self.weight_of(Some(self.candidate_revision)).is_some_and(|reported| reported >= asked)
    }

    pub(crate) fn stable_carries(&self, asked: Weight) -> bool {
        self.weight_of(self.stable_revision).is_some_and(|reported| reported >= asked)
    }

    /// Whether the gateway reports that nothing is sent to the candidate.
    pub(crate) fn candidate_is_off(&self) -> bool {
        self.weight_of(Some(self.candidate_revision)) == Some(Weight::NONE)
    }

    /// Whether the gateway reports that nothing is sent to stable.
    pub(crate) fn stable_is_off(&self) -> bool {
        self.weight_of(self.stable_revision) == Some(Weight::NONE)
    }

    fn weight_of(&self, revision: Option<RevisionNumber>) -> Option<Weight> {
        let gateway = self.gateway()?;
        Some(revision.and_then(|revision| gateway.weights.get(&revision)).copied().unwrap_or_default())
    }

    /// Requests in flight at stable; none without a report.
    pub(crate) fn stable_in_flight(&self) -> Option<u64> {
        let gateway = self.gateway()?;
        Some(self.stable_revision.and_then(|revision| gateway.in_flight.get(&revision)).copied().unwrap_or(0))
    }

    /// Requests in flight at the candidate; none without a report.
    pub(crate) fn candidate_in_flight(&self) -> Option<u64> {
        Some(self.gateway()?.in_flight.get(&self.candidate_revision).copied().unwrap_or(0))
    }

    /// Counters of candidate and stable; none without a report.
    pub(crate) fn counters(&self) -> Option<(Counters, Counters)> {
        let of =
            |revision| self.gateway().and_then(|gateway| gateway.counters.get(&revision)).cloned().unwrap_or_default();
        self.gateway().map(|_| (of(self.candidate_revision), self.stable_revision.map(of).unwrap_or_default()))
    }
}

impl PoolSeen {
    /// Whether no instance is left.
    pub(crate) const fn is_gone(&self) -> bool {
        self.running == 0 && self.live == 0 && self.leaving == 0
    }
}
