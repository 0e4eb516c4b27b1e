//! The timeline of one play: what happened and why, in sentences.
//!
//! Promises: bounded. What repeats for ever (a crash loop, a verdict that wavers) is told a while, then counted.

use std::collections::BTreeMap;

use modelyard_core::event::{Order, Outcome};
use modelyard_core::{Millis, RevisionNumber, Weight};
use modelyard_rollout::{Action, Phase, Rollout, Verdict, Waiting};

use super::told::{Entry, Kind, Notice, Played, Shares};
use super::{CANDIDATE, STABLE};

/// Lines of a timeline.
const MOST: usize = 200;

/// A timeline that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    entries: Vec<Entry>,
    left_out: u64,
    shares: Vec<Shares>,
    waits: Option<String>,
}

impl Story {
    pub(super) fn tell(&mut self, at: Millis, kind: Kind, what: String) {
        let matters = matches!(kind, Kind::Good | Kind::Bad | Kind::Person);
        if self.entries.len() < MOST || (matters && self.entries.len() < 2 * MOST) {
            self.entries.push(Entry { at, kind, what });
        } else {
            self.left_out += 1;
        }
    }

    /// Another spread of traffic.
    pub(super) fn shares(&mut self, at: Millis, split: &BTreeMap<RevisionNumber, Weight>) {
        let of = |revision| split.get(&revision).map_or(0, |weight| weight.basis_points());
        let all: u16 = split.values().map(|weight| weight.basis_points()).sum();
        let (stable, candidate) = (of(STABLE), of(CANDIDATE));
        let shares = Shares { at, stable, candidate, others: all.saturating_sub(stable + candidate) };
        if split.is_empty() && at > Millis(0) {
            self.tell(at, Kind::Bad, "nothing serves".to_owned());
        }
        self.shares.push(shares);
    }

    pub(super) fn ordered(&mut self, at: Millis, order: &Order) {
        let what = match order {
            Order::Promote { .. } => "a person says: go on",
            Order::Abort => "a person says: go back",
            Order::Try { .. } => "a person tries an alternative beside it",
            Order::Pause => "a person says: wait",
            Order::Resume => "a person says: resume",
        };
        self.tell(at, Kind::Person, what.to_owned());
    }

    /// What a step decided.
    pub(super) fn moved(&mut self, at: Millis, phase: Phase, after: &Rollout, actions: &[Action], told: &mut Played) {
        for action in actions {
            match action {
                Action::Verdict { verdict: Verdict::Fail, why, cause } => {
                    let named = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
                    self.tell(at, Kind::Failure, format!("the candidate failed{named}: {why}"));
                    self.notice(at, told);
                }
                Action::Verdict { verdict, why, .. } => {
                    self.tell(at, Kind::Verdict, format!("verdict {}: {why}", verdict.name()));
                }
                Action::Refused { why, .. } => self.tell(at, Kind::Person, format!("refused: {why}")),
                Action::Finish { outcome, .. } => self.finished(at, *outcome, after, told),
                Action::Desire { .. } | Action::WakeAt { .. } => {}
            }
        }
        if let Some(failure) = after.failure() {
            self.notice(at, told);
            (told.cause, told.why) = (Some(failure.cause), Some(failure.detail.clone()));
        }
        let waits = after.waiting().filter(|waiting| waiting.is_person()).map(Waiting::to_string);
        if after.phase != phase && !after.is_closed() {
            self.tell(at, Kind::Move, after.describe());
        }
        if let Some(asked) = waits.clone().filter(|_| self.waits.is_none()) {
            self.tell(at, Kind::Person, asked);
        }
        self.waits = waits;
    }

    fn notice(&mut self, at: Millis, told: &mut Played) {
        if told.noticed.is_none() {
            (told.noticed, told.noticed_by) = (Some(at), Some(Notice::Rollout));
        }
    }

    fn finished(&mut self, at: Millis, outcome: Outcome, after: &Rollout, told: &mut Played) {
        // A rollback by hand is a rollout of its own; how the first one ended stays.
        if after.candidate == STABLE {
            return self.tell(at, Kind::Good, format!("revision {} carries everything again", after.candidate));
        }
        (told.outcome, told.decided) = (Some(outcome), Some(at));
        let (kind, what) = if outcome == Outcome::Promoted {
            let who = if after.candidate == CANDIDATE { "the candidate" } else { "a further arm" };
            (Kind::Good, format!("promoted: {who} is stable from now on"))
        } else if outcome == Outcome::RolledBack {
            (Kind::Bad, "rolled back: stable carries everything".to_owned())
        } else {
            (Kind::Person, format!("{}: stable carries everything", outcome.name()))
        };
        self.tell(at, kind, what);
    }

    pub(super) fn into_parts(mut self) -> (Vec<Entry>, Vec<Shares>) {
        if let Some(last) = self.entries.last().map(|entry| entry.at).filter(|_| self.left_out > 0) {
            let what = format!("{} further lines of this kind are left out", self.left_out);
            self.entries.push(Entry { at: last, kind: Kind::World, what });
        }
        (self.entries, self.shares)
    }
}
