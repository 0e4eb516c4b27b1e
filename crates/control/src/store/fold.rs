//! State folded from the log: what every service is, should be, and has been.
//!
//! Promises: a pure function of the events, in their order. Applying one event after the other gives the same as folding all.
//! Absent on purpose: what is merely observed (addresses, probes, counters); a restart observes it anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::event::{Actor, Event, EventBody, Order, Outcome};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::flags::Definition;
use modelyard_core::machine::MachineId;
use modelyard_core::service::{Desired, Revision, ServiceSpec};
use modelyard_core::{InstanceId, Millis, RevisionNumber, RolloutId, ServiceName, Timestamp, Weight};
use modelyard_rollout::{Phase, Rollout};

/// An instance that lived this long before it failed counts as a first failure again, not as one more of a row.
const STEADY: Millis = Millis::seconds(60);

/// Why an event does not fit.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// A rollout's state cannot be read.
    #[error("event {seq}: the rollout's state cannot be read; it may be of a newer `modelyard`")]
    Machine {
        /// Position of the event.
        seq: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// An event of a service or rollout names none.
    #[error("event {seq} does not say which {what} it belongs to")]
    Nameless {
        /// Position of the event.
        seq: u64,
        /// What is missing.
        what: &'static str,
    },
}

/// Everything that the log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Position of the last event.
    pub last_seq: u64,
    /// Highest generation of a route table that was applied.
    pub generation: u64,
    /// Services by name, removed ones included: their numbers are never given again.
    pub services: BTreeMap<ServiceName, Arc<ServiceState>>,
    /// Tokens that the log tells of, by id: whether each was revoked.
    pub tokens: Arc<BTreeMap<String, bool>>,
    /// Machines that are lost, and since when.
    pub lost: Arc<BTreeMap<MachineId, Timestamp>>,
}

impl World {
    /// Applies the next event.
    ///
    /// # Errors
    /// [`FoldError`] when the event does not fit; the world is then half changed and must be thrown away.
    pub fn apply(&mut self, event: &Event) -> Result<(), FoldError> {
        self.last_seq = event.seq;
        match &event.body {
            EventBody::RouteApplied { generation, .. } => self.generation = self.generation.max(*generation),
            EventBody::TokenMade { token } => {
                Arc::make_mut(&mut self.tokens).entry(token.id.clone()).or_insert(false);
            }
            EventBody::MachineLost { machine, .. } => {
                Arc::make_mut(&mut self.lost).insert(machine.clone(), event.at);
            }
            EventBody::MachineBack { machine, .. } | EventBody::MachineLeft { machine } => {
                Arc::make_mut(&mut self.lost).remove(machine);
            }
            EventBody::TokenRevoked { token, .. } => {
                Arc::make_mut(&mut self.tokens).insert(token.clone(), true);
            }
            _ => {}
        }
        let Some(name) = &event.service else { return Ok(()) };
        let service = self.services.entry(name.clone()).or_insert_with(|| Arc::new(ServiceState::new(name.clone())));
        Arc::make_mut(service).apply(event)
    }

    /// Services that were not removed.
    pub fn present(&self) -> impl Iterator<Item = &Arc<ServiceState>> {
        self.services.values().filter(|service| service.spec.is_some())
    }
}

