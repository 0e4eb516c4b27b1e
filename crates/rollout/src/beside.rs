//! What runs beside the arms: shadows of the plan, and alternatives that a person tries while the candidate is held or the rollout paused.
//!
//! Promises (R11): whoever runs beside decides nothing and is never promoted. A shadow carries nothing; canaries carry at most 20 % together, lent by
//! the largest arm and given back before anything else moves. Whoever crashes or does not start is taken away, and the rollout does not notice.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::beside::{BesideKind, ShadowArm};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::strategy::Strategy;
use modelyard_core::{InstanceId, RevisionNumber, Timestamp, Weight};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::plan::FIRST_SHARE_LIMIT;
use crate::step::Turn;
use crate::{Action, Phase, Plan, Rollout, Verdict};

/// Most revisions beside the arms of one rollout, those that were taken away not counted.
pub(crate) const MOST: usize = 16;

/// A revision beside the arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    /// How it runs.
    pub kind: BesideKind,
    /// Share of copies, or of traffic, that it is to have.
    pub share: Weight,
    /// A person tries it: it goes as soon as the rollout goes on.
    pub(crate) ordered: bool,
    /// It was taken away, and does not come back.
    pub(crate) out: bool,
    /// The traffic that it has, and whose that is.
    pub(crate) lent: Option<(RevisionNumber, Weight)>,
    /// For how long it has had fewer live instances than it needs.
    pub(crate) missing: Clock,
    pub(crate) crashes: BTreeSet<(Timestamp, Option<InstanceId>)>,
}

impl Beside {
    pub(crate) fn new(kind: BesideKind, share: Weight, ordered: bool) -> Self {
        let (out, lent, missing, crashes) = (false, None, Clock::default(), BTreeSet::new());
        Self { kind, share, ordered, out, lent, missing, crashes }
    }

    /// Whether it was taken away.
    pub const fn is_out(&self) -> bool {
        self.out
    }

    /// What is worth a line in the log.
    pub(crate) fn in_brief(&self) -> (BesideKind, Weight, bool, Option<(RevisionNumber, Weight)>, usize) {
        (self.kind, self.share, self.out, self.lent, self.crashes.len())
    }
}

/// The shadows of a plan, for the revisions that were made for them.
pub(crate) fn planned(plan: &Plan, revisions: &[RevisionNumber]) -> BTreeMap<RevisionNumber, Beside> {
    let shadow = |one: &ShadowArm| Beside::new(BesideKind::Shadow, one.share, false);
    revisions.iter().copied().zip(plan.strategy.shadows().iter().map(shadow)).collect()
}

impl Rollout {
    /// Whether a person may try a revision beside it now, change its share, or (at no share) take it away.
    ///
    /// # Errors
    /// Why not, and what can be done instead.
    pub fn may_try(&self, revision: RevisionNumber, share: Weight, kind: BesideKind) -> Result<(), &'static str> {
        if share == Weight::NONE {
            let running = self.beside.get(&revision).filter(|one| one.ordered && !one.out);
            return running.map(|_| ()).ok_or("no such alternative runs beside this rollout");
        }
        if !self.held && !self.paused {
            return Err(
                "alternatives are tried while a candidate is held or the rollout is paused; `modelyard pause` first",
            );
        }
        if self.stable.is_none() {
            return Err("a first deployment has nothing that an alternative could be compared with");
        }
        let (phase, is_test) = (self.phase, matches!(self.plan.strategy, Strategy::Ab(_)));
        if !phase.is_forward() || matches!(phase, Phase::Emptying | Phase::Stopping | Phase::Replacing) {
            return Err(
                "nothing can be tried beside it right now: stable is stopped, or the rollout is going back or over",
            );
        }
        if Some(revision) == self.stable || revision == self.candidate || self.shares.contains_key(&revision) {
            return Err("that revision is an arm of this rollout already");
        }
        let known = self.beside.get(&revision);
        if known.is_some_and(|one| !one.ordered) {
            return Err("that revision is a shadow of the plan");
        }
        let others = || self.beside.iter().filter(|(other, one)| **other != revision && !one.out);
        if others().count() >= MOST {
            return Err("sixteen revisions run beside this rollout already; take one away first, with a share of 0");
        }
        if kind == BesideKind::Shadow {
            return Ok(());
        }
        if is_test && matches!(phase, Phase::Starting | Phase::Testing) {
            return Err("a test's split must stay as it is; try it as shadow");
        }
        let carried: u32 =
            others().filter(|(_, one)| one.kind == BesideKind::Canary).map(|(_, one)| points(one.share)).sum();
        if carried + points(share) > u32::from(FIRST_SHARE_LIMIT) {
            return Err("canaries beside a rollout carry 20 % together at most, for nothing has passed of them");
        }
        Ok(())
    }
}

