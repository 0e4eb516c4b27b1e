//! Canary and blue-green: the candidate beside stable, its share growing in steps with analysis between.

use modelyard_core::event::Outcome;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, Weight};

use crate::analysis::judge;
use crate::rollout::Hurry;
use crate::step::Turn;
use crate::{Phase, Verdict, Waiting};

impl Turn<'_> {
    /// Blue-green: the whole second pool is started before anything else.
    pub(super) fn advance_starting(&mut self) {
        let instances = self.state.plan.instances;
        self.want_candidate(instances);
        if self.await_candidate(instances) && !self.is_blocked() {
            self.enter(Phase::Preview);
        }
    }

    pub(super) fn advance_preview(&mut self) {
        let Strategy::BlueGreen(plan) = &self.state.plan.strategy else {
            return self.enter(Phase::Scaling { step: 0 });
        };
        let (preview, manual) = (plan.preview, plan.manual);
        if !self.await_candidate(self.state.plan.instances) {
            return self.state.clock.hold();
        }
        self.state.clock.run(self.state.now);
        if self.is_blocked() {
            return;
        }
        if self.state.clock.spent() < preview && !self.hurries() {
            self.state.waiting = Some(Waiting::Time { why: format!("at its preview address for {preview}") });
        } else if manual && !self.hurries() {
            let path = self.state.preview_path();
            let why = format!(
                "look at the candidate at its preview address {path}, then `modelyard promote` or `modelyard abort`"
            );
            self.state.waiting = Some(Waiting::Person { why });
        } else {
            self.waited();
            self.enter(Phase::Scaling { step: 0 });
        }
    }

    /// Starts what the step's share needs; R1: the share is asked for only once that is live.
    pub(super) fn advance_scaling(&mut self, step: usize) {
        let share = self.state.plan.weight_at(step);
        let needed = self.state.plan.instances_for(share);
        self.want_candidate(needed.max(self.wanted(self.state.candidate)));
        if self.await_candidate(needed) && !self.is_blocked() {
            self.ask(share);
            self.enter_watch(Phase::Baking { step });
        }
    }

    pub(super) fn advance_baking(&mut self, step: usize) {
        let needed = self.state.plan.instances_for(self.asked());
        if !self.is_watched(needed) {
            return;
        }
        if !self.state.paused && !self.state.held {
            self.trim_stable(step);
        }
        self.note_pace(self.state.readings.since_begin().requests);
        let last = step + 1 >= self.state.plan.steps().len();
        if !self.has_baked(step, last) || self.is_blocked() || !self.may_leave(last) {
            return;
        }
        self.waited();
        match (last, matches!(self.state.plan.strategy, Strategy::BlueGreen(_))) {
            (false, _) => self.enter(Phase::Scaling { step: self.next_step(step) }),
            (true, false) => self.enter(Phase::Draining),
            (true, true) => {
                self.state.hurry = Hurry::No;
                self.settle(Outcome::Promoted);
                self.enter(Phase::Kept);
            }
        }
    }

    /// Canary: once a step is routed, stable needs no more instances than the share that the *passed* step left it. One step behind, so
    /// that going back lands on a pool that carried that much a moment ago.
    fn trim_stable(&mut self, step: usize) {
        let (Strategy::Canary(_), Some(stable), Hurry::No) =
            (&self.state.plan.strategy, self.state.stable, self.state.hurry)
        else {
            return;
        };
        let passed = step.checked_sub(1).map_or(Weight::NONE, |passed| self.state.plan.weight_at(passed));
        let needed = self.state.plan.instances_for(passed.rest()).max(1);
        self.want_stable(needed.min(self.wanted(stable)));
    }

    /// Whether the step was watched long enough and its verdict is a pass.
    fn has_baked(&mut self, step: usize, last: bool) -> bool {
        let is_switch = last && matches!(self.state.plan.strategy, Strategy::BlueGreen(_));
        if is_switch || self.hurries() {
            return true; // blue-green is promoted at the switch; the rollback window is its watch
        }
        let bake = self.bake();
        if self.state.clock.spent() < bake {
            self.state.waiting = Some(Waiting::Time { why: format!("step {} is watched for {bake}", step + 1) });
            self.is_blocked();
            return false;
        }
        let judgement = judge(&self.state.readings, &self.state.plan.analysis, true);
        self.say(judgement.verdict, judgement.cause, judgement.why.clone());
        if judgement.verdict == Verdict::Pass {
            return self.quality_is_fine();
        }
        self.await_evidence(&judgement.why, judgement.needed);
        self.is_blocked();
        false
    }

    /// Canary by hand: each step after the first waits for a person.
    fn may_leave(&mut self, last: bool) -> bool {
        let manual = matches!(&self.state.plan.strategy, Strategy::Canary(canary) if canary.manual);
        let waits = manual && !last && !self.hurries();
        if waits {
            let why = "the step passed; `modelyard promote` goes to the next, `modelyard abort` goes back".into();
            self.state.waiting = Some(Waiting::Person { why });
        }
        !waits
    }

    pub(super) fn bake(&self) -> Millis {
        match &self.state.plan.strategy {
            Strategy::Canary(canary) => canary.bake,
            Strategy::BlueGreen(blue_green) => blue_green.bake,
            Strategy::Rolling(rolling) => rolling.pause,
            Strategy::Shadow(shadow) => shadow.bake,
            Strategy::Recreate(_) | Strategy::Ab(_) => Millis(0),
        }
    }

    fn next_step(&self, step: usize) -> usize {
        let last = self.state.plan.steps().len().saturating_sub(1);
        if self.state.hurry == Hurry::All { last } else { (step + 1).min(last) }
    }

    /// Blue-green: promoted, the old pool kept. Failures still go back; so does `abort`.
    pub(super) fn advance_kept(&mut self) {
        let Strategy::BlueGreen(plan) = &self.state.plan.strategy else {
            return self.enter(Phase::Draining);
        };
        let window = plan.rollback_window;
        if !self.await_candidate(self.state.plan.instances) {
            return self.state.clock.hold();
        }
        self.state.clock.run(self.state.now);
        if self.is_blocked() {
            return;
        }
        if self.state.clock.spent() < window && !self.hurries() {
            self.state.waiting = Some(Waiting::Time { why: format!("the old pool is kept for {window}") });
            return;
        }
        self.waited();
        self.enter(Phase::Draining);
    }
}
