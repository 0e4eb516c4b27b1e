//! The controller: observe, step, commit, act. One task per service.
//!
//! Promises: nothing is carried out before the event that says it is on disk; every decision follows from the log and from what is
//! seen, so that a control plane that was killed at any point goes on to the same end; nothing is started twice.
//! Absent on purpose: how a rollout advances (`modelyard-rollout`) and how anything is carried out (target, gateway).

pub mod lifecycle;
mod machines;
mod measured;
mod meter;
mod observe;
mod place;
mod reconcile;
pub(crate) mod route;
mod shadows;
pub mod start;
mod steady;
mod step;
mod tick;
pub mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use modelyard_core::event::EventBody;
use modelyard_core::evidence::Evidence;
use modelyard_core::instance::InstanceState;
use modelyard_core::machine::MachineSeen;
use modelyard_core::ports::Target;
use modelyard_core::{RolloutId, ServiceName};
use modelyard_rollout::Waiting;
use tokio::sync::{Notify, watch as channel};
use tokio::task::JoinSet;

use crate::evidence::Book;
use crate::evidence::providers::Providers;
use crate::gateway::Gateway;
use crate::gateway::keeper::{Keeper, Reports};
use crate::gateway::router::Router;
use crate::http_client::chain;
use crate::ledger::{Ledger, lock};
use crate::notify::Notifier;
use crate::packages::Packages;
use crate::prober::{Asker, Prober};
use crate::store::fold::ServiceState;
use lifecycle::TargetSeen;
use machines::Away;
use start::Gate;
use watch::Watch;

/// What a rollout waits for.
type Waits = (RolloutId, Option<Waiting>);

/// What the controller works with.
#[derive(Clone)]
pub struct Controller {
    ledger: Arc<Ledger>,
    target: Arc<dyn Target>,
    packages: Arc<dyn Packages>,
    prober: Arc<Prober>,
    router: Arc<Router>,
    reports: Arc<Reports>,
    seen: Arc<channel::Sender<Option<Arc<TargetSeen>>>>,
    poke: Arc<Notify>,
    gate: Arc<Gate>,
    book: Arc<Book>,
    session_key: Arc<str>,
    /// What the open rollout of each service was last stepped with.
    evidence: Arc<Mutex<HashMap<ServiceName, Evidence>>>,
    /// What it waits for since: figures move with every step, and most steps leave no line in the log.
    waiting: Arc<Mutex<HashMap<ServiceName, Waits>>>,
    clock: Arc<dyn modelyard_core::ports::Clock>,
}

/// Where the controller acts and looks.
pub struct Ports {
    /// Where instances run.
    pub target: Arc<dyn Target>,
    /// Where packages come from.
    pub packages: Arc<dyn Packages>,
    /// How instances are asked.
    pub asker: Arc<dyn Asker>,
    /// What is known of the arms.
    pub book: Arc<Book>,
    /// Key of the session cookies' signature.
    pub session_key: Arc<str>,
    /// Where the present comes from.
    pub clock: Arc<dyn modelyard_core::ports::Clock>,
}

impl Controller {
    /// A controller over the log's present state.
    pub fn new(ledger: Arc<Ledger>, ports: &Ports) -> Self {
        let world = ledger.world();
        let awaited: Vec<ServiceName> = world.services.keys().cloned().collect();
        Self {
            target: Arc::clone(&ports.target),
            packages: Arc::clone(&ports.packages),
            prober: Arc::new(Prober::new(Arc::clone(&ports.asker), Arc::clone(&ports.clock))),
            router: Arc::new(Router::new(world.generation, awaited)),
            reports: Arc::new(Reports::new(None)),
            seen: Arc::new(channel::Sender::new(None)),
            poke: Arc::new(Notify::new()),
            gate: Arc::new(Gate::default()),
            book: Arc::clone(&ports.book),
            session_key: Arc::clone(&ports.session_key),
            evidence: Arc::default(),
            waiting: Arc::default(),
            clock: Arc::clone(&ports.clock),
            ledger,
        }
    }

    /// What is known of the arms, of shadows and of drift in the service's open rollout.
    pub fn evidence(&self, service: &ServiceName) -> Option<Evidence> {
        lock(&self.evidence).get(service).cloned()
    }

    /// What a service's open rollout waits for, with the figures of its last step; what the log has of it before the first one.
    pub fn waiting(&self, state: &ServiceState) -> Option<Waiting> {
        let open = state.open.as_ref()?;
        match lock(&self.waiting).get(&state.name) {
            Some((id, waiting)) if *id == open.id => waiting.clone(),
            _ => open.machine.waiting().cloned(),
        }
    }