/// What the log says of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceState {
    /// Its name.
    pub name: ServiceName,
    /// Position of its last event.
    pub last_seq: u64,
    /// Its rules; none once it was removed.
    pub spec: Option<Arc<ServiceSpec>>,
    /// Its revisions, for ever.
    pub revisions: BTreeMap<RevisionNumber, Arc<Revision>>,
    /// The revision that carries it when no rollout does.
    pub stable: Option<RevisionNumber>,
    /// What should be true now.
    pub desired: Desired,
    /// The rollout that is not over yet; it stays after its outcome until its old pool is retired.
    pub open: Option<Open>,
    /// Every rollout, oldest first.
    pub rollouts: Vec<Arc<Record>>,
    /// Instances that were asked for and have not ended.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// How many instances each revision ever had.
    pub numbered: BTreeMap<RevisionNumber, u32>,
    /// Failures of instances in a row, by revision.
    pub trouble: BTreeMap<RevisionNumber, Trouble>,
    /// When an instance last failed on each machine.
    pub failed_on: BTreeMap<MachineId, Timestamp>,
    /// Split that the gateway applied last.
    pub applied: BTreeMap<RevisionNumber, Weight>,
    /// By whom and why deploys are barred, if they are.
    pub frozen: Option<Arc<Freeze>>,
    /// Its flag definition, if it has one.
    pub flags: Option<Arc<Defined>>,
    /// Drops of quality between rollouts, oldest first, the last [`NOTICES`].
    pub notices: Vec<Arc<Notice>>,
}

/// How many drops of quality are remembered; the log has them all.
const NOTICES: usize = 50;

/// What serves had become worse, or what it was asked had moved.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Notice {
    /// When it was seen.
    pub at: Timestamp,
    /// The revision that served.
    pub revision: RevisionNumber,
    /// `quality` or `drift`.
    pub cause: Cause,
    /// Why, with figures.
    pub why: String,
}

/// Deploys are barred.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Freeze {
    /// Since when.
    pub since: Timestamp,
    /// Who barred them.
    pub by: Actor,
    /// Why.
    pub why: String,
}

/// A flag definition that was set.
#[derive(Clone, Debug, PartialEq)]
pub struct Defined {
    /// The document as it was given.
    pub document: serde_json::Value,
    /// The document read; what is wrong with it, when it is of a newer `modelyard`.
    pub definition: Result<Definition, Vec<String>>,
    /// When it was set.
    pub at: Timestamp,
    /// Who set it.
    pub by: Actor,
}

/// The rollout that is not over yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Its identity.
    pub id: RolloutId,
    /// The state machine.
    pub machine: Rollout,
    /// Orders that no step has seen yet.
    pub orders: Vec<Order>,
    /// Failures that no step has seen yet.
    pub failures: Vec<Failure>,
    /// The split that arms are compared at.
    pub split: Split,
}

/// While a test's split stands: before and after it, arms do not get what they were assigned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    asked: bool,
    /// When the gateway applied it.
    pub since: Option<Timestamp>,
    /// When the test was over.
    pub until: Option<Timestamp>,
}

impl Split {
    fn stepped(&mut self, phase: Phase, at: Timestamp) {
        match phase {
            Phase::Testing => self.asked = true,
            _ if self.asked => drop(self.until.get_or_insert(at)),
            _ => {}
        }
    }

    fn applied(&mut self, desired: &Desired, weights: &BTreeMap<RevisionNumber, Weight>, at: Timestamp) {
        let given = |weights: &BTreeMap<RevisionNumber, Weight>| -> Vec<_> {
            weights.iter().filter(|&(_, &share)| share > Weight::NONE).map(|(&r, &share)| (r, share)).collect()
        };
        if self.asked && given(&desired.weights) == given(weights) {
            self.since.get_or_insert(at);
        }
    }
}

/// What became of one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its identity.
    pub id: RolloutId,
    /// Strategy, by name.
    pub strategy: String,
    /// Where it started from.
    pub from: Option<RevisionNumber>,
    /// Where it was to go.
    pub to: RevisionNumber,
    /// Further arms beside the two.
    pub arms: Vec<RevisionNumber>,
    /// What ran beside the arms: shadows of the plan, and alternatives that were tried.
    pub beside: Vec<RevisionNumber>,
    /// When it started.
    pub started: Timestamp,
    /// When its outcome was known.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why, when the candidate failed.
    pub cause: Option<Cause>,
    /// The failure behind it.
    pub failure: Option<Box<Failure>>,
}

