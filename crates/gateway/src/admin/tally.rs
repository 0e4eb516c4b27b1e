//! What one thread counted, and how the counts of several are added up.

use std::collections::BTreeMap;

use modelyard_core::measure::{GatewayReport, InstanceReport, PoolReport, ServiceReport};
use modelyard_core::{RevisionNumber, ServiceName, Version, Weight};

use crate::table::{Instance, PoolMemory, Service};
use crate::worker::Worker;

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By service, as reports have it.
    pub services: BTreeMap<ServiceName, ServiceReport>,
    /// What metrics tell besides: version, and answers by status code.
    pub pools: BTreeMap<(ServiceName, RevisionNumber), PoolTally>,
    /// Callers' connections that are open.
    pub connections: u64,
}

/// What metrics tell of a pool besides its report.
#[derive(Clone, Debug, Default)]
pub struct PoolTally {
    /// Version of its package.
    pub version: String,
    /// Answers by status code.
    pub codes: BTreeMap<u16, u64>,
}

/// What a worker counted.
pub fn of(worker: &Worker) -> Tally {
    let mut tally = Tally { connections: worker.connections(), ..Tally::default() };
    let now_ms = worker.now_ms();
    for service in worker.tables.current().services.values() {
        tally.add_service(service, now_ms);
    }
    for left in worker.tables.retired().iter() {
        let pool = tally.pool(&left.service, left.revision, &left.version, Weight::NONE, &left.memory);
        pool.instances.insert(left.instance.id.clone(), instance(&left.instance, now_ms));
    }
    tally
}

impl Tally {
    fn add_service(&mut self, service: &Service, now_ms: u64) {
        let report = self.services.entry(service.name.clone()).or_default();
        report.requests = service.memory.requests.get();
        report.failed = service.memory.failed.get();
        report.parked = service.memory.parked.get();
        for pool in service.pools.values() {
            let report = self.pool(&service.name, pool.revision, &pool.version, pool.weight, &pool.memory);
            report.instances.extend(pool.instances.iter().map(|one| (one.id.clone(), instance(one, now_ms))));
        }
    }

    fn pool(
        &mut self,
        service: &ServiceName,
        revision: RevisionNumber,
        version: &Version,
        weight: Weight,
        memory: &PoolMemory,
    ) -> &mut PoolReport {
        let tally = self.pools.entry((service.clone(), revision)).or_default();
        version.as_str().clone_into(&mut tally.version);
        tally.codes = memory.codes.borrow().iter().copied().collect();
        let pools = &mut self.services.entry(service.clone()).or_default().pools;
        let fresh = || PoolReport { weight, counters: memory.counters.borrow().clone(), instances: BTreeMap::new() };
        pools.entry(revision).or_insert_with(fresh)
    }

    /// Adds another thread's counts.
    pub fn add(&mut self, other: Self) {
        self.connections += other.connections;
        for (name, theirs) in other.services {
            let ours = self.services.entry(name).or_default();
            ours.requests += theirs.requests;
            ours.failed += theirs.failed;
            ours.parked += theirs.parked;
            for (revision, pool) in theirs.pools {
                add_pool(ours.pools.entry(revision).or_default(), pool);
            }
        }
        for (key, theirs) in other.pools {
            let ours = self.pools.entry(key).or_default();
            ours.version = theirs.version;
            theirs.codes.into_iter().for_each(|(code, count)| *ours.codes.entry(code).or_default() += count);
        }
    }

    /// Adds what a draining predecessor still has under way, so that nobody stops an instance that it uses. Its counts are its own.
    pub fn add_under_way(&mut self, predecessor: &GatewayReport) {
        for (name, theirs) in &predecessor.services {
            for (&revision, pool) in &theirs.pools {
                for (id, instance) in pool.instances.iter().filter(|(_, instance)| instance.in_flight > 0) {
                    let pools = &mut self.services.entry(name.clone()).or_default().pools;
                    let ours = pools.entry(revision).or_default().instances.entry(id.clone()).or_default();
                    ours.in_flight += instance.in_flight;
                }
            }
        }
    }
}

fn add_pool(ours: &mut PoolReport, theirs: PoolReport) {
    ours.weight = ours.weight.max(theirs.weight);
    ours.counters.add(&theirs.counters);
    for (id, instance) in theirs.instances {
        let ours = ours.instances.entry(id).or_default();
        ours.in_flight += instance.in_flight;
        ours.requests += instance.requests;
        ours.errors += instance.errors;
        ours.ejected |= instance.ejected;
    }
}

fn instance(instance: &Instance, now_ms: u64) -> InstanceReport {
    InstanceReport {
        in_flight: instance.in_flight.get(),
        requests: instance.requests.get(),
        errors: instance.errors.get(),
        ejected: instance.health.get().is_ejected(now_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelyard_core::InstanceId;

    fn report(in_flight: u64, requests: u64) -> BTreeMap<ServiceName, ServiceReport> {
        let id = InstanceId::new("wine-r1-1").unwrap();
        let instance = InstanceReport { in_flight, requests, ..InstanceReport::default() };
        let pool = PoolReport { instances: BTreeMap::from([(id, instance)]), ..PoolReport::default() };
        let service =
            ServiceReport { requests, pools: BTreeMap::from([(RevisionNumber(1), pool)]), ..Default::default() };
        BTreeMap::from([(ServiceName::new("wine").unwrap(), service)])
    }

    fn sums(tally: &Tally) -> (u64, u64) {
        let service = tally.services.values().next().unwrap();
        (service.requests, service.pools[&RevisionNumber(1)].in_flight())
    }

    #[test]
    fn threads_add_up_and_a_predecessor_adds_only_what_is_under_way() {
        let mut tally = Tally { services: report(1, 10), ..Tally::default() };
        tally.add(Tally { services: report(2, 5), ..Tally::default() });
        assert_eq!(sums(&tally), (15, 3));
        tally.add_under_way(&GatewayReport { services: report(4, 100), ..GatewayReport::default() });
        assert_eq!(sums(&tally), (15, 7));
    }
}
