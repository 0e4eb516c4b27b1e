//! Counters that only grow, although gateways that count them come and go.
//!
//! A gateway counts from zero when it is started anew, and may drop the counts of a pool that left its table. The meter adds up over both,
//! and over restarts of the control plane: it is kept beside the log, where losing it would merely reset a window of figures.

use std::collections::BTreeMap;

use modelyard_core::RevisionNumber;
use modelyard_core::measure::{Counters, ServiceReport};
use modelyard_core::mirror::Comparison;
use serde::{Deserialize, Serialize};

use super::shadows::Shadows;

/// Counts of one service, by revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    /// The gateway's life that `last` was read in.
    epoch: u64,
    revisions: BTreeMap<RevisionNumber, Reading>,
    #[serde(default)]
    shadows: Shadows,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Reading {
    /// Counted in earlier lives.
    before: Counters,
    /// Counted in this life.
    last: Counters,
}

impl Meter {
    /// Takes in what a gateway reports.
    pub fn read(&mut self, epoch: u64, report: &ServiceReport) {
        let reborn = self.epoch != epoch;
        self.epoch = epoch;
        self.shadows.read(reborn, &report.mirrors);
        if reborn {
            self.revisions.values_mut().for_each(Reading::bank);
        }
        for (&revision, pool) in &report.pools {
            let reading = self.revisions.entry(revision).or_default();
            if pool.counters.requests < reading.last.requests {
                reading.bank();
            }
            reading.last.clone_from(&pool.counters);
        }
    }

    /// What became of all copies so far, by shadow.
    pub fn shadows(&self) -> BTreeMap<RevisionNumber, Comparison> {
        self.shadows.totals()
    }

    /// Everything counted so far.
    pub fn totals(&self) -> BTreeMap<RevisionNumber, Counters> {
        self.revisions.iter().map(|(&revision, reading)| (revision, reading.total())).collect()
    }
}

impl Reading {
    fn bank(&mut self) {
        self.before.add(&std::mem::take(&mut self.last));
    }

    fn total(&self) -> Counters {
        let mut total = self.before.clone();
        total.add(&self.last);
        total
    }
}

#[cfg(test)]
mod tests {
    use modelyard_core::measure::PoolReport;
    use proptest::prelude::*;

    use super::*;

    fn report(requests: u64) -> ServiceReport {
        let counters = Counters { requests, ..Counters::default() };
        let pools = [(RevisionNumber(1), PoolReport { counters, ..PoolReport::default() })].into();
        ServiceReport { pools, ..ServiceReport::default() }
    }

    proptest! {
        #[test]
        fn totals_never_shrink_and_miss_nothing(lives in prop::collection::vec(prop::collection::vec(0_u64..50, 1..6), 1..6)) {
            let (mut meter, mut sum, mut before) = (Meter::default(), 0, 0);
            for (epoch, steps) in (1..).zip(&lives) {
                let mut counted = 0;
                for step in steps {
                    counted += step;
                    meter.read(epoch, &report(counted));
                    meter = serde_json::from_str(&serde_json::to_string(&meter).unwrap()).unwrap();
                    let total = meter.totals()[&RevisionNumber(1)].requests;
                    prop_assert!(total >= before);
                    before = total;
                }
                sum += counted;
            }
            prop_assert_eq!(before, sum);
        }
    }

    #[test]
    fn a_pool_that_left_and_came_back_counts_on() {
        let mut meter = Meter::default();
        meter.read(1, &report(10));
        meter.read(1, &ServiceReport::default());
        meter.read(1, &report(3));
        assert_eq!(meter.totals()[&RevisionNumber(1)].requests, 13);
    }
}
