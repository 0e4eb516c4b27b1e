//! One server is told what the log says: page by page, as fast as it takes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::event::Event;
use modelyard_core::tracking::Tracking;
use modelyard_core::{RolloutId, ServiceName, Timestamp};
use sha2::{Digest as _, Sha256};

use super::server::{Begin, Promoted, Run, Server, Trouble};
use super::told::{Batch, Cast, KINDS};
use super::{Known, Tracked};
use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::packages::Packages;
use crate::store::Query;
use crate::store::fold::{Record, ServiceState};

/// Events that are read at once.
const PAGE: u32 = 256;
/// Values after which a batch is sent; MLflow takes a thousand entries at once.
const FULL: usize = 600;
/// Shortest time between two pages: rollouts leave figures each second.
const PACE: Duration = Duration::from_millis(500);
/// Pause after trouble; each further one is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Runs that are kept in mind; others are looked up again.
const RUNS: usize = 64;

/// Follows the log for one server.
pub struct Follower {
    /// The log.
    pub ledger: Arc<Ledger>,
    /// Where packages come from.
    pub packages: Arc<dyn Packages>,
    /// What is known of how it goes.
    pub tracked: Arc<Tracked>,
    /// Which services are told of where.
    pub known: Arc<Known>,
    /// The server's address.
    pub address: String,
    /// When the control plane started: rollouts from then on are told from their beginning.
    pub since: Timestamp,
}

/// What one rollout's events of a page come to.
struct Part {
    service: Arc<ServiceState>,
    record: Arc<Record>,
    tracking: Tracking,
    batch: Batch,
    last: Event,
}

