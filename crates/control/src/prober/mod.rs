//! Probes every instance, each in a task of its own, so that none holds up another.
//!
//! Promises: an instance is asked often until it is live, then on a cadence, and often again as soon as a probe was bad;
//! whoever looks after its service is woken when something changes.
//! Absent on purpose: what follows from it (the controller decides).

mod ask;
mod health;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use modelyard_core::InstanceId;
use modelyard_core::ports::{Clock, PortFuture};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use ask::{Check, Reply};
pub use health::Health;

use crate::ledger::lock;

/// Between two probes of an instance that is not live yet, or whose last probe was bad.
const CLOSE: Duration = Duration::from_millis(250);
/// Between two probes of a live instance.
const CALM: Duration = Duration::from_secs(1);
/// Samples of a program cost it work: every so many calm probes ask them.
const DEEP_EVERY: u32 = 5;

/// Asks an instance once.
pub trait Asker: Send + Sync {
    /// Asks; `deep` asks the samples too.
    fn ask<'a>(&'a self, id: &'a InstanceId, check: &'a Check, deep: bool) -> PortFuture<'a, Reply>;
}

/// Asks over HTTP.
#[derive(Debug)]
pub struct HttpAsker;

impl Asker for HttpAsker {
    fn ask<'a>(&'a self, _: &'a InstanceId, check: &'a Check, deep: bool) -> PortFuture<'a, Reply> {
        Box::pin(ask::ask(check, deep))
    }
}

/// Probes every instance that it was told to follow.
pub struct Prober {
    asker: Arc<dyn Asker>,
    clock: Arc<dyn Clock>,
    followed: Mutex<HashMap<InstanceId, Followed>>,
}

struct Followed {
    health: Arc<Mutex<Health>>,
    task: JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    /// A prober that follows nobody yet.
    pub fn new(asker: Arc<dyn Asker>, clock: Arc<dyn Clock>) -> Self {
        Self { asker, clock, followed: Mutex::default() }
    }

    /// Follows an instance, if it does not yet. `waker` is called when its health changes.
    pub fn follow(&self, id: &InstanceId, waker: &Arc<Notify>, check: impl FnOnce() -> Check) {
        let mut followed = lock(&self.followed);
        if followed.contains_key(id) {
            return;
        }
        let health = Arc::new(Mutex::new(Health::default()));
        let round = Round {
            id: id.clone(),
            check: check(),
            asker: Arc::clone(&self.asker),
            clock: Arc::clone(&self.clock),
            health: Arc::clone(&health),
            waker: Arc::clone(waker),
        };
        followed.insert(id.clone(), Followed { health, task: tokio::spawn(round.run()) });
    }

    /// Asks an instance no more.
    pub fn leave(&self, id: &InstanceId) {
        lock(&self.followed).remove(id);
    }

    /// What the probes of an instance say; none before the first.
    pub fn health(&self, id: &InstanceId) -> Option<Health> {
        lock(&self.followed).get(id).map(|followed| lock(&followed.health).clone())
    }
}

struct Round {
    id: InstanceId,
    check: Check,
    asker: Arc<dyn Asker>,
    clock: Arc<dyn Clock>,
    health: Arc<Mutex<Health>>,
    waker: Arc<Notify>,
}

impl Round {
    async fn run(self) {
        let mut calm_probes = 0_u32;
        loop {
            let was_live = lock(&self.health).live;
            let deep = !was_live || calm_probes.is_multiple_of(DEEP_EVERY);
            let reply = self.asker.ask(&self.id, &self.check, deep).await;
            let live = self.count(reply);
            calm_probes = if live { calm_probes + 1 } else { 0 };
            tokio::time::sleep(pause(live)).await;
        }
    }

    /// Counts a reply and wakes the service if that changed anything.
    fn count(&self, reply: Reply) -> bool {
        let mut health = lock(&self.health);
        let before = health.live;
        health.count(self.clock.now(), reply);
        if !health.live || !before {
            self.waker.notify_one();
        }
        health.live
    }
}

/// With a little spread, so that the probes of many instances do not fall together.
fn pause(live: bool) -> Duration {
    let pause = if live { CALM } else { CLOSE };
    pause.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests;