/// An instance that was asked for and has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// Revision that it is a copy of.
    pub revision: RevisionNumber,
    /// Position of the event that asked for it; handed to the target as generation.
    pub asked_seq: u64,
    /// When it was asked for.
    pub asked: Timestamp,
    /// Where it stands.
    pub stage: Stage,
    /// When it became live, if it did.
    pub live_since: Option<Timestamp>,
    /// Where it was placed, on targets that have several machines.
    pub machine: Option<MachineId>,
}

/// Where an instance stands, as the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Asked for, not live yet.
    Starting,
    /// Ready, and its answers are right.
    Live,
    /// Sent nothing new; ends once its requests are finished.
    Draining {
        /// Since when.
        since: Timestamp,
    },
}

/// Failures of a revision's instances in a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// How many.
    pub count: u32,
    /// When the last was seen.
    pub last: Timestamp,
    /// What the last was.
    pub why: String,
}

impl ServiceState {
    /// A service of which the log says nothing.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            last_seq: 0,
            spec: None,
            revisions: BTreeMap::new(),
            stable: None,
            desired: Desired::default(),
            open: None,
            rollouts: Vec::new(),
            instances: BTreeMap::new(),
            numbered: BTreeMap::new(),
            trouble: BTreeMap::new(),
            failed_on: BTreeMap::new(),
            applied: BTreeMap::new(),
            frozen: None,
            flags: None,
            notices: Vec::new(),
        }
    }

    /// What was noticed of the revision that serves since the last rollout.
    pub fn noticed(&self) -> impl Iterator<Item = &Arc<Notice>> {
        let since = self.rollouts.last().map_or(Timestamp(0), |record| record.started);
        self.notices.iter().filter(move |notice| notice.at >= since && Some(notice.revision) == self.stable)
    }

    /// Applies the next event of the service.
    ///
    /// # Errors
    /// [`FoldError`] when the event does not fit.
    pub fn apply(&mut self, event: &Event) -> Result<(), FoldError> {
        self.last_seq = event.seq;
        match &event.body {
            EventBody::ServiceSet { spec } => self.spec = Some(Arc::new((**spec).clone())),
            EventBody::RevisionCreated { revision } => {
                self.revisions.insert(revision.number, Arc::new((**revision).clone()));
            }
            EventBody::RolloutStarted { .. } => self.start_rollout(event)?,
            EventBody::RolloutStepped { state, desired, .. } => self.advance(event, state, desired)?,
            EventBody::RolloutFinished { .. } => self.finish_rollout(event)?,
            EventBody::Ordered { order } => self.open.iter_mut().for_each(|open| open.orders.push(order.clone())),
            EventBody::DesiredSet { desired } => self.desired = desired.clone(),
            EventBody::Failed { failure } => self.count_failure(failure),
            EventBody::RouteApplied { weights, .. } => {
                self.applied.clone_from(weights);
                let desired = &self.desired;
                self.open.iter_mut().for_each(|open| open.split.applied(desired, weights, event.at));
            }
            EventBody::FlagsSet { definition } => {
                let held = |document: &serde_json::Value| Defined {
                    document: document.clone(),
                    definition: Definition::parse(document),
                    at: event.at,
                    by: event.actor.clone(),
                };
                self.flags = definition.as_ref().map(|document| Arc::new(held(document)));
            }
            EventBody::QualityDropped { revision, cause, why, .. } => {
                let notice = Notice { at: event.at, revision: *revision, cause: *cause, why: why.clone() };
                self.notices.push(Arc::new(notice));
                let surplus = self.notices.len().saturating_sub(NOTICES);
                self.notices.drain(..surplus);
            }
            EventBody::Frozen { why } => {
                let freeze = Freeze { since: event.at, by: event.actor.clone(), why: why.clone() };
                self.frozen = Some(Arc::new(freeze));
            }
            EventBody::Unfrozen => self.frozen = None,
            EventBody::ServiceRemoved => self.remove(),
            EventBody::InstanceStarting { instance, revision, machine } => {
                self.ask_for(instance, *revision, machine.clone(), event);
            }
            EventBody::InstanceLive { instance, .. } => self.go_live(instance, event.at),
            EventBody::InstanceDraining { instance, .. } => self.drain(instance, event.at),
            EventBody::InstanceStopped { instance, .. } => drop(self.instances.remove(instance)),
            EventBody::InstanceAdopted { .. }
            | EventBody::Verdict { .. }
            | EventBody::OrderRefused { .. }
            | EventBody::Retried { .. }
            | EventBody::Measured { .. }
            | EventBody::EvidenceSeen { .. }
            | EventBody::Notified { .. }
            | EventBody::ControlStarted { .. }
            | EventBody::ControlStopped
            | EventBody::GatewayStarted { .. }
            | EventBody::GatewayAdopted { .. }
            | EventBody::GatewayLost { .. }
            | EventBody::MachineLost { .. }
            | EventBody::MachineBack { .. }
            | EventBody::MachineLeft { .. }
            | EventBody::AliasMoved { .. }
            | EventBody::Tagged { .. }
            | EventBody::Yanked { .. }
            | EventBody::Unyanked { .. }
            | EventBody::PackagePromoted { .. }
            | EventBody::MeaningsAccepted { .. }
            | EventBody::TokenMade { .. }
            | EventBody::TokenRevoked { .. }
            | EventBody::TokenRefused { .. } => {}
        }
        Ok(())
    }

    fn start_rollout(&mut self, event: &Event) -> Result<(), FoldError> {
        let EventBody::RolloutStarted { strategy, stable, candidate, state } = &event.body else { return Ok(()) };
        let id = event.rollout.clone().ok_or(FoldError::Nameless { seq: event.seq, what: "rollout" })?;
        let machine = machine(event.seq, state)?;
        self.desired = machine.desired();
        self.trouble.remove(candidate);
        self.rollouts.push(Arc::new(Record {
            id: id.clone(),
            strategy: strategy.clone(),
            from: *stable,
            to: *candidate,
            arms: arms(&machine, *candidate),
            beside: machine.beside().keys().copied().collect(),
            started: event.at,
            ended: None,
            outcome: None,
            cause: None,
            failure: None,
        }));
        let split = Split::default();
        self.open = Some(Open { id, machine, orders: Vec::new(), failures: Vec::new(), split });
        Ok(())
    }

    /// A step has seen every order and failure so far: it is only committed when nothing was written since it looked.
    fn advance(&mut self, event: &Event, state: &serde_json::Value, desired: &Desired) -> Result<(), FoldError> {
        let machine = machine(event.seq, state)?;
        self.desired.clone_from(desired);
        let closed = machine.is_closed();
        if let Some(record) = self.rollouts.last_mut()
            && machine.beside().len() > record.beside.len()
        {
            Arc::make_mut(record).beside = machine.beside().keys().copied().collect();
        }
        if let Some(open) = &mut self.open {
            let mut split = std::mem::take(&mut open.split);
            split.stepped(machine.phase, event.at);
            *open = Open { id: open.id.clone(), machine, orders: Vec::new(), failures: Vec::new(), split };
        }
        if closed {
            self.open = None;
        }
        Ok(())
    }

    fn finish_rollout(&mut self, event: &Event) -> Result<(), FoldError> {
        let EventBody::RolloutFinished { outcome, cause, failure, stable } = &event.body else { return Ok(()) };
        let id = event.rollout.as_ref().ok_or(FoldError::Nameless { seq: event.seq, what: "rollout" })?;
        self.stable = *stable;
        if let Some(record) = self.rollouts.iter_mut().rev().find(|record| record.id == *id) {
            let record = Arc::make_mut(record);
            record.ended = Some(event.at);
            record.outcome = Some(*outcome);
            record.cause = *cause;
            record.failure.clone_from(failure);
        }
        Ok(())
    }

    fn count_failure(&mut self, failure: &Failure) {
        if let Some(open) = &mut self.open {
            open.failures.push(failure.clone());
        }
        let Some(id) = &failure.instance else { return };
        if let Some(machine) = self.instances.get(id).and_then(|instance| instance.machine.clone()) {
            self.failed_on.insert(machine, failure.at);
        }
        let lived = self.instances.get(id).and_then(|instance| instance.live_since).map(|since| failure.at - since);
        if failure.cause == Cause::MachineLost && lived.is_some() {
            return; // its revision did well: the next one starts at once, elsewhere
        }
        let before = self.trouble.get(&failure.revision).map_or(0, |trouble| trouble.count);
        let count = if lived.is_some_and(|lived| lived >= STEADY) { 1 } else { before + 1 };
        let why = format!("{}: {}", failure.cause, failure.detail);
        self.trouble.insert(failure.revision, Trouble { count, last: failure.at, why });
    }

    fn ask_for(&mut self, id: &InstanceId, revision: RevisionNumber, machine: Option<MachineId>, event: &Event) {
        *self.numbered.entry(revision).or_default() += 1;
        let instance = Instance {
            revision,
            asked_seq: event.seq,
            asked: event.at,
            stage: Stage::Starting,
            live_since: None,
            machine,
        };
        self.instances.insert(id.clone(), instance);
    }

    fn go_live(&mut self, id: &InstanceId, at: Timestamp) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.stage = Stage::Live;
            instance.live_since = Some(at);
        }
    }

    fn drain(&mut self, id: &InstanceId, since: Timestamp) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.stage = Stage::Draining { since };
        }
    }

    fn remove(&mut self) {
        self.spec = None;
        self.stable = None;
        self.open = None;
        self.desired = Desired::default();
        self.frozen = None;
        self.flags = None;
        self.trouble.clear();
        self.failed_on.clear();
    }
}

