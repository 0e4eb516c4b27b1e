//! Who, what, when: the head of a report.

use modelyard_core::event::{Actor, Event, EventBody, Outcome};
use modelyard_core::failure::Cause;
use modelyard_core::service::Revision;
use modelyard_core::{Millis, RevisionNumber, RolloutId, ServiceName, Timestamp, Weight};

use super::figures::Exposure;
use super::{Role, revision};
use crate::narrate::person;
use crate::text::{counted, one_line, percent};

/// The head of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub rollout: Option<RolloutId>,
    pub service: Option<ServiceName>,
    pub strategy: String,
    pub by: String,
    pub stable: Option<RevisionNumber>,
    pub candidate: Option<RevisionNumber>,
    /// Every revision of the service that the events tell of.
    pub revisions: Vec<Revision>,
    pub started: Timestamp,
    /// When the rollout ended, or the last that is known of it.
    pub until: Timestamp,
    pub outcome: Option<Outcome>,
    pub cause: Option<Cause>,
    pub why: Option<String>,
    /// From the verdict against the candidate until the gateway sent it nothing more.
    pub reaction: Option<Millis>,
}

impl Facts {
    pub fn from_events(rollout: Option<&RolloutId>, events: &[Event]) -> Self {
        let mut facts = Self { rollout: rollout.cloned(), ..Self::default() };
        for event in events.iter().filter(|event| rollout.is_some() && event.rollout.as_ref() == rollout) {
            facts.take(event);
        }
        for event in events {
            if let EventBody::RevisionCreated { revision } = &event.body
                && event.service == facts.service
                && !facts.revisions.iter().any(|known| known.number == revision.number)
            {
                facts.revisions.push((**revision).clone());
            }
        }
        facts.reaction = reaction(&facts, events);
        facts
    }

    fn take(&mut self, event: &Event) {
        if self.started == Timestamp::default() {
            self.started = event.at;
        }
        self.service = self.service.take().or_else(|| event.service.clone());
        // Once it has ended, what is still tidied up does not make it longer.
        if self.outcome.is_none() {
            self.until = self.until.max(event.at);
        }
        match &event.body {
            EventBody::RolloutStarted { strategy, stable, candidate, .. } => {
                self.strategy = one_line(strategy, 80);
                (self.stable, self.candidate) = (*stable, Some(*candidate));
                (self.started, self.by) = (event.at, person(&event.actor));
            }
            EventBody::RolloutFinished { outcome, cause, failure, .. } => {
                (self.outcome, self.cause, self.until) = (Some(*outcome), *cause, event.at);
                self.why = failure.as_ref().map(|failure| one_line(&failure.detail, 300));
            }
            _ => {}
        }
    }

    /// Whether an event belongs into this report: the rollout's own, and what else happened to the service or to everything meanwhile.
    pub fn concerns(&self, event: &Event) -> bool {
        match &event.rollout {
            Some(_) => event.rollout == self.rollout,
            None => {
                let ours = event.service.is_none() || event.service == self.service;
                ours && event.at >= self.started && event.at <= self.until
            }
        }
    }

    pub fn role(&self, number: RevisionNumber) -> Role {
        match Some(number) {
            number if number == self.candidate => Role::Candidate,
            number if number == self.stable => Role::Stable,
            _ => Role::Other,
        }
    }

    pub fn duration(&self) -> Millis {
        self.until - self.started
    }