impl Follower {
    /// Runs until dropped.
    pub async fn run(self) {
        let (mut head, server) = (self.ledger.head(), Server::new(&self.address));
        let mut cursor = self.recall().await;
        let (mut runs, mut pause) = (BTreeMap::new(), PAUSE);
        loop {
            head.mark_unchanged();
            match self.page(&server, &mut cursor, &mut runs).await {
                Ok(true) => {
                    pause = PAUSE;
                    tokio::time::sleep(PACE).await;
                }
                Ok(false) => {
                    self.tracked.settle(&self.address);
                    if head.changed().await.is_err() {
                        return;
                    }
                }
                Err(why) => {
                    tracing::warn!(server = %self.address, %why, "rollouts cannot be tracked; tried again");
                    self.tracked.trouble(&self.address, &why);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn key(&self) -> String {
        let digest = modelyard_core::Digest::from_sha256(Sha256::digest(&self.address).into());
        format!("tracking/{}", digest.short())
    }

    /// Where to go on. A server that is new is told of the rollouts that are open, or began since this control plane did; what was before is no news.
    async fn recall(&self) -> u64 {
        let kept = self.ledger.store().recall(self.key()).await.ok().flatten();
        if let Some(kept) = kept.and_then(|text| text.parse().ok()) {
            return kept;
        }
        let mut cursor = *self.ledger.head().borrow();
        for state in self.ledger.world().services.values() {
            let Some(record) = state.rollouts.last().filter(|_| self.tracking(state).is_some()) else { continue };
            if state.undecided().is_none() && record.started < self.since {
                continue;
            }
            let query = Query { rollout: Some(record.id.clone()), limit: Some(1), ..Query::default() };
            let first = self.ledger.read(query).await.ok().and_then(|events| events.first().map(|event| event.seq));
            cursor = cursor.min(first.map_or(cursor, |seq| seq.saturating_sub(1)));
        }
        cursor
    }

    /// How this service is tracked here, if it is.
    fn tracking(&self, state: &ServiceState) -> Option<Tracking> {
        self.known.of(state).filter(|tracking| tracking.mlflow == self.address)
    }

    /// Tells the next page; whether there was one.
    async fn page(
        &self,
        server: &Server,
        cursor: &mut u64,
        runs: &mut BTreeMap<RolloutId, Run>,
    ) -> Result<bool, String> {
        let query = Query { after: *cursor, limit: Some(PAGE), kinds: KINDS, ..Query::default() };
        let events = self.ledger.read(query).await.map_err(|error| chain(&error))?;
        let Some(last) = events.last().map(|event| event.seq) else { return Ok(false) };
        let mut parts: BTreeMap<RolloutId, Part> = BTreeMap::new();
        let oldest = events.iter().find(|event| self.concerns(event)).map(|event| event.at);
        self.tracked.behind(&self.address, oldest);
        for event in events {
            let Some((id, state, record, tracking)) = self.place(&event) else { continue };
            let cast = Cast { state: &state, record: &record };
            let part = parts.entry(id.clone()).or_insert_with(|| Part {
                service: Arc::clone(&state),
                record: Arc::clone(&record),
                tracking,
                batch: Batch::default(),
                last: event.clone(),
            });
            part.batch.add(&event, &cast);
            part.last = event;
            if part.batch.metrics.len() >= FULL
                && let Some(part) = parts.remove(&id)
            {
                self.send(server, &id, part, runs).await?;
            }
        }
        for (id, part) in parts {
            self.send(server, &id, part, runs).await?;
        }
        *cursor = last;
        let kept = self.ledger.store().remember(self.key(), last.to_string()).await;
        kept.map_err(|error| chain(&error))?;
        Ok(true)
    }

    fn concerns(&self, event: &Event) -> bool {
        event.rollout.is_some() && self.place(event).is_some()
    }

    fn place(&self, event: &Event) -> Option<(RolloutId, Arc<ServiceState>, Arc<Record>, Tracking)> {
        let (id, name): (&RolloutId, &ServiceName) = (event.rollout.as_ref()?, event.service.as_ref()?);
        let state = self.ledger.service(name);
        let record = state.rollouts.iter().find(|record| record.id == *id).cloned()?;
        let tracking = self.tracking(&state)?;
        Some((id.clone(), state, record, tracking))
    }

    /// Writes what is new of one rollout. What the server will never take is dropped, and counted.
    async fn send(
        &self,
        server: &Server,
        id: &RolloutId,
        part: Part,
        runs: &mut BTreeMap<RolloutId, Run>,
    ) -> Result<(), String> {
        let points = part.batch.metrics.len() as u64;
        let known = runs.get(id).cloned();
        let position = part.last.seq;
        match self.write(server, id, part, known).await {
            Ok(run) => {
                self.tracked.told(&self.address, id, &run.id, points);
                if runs.len() >= RUNS {
                    runs.clear();
                }
                runs.insert(id.clone(), run);
                Ok(())
            }
            Err(trouble) if trouble.may_pass => Err(trouble.why),
            Err(trouble) => {
                tracing::error!(rollout = %id, position, why = %trouble.why, "part of a rollout is not tracked");
                self.tracked.dropped(&self.address, points, &trouble.why);
                Ok(())
            }
        }
    }

    async fn write(&self, server: &Server, id: &RolloutId, part: Part, known: Option<Run>) -> Result<Run, Trouble> {
        let Part { service, record, tracking, mut batch, last } = part;
        let environment = service.spec.as_ref().map_or("dev", |spec| spec.environment.as_str());
        let experiment = tracking.experiment.clone().unwrap_or_else(|| format!("{environment}/{}", service.name));
        let cast = Cast { state: &service, record: &record };
        let begin = Begin { experiment, rollout: id.to_string(), at: cast.started().0 };
        let first = cast.begin();
        let alias = tracking.alias.as_ref().filter(|_| batch.promoted);
        let promoted = match alias {
            Some(alias) => self.promoted(&service, &record).await.map(|package| (alias.to_string(), package)),
            None => None,
        };
        let (server, position) = (server.clone(), last.seq);
        let work = move || {
            let mut run = known.map_or_else(|| server.run(&begin), Ok)?;
            if run.told == 0 {
                server.log(&run.id, &first, 1)?;
                run.told = 1;
            }
            if position <= run.told {
                return Ok(run);
            }
            // Before the position is kept: what breaks off in between is done again.
            if let Some((alias, package)) = promoted {
                server.move_alias(&alias, &package.named())?;
            }
            // An earlier life may have told a part of it.
            batch.after(run.told);
            server.log(&run.id, &batch, position)?;
            run.told = position;
            Ok(run)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(Trouble::ended(&error)))
    }

    /// The package that was promoted.
    async fn promoted(&self, service: &ServiceState, record: &Record) -> Option<Package> {
        let revision = service.revisions.get(&record.to)?;
        let annotations =
            self.packages.document(revision.package).await.ok().map(|document| document.annotations.clone());
        let note = |key: &str| annotations.as_ref().and_then(|notes| notes.get(key)).cloned();
        Some(Package {
            model: revision.model.to_string(),
            version: revision.version.to_string(),
            digest: revision.package.to_string(),
            known: note("mlflow.model").zip(note("mlflow.version")),
        })
    }
}

/// A package, as the server is told of it.
struct Package {
    model: String,
    version: String,
    digest: String,
    known: Option<(String, String)>,
}

impl Package {
    fn named(&self) -> Promoted<'_> {
        let known = self.known.as_ref().map(|(model, version)| (model.as_str(), version.as_str()));
        Promoted { model: &self.model, version: &self.version, digest: &self.digest, known }
    }
}
