//! Deploying: a new revision, further ones for a strategy's further arms, and a rollout to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::event::{Actor, EventBody};
use modelyard_core::package::{Package, Resources};
use modelyard_core::service::{Pools, Revision, ServiceSpec, TargetKind};
use modelyard_core::signature::{Signature, TensorSpec, compatible};
use modelyard_core::strategy::QualityPolicy;
use modelyard_core::{Digest, RevisionNumber, RolloutId, ServiceName, Timestamp, nearest};
use modelyard_rollout::{Plan, Rollout};
use serde::Deserialize;
use serde_json::Value;

use super::{Accepted, Decision, Error, Orders, package_of};
use crate::policy::ImageChoice;
use crate::store::fold::ServiceState;

/// What to deploy.
#[derive(Clone, Debug)]
pub struct Deploy {
    /// The service's rules.
    pub spec: ServiceSpec,
    /// The package.
    pub package: Digest,
    /// Packages of the strategy's further arms, in their order.
    pub arms: Vec<ArmPackage>,
    /// Who asks.
    pub actor: Actor,
}

/// What a further arm runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmPackage {
    /// The package.
    pub package: Digest,
    /// Values of its flags, over the service's.
    #[serde(default)]
    pub flags: BTreeMap<String, Value>,
}

/// A package with resolved flags.
pub(super) struct Chosen {
    digest: Digest,
    pub(super) package: Arc<Package>,
    image: Option<Digest>,
    flags: BTreeMap<String, Value>,
}

/// A deployment that makes sense: its frozen rules, and what the candidate and each further arm run.
pub(super) struct Checked {
    pub(super) plan: Plan,
    pub(super) chosen: Vec<Chosen>,
}

/// What becomes a revision: the first deployment has nothing to be compared with, so it is the candidate alone.
pub(super) fn made<'a>(state: &ServiceState, chosen: &'a [Chosen]) -> &'a [Chosen] {
    if state.stable.is_some() { chosen } else { &chosen[..1] }
}

impl Orders {
    /// Makes a revision for the candidate and for each further arm, and starts a rollout to it, in one transaction.
    ///
    /// # Errors
    /// [`Error::Frozen`], [`Error::Open`] while a rollout has no outcome yet; whatever is wrong with rules, package, arms or flags.
    #[tracing::instrument(name = "order.deploy", skip_all, fields(service = %name, package = %deploy.package), err(level = "info"))]
    pub async fn deploy(&self, name: &ServiceName, deploy: Deploy) -> Result<Accepted, Error> {
        let Checked { plan, chosen } = self.check(name, &deploy).await?;
        let Deploy { spec, actor, .. } = deploy;
        let state = self.ledger.service(name);
        refuse_open(&state)?;
        let surge = plan.surge(state.stable.is_some());
        self.room_for(&state, &spec, &surge, made(&state, &chosen)).await?.refuse()?;
        self.decide(name, actor, |state| {
            refuse_open(state)?;
            // One moment for all of it: a shadow's comparisons count from the start of the rollout on.
            let (made, now) = (made(state, &chosen), self.ledger.now());
            let numbers: Vec<RevisionNumber> =
                (state.next_revision().0..).map(RevisionNumber).take(made.len()).collect();
            let revisions = numbers.iter().zip(made).map(|(&number, chosen)| {
                let revision = self.revision(&spec, chosen, number, now);
                EventBody::RevisionCreated { revision: Box::new(revision) }
            });
            let mut before = vec![EventBody::ServiceSet { spec: Box::new(spec.clone()) }];
            before.extend(revisions);
            let (candidate, arms) =
                numbers.split_first().unwrap_or_else(|| unreachable!("the candidate is always made"));
            Ok(start(state, *candidate, arms, plan.clone(), before, now))
        })
        .await
    }

    /// Everything that can be said of a deployment before it is known what else goes on.
    pub(super) async fn check(&self, name: &ServiceName, deploy: &Deploy) -> Result<Checked, Error> {
        let Deploy { spec, package: digest, arms, .. } = deploy;
        if spec.name != *name {
            return Err(Error::OtherName { address: name.clone(), document: spec.name.clone() });
        }
        let plan = Plan::new(spec)?;
        super::versions::check(&self.ledger.world(), spec, self.ledger.now())?;
        self.check_machines(name, spec)?;
        let wanted = spec.strategy.further().len();
        if wanted != arms.len() {
            return Err(Error::Arms { wanted, given: arms.len() });
        }
        let candidate = ArmPackage { package: *digest, flags: BTreeMap::new() };
        let mut chosen = Vec::new();
        for arm in std::iter::once(candidate).chain(arms.iter().cloned()) {
            chosen.push(self.choose(name, spec, arm).await?);
        }
        Ok(Checked { plan, chosen })
    }

