//! Quality: a drop of it is no failure of the infrastructure, so a person decides, unless policy says otherwise.

use modelyard_core::Weight;
use modelyard_core::event::Outcome;
use modelyard_core::evidence::{ArmEvidence, Evidence};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::strategy::{QualityAction, Strategy};

use crate::judge::{DriftJudged, Guarded, drifted, guard};
use crate::step::Turn;
use crate::{Phase, Verdict};

/// Most lines of evidence of drift: those furthest past their limits.
const EVIDENCE_LINES: usize = 8;

impl Turn<'_> {
    /// Looks at quality wherever the candidate answers callers, whatever the strategy: beside stable, while the old pool is kept, alone after it.
    /// Shadows answer nobody and are looked at where they are compared.
    pub(crate) fn watch_quality(&mut self) {
        let answers = match self.state.phase {
            Phase::Starting | Phase::Preview | Phase::Emptying | Phase::Stopping | Phase::Shadowing => false,
            phase => phase.is_forward() && self.asked() > Weight::NONE,
        };
        // Without the gateway's word nothing new is known, and nothing could be done.
        if answers && self.view.gateway().is_some() {
            self.notice_quality();
        }
    }

    /// Turns to policy when quality has dropped for certain.
    pub(crate) fn notice_quality(&mut self) {
        if let Some(guarded) = self.look_at_quality().filter(|guarded| guarded.verdict == Verdict::Fail) {
            let failure = self.failure(Cause::Quality, guarded.why, guarded.evidence);
            return self.drop_of_quality(failure);
        }
        let moved = self.drifted();
        if let Some(worst) = moved.first() {
            let evidence = moved.iter().map(DriftJudged::in_words).take(EVIDENCE_LINES).collect();
            let failure = self.failure(Cause::Drift, worst.in_words(), evidence);
            self.drop_of_quality(failure);
        }
    }

    /// Whether nothing of quality stands against going on; says what is missing if something does.
    pub(crate) fn quality_is_fine(&mut self) -> bool {
        let Some(guarded) = self.look_at_quality() else { return true };
        if guarded.verdict != Verdict::Inconclusive {
            self.is_blocked(); // a candidate that is held for its quality says so, whatever else is waited for
            return guarded.verdict == Verdict::Pass;
        }
        self.say(Verdict::Inconclusive, None, guarded.why.clone());
        let when = match (self.state.pace.is_still(), guarded.more) {
            (true, _) => String::new(),
            (false, Some(more)) => format!("; about {more} more"),
            (false, None) => "; cannot tell when".to_owned(),
        };
        self.await_evidence(&format!("{}{when}", guarded.why), None);
        self.is_blocked();
        false
    }

    /// What the guard says; none when no metric is watched, or a person has gone on in spite of it.
    fn look_at_quality(&self) -> Option<Guarded> {
        let plan = &self.state.plan;
        let stable = self.state.stable.filter(|_| !self.state.quality_forgiven)?;
        // The metric that decides an A/B test is judged there.
        let decisive = |name: &str| matches!(&plan.strategy, Strategy::Ab(ab) if ab.metric == name);
        let metrics: Vec<_> = plan.metrics.iter().filter(|metric| !decisive(&metric.name)).cloned().collect();
        if metrics.is_empty() {
            return None;
        }
        let (nothing, none) = (Evidence::default(), ArmEvidence::default());
        let evidence = self.view.evidence().unwrap_or(&nothing);
        let of = |revision| evidence.arms.get(revision).unwrap_or(&none);
        Some(guard(&metrics, &plan.judge, of(&stable), of(&self.state.candidate)))
    }

    fn drifted(&self) -> Vec<DriftJudged> {
        let quality = &self.state.plan.quality;
        if self.state.quality_forgiven || !quality.looks_at_drift() {
            return Vec::new();
        }
        let fields = self.view.evidence().and_then(|evidence| evidence.drift.get(&self.state.candidate));
        fields.map_or_else(Vec::new, |fields| drifted(quality, fields))
    }

    /// Pauses and asks, or goes back, as policy has it.
    pub(crate) fn drop_of_quality(&mut self, failure: Failure) {
        if !self.state.phase.is_forward() || self.state.held {
            return;
        }
        self.say(Verdict::Fail, Some(failure.cause), failure.detail.clone());
        self.state.failure = Some(failure);
        match self.state.plan.quality.action {
            QualityAction::Ask => self.state.held = true,
            QualityAction::StepBack => self.go_back(Outcome::RolledBack, true),
            QualityAction::RollBack => self.go_back(Outcome::RolledBack, false),
        }
    }
}
