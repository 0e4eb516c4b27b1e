//! What a play gives: figures, a timeline, and what changed over time.

use modelyard_core::Millis;
use modelyard_core::event::Outcome;
use modelyard_core::failure::Cause;
use serde::Serialize;

/// A rehearsal: every case with every strategy. The same input gives the same value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rehearsal {
    /// The service.
    pub service: String,
    /// Instances that carry the whole traffic.
    pub instances: u32,
    /// The service's own strategy.
    pub strategy: String,
    /// Second of the day (UTC) at which the rollout starts.
    pub starts_at_second: u64,
    /// What chance was drawn from.
    pub seed: u64,
    /// Strategies that could not be played, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Case by case.
    pub cases: Vec<PlayedCase>,
}

/// One case with every strategy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlayedCase {
    /// Its name.
    pub name: String,
    /// What went wrong, as it is written in a file.
    pub faults: Vec<String>,
    /// The strategy that hurt fewest requests, then was whole again first; none when nothing went wrong, or nobody noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<String>,
    /// What would have helped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
    /// Strategy by strategy, the service's own first.
    pub plays: Vec<Played>,
}

/// One case with one strategy. Moments are milliseconds since the start of the rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Played {
    /// The strategy.
    pub strategy: String,
    /// How the rollout ended; none if it was still open when the play ended.
    pub outcome: Option<Outcome>,
    /// Where it stood at the end, for people.
    pub stands: String,
    /// Why the candidate was taken back.
    pub cause: Option<Cause>,
    /// The same, in a sentence with figures.
    pub why: Option<String>,
    /// When the outcome was settled.
    #[serde(rename = "decided_ms")]
    pub decided: Option<Millis>,
    /// When the first request met a bad revision, or the service was less than whole.
    #[serde(rename = "harm_ms")]
    pub harm: Option<Millis>,
    /// When it was noticed.
    #[serde(rename = "noticed_ms")]
    pub noticed: Option<Millis>,
    /// Who noticed.
    pub noticed_by: Option<Notice>,
    /// When the last request met a bad revision.
    #[serde(rename = "last_met_ms")]
    pub last_met: Option<Millis>,
    /// When the service was whole again for good: nothing bad answers, every instance lives, nobody waits.
    #[serde(rename = "whole_ms")]
    pub whole: Option<Millis>,
    /// From harm to notice.
    #[serde(rename = "noticed_after_ms")]
    pub noticed_after: Option<Millis>,
    /// From being less than whole to being whole again, all such spells together; none if it never was less, or still was at the end.
    #[serde(rename = "whole_after_ms")]
    pub whole_after: Option<Millis>,
    /// Requests until the play ended.
    pub requests: u64,
    /// Requests that met a bad revision.
    pub met: u64,
    /// Requests that callers saw fail.
    pub failed: u64,
    /// Requests that waited at the gateway because nothing served.
    pub waited: u64,
    /// How long nothing served.
    #[serde(rename = "outage_ms")]
    pub outage: Millis,
    /// Most instances that ran at once: the room that the strategy needs.
    pub most_instances: u32,
    /// When the play ended.
    #[serde(rename = "played_ms")]
    pub played: Millis,
    /// What happened and why.
    pub timeline: Vec<Entry>,
    /// Shares of traffic, whenever they changed.
    pub shares: Vec<Shares>,
    /// What was counted over time; for charts, and left out of JSON.
    #[serde(skip)]
    pub windows: Vec<Window>,
}

/// Who noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// The rollout's own analysis.
    Rollout,
    /// Somebody, by other means, after the time that was given for it.
    Person,
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When.
    #[serde(rename = "at_ms")]
    pub at: Millis,
    /// What kind of news.
    pub kind: Kind,
    /// What happened.
    pub what: String,
}

