//! The moves of each strategy, by phase.
//!
//! Promises: each move takes its evidence from the observation, asks for values and never for changes, and looks before what cannot be
//! undone. A move that is not made leaves in `waiting` what is missing.

mod recreate;
mod returning;
mod rolling;
mod shadow;
mod stepped;
mod testing;

use modelyard_core::event::Outcome;
use modelyard_core::strategy::Strategy;
use modelyard_core::weight::apportion;
use modelyard_core::{Millis, RevisionNumber, Weight};

use crate::analysis::judge;
use crate::rollout::Hurry;
use crate::step::Turn;
use crate::{Phase, Rollout, Verdict, Waiting};

/// Makes at most one move.
pub(crate) fn advance(turn: &mut Turn<'_>) {
    match turn.state.phase {
        Phase::Starting if turn.state.shares.is_empty() => turn.advance_starting(),
        Phase::Starting => turn.advance_arming(),
        Phase::Testing => turn.advance_testing(),
        Phase::Shadowing => turn.advance_shadowing(),
        Phase::Preview => turn.advance_preview(),
        Phase::Scaling { step } => turn.advance_scaling(step),
        Phase::Baking { step } => turn.advance_baking(step),
        Phase::Batch { goal } => turn.advance_batch(goal),
        Phase::Pausing { goal } => turn.advance_pausing(goal),
        Phase::Emptying => turn.advance_emptying(),
        Phase::Stopping => turn.advance_stopping(),
        Phase::Replacing => turn.advance_replacing(),
        Phase::Watching => turn.advance_watching(),
        Phase::Kept => turn.advance_kept(),
        Phase::Draining => turn.advance_draining(),
        Phase::Returning { step } => turn.advance_returning(step),
        Phase::Clearing => turn.advance_clearing(),
        Phase::Restoring => turn.advance_restoring(),
        Phase::Retiring => turn.advance_retiring(),
        Phase::Closed => {}
    }
}

/// The first phase of going back.
pub(crate) fn way_back(state: &Rollout, stepped: bool) -> Phase {
    match (state.phase, state.stable, &state.plan.strategy) {
        (_, None, _) | (Phase::Replacing | Phase::Watching, _, _) => Phase::Clearing,
        (_, _, Strategy::Recreate(_)) => Phase::Restoring,
        (_, _, Strategy::Rolling(_)) => Phase::Returning { step: stepped.then_some(0) },
        (phase, _, Strategy::Canary(_) | Strategy::BlueGreen(_) | Strategy::Ab(_) | Strategy::Shadow(_)) => {
            let steps = state.plan.steps().len();
            let reached = match phase {
                Phase::Baking { step } => step,
                Phase::Scaling { step } => step.saturating_sub(1),
                Phase::Kept | Phase::Draining => steps.saturating_sub(1),
                _ => 0,
            };
            Phase::Returning { step: reached.checked_sub(1).filter(|_| stepped) }
        }
    }
}