    /// Refuses a service for which its environment has no machines.
    fn check_machines(&self, service: &ServiceName, spec: &ServiceSpec) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Machines { service: service.clone(), why });
        if !spec.target.has_machines() {
            return match spec.machines.is_empty() && spec.pools == Pools::Together {
                true => Ok(()),
                false => refuse("`machines` and `pools` are for `target = \"ssh\"` and `\"docker\"`".to_owned()),
            };
        }
        let known = self.target.machines().into_iter().filter(|seen| seen.listed && seen.target == spec.target);
        let known = known.map(|seen| seen.id);
        let names: Vec<_> = known.filter(|id| id.environment == spec.environment).map(|id| id.name).collect();
        if names.is_empty() {
            return refuse(format!(
                "environment `{}` has none for the target `{}`",
                spec.environment,
                spec.target.name()
            ));
        }
        if let Some(stranger) = spec.machines.iter().find(|name| !names.contains(name)) {
            let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
            return refuse(format!(
                "environment `{}` has no machine `{stranger}`, but {}",
                spec.environment,
                names.join(", ")
            ));
        }
        let count = if spec.machines.is_empty() { names.len() } else { spec.machines.len() };
        match spec.pools == Pools::Apart && count < 2 {
            true => refuse("pools that are apart need two machines at least".to_owned()),
            false => Ok(()),
        }
    }

    /// Looks an arm's package up, holds it against what the environment demands, resolves its flags, and checks that callers can be answered by it.
    pub(super) async fn choose(
        &self,
        name: &ServiceName,
        spec: &ServiceSpec,
        arm: ArmPackage,
    ) -> Result<Chosen, Error> {
        let package = self.packages.document(arm.package).await?;
        let reasons = self.packages.reasons(arm.package, &spec.environment).await?;
        if !reasons.is_empty() {
            return Err(Error::Policy { package: arm.package, environment: spec.environment.clone(), reasons });
        }
        let image = match spec.target {
            TargetKind::Docker => Some(self.image(spec, arm.package, &package).await?),
            _ => None,
        };
        let mut given = spec.flags.clone();
        given.extend(arm.flags);
        let flags = package.flag_values(&given).map_err(Error::Flags)?;
        self.check_compatible(&self.ledger.service(name), &package).await?;
        check_fields(&spec.quality, &package.signature)?;
        Ok(Chosen { digest: arm.package, package, image, flags })
    }

    /// The container image that instances of a package run, for as long as the revision lives.
    async fn image(&self, spec: &ServiceSpec, digest: Digest, package: &Package) -> Result<Digest, Error> {
        match self.packages.image(digest, &spec.environment).await? {
            ImageChoice::Taken(image) => Ok(image),
            ImageChoice::Absent => {
                Err(Error::NoImage { package: digest, what: format!("{}:{}", package.name, package.version) })
            }
            ImageChoice::Refused(why) => {
                Err(Error::Policy { package: digest, environment: spec.environment.clone(), reasons: vec![why] })
            }
        }
    }

    pub(super) fn revision(
        &self,
        spec: &ServiceSpec,
        chosen: &Chosen,
        number: RevisionNumber,
        created: Timestamp,
    ) -> Revision {
        Revision {
            number,
            created,
            model: chosen.package.name.clone(),
            version: chosen.package.version.clone(),
            package: chosen.digest,
            image: chosen.image,
            flags: chosen.flags.clone(),
            configuration: spec.configuration.clone(),
            resources: limits(&spec.resources, &chosen.package.resources),
            api_version: spec.api_version(),
        }
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

/// Whether what drift is looked at is there: a name with a slip of the pen would be looked at for ever, and never move.
fn check_fields(quality: &QualityPolicy, signature: &Signature) -> Result<(), Error> {
    let side = |side: &'static str, specs: &[TensorSpec]| -> Vec<String> {
        specs.iter().map(|spec| format!("{side} {}", spec.name)).collect()
    };
    let known = [side("input", &signature.inputs), side("output", &signature.outputs)].concat();
    // A program need not describe its answers.
    let is_open = |field: &str| field.starts_with("output ") && signature.outputs.is_empty();
    for field in quality.drift.iter().filter_map(|rule| rule.field.as_deref()) {
        let name = field.rsplit_once('[').filter(|(_, column)| column.ends_with(']')).map_or(field, |(name, _)| name);
        if matches!(name, "input" | "output") || known.iter().any(|known| known == name) || is_open(name) {
            continue;
        }
        return Err(Error::DriftField {
            field: field.to_owned(),
            hint: match nearest(name, known.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there are {}", known.join(", ")),
            },
        });
    }
    Ok(())
}

/// Deploys must not be barred, and a rollout without outcome must end first. One that only keeps its old pool is closed by the next.
pub fn refuse_open(state: &ServiceState) -> Result<(), Error> {
    super::freeze::refuse_frozen(state)?;
    match state.undecided() {
        Some(open) => Err(Error::Open { service: state.name.clone(), rollout: open.id.clone() }),
        None => Ok(()),
    }
}

/// The start of a rollout from stable to `candidate` with further arms, after the events `before`.
pub fn start(
    state: &ServiceState,
    candidate: RevisionNumber,
    arms: &[RevisionNumber],
    plan: Plan,
    before: Vec<EventBody>,
    at: Timestamp,
) -> Decision {
    let id = next_rollout(state);
    let strategy = plan.strategy.name().to_owned();
    let machine = Rollout::start(state.name.clone(), state.stable, candidate, arms, plan, at);
    let json = serde_json::to_value(&machine).unwrap_or_else(|error| unreachable!("a rollout is plain data: {error}"));
    let started =
        EventBody::RolloutStarted { strategy: strategy.clone(), stable: machine.stable, candidate, state: json };
    let accepted = Accepted {
        rollout: Some(id.clone()),
        service: state.name.clone(),
        strategy: Some(strategy),
        revision: Some(candidate),
        outcome: "running",
        opened: true,
    };
    Decision { rollout: Some(id), bodies: before.into_iter().chain([started]).collect(), accepted }
}

/// `wine-3`: the service's third rollout. Always a valid id: a service name has 63 characters at most.
fn next_rollout(state: &ServiceState) -> RolloutId {
    let text = format!("{}-{}", state.name, state.rollouts.len() + 1);
    RolloutId::new(text).unwrap_or_else(|error| unreachable!("a service name and a number: {error}"))
}

/// The service's limits; what it leaves out comes from the package.
pub(super) fn limits(service: &Resources, package: &Resources) -> Resources {
    Resources {
        memory_bytes: service.memory_bytes.or(package.memory_bytes),
        cpu_millis: service.cpu_millis.or(package.cpu_millis),
    }
}
