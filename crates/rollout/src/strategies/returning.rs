//! Going back while stable's pool is there: rolling, blue-green and canary. R5: it ends at stable alone.

use modelyard_core::Weight;
use modelyard_core::strategy::Strategy;

use crate::step::Turn;
use crate::{Phase, Waiting};

impl Turn<'_> {
    /// Everything at once to whatever lives of stable, or back through the steps. What was scaled down of stable is started
    /// again meanwhile, beyond the surge if need be: time matters more than memory here.
    pub(super) fn advance_returning(&mut self, step: Option<usize>) {
        self.want_stable(self.state.plan.instances);
        if self.view.stable.live == 0 {
            // A bad candidate serves better than nothing: what is asked stays until there is something to return to.
            self.state.waiting =
                Some(Waiting::Instances { why: "stable has no live instance to return to yet".into() });
            return self.state.drain.hold();
        }
        match step {
            Some(step) if self.view.candidate.live > 0 => self.step_back(step),
            Some(_) => self.enter(Phase::Returning { step: None }),
            None => self.return_at_once(),
        }
    }

    fn return_at_once(&mut self) {
        self.ask(Weight::NONE);
        self.replace_nobody();
        let off = self.is_routed() && self.view.candidate_is_off() && self.view.stable_carries(Weight::ALL);
        if !off {
            return self.state.drain.hold();
        }
        if self.is_drained(self.in_flight_but_stable()) {
            self.drop_candidate();
            self.settle_back();
            self.enter(Phase::Retiring);
        }
    }

    /// What crashes or ends of the candidate and of further arms is not started again: it is on its way out.
    fn replace_nobody(&mut self) {
        let (stable, view) = (self.state.stable, &self.view);
        for (&revision, wanted) in &mut self.state.desired.instances {
            if Some(revision) != stable {
                *wanted = (*wanted).min(view.pool(revision).running);
            }
        }
    }

    fn step_back(&mut self, step: usize) {
        let (instances, live) = (self.state.plan.instances, self.view.stable.live);
        if let Strategy::Rolling(_) = self.state.plan.strategy {
            // Traffic follows stable's instances as they come back.
            return match live >= instances {
                true => self.enter(Phase::Returning { step: None }),
                false => {
                    let fewer = self.asked().min(Weight::of(live, instances).rest());
                    self.ask(fewer);
                    self.state.waiting =
                        Some(Waiting::Instances { why: format!("{live} of {instances} instances of stable live") });
                }
            };
        }
        let share = self.state.plan.weight_at(step);
        if live < self.state.plan.instances_for(share.rest()) {
            self.state.waiting = Some(Waiting::Instances {
                why: format!("{live} instances of stable live, too few for {}", share.rest()),
            });
            return self.state.clock.hold();
        }
        self.ask(self.asked().min(share));
        if !self.is_routed() {
            return self.state.clock.hold();
        }
        self.state.clock.run(self.state.now);
        if self.state.clock.spent() >= self.bake() {
            self.enter(Phase::Returning { step: step.checked_sub(1) });
        } else {
            self.state.waiting =
                Some(Waiting::Time { why: format!("{share} is left to the candidate for {}", self.bake()) });
        }
    }
}
