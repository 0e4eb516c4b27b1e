//! One look at one service, and what follows from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::event::{Actor, EventBody};
use modelyard_core::evidence::{ArmEvidence, Evidence};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::instance::InstanceState;
use modelyard_core::measure::Counters;
use modelyard_core::package::Runtime;
use modelyard_core::profile::Profile;
use modelyard_core::service::Routing;
use modelyard_core::{InstanceId, RevisionNumber, RolloutId, ServiceName, Timestamp};
use modelyard_rollout::Rollout;

use super::Controller;
use super::lifecycle::{Finding, TargetSeen, What, findings};
use super::machines::Away;
use super::measured::following;
use super::meter::Meter;
use super::place::{Placer, Sites};
use super::reconcile::moves;
use super::route::route;
use super::start::{Starts, Wanted};
use crate::http_client::chain;
use crate::prober::Check;
use crate::store::Error;
use crate::store::fold::{Instance, Open, ServiceState, Stage};

const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(1);
// SIGTERM drains an instance; what it has not finished by then it will not finish.
const STOP_GRACE: Duration = Duration::from_secs(10);
// A stop that was lost on the way is sent again after its grace and a little.
const STOP_AGAIN: u64 = 15_000;
/// Lines of an instance's log that go into a failure's evidence.
const EVIDENCE_LINES: usize = 20;

/// What a service's task remembers between two looks. Losing it harms nothing.
pub(super) struct Memory {
    pub meter: Meter,
    pub starts: Starts,
    stops: HashMap<InstanceId, Timestamp>,
    /// Position after the last step, and when it was.
    pub stepped: (u64, Timestamp),
    pub measured: Option<(Timestamp, BTreeMap<RevisionNumber, Counters>)>,
    /// The rollout's machine with the readings of steps that changed nothing worth a line in the log.
    pub ahead: Option<(RolloutId, Rollout)>,
    /// When what serves was last looked at, and what was known of it when it was promoted.
    pub watched: (Timestamp, Option<(RolloutId, Option<ArmEvidence>)>),
    /// What was known of stable before the open rollout.
    pub before: Option<(RolloutId, Option<ArmEvidence>)>,
    /// What was known of the arms at the last step, and when that was last written down.
    pub evidence: (Option<Evidence>, Timestamp),
}

impl Memory {
    /// The rollout's machine as it stands: only steps of this task advance it.
    pub fn machine(&self, open: &Open) -> Rollout {
        match &self.ahead {
            Some((id, machine)) if *id == open.id => machine.clone(),
            _ => open.machine.clone(),
        }
    }
}

/// Whether nothing is left to look after.
pub(super) fn is_over(state: &ServiceState) -> bool {
    state.spec.is_none() && state.instances.is_empty()
}

