//! Shadow: copies of requests go to the candidate, and its answers are compared with stable's. R9: it answers nobody.

use modelyard_core::RevisionNumber;
use modelyard_core::event::Outcome;
use modelyard_core::evidence::Moments;
use modelyard_core::failure::Cause;
use modelyard_core::mirror::{Comparison, OutputComparison};
use modelyard_core::strategy::{AgreeOn, Shadow, Strategy, Then};

use crate::analysis::{limits, slower};
use crate::judge::{self, Paired, Proportion, Slowdown, latency_difference, paired, proportion, slowdown};
use crate::statistics::exceeds;
use crate::step::Turn;
use crate::{Phase, Verdict, Waiting};

/// Answers of a shadow before its errors or its latency count.
const LEAST_ANSWERS: u64 = 20;

impl Turn<'_> {
    /// Asks for copies to every shadow.
    pub(super) fn mirror(&mut self) {
        let shares = self.state.arms().filter_map(|arm| Some((arm, *self.state.shares.get(&arm)?)));
        self.state.desired.mirrors = shares.collect();
    }

    pub(super) fn advance_shadowing(&mut self) {
        let Strategy::Shadow(shadow) = self.state.plan.strategy.clone() else {
            return self.enter(Phase::Scaling { step: 0 });
        };
        self.mirror();
        if !self.await_candidate(self.needed(self.state.candidate)) {
            return self.state.clock.hold();
        }
        if self.view.gateway().is_none() {
            self.state.clock.hold();
            self.is_blocked();
            return;
        }
        self.state.clock.run(self.state.now);
        self.notice_shadows();
        self.notice_quality();
        if self.state.phase != Phase::Shadowing || self.is_blocked() {
            return;
        }
        if self.hurries() {
            self.waited();
            return self.go_on_as_canary(self.state.candidate);
        }
        let judged = self.judge_shadows(&shadow);
        self.note_pace(judged.iter().map(|one| one.pairs).min().unwrap_or(0));
        let pass = judged.iter().filter(|one| one.verdict() == Verdict::Pass);
        let best = pass.min_by(|a, b| a.share().total_cmp(&b.share())).cloned();
        let told = judged.iter().map(Judged::in_words).collect::<Vec<_>>().join("; ");
        let still = self.state.clock.spent() < shadow.bake;
        match best {
            Some(_) if still => {
                self.state.waiting =
                    Some(Waiting::Time { why: format!("compared for {} at least: {told}", shadow.bake) });
            }
            Some(best) => self.shadow_passed(&shadow, best.revision, &told),
            None if !judged.is_empty() && judged.iter().all(|one| one.verdict() == Verdict::Fail) => {
                let evidence = self.examples();
                let slow = judged.iter().all(Judged::is_only_slow);
                let failure = self.failure(if slow { Cause::Latency } else { Cause::Disagreement }, told, evidence);
                match (shadow.then, self.state.quality_forgiven) {
                    // The comparison was all that was asked for, and this is what it says.
                    (Then::End, _) => self.end_comparing(Verdict::Fail, Some(failure.cause), &failure.detail),
                    (_, true) => self.go_on_as_canary(self.state.candidate),
                    (_, false) if slow => self.fail(failure),
                    (_, false) => self.drop_of_quality(failure),
                }
                self.is_blocked();
            }
            None => {
                let why = if told.is_empty() { "no answers were compared yet".to_owned() } else { told };
                self.say(Verdict::Inconclusive, None, why.clone());
                let needed = judged.iter().map(|one| one.needed(&shadow)).max();
                self.await_evidence(&why, needed.unwrap_or(Some(shadow.least_pairs)));
            }
        }
    }

    fn shadow_passed(&mut self, shadow: &Shadow, best: RevisionNumber, told: &str) {
        match shadow.then {
            Then::Ask => {
                self.say(Verdict::Pass, None, told.to_owned());
                self.lead(best);
                let why =
                    format!("{told}; `modelyard promote` goes on as canary, `modelyard abort` takes the shadow away");
                self.state.waiting = Some(Waiting::Person { why });
            }
            Then::Canary => {
                self.say(Verdict::Pass, None, told.to_owned());
                self.go_on_as_canary(best);
            }
            Then::End => self.end_comparing(Verdict::Pass, None, told),
        }
    }

    /// The best shadow becomes a canary; the others go.
    fn go_on_as_canary(&mut self, best: RevisionNumber) {
        self.lead(best);
        self.drop_others();
        self.enter(Phase::Scaling { step: 0 });
    }

    /// The comparison was all that was asked for: every shadow goes.
    fn end_comparing(&mut self, verdict: Verdict, cause: Option<Cause>, told: &str) {
        self.say(verdict, cause, told.to_owned());
        self.drop_candidate();
        self.settle(Outcome::Compared);
        self.enter(Phase::Retiring);
    }

    fn judge_shadows(&self, shadow: &Shadow) -> Vec<Judged> {
        let Some(evidence) = self.view.evidence() else { return Vec::new() };
        let shadows = self.state.arms().filter_map(|arm| Some((arm, evidence.shadows.get(&arm)?)));
        let quantile = self.state.plan.analysis.latency_quantile;
        shadows.map(|(arm, comparison)| Judged::new(arm, comparison, shadow, quantile)).collect()
    }

    /// Errors and slowness of shadows: failures of the infrastructure, which no caller has met.
    fn notice_shadows(&mut self) {
        let Some(evidence) = self.view.evidence() else { return };
        let analysis = self.state.plan.analysis.clone();
        let arms: Vec<RevisionNumber> = self.state.arms().collect();
        for arm in arms {
            let Some(comparison) = evidence.shadows.get(&arm) else { continue };
            let Comparison { sent, failed, latency, stable_latency, .. } = comparison;
            let failing = *failed >= analysis.min_errors && exceeds(*sent, *failed, analysis.max_error_rate);
            // By time, and by ratio to stable's answers to the same requests.
            let slow = limits(&analysis, stable_latency).into_iter().find(|limit| {
                latency.count() >= LEAST_ANSWERS
                    && exceeds(latency.count(), slower(latency, limit), 1.0 - analysis.latency_quantile)
            });
            let (cause, detail) = match (failing, slow) {
                (true, _) => (Cause::ErrorRate, format!("{failed} of {sent} copies failed as shadow")),
                (_, Some(limit)) => {
                    let quantile = analysis.latency_quantile;
                    let found = latency.quantile(quantile).unwrap_or_default() / 1e3;
                    let detail = format!("as shadow it takes {found:.1} ms at quantile {quantile}; {}", limit.text);
                    (Cause::Latency, detail)
                }
                _ => continue,
            };
            match arm == self.state.candidate {
                true => {
                    let failure = self.failure(cause, detail, Vec::new());
                    self.fail(failure);
                }
                false => self.take_out(arm, cause, &detail),
            }
            if !self.state.phase.is_forward() {
                return;
            }
        }
    }

    /// The pairs that differ most, as evidence.
    fn examples(&self) -> Vec<String> {
        let shadows = self.view.evidence().map(|evidence| &evidence.shadows);
        let worst = shadows.and_then(|shadows| shadows.get(&self.state.candidate)).map(|comparison| &comparison.worst);
        worst.into_iter().flatten().map(|example| format!("request {}: {}", example.request_id, example.what)).collect()
    }
}