    /// Answers, feedback and what follows from them.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// What the gateway last reported.
    pub fn report(&self) -> Option<Arc<modelyard_core::measure::GatewayReport>> {
        self.reports.borrow().clone()
    }

    /// What the target last said.
    pub fn seen(&self) -> Option<Arc<TargetSeen>> {
        self.seen.borrow().clone()
    }

    /// The machines, as the target sees them now.
    pub fn machines(&self) -> Vec<MachineSeen> {
        self.target.machines()
    }

    /// Which machines are out of reach, if it matters to the service.
    fn away(&self, state: &ServiceState) -> Away {
        match state.instances.values().any(|instance| instance.machine.is_some()) {
            true => Away::new(self.target.machines()),
            false => Away::default(),
        }
    }

    /// Keeps any further instance from being started, and waits for the starts under way.
    pub async fn close(&self) {
        self.gate.close().await;
    }

    /// Runs until `stop` is true, and returns once no part of it runs any more. Looks at the target first, takes over what runs, then
    /// looks after everything. Returns early when a part of it died.
    pub async fn run(self, gateway: Arc<dyn Gateway>, mut stop: channel::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let mut services = JoinSet::new();
        tokio::select! {
            _ = stop.wait_for(|&stop| stop) => {}
            () = self.decide(gateway, &mut tasks, &mut services) => {}
        }
        tasks.shutdown().await;
        services.shutdown().await;
    }

    async fn decide(&self, gateway: Arc<dyn Gateway>, tasks: &mut JoinSet<()>, services: &mut JoinSet<ServiceName>) {
        let watch = Watch {
            target: Arc::clone(&self.target),
            ledger: Arc::clone(&self.ledger),
            seen: Arc::clone(&self.seen),
            poke: Arc::clone(&self.poke),
        };
        // Without a first look every running instance would be taken for missing.
        while !watch.look().await {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        self.adopt().await;
        let keeper = Keeper {
            gateway,
            router: Arc::clone(&self.router),
            ledger: Arc::clone(&self.ledger),
            reports: Arc::clone(&self.reports),
        };
        let looked = keeper.first_look().await;
        tasks.spawn(watch.run());
        tasks.spawn(keeper.run(looked));
        let (book, ledger, clock) = (Arc::clone(&self.book), Arc::clone(&self.ledger), Arc::clone(&self.clock));
        tasks.spawn(Providers { book, ledger, clock }.run());
        tasks.spawn(Notifier { ledger: Arc::clone(&self.ledger) }.run());
        tokio::select! {
            // Neither ever returns; if one panics, the process ends rather than limp on.
            died = tasks.join_next() => tracing::error!(?died, "a part of the controller died"),
            () = self.look_after_services(services) => {}
        }
    }

    /// Records the instances that an earlier control plane left running.
    async fn adopt(&self) {
        let Some(seen) = self.seen() else { return };
        for (name, state) in &self.ledger.world().services {
            let runs = |id: &modelyard_core::InstanceId| {
                seen.instances.get(id).is_some_and(|s| !matches!(s.state, InstanceState::Exited(_)))
            };
            let adopted = state.instances.iter().filter(|(id, instance)| instance.stays() && runs(id));
            let adopt = |(id, instance): (&modelyard_core::InstanceId, &crate::store::fold::Instance)| {
                EventBody::InstanceAdopted { instance: id.clone(), revision: instance.revision }
            };
            let events: Vec<EventBody> = adopted.map(adopt).collect();
            if events.is_empty() {
                continue;
            }
            if let Err(error) = self.ledger.note(Some(name), events).await {
                tracing::error!(service = %name, error = %chain(&error), "cannot record adopted instances");
            }
        }
    }

    /// One task per service that is there or still has instances; a new one for each that appears.
    async fn look_after_services(&self, tasks: &mut JoinSet<ServiceName>) {
        let mut head = self.ledger.head();
        let mut looked_after: HashSet<ServiceName> = HashSet::new();
        loop {
            for (name, state) in &self.ledger.world().services {
                if tick::is_over(state) {
                    self.router.set(name, None);
                } else if looked_after.insert(name.clone()) {
                    tasks.spawn(self.clone().look_after(name.clone()));
                }
            }
            tokio::select! {
                _ = head.changed() => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok(name) => drop(looked_after.remove(&name)),
                    Err(error) => {
                        tracing::error!(%error, "the task of a service died; all services are taken up anew");
                        tasks.shutdown().await;
                        looked_after.clear();
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
