//! One observation in, the next state and what to do out: the frame around the strategies.
//!
//! In this order: what persons asked, what failed, then as many moves as the observation allows. So an abort wins over everything, and a
//! failure turns the rollout around before it could advance on the same observation.

use modelyard_core::Millis;
use modelyard_core::event::Outcome;
use modelyard_core::failure::{Cause, Failure};

use crate::rollout::{Hurry, Said};
use crate::view::View;
use crate::{Action, Observation, Phase, Rollout, Verdict, Waiting, strategies};

/// How soon a waiting rollout wants to look again: often enough to turn a bad candidate around within two seconds of traffic.
pub const LOOK_AGAIN: Millis = Millis(250);

/// Most moves on one observation. Each takes evidence from the observation, so chains are short; the bound makes that plain.
const MOST_MOVES: usize = 8;

/// Advances a rollout by one observation. Same inputs, same outputs: no clock, no I/O, no panic.
pub fn step(state: Rollout, seen: &Observation) -> (Rollout, Vec<Action>) {
    let before = state.desired.clone();
    let mut turn = Turn { view: View::new(&state, seen), state, actions: Vec::new(), is_shaken: false };
    turn.state.now = seen.at;
    seen.orders.iter().for_each(|order| turn.obey(order));
    turn.notice(&seen.failures);
    turn.watch_quality();
    for _ in 0..MOST_MOVES {
        let phase = turn.state.phase;
        turn.state.waiting = None;
        strategies::advance(&mut turn);
        if turn.state.phase == phase {
            break;
        }
    }
    turn.tend_beside();
    turn.finish_turn(&before)
}

/// One step being taken.
pub(crate) struct Turn<'a> {
    pub(crate) state: Rollout,
    pub(crate) view: View<'a>,
    pub(crate) actions: Vec<Action>,
    /// A candidate instance has just crashed and was forgiven: not the moment for what cannot be undone.
    pub(crate) is_shaken: bool,
}

impl Turn<'_> {
    fn finish_turn(mut self, before: &modelyard_core::service::Desired) -> (Rollout, Vec<Action>) {
        if self.state.desired != *before {
            self.actions.push(Action::Desire { desired: self.state.desired.clone() });
        }
        if !self.state.is_closed() {
            self.actions.push(Action::WakeAt { at: self.state.now + LOOK_AGAIN });
        }
        (self.state, self.actions)
    }

    /// Moves to another phase; what the old one counted does not count for the new one.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.state.phase = phase;
        self.state.clock = Default::default();
        self.state.drain = Default::default();
        self.state.missing = Default::default();
        self.state.pace = Default::default();
    }

    /// Whether nothing may move forward now; says what is waited for.
    pub(crate) fn is_blocked(&mut self) -> bool {
        let waiting = match (&self.state.failure, self.state.held, self.state.paused, self.view.gateway()) {
            (failure, true, _, _) => {
                let what = failure.as_ref().map_or("the candidate failed", |failure| &failure.detail);
                let why = format!(
                    "{what}; `modelyard promote` goes on nevertheless, `modelyard abort` goes back to stable, `modelyard try` tries others beside it"
                );
                Some(Waiting::Person { why })
            }
            (_, _, true, _) => Some(Waiting::Paused),
            (_, _, _, None) => Some(Waiting::Gateway),
            _ => None,
        };
        let blocked = waiting.is_some();
        self.state.waiting = waiting.or(self.state.waiting.take());
        blocked
    }

    /// Notes how much has come of what the phase waits for, for the forecast.
    pub(crate) fn note_pace(&mut self, count: u64) {
        self.state.pace.note(self.state.now, count);
    }

    /// Waits for evidence: what is missing, and how long that takes when `needed` more must come.
    pub(crate) fn await_evidence(&mut self, why: &str, needed: Option<u64>) {
        let why = format!("{why}{}", self.state.pace.in_words(needed));
        self.state.waiting = Some(Waiting::Evidence { why });
    }

    /// Records a verdict if it is news.
    pub(crate) fn say(&mut self, verdict: Verdict, cause: Option<modelyard_core::failure::Cause>, why: String) {
        let said = Said { phase: self.state.phase, verdict, cause };
        if self.state.verdict != Some(said) {
            self.state.verdict = Some(said);
            self.actions.push(Action::Verdict { verdict, why, cause });
        }
    }

    /// The candidate failed: turn around, or leave it to a person.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if let Phase::Returning { step: Some(_) } = self.state.phase {
            self.enter(Phase::Returning { step: None }); // it got worse: no more steps, back at once
        }
        if !self.state.phase.is_forward() || self.state.held {
            return self.explain(failure);
        }
        if self.other_arm_leads(&failure) {
            return;
        }
        self.say(Verdict::Fail, Some(failure.cause), failure.detail.clone());
        self.state.failure = Some(failure);
        match self.state.plan.rollback.automatic {
            true => self.go_back(Outcome::RolledBack, self.state.plan.rollback.stepped),
            false => self.state.held = true,
        }
    }

    /// A symptom came first and its cause just after it: connections break, and answers slow down, before an end is seen.
    fn explain(&mut self, failure: Failure) {
        let known = self.state.failure.as_ref().map(|failure| failure.cause);
        if self.state.outcome.is_none() && known.is_some_and(Cause::is_symptom) && !failure.cause.is_symptom() {
            self.say(Verdict::Fail, Some(failure.cause), failure.detail.clone());
            self.state.failure = Some(failure);
        }
    }

    /// Turns around. From here on only the way back is open.
    pub(crate) fn go_back(&mut self, outcome: Outcome, stepped: bool) {
        let phase = strategies::way_back(&self.state, stepped);
        self.state.returning_as = Some(outcome);
        self.state.outcome = None;
        self.state.desired.mirrors.clear();
        self.state.hurry = Hurry::No;
        (self.state.paused, self.state.held) = (false, false);
        self.enter(phase);
    }

    /// The outcome is settled.
    pub(crate) fn settle(&mut self, outcome: Outcome) {
        let promoted = outcome == Outcome::Promoted;
        let failure = self.state.failure.clone().filter(|_| !promoted);
        self.state.outcome = Some(outcome);
        self.actions.push(Action::Finish {
            outcome,
            cause: failure.as_ref().map(|failure| failure.cause),
            failure: failure.map(Box::new),
            stable: if promoted { Some(self.state.candidate) } else { self.state.stable },
        });
    }

    /// The outcome of a rollout that went back.
    pub(crate) fn settle_back(&mut self) {
        self.settle(self.state.returning_as.unwrap_or(Outcome::RolledBack));
    }
}
