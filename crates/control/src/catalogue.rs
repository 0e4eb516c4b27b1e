//! The registry's catalogue as the control plane changes it: every change goes into the log too, with who asked.
//!
//! Promises: files are read and written off the threads that decide; a change is in the registry before the log tells of it, and what
//! changed nothing is not told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use modelyard_core::event::{Actor, EventBody};
use modelyard_core::home::Home;
use modelyard_core::{AliasName, Digest, ModelName, Version};
use modelyard_registry::catalog::{By, Retention, Subject, Verdict};
use modelyard_registry::distribution::{Distribution, Swept};
use modelyard_registry::{Listed, Store};

use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::store;

/// Why something could not be looked up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] modelyard_registry::Error),
    /// The log cannot be written. The registry was changed, and its own history tells of it.
    #[error("the change is made, and the log cannot tell of it")]
    Log(#[from] store::Error),
    /// The work was cut off.
    #[error("the registry was not asked to the end: {0}")]
    Cut(String),
}

/// The registry and the log.
#[derive(Clone)]
pub struct Catalogue {
    ledger: Arc<Ledger>,
    store: Arc<Store>,
    distribution: Distribution,
}

/// What retention did, or would do.
#[derive(Debug)]
pub struct Cleared {
    /// Each version with why it stays; none goes.
    pub versions: Vec<Verdict>,
    /// What the sweep removed, or would remove of what nobody refers to already.
    pub swept: Swept,
}

impl Catalogue {
    /// The registry of a home, and the log.
    ///
    /// # Errors
    /// The error chain.
    pub fn open(home: &Home, ledger: Arc<Ledger>) -> Result<Self, String> {
        let store = Store::open(home.registry(), home.unpacked()).map_err(|error| chain(&error))?;
        let distribution = Distribution::open(&home.registry(), store.clone()).map_err(|error| chain(&error))?;
        Ok(Self { ledger, store: Arc::new(store), distribution })
    }

    /// Who does something now, as the registry keeps it.
    fn by(&self, actor: &Actor) -> By {
        let name = match actor {
            Actor::Person(name) => name.clone(),
            Actor::Controller => "controller".to_owned(),
        };
        By { name, at: self.ledger.now() }
    }

    /// Works on the registry.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, modelyard_registry::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| Error::Cut(error.to_string()))?.map_err(Error::Registry)
    }

    /// The whole of a blob, with its length, as the registry gives it out.
    pub async fn blob(&self, digest: Digest) -> Result<(u64, Body), Error> {
        let distribution = self.distribution.clone();
        let opened = tokio::task::spawn_blocking(move || distribution.whole(&digest)).await;
        opened.map_err(|error| Error::Cut(error.to_string()))?.map_err(Error::Registry)
    }

    /// Changes the registry, and tells of it if anything changed.
    async fn change(
        &self,
        actor: &Actor,
        body: EventBody,
        work: impl FnOnce(&Store, &By) -> Result<bool, modelyard_registry::Error> + Send + 'static,
    ) -> Result<bool, Error> {
        let by = self.by(actor);
        let changed = self.ask(move |store| work(store, &by)).await?;
        if changed {
            self.ledger.tell(actor.clone(), vec![body]).await?;
        }
        Ok(changed)
    }

    /// Sets a tag, or takes it away.
    pub async fn tag(&self, of: Subject, key: String, value: Option<String>, actor: &Actor) -> Result<bool, Error> {
        let (model, version) = (of.model.clone(), of.version.clone());
        let body = EventBody::Tagged { model, version, key: key.clone(), value: value.clone() };
        self.change(actor, body, move |store, by| store.tag(&of, &key, value.as_deref(), by)).await
    }

    /// Withdraws a version, or lets it be deployed again.
    pub async fn yank(
        &self,
        model: ModelName,
        version: Version,
        why: Option<String>,
        actor: &Actor,
    ) -> Result<bool, Error> {
        let body = match &why {
            Some(why) => EventBody::Yanked { model: model.clone(), version: version.clone(), why: why.clone() },
            None => EventBody::Unyanked { model: model.clone(), version: version.clone() },
        };
        self.change(actor, body, move |store, by| store.yank(&model, &version, why.as_deref(), by)).await
    }

    /// Points an alias to a version, or takes it away; where it pointed before.
    pub async fn alias(
        &self,
        model: ModelName,
        alias: AliasName,
        to: Option<Version>,
        actor: &Actor,
    ) -> Result<Option<Version>, Error> {
        let by = self.by(actor);
        let (of, called, target) = (model.clone(), alias.clone(), to.clone());
        let from = self
            .ask(move |store| match target {
                Some(to) => store.set_alias(&of, &called, &to, &by.name, by.at),
                None => store.remove_alias(&of, &called, &by).map(Some),
            })
            .await?;
        if from != to {
            self.ledger
                .tell(actor.clone(), vec![EventBody::AliasMoved { model, alias, from: from.clone(), to }])
                .await?;
        }
        Ok(from)
    }

    /// Packages that services run, or could go back to.
    fn served(&self) -> BTreeSet<Digest> {
        let world = self.ledger.world();
        let services = world.services.values();
        services.flat_map(|state| state.revisions.values()).map(|revision| revision.package).collect()
    }

    /// Removes the versions that nothing keeps, then what nobody refers to any more; with `dry_run` only says which.
    pub async fn clear(
        &self,
        rules: Retention,
        grace: Duration,
        dry_run: bool,
        actor: &Actor,
    ) -> Result<Cleared, Error> {
        let by = self.by(actor);
        let served = self.served();
        let versions = self.ask(move |store| store.retain(&rules, &served, &by, dry_run)).await?;
        // A deploy may have taken a version while it was judged: its bytes stay, and it gets its name back.
        let back =
            versions.iter().filter(|verdict| verdict.kept.is_none() && !dry_run).map(|verdict| verdict.listed.clone());
        let (back, served): (Vec<Listed>, _) = (back.collect(), self.served());
        self.ask(move |store| {
            for listed in back.iter().filter(|listed| served.contains(&listed.digest)) {
                store.give_back(listed)?;
            }
            Ok(())
        })
        .await?;
        let needed = || self.served().into_iter().collect();
        let swept = self.distribution.sweep_keeping(grace, dry_run, needed).await.map_err(Error::Registry)?;
        Ok(Cleared { versions, swept })
    }

    /// Speaks of a model, with a description if one is given. Descriptions are no decisions: the registry alone keeps them.
    pub async fn describe(&self, of: Subject, text: Option<String>, actor: &Actor) -> Result<bool, Error> {
        let by = self.by(actor);
        self.ask(move |store| {
            let new = of.version.is_none() && store.register(&of.model, &by)?;
            let changed = text.map_or(Ok(false), |text| store.describe(&of, &text, &by))?;
            Ok(new || changed)
        })
        .await
    }
}
