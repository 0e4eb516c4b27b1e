//! The flag definition of a service: set, replaced, taken away.
//!
//! Promises: what is committed can be evaluated, and hides no flag of a package that carries the service.

use std::sync::Arc;

use modelyard_core::event::{Actor, EventBody};
use modelyard_core::flags::Definition;
use modelyard_core::package::Package;
use modelyard_core::{Digest, RevisionNumber, ServiceName};
use serde_json::Value;

use super::{Decision, Error, Orders, accepted, present};
use crate::packages::PackageError;
use crate::store::fold::ServiceState;

impl Orders {
    /// Sets the definition, or takes it away. Setting the same again changes nothing.
    ///
    /// # Errors
    /// [`Error::NoService`], [`Error::Definition`].
    #[tracing::instrument(name = "order.flags", skip_all, fields(service = %name), err(level = "info"))]
    pub async fn set_flags(&self, name: &ServiceName, definition: Option<Value>, actor: Actor) -> Result<(), Error> {
        if let Some(document) = &definition {
            let read = Definition::parse(document).map_err(Error::Definition)?;
            let state = self.ledger.service(name);
            let hidden = Self::hidden(present(&state)?, &read);
            if !hidden.is_empty() {
                return Err(Error::Definition(hidden));
            }
        }
        let before = self.ledger.service(name);
        if before.spec.is_some() && before.flags.as_ref().map(|held| &held.document) == definition.as_ref() {
            return Ok(());
        }
        let decide = |state: &ServiceState| {
            let state = present(state)?;
            let bodies = vec![EventBody::FlagsSet { definition: definition.clone() }];
            Ok(Decision { rollout: state.current_rollout().cloned(), bodies, accepted: accepted(state) })
        };
        self.decide(name, actor, decide).await.map(drop)
    }

    /// Keys that a package in use declares itself: what the model really runs with is not for a definition to say.
    fn hidden(state: &ServiceState, definition: &Definition) -> Vec<String> {
        let mut hidden = Vec::new();
        for number in in_use(state) {
            let Some(revision) = state.revisions.get(&number) else { continue };
            let taken = definition.keys().filter(|key| revision.flags.contains_key(*key));
            hidden.extend(taken.map(|key| {
                let (model, version) = (&revision.model, &revision.version);
                format!("`{key}` is a flag of {model}:{version}, which revision {number} sets: choose another key")
            }));
        }
        hidden.dedup();
        hidden
    }

    /// What a package says of itself.
    ///
    /// # Errors
    /// [`PackageError`] when it cannot be had.
    pub async fn package(&self, digest: Digest) -> Result<Arc<Package>, PackageError> {
        self.packages.document(digest).await
    }
}

/// Revisions that carry the service, or shall: stable and the arms of an open rollout.
pub fn in_use(state: &ServiceState) -> Vec<RevisionNumber> {
    let arms = state.open.iter().flat_map(|open| open.machine.arms());
    let mut numbers: Vec<RevisionNumber> = state.stable.into_iter().chain(arms).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}
