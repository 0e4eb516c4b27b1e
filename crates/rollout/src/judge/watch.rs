//! The infrastructure analysis by itself: for whoever measures how soon it acts and how often it errs.

use modelyard_core::Timestamp;
use modelyard_core::measure::Counters;
use modelyard_core::strategy::Analysis;

use crate::readings::Readings;
use crate::{Verdict, analysis};

/// A candidate that is watched, with the windows that a rollout keeps.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    analysis: Analysis,
    readings: Readings,
}

impl Watch {
    /// Watches by these limits.
    pub fn new(analysis: Analysis) -> Self {
        Self { analysis, readings: Readings::default() }
    }

    /// Takes a reading of the cumulative counts and judges, exactly as a rollout does at a look.
    pub fn look(&mut self, at: Timestamp, candidate: &Counters, stable: &Counters) -> Verdict {
        let latency = self.analysis.max_latency_ms.is_some() || self.analysis.max_latency_ratio.is_some();
        self.readings.take(at, candidate, stable, self.analysis.window, latency);
        analysis::judge(&self.readings, &self.analysis, false).verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_what_a_rollout_would() {
        let mut watch = Watch::new(Analysis::default());
        let counted = |requests, errors| Counters { requests, errors, ..Counters::default() };
        let none = Counters::default();
        assert_eq!(watch.look(Timestamp(0), &counted(0, 0), &none), Verdict::Pass);
        assert_eq!(watch.look(Timestamp(250), &counted(50, 0), &none), Verdict::Pass);
        assert_eq!(watch.look(Timestamp(500), &counted(100, 40), &none), Verdict::Fail);
    }
}
