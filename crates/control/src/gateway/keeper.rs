//! Keeps the gateway told and asked: pushes the table when it changed, reads the report, starts the process again when it died.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::event::EventBody;
use modelyard_core::measure::GatewayReport;
use modelyard_core::route::RouteTable;
use modelyard_core::{RevisionNumber, ServiceName, Weight};
use tokio::sync::watch;

use super::router::Router;
use super::{Error, Gateway};
use crate::http_client::chain;
use crate::ledger::Ledger;

/// How often the report is read while a rollout runs, and otherwise.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(1);
// Two misses in a row are a hiccup of a loaded machine; more are an event that people should see.
const MISSES: u32 = 3;

/// The gateway's last report; none while it is out of reach.
pub type Reports = watch::Sender<Option<Arc<GatewayReport>>>;

/// Keeps the gateway told and asked.
pub struct Keeper {
    /// The gateway.
    pub gateway: Arc<dyn Gateway>,
    /// The table as it should be.
    pub router: Arc<Router>,
    /// Log and state.
    pub ledger: Arc<Ledger>,
    /// Where reports go.
    pub reports: Arc<Reports>,
}

/// What the keeper remembers between two rounds.
#[derive(Default)]
pub struct Memory {
    reported: Option<u64>,
    /// Generation of the last table that this control plane pushed.
    pushed: Option<u64>,
    misses: u32,
    failures_told: u32,
    splits: BTreeMap<ServiceName, BTreeMap<RevisionNumber, Weight>>,
}

impl Keeper {
    /// Looks once before anything is decided: a gateway that was not asked yet is not out of reach.
    pub async fn first_look(&self) -> Memory {
        let mut memory = Memory::default();
        self.look(&mut memory).await;
        memory
    }

    /// Runs until dropped.
    pub async fn run(self, mut memory: Memory) {
        loop {
            self.round(&mut memory).await;
            let busy = self.ledger.world().services.values().any(|service| service.is_busy());
            // A gateway that cannot be started is not tried ten times a second.
            let pause = if busy && memory.misses <= MISSES { BUSY } else { IDLE };
            let mut head = self.ledger.head();
            tokio::select! {
                () = self.router.changed() => {}
                () = tokio::time::sleep(pause) => {}
                // The first commit of a deploy ends an idle pause.
                _ = head.changed(), if pause == IDLE => {}
            }
        }
    }

    async fn round(&self, memory: &mut Memory) {
        if memory.reported.is_none() {
            // Look first: the gateway may have a table that this control plane did not make.
            self.look(memory).await;
        }
        if memory.reported.is_some() {
            self.tell(memory).await;
            self.look(memory).await;
        }
    }

    /// Reads the report.
    async fn look(&self, memory: &mut Memory) {
        match self.gateway.report().await {
            Ok(report) => {
                memory.misses = 0;
                // A generation that this control plane did not push may be an earlier one's other table of the same number. It must
                // never pass for ours: instances that it still routes to would be stopped.
                if memory.pushed.is_none_or(|pushed| report.generation > pushed) {
                    self.router.overtake(report.generation);
                }
                memory.reported = Some(report.generation);
                self.reports.send_replace(Some(Arc::new(report)));
                self.ledger.wake_all();
            }
            Err(error) => self.missed(memory, &error).await,
        }
    }

    /// Pushes the table unless the gateway has it.
    async fn tell(&self, memory: &mut Memory) {
        let Some(table) = self.router.table() else { return };
        if memory.reported == Some(table.generation) {
            return;
        }
        match self.gateway.push(&table).await {
            Ok(()) => self.applied(memory, &table).await,
            Err(Error::Older) => memory.reported = None,
            Err(error @ Error::Refused { .. }) => self.refused(memory, &table, &error).await,
            Err(error) => self.missed(memory, &error).await,
        }
    }

    async fn applied(&self, memory: &mut Memory, table: &RouteTable) {
        memory.failures_told = 0;
        memory.pushed = Some(table.generation);
        for (name, route) in &table.services {
            let weights = route.apis.get(&route.default_api).cloned().unwrap_or_default();
            if memory.splits.get(name) == Some(&weights) {
                continue;
            }
            memory.splits.insert(name.clone(), weights.clone());
            // The log holds every split; after a restart the first is usually known already.
            if self.ledger.service(name).applied == weights {
                continue;
            }
            let event = EventBody::RouteApplied { generation: table.generation, weights };
            if let Err(error) = self.ledger.note(Some(name), vec![event]).await {
                tracing::error!(service = %name, error = %chain(&error), "cannot record an applied route");
            }
        }
        memory.splits.retain(|name, _| table.services.contains_key(name));
    }

    /// A refused table is a bug of ours: said once per row of refusals, tried again every round.
    async fn refused(&self, memory: &mut Memory, table: &RouteTable, error: &Error) {
        memory.failures_told += 1;
        tracing::error!(generation = table.generation, error = %chain(error), "the gateway refuses the route table");
        if memory.failures_told == 1 {
            let what = format!("route table {}", table.generation);
            self.note(EventBody::Retried { what, why: chain(error), attempt: 1 }).await;
        }
    }

    async fn missed(&self, memory: &mut Memory, error: &Error) {
        memory.misses += 1;
        memory.reported = None;
        self.reports.send_replace(None);
        tracing::warn!(misses = memory.misses, error = %chain(error), "the gateway is out of reach");
        if memory.misses == MISSES {
            self.note(EventBody::GatewayLost { why: chain(error) }).await;
        }
        match self.gateway.revive().await {
            Ok(None) => {}
            Ok(Some(pid)) => {
                let mut events = vec![EventBody::GatewayStarted { pid }];
                if memory.misses < MISSES {
                    events.insert(0, EventBody::GatewayLost { why: chain(error) });
                }
                self.note_all(events).await;
            }
            Err(failed) => tracing::error!(error = %chain(&failed), "the gateway cannot be started again"),
        }
    }

    async fn note(&self, event: EventBody) {
        self.note_all(vec![event]).await;
    }

    async fn note_all(&self, events: Vec<EventBody>) {
        if let Err(error) = self.ledger.note(None, events).await {
            tracing::error!(error = %chain(&error), "cannot record what became of the gateway");
        }
    }
}