impl Turn<'_> {
    /// A person tries an alternative, changes its share, or (at no share) takes it away.
    pub(crate) fn try_beside(
        &mut self,
        revision: RevisionNumber,
        share: Weight,
        kind: BesideKind,
    ) -> Result<(), &'static str> {
        self.state.may_try(revision, share, kind)?;
        if let Some(one) = self.state.beside.get_mut(&revision).filter(|_| share == Weight::NONE) {
            one.out = true;
            return Ok(());
        }
        match self.state.beside.get_mut(&revision) {
            Some(one) if !one.out => (one.kind, one.share) = (kind, share),
            before => {
                let lent = before.and_then(|one| one.lent); // what could not be given back yet
                self.state.beside.insert(revision, Beside { lent, ..Beside::new(kind, share, true) });
            }
        }
        Ok(())
    }

    /// Failures of whoever runs beside: nobody else hears of them.
    pub(crate) fn notice_beside(&mut self, failures: &[Failure]) {
        let loops = self.state.plan.analysis.crash_loop as usize;
        for failure in failures {
            let Some(one) = self.state.beside.get_mut(&failure.revision).filter(|one| !one.out) else { continue };
            if failure.cause == Cause::MachineLost {
                continue; // it is placed elsewhere; the time to start bounds how long that takes
            }
            if failure.cause == Cause::Crash {
                one.crashes.insert((failure.at, failure.instance.clone())); // it is started again, ever more rarely
                if one.crashes.len() < loops {
                    continue;
                }
            }
            self.take_away(failure.revision, &failure.detail);
        }
        let lent: Vec<RevisionNumber> =
            self.state.beside.iter().filter(|(_, one)| !one.out && one.lent.is_some()).map(|(&one, _)| one).collect();
        for revision in lent {
            if self.view.pool(revision).lost > 0 {
                self.state.arm_readings.remove(&revision);
                continue; // broken connections are the machine's
            }
            if let Some(judged) = self.fails_callers(revision) {
                self.take_away(revision, &judged.why);
            }
        }
    }

    fn take_away(&mut self, revision: RevisionNumber, why: &str) {
        if let Some(one) = self.state.beside.get_mut(&revision) {
            one.out = true;
            let why = format!("revision {revision}, which ran beside, was taken away and decides nothing: {why}");
            self.actions.push(Action::Verdict { verdict: Verdict::Inconclusive, why, cause: None });
        }
    }

    /// Sees to it that everybody who may runs beside, and that nobody else does. The last thing in a step.
    pub(crate) fn tend_beside(&mut self) {
        if self.state.beside.is_empty() {
            return;
        }
        let revisions: Vec<RevisionNumber> = self.state.beside.keys().copied().collect();
        revisions.iter().for_each(|&revision| self.tend_one(revision));
        self.lend_anew();
        for revision in revisions {
            let Some(one) = self.state.beside.get(&revision) else { continue };
            // Who carries something that nobody can take over yet is needed for as long.
            match one.out && one.lent.is_none() {
                true => drop(self.state.desired.instances.remove(&revision)),
                false => {
                    let needed = self.state.plan.instances_for(one.share);
                    self.state.desired.instances.insert(revision, needed);
                }
            }
            match !one.out && one.kind == BesideKind::Shadow && one.lent.is_none() {
                true => drop(self.state.desired.mirrors.insert(revision, one.share)),
                false => drop(self.state.desired.mirrors.remove(&revision)),
            }
            if one.out {
                self.state.arm_readings.remove(&revision);
            }
        }
    }

    /// Takes it out when its time is over, or when it does not start.
    fn tend_one(&mut self, revision: RevisionNumber) {
        let Some(one) = self.state.beside.get(&revision).filter(|one| !one.out) else { return };
        let (phase, live) = (self.state.phase, self.view.pool(revision).live);
        let stays = match one.ordered {
            true => phase.is_forward() && (self.state.held || self.state.paused),
            false => {
                matches!(phase, Phase::Starting | Phase::Testing | Phase::Scaling { .. } | Phase::Baking { .. })
            }
        };
        let needed = self.state.plan.instances_for(one.share);
        let (now, timeout) = (self.state.now, self.state.plan.analysis.startup_timeout);
        let Some(one) = self.state.beside.get_mut(&revision) else { return };
        if !stays {
            one.out = true;
            return;
        }
        if live >= needed {
            one.missing = Clock::default();
            return;
        }
        one.missing.run(now);
        if one.missing.spent() >= timeout {
            self.take_away(revision, &format!("{live} of {needed} instances are ready and live after {timeout}"));
        }
    }

    /// Asks for shares of the arms; canaries beside keep what they are lent.
    pub(crate) fn ask_shares(&mut self, mut weights: BTreeMap<RevisionNumber, Weight>) {
        weights.retain(|_, weight| *weight > Weight::NONE);
        let borrowers = self.borrowers(false);
        self.lend(weights, &borrowers);
    }

    /// Gives back what was lent, and lends to those who may have it. R1: what nobody live could take over stays where it is.
    fn lend_anew(&mut self) {
        let borrowers = self.borrowers(true);
        let mut weights = self.state.desired.weights.clone();
        for (revision, one) in &self.state.beside {
            if let Some((lender, lent)) = one.lent.filter(|_| weights.remove(revision).is_some()) {
                let own = weights.entry(lender).or_default();
                *own = sum(*own, lent);
            }
        }
        self.lend(weights, &borrowers);
    }

    /// Who is to have traffic, and how much. With `hold`, also whoever has some that cannot be given back yet.
    fn borrowers(&self, hold: bool) -> Vec<(RevisionNumber, Weight)> {
        let wanted = |(&revision, one): (&RevisionNumber, &Beside)| {
            let lent = one.lent.map_or(Weight::NONE, |(_, lent)| lent);
            let stays = !one.out && one.kind == BesideKind::Canary && self.state.phase.is_forward();
            let stays = stays && (self.state.held || self.state.paused);
            let is_needed = hold && one.lent.is_some_and(|(lender, _)| self.view.pool(lender).live == 0);
            let share = match (stays, self.view.pool(revision).live > 0) {
                _ if is_needed => lent,
                (true, true) => one.share,
                (true, false) => one.share.min(lent),
                (false, _) => Weight::NONE,
            };
            (share > Weight::NONE).then_some((revision, share))
        };
        self.state.beside.iter().filter_map(wanted).collect()
    }

    fn lend(&mut self, mut weights: BTreeMap<RevisionNumber, Weight>, borrowers: &[(RevisionNumber, Weight)]) {
        let before: BTreeMap<RevisionNumber, RevisionNumber> =
            self.state.beside.iter().filter_map(|(&revision, one)| Some((revision, one.lent?.0))).collect();
        self.state.beside.values_mut().for_each(|one| one.lent = None);
        for &(revision, share) in borrowers {
            // Who lends goes on lending: another's share would have to grow for it.
            let same = before.get(&revision).copied().filter(|lender| weights.contains_key(lender));
            let Some(lender) = same.or_else(|| self.largest(&weights)) else { continue };
            let has = weights.get(&lender).copied().unwrap_or_default();
            let lent = share.min(has);
            weights.insert(lender, less(has, lent));
            weights.insert(revision, lent);
            if let Some(one) = self.state.beside.get_mut(&revision) {
                one.lent = Some((lender, lent));
            }
        }
        weights.retain(|_, weight| *weight > Weight::NONE);
        self.state.desired.weights = weights;
    }

    /// The arm that carries most; of equals stable.
    fn largest(&self, weights: &BTreeMap<RevisionNumber, Weight>) -> Option<RevisionNumber> {
        let arms = weights.iter().filter(|(arm, _)| !self.state.beside.contains_key(arm));
        arms.max_by_key(|&(arm, weight)| (*weight, Some(*arm) == self.state.stable)).map(|(&arm, _)| arm)
    }
}

fn points(weight: Weight) -> u32 {
    u32::from(weight.basis_points())
}

fn sum(a: Weight, b: Weight) -> Weight {
    Weight::new(a.basis_points().saturating_add(b.basis_points())).unwrap_or(Weight::ALL)
}

fn less(a: Weight, b: Weight) -> Weight {
    Weight::new(a.basis_points().saturating_sub(b.basis_points())).unwrap_or_default()
}
