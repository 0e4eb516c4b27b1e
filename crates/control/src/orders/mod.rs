//! What callers may ask: deploy, steer, roll back, remove. Each is checked here and committed to the log; the controller does the rest.
//!
//! Promises: an order is refused whole, with what to do instead, or committed in one transaction.

mod alternative;
mod deploy;
mod flags;
mod foresee;
mod freeze;
mod rollback;
mod versions;

use std::sync::Arc;

use modelyard_core::event::{Actor, EventBody, Order, Outcome};
use modelyard_core::meaning::misread;
use modelyard_core::ports::Target;
use modelyard_core::signature::Incompatible;
use modelyard_core::{Digest, EnvironmentName, RevisionNumber, RolloutId, ServiceName};
use modelyard_rollout::PlanError;
use serde::Serialize;

use crate::ledger::Ledger;
use crate::packages::{PackageError, Packages};
use crate::store;
use crate::store::fold::ServiceState;

pub use alternative::{Alternative, Tried};
pub use deploy::{ArmPackage, Deploy};
pub use flags::in_use;
pub use rollback::Rollback;

/// Why an order was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such service.
    #[error("there is no service `{0}`")]
    NoService(ServiceName),
    /// The service has no such revision.
    #[error("`{service}` has no revision {revision}")]
    NoRevision {
        /// Service.
        service: ServiceName,
        /// The revision asked for.
        revision: RevisionNumber,
    },
    /// The service never had another revision that worked.
    #[error("`{0}` has no earlier revision that carried it")]
    NothingEarlier(ServiceName),
    /// The revision carries the service already.
    #[error("revision {revision} carries `{service}` already")]
    AlreadyStable {
        /// Service.
        service: ServiceName,
        /// The revision asked for.
        revision: RevisionNumber,
    },
    /// A rollout is open.
    #[error("rollout `{rollout}` of `{service}` is open")]
    Open {
        /// Service.
        service: ServiceName,
        /// The rollout.
        rollout: RolloutId,
    },
    /// Deploys of the service are barred.
    #[error("deploys of `{service}` are barred by {by} since {since}: {why}")]
    Frozen {
        /// Service.
        service: ServiceName,
        /// Who barred them.
        by: String,
        /// Since when, for people.
        since: String,
        /// Why.
        why: String,
    },
    /// No rollout is open.
    #[error("no rollout of `{0}` is open")]
    NotOpen(ServiceName),
    /// Nothing can be tried beside the rollout as it stands.
    #[error("nothing was started beside the rollout of `{service}`: {why}")]
    NotTried {
        /// Service.
        service: ServiceName,
        /// Why, and what can be done instead.
        why: &'static str,
    },
    /// The address names one service and the document another.
    #[error("the address names `{address}` and the document `{document}`")]
    OtherName {
        /// In the address.
        address: ServiceName,
        /// In the document.
        document: ServiceName,
    },
    /// The rules make no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The strategy has other arms than packages were given for.
    #[error("the strategy has {wanted} further arms, and packages were given for {given}")]
    Arms {
        /// Arms of the strategy.
        wanted: usize,
        /// Packages that were given.
        given: usize,
    },
    /// Values of flags do not fit the package's declarations.
    #[error("the flags do not fit the package: {}", .0.join("; "))]
    Flags(Vec<String>),
    /// A flag definition makes no sense.
    #[error("the flag definition cannot be used: {}", .0.join("; "))]
    Definition(Vec<String>),
    /// The environment demands more of the package.
    #[error("{package} may not go to `{environment}`: {}", reasons.join("; "))]
    Policy {
        /// Package.
        package: Digest,
        /// Where it was to go.
        environment: EnvironmentName,
        /// Every reason.
        reasons: Vec<String>,
    },
    /// Drift of something that the model has not is asked for.
    #[error("`quality.drift.field` is `{field}`, which the package's signature has not; {hint}")]
    DriftField {
        /// What was written.
        field: String,
        /// What may be meant.
        hint: String,
    },
    /// The package cannot be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Nothing new is to be deployed from the package.
    #[error("package {digest} was withdrawn: {why}")]
    Withdrawn {
        /// The package.
        digest: Digest,
        /// Who withdrew it, and why.
        why: String,
    },
    /// Callers of stable would misread its answers, or be misread.
    #[error("callers of `{service}` would misread `{to}`: {}", changes.join("; "))]
    Misread {
        /// Service.
        service: ServiceName,
        /// The package.
        to: String,
        /// What they would misread.
        changes: Vec<String>,
    },
    /// It cannot answer as the API version that it asks for.
    #[error("`{service}` cannot have this API version: {why}")]
    ApiVersion {
        /// Service.
        service: ServiceName,
        /// What is wrong.
        why: String,
        /// What to do.
        help: String,
    },
    /// Callers of the present revision would break.
    #[error("revision {from} of `{service}` cannot be followed by `{to}`: {why}")]
    Incompatible {
        /// Service.
        service: ServiceName,
        /// The present revision.
        from: RevisionNumber,
        /// Package or revision that was asked for.
        to: String,
        /// What differs.
        why: Incompatible,
    },
    /// The machine has no room for what would run beside stable.
    #[error("there is no room for this rollout: {0}")]
    NoRoom(String),
    /// There are no machines for what the service asks.
    #[error("`{service}` cannot run on machines: {why}")]
    Machines {
        /// Service.
        service: ServiceName,
        /// What is wrong.
        why: String,
    },
    /// The package has no container image, and the service runs in containers.
    #[error(
        "the registry has no container image of {what} (package {package}), and the target `docker` runs nothing else"
    )]
    NoImage {
        /// The package.
        package: Digest,
        /// Its name and version.
        what: String,
    },
    /// The log cannot be written.
    #[error("the order could not be recorded")]
    Store(#[from] store::Error),
}

