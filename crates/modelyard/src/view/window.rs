//! Figures over the last few seconds, from cumulative readings of the gateway.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use modelyard_core::RevisionNumber;
use modelyard_core::measure::{Counters, ServiceReport};

/// How far back figures look.
pub const WINDOW: Duration = Duration::from_secs(5);

/// How one revision did over the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests per second.
    pub per_second: f64,
    /// Failed by the model's fault.
    pub errors: u64,
    /// Failed, and answered by another instance.
    pub retried: u64,
    /// Median latency in µs.
    pub p50_micros: Option<f64>,
    /// 95th percentile of the latency in µs.
    pub p95_micros: Option<f64>,
}

/// Readings of the last [`WINDOW`].
#[derive(Debug, Default)]
pub struct Readings(VecDeque<(Instant, ServiceReport)>);

impl Readings {
    /// Adds a reading, drops those that are too old.
    pub fn add(&mut self, report: ServiceReport) {
        // A gateway that was replaced counts from zero: a window over both would be wrong.
        if self.0.back().is_some_and(|(_, last)| last.requests > report.requests) {
            self.0.clear();
        }
        let now = Instant::now();
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back((now, report));
    }

    /// How each revision did between the oldest and the newest reading.
    pub fn figures(&self) -> BTreeMap<RevisionNumber, Figures> {
        let (Some((began, first)), Some((ended, last))) = (self.0.front(), self.0.back()) else {
            return BTreeMap::new();
        };
        let seconds = (*ended - *began).as_secs_f64().max(0.001);
        let before = |revision| first.pools.get(revision).map(|pool| pool.counters.clone()).unwrap_or_default();
        last.pools
            .iter()
            .map(|(revision, pool)| (*revision, figures(&pool.counters.since(&before(revision)), seconds)))
            .collect()
    }
}

fn figures(counters: &Counters, seconds: f64) -> Figures {
    Figures {
        per_second: counters.requests as f64 / seconds,
        errors: counters.errors,
        retried: counters.retried,
        p50_micros: counters.latency.quantile(0.5),
        p95_micros: counters.latency.quantile(0.95),
    }
}
