//! Stepping the rollout of a service, and its figures.

use modelyard_core::event::{Actor, EventBody};
use modelyard_core::evidence::Evidence;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, ServiceName, Timestamp};
use modelyard_rollout::{Action, Rollout, step};

use super::Controller;
use super::measured::{evidence, for_the_log};
use super::observe::{measurements, observation};
use super::tick::Memory;
use crate::ledger::lock;
use crate::store::Error;
use crate::store::fold::{Open, ServiceState};

// A step's own commit wakes its service: without a pause a state that holds the time would be stepped as fast as the disk goes.
const PAUSE: Millis = Millis(50);

impl Controller {
    /// Steps the open rollout, and commits state, desired values, verdicts and end together.
    #[tracing::instrument(name = "controller.step", level = "debug", skip_all, fields(service = %name), err)]
    pub(super) async fn step(&self, name: &ServiceName, memory: &mut Memory) -> Result<(), Error> {
        let state = self.ledger.service(name);
        let report = self.report();
        if let Some(report) = &report {
            memory.meter.read(report.epoch, &report.services.get(name).cloned().unwrap_or_default());
        }
        let Some(open) = &state.open else {
            self.know(name, None);
            lock(&self.waiting).remove(name);
            return self.watch_stable(&state, memory).await;
        };
        let (seen_seq, before) = memory.stepped;
        // A clock that is set back must not stop the machine until it has caught up; `step` tolerates it.
        let now = self.clock.now();
        if seen_seq == state.last_seq && now >= before && now - before < PAUSE {
            return Ok(());
        }
        memory.stepped = (state.last_seq, now);
        let mut evidence = evidence(&state, self.book.evidence(name), memory.meter.shadows());
        if let Some(evidence) = &mut evidence {
            self.add_baseline(&state, open, evidence, memory).await;
        }
        self.know(name, evidence.as_ref());
        let mut seen = observation(&state, open, report.as_deref(), memory.meter.totals(), evidence, now);
        self.away(&state).count(&state, &mut seen.pools);
        let (machine, actions) = step(memory.machine(open), &seen);
        let mut bodies = bodies(open, &machine, actions);
        if bodies.iter().any(|body| matches!(body, EventBody::RolloutFinished { .. })) {
            bodies.splice(0..0, self.last_figures(&state, memory));
        }
        let decided = |body: &EventBody| matches!(body, EventBody::Verdict { .. } | EventBody::RolloutFinished { .. });
        memory.evidence.0 = seen.evidence.as_ref().map(for_the_log);
        if bodies.iter().any(decided)
            && let Some(evidence) = memory.evidence.0.take()
        {
            bodies.insert(0, EventBody::EvidenceSeen { evidence: Box::new(evidence) });
        }
        if !bodies.is_empty() {
            let events = self.ledger.commit(&state, Actor::Controller, bodies).await?;
            memory.stepped.0 = events.last().map_or(state.last_seq, |event| event.seq);
        }
        lock(&self.waiting).insert(name.clone(), (open.id.clone(), machine.waiting().cloned()));
        memory.ahead = Some((open.id.clone(), machine));
        Ok(())
    }

    /// A pool that gets no traffic any more is judged by what was known of it before: the candidate of `recreate` and `blue-green` answers alone.
    async fn add_baseline(&self, state: &ServiceState, open: &Open, evidence: &mut Evidence, memory: &mut Memory) {
        let alone = matches!(open.machine.plan.strategy, Strategy::Recreate(_) | Strategy::BlueGreen(_));
        let Some(stable) = open.machine.stable.filter(|_| alone && !open.machine.plan.metrics.is_empty()) else {
            return;
        };
        if memory.before.as_ref().is_none_or(|(id, _)| *id != open.id) {
            let last = state.rollouts.iter().rev().find(|record| record.id != open.id);
            let scope = last.map(|record| format!("after {}", record.id)).unwrap_or_default();
            let known = self.book.of_scope(&state.name, &scope).await.ok().flatten();
            memory.before = Some((open.id.clone(), known.and_then(|mut known| known.arms.remove(&stable))));
        }
        if let Some((_, Some(before))) = &memory.before {
            evidence.arms.entry(stable).or_default().or_as_before(before);
        }
    }