/// Revisions that a rollout is about, beside stable and candidate.
fn arms(machine: &Rollout, candidate: RevisionNumber) -> Vec<RevisionNumber> {
    machine.arms().filter(|&arm| arm != candidate).collect()
}

fn machine(seq: u64, state: &serde_json::Value) -> Result<Rollout, FoldError> {
    serde_json::from_value(state.clone()).map_err(|source| FoldError::Machine { seq, source })
}

/// Questions that several readers ask.
impl ServiceState {
    /// The rollout whose outcome is not known yet.
    pub fn undecided(&self) -> Option<&Open> {
        self.open.as_ref().filter(|open| open.machine.outcome().is_none())
    }

    /// The rollout whose candidate may still be taken back: not decided yet, or within its rollback window.
    pub fn watched(&self) -> Option<&Open> {
        self.open.as_ref().filter(|open| open.machine.outcome().is_none() || open.machine.is_in_rollback_window())
    }

    /// Instances of a revision that run or are being started.
    pub fn staying(&self, revision: RevisionNumber) -> impl Iterator<Item = (&InstanceId, &Instance)> {
        self.instances.iter().filter(move |(_, instance)| instance.revision == revision && instance.stays())
    }

    /// The rollout that present events belong to.
    pub fn current_rollout(&self) -> Option<&RolloutId> {
        self.open.as_ref().map(|open| &open.id)
    }

    /// What sessions are hashed with: a rollout's id until the next begins, so that nobody moves when one ends.
    pub fn salt(&self) -> String {
        self.rollouts.last().map_or_else(|| self.name.to_string(), |record| record.id.to_string())
    }

    /// The number that the next revision gets.
    pub fn next_revision(&self) -> RevisionNumber {
        RevisionNumber(self.revisions.keys().next_back().map_or(1, |last| last.0 + 1))
    }

    /// Whether something is under way that wants a close look: an open rollout, an instance that starts or leaves.
    pub fn is_busy(&self) -> bool {
        self.open.is_some() || self.instances.values().any(|instance| instance.stage != Stage::Live)
    }
}

impl Instance {
    /// Whether it is meant to stay: starting or live.
    pub fn stays(&self) -> bool {
        !matches!(self.stage, Stage::Draining { .. })
    }
}
