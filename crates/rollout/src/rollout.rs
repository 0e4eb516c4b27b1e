//! One rollout as a value: the plan, where it stands, and what it remembers. This is what the log holds.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::beside::Bounds;
use modelyard_core::event::Outcome;
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::service::Desired;
use modelyard_core::strategy::Strategy;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Timestamp, Weight};
use serde::{Deserialize, Serialize};

use crate::action::Verdict;
use crate::beside::{self, Beside};
use crate::clock::Clock;
use crate::forecast::Pace;
use crate::readings::Readings;
use crate::{Phase, Plan, Waiting};

/// One change of a service from its stable revision to a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Service that is changed.
    pub service: ServiceName,
    /// Where it starts from; `None` for a first deployment.
    pub stable: Option<RevisionNumber>,
    /// Where it goes to. Of several arms the one that leads: the one that is promoted, if one is.
    pub candidate: RevisionNumber,
    /// Share of each arm that is not stable: of traffic (A/B) or of copies (shadow). Empty for other strategies.
    #[serde(default)]
    pub(crate) shares: BTreeMap<RevisionNumber, Weight>,
    /// Where the sessions of each arm begin, for as long as the rollout lasts.
    #[serde(default)]
    pub(crate) starts: BTreeMap<RevisionNumber, u16>,
    /// Arms that failed and were taken out.
    #[serde(default)]
    pub(crate) out: BTreeSet<RevisionNumber>,
    /// Units of each arm when the test began, and when that was.
    #[serde(default)]
    pub(crate) began: Option<(Timestamp, BTreeMap<RevisionNumber, u64>)>,
    /// The planned size of the test was said.
    #[serde(default)]
    pub(crate) plan_is_told: bool,
    /// A person went on in spite of a drop in quality.
    #[serde(default)]
    pub(crate) quality_forgiven: bool,
    /// What the counters said of further arms.
    #[serde(default)]
    pub(crate) arm_readings: BTreeMap<RevisionNumber, Readings>,
    /// What runs beside the arms and decides nothing.
    #[serde(default)]
    pub(crate) beside: BTreeMap<RevisionNumber, Beside>,
    /// Bounds of the plan's shadows, arms or not.
    #[serde(default)]
    pub(crate) bounds: BTreeMap<RevisionNumber, Bounds>,
    /// Its frozen rules.
    pub plan: Plan,
    /// Where it stands.
    pub phase: Phase,
    /// When it started.
    pub started: Timestamp,
    /// When the last observation was made. Only differences count, and a clock that is set back makes them zero.
    pub(crate) now: Timestamp,
    pub(crate) desired: Desired,
    /// Time that counts towards what the present phase waits for.
    pub(crate) clock: Clock,
    /// Time that requests in flight have had to finish.
    pub(crate) drain: Clock,
    /// Time for which the candidate has had fewer live instances than it needs.
    pub(crate) missing: Clock,
    pub(crate) paused: bool,
    pub(crate) hurry: Hurry,
    /// The candidate failed and policy leaves the decision to a person.
    pub(crate) held: bool,
    /// Whether the candidate ever had as many live instances as it was asked for.
    pub(crate) was_live: bool,
    pub(crate) crashes: BTreeSet<(Timestamp, Option<InstanceId>)>,
    /// When a machine was first lost under the candidate.
    #[serde(default)]
    pub(crate) lost: Option<Timestamp>,
    pub(crate) readings: Readings,
    /// How fast what the present phase waits for is counted.
    #[serde(default)]
    pub(crate) pace: Pace,
    /// What the analysis said last.
    pub(crate) verdict: Option<Said>,
    pub(crate) waiting: Option<Waiting>,
    pub(crate) failure: Option<Failure>,
    /// What going back will be called once it is done.
    pub(crate) returning_as: Option<Outcome>,
    pub(crate) outcome: Option<Outcome>,
}

/// How far a person asked to go on without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Hurry {
    #[default]
    No,
    /// Out of the present wait.
    Next,
    /// To the end.
    All,
}