/// One shadow and what its answers say.
#[derive(Clone, Debug)]
struct Judged {
    revision: RevisionNumber,
    disagreed: u64,
    pairs: u64,
    max: f64,
    proportion: Proportion,
    /// The part of the error that each criterion may spend.
    error: f64,
    /// Mean differences and distances, each with what it is of and its limit.
    held: Vec<(String, f64, Paired)>,
    /// How much longer it takes than stable, in ms, with the interval.
    slower: Option<(f64, f64, f64)>,
    /// The same at a quantile, where that is held against a limit.
    slowdown: Option<Slowdown>,
    quantile: f64,
}

impl Judged {
    fn new(revision: RevisionNumber, comparison: &Comparison, shadow: &Shadow, quantile: f64) -> Self {
        let (pairs, agreed) = match shadow.agree_on {
            AgreeOn::Outputs => (comparison.compared, comparison.agreed),
            // The output whose labels differ most tells.
            AgreeOn::Labels => worst_output(comparison, |output| output.same_label),
            AgreeOn::TopK => worst_output(comparison, |output| output.in_top_k),
        };
        let held = |limit: Option<f64>, what: &str, of: fn(&OutputComparison) -> &Moments| {
            let some = comparison.outputs.iter().filter(move |(_, output)| of(output).count > 0);
            let named = some.map(|(name, output)| (format!("{what} of `{name}`"), *of(output)));
            limit.map_or_else(Vec::new, |limit| named.map(|(name, moments)| (name, limit, moments)).collect::<Vec<_>>())
        };
        let mut limited = held(shadow.max_difference, "the mean difference", |output| &output.difference);
        limited.extend(held(shadow.max_distance, "the mean distance", |output| &output.distance));
        let error = shadow.error / (1 + limited.len() + usize::from(shadow.max_slowdown_ms.is_some())) as f64;
        let judge_one = |(what, limit, moments): (String, f64, Moments)| {
            let mut found = paired(&moments, comparison.compared, limit, error);
            if comparison.compared < shadow.least_pairs {
                found.verdict = Verdict::Inconclusive;
            }
            (what, limit, found)
        };
        let disagreed = pairs.saturating_sub(agreed);
        let mut proportion = proportion(disagreed, pairs, shadow.max_disagreement, error);
        if comparison.compared < shadow.least_pairs {
            proportion.verdict = Verdict::Inconclusive;
        }
        let (stable, own) = (&comparison.stable_latency, &comparison.latency);
        let mut slowdown = shadow.max_slowdown_ms.map(|limit| slowdown(stable, own, quantile, limit, error));
        if let Some(slowdown) = slowdown.as_mut().filter(|_| comparison.compared < shadow.least_pairs) {
            slowdown.found.verdict = Verdict::Inconclusive;
        }
        Self {
            revision,
            disagreed,
            pairs,
            max: shadow.max_disagreement,
            proportion,
            error,
            held: limited.into_iter().map(judge_one).collect(),
            slower: latency_difference(stable, own, shadow.error),
            slowdown,
            quantile,
        }
    }

