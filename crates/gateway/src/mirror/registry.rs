//! What is counted of shadows and taps, for all threads together.
//!
//! Promises: counts survive from table to table as long as the service is in it. Locked when a table is applied and when it is reported, never per
//! request.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use modelyard_core::measure::ServiceReport;
use modelyard_core::route::{RouteTable, ServiceRoute};
use modelyard_core::{RevisionNumber, ServiceName};

use super::shadow::{Plan, Shadow};
use super::tee::{Watch, Way};
use crate::tap;

// 64: as many as pools whose counts are kept; going back to a shadow goes on with its counts.
const REMEMBERED: usize = 64;

/// Everything that is counted.
#[derive(Default)]
pub struct Registry(Mutex<HashMap<ServiceName, Known>>);

#[derive(Default)]
struct Known {
    shadows: BTreeMap<RevisionNumber, Arc<Shadow>>,
    tap: Arc<tap::Counts>,
}

impl Registry {
    fn known(&self) -> MutexGuard<'_, HashMap<ServiceName, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be done beside the requests of a service; `None` when there is nothing.
    pub fn watch(&self, name: &ServiceName, route: &ServiceRoute) -> Option<Rc<Watch>> {
        if route.mirrors.is_empty() && route.tap.is_none() {
            return None;
        }
        let mut known = self.known();
        let known = known.entry(name.clone()).or_default();
        let ways = route.mirrors.iter().map(|mirror| {
            let shadow = known.shadows.entry(mirror.revision).or_default().clone();
            Way { shadow, plan: Arc::new(Plan::new(mirror, route.pools.get(&mirror.revision))) }
        });
        let ways = ways.collect();
        let tap = route
            .tap
            .clone()
            .map(|rule| Arc::new(tap::Route { service: name.clone(), rule, counts: known.tap.clone() }));
        let mut surplus = known.shadows.len().saturating_sub(REMEMBERED);
        known.shadows.retain(|revision, _| {
            let forget = surplus > 0 && !route.mirrors.iter().any(|mirror| mirror.revision == *revision);
            surplus -= usize::from(forget);
            !forget
        });
        Some(Rc::new(Watch { ways, tap }))
    }

    /// Forgets services that are not in the table.
    pub fn keep(&self, table: &RouteTable) {
        self.known().retain(|name, _| table.services.contains_key(name));
    }

    /// Adds what was counted to the services' reports.
    pub fn add_to(&self, services: &mut BTreeMap<ServiceName, ServiceReport>) {
        for (name, known) in &*self.known() {
            if let Some(report) = services.get_mut(name) {
                report.mirrors = known.shadows.iter().map(|(&revision, shadow)| (revision, shadow.report())).collect();
                report.tap = known.tap.report();
            }
        }
    }
}
