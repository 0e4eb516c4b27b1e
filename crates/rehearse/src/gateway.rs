//! The modelled gateway: applies whole tables, refuses older ones, forwards requests, counts them per revision.

use std::collections::BTreeMap;

use modelyard_core::measure::Counters;
use modelyard_core::{RevisionNumber, Timestamp, Weight};

use crate::cluster::{Cluster, Temper};

/// A route table, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    pub(crate) weights: BTreeMap<RevisionNumber, Weight>,
    /// Instances that may be sent requests, by revision.
    pub(crate) pools: BTreeMap<RevisionNumber, Vec<u64>>,
}

/// The modelled gateway.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) table: Table,
    /// Counts of this life.
    pub(crate) counters: BTreeMap<RevisionNumber, Counters>,
    /// Grows with every restart.
    pub(crate) epoch: u64,
    /// Requests being answered: when they are done, and by which instance.
    pub(crate) in_flight: Vec<(Timestamp, u64, RevisionNumber)>,
    /// Out of the controller's reach until then.
    pub(crate) cut_until: Timestamp,
    /// Requests that were sent to an instance that had been asked to end: never, if retiring looks first.
    pub(crate) sent_to_leaving: u64,
    /// Requests that found nobody who answers, and would be parked.
    pub(crate) parked: u64,
    /// All requests.
    pub(crate) requests: u64,
    /// Where each request goes next: a low-discrepancy walk over the weights.
    draw: u32,
}

impl Gateway {
    /// Applies a table, unless it is older than the one in force.
    pub(crate) fn apply(&mut self, table: Table) {
        if table.generation > self.table.generation {
            self.table = table;
        }
    }

    /// Counts begin anew; the last good table was kept on disk.
    pub(crate) fn restart(&mut self) {
        self.counters.clear();
        self.in_flight.clear();
        self.epoch += 1;
    }

    pub(crate) fn is_reachable(&self, now: Timestamp) -> bool {
        self.cut_until <= now
    }

    /// Forwards `count` requests.
    pub(crate) fn forward(
        &mut self,
        count: u32,
        cluster: &Cluster,
        tempers: &BTreeMap<RevisionNumber, Temper>,
        random: &mut fastrand::Rng,
        now: Timestamp,
    ) {
        self.in_flight.retain(|&(done, id, _)| done > now && cluster.instances.contains_key(&id));
        for _ in 0..count {
            self.requests += 1;
            // About the golden ratio's share of 10 000 and prime to it: every draw is visited, neighbours are far apart.
            self.draw = (self.draw + 6_181) % 10_000;
            match self.pick(cluster, random, now) {
                Some((revision, id)) => self.answer(revision, id, tempers, random, now),
                None => self.parked += 1,
            }
        }
    }

    /// The drawn revision first; another one if all its instances refuse. An instance that died is skipped: the request is retried.
    fn pick(&mut self, cluster: &Cluster, random: &mut fastrand::Rng, now: Timestamp) -> Option<(RevisionNumber, u64)> {
        let mut below = 0;
        let drawn = self.table.weights.iter().find_map(|(&revision, weight)| {
            below += u32::from(weight.basis_points());
            (self.draw < below).then_some(revision)
        })?;
        let others = self.table.weights.keys().copied().filter(|&revision| revision != drawn);
        for revision in std::iter::once(drawn).chain(others) {
            let pool = self.table.pools.get(&revision).map_or(&[][..], Vec::as_slice);
            let from = if pool.is_empty() { 0 } else { random.usize(..pool.len()) };
            for &id in pool[from..].iter().chain(&pool[..from]) {
                match cluster.instances.get(&id) {
                    Some(instance) if instance.is_leaving() => self.sent_to_leaving += 1,
                    Some(instance) if instance.answers(now) => return Some((revision, id)),
                    _ => {}
                }
            }
        }
        None
    }

    fn answer(
        &mut self,
        revision: RevisionNumber,
        id: u64,
        tempers: &BTreeMap<RevisionNumber, Temper>,
        random: &mut fastrand::Rng,
        now: Timestamp,
    ) {
        let temper = tempers.get(&revision).copied().unwrap_or(Temper::good());
        let counters = self.counters.entry(revision).or_default();
        counters.requests += 1;
        counters.errors += u64::from(random.f64() < temper.error_rate);
        counters.latency.record(temper.latency_ms * 1_000);
        if random.u8(..) < 16 {
            self.in_flight.push((Timestamp(now.0 + random.u64(100..1_500)), id, revision)); // one in sixteen takes its time
        }
    }

    pub(crate) fn in_flight_by_revision(&self) -> BTreeMap<RevisionNumber, u64> {
        let mut counts = BTreeMap::new();
        self.in_flight.iter().for_each(|&(_, _, revision)| *counts.entry(revision).or_default() += 1);
        counts
    }

    pub(crate) fn is_busy(&self, id: u64) -> bool {
        self.in_flight.iter().any(|&(_, busy, _)| busy == id)
    }
}