/// A verdict as it was last recorded, so that only news is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) phase: Phase,
    pub(crate) verdict: Verdict,
    pub(crate) cause: Option<Cause>,
}

impl Rollout {
    /// A rollout that has not moved yet: stable carries everything. `arms` are the revisions of the plan's further arms and then of its shadows, in their order.
    pub fn start(
        service: ServiceName,
        stable: Option<RevisionNumber>,
        candidate: RevisionNumber,
        arms: &[RevisionNumber],
        plan: Plan,
        at: Timestamp,
    ) -> Self {
        // A revision rolled out against itself is a first deployment of it: there is no other pool to return to.
        let stable = stable.filter(|&stable| stable != candidate);
        let phase = match (&plan.strategy, stable) {
            (_, None) => Phase::Replacing,
            (Strategy::Recreate(_), _) => Phase::Emptying,
            (Strategy::Rolling(rolling), _) => Phase::Batch { goal: rolling.batch.min(plan.instances) },
            (Strategy::BlueGreen(_), _) => Phase::Starting,
            (Strategy::Ab(_) | Strategy::Shadow(_), _) => Phase::Starting,
            (Strategy::Canary(_), _) => Phase::Scaling { step: 0 },
        };
        let count = plan.arm_shares().len().saturating_sub(1).min(arms.len());
        let (arms, shadows) = arms.split_at(count);
        // Beside a first deployment nothing runs.
        let shadows = if stable.is_some() { shadows } else { &[] };
        let beside = beside::planned(&plan, shadows);
        let (usual, shadow_arms) = match &plan.strategy {
            Strategy::Shadow(shadow) => (Bounds::from(shadow), shadow.arms.as_slice()),
            _ => (Bounds::default(), &[][..]),
        };
        let copied = arms.iter().zip(shadow_arms).chain(shadows.iter().zip(plan.strategy.shadows()));
        let bounds = copied.map(|(&revision, shadow)| (revision, shadow.bounds(&usual))).collect();
        let revisions = || std::iter::once(candidate).chain(arms.iter().copied());
        let shares: BTreeMap<RevisionNumber, Weight> = match stable {
            Some(_) => revisions().zip(plan.arm_shares()).collect(),
            None => BTreeMap::new(), // a first deployment has nothing to be compared with
        };
        let first = match phase {
            Phase::Starting if !shares.is_empty() => plan.instances_for(shares[&candidate]),
            Phase::Replacing | Phase::Starting => plan.instances,
            Phase::Scaling { step } => plan.instances_for(plan.weight_at(step)),
            _ => 0, // the first step of `rolling` and `recreate` depends on what is seen
        };
        let mut desired = Desired { park: true, ..Desired::default() };
        if let Some(stable) = stable {
            desired.instances.insert(stable, plan.instances);
            desired.weights.insert(stable, Weight::ALL);
        }
        if first > 0 {
            desired.instances.insert(candidate, first);
        }
        for (&arm, &share) in shares.iter().filter(|&(&arm, _)| arm != candidate) {
            desired.instances.insert(arm, plan.instances_for(share));
        }
        for (&shadow, one) in &beside {
            desired.instances.insert(shadow, plan.instances_for(one.share));
        }
        let mut room = 0;
        let mut starts = BTreeMap::from([(candidate, 0)]);
        for revision in revisions().filter(|_| matches!(plan.strategy, Strategy::Ab(_))) {
            starts.insert(revision, room);
            room += shares.get(&revision).map_or(0, |share| share.basis_points());
        }
        Self {
            shares,
            starts,
            out: BTreeSet::new(),
            began: None,
            plan_is_told: false,
            quality_forgiven: false,
            arm_readings: BTreeMap::new(),
            beside,
            bounds,
            service,
            stable,
            candidate,
            plan,
            phase,
            started: at,
            now: at,
            desired,
            clock: Clock::default(),
            drain: Clock::default(),
            missing: Clock::default(),
            paused: false,
            hurry: Hurry::No,
            held: false,
            was_live: false,
            crashes: BTreeSet::new(),
            lost: None,
            readings: Readings::default(),
            pace: Pace::default(),
            verdict: None,
            waiting: None,
            failure: None,
            returning_as: None,
            outcome: None,
        }
    }

