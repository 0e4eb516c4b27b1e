//! What became of the instances: pure reading of what the target and the probes say.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::failure::Cause;
use modelyard_core::instance::{Exit, InstanceState, InstanceStatus};
use modelyard_core::{InstanceId, Millis, RevisionNumber, Timestamp};

use super::machines::Away;
use crate::prober::Health;
use crate::store::fold::{Instance, ServiceState, Stage};

/// What the target said at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetSeen {
    /// When it was asked: what is missing although it was there before this moment is gone.
    pub begun: Timestamp,
    /// Every instance that it knows.
    pub instances: BTreeMap<InstanceId, Arc<InstanceStatus>>,
}

/// Something that happened to an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which.
    pub id: InstanceId,
    /// Of which revision.
    pub revision: RevisionNumber,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It became live.
    Live {
        /// Time since it was asked for.
        after: Millis,
    },
    /// It failed and still runs.
    Failed {
        /// Why.
        cause: Cause,
        /// In a sentence.
        detail: String,
        /// With figures.
        evidence: Vec<String>,
    },
    /// It ended by itself.
    Died {
        /// Why.
        cause: Cause,
        /// In a sentence.
        detail: String,
    },
    /// It ended as it was asked to.
    Ended {
        /// How, for people.
        how: String,
    },
}

/// Everything that happened to the service's instances and is not in the log yet.
pub fn findings(
    state: &ServiceState,
    seen: &TargetSeen,
    health: impl Fn(&InstanceId) -> Option<Health>,
    away: &Away,
    now: Timestamp,
) -> Vec<Finding> {
    let startup = state.spec.as_ref().map_or_else(Default::default, |spec| spec.analysis.clone()).startup_timeout;
    let look = |(id, instance): (&InstanceId, &Instance)| {
        let status = seen.instances.get(id);
        let what = match status.map(|status| &status.state) {
            Some(InstanceState::Exited(exit)) => Some(exited(instance, exit)),
            Some(InstanceState::Running { .. }) => judged(instance, health(id).unwrap_or_default(), now),
            Some(InstanceState::Starting) => None,
            None => vanished(instance, seen.begun),
        };
        // Whoever does not answer is held against its machine at once; anything else waits until the machine is surely gone.
        let at_once = away.why(instance).filter(|_| matches!(what, Some(What::Failed { .. })));
        let what = match status.and_then(|status| status.out_of_reach.as_deref()).or(at_once) {
            Some(why) => cut_off(instance, what, why),
            None => what,
        };
        let what = what.or_else(|| late(instance, status.map(AsRef::as_ref), health(id), startup, now))?;
        Some(Finding { id: id.clone(), revision: instance.revision, what })
    };
    state.instances.iter().filter_map(look).collect()
}

fn exited(instance: &Instance, exit: &Exit) -> What {
    let how = describe_exit(exit, instance.asked);
    if !instance.stays() || exit.asked {
        return What::Ended { how };
    }
    let cause = match exit {
        Exit { start_error: Some(_), .. } => Cause::StartFailed,
        Exit { out_of_memory: true, .. } => Cause::OutOfMemory,
        _ => Cause::Crash,
    };
    What::Died { cause, detail: how }
}

/// For people: `ended with exit code 1 after 12 s, peak memory 120 MB`.
fn describe_exit(exit: &Exit, asked: Timestamp) -> String {
    if let Some(error) = &exit.start_error {
        return format!("could not be started: {error}");
    }
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let memory = match exit.peak_memory_bytes {
        Some(bytes) => format!(", peak memory {} MB", bytes / 1_000_000),
        None => String::new(),
    };
    let why = if exit.out_of_memory { " past its memory limit" } else { "" };
    format!("{how}{why} after {}{memory}", exit.at - asked)
}

fn judged(instance: &Instance, health: Health, now: Timestamp) -> Option<What> {
    let was_live = match instance.stage {
        Stage::Draining { .. } => return None,
        Stage::Live => true,
        Stage::Starting => false,
    };
    if let Some((cause, detail)) = health.failure(was_live) {
        return Some(What::Failed { cause, detail, evidence: health.evidence() });
    }
    (health.live && !was_live).then(|| What::Live { after: now - instance.asked })
}

/// An instance whose machine is out of reach. It is not waited for: when the machine comes back, what nobody wants there is ended.
///
/// A live one is judged by its probes, as if it were here: it may still be reached while nobody can be asked about it.
fn cut_off(instance: &Instance, judged: Option<What>, why: &str) -> Option<What> {
    let machine = instance.machine.as_ref().map_or_else(String::new, |machine| format!(" `{machine}`"));
    let said = format!("its machine{machine} is out of reach: {why}");
    match (instance.stage, judged) {
        (_, Some(What::Failed { cause, detail, mut evidence })) => {
            evidence.push(said);
            let cause = if cause == Cause::Unresponsive { Cause::MachineLost } else { cause };
            Some(What::Failed { cause, detail, evidence })
        }
        (_, Some(other)) => Some(other),
        (Stage::Starting, None) => Some(What::Failed {
            cause: Cause::MachineLost,
            detail: format!("was not live yet, and {said}"),
            evidence: Vec::new(),
        }),
        (Stage::Draining { .. }, None) => Some(What::Ended { how: format!("was left behind: {said}") }),
        (Stage::Live, None) => None,
    }
}

fn vanished(instance: &Instance, begun: Timestamp) -> Option<What> {
    match instance.stage {
        // Not carried out yet: the controller asks (again).
        Stage::Starting => None,
        Stage::Live if instance.live_since.is_some_and(|since| since < begun) => {
            Some(What::Died { cause: Cause::Crash, detail: "is gone, and its target knows nothing of it".to_owned() })
        }
        Stage::Draining { since } if since < begun => Some(What::Ended { how: "is gone".to_owned() }),
        Stage::Live | Stage::Draining { .. } => None,
    }
}

fn late(
    instance: &Instance,
    status: Option<&InstanceStatus>,
    health: Option<Health>,
    limit: Millis,
    now: Timestamp,
) -> Option<What> {
    if instance.stage != Stage::Starting || now - instance.asked < limit {
        return None;
    }
    let stands = match status.map(|status| &status.state) {
        None => "was not started by its target",
        Some(InstanceState::Starting) => "has not announced where it listens",
        Some(_) => "listens, but is not ready",
    };
    let detail = format!("{stands} after {limit}");
    let evidence = health.map(|health| health.evidence()).unwrap_or_default();
    Some(What::Failed { cause: Cause::StartupTimeout, detail, evidence })
}