    pub fn details(&self, number: RevisionNumber) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.number == number)
    }

    /// `revision 2 (wine 2.1.0)`, with what is known.
    pub fn name(&self, number: RevisionNumber) -> String {
        match self.details(number) {
            Some(details) => format!("revision {number} ({} {})", details.model, details.version),
            None => revision(number),
        }
    }

    pub fn title(&self) -> String {
        let service = self.service.as_ref().map_or("a service", |name| name.as_str());
        let strategy = if self.strategy.is_empty() {
            "Rollout".to_owned()
        } else {
            format!("{} rollout", capital(&self.strategy))
        };
        format!("{strategy} of {service}")
    }

    pub fn outcome_name(&self) -> &'static str {
        match self.outcome {
            Some(outcome) => outcome.name(),
            None if self.rollout.is_none() => "nothing recorded",
            None => "in progress",
        }
    }

    pub fn headline(&self, exposure: Option<&Exposure>) -> String {
        let Some(candidate) = self.candidate else {
            return "These events tell of no rollout.".to_owned();
        };
        let candidate = capital(&self.name(candidate));
        let took = self.duration();
        match self.outcome {
            None => format!("{candidate} is being rolled out since {took}."),
            Some(Outcome::Promoted) => match self.stable {
                Some(stable) => format!("{candidate} took over from {} in {took}.", self.name(stable)),
                None => format!("{candidate} went live in {took}."),
            },
            Some(Outcome::Aborted) => {
                format!("{candidate} was called back by a person after {took}{}.", reached(exposure))
            }
            Some(Outcome::Compared) => {
                let stable = self.stable.map(|stable| self.name(stable)).unwrap_or_default();
                format!("{candidate} was compared with {stable} as a shadow for {took}; no caller was answered by it.")
            }
            Some(Outcome::RolledBack) => {
                let cause = self.cause.map(|cause| format!(" for {}", cause_in_words(cause))).unwrap_or_default();
                format!("{candidate} was taken back{cause} after {took}{}.", reached(exposure))
            }
        }
    }
}

fn reached(exposure: Option<&Exposure>) -> String {
    let Some(exposure) = exposure.filter(|exposure| exposure.requests > 0) else {
        return "; no caller was sent to it".to_owned();
    };
    let failed = match exposure.errors {
        0 => "none failed".to_owned(),
        errors => format!("{errors} failed ({})", percent(errors as f64 / exposure.requests as f64)),
    };
    format!("; it was asked {} in {}, {failed}", counted(exposure.requests, "time"), exposure.span)
}

fn cause_in_words(cause: Cause) -> &'static str {
    match cause {
        Cause::Crash => "a crash",
        Cause::CrashLoop => "crashing again and again",
        Cause::OutOfMemory => "going past its memory limit",
        Cause::Unresponsive => "not answering",
        Cause::MachineLost => "machines that were lost under it",
        Cause::StartupTimeout => "not becoming ready in time",
        Cause::StartFailed => "failing to start",
        Cause::WrongAnswers => "wrong answers",
        Cause::ErrorRate => "too many errors",
        Cause::Latency => "being too slow",
        Cause::Quality => "a drop in quality",
        Cause::Drift => "drift of its inputs or outputs",
        Cause::Disagreement => "disagreeing with stable",
        Cause::SampleRatioMismatch => "a split that did not hold",
        Cause::NotBetter => "not being better",
    }
}

pub(super) fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

/// From the first word against the candidate that led to its end, until a route table without it was applied.
fn reaction(facts: &Facts, events: &[Event]) -> Option<Millis> {
    let candidate = facts.candidate?;
    let own: Vec<&Event> =
        events.iter().filter(|event| event.rollout.is_some() && event.rollout == facts.rollout).collect();
    let end = own
        .iter()
        .rposition(|event| matches!(event.body, EventBody::RolloutFinished { outcome: Outcome::RolledBack, .. }));
    if facts.outcome != Some(Outcome::RolledBack) {
        return None;
    }
    let before = &own[..=end?];
    let is_verdict = |event: &&&Event| matches!(&event.body, EventBody::Verdict { verdict, .. } if verdict == "fail");
    let is_failure =
        |event: &&&Event| matches!(&event.body, EventBody::Failed { failure } if failure.revision == candidate);
    // The last failing verdict is the one that was acted on; without one, the first failure.
    let said = before.iter().rev().find(is_verdict).or_else(|| before.iter().find(is_failure))?;
    let without = |event: &&&Event| match &event.body {
        EventBody::RouteApplied { weights, .. } => weights.get(&candidate).is_none_or(|&weight| weight == Weight::NONE),
        _ => false,
    };
    let zero = own.iter().filter(|event| event.seq > said.seq).find(without)?;
    Some(zero.at - said.at)
}

/// Who acted, for the timeline.
pub(super) fn actor(event: &Event) -> String {
    match &event.actor {
        Actor::Controller => "controller".to_owned(),
        Actor::Person(name) => one_line(name, 60),
    }
}
