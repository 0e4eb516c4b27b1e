//! A/B: a random split, held until the metric named beforehand is decided. R10: promoted if and only if an arm outperforms.

use modelyard_core::event::Outcome;
use modelyard_core::evidence::Evidence;
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::metric::{Better, Metric, MetricSource};
use modelyard_core::strategy::{Ab, Strategy};
use modelyard_core::{RevisionNumber, Weight};

use crate::analysis::{Judgement, judge};
use crate::judge::{Compared, compare, expect, plan_size, sample_ratio};
use crate::step::Turn;
use crate::{Action, Phase, Verdict, Waiting};

/// A split this unlikely is broken: one of a thousand sound tests is stopped for it, however often it is looked at.
const SPLIT_IS_BROKEN: f64 = 0.001;

impl Turn<'_> {
    /// Starts every arm before the first request is split or copied.
    pub(super) fn advance_arming(&mut self) {
        self.state.clock.run(self.state.now);
        let timeout = self.state.plan.analysis.startup_timeout;
        let others: Vec<RevisionNumber> = self.state.arms().skip(1).collect();
        for arm in others {
            let needed = self.needed(arm);
            self.state.desired.instances.insert(arm, needed);
            if self.view.pool(arm).live < needed && self.state.clock.spent() >= timeout {
                let detail = format!("revision {arm} did not become ready and live within {timeout}");
                self.take_out(arm, Cause::StartupTimeout, &detail);
            }
        }
        let needed = self.needed(self.state.candidate);
        self.want_candidate(needed);
        let ready = self.await_candidate(needed);
        let missing = self.state.arms().skip(1).find(|&arm| self.view.pool(arm).live < self.needed(arm));
        match (ready, missing) {
            (true, None) if !self.is_blocked() => self.begin_comparing(),
            (true, Some(arm)) => {
                let why = format!("instances of revision {arm} are not ready and live yet");
                self.state.waiting = Some(Waiting::Instances { why });
                self.is_blocked();
            }
            _ => {}
        }
    }

    fn begin_comparing(&mut self) {
        match self.state.plan.strategy {
            Strategy::Shadow(_) => {
                self.mirror();
                self.enter_watch(Phase::Shadowing);
            }
            _ => {
                self.ask_split();
                self.enter_watch(Phase::Testing);
            }
        }
    }

    /// Instances that an arm's share needs.
    pub(super) fn needed(&self, arm: RevisionNumber) -> u32 {
        self.state.plan.instances_for(self.state.shares.get(&arm).copied().unwrap_or(Weight::ALL))
    }

    /// Asks for each arm's share, the rest for stable. R2: the sum is the whole.
    fn ask_split(&mut self) {
        let shares: Vec<(RevisionNumber, Weight)> =
            self.state.arms().filter_map(|arm| Some((arm, *self.state.shares.get(&arm)?))).collect();
        let taken: u16 = shares.iter().map(|(_, share)| share.basis_points()).sum();
        let rest = Weight::new(10_000_u16.saturating_sub(taken)).unwrap_or_default();
        self.ask_shares(shares.into_iter().chain(self.state.stable.map(|stable| (stable, rest))).collect());
    }

    pub(super) fn advance_testing(&mut self) {
        let Strategy::Ab(ab) = self.state.plan.strategy.clone() else {
            return self.enter(Phase::Scaling { step: 0 });
        };
        self.ask_split();
        if !self.is_watched(self.needed(self.state.candidate)) || self.is_blocked() {
            return;
        }
        if self.hurries() {
            self.waited();
            let why = format!("a person promoted revision {} before the test was decided", self.state.candidate);
            self.say(Verdict::Pass, None, why);
            return self.win(self.state.candidate);
        }
        let nothing = Evidence::default();
        let evidence = self.view.evidence().unwrap_or(&nothing);
        if self.state.began.is_none() {
            let units = evidence.arms.iter().map(|(&revision, arm)| (revision, arm.units)).collect();
            self.state.began = Some((self.state.now, units));
        }
        if let Some(why) = self.broken_split(evidence) {
            return self.end_test(Cause::SampleRatioMismatch, why);
        }
        self.decide(&ab, evidence);
    }

    fn decide(&mut self, ab: &Ab, evidence: &Evidence) {
        let Some(metric) = self.state.plan.metrics.iter().find(|metric| metric.name == ab.metric).cloned() else {
            return;
        };
        let compared = self.compare_arms(ab, &metric, evidence);
        let sign = if metric.better() == Better::Lower { -1.0 } else { 1.0 };
        let passed = compared.iter().filter(|(_, compared)| compared.verdict == Verdict::Pass);
        let best = passed.max_by(|a, b| (sign * a.1.estimate).total_cmp(&(sign * b.1.estimate)));
        if let Some((winner, compared)) = best {
            self.say(Verdict::Pass, None, format!("revision {winner}: {}", compared.why));
            return self.win(*winner);
        }
        let told = |compared: &[(RevisionNumber, Compared)]| {
            compared.iter().map(|(arm, one)| format!("revision {arm}: {}", one.why)).collect::<Vec<_>>().join("; ")
        };
        if !compared.is_empty() && compared.iter().all(|(_, compared)| compared.verdict == Verdict::Fail) {
            return self.end_test(Cause::NotBetter, told(&compared));
        }
        if let Some(longest) = ab.longest.filter(|&longest| self.state.clock.spent() >= longest) {
            let why = format!("not decided within {longest}: {}", told(&compared));
            return self.end_test(Cause::NotBetter, why);
        }
        self.tell_plan(ab, &metric, evidence);
        if let Some(missing) = self.without_values(&metric, evidence) {
            self.note_pace(evidence.arms.values().map(|arm| arm.units).sum());
            let unknown = if self.state.pace.is_still() { "" } else { "; cannot tell when" };
            return self.await_evidence(&format!("{missing}{unknown}"), None);
        }
        // The slowest arm tells how fast values come, the one that needs most how many.
        self.note_pace(compared.iter().map(|(_, one)| one.units).min().unwrap_or(0));
        let needed = compared.iter().filter_map(|(_, one)| one.units_needed).max();
        self.await_evidence(&told(&compared), needed);
    }

    /// Which arms have no value of the deciding metric yet, and why that may be; none when all have some.
    fn without_values(&self, metric: &Metric, evidence: &Evidence) -> Option<String> {
        let has_value = |revision: &RevisionNumber| {
            evidence.arms.get(revision).is_some_and(|arm| arm.metrics.contains_key(&metric.name))
        };
        let all: Vec<RevisionNumber> = self.state.stable.into_iter().chain(self.state.arms()).collect();
        let silent: Vec<String> = all.iter().filter(|arm| !has_value(arm)).map(ToString::to_string).collect();
        if silent.is_empty() {
            return None;
        }
        let units: u64 = all.iter().filter_map(|arm| evidence.arms.get(arm)).map(|arm| arm.units).sum();
        let what = format!("no value of `{}` of revision {} yet", metric.name, silent.join(", "));
        Some(match (units, metric.from) {
            (0, _) => format!("{what}: no unit was assigned"),
            (_, MetricSource::Feedback | MetricSource::Reward) => {
                format!("{what}, of {units} units: values come with feedback, by the answer's request id")
            }
            _ => format!("{what}, of {units} units"),
        })
    }

    /// Each arm against stable; the error is shared among the arms.
    fn compare_arms(&self, ab: &Ab, metric: &Metric, evidence: &Evidence) -> Vec<(RevisionNumber, Compared)> {
        let arms: Vec<RevisionNumber> = self.state.arms().collect();
        let error = ab.error / arms.len().max(1) as f64;
        let of = |revision: &RevisionNumber| evidence.arms.get(revision);
        let Some(stable) = self.state.stable.as_ref().and_then(of) else { return Vec::new() };
        let compare_one = |arm: RevisionNumber| {
            let candidate = of(&arm)?;
            let (s, c) = (stable.metrics.get(&metric.name)?, candidate.metrics.get(&metric.name)?);
            let mut compared = compare(metric, s, c, ab.margin, ab.effect, error);
            let least = stable.units.min(candidate.units);
            if least < ab.least_units && compared.verdict != Verdict::Inconclusive {
                compared.verdict = Verdict::Inconclusive;
                compared.units_needed = Some(ab.least_units - least);
                compared.why = format!("{} (after {least} of at least {} units)", compared.why, ab.least_units);
            }
            Some((arm, compared))
        };
        arms.into_iter().filter_map(compare_one).collect()
    }

    /// Why the split cannot be trusted, if it cannot.
    fn broken_split(&self, evidence: &Evidence) -> Option<String> {
        let (_, before) = self.state.began.as_ref().filter(|_| self.state.out.is_empty())?;
        let since = |revision: &RevisionNumber| {
            let units = evidence.arms.get(revision).map_or(0, |arm| arm.units);
            units.saturating_sub(before.get(revision).copied().unwrap_or(0))
        };
        let weights = &self.state.desired.weights;
        let arms: Vec<(u64, f64)> =
            weights.iter().map(|(revision, share)| (since(revision), f64::from(share.basis_points()))).collect();
        let p = sample_ratio(&arms);
        (p < SPLIT_IS_BROKEN).then(|| {
            let told: Vec<String> = weights
                .iter()
                .map(|(revision, share)| format!("revision {revision} got {} units of {share}", since(revision)))
                .collect();
            format!(
                "sample ratio mismatch, so nothing can be concluded: {} (p = {p:.1e}); do arms fail or answer before they are counted?",
                told.join(", ")
            )
        })
    }

    /// Says how large the test is planned to be, once that is known.
    fn tell_plan(&mut self, ab: &Ab, metric: &Metric, evidence: &Evidence) {
        let stable = self.state.stable.and_then(|stable| evidence.arms.get(&stable));
        let known = stable.and_then(|arm| arm.metrics.get(&metric.name));
        if self.state.plan_is_told || plan_size(ab, metric, known).is_none() {
            return;
        }
        self.state.plan_is_told = true;
        let why = expect(ab, metric, known, None);
        self.actions.push(Action::Verdict { verdict: Verdict::Inconclusive, why, cause: None });
    }

    /// An arm outperforms: it takes everything.
    pub(super) fn win(&mut self, winner: RevisionNumber) {
        self.lead(winner);
        self.enter(Phase::Draining);
    }

    /// That arm is the candidate from now on.
    pub(super) fn lead(&mut self, arm: RevisionNumber) {
        if arm != self.state.candidate {
            self.state.candidate = arm;
            self.view.refocus(arm);
            self.state.was_live = true;
            self.state.missing = Default::default();
            self.state.readings = self.state.arm_readings.remove(&arm).unwrap_or_default();
        }
    }

    /// The test is over, and nobody is promoted.
    fn end_test(&mut self, cause: Cause, why: String) {
        self.say(Verdict::Fail, Some(cause), why.clone());
        self.state.failure = Some(self.failure(cause, why, Vec::new()));
        self.go_back(Outcome::RolledBack, false);
    }

    /// Takes an arm out that failed; the others go on.
    pub(crate) fn take_out(&mut self, arm: RevisionNumber, cause: Cause, detail: &str) {
        self.state.out.insert(arm);
        self.state.desired.instances.remove(&arm);
        self.state.desired.mirrors.remove(&arm);
        self.state.arm_readings.remove(&arm);
        if self.state.phase == Phase::Testing {
            self.ask_split();
        }
        let why = format!("revision {arm} was taken out: {detail}");
        self.actions.push(Action::Verdict { verdict: Verdict::Fail, why, cause: Some(cause) });
    }

    /// When the candidate of several arms fails, the next one leads; whether there is one.
    pub(crate) fn other_arm_leads(&mut self, failure: &Failure) -> bool {
        let comparing = matches!(self.state.phase, Phase::Starting | Phase::Testing | Phase::Shadowing);
        let next = self.state.arms().nth(1).filter(|_| comparing && failure.revision == self.state.candidate);
        let Some(next) = next else { return false };
        let failed = self.state.candidate;
        self.lead(next);
        self.take_out(failed, failure.cause, &failure.detail);
        true
    }

    /// Failures of arms that do not lead.
    pub(crate) fn notice_arms(&mut self, failures: &[Failure]) {
        if !matches!(self.state.phase, Phase::Starting | Phase::Testing | Phase::Shadowing) {
            return;
        }
        let others: Vec<RevisionNumber> = self.state.arms().skip(1).collect();
        for arm in others {
            // A crash while it starts is tried again; the time to start bounds how long. A lost machine is no fault of the arm's.
            let counts = |failure: &&Failure| match failure.cause {
                Cause::Crash => self.state.phase != Phase::Starting,
                Cause::MachineLost => false,
                _ => true,
            };
            if let Some(failure) = failures.iter().filter(|failure| failure.revision == arm).find(counts) {
                self.take_out(arm, failure.cause, &failure.detail);
                continue;
            }
            match self.view.pool(arm).lost {
                0 => self.read_arm(arm),
                _ => drop(self.state.arm_readings.remove(&arm)),
            }
        }
    }

    fn read_arm(&mut self, arm: RevisionNumber) {
        if let Some(Judgement { cause: Some(cause), why, .. }) = self.fails_callers(arm) {
            self.take_out(arm, cause, &why);
        }
    }

    /// What the answers of a revision to callers say against it, beside stable's.
    pub(crate) fn fails_callers(&mut self, revision: RevisionNumber) -> Option<Judgement> {
        let counters = self.view.counters_of(revision)?;
        let stable = self.state.stable.and_then(|stable| self.view.counters_of(stable)).unwrap_or_default();
        let analysis = self.state.plan.analysis.clone();
        let latency = analysis.max_latency_ms.is_some() || analysis.max_latency_ratio.is_some();
        let readings = self.state.arm_readings.entry(revision).or_default();
        readings.take(self.state.now, &counters, &stable, analysis.window, latency);
        Some(judge(readings, &analysis, false)).filter(|judged| judged.verdict == Verdict::Fail)
    }
}