impl Error {
    /// What the caller can do instead.
    pub fn help(&self) -> String {
        match self {
            Self::NoService(_) => "see `modelyard status` for the services there are, or deploy it first".into(),
            Self::NoRevision { service, .. } => format!("see `modelyard history {service}` for its revisions"),
            Self::NothingEarlier(service) => {
                format!("name a revision with `--to`, from `modelyard history {service}`, or deploy another version")
            }
            Self::AlreadyStable { service, .. } => format!("nothing to do; see `modelyard status {service}`"),
            Self::Open { service, .. } => {
                format!("wait for it (`modelyard watch {service}`), or end it with `modelyard promote {service} --all` or `modelyard abort {service}`")
            }
            Self::Frozen { service, .. } => {
                format!("nothing was changed; ask them, or lift it with `modelyard freeze {service} --undo`; `modelyard rollback {service}` still works")
            }
            Self::NotOpen(service) => {
                format!("start one with `modelyard deploy`; go back with `modelyard rollback {service}`")
            }
            Self::NotTried { service, .. } => format!("see `modelyard status {service}` for where the rollout stands"),
            Self::OtherName { .. } => "use the same name in both".into(),
            Self::Plan(_) => "change these keys of `service.toml`, or the flags of `modelyard deploy`".into(),
            Self::Arms { .. } => "name one package for each `[[strategy.arms]]`, then for each `[[strategy.shadows]]`, in their order".into(),
            Self::Flags(_) => "see the package's flags with `modelyard inspect`".into(),
            Self::Definition(_) => {
                "nothing was changed; see docs/guide/flags.md, or flagd's documentation, for the form of a definition".into()
            }
            Self::Policy { .. } => {
                "nothing was started; sign it with `modelyard sign`, or see `modelyard verify REF --env NAME`".into()
            }
            Self::DriftField { .. } => "nothing was changed; `modelyard inspect` shows the signature".into(),
            Self::Package(_) => "build it with `modelyard package`, then deploy the digest that it prints".into(),
            Self::Withdrawn { .. } => "deploy another version, or this one with `--yanked`; what runs already goes on".into(),
            Self::Misread { service, .. } => format!(
                "nothing was changed; say it in the package as before, serve it beside as an API version of its own (`[api]` with `of = \"{service}\"`), or \
                 take it with `--new-meanings` once those who call it know"
            ),
            Self::ApiVersion { help, .. } => format!("nothing was changed; {help}"),
            Self::Incompatible { service, .. } => format!(
                "callers would break: keep the inputs and outputs that there are, or serve it beside as an API version of its own, so that callers move \
                 on when they can: another name, and `[api]` with `of = \"{service}\"` and `version = 2` (docs/guide/api-versions.md)"
            ),
            Self::NoRoom(_) => {
                "nothing was started; end something else, lower `instances` or the number of arms, or take `rolling` or `recreate`, which need no second pool".into()
            }
            Self::Machines { .. } => {
                "nothing was started; name machines in `environments/NAME.toml` and let them count with `modelyard env set` (docs/guide/machines.md)".into()
            }
            Self::NoImage { .. } => {
                "nothing was started; `modelyard deploy` makes the image where the package is, `modelyard package DIR --format image` by hand; a Python function needs a base: `base = \"…\"` under [image] in modelyard.toml".into()
            }
            Self::Store(_) => "nothing was changed; check that the disk is not full and the control plane's log".into(),
        }
    }
}

