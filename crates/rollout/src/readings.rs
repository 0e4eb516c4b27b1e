//! Readings of the gateway's counters, from which windows are measured.
//!
//! Promises: bounded. Readings get sparser with age, so that there is a window of about one second, two, four … up to the longest:
//! a sudden change stands out in a short one, a small share in a long one.
//! Absent on purpose: latencies, unless an objective asks for them; they are the bulk of a reading.

use modelyard_core::measure::{Counters, Histogram};
use modelyard_core::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

/// Latency readings per window.
const SLICES: u64 = 4;

/// Readings of the gateway's counters since a step began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Readings {
    /// The reading with which the step began.
    first: Option<Point>,
    /// Later ones, oldest first; the last is the newest.
    points: Vec<Point>,
    /// Latencies, oldest first, that with which the step began ahead of them; empty without an objective.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    slices: Vec<Slice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    at: Timestamp,
    requests: u64,
    errors: u64,
    /// The same of stable.
    #[serde(default)]
    stable: (u64, u64),
}

/// What is known of the share of errors apart from a window: requests and errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usual {
    /// The candidate's own, from the beginning of the step to that of the window.
    pub(crate) own: (u64, u64),
    /// Stable's since the step began.
    pub(crate) stable: (u64, u64),
    /// Stable's, as long as it is counted.
    pub(crate) stable_ever: (u64, u64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Slice {
    at: Timestamp,
    candidate: Histogram,
    stable: Histogram,
}

/// What the candidate answered over a span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share {
    pub(crate) span: Millis,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
}

impl Share {
    pub(crate) fn error_rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

impl Readings {
    /// Forgets everything: the next reading begins a step.
    pub(crate) fn begin(&mut self) {
        *self = Self::default();
    }

    /// Takes a reading. Latencies are only kept with `latency`.
    pub(crate) fn take(
        &mut self,
        at: Timestamp,
        candidate: &Counters,
        stable: &Counters,
        window: Millis,
        latency: bool,
    ) {
        let stable_counts = (stable.requests, stable.errors);
        let point = Point { at, requests: candidate.requests, errors: candidate.errors, stable: stable_counts };
        let newest = self.points.last().or(self.first.as_ref());
        let incomparable =
            |last: &Point| point.at < last.at || point.requests < last.requests || point.errors < last.errors;
        if newest.is_some_and(incomparable) {
            self.begin(); // the clock was set back, or the observer lost count
        }
        let first = *self.first.get_or_insert(point);
        match self.points.last_mut() {
            Some(last) if last.at == at => *last = point,
            _ => self.points.push(point),
        }
        self.thin(first, at, window);
        if latency {
            self.slice(Slice { at, candidate: candidate.latency.clone(), stable: stable.latency.clone() }, window);
        }
    }

    /// Drops what is older than the window (but for its edge), and what stands too close to its neighbours for its age.
    fn thin(&mut self, first: Point, now: Timestamp, window: Millis) {
        let edge = self.points.iter().rposition(|point| now - point.at >= window).unwrap_or(0);
        self.points.drain(..edge);
        let mut kept: Vec<Point> = Vec::with_capacity(self.points.len());
        for (index, &point) in self.points.iter().enumerate() {
            let before = kept.last().map_or(first.at, |point| point.at);
            let close = self
                .points
                .get(index + 1)
                .is_some_and(|next| (next.at - before).0 <= ((now - point.at).0 / 4).max(250));
            if !close {
                kept.push(point);
            }
        }
        self.points = kept;
    }

    fn slice(&mut self, slice: Slice, window: Millis) {
        let spacing = Millis((window.0 / SLICES).max(1));
        let count = self.slices.len();
        let now = slice.at;
        // The newest one moves along until it is far enough from the one before it.
        match count >= 3 && now - self.slices[count - 2].at < spacing {
            true => self.slices[count - 1] = slice,
            false => self.slices.push(slice),
        }
        let edge = self.slices.iter().rposition(|slice| now - slice.at >= window).unwrap_or(0);
        if edge > 1 {
            self.slices.drain(1..edge);
        }
    }