    fn know(&self, name: &ServiceName, evidence: Option<&Evidence>) {
        let mut known = lock(&self.evidence);
        match evidence {
            Some(evidence) => drop(known.insert(name.clone(), evidence.clone())),
            None => drop(known.remove(name)),
        }
    }

    /// What was counted between the last figures and the end, so that a report misses no request.
    fn last_figures(&self, state: &ServiceState, memory: &Memory) -> Option<EventBody> {
        let report = self.report()?;
        let (_, before) = memory.measured.as_ref()?;
        let revisions = measurements(state, report.services.get(&state.name), &memory.meter.totals(), before);
        Some(EventBody::Measured { revisions })
    }

    /// Figures each second until the outcome, for charts.
    pub(super) async fn measure(&self, state: &ServiceState, memory: &mut Memory) -> Result<(), Error> {
        let Some(open) = state.undecided() else {
            memory.measured = None;
            return Ok(());
        };
        let now = self.clock.now();
        let started = state.rollouts.last().map_or(now, |record| record.started);
        let due = |&(at, _): &(Timestamp, _)| now - at >= cadence(now - started);
        if memory.measured.as_ref().is_some_and(|measured| !due(measured)) {
            return Ok(());
        }
        let Some(report) = self.report() else { return Ok(()) };
        let totals = memory.meter.totals();
        let before = memory.measured.replace((now, totals.clone()));
        let Some((_, before)) = before else { return Ok(()) };
        let revisions = measurements(state, report.services.get(&state.name), &totals, &before);
        let meter = serde_json::to_string(&memory.meter).unwrap_or_default();
        self.ledger.store().remember(format!("meter/{}", state.name), meter).await?;
        let mut figures = vec![EventBody::Measured { revisions }];
        // The chart of a metric needs fewer points than that of a rate: evidence is larger, and moves slowly.
        if now - memory.evidence.1 >= cadence(now - started).max(Millis::seconds(2))
            && let Some(evidence) = memory.evidence.0.take()
        {
            memory.evidence.1 = now;
            figures.push(EventBody::EvidenceSeen { evidence: Box::new(evidence) });
        }
        let events = self.ledger.commit_for(state, Some(open.id.clone()), Actor::Controller, figures).await;
        match events {
            // Figures are no reason to step, nor worth a second try.
            Ok(events) => memory.stepped.0 = events.last().map_or(memory.stepped.0, |event| event.seq),
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A chart of ten minutes wants every second, one of a week does not: a rollout leaves some thousand figures at most a day.
fn cadence(age: Millis) -> Millis {
    match age.as_seconds() {
        age if age < 600.0 => Millis::seconds(1),
        age if age < 3_600.0 => Millis::seconds(5),
        _ => Millis::seconds(60),
    }
}

/// What a step leads to, as events of one transaction; none when nothing changed and nothing was waiting to be seen.
fn bodies(open: &Open, after: &Rollout, actions: Vec<Action>) -> Vec<EventBody> {
    let mut told: Vec<EventBody> = actions.into_iter().filter_map(tell).collect();
    let seen_first = !open.orders.is_empty() || !open.failures.is_empty();
    if told.is_empty() && !seen_first && !after.advanced_from(&open.machine) {
        return Vec::new();
    }
    let state = serde_json::to_value(after).unwrap_or_else(|error| unreachable!("a rollout is plain data: {error}"));
    told.insert(0, EventBody::RolloutStepped { phase: after.describe(), state, desired: after.desired() });
    told
}

fn tell(action: Action) -> Option<EventBody> {
    match action {
        Action::Verdict { verdict, why, cause } => {
            Some(EventBody::Verdict { verdict: verdict.name().to_owned(), why, cause })
        }
        Action::Refused { order, why } => Some(EventBody::OrderRefused { order, why }),
        Action::Finish { outcome, cause, failure, stable } => {
            Some(EventBody::RolloutFinished { outcome, cause, failure, stable })
        }
        // Desired values are part of the step itself; the next look comes soon enough.
        Action::Desire { .. } | Action::WakeAt { .. } => None,
    }
}