/// What an order led to, as the API answers it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accepted {
    /// The rollout that was started or steered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// Service.
    pub service: ServiceName,
    /// Strategy, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Where the rollout goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionNumber>,
    /// `running`: the controller is at it.
    pub outcome: &'static str,
    /// Whether the rollout was opened by this order; otherwise one that was open already was steered.
    pub opened: bool,
}

/// Takes orders.
#[derive(Clone)]
pub struct Orders {
    ledger: Arc<Ledger>,
    packages: Arc<dyn Packages>,
    target: Arc<dyn Target>,
}

// Orders race with the controller's own commits; each lost race means that it wrote something, so this many in a row do not happen.
const RACES: u32 = 50;

impl Orders {
    /// Takes orders for the services of a log, whose instances run on `target`.
    pub fn new(ledger: Arc<Ledger>, packages: Arc<dyn Packages>, target: Arc<dyn Target>) -> Self {
        Self { ledger, packages, target }
    }

    /// Refuses packages that were withdrawn.
    ///
    /// # Errors
    /// [`Error::Withdrawn`] for the first of them.
    pub async fn refuse_withdrawn(&self, digests: Vec<Digest>) -> Result<(), Error> {
        for digest in digests {
            if let Some(why) = self.packages.withdrawn(digest).await? {
                return Err(Error::Withdrawn { digest, why });
            }
        }
        Ok(())
    }

    /// What callers of stable would misread of a package, although it fits; nothing before the first deployment.
    ///
    /// # Errors
    /// [`Error::Package`].
    pub async fn misread(&self, name: &ServiceName, digest: Digest) -> Result<Vec<String>, Error> {
        let state = self.ledger.service(name);
        let Some(stable) = state.stable else { return Ok(Vec::new()) };
        let present = self.packages.document(package_of(&state, stable)?).await?;
        Ok(misread(&present.meanings, &self.packages.document(digest).await?.meanings))
    }

    /// What callers of stable would misread of each package, refused unless it is `accepted`: packages with none of it are left out.
    ///
    /// # Errors
    /// [`Error::Misread`] for the first of them.
    pub async fn hold_against_stable(
        &self,
        name: &ServiceName,
        packages: &[Digest],
        accepted: bool,
    ) -> Result<Vec<(Digest, Vec<String>)>, Error> {
        let mut all = Vec::new();
        for &package in packages {
            let changes = self.misread(name, package).await?;
            if changes.is_empty() {
                continue;
            }
            if !accepted {
                let document = self.packages.document(package).await?;
                let to = format!("{}:{}", document.name, document.version);
                return Err(Error::Misread { service: name.clone(), to, changes });
            }
            all.push((package, changes));
        }
        Ok(all)
    }