impl Turn<'_> {
    /// Whether the time that the candidate is watched for counts: it has the instances that it needs and the shares that were asked for. The clock
    /// stands otherwise.
    fn is_watched(&mut self, needed: u32) -> bool {
        if !self.await_candidate(needed) {
            self.state.clock.hold();
            return false;
        }
        if !self.is_routed() {
            self.state.clock.hold();
            self.is_blocked();
            return false;
        }
        self.state.clock.run(self.state.now);
        true
    }

    /// Whether the candidate was watched for `span` and nothing speaks against it. It keeps its schedule: too few requests hold nothing up, doubtful
    /// figures do.
    fn has_stood(&mut self, span: Millis, before: &str) -> bool {
        self.note_pace(self.state.readings.since_begin().requests);
        if self.is_blocked() {
            return false;
        }
        if self.hurries() {
            return true;
        }
        if self.state.clock.spent() < span {
            self.state.waiting = Some(Waiting::Time { why: format!("watched for {span} before {before}") });
            return false;
        }
        let judgement = judge(&self.state.readings, &self.state.plan.analysis, false);
        self.say(judgement.verdict, judgement.cause, judgement.why.clone());
        if judgement.verdict != Verdict::Pass {
            self.await_evidence(&judgement.why, judgement.needed);
            return false;
        }
        self.quality_is_fine()
    }

    pub(crate) fn wanted(&self, revision: RevisionNumber) -> u32 {
        self.state.desired.instances.get(&revision).copied().unwrap_or(0)
    }

    pub(crate) fn want_candidate(&mut self, count: u32) {
        self.state.desired.instances.insert(self.state.candidate, count);
    }

    pub(crate) fn want_stable(&mut self, count: u32) {
        if let Some(stable) = self.state.stable {
            self.state.desired.instances.insert(stable, count);
        }
    }

    pub(crate) fn drop_candidate(&mut self) {
        self.state.desired.instances.remove(&self.state.candidate);
        self.drop_others();
    }

    /// Every arm but stable and the candidate goes.
    pub(crate) fn drop_others(&mut self) {
        let (stable, candidate) = (self.state.stable, self.state.candidate);
        self.state.desired.instances.retain(|&revision, _| Some(revision) == stable || revision == candidate);
        self.state.desired.mirrors.clear();
    }

    pub(crate) fn drop_stable(&mut self) {
        if let Some(stable) = self.state.stable {
            self.state.desired.instances.remove(&stable);
        }
    }

    /// The share that is asked for the candidate.
    pub(crate) fn asked(&self) -> Weight {
        self.state.desired.weights.get(&self.state.candidate).copied().unwrap_or_default()
    }

    /// Asks for a share for the candidate, the rest for stable. R2: the sum is the whole.
    pub(crate) fn ask(&mut self, share: Weight) {
        let split = [(self.state.stable, share.rest()), (Some(self.state.candidate), share)];
        let named = split.into_iter().filter_map(|(revision, weight)| Some((revision?, weight)));
        self.ask_shares(named.collect());
    }

    /// Asks for shares in proportion to instances; nothing changes while there are none.
    pub(crate) fn ask_in_proportion(&mut self, stable: u32, candidate: u32) {
        if stable + candidate > 0 {
            self.ask(apportion(&[u64::from(stable), u64::from(candidate)])[1]);
        }
    }

    /// Whether the gateway reports what was asked; says so if not.
    pub(crate) fn is_routed(&mut self) -> bool {
        let routed = self.view.is_settled(&self.state.desired) && self.view.candidate_carries(self.asked());
        if !routed {
            let lost = self.view.gateway().is_none();
            self.state.waiting = Some(if lost { Waiting::Gateway } else { Waiting::Route });
        }
        routed
    }

    /// Lets the drain clock run; whether the requests in flight are done or had their time.
    pub(crate) fn is_drained(&mut self, in_flight: Option<u64>) -> bool {
        self.state.drain.run(self.state.now);
        let drained = in_flight == Some(0) || self.state.drain.spent() >= self.state.plan.drain;
        if !drained {
            let why = format!("{} requests in flight, for {} at most", in_flight.unwrap_or(0), self.state.plan.drain);
            self.state.waiting = Some(Waiting::Time { why });
        }
        drained
    }

    /// The candidate is to carry everything. R3: stable goes only once the gateway says so and stable's requests are done.
    fn advance_draining(&mut self) {
        let instances = self.state.plan.instances;
        self.want_candidate(instances);
        if !self.await_candidate(instances) {
            return self.state.drain.hold();
        }
        if self.is_blocked() {
            return self.state.drain.hold();
        }
        self.ask(Weight::ALL);
        if !self.is_routed() || !self.view.stable_is_off() {
            self.state.waiting = Some(Waiting::Route);
            return self.state.drain.hold();
        }
        if self.is_drained(self.in_flight_but_candidate()) && !self.is_shaken {
            self.drop_stable();
            self.drop_others();
            if self.state.outcome.is_none() {
                self.settle(Outcome::Promoted);
            }
            self.enter(Phase::Retiring);
        }
    }

    /// The pool that lost is asked to go; it is over once it is gone.
    fn advance_retiring(&mut self) {
        let promoted = self.state.outcome == Some(Outcome::Promoted);
        let loser = if promoted { self.view.stable } else { self.view.candidate };
        let others = self.state.shares.keys().filter(|&&arm| arm != self.state.candidate);
        let lent = self.state.beside.values().any(|one| one.lent.is_some());
        if !lent && loser.is_gone() && others.into_iter().all(|&arm| self.view.pool(arm).is_gone()) {
            return self.enter(Phase::Closed);
        }
        let why = format!("{} instances are ending", loser.running + loser.leaving);
        self.state.waiting = Some(Waiting::Instances { why });
    }

    /// Requests in flight at stable and at further arms; none without a report.
    pub(crate) fn in_flight_but_candidate(&self) -> Option<u64> {
        let others = self.state.shares.keys().filter(|&&arm| arm != self.state.candidate);
        others.map(|&arm| self.view.in_flight(arm)).try_fold(self.view.stable_in_flight()?, |sum, one| Some(sum + one?))
    }

    /// The same of the candidate and further arms.
    pub(crate) fn in_flight_but_stable(&self) -> Option<u64> {
        let others = self.state.shares.keys().filter(|&&arm| arm != self.state.candidate);
        others
            .map(|&arm| self.view.in_flight(arm))
            .try_fold(self.view.candidate_in_flight()?, |sum, one| Some(sum + one?))
    }

    /// Whether a person asked to skip the present wait.
    pub(crate) fn hurries(&self) -> bool {
        self.state.hurry != Hurry::No
    }

    /// The wait was skipped; later ones are not, unless all are.
    pub(crate) fn waited(&mut self) {
        if self.state.hurry == Hurry::Next {
            self.state.hurry = Hurry::No;
        }
    }
}
