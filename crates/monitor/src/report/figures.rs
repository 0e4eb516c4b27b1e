//! Figures per revision, and how long callers met the candidate.

use std::collections::BTreeMap;

use modelyard_core::event::{Event, EventBody};
use modelyard_core::measure::Counters;
use modelyard_core::{Millis, RevisionNumber, Timestamp, Weight};

use super::Role;
use super::facts::Facts;

/// Figures of one revision over the whole rollout.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figures {
    pub revision: RevisionNumber,
    pub role: Role,
    pub counters: Counters,
    pub first_share: Weight,
    pub peak_share: Weight,
    pub last_share: Weight,
}

impl Figures {
    pub fn latency(&self, quantile: f64) -> Option<f64> {
        self.counters.latency.quantile(quantile)
    }
}

/// How long, and how often, callers met the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exposure {
    pub span: Millis,
    pub requests: u64,
    pub errors: u64,
    /// Errors that another instance made good, so that no caller saw them.
    pub retried: u64,
}

/// Figures of each revision: stable first, then the candidate, then others.
pub(super) fn per_revision(facts: &Facts, events: &[&Event]) -> Vec<Figures> {
    let mut found: BTreeMap<RevisionNumber, Counters> = BTreeMap::new();
    for event in events {
        if let EventBody::Measured { revisions } = &event.body {
            for (&revision, measurement) in revisions {
                found.entry(revision).or_default().add(&measurement.window);
            }
        }
    }
    let shares = shares(events);
    for number in facts.stable.iter().chain(&facts.candidate) {
        found.entry(*number).or_default();
    }
    let mut figures: Vec<Figures> =
        found.into_iter().map(|(revision, counters)| figure(facts, revision, counters, &shares)).collect();
    figures.sort_by_key(|figures| match figures.role {
        Role::Stable => 0,
        Role::Candidate => 1,
        Role::Other => 2,
    });
    figures
}

fn figure(facts: &Facts, revision: RevisionNumber, counters: Counters, shares: &[Share<'_>]) -> Figures {
    let of = |share: &Share<'_>| share.weights.get(&revision).copied().unwrap_or_default();
    Figures {
        revision,
        role: facts.role(revision),
        counters,
        first_share: shares.first().map(of).unwrap_or_default(),
        peak_share: shares.iter().map(of).max().unwrap_or_default(),
        last_share: shares.last().map(of).unwrap_or_default(),
    }
}

/// Shares that were applied from some moment on.
#[derive(Clone, Debug)]
pub(super) struct Share<'a> {
    pub at: Timestamp,
    pub weights: std::borrow::Cow<'a, BTreeMap<RevisionNumber, Weight>>,
}

/// The applied shares over time: what the gateway said when it applied a table, or else what was measured.
pub(super) fn shares<'a>(events: &[&'a Event]) -> Vec<Share<'a>> {
    use std::borrow::Cow;
    let applied = |event: &&'a Event| match &event.body {
        EventBody::RouteApplied { weights, .. } => Some(Share { at: event.at, weights: Cow::Borrowed(weights) }),
        _ => None,
    };
    let found: Vec<Share<'a>> = events.iter().filter_map(applied).collect();
    if !found.is_empty() {
        return found;
    }
    let measured = |event: &&'a Event| match &event.body {
        EventBody::Measured { revisions } => {
            let weights = revisions.iter().map(|(&revision, measurement)| (revision, measurement.weight)).collect();
            Some(Share { at: event.at, weights: Cow::Owned(weights) })
        }
        _ => None,
    };
    events.iter().filter_map(measured).collect()
}

/// How long callers met the candidate; `None` without a candidate.
pub(super) fn exposure(facts: &Facts, events: &[&Event]) -> Option<Exposure> {
    let candidate = facts.candidate?;
    let mut span = Millis(0);
    let mut since: Option<Timestamp> = None;
    for share in shares(events) {
        let exposed = share.weights.get(&candidate).is_some_and(|&weight| weight > Weight::NONE);
        match (since, exposed) {
            (None, true) => since = Some(share.at),
            (Some(start), false) => {
                span.0 += (share.at - start).0;
                since = None;
            }
            _ => {}
        }
    }
    if let Some(start) = since {
        span.0 += (facts.until - start).0;
    }
    let of_candidate = |event: &&Event| match &event.body {
        EventBody::Measured { revisions } => revisions.get(&candidate).map(|measurement| measurement.window.clone()),
        _ => None,
    };
    let mut counters = Counters::default();
    events.iter().filter_map(of_candidate).for_each(|window| counters.add(&window));
    Some(Exposure { span, requests: counters.requests, errors: counters.errors, retried: counters.retried })
}
