//! Alternatives: further revisions that a person tries beside a candidate that is held, without ending its rollout.

use modelyard_core::beside::BesideKind;
use modelyard_core::event::{Actor, EventBody, Order};
use modelyard_core::{Digest, RevisionNumber, ServiceName, Weight};
use modelyard_rollout::Rollout;

use super::deploy::{ArmPackage, Chosen};
use super::{Accepted, Decision, Error, Orders, accepted, present};
use crate::store::fold::ServiceState;

/// What is tried beside a candidate.
#[derive(Clone, Debug)]
pub struct Alternative {
    /// What it runs.
    pub what: Tried,
    /// Its share of traffic (canary), or of the requests that stable answers (shadow). At none it is taken away.
    pub share: Weight,
    /// How it runs.
    pub kind: BesideKind,
    /// Who asks.
    pub actor: Actor,
}

/// What an alternative runs.
#[derive(Clone, Debug)]
pub enum Tried {
    /// A package, as a new revision.
    Package(ArmPackage),
    /// What that revision runs, as a new revision; a revision that runs beside already is changed.
    Revision(RevisionNumber),
}

impl Orders {
    /// Tries an alternative beside the open rollout, changes its share, or takes it away.
    ///
    /// # Errors
    /// [`Error::NotOpen`], [`Error::NotTried`] unless a candidate is held or the rollout paused, and whatever is wrong with the package.
    #[tracing::instrument(name = "order.try", skip_all, fields(service = %name), err(level = "info"))]
    pub async fn try_beside(&self, name: &ServiceName, alternative: Alternative) -> Result<Accepted, Error> {
        let Alternative { what, share, kind, actor } = alternative;
        let state = self.ledger.service(name);
        let machine = machine(present(&state)?)?;
        let arm = match what {
            Tried::Revision(revision) if runs(machine, revision) => {
                return self.steer(name, Order::Try { revision, share, kind }, actor).await;
            }
            Tried::Revision(revision) => {
                let unknown = || Error::NoRevision { service: name.clone(), revision };
                let made = state.revisions.get(&revision).ok_or_else(unknown)?;
                ArmPackage { package: made.package, flags: made.flags.clone() }
            }
            Tried::Package(arm) => arm,
        };
        super::freeze::refuse_frozen(&state)?;
        may_try(&state, state.next_revision(), share, kind)?;
        let chosen = self.alternative(&state, arm).await?;
        let spec = state.spec.as_ref().ok_or_else(|| Error::NoService(name.clone()))?;
        let surge = [machine.plan.instances_for(share)];
        self.room_for(&state, spec, &surge, std::slice::from_ref(&chosen)).await?.refuse()?;
        self.decide(name, actor, |state| {
            let state = present(state)?;
            let spec = state.spec.as_ref().ok_or_else(|| Error::NoService(name.clone()))?;
            super::freeze::refuse_frozen(state)?;
            let number = state.next_revision();
            let open = may_try(state, number, share, kind)?;
            let revision = Box::new(self.revision(spec, &chosen, number, self.ledger.now()));
            let order = Order::Try { revision: number, share, kind };
            let bodies = vec![EventBody::RevisionCreated { revision }, EventBody::Ordered { order }];
            let accepted = Accepted { revision: Some(number), ..accepted(state) };
            Ok(Decision { rollout: Some(open), bodies, accepted })
        })
        .await
    }

    /// The package of a revision that would run beside the open rollout as a new one; none when it runs beside it already, or is not known.
    pub fn package_to_try(&self, name: &ServiceName, revision: RevisionNumber) -> Option<Digest> {
        let state = self.ledger.service(name);
        let is_beside = state.open.as_ref().is_some_and(|open| runs(&open.machine, revision));
        state.revisions.get(&revision).filter(|_| !is_beside).map(|made| made.package)
    }

    /// An alternative's package, held against what any other of the service is held against. Of the service's flags it takes those that it knows.
    async fn alternative(&self, state: &ServiceState, arm: ArmPackage) -> Result<Chosen, Error> {
        let package = self.packages.document(arm.package).await?;
        let mut spec = state.spec.as_deref().cloned().ok_or_else(|| Error::NoService(state.name.clone()))?;
        spec.flags.retain(|name, _| package.flags.contains_key(name));
        self.choose(&state.name, &spec, arm).await
    }
}

fn machine(state: &ServiceState) -> Result<&Rollout, Error> {
    state.open.as_ref().map(|open| &open.machine).ok_or_else(|| Error::NotOpen(state.name.clone()))
}

/// Whether a revision runs beside the rollout.
pub(super) fn runs(machine: &Rollout, revision: RevisionNumber) -> bool {
    machine.beside().get(&revision).is_some_and(|one| !one.is_out())
}

/// The open rollout, if that may run beside it.
fn may_try(
    state: &ServiceState,
    revision: RevisionNumber,
    share: Weight,
    kind: BesideKind,
) -> Result<modelyard_core::RolloutId, Error> {
    let machine = machine(state)?;
    let refused = |why| Error::NotTried { service: state.name.clone(), why };
    machine.may_try(revision, share, kind).map_err(refused)?;
    state.current_rollout().cloned().ok_or_else(|| Error::NotOpen(state.name.clone()))
}
