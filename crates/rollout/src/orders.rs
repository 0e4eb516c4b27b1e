//! What persons ask: promote, pause, resume, abort, and to try alternatives.
//!
//! Promises: an order that changes nothing is answered with why, and with what can be done instead.

use modelyard_core::event::{Order, Outcome};
use modelyard_core::failure::Class;

use crate::rollout::Hurry;
use crate::step::Turn;
use crate::{Action, Phase};

impl Turn<'_> {
    pub(crate) fn obey(&mut self, order: &Order) {
        let refused = match order {
            Order::Promote { all } => self.promote(*all),
            Order::Pause => self.pause(),
            Order::Resume => self.resume(),
            Order::Abort => self.abort(),
            Order::Try { revision, share, kind } => self.try_beside(*revision, *share, *kind),
        };
        if let Err(why) = refused {
            self.actions.push(Action::Refused { order: order.clone(), why: why.into() });
        }
    }

    fn promote(&mut self, all: bool) -> Result<(), &'static str> {
        let phase = self.state.phase;
        if !phase.is_forward() {
            return Err(match self.state.outcome {
                Some(Outcome::Promoted) => "the candidate carries everything already",
                _ => "the rollout is going back or has gone back; deploy the candidate again",
            });
        }
        if self.state.held {
            self.forgive();
        } else if !all && !self.state.paused && !skips(phase) {
            return Err(
                "instances are starting or ending; there is no wait to skip (`promote --all` skips all later ones)",
            );
        }
        self.state.paused = false;
        self.state.hurry = match all && phase != Phase::Kept {
            true => Hurry::All,
            false if skips(phase) => Hurry::Next,
            false => self.state.hurry,
        };
        Ok(())
    }

    /// A person goes on with a candidate that failed: what was held against it no longer is.
    fn forgive(&mut self) {
        self.state.held = false;
        let class = self.state.failure.as_ref().map(|failure| failure.cause.class());
        self.state.quality_forgiven |= class == Some(Class::Quality);
        self.state.failure = None;
        self.state.crashes.clear();
        self.state.readings.begin();
        self.enter(self.state.phase);
    }

    fn pause(&mut self) -> Result<(), &'static str> {
        match self.state.phase {
            Phase::Stopping => Err("nothing serves right now; `modelyard abort` starts stable again"),
            Phase::Emptying if self.state.desired.weights.is_empty() => {
                Err("requests are parked or refused right now; `modelyard abort` returns to stable")
            }
            Phase::Replacing => Err("the candidate is about to serve; `modelyard abort` goes back"),
            phase if phase.is_forward() => {
                self.state.paused = true;
                Ok(())
            }
            _ => Err("the rollout is going back or is over; there is nothing to pause"),
        }
    }

    fn resume(&mut self) -> Result<(), &'static str> {
        match (self.state.paused, self.state.held) {
            (true, _) => {
                self.state.paused = false;
                Ok(())
            }
            (_, true) => {
                Err("the candidate failed; `modelyard promote` goes on nevertheless, `modelyard abort` goes back")
            }
            _ => Err("the rollout is not paused"),
        }
    }

    fn abort(&mut self) -> Result<(), &'static str> {
        match self.state.phase {
            Phase::Returning { step: Some(_) } => {
                self.enter(Phase::Returning { step: None });
                Ok(())
            }
            phase if phase.is_forward() => {
                self.go_back(Outcome::Aborted, false);
                Ok(())
            }
            _ => Err(match self.state.outcome {
                Some(Outcome::Promoted) => {
                    "the candidate carries everything and stable's pool is gone; use `modelyard rollback`"
                }
                _ => "the rollout is going back or has gone back already",
            }),
        }
    }
}

/// Whether the phase has a wait that `promote` can end.
const fn skips(phase: Phase) -> bool {
    matches!(
        phase,
        Phase::Preview
            | Phase::Baking { .. }
            | Phase::Pausing { .. }
            | Phase::Watching
            | Phase::Kept
            | Phase::Testing
            | Phase::Shadowing
    )
}
