//! Promotions between environments: what a package went through before, and records that are taken into the log.
//!
//! Promises: a record counts only if it is in the registry, signed by a key that the environment names (where it names any), and the package fulfils
//! everything that the environment demands; the log tells of a record once.
//! Absent on purpose: signing and copying. The key is with whoever promotes, and their command does both.

use std::sync::Arc;

use modelyard_core::event::{Actor, Event, EventBody, Outcome, PackagePromotion};
use modelyard_core::home::Home;
use modelyard_core::package::Package;
use modelyard_core::{Digest, EnvironmentName, ModelName, RolloutId};
use modelyard_registry::distribution::Distribution;
use modelyard_registry::trust::{Passed, Promotion, attestations};
use sha2::{Digest as _, Sha256};

use crate::environments::Environments;
use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::packages::Packages;
use crate::store::fold::{Record, ServiceState};
use crate::{packages, policy, store};

/// The kind of the event that tells of a promotion.
const KIND: &[&str] = &["package-promoted"];

/// Why a record is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The package is not here.
    #[error(transparent)]
    Package(#[from] packages::PackageError),
    /// There is no such record.
    #[error("package {package} has no record {record} of a promotion from `{from}` to `{to}` in this registry")]
    NoRecord {
        /// The package.
        package: Digest,
        /// The record.
        record: Digest,
        /// Where it would come from.
        from: EnvironmentName,
        /// Where it would go to.
        to: EnvironmentName,
    },
    /// The environment does not take the package.
    #[error("package {package} may not go to `{to}`: {}", reasons.join("; "))]
    Policy {
        /// The package.
        package: Digest,
        /// The environment.
        to: EnvironmentName,
        /// Every reason.
        reasons: Vec<String>,
    },
    /// The environment or the registry cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The log cannot be read or written.
    #[error("the log cannot be read or written")]
    Log(#[from] store::Error),
}

/// Promotions of a home.
#[derive(Clone)]
pub struct Promotions {
    ledger: Arc<Ledger>,
    packages: Arc<dyn Packages>,
    distribution: Distribution,
    home: Home,
}

impl Promotions {
    /// Promotions of the home whose registry this is.
    pub fn new(ledger: Arc<Ledger>, packages: Arc<dyn Packages>, distribution: Distribution, home: Home) -> Self {
        Self { ledger, packages, distribution, home }
    }

    /// Whose package it is.
    ///
    /// # Errors
    /// [`Error::Package`] when it is not here.
    pub async fn model(&self, package: Digest) -> Result<ModelName, Error> {
        Ok(self.packages.document(package).await?.name.clone())
    }

    /// The last rollout that brought the package to everybody in an environment; none when there was none.
    ///
    /// # Errors
    /// [`store::Error`].
    pub async fn passed(
        &self,
        environment: &EnvironmentName,
        package: &Digest,
    ) -> Result<Option<Passed>, store::Error> {
        let world = self.ledger.world();
        let there = world.services.values().filter(|state| is_in(state, environment));
        let records = there.flat_map(|state| state.rollouts.iter().map(move |record| (state, record)));
        let brought = records.filter(|(state, record)| brought(state, record, package));
        let Some((state, record)) = brought.max_by_key(|(_, record)| record.ended) else { return Ok(None) };
        let query = store::Query { rollout: Some(record.id.clone()), ..store::Query::default() };
        let events = self.ledger.read(query).await?;
        let end = events.iter().position(|event| matches!(event.body, EventBody::RolloutFinished { .. }));
        let Some(last) = end.and_then(|end| events.get(end)) else { return Ok(None) };
        let Some(link) = self.ledger.store().link(last.seq).await? else { return Ok(None) };
        let evidence = evidence(&events[..=end.unwrap_or_default()]);
        Ok(Some(Passed {
            rollout: record.id.to_string(),
            service: state.name.to_string(),
            strategy: record.strategy.clone(),
            outcome: Outcome::Promoted.name().to_owned(),
            ended: last.at,
            log: format!("{}@{link}", last.seq),
            evidence,
        }))
    }

    /// Takes a record into the log; the event, and whether it is new.
    ///
    /// # Errors
    /// [`Error`]; nothing is written then.
    pub async fn take(
        &self,
        package: Digest,
        (from, to): (&EnvironmentName, &EnvironmentName),
        record: Digest,
        actor: Actor,
    ) -> Result<(Event, bool), Error> {
        let document = self.packages.document(package).await?;
        let promotion = self.read(&document, package, (from, to), record).await?;
        let reasons = self.packages.reasons(package, to).await?;
        if !reasons.is_empty() {
            return Err(Error::Policy { package, to: to.clone(), reasons });
        }
        let told = self.ledger.read(store::Query { kinds: KIND, ..store::Query::default() }).await?;
        let is_told = |event: &Event| matches!(&event.body, EventBody::PackagePromoted { promotion } if promotion.record == record);
        if let Some(event) = told.into_iter().find(is_told) {
            return Ok((event, false));
        }
        let promotion = PackagePromotion {
            model: document.name.clone(),
            version: document.version.clone(),
            package,
            from: promotion.from,
            to: promotion.to,
            record,
            key: promotion.key,
            policies: promotion.policies,
            passed: promotion.rollout.and_then(|rollout| RolloutId::new(rollout).ok()),
            registry: promotion.registry,
        };
        let body = EventBody::PackagePromoted { promotion: Box::new(promotion) };
        let mut events = self.ledger.tell(actor, vec![body]).await?;
        let event = events.pop().ok_or(Error::Unreadable("the log took no event".to_owned()))?;
        Ok((event, true))
    }

    /// The record as the registry has it.
    async fn read(
        &self,
        document: &Package,
        package: Digest,
        (from, to): (&EnvironmentName, &EnvironmentName),
        record: Digest,
    ) -> Result<Promotion, Error> {
        let (distribution, home, model, into) =
            (self.distribution.clone(), self.home.clone(), document.name.clone(), to.clone());
        let work = move || {
            let known = Environments::at(home.environments()).read(&into)?;
            let promoted = known.and_then(|environment| environment.policy.promoted);
            let keys = policy::keys(&promoted.map(|promoted| promoted.keys).unwrap_or_default())?;
            let (found, _) = attestations(&distribution, &model, &package, &keys).map_err(|error| chain(&error))?;
            Ok(found.iter().filter_map(Promotion::of).find(|promotion| promotion.record == record))
        };
        let found = tokio::task::spawn_blocking(work).await.map_err(|error| Error::Unreadable(error.to_string()))?;
        let found: Option<Promotion> = found.map_err(Error::Unreadable)?;
        found.filter(|promotion| promotion.from == *from && promotion.to == *to).ok_or_else(|| Error::NoRecord {
            package,
            record,
            from: from.clone(),
            to: to.clone(),
        })
    }
}

/// Whether a service is in the environment. Where one was that is gone is not kept.
fn is_in(state: &ServiceState, environment: &EnvironmentName) -> bool {
    state.spec.as_ref().is_some_and(|spec| spec.environment == *environment)
}

/// Whether the rollout made the package the one that serves.
fn brought(state: &ServiceState, record: &Record, package: &Digest) -> bool {
    record.outcome == Some(Outcome::Promoted)
        && state.revisions.get(&record.to).is_some_and(|revision| revision.package == *package)
}

/// SHA-256 over events, each as compact JSON and a line feed.
fn evidence(events: &[Event]) -> Digest {
    let mut hash = Sha256::new();
    for event in events {
        hash.update(serde_json::to_vec(event).unwrap_or_default());
        hash.update(b"\n");
    }
    Digest::from_sha256(hash.finalize().into())
}
