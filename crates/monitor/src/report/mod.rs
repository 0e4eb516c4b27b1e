//! The activity report of one rollout: what happened, to whom, why, and with which figures. Read from events alone.
//!
//! Promises: the same events give the same report; failures are shown with their whole evidence; everything is escaped.
//! Absent on purpose: opinions. A report says what was measured and decided, not what should have been.

mod chart;
mod evidence;
mod facts;
mod figures;
mod html;
mod markdown;
mod series;
mod timeline;

use modelyard_core::event::{Event, EventBody, Outcome};
use modelyard_core::failure::Failure;
use modelyard_core::{RevisionNumber, RolloutId, Timestamp};

pub use self::chart::{Chart, Line};
pub use self::html::page;
pub use self::series::Mark;

use self::evidence::Known;
use self::facts::Facts;
use self::figures::{Exposure, Figures};
use self::series::Series;
use self::timeline::Entry;
use crate::text::count;

/// The activity report of one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    facts: Facts,
    figures: Vec<Figures>,
    exposure: Option<Exposure>,
    series: Series,
    known: Known,
    failures: Vec<Failure>,
    retries: Vec<Entry>,
    timeline: Vec<Entry>,
}

impl Report {
    /// The report of the last rollout that these events tell of. More events than the rollout's own do no harm: revisions that were
    /// made before it, and what else happened while it ran, are found among them.
    pub fn from_events(events: &[Event]) -> Self {
        let started = |event: &&Event| matches!(event.body, EventBody::RolloutStarted { .. });
        let last = events.iter().rev().filter(started).find_map(|event| event.rollout.clone());
        let last = last.or_else(|| events.iter().rev().find_map(|event| event.rollout.clone()));
        Self::build(last.as_ref(), events)
    }

    /// The report of this rollout; `None` if the events know nothing of it.
    pub fn of(rollout: &RolloutId, events: &[Event]) -> Option<Self> {
        events.iter().any(|event| event.rollout.as_ref() == Some(rollout)).then(|| Self::build(Some(rollout), events))
    }

    fn build(rollout: Option<&RolloutId>, events: &[Event]) -> Self {
        let facts = Facts::from_events(rollout, events);
        let told: Vec<&Event> = events.iter().filter(|event| facts.concerns(event)).collect();
        let series = Series::from_events(&facts, &told);
        Self {
            figures: figures::per_revision(&facts, &told),
            exposure: figures::exposure(&facts, &told),
            failures: failures(&told),
            retries: timeline::retries(&told),
            timeline: timeline::timeline(&facts, &told),
            known: Known::from_events(&facts, &told),
            series,
            facts,
        }
    }

    /// What happened, in one sentence.
    pub fn headline(&self) -> String {
        self.facts.headline(self.exposure.as_ref())
    }

    /// How the rollout ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.facts.outcome
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// The report as a page of its own: no scripts, nothing from elsewhere.
    pub fn html(&self) -> String {
        html::render(self)
    }
}

/// Every failure once, oldest first. The end of a rollout repeats the one that decided it.
fn failures(events: &[&Event]) -> Vec<Failure> {
    let mut found: Vec<Failure> = Vec::new();
    for event in events {
        let failure = match &event.body {
            EventBody::Failed { failure } => Some(&**failure),
            EventBody::RolloutFinished { failure, .. } => failure.as_deref(),
            _ => None,
        };
        if let Some(failure) = failure
            && !found.contains(failure)
        {
            found.push(failure.clone());
        }
    }
    found
}

/// Part that a revision plays in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What it starts from.
    Stable,
    /// What it goes to.
    Candidate,
    /// Any further arm.
    Other,
}

impl Role {
    /// The part's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
            Self::Other => "other",
        }
    }
}

/// `+12.345 s` since the start: exact, so that two events of one moment can be told apart.
fn offset(start: Timestamp, at: Timestamp) -> String {
    let span = at - start;
    format!("+{}.{:03} s", count(span.0 / 1_000), span.0 % 1_000)
}

fn revision(number: RevisionNumber) -> String {
    format!("revision {number}")
}