    /// What was answered since the step began, and over every shorter window up to the longest.
    pub(crate) fn shares(&self) -> impl Iterator<Item = Share> + '_ {
        self.windows().map(|(share, _)| share)
    }

    /// The same, each with what was usual apart from it.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (Share, Usual)> + '_ {
        let (first, newest) = (self.first, self.points.last().copied());
        self.first.iter().chain(self.points.iter()).filter_map(move |from| {
            let (first, newest) = (first?, newest?);
            let share = Share {
                span: newest.at - from.at,
                requests: newest.requests - from.requests,
                errors: newest.errors - from.errors,
            };
            let since = |a: (u64, u64), b: (u64, u64)| (a.0.saturating_sub(b.0), a.1.saturating_sub(b.1));
            let usual = Usual {
                own: (from.requests - first.requests, from.errors - first.errors),
                stable: since(newest.stable, first.stable),
                stable_ever: newest.stable,
            };
            (newest.at > from.at).then_some((share, usual))
        })
    }

    /// What was answered since the step began.
    pub(crate) fn since_begin(&self) -> Share {
        self.shares().next().unwrap_or(Share { span: Millis(0), requests: 0, errors: 0 })
    }

    /// What was answered over the longest window, or since the step began while the window holds fewer than `enough` requests.
    pub(crate) fn recent(&self, enough: u64) -> Share {
        self.shares().skip(1).find(|share| share.requests >= enough).unwrap_or_else(|| self.since_begin())
    }

    /// Latencies of candidate and stable since the step began, then over shorter windows, longest first.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (Millis, Histogram, Histogram)> + '_ {
        let newest = self.slices.last();
        self.slices.iter().filter_map(move |from| {
            let newest = newest?;
            (newest.at > from.at).then(|| {
                (newest.at - from.at, newest.candidate.since(&from.candidate), newest.stable.since(&from.stable))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(requests: u64, errors: u64) -> Counters {
        Counters { requests, errors, ..Counters::default() }
    }

    #[test]
    fn readings_stay_few_and_windows_cover_every_scale() {
        let mut readings = Readings::default();
        for tick in 0..10_000_u64 {
            readings.take(Timestamp(tick * 250), &counted(tick * 50, 0), &counted(0, 0), Millis::seconds(30), false);
            assert!(readings.points.len() < 40, "{} readings", readings.points.len());
        }
        let spans: Vec<u64> = readings.shares().map(|share| share.span.0).collect();
        for scale in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000] {
            assert!(
                spans.iter().any(|&span| scale * 2 / 3 <= span && span <= scale * 3 / 2),
                "no window near {scale} ms in {spans:?}"
            );
        }
        assert_eq!(spans[0], 9_999 * 250, "the step as a whole comes first");
    }

    #[test]
    fn counters_that_shrink_begin_anew() {
        let mut readings = Readings::default();
        readings.take(Timestamp(0), &counted(100, 5), &counted(0, 0), Millis::seconds(30), true);
        readings.take(Timestamp(1_000), &counted(10, 0), &counted(0, 0), Millis::seconds(30), true);
        assert_eq!(readings.since_begin().requests, 0);
    }

    #[test]
    fn latency_windows_are_differences() {
        let mut readings = Readings::default();
        let mut counters = Counters::default();
        for tick in 0..200_u64 {
            counters.latency.record(if tick < 100 { 1_000 } else { 9_000 });
            readings.take(Timestamp(tick * 250), &counters, &counted(0, 0), Millis::seconds(10), true);
        }
        assert!(readings.slices.len() <= SLICES as usize + 3, "{}", readings.slices.len());
        let (_, candidate, _) = readings.latencies().nth(1).unwrap();
        assert!(candidate.quantile(0.01).unwrap() > 8_000.0, "the window forgot the fast start");
    }
}
