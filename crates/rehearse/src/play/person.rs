//! What persons do in a play: they answer a rollout that asks, and notice what nothing else does, each after a time that was given.

use modelyard_core::Millis;
use modelyard_core::event::Order;
use modelyard_rollout::{Rollout, Waiting};

use super::scenario::{Decides, Person};
use super::told::Played;

/// The persons of one play.
#[derive(Clone, Debug)]
pub(super) struct Persons {
    person: Person,
    /// When the first request met a bad revision.
    pub(super) met: Option<Millis>,
    /// Since when the rollout has been asking.
    asked: Option<Millis>,
    /// Somebody said to go on with the candidate as it is.
    accepted: bool,
    /// Somebody has rolled back.
    acted: bool,
}

/// What a person wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    /// An order to the open rollout.
    Order(Order),
    /// `modelyard rollback` of a rollout that is over.
    RollBack,
}

impl Wish {
    /// The order to the open rollout, if it is one.
    pub(super) fn order(self) -> Option<Order> {
        match self {
            Self::Order(order) => Some(order),
            Self::RollBack => None,
        }
    }
}

impl Persons {
    pub(super) const fn new(person: Person) -> Self {
        Self { person, met: None, asked: None, accepted: false, acted: false }
    }

    /// Whether somebody noticed what nothing else did, and acted.
    pub(super) const fn has_acted(&self) -> bool {
        self.acted
    }

    /// When somebody will do something.
    pub(super) fn due(&self) -> Option<Millis> {
        let answers = self.asked.map(|since| Millis(since.0.saturating_add(self.person.reacts.0)));
        let notices = self.notices();
        [answers, notices].into_iter().flatten().min()
    }

    /// When somebody notices what nothing else has.
    fn notices(&self) -> Option<Millis> {
        let may = !self.accepted && !self.acted && self.person.decides != Decides::Nothing;
        self.met.filter(|_| may).map(|met| Millis(met.0.saturating_add(self.person.notices.0)))
    }

    /// What is wanted now.
    pub(super) fn orders(&mut self, now: Millis, rollout: &Rollout, told: &Played, is_bad: bool) -> Vec<Wish> {
        // A candidate that failed and was not turned around is held for a person, whatever else is waited for just now.
        let held = rollout.failure().is_some() && rollout.phase.is_forward() && rollout.outcome().is_none();
        let asks = !rollout.is_closed() && (held || rollout.waiting().is_some_and(Waiting::is_person));
        self.asked = asks.then(|| self.asked.unwrap_or(now)).filter(|_| self.person.decides != Decides::Nothing);
        if told.noticed.is_none() && is_bad && self.notices().is_some_and(|due| due <= now) {
            self.acted = true;
            return vec![if rollout.is_closed() { Wish::RollBack } else { Wish::Order(Order::Abort) }];
        }
        if self.asked.is_none_or(|since| now.0 < since.0.saturating_add(self.person.reacts.0)) {
            return Vec::new();
        }
        self.asked = None;
        let failed = told.noticed.is_some();
        match (failed, self.person.decides) {
            (true, Decides::Abort) => vec![Wish::Order(Order::Abort)],
            _ => {
                self.accepted |= failed;
                vec![Wish::Order(Order::Promote { all: false })]
            }
        }
    }
}
