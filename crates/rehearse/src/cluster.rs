//! The modelled target: instances that start late, die, hang, drain and end.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::failure::{Cause, Failure};
use modelyard_core::{InstanceId, Millis, RevisionNumber, Timestamp};
use modelyard_rollout::PoolSeen;

/// How a revision behaves once it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Temper {
    /// Share of its answers that are errors.
    pub error_rate: f64,
    /// Latency of its answers in milliseconds.
    pub latency_ms: u64,
    /// Its instances end this long after they were live, each time.
    pub crashes_after: Option<(Millis, Cause)>,
    /// Its instances never become ready.
    pub never_starts: bool,
    /// Share of its answers that are right, as labels tell it.
    pub accuracy: f64,
    /// Share of its answers that agree with stable's.
    pub agreement: f64,
}

impl Temper {
    /// Answers well, in 5 ms.
    pub const fn good() -> Self {
        let (crashes_after, never_starts) = (None, false);
        Self { error_rate: 0.0, latency_ms: 5, crashes_after, never_starts, accuracy: 0.8, agreement: 1.0 }
    }
}

/// One running copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Instance {
    pub(crate) revision: RevisionNumber,
    /// When it becomes ready and live; `None` for one that never does.
    pub(crate) live_at: Option<Timestamp>,
    pub(crate) hangs_until: Timestamp,
    /// When it is gone, once it was asked to end.
    pub(crate) gone_at: Option<Timestamp>,
}

impl Instance {
    pub(crate) fn answers(&self, now: Timestamp) -> bool {
        self.live_at.is_some_and(|at| at <= now) && self.hangs_until <= now
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.gone_at.is_some()
    }
}

/// The modelled target.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) instances: BTreeMap<u64, Instance>,
    /// Every id that was ever started: none is started twice.
    started: BTreeSet<u64>,
    /// What went wrong and was not reported yet.
    pub(crate) failures: Vec<Failure>,
}

impl Cluster {
    /// Starts an instance, unless this id was started before.
    pub(crate) fn start(
        &mut self,
        id: u64,
        revision: RevisionNumber,
        temper: Temper,
        ready_after: Millis,
        now: Timestamp,
    ) {
        if !self.started.insert(id) {
            return;
        }
        let live_at = (!temper.never_starts).then(|| now + ready_after);
        self.instances.insert(id, Instance { revision, live_at, hangs_until: Timestamp(0), gone_at: None });
    }

    pub(crate) fn stop(&mut self, id: u64, now: Timestamp) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.gone_at.get_or_insert(now + Millis(250));
        }
    }

    /// An instance ends by itself.
    pub(crate) fn die(&mut self, id: u64, cause: Cause, now: Timestamp) {
        let Some(instance) = self.instances.remove(&id) else { return };
        if instance.is_leaving() {
            return; // it was asked to end: nobody calls that a failure
        }
        self.failures.push(Failure {
            cause,
            revision: instance.revision,
            instance: InstanceId::new(format!("i{id}")).ok(),
            at: now,
            detail: format!("instance i{id} ended: {cause}"),
            evidence: Vec::new(),
        });
    }

    /// Lets time pass: what was asked to end is gone, what its own temper kills dies.
    pub(crate) fn advance(&mut self, tempers: &BTreeMap<RevisionNumber, Temper>, now: Timestamp) {
        self.instances.retain(|_, instance| instance.gone_at.is_none_or(|at| at > now));
        let doomed = |instance: &Instance| {
            let (after, cause) = tempers.get(&instance.revision)?.crashes_after?;
            (now >= instance.live_at? + after).then_some(cause)
        };
        let dying: Vec<(u64, Cause)> =
            self.instances.iter().filter_map(|(&id, instance)| Some((id, doomed(instance)?))).collect();
        dying.into_iter().for_each(|(id, cause)| self.die(id, cause, now));
    }

    /// What an observer sees, by revision. Those in `ending` were asked to end, though the command may be lost.
    pub(crate) fn seen(&self, ending: &BTreeSet<u64>, now: Timestamp) -> BTreeMap<RevisionNumber, PoolSeen> {
        let mut pools: BTreeMap<RevisionNumber, PoolSeen> = BTreeMap::new();
        for (id, instance) in &self.instances {
            let pool = pools.entry(instance.revision).or_default();
            match instance.is_leaving() || ending.contains(id) {
                true => pool.leaving += 1,
                false => {
                    pool.running += 1;
                    pool.live += u32::from(instance.answers(now));
                }
            }
        }
        pools
    }
}