    /// What is said of its answers, without how long they take.
    fn answers(&self) -> impl Iterator<Item = Verdict> + Clone + '_ {
        self.held.iter().map(|(_, _, held)| held.verdict).chain([self.proportion.verdict])
    }

    /// Fails by any criterion, passes by all.
    fn verdict(&self) -> Verdict {
        let mut all = self.answers().chain(self.slowdown.as_ref().map(|slowdown| slowdown.found.verdict));
        match (all.clone().any(|one| one == Verdict::Fail), all.all(|one| one == Verdict::Pass)) {
            (true, _) => Verdict::Fail,
            (_, true) => Verdict::Pass,
            _ => Verdict::Inconclusive,
        }
    }

    /// Whether it fails by its latency alone.
    fn is_only_slow(&self) -> bool {
        self.verdict() == Verdict::Fail && self.answers().all(|one| one != Verdict::Fail)
    }

    fn share(&self) -> f64 {
        if self.pairs == 0 { 1.0 } else { self.disagreed as f64 / self.pairs as f64 }
    }

    /// Pairs until there is a verdict, about, if the share stays what it is; none when it lies too near what is allowed to tell.
    fn needed(&self, shadow: &Shadow) -> Option<u64> {
        if self.verdict() != Verdict::Inconclusive {
            return Some(0);
        }
        let slow = self.slowdown.as_ref().filter(|slowdown| slowdown.found.verdict == Verdict::Inconclusive);
        match (self.proportion.verdict, slow) {
            (Verdict::Inconclusive, _) => {}
            (_, Some(slowdown)) => return slowdown.needed,
            (_, None) => return None, // what is held against a limit lies near it
        }
        let least = shadow.least_pairs.saturating_sub(self.pairs);
        let certain = |times: f64| {
            let (disagreed, pairs) = ((self.disagreed as f64 * times) as u64, (self.pairs as f64 * times) as u64);
            proportion(disagreed, pairs, self.max, self.error).verdict != Verdict::Inconclusive
        };
        if self.pairs == 0 {
            return Some(least);
        }
        judge::times_until(certain)
            .map(|times| ((times - 1.0) * self.pairs as f64).ceil() as u64)
            .map(|more| more.max(least))
    }

    fn in_words(&self) -> String {
        let percent = |share: f64| format!("{:.2} %", share * 100.0);
        let Self { revision, disagreed, pairs, max, proportion, .. } = self;
        let mut said = format!(
            "revision {revision} disagrees in {disagreed} of {pairs} ({}, {} to {}; {} is allowed)",
            percent(self.share()),
            percent(proportion.low),
            percent(proportion.high),
            percent(*max)
        );
        for (what, limit, Paired { mean, low, high, .. }) in &self.held {
            said.push_str(&format!(", {what} is {mean:+.4} ({low:+.4} to {high:+.4}; {limit} is allowed)"));
        }
        if let Some(Slowdown { found: Paired { mean, low, high, .. }, limit, .. }) = &self.slowdown {
            said.push_str(&format!(
                ", latency at quantile {} is {mean:+.2} ms against stable's ({low:+.2} to {high:+.2}; {limit} ms is allowed)",
                self.quantile
            ));
        }
        if let Some((mean, low, high)) = self.slower {
            said.push_str(&format!(", answers in {mean:+.2} ms against stable ({low:+.2} to {high:+.2})"));
        }
        said
    }
}

/// Rows and agreeing rows of the output that differs most.
fn worst_output(comparison: &Comparison, agreed: impl Fn(&OutputComparison) -> u64) -> (u64, u64) {
    let rows = comparison.outputs.values().filter(|output| output.rows > 0).map(|output| (output.rows, agreed(output)));
    rows.max_by(|a, b| (b.1 as f64 / b.0 as f64).total_cmp(&(a.1 as f64 / a.0 as f64))).unwrap_or((0, 0))
}
