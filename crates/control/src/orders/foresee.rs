//! What a deployment would do, told before anything starts: whom it makes, what runs beside stable, and whether there is room for it.
//!
//! Promises: nothing is started or written. What is expected to be used decides; limits that are larger than that only warn, for they are rarely reached.

use modelyard_core::RevisionNumber;
use modelyard_core::ServiceName;
use modelyard_core::instance::InstanceState;
use modelyard_core::ports::Room;
use modelyard_core::service::{ServiceSpec, TargetKind};
use serde::Serialize;

use super::deploy::{Checked, Chosen, Deploy, limits, made, refuse_open};
use super::{Error, Orders};
use crate::store::fold::ServiceState;

/// A deployment as it would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Foreseen {
    /// Service.
    pub service: ServiceName,
    /// Strategy, by name.
    pub strategy: String,
    /// Where it starts from; nothing before the first deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<RevisionNumber>,
    /// The revisions that it would make: the candidate, then further arms.
    pub arms: Vec<ArmForeseen>,
    /// What there is room for.
    pub room: Needs,
}

/// One revision that would be made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmForeseen {
    /// Its number.
    pub revision: RevisionNumber,
    /// Model and version.
    pub package: String,
    /// Instances that run beside stable's when most do.
    pub instances: u32,
}

/// What would run beside stable needs, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Needs {
    /// Memory that the further instances are expected to use, as far as anything is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory that they may use by their limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Memory that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_left_bytes: Option<u64>,
    /// CPU that all instances of the service may use then, in thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// CPU of the machine, in thousandths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_left_millis: Option<u64>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Why it would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Needs {
    /// Refuses what there is no room for.
    pub fn refuse(self) -> Result<Self, Error> {
        match self.refused {
            Some(why) => Err(Error::NoRoom(why)),
            None => Ok(self),
        }
    }

    fn judge(&mut self, instances: u32) {
        let mebibytes = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let instances =
            if instances == 1 { "1 further instance".to_owned() } else { format!("{instances} further instances") };
        if let (Some(needed), Some(left)) = (self.memory_bytes, self.memory_left_bytes)
            && needed > left
        {
            let (needed, left) = (mebibytes(needed), mebibytes(left));
            self.refused = Some(format!("{instances} are expected to need {needed} of memory, and {left} are left"));
        }
        if let (Some(limit), Some(left)) = (self.memory_limit_bytes, self.memory_left_bytes)
            && limit > left
        {
            let (limit, left) = (mebibytes(limit), mebibytes(left));
            self.warnings.push(format!("{instances} may use {limit} of memory by their limits, and {left} are left"));
        }
        if let (Some(wanted), Some(cores)) = (self.cpu_millis, self.cpu_left_millis)
            && wanted > cores
        {
            let cores_of = |millis: u64| millis as f64 / 1e3;
            self.warnings.push(format!(
                "all instances together may use {:.1} cores, and the machine has {:.1}: they slow each other down when all are busy",
                cores_of(wanted),
                cores_of(cores)
            ));
        }
    }
}

impl Orders {
    /// What [`Orders::deploy`] would do now.
    ///
    /// # Errors
    /// Whatever [`Orders::deploy`] would refuse, want of room apart: that is told.
    pub async fn foresee(&self, name: &ServiceName, deploy: &Deploy) -> Result<Foreseen, Error> {
        let Checked { plan, chosen } = self.check(name, deploy).await?;
        let state = self.ledger.service(name);
        refuse_open(&state)?;
        let surge = plan.surge(state.stable.is_some());
        let room = self.room_for(&state, &deploy.spec, &surge, made(&state, &chosen)).await?;
        let numbers = (state.next_revision().0..).map(RevisionNumber);
        let arms = numbers.zip(made(&state, &chosen)).zip(surge).map(|((revision, arm), instances)| ArmForeseen {
            revision,
            package: format!("{}:{}", arm.package.name, arm.package.version),
            instances,
        });
        Ok(Foreseen {
            service: name.clone(),
            strategy: plan.strategy.name().to_owned(),
            from: state.stable,
            arms: arms.collect(),
            room,
        })
    }

    /// What would run beside stable needs, so many instances of each, and what the target has left.
    pub(super) async fn room_for(
        &self,
        state: &ServiceState,
        spec: &ServiceSpec,
        surge: &[u32],
        chosen: &[Chosen],
    ) -> Result<Needs, Error> {
        // What other machines have left is not known here; an instance that is not placed says so itself.
        let left = match spec.target {
            TargetKind::Process => self.target.room().await,
            TargetKind::Ssh | TargetKind::Docker => Room::default(),
        };
        // What an instance of this service uses is best known from one that runs.
        let running = self.target.observe().await.unwrap_or_default();
        let of_stable = |id| state.instances.get(id).is_some_and(|instance| Some(instance.revision) == state.stable);
        let used =
            running.iter().filter(|one| of_stable(&one.id) && matches!(one.state, InstanceState::Running { .. }));
        let used = used.filter_map(|one| one.memory_bytes).max();
        let (mut expected, mut allowed, mut cpu) = (None, None, None);
        for (arm, &instances) in chosen.iter().zip(surge) {
            let limit = limits(&spec.resources, &arm.package.resources);
            let times = |one: Option<u64>, sum: Option<u64>| match one {
                Some(one) => Some(sum.unwrap_or(0).saturating_add(one.saturating_mul(u64::from(instances)))),
                None => sum,
            };
            let likely = match (used, limit.memory_bytes) {
                (Some(used), Some(limit)) => Some(used.min(limit)),
                (used, limit) => used.or(limit),
            };
            expected = times(likely, expected);
            allowed = times(limit.memory_bytes, allowed);
            cpu = times(limit.cpu_millis.map(u64::from), cpu);
        }
        // Those of stable want theirs too.
        let of_stable =
            state.stable.and_then(|stable| state.revisions.get(&stable)).and_then(|one| one.resources.cpu_millis);
        let cpu = cpu.map(|cpu| cpu + u64::from(of_stable.unwrap_or(0)) * u64::from(spec.instances));
        let mut needs = Needs {
            memory_bytes: expected,
            memory_limit_bytes: allowed,
            memory_left_bytes: left.memory_bytes,
            cpu_millis: cpu,
            cpu_left_millis: left.cpu_millis,
            ..Needs::default()
        };
        needs.judge(surge.iter().sum());
        Ok(needs)
    }
}