    /// What should be true now.
    pub fn desired(&self) -> Desired {
        self.desired.clone()
    }

    /// Where each arm's stretch of sessions begins: with room up to its largest share, so that no arm's growth moves another's sessions.
    pub const fn starts(&self) -> &BTreeMap<RevisionNumber, u16> {
        &self.starts
    }

    /// Every arm beside stable that has not been taken out, the candidate first.
    pub fn arms(&self) -> impl Iterator<Item = RevisionNumber> + '_ {
        let others = self.shares.keys().copied().filter(|&arm| arm != self.candidate && !self.out.contains(&arm));
        std::iter::once(self.candidate).chain(others)
    }

    /// What ran or runs beside the arms.
    pub const fn beside(&self) -> &BTreeMap<RevisionNumber, Beside> {
        &self.beside
    }

    /// Bounds of the copies that a shadow gets, and how its answers are compared.
    pub fn bounds(&self, shadow: RevisionNumber) -> Bounds {
        self.bounds.get(&shadow).copied().unwrap_or_else(|| match &self.plan.strategy {
            Strategy::Shadow(shadow) => Bounds::from(shadow),
            _ => Bounds::default(),
        })
    }

    /// How it ended: set once the candidate carries everything for good, or stable carries everything again.
    pub const fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Whether nothing more will happen: the pool that lost is gone.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether only the rollback window keeps it open, so that a new deployment may close it.
    pub fn is_in_rollback_window(&self) -> bool {
        self.phase == Phase::Kept
    }

    /// Ends the rollback window at once, for a new deployment; other rollouts stay as they are.
    ///
    /// The candidate carries everything by the gateway's own report when a window opens, so stable's pool may go.
    #[must_use]
    pub fn close_window(mut self) -> Self {
        if self.is_in_rollback_window() {
            self.phase = Phase::Closed;
            self.waiting = None;
            self.desired.instances = BTreeMap::from([(self.candidate, self.plan.instances)]);
            self.desired.weights = BTreeMap::from([(self.candidate, Weight::ALL)]);
        }
        self
    }

    /// Whether the candidate is a pool of its own that can be looked at by its own address before it takes everything.
    pub fn has_preview(&self) -> bool {
        let is_beside = matches!(self.plan.strategy, Strategy::BlueGreen(_)) && self.stable.is_some();
        is_beside && self.outcome.is_none() && self.phase.is_forward()
    }

    /// Path below the gateway's address by which the candidate is reached whatever its weight.
    pub fn preview_path(&self) -> String {
        format!("/{}/r{}", self.service, self.candidate)
    }

    /// What it waits for, if that may take long, with the reason and, where evidence is missing, a forecast of the time still needed.
    ///
    /// Its figures change with every observation and are not worth a line in the log each ([`Self::advanced_from`]): whoever shows
    /// them asks the state in memory.
    pub const fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    /// Whether the candidate failed and a person decides what becomes of it.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// Whether a person paused it.
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Why the candidate failed, with the evidence.
    pub const fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The classified cause, when the candidate failed.
    pub fn cause(&self) -> Option<Cause> {
        self.failure.as_ref().map(|failure| failure.cause)
    }

    /// Present step and number of steps, counted from 1; rolling counts batches. `None` where there are none.
    pub fn progress(&self) -> Option<(usize, usize)> {
        let steps = self.plan.steps().len();
        match (self.phase, &self.plan.strategy) {
            (Phase::Scaling { step } | Phase::Baking { step } | Phase::Returning { step: Some(step) }, _)
                if steps > 0 =>
            {
                Some(((step + 1).min(steps), steps))
            }
            (Phase::Batch { goal } | Phase::Pausing { goal }, Strategy::Rolling(rolling)) => {
                let batches = |count: u32| count.div_ceil(rolling.batch.max(1)) as usize;
                Some((batches(goal), batches(self.plan.instances)))
            }
            _ => None,
        }
    }

    /// Whether this state differs from `before` in more than figures that the next observation brings again (readings, the clock
    /// of a bake). Only such states need a line in the log: losing the others to a crash costs time, never safety.
    pub fn advanced_from(&self, before: &Self) -> bool {
        let same_wait = match (&self.waiting, &before.waiting) {
            (Some(now), Some(then)) => now.same_kind(then),
            (now, then) => now.is_none() == then.is_none(),
        };
        !same_wait
            || self.phase != before.phase
            || self.desired != before.desired
            || self.outcome != before.outcome
            || (self.paused, self.held, self.was_live, self.hurry)
                != (before.paused, before.held, before.was_live, before.hurry)
            || self.verdict != before.verdict
            || self.failure != before.failure
            || (&self.crashes, self.lost) != (&before.crashes, before.lost)
            || (self.candidate, self.quality_forgiven) != (before.candidate, before.quality_forgiven)
            || self.out != before.out
            || self.began != before.began
            || !self
                .beside
                .iter()
                .map(|(revision, one)| (revision, one.in_brief()))
                .eq(before.beside.iter().map(|(revision, one)| (revision, one.in_brief())))
    }

    fn arms_in_words(&self) -> String {
        let arms: Vec<String> = self.arms().map(|arm| arm.to_string()).collect();
        format!("revision{} {}", if arms.len() == 1 { "" } else { "s" }, arms.join(", "))
    }

    /// Where it stands, for people: `baking at 10 %, step 1 of 4`.
    pub fn describe(&self) -> String {
        let place = self.progress().map(|(step, of)| format!(", step {step} of {of}")).unwrap_or_default();
        let candidate = self.candidate;
        let text = match self.phase {
            Phase::Starting => format!("starting {} beside stable", self.arms_in_words()),
            Phase::Testing => format!("testing {} against stable", self.arms_in_words()),
            Phase::Shadowing => format!("comparing {} with stable", self.arms_in_words()),
            Phase::Preview => format!("revision {candidate} at its preview address {}", self.preview_path()),
            Phase::Scaling { step } => format!("starting instances for {}{place}", self.plan.weight_at(step)),
            Phase::Baking { step } => format!("baking at {}{place}", self.plan.weight_at(step)),
            Phase::Batch { goal } => format!("replacing instances, {goal} of {}", self.plan.instances),
            Phase::Pausing { goal } => format!("watching after {goal} of {} instances", self.plan.instances),
            Phase::Emptying => "stable finishes its requests before it is stopped".into(),
            Phase::Stopping => "stopping stable".into(),
            Phase::Replacing => format!("starting revision {candidate}"),
            Phase::Watching => format!("watching revision {candidate}, which serves alone"),
            Phase::Kept => "promoted; the old pool is kept for a rollback".into(),
            Phase::Draining => format!("revision {candidate} takes everything; stable finishes its requests"),
            Phase::Returning { step: Some(_) } if self.plan.steps().is_empty() => {
                "going back to stable as its instances come back".into()
            }
            Phase::Returning { step: Some(step) } => {
                format!("going back to stable, {} left{place}", self.plan.weight_at(step))
            }
            Phase::Returning { step: None } => "going back to stable".into(),
            Phase::Clearing => format!("stopping revision {candidate}"),
            Phase::Restoring => "starting stable again".into(),
            Phase::Retiring => "stopping the pool that is no longer needed".into(),
            Phase::Closed => self.outcome.map_or("closed", Outcome::name).into(),
        };
        match (&self.waiting, self.is_closed()) {
            (Some(Waiting::Paused), false) => format!("{text} (paused)"),
            (Some(Waiting::Person { .. }), false) => format!("{text} (waits for a person)"),
            (Some(Waiting::Gateway), false) => format!("{text} (gateway out of reach)"),
            _ => text,
        }
    }
}
