//! Figures over time, thinned to what a chart can show.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::event::{Event, EventBody};
use modelyard_core::measure::Counters;
use modelyard_core::{RevisionNumber, Timestamp};

use super::facts::Facts;
use super::figures::shares;

/// Most points of a line: about one per three pixels of the widest chart.
pub(super) const POINTS: usize = 240;

/// Figures over time; times in seconds since the start of the rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series {
    /// Revisions that have any figures.
    pub revisions: Vec<RevisionNumber>,
    /// When each window ended, with its length and its counters by revision.
    pub windows: Vec<Window>,
    /// Applied shares in percent by revision: `(from when, share)`.
    pub weights: BTreeMap<RevisionNumber, Vec<(f64, f64)>>,
    /// Moments worth a mark.
    pub marks: Vec<Mark>,
    /// Where the time axis ends.
    pub end: f64,
}

/// What was counted between two moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    pub end: f64,
    pub seconds: f64,
    pub counters: BTreeMap<RevisionNumber, Counters>,
}

impl Window {
    /// Requests per second.
    pub fn rate(&self, revision: RevisionNumber) -> Option<f64> {
        let counters = self.counters.get(&revision)?;
        (self.seconds > 0.0).then(|| counters.requests as f64 / self.seconds)
    }

    /// Errors in percent.
    pub fn error_percent(&self, revision: RevisionNumber) -> Option<f64> {
        self.counters.get(&revision)?.error_rate().map(|rate| rate * 100.0)
    }

    /// Latency in milliseconds.
    pub fn latency_ms(&self, revision: RevisionNumber, quantile: f64) -> Option<f64> {
        self.counters.get(&revision)?.latency.quantile(quantile).map(|micros| micros / 1e3)
    }
}

/// A moment worth a mark on every chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Seconds since the start.
    pub at: f64,
    /// A word or two.
    pub label: &'static str,
}

impl Series {
    pub fn from_events(facts: &Facts, events: &[&Event]) -> Self {
        let since = |at: Timestamp| (at - facts.started).as_seconds();
        let windows = windows(facts, events);
        let mut weights: BTreeMap<RevisionNumber, Vec<(f64, f64)>> = BTreeMap::new();
        let shares = shares(events);
        let known: BTreeSet<RevisionNumber> = shares
            .iter()
            .flat_map(|share| share.weights.keys().copied())
            .chain(windows.iter().flat_map(|window| window.counters.keys().copied()))
            .collect();
        for share in &shares {
            for &revision in &known {
                let points =
                    share.weights.get(&revision).map_or(0.0, |weight| f64::from(weight.basis_points()) / 100.0);
                weights.entry(revision).or_default().push((since(share.at), points));
            }
        }
        let end = windows.last().map_or(0.0, |window| window.end).max(since(facts.until)).max(0.001);
        Self {
            revisions: known.into_iter().collect(),
            windows: thin(windows),
            weights,
            marks: marks(facts, events),
            end,
        }
    }

    /// Whether there is anything to draw.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.weights.is_empty()
    }
}

fn windows(facts: &Facts, events: &[&Event]) -> Vec<Window> {
    let mut before = facts.started;
    let mut found = Vec::new();
    for event in events {
        if let EventBody::Measured { revisions } = &event.body {
            let counters =
                revisions.iter().map(|(&revision, measurement)| (revision, measurement.window.clone())).collect();
            let (end, seconds) = ((event.at - facts.started).as_seconds(), (event.at - before).as_seconds());
            found.push(Window { end, seconds, counters });
            before = event.at;
        }
    }
    found
}

/// Joins neighbouring windows until there are few enough; counts stay exact.
fn thin(windows: Vec<Window>) -> Vec<Window> {
    let per_point = windows.len().div_ceil(POINTS).max(1);
    windows.chunks(per_point).map(join).collect()
}

fn join(windows: &[Window]) -> Window {
    let mut joined = Window::default();
    for window in windows {
        joined.end = window.end;
        joined.seconds += window.seconds;
        for (&revision, counters) in &window.counters {
            joined.counters.entry(revision).or_default().add(counters);
        }
    }
    joined
}

fn marks(facts: &Facts, events: &[&Event]) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for event in events {
        let label = match &event.body {
            EventBody::Verdict { verdict, .. } if verdict == "fail" => "verdict: fail",
            EventBody::Failed { .. } if !marks.iter().any(|mark| mark.label == "first failure") => "first failure",
            EventBody::RolloutFinished { outcome, .. } => outcome.name(),
            _ => continue,
        };
        marks.push(Mark { at: (event.at - facts.started).as_seconds(), label });
    }
    // More than a few marks hide the lines that they should explain: the first ones and the end stay.
    if marks.len() > 4 {
        marks.drain(3..marks.len() - 1);
    }
    marks
}