/// What kind of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The world changed: a fault begins or ends, an instance dies.
    World,
    /// The rollout moved.
    Move,
    /// A verdict that is no failure.
    Verdict,
    /// The candidate failed.
    Failure,
    /// A person did something.
    Person,
    /// It went well: promoted, whole again.
    Good,
    /// It went badly: taken back, an outage.
    Bad,
}

impl Kind {
    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::World => "world",
            Self::Move => "move",
            Self::Verdict => "verdict",
            Self::Failure => "failure",
            Self::Person => "person",
            Self::Good => "good",
            Self::Bad => "bad",
        }
    }
}

/// Shares of traffic from a moment on, in basis points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// From when on.
    #[serde(rename = "at_ms")]
    pub at: Millis,
    /// Of stable.
    pub stable: u16,
    /// Of the candidate.
    pub candidate: u16,
    /// Of all further arms.
    pub others: u16,
}

/// What was counted between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Window {
    /// When it ended.
    #[serde(rename = "end_ms")]
    pub end: Millis,
    /// How long it was.
    #[serde(rename = "span_ms")]
    pub span: Millis,
    /// Requests.
    pub requests: u64,
    /// Requests that met a bad revision.
    pub met: u64,
    /// Requests that callers saw fail.
    pub failed: u64,
    /// Requests of the candidate.
    pub candidate: u64,
    /// Errors of the candidate.
    pub candidate_errors: u64,
    /// Median latency of stable and candidate in ms, each as long as it answers.
    pub stable_latency_ms: f64,
    /// The candidate's.
    pub candidate_latency_ms: f64,
}

/// Windows kept of one play; beyond that, neighbours are merged.
const MOST_WINDOWS: usize = 480;

/// Windows that grow with what they have to hold.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    kept: Vec<Window>,
    span: Millis,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self { kept: Vec::new(), span: Millis(250) }
    }

    /// Adds what was counted in a tick.
    pub(super) fn add(&mut self, tick: Window) {
        match self.kept.last_mut() {
            Some(last) if last.span.0 + tick.span.0 <= self.span.0 => last.merge(&tick),
            _ => self.kept.push(tick),
        }
        if self.kept.len() > MOST_WINDOWS {
            self.span = Millis(self.span.0 * 2);
            let mut merged: Vec<Window> = Vec::with_capacity(MOST_WINDOWS);
            for window in self.kept.drain(..) {
                match merged.last_mut() {
                    Some(last) if last.span.0 + window.span.0 <= self.span.0 => last.merge(&window),
                    _ => merged.push(window),
                }
            }
            self.kept = merged;
        }
    }

    pub(super) fn into_windows(self) -> Vec<Window> {
        self.kept
    }
}

impl Window {
    fn merge(&mut self, next: &Self) {
        *self = Self {
            end: next.end,
            span: Millis(self.span.0 + next.span.0),
            requests: self.requests + next.requests,
            met: self.met + next.met,
            failed: self.failed + next.failed,
            candidate: self.candidate + next.candidate,
            candidate_errors: self.candidate_errors + next.candidate_errors,
            stable_latency_ms: self.stable_latency_ms.max(next.stable_latency_ms),
            candidate_latency_ms: self.candidate_latency_ms.max(next.candidate_latency_ms),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_stay_few_and_lose_nothing() {
        let mut windows = Windows::new();
        for tick in 1..=345_600_u64 {
            let span = Millis(250);
            windows.add(Window { end: Millis(tick * 250), span, requests: tick % 7, failed: 1, ..Window::default() });
        }
        let kept = windows.into_windows();
        assert!(kept.len() <= MOST_WINDOWS && kept.len() > MOST_WINDOWS / 4, "{}", kept.len());
        assert_eq!(kept.iter().map(|window| window.failed).sum::<u64>(), 345_600);
        assert_eq!(kept.iter().map(|window| window.span.0).sum::<u64>(), 86_400_000);
        assert_eq!(kept.last().map(|window| window.end), Some(Millis(86_400_000)));
    }
}