    /// Writes down that a person took packages although callers may misread them.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn accept_misread(
        &self,
        name: &ServiceName,
        misread: Vec<(Digest, Vec<String>)>,
        actor: Actor,
    ) -> Result<(), Error> {
        for (package, changes) in misread {
            self.ledger.note_by(name, actor.clone(), vec![EventBody::MeaningsAccepted { package, changes }]).await?;
        }
        Ok(())
    }

    /// Steers the open rollout.
    ///
    /// # Errors
    /// [`Error::NoService`], [`Error::NotOpen`], [`Error::NotTried`].
    #[tracing::instrument(name = "order.steer", skip_all, fields(service = %name, ?order), err(level = "info"))]
    pub async fn steer(&self, name: &ServiceName, order: Order, actor: Actor) -> Result<Accepted, Error> {
        self.decide(name, actor, |state| {
            let state = present(state)?;
            let open = state.open.as_ref().ok_or_else(|| Error::NotOpen(name.clone()))?;
            // Within the rollback window only going back makes sense, unless a person is asked.
            let machine = &open.machine;
            let asked = machine.is_held() || (order == Order::Abort && machine.is_in_rollback_window());
            if machine.outcome().is_some() && !asked {
                return Err(Error::NotOpen(name.clone()));
            }
            if let Order::Try { revision, share, kind } = &order {
                let known = alternative::runs(machine, *revision);
                let refused = |why| Error::NotTried { service: name.clone(), why };
                known.then_some(()).ok_or_else(|| refused("that revision does not run beside it"))?;
                machine.may_try(*revision, *share, *kind).map_err(refused)?;
            }
            let bodies = vec![EventBody::Ordered { order: order.clone() }];
            Ok(Decision { rollout: Some(open.id.clone()), bodies, accepted: accepted(state) })
        })
        .await
    }

    /// Removes a service: its instances are drained and stopped, its route goes; its history stays.
    ///
    /// # Errors
    /// [`Error::NoService`], [`Error::Frozen`].
    #[tracing::instrument(name = "order.remove", skip_all, fields(service = %name), err(level = "info"))]
    pub async fn remove(&self, name: &ServiceName, actor: Actor) -> Result<Accepted, Error> {
        self.decide(name, actor, |state| {
            let state = present(state)?;
            freeze::refuse_frozen(state)?;
            let mut bodies = Vec::new();
            if state.undecided().is_some() {
                let (cause, failure, stable) = (None, None, state.stable);
                bodies.push(EventBody::RolloutFinished { outcome: Outcome::Aborted, cause, failure, stable });
            }
            bodies.push(EventBody::ServiceRemoved);
            Ok(Decision { rollout: state.current_rollout().cloned(), bodies, accepted: accepted(state) })
        })
        .await
    }

    /// Decides on the present state and commits, again from the start whenever somebody else wrote first.
    async fn decide(
        &self,
        name: &ServiceName,
        actor: Actor,
        decide: impl Fn(&ServiceState) -> Result<Decision, Error>,
    ) -> Result<Accepted, Error> {
        let mut races = 0;
        loop {
            let state = self.ledger.service(name);
            let Decision { rollout, bodies, accepted } = decide(&state)?;
            match self.ledger.commit_for(&state, rollout, actor.clone(), bodies).await {
                Ok(_) => return Ok(accepted),
                Err(store::Error::Conflict { .. }) if races < RACES => races += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What to commit, and what to answer then.
struct Decision {
    rollout: Option<RolloutId>,
    bodies: Vec<EventBody>,
    accepted: Accepted,
}

/// The service, if it was not removed.
fn present(state: &ServiceState) -> Result<&ServiceState, Error> {
    if state.spec.is_some() { Ok(state) } else { Err(Error::NoService(state.name.clone())) }
}

/// The answer about the service's present rollout.
fn accepted(state: &ServiceState) -> Accepted {
    let record = state.rollouts.last().filter(|record| Some(&record.id) == state.current_rollout());
    Accepted {
        rollout: record.map(|record| record.id.clone()),
        service: state.name.clone(),
        strategy: record.map(|record| record.strategy.clone()),
        revision: record.map(|record| record.to),
        outcome: "running",
        opened: false,
    }
}

/// The digest of a revision's package.
fn package_of(state: &ServiceState, revision: RevisionNumber) -> Result<Digest, Error> {
    let known = state.revisions.get(&revision).map(|revision| revision.package);
    known.ok_or_else(|| Error::NoRevision { service: state.name.clone(), revision })
}