impl Controller {
    /// Looks after a service until it was removed and its last instance has ended.
    pub(super) async fn look_after(self, name: ServiceName) -> ServiceName {
        let waker = self.ledger.waker(&name);
        let mut memory = self.recall(&name).await;
        loop {
            let again = self.look(&name, &mut memory).await;
            let state = self.ledger.service(&name);
            if is_over(&state) {
                self.router.set(&name, None);
                self.book.follow(&name, None);
                return name;
            }
            let pause = if state.is_busy() { BUSY } else { IDLE };
            let pause = again.map_or(pause, |again| pause.min((again - self.clock.now()).as_duration()));
            tokio::select! {
                () = waker.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn recall(&self, name: &ServiceName) -> Memory {
        let kept = self.ledger.store().recall(format!("meter/{name}")).await.ok().flatten();
        let starts = Starts::new(Arc::clone(&self.target), Arc::clone(&self.packages), Arc::clone(&self.gate));
        Memory {
            meter: kept.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default(),
            starts,
            stops: HashMap::new(),
            stepped: (0, Timestamp(0)),
            measured: None,
            ahead: None,
            watched: (Timestamp(0), None),
            before: None,
            evidence: (None, Timestamp(0)),
        }
    }

    async fn look(&self, name: &ServiceName, memory: &mut Memory) -> Option<Timestamp> {
        match self.tick(name, memory).await {
            Ok(again) => again,
            // Somebody else wrote first: decide anew on what is true now.
            Err(Error::Conflict { .. }) => Some(self.clock.now()),
            Err(error) => {
                tracing::error!(service = %name, error = %chain(&error), "nothing can be decided; tried again in a second");
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            }
        }
    }

    /// Observe, step, commit, act. Returns when to look again at the latest.
    async fn tick(&self, name: &ServiceName, memory: &mut Memory) -> Result<Option<Timestamp>, Error> {
        let Some(seen) = self.seen() else { return Ok(None) };
        let state = self.ledger.service(name);
        self.book.follow(name, following(&state, self.profiles(&state).await));
        self.record_findings(name, &seen, memory).await?;
        self.step(name, memory).await?;
        // The split first: from a verdict to the last request on a bad revision every millisecond counts.
        self.router.set(name, route(&self.ledger.service(name), &seen, &self.session_key));
        let again = self.reconcile(name).await?;
        let state = self.ledger.service(name);
        let holds_from = self.router.set(name, route(&state, &seen, &self.session_key));
        self.start_missing(&state, &seen, memory);
        self.stop_drained(&state, &seen, holds_from, memory).await;
        self.measure(&state, memory).await?;
        Ok(again)
    }

    /// Profiles of the packages that run, if drift is looked at.
    async fn profiles(&self, state: &ServiceState) -> BTreeMap<RevisionNumber, Arc<Profile>> {
        let mut profiles = BTreeMap::new();
        if state.spec.as_ref().is_none_or(|spec| !spec.quality.looks_at_drift()) {
            return profiles;
        }
        let running = state.instances.values().map(|instance| instance.revision);
        for number in running.chain(state.stable).collect::<BTreeSet<_>>() {
            let Some(revision) = state.revisions.get(&number) else { continue };
            let Ok(package) = self.packages.document(revision.package).await else { continue };
            profiles.extend(package.profile.as_ref().map(|profile| (number, Arc::clone(profile))));
        }
        profiles
    }

    async fn record_findings(&self, name: &ServiceName, seen: &TargetSeen, memory: &mut Memory) -> Result<(), Error> {
        let state = self.ledger.service(name);
        self.follow_probes(&state, seen).await;
        let away = self.away(&state);
        let mut found = findings(&state, seen, |id| self.prober.health(id), &away, self.clock.now());
        found.extend(hopeless(&state, memory, &away));
        memory.starts.retain(|id| state.instances.contains_key(id));
        memory.stops.retain(|id, _| state.instances.contains_key(id));
        if found.is_empty() {
            return Ok(());
        }
        let mut bodies = Vec::new();
        for finding in &found {
            bodies.extend(self.tell(finding).await);
        }
        self.ledger.commit(&state, Actor::Controller, bodies).await?;
        for finding in &found {
            self.let_go(finding).await;
        }
        Ok(())
    }

    /// Probes whoever listens and is meant to stay.
    async fn follow_probes(&self, state: &ServiceState, seen: &TargetSeen) {
        let waker = self.ledger.waker(&state.name);
        for (id, instance) in &state.instances {
            let status = seen.instances.get(id).map(|status| &status.state);
            let Some(InstanceState::Running { address, probe }) = status else { continue };
            if !instance.stays() {
                self.prober.leave(id);
                continue;
            }
            if self.prober.health(id).is_some() {
                continue;
            }
            let Some(revision) = state.revisions.get(&instance.revision) else { continue };
            let Ok(package) = self.packages.document(revision.package).await else { continue };
            let check = match &package.runtime {
                Runtime::Onnx { .. } | Runtime::Python { .. } => Check::Native { probe: probe.unwrap_or(*address) },
                // The target starts nothing of it, so that nothing is there to be asked.
                Runtime::None {} => continue,
                Runtime::Command { health, .. } => Check::Command {
                    address: *address,
                    health: health.clone(),
                    samples: package.samples_under(&revision.flags).cloned().collect(),
                },
            };
            self.prober.follow(id, &waker, || check);
        }
    }

    /// The events that tell a finding, with evidence.
    async fn tell(&self, finding: &Finding) -> Vec<EventBody> {
        let Finding { id, revision, what } = finding;
        let (instance, revision) = (id.clone(), *revision);
        match what {
            What::Live { after } => vec![EventBody::InstanceLive { instance, revision, after_ms: after.0 }],
            What::Ended { how } => vec![EventBody::InstanceStopped { instance, revision, how: how.clone() }],
            What::Died { cause, detail } => {
                let failure = self.failure(finding, *cause, detail, &[]).await;
                vec![failure, EventBody::InstanceStopped { instance, revision, how: detail.clone() }]
            }
            What::Failed { cause, detail, evidence } => {
                let failure = self.failure(finding, *cause, detail, evidence).await;
                vec![failure, EventBody::InstanceDraining { instance, revision }]
            }
        }
    }

    async fn failure(&self, finding: &Finding, cause: Cause, detail: &str, seen: &[String]) -> EventBody {
        let lines = self.target.logs(&finding.id, EVIDENCE_LINES).await.unwrap_or_default();
        let log = lines.into_iter().map(|line| format!("log: {line}"));
        EventBody::Failed {
            failure: Box::new(Failure {
                cause,
                revision: finding.revision,
                instance: Some(finding.id.clone()),
                at: self.clock.now(),
                detail: format!("{} {detail}", finding.id),
                evidence: seen.iter().cloned().chain(log).collect(),
            }),
        }
    }

    /// After the end of an instance was recorded: nobody asks it any more, and its target may forget it.
    async fn let_go(&self, finding: &Finding) {
        if matches!(finding.what, What::Live { .. }) {
            return;
        }
        self.prober.leave(&finding.id);
        if matches!(finding.what, What::Died { .. } | What::Ended { .. })
            && let Err(error) = self.target.forget(&finding.id).await
        {
            tracing::warn!(instance = %finding.id, error = %chain(&error), "the target does not forget an ended instance");
        }
    }

    async fn reconcile(&self, name: &ServiceName) -> Result<Option<Timestamp>, Error> {
        let state = self.ledger.service(name);
        let now = self.clock.now();
        let sites = || Sites::new(self.target.machines(), &self.ledger.world());
        let moves = moves(&state, now, &mut Placer::new(&state, sites, now));
        if !moves.events.is_empty() {
            self.ledger.commit(&state, Actor::Controller, moves.events).await?;
        }
        Ok(moves.again)
    }

    fn start_missing(&self, state: &ServiceState, seen: &TargetSeen, memory: &Memory) {
        for (id, instance) in &state.instances {
            if instance.stage != Stage::Starting || seen.instances.contains_key(id) {
                continue;
            }
            let Some(revision) = state.revisions.get(&instance.revision).cloned() else { continue };
            let wanted = Wanted {
                id: id.clone(),
                service: state.name.clone(),
                known_as: state.spec.as_ref().and_then(|spec| spec.api.as_ref()).map(|api| api.of.clone()),
                revision,
                generation: instance.asked_seq,
                machine: instance.machine.clone(),
            };
            let after = vec![self.ledger.waker(&state.name), Arc::clone(&self.poke)];
            memory.starts.ensure(wanted, seen.begun, self.clock.now(), after);
        }
    }

    /// Stops the draining instances whose last request is answered, or whose time is over.
    async fn stop_drained(&self, state: &ServiceState, seen: &TargetSeen, holds_from: u64, memory: &mut Memory) {
        let now = self.clock.now();
        for (id, instance) in &state.instances {
            let runs = seen.instances.get(id).is_some_and(|s| !matches!(s.state, InstanceState::Exited(_)));
            let sent = memory.stops.get(id).is_some_and(|&sent| (now - sent).0 < STOP_AGAIN);
            if !runs || sent || !self.is_drained(state, id, instance, holds_from, now) {
                continue;
            }
            match self.target.stop(id, STOP_GRACE).await {
                Ok(()) => drop(memory.stops.insert(id.clone(), now)),
                Err(error) => tracing::warn!(instance = %id, error = %chain(&error), "an instance cannot be stopped"),
            }
            self.poke.notify_one();
        }
    }

    /// Look before the irreversible act: the gateway must have applied a table without the instance.
    fn is_drained(
        &self,
        state: &ServiceState,
        id: &InstanceId,
        instance: &Instance,
        from: u64,
        now: Timestamp,
    ) -> bool {
        let Stage::Draining { since } = instance.stage else { return false };
        if instance.live_since.is_none() {
            // It never was in a table.
            return true;
        }
        let Some(report) = self.report().filter(|report| report.generation >= from) else { return false };
        let limit = state.spec.as_ref().map_or_else(Routing::default, |spec| spec.routing.clone()).drain;
        let pool = report.services.get(&state.name).and_then(|service| service.pools.get(&instance.revision));
        let in_flight = pool.and_then(|pool| pool.instances.get(id)).map_or(0, |instance| instance.in_flight);
        in_flight == 0 || now - since >= limit
    }
}

/// Instances that can never be started, as findings.
fn hopeless(state: &ServiceState, memory: &Memory, away: &Away) -> Vec<Finding> {
    let starting = state.instances.iter().filter(|(_, instance)| instance.stage == Stage::Starting);
    let give_up = |(id, instance): (&InstanceId, &Instance)| {
        let detail = format!("cannot be started: {}", memory.starts.hopeless(id)?);
        let cause = if away.is_alone(instance) { Cause::MachineLost } else { Cause::StartFailed };
        let what = What::Died { cause, detail };
        Some(Finding { id: id.clone(), revision: instance.revision, what })
    };
    starting.filter_map(give_up).collect()
}
