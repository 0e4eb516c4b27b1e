//! All workers as one: a table is applied on every thread before it counts as applied; counts are added up.
//!
//! Promises: tables are applied one after the other, never an older one; the last good one is on disk before it is applied.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use modelyard_core::ServiceName;
use modelyard_core::measure::GatewayReport;
use modelyard_core::route::{RouteError, RouteTable};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use super::predecessor::Predecessor;
use super::tally::Tally;
use super::{files, metrics};
use crate::limits;
use crate::mirror::Registry;
use crate::table::Parked;
use crate::worker::Command;

/// Why a table was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A newer one is applied, or another one with the same number.
    #[error("the route table of generation {given} is not newer than the applied one of generation {applied}")]
    Older {
        /// Generation of the refused table.
        given: u64,
        /// Generation of the applied one.
        applied: u64,
    },
    /// It makes no sense.
    #[error(transparent)]
    Invalid(#[from] RouteError),
}

/// The ways to the workers.
pub type Workers = Vec<mpsc::UnboundedSender<Command>>;

/// All workers as one.
pub struct Plane {
    workers: Workers,
    registry: Arc<Registry>,
    state_dir: PathBuf,
    epoch: u64,
    applied: RefCell<Arc<RouteTable>>,
    parked: RefCell<HashMap<ServiceName, Parked>>,
    /// One table at a time.
    turn: Mutex<()>,
    predecessor: RefCell<Option<Predecessor>>,
    draining: Cell<bool>,
    drain: Notify,
}

impl Plane {
    /// The plane of these workers; `epoch` identifies this life of the gateway.
    pub fn new(
        workers: Workers,
        registry: Arc<Registry>,
        state_dir: PathBuf,
        epoch: u64,
        predecessor: Option<PathBuf>,
    ) -> Self {
        Self {
            workers,
            registry,
            state_dir,
            epoch,
            applied: RefCell::default(),
            parked: RefCell::default(),
            turn: Mutex::new(()),
            predecessor: RefCell::new(predecessor.map(Predecessor::new)),
            draining: Cell::new(false),
            drain: Notify::new(),
        }
    }

    /// The applied table.
    pub fn table(&self) -> Arc<RouteTable> {
        self.applied.borrow().clone()
    }

    /// Applies the table that was kept on disk.
    pub async fn restore(&self) {
        let table = files::load_table(&self.state_dir);
        if table.generation > 0 {
            tracing::info!(generation = table.generation, "serving by the last route table");
            self.spread(Arc::new(table)).await;
        }
    }

    /// Applies a table on all threads.
    ///
    /// # Errors
    /// [`Refused`]; the applied table stays.
    #[tracing::instrument(name = "gateway.apply", level = "debug", skip_all, fields(generation = table.generation), err(level = "info"))]
    pub async fn apply(&self, table: RouteTable) -> Result<u64, Refused> {
        let _turn = self.turn.lock().await;
        table.check()?;
        let (given, applied) = (table.generation, self.table());
        if given < applied.generation || (given == applied.generation && table != *applied) {
            return Err(Refused::Older { given, applied: applied.generation });
        }
        if let Err(error) = files::keep_table(&self.state_dir, &table) {
            // Traffic must leave dead instances even when the disk is full.
            tracing::error!(error = %error, source = ?std::error::Error::source(&error), "the route table is applied but not kept");
        }
        self.spread(Arc::new(table)).await;
        Ok(given)
    }

    async fn spread(&self, table: Arc<RouteTable>) {
        let parked = self.parked_of(&table);
        let applied = self.workers.iter().filter_map(|worker| {
            let (done, waiting) = oneshot::channel();
            worker.send(Command::Apply(table.clone(), parked.clone(), done)).is_ok().then_some(waiting)
        });
        for waiting in applied.collect::<Vec<_>>() {
            let _ = waiting.await; // a worker that ended has nothing to apply
        }
        *self.applied.borrow_mut() = table.clone();
        if let Some(predecessor) = self.predecessor() {
            self.lost(predecessor.tell(&table).await);
        }
    }

    fn parked_of(&self, table: &RouteTable) -> HashMap<ServiceName, Parked> {
        let mut parked = self.parked.borrow_mut();
        parked.retain(|name, _| table.services.contains_key(name));
        for name in table.services.keys() {
            parked.entry(name.clone()).or_default();
        }
        parked.clone()
    }

    fn predecessor(&self) -> Option<Predecessor> {
        self.predecessor.borrow().clone()
    }

    /// Forgets a predecessor that is gone.
    fn lost(&self, answered: bool) {
        if !answered {
            self.predecessor.take();
        }
    }

    async fn tally(&self) -> Tally {
        let asked = self.workers.iter().filter_map(|worker| {
            let (answer, waiting) = oneshot::channel();
            worker.send(Command::Report(answer)).is_ok().then_some(waiting)
        });
        let mut tally = Tally::default();
        for waiting in asked.collect::<Vec<_>>() {
            if let Ok(theirs) = waiting.await {
                tally.add(theirs);
            }
        }
        self.registry.add_to(&mut tally.services);
        tally
    }

    /// What was counted.
    pub async fn report(&self) -> GatewayReport {
        let mut tally = self.tally().await;
        if let Some(predecessor) = self.predecessor() {
            let report = predecessor.ask().await;
            self.lost(report.is_some());
            report.iter().for_each(|report| tally.add_under_way(report));
        }
        GatewayReport { epoch: self.epoch, generation: self.table().generation, services: tally.services }
    }

    /// What was counted, for Prometheus.
    pub async fn metrics(&self) -> String {
        metrics::render(&self.tally().await, self.table().generation)
    }

    /// All workers begin to accept.
    pub fn accept(&self) {
        self.tell_all(|| Command::Accept);
    }

    /// All workers stop accepting, finish, and end. With a successor, callers get more time to move over.
    pub fn drain(&self, has_successor: bool) {
        self.draining.set(true);
        let grace = if has_successor { limits::HANDOVER_GRACE } else { limits::DRAIN_GRACE };
        self.tell_all(|| Command::Drain(grace));
        self.drain.notify_one();
    }

    /// Resolves once it drains.
    pub async fn drain_asked(&self) {
        self.drain.notified().await;
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            let _ = worker.send(command()); // one that ended needs no telling
        }
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }
}
