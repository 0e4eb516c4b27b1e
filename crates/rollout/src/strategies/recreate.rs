//! Recreate and the first deployment: one pool at a time.
//!
//! Recreate: park or refuse, drain, stop all of stable, start the candidate, route. On failure the same in reverse, so the outage
//! is bounded by one stop and one start each way.

use modelyard_core::event::Outcome;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, Weight};

use crate::step::Turn;
use crate::{Phase, Waiting};

impl Turn<'_> {
    /// R3 of recreate: stable is stopped only once the gateway reports that nothing is sent to it.
    pub(super) fn advance_emptying(&mut self) {
        if self.is_blocked() {
            return self.state.drain.hold();
        }
        self.state.desired.park = !matches!(&self.state.plan.strategy, Strategy::Recreate(recreate) if !recreate.park);
        self.state.desired.weights.clear();
        if !self.is_routed() {
            return self.state.drain.hold();
        }
        if self.is_drained(self.view.stable_in_flight()) {
            self.drop_stable();
            self.enter(Phase::Stopping);
        }
    }

    pub(super) fn advance_stopping(&mut self) {
        if self.view.stable.is_gone() {
            self.want_candidate(self.state.plan.instances);
            return self.enter(Phase::Replacing);
        }
        let why = format!("{} instances of stable are ending", self.view.stable.running + self.view.stable.leaving);
        self.state.waiting = Some(Waiting::Instances { why });
        self.is_blocked();
    }

    /// Serves as soon as one instance lives: every moment counts while nothing else serves.
    pub(super) fn advance_replacing(&mut self) {
        let instances = self.state.plan.instances;
        self.want_candidate(instances);
        if self.view.candidate.live > 0 && !self.state.held {
            self.ask(Weight::ALL);
        }
        if !self.await_candidate(instances) || self.is_blocked() || !self.is_routed() {
            return;
        }
        self.state.desired.park = true;
        match self.watch() {
            Millis(0) => self.end_watch(),
            _ => self.enter_watch(Phase::Watching),
        }
    }

    /// Recreate: the candidate serves alone and is watched. Its control group is what stable did before.
    pub(super) fn advance_watching(&mut self) {
        let watch = self.watch();
        if !self.is_watched(self.state.plan.instances) || !self.has_stood(watch, "it counts as promoted") {
            return;
        }
        self.waited();
        self.end_watch();
    }

    /// How long the candidate is watched; a first deployment has nothing to go back to.
    fn watch(&self) -> Millis {
        match &self.state.plan.strategy {
            Strategy::Recreate(recreate) if self.state.stable.is_some() => recreate.watch,
            _ => Millis(0),
        }
    }

    fn end_watch(&mut self) {
        self.settle(Outcome::Promoted);
        self.enter(Phase::Closed);
    }

    /// Going back, first half: the candidate gets nothing more, finishes what it has, and goes.
    pub(super) fn advance_clearing(&mut self) {
        self.state.desired.weights.clear();
        if self.wanted(self.state.candidate) > 0 {
            let off = self.is_routed() && self.view.candidate_is_off();
            if !off {
                return self.state.drain.hold();
            }
            if !self.is_drained(self.view.candidate_in_flight()) {
                return;
            }
            self.drop_candidate();
        }
        if !self.view.candidate.is_gone() {
            let why = format!("{} instances are ending", self.view.candidate.running + self.view.candidate.leaving);
            self.state.waiting = Some(Waiting::Instances { why });
        } else if self.state.stable.is_some() {
            self.enter(Phase::Restoring);
        } else {
            self.state.desired.park = false; // nothing will come that would be worth waiting for
            self.settle_back();
            self.enter(Phase::Closed);
        }
    }

    /// Going back, second half: stable again. R5.
    pub(super) fn advance_restoring(&mut self) {
        self.want_stable(self.state.plan.instances);
        if self.view.stable.live == 0 {
            self.state.waiting = Some(Waiting::Instances { why: "stable is being started again".into() });
            return;
        }
        self.ask(Weight::NONE);
        if self.is_routed() && self.view.stable_carries(Weight::ALL) {
            self.state.desired.park = true;
            self.settle_back();
            self.enter(Phase::Closed);
        }
    }
}
