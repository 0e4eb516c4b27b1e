//! The route table as it should be: every service's route, put together, with a generation that only grows.
//!
//! Promises: the table changes only when a route does; whoever set a route learns from which generation on it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use modelyard_core::ServiceName;
use modelyard_core::route::{RouteTable, ServiceRoute};
use tokio::sync::Notify;

use crate::ledger::lock;

/// The route table as it should be.
pub struct Router {
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    table: RouteTable,
    /// Generation from which on each service's present route holds.
    since: BTreeMap<ServiceName, u64>,
    /// Services that have not said their first route yet; the table is not whole until all have.
    awaited: BTreeSet<ServiceName>,
}

impl Router {
    /// A table after `generation` that is whole once each of `awaited` has set its route.
    pub fn new(generation: u64, awaited: impl IntoIterator<Item = ServiceName>) -> Self {
        let table = RouteTable { generation, ..RouteTable::default() };
        let awaited = awaited.into_iter().collect();
        Self { inner: Mutex::new(Inner { table, since: BTreeMap::new(), awaited }), changed: Notify::new() }
    }

    /// Sets a service's route, or takes it away. Returns the generation from which on this holds.
    pub fn set(&self, service: &ServiceName, route: Option<ServiceRoute>) -> u64 {
        let mut inner = lock(&self.inner);
        let first = inner.awaited.remove(service);
        if inner.table.services.get(service) != route.as_ref() {
            inner.table.generation += 1;
            let generation = inner.table.generation;
            match route {
                Some(route) => inner.table.services.insert(service.clone(), route),
                None => inner.table.services.remove(service),
            };
            inner.since.insert(service.clone(), generation);
            self.changed.notify_one();
        } else if first {
            self.changed.notify_one();
        }
        let present = inner.table.generation;
        *inner.since.entry(service.clone()).or_insert(present)
    }

    /// The table, once it is whole.
    pub fn table(&self) -> Option<RouteTable> {
        let inner = lock(&self.inner);
        inner.awaited.is_empty().then(|| inner.table.clone())
    }

    /// Lifts the table's generation above `reported`: the gateway has a table that we did not make, or no longer know of.
    pub fn overtake(&self, reported: u64) {
        let mut inner = lock(&self.inner);
        if inner.table.generation <= reported {
            let generation = reported + 1;
            inner.table.generation = generation;
            inner.since.values_mut().for_each(|since| *since = generation);
        }
    }

    /// Waits until the table changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use modelyard_core::service::Routing;

    use super::*;

    fn route(park: bool) -> ServiceRoute {
        let (apis, pools) = Default::default();
        ServiceRoute { default_api: 1, apis, pools, park, routing: Routing::default(), ..ServiceRoute::default() }
    }

    #[test]
    fn generations_grow_with_changes_only() {
        let (wine, iris) = (ServiceName::new("wine").unwrap(), ServiceName::new("iris").unwrap());
        let router = Router::new(7, [wine.clone()]);
        assert_eq!(router.table(), None, "a table without `wine` would cut it off");
        assert_eq!(router.set(&wine, Some(route(true))), 8);
        assert_eq!(router.set(&iris, Some(route(true))), 9);
        assert_eq!(router.set(&wine, Some(route(true))), 8, "unchanged since 8");
        assert_eq!(router.table().unwrap().generation, 9);
        router.overtake(20);
        assert_eq!(router.set(&wine, Some(route(true))), 21, "the gateway may apply it from 21 on");
        assert_eq!(router.set(&wine, None), 22);
    }

    #[test]
    fn a_service_without_a_route_completes_the_table() {
        let wine = ServiceName::new("wine").unwrap();
        let router = Router::new(0, [wine.clone()]);
        router.set(&wine, None);
        assert!(router.table().is_some());
    }
}
