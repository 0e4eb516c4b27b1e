//! Parking: requests wait, bounded in number and time, while nothing can serve them.
//!
//! Promises: woken at once when a table is applied. The number is bounded across all threads of the gateway.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::table::Service;
use crate::worker::Worker;

// Instances that refused may be back without a new table: they are asked again, never in a busy loop.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a request has waited.
#[derive(Default)]
pub struct Parking {
    until: Option<Instant>,
}

/// A request that waits.
struct Parked<'a>(&'a Service);

impl<'a> Parked<'a> {
    /// Takes a place, unless all are taken.
    fn take(service: &'a Service) -> Option<Self> {
        let memory = &service.memory;
        let before = memory.parked_everywhere.fetch_add(1, Ordering::Relaxed);
        memory.parked.set(memory.parked.get() + 1);
        let parked = Self(service); // dropped, and so given back, when there is no room
        (before < service.routing.park_limit).then_some(parked)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        let memory = &self.0.memory;
        memory.parked_everywhere.fetch_sub(1, Ordering::Relaxed);
        memory.parked.set(memory.parked.get() - 1);
    }
}

impl Parking {
    /// Waits for a change. Returns whether to look again; false when the service does not park, is full, or time is up.
    pub async fn wait(&mut self, worker: &Worker, service: &Service) -> bool {
        if !service.park {
            return false;
        }
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + service.routing.park.as_duration());
        let Some(_parked) = Parked::take(service).filter(|_| now < until) else { return false };
        let look_again = if service.apis.iter().all(|(_, split)| split.is_empty()) { until } else { now + LOOK_AGAIN };
        tokio::select! {
            () = worker.applied.notified() => {}
            () = tokio::time::sleep_until(until.min(look_again)) => {}
        }
        true
    }
}
