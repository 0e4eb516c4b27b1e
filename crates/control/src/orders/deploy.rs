//! Deploying: a new revision, and a rollout to it.

use std::sync::Arc;

use modelyard_core::event::{Actor, EventBody};
use modelyard_core::package::{Package, Resources};
use modelyard_core::service::{Revision, ServiceSpec};
use modelyard_core::signature::compatible;
use modelyard_core::{Digest, RevisionNumber, RolloutId, ServiceName, Timestamp};
use modelyard_rollout::{Plan, Rollout};

use super::flags::resolve;
use super::{Accepted, Decision, Error, Orders, package_of};
use crate::store::fold::ServiceState;

/// What to deploy.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// The service's rules.
    pub spec: ServiceSpec,
    /// The package.
    pub package: Digest,
    /// Who asks.
    pub actor: Actor,
}

impl Orders {
    /// Makes a revision and starts a rollout to it, in one transaction.
    ///
    /// # Errors
    /// [`Error::Open`] while a rollout has no outcome yet; whatever is wrong with rules, package or flags.
    #[tracing::instrument(name = "order.deploy", skip_all, fields(service = %name, package = %deploy.package), err(level = "info"))]
    pub async fn deploy(&self, name: &ServiceName, deploy: Deploy) -> Result<Accepted, Error> {
        let Deploy { spec, package: digest, actor } = deploy;
        if spec.name != *name {
            return Err(Error::OtherName { address: name.clone(), document: spec.name });
        }
        let plan = Plan::new(&spec)?;
        let package = self.packages.document(digest).await?;
        let flags = resolve(&package.flags, &spec.flags).map_err(Error::Flags)?;
        self.check_compatible(&self.ledger.service(name), &package).await?;
        self.decide(name, actor, |state| {
            refuse_open(state)?;
            let revision = Revision {
                number: state.next_revision(),
                created: self.ledger.now(),
                model: package.name.clone(),
                version: package.version.clone(),
                package: digest,
                flags: flags.clone(),
                configuration: spec.configuration.clone(),
                resources: limits(&spec.resources, &package.resources),
                api_version: state.stable.and_then(|n| state.revisions.get(&n)).map_or(1, |stable| stable.api_version),
            };
            let before = vec![
                EventBody::ServiceSet { spec: Box::new(spec.clone()) },
                EventBody::RevisionCreated { revision: Box::new(revision.clone()) },
            ];
            Ok(start(state, revision.number, plan.clone(), before, self.ledger.now()))
        })
        .await
    }

    async fn check_compatible(&self, state: &ServiceState, package: &Arc<Package>) -> Result<(), Error> {
        let Some(stable) = state.stable else { return Ok(()) };
        let present = self.packages.document(package_of(state, stable)?).await?;
        let to = format!("{}:{}", package.name, package.version);
        compatible(&present.signature, &package.signature).map_err(|why| Error::Incompatible {
            service: state.name.clone(),
            from: stable,
            to,
            why,
        })
    }
}

/// A rollout without outcome must end first. One that only keeps its old pool is closed by the next.
pub fn refuse_open(state: &ServiceState) -> Result<(), Error> {
    match state.undecided() {
        Some(open) => Err(Error::Open { service: state.name.clone(), rollout: open.id.clone() }),
        None => Ok(()),
    }
}

/// The start of a rollout from stable to `candidate`, after the events `before`.
pub fn start(
    state: &ServiceState,
    candidate: RevisionNumber,
    plan: Plan,
    before: Vec<EventBody>,
    at: Timestamp,
) -> Decision {
    let id = next_rollout(state);
    let strategy = plan.strategy.name().to_owned();
    let machine = Rollout::start(state.name.clone(), state.stable, candidate, plan, at);
    let json = serde_json::to_value(&machine).unwrap_or_else(|error| unreachable!("a rollout is plain data: {error}"));
    let started =
        EventBody::RolloutStarted { strategy: strategy.clone(), stable: machine.stable, candidate, state: json };
    let accepted = Accepted {
        rollout: Some(id.clone()),
        service: state.name.clone(),
        strategy: Some(strategy),
        revision: Some(candidate),
        outcome: "running",
    };
    Decision { rollout: Some(id), bodies: before.into_iter().chain([started]).collect(), accepted }
}

/// `wine-3`: the service's third rollout. Always a valid id: a service name has 63 characters at most.
fn next_rollout(state: &ServiceState) -> RolloutId {
    let text = format!("{}-{}", state.name, state.rollouts.len() + 1);
    RolloutId::new(text).unwrap_or_else(|error| unreachable!("a service name and a number: {error}"))
}

/// The service's limits; what it leaves out comes from the package.
fn limits(service: &Resources, package: &Resources) -> Resources {
    Resources {
        memory_bytes: service.memory_bytes.or(package.memory_bytes),
        cpu_millis: service.cpu_millis.or(package.cpu_millis),
    }
}
