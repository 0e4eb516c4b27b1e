//! The ledger: the log and the state folded from it, changed together.
//!
//! Promises: an event is in the state exactly when it is on disk; readers get a whole, unchanging snapshot; whoever waits for a
//! service or for the log's end is woken by every commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use modelyard_core::event::{Actor, Event, EventBody};
use modelyard_core::ports::Clock;
use modelyard_core::{RolloutId, ServiceName, Timestamp};
use tokio::sync::{Notify, watch};

use crate::store::fold::{ServiceState, World};
use crate::store::{Batch, Error, Query, Store, Walked};

/// The log and the state folded from it.
pub struct Ledger {
    store: Store,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    chain: Walked,
}

struct Shared {
    world: RwLock<Arc<World>>,
    head: watch::Sender<u64>,
    wakes: Mutex<HashMap<ServiceName, Arc<Notify>>>,
}

impl Ledger {
    /// Folds the whole log of `store`. Blocks; for the start only.
    ///
    /// # Errors
    /// The first event that cannot be read or does not fit.
    pub fn open(store: Store, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let folded = Arc::new(Mutex::new(World::default()));
        let world = Arc::clone(&folded);
        let chain = store.replay(move |event| Ok(lock(&world).apply(&event)?))?;
        if let Some(broken) = &chain.broken {
            // It goes on: who cannot steer would be worse off, and gateway and instances serve either way.
            tracing::error!(seq = broken.seq, why = %broken.why, "the history was changed behind Modelyard's back");
        }
        let world = lock(&folded).clone();
        let head = watch::Sender::new(world.last_seq);
        let shared = Shared { world: RwLock::new(Arc::new(world)), head, wakes: Mutex::default() };
        Ok(Self { store, clock, shared: Arc::new(shared), chain })
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Everything, as it is now.
    pub fn world(&self) -> Arc<World> {
        self.shared.world()
    }

    /// One service, as it is now; an empty one if the log says nothing of it.
    pub fn service(&self, name: &ServiceName) -> Arc<ServiceState> {
        let known = self.world().services.get(name).cloned();
        known.unwrap_or_else(|| Arc::new(ServiceState::new(name.clone())))
    }

    /// Commits what happened to a service, if nothing was written for it since `seen`.
    ///
    /// # Errors
    /// [`Error::Conflict`] when something was: look again and decide anew.
    pub async fn commit(&self, seen: &ServiceState, actor: Actor, bodies: Vec<EventBody>) -> Result<Vec<Event>, Error> {
        self.commit_for(seen, seen.current_rollout().cloned(), actor, bodies).await
    }

    /// The same, for a rollout that `seen` does not have open yet or any more.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub async fn commit_for(
        &self,
        seen: &ServiceState,
        rollout: Option<RolloutId>,
        actor: Actor,
        bodies: Vec<EventBody>,
    ) -> Result<Vec<Event>, Error> {
        let batch = Batch::of(&seen.name, self.now(), bodies);
        self.append(Batch { rollout, actor, expect: Some(seen.last_seq), ..batch }).await
    }

    /// Commits what happened, whatever was written before.
    ///
    /// # Errors
    /// [`Error`] when the log cannot be written; the state is then unchanged.
    pub async fn note(&self, service: Option<&ServiceName>, bodies: Vec<EventBody>) -> Result<Vec<Event>, Error> {
        let rollout = service.and_then(|name| self.service(name).current_rollout().cloned());
        let (at, service) = (self.now(), service.cloned());
        self.append(Batch { at, service, rollout, actor: Actor::Controller, expect: None, bodies }).await
    }

    /// Commits what a person did with a service, whatever was written before.
    ///
    /// # Errors
    /// As [`Ledger::note`].
    pub async fn note_by(
        &self,
        service: &ServiceName,
        actor: Actor,
        bodies: Vec<EventBody>,
    ) -> Result<Vec<Event>, Error> {
        let rollout = self.service(service).current_rollout().cloned();
        self.append(Batch { rollout, actor, ..Batch::of(service, self.now(), bodies) }).await
    }

    /// Commits what somebody did beside any service.
    ///
    /// # Errors
    /// As [`Ledger::note`].
    pub async fn tell(&self, actor: Actor, bodies: Vec<EventBody>) -> Result<Vec<Event>, Error> {
        self.append(Batch { at: self.now(), service: None, rollout: None, actor, expect: None, bodies }).await
    }

    async fn append(&self, batch: Batch) -> Result<Vec<Event>, Error> {
        let service = batch.service.clone();
        let (before, after) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let fold = move |events: &[Event]| {
            let mut next = (*before.world()).clone();
            events.iter().try_for_each(|event| next.apply(event))?;
            Ok(next)
        };
        let publish = move |_: &[Event], next: World| after.publish(next, service.as_ref());
        self.store.append(batch, fold, publish).await
    }

    /// What the chain over the log was like when this control plane started.
    pub fn chain(&self) -> &Walked {
        &self.chain
    }

    /// Reads the log.
    ///
    /// # Errors
    /// [`Error`] when it cannot be read.
    pub async fn read(&self, query: Query) -> Result<Vec<Event>, Error> {
        self.store.read(query).await
    }

    /// The store beneath, for what is no event.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Position of the log's end; changes with every commit.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.shared.head.subscribe()
    }

    /// What wakes whoever looks after a service.
    pub fn waker(&self, name: &ServiceName) -> Arc<Notify> {
        Arc::clone(lock(&self.shared.wakes).entry(name.clone()).or_default())
    }

    /// Wakes whoever looks after any service.
    pub fn wake_all(&self) {
        lock(&self.shared.wakes).values().for_each(|waker| waker.notify_one());
    }
}

impl Shared {
    fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, next: World, service: Option<&ServiceName>) {
        let last = next.last_seq;
        *self.world.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.head.send_replace(last);
        if let Some(waker) = service.and_then(|name| lock(&self.wakes).get(name).cloned()) {
            waker.notify_one();
        }
    }
}

/// Locks; a panic elsewhere leaves these values whole, so poisoning means nothing here.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
