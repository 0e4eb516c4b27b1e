//! What went wrong: failures that others saw, and those that the counters tell.
//!
//! Promises: a failure of stable's instances is never held against the candidate. A failure handed over twice counts once.

use modelyard_core::Millis;
use modelyard_core::failure::{Cause, Class, Failure};

use crate::analysis::judge;
use crate::step::Turn;
use crate::{Phase, Verdict};

/// Instances that are lost within this are lost with one machine: each is seen by its own probes.
const ONE_LOSS: Millis = Millis::seconds(30);

impl Turn<'_> {
    /// Takes in what was seen, and turns around if the candidate failed.
    pub(crate) fn notice(&mut self, failures: &[Failure]) {
        let asked = self.state.desired.instances.get(&self.state.candidate).copied().unwrap_or(0);
        self.state.was_live |= asked > 0 && self.view.candidate.live >= asked;
        let candidate = self.state.candidate;
        for failure in failures.iter().filter(|failure| failure.revision == candidate) {
            match failure.cause {
                Cause::Crash => self.notice_crash(failure),
                Cause::MachineLost => self.notice_loss(failure),
                cause if cause.class() == Class::Quality => self.drop_of_quality(failure.clone()),
                _ => self.fail(failure.clone()),
            }
        }
        self.notice_arms(failures);
        self.notice_beside(failures);
        self.read_counters();
    }

    /// A candidate that has been live may not crash, beyond what policy forgives. One that has not is started again until it loops.
    fn notice_crash(&mut self, failure: &Failure) {
        let key = (failure.at, failure.instance.clone());
        if !self.state.phase.is_forward() {
            return self.fail(failure.clone()); // too late to turn around, but it may be why we did
        }
        if !self.state.crashes.insert(key) {
            return;
        }
        self.is_shaken = true;
        let analysis = &self.state.plan.analysis;
        let crashes = u32::try_from(self.state.crashes.len()).unwrap_or(u32::MAX);
        let loops = crashes >= analysis.crash_loop;
        if loops || (self.state.was_live && crashes > analysis.crash_tolerance) {
            let cause = if loops && crashes > 1 { Cause::CrashLoop } else { Cause::Crash };
            let times = if crashes > 1 { format!(" ({crashes} crashes so far)") } else { String::new() };
            self.fail(Failure { cause, detail: format!("{}{times}", failure.detail), ..failure.clone() });
        }
    }

    /// A machine was lost under the candidate. That is bad luck: the instance is placed elsewhere, and the time to start bounds how long that takes. A
    /// second machine is no luck any more: a model may be what ends them.
    fn notice_loss(&mut self, failure: &Failure) {
        let first = *self.state.lost.get_or_insert(failure.at);
        match self.state.phase.is_forward() && failure.at - first <= ONE_LOSS {
            true => self.is_shaken = true,
            false => self.fail(failure.clone()),
        }
    }

    fn read_counters(&mut self) {
        if self.view.candidate.lost > 0 {
            return self.state.readings.begin(); // broken connections are the machine's
        }
        let Some((candidate, stable)) = self.view.counters().filter(|_| self.state.phase.is_forward()) else {
            return;
        };
        let analysis = &self.state.plan.analysis;
        let latency = analysis.max_latency_ms.is_some() || analysis.max_latency_ratio.is_some();
        self.state.readings.take(self.state.now, &candidate, &stable, analysis.window, latency);
        let judgement = judge(&self.state.readings, analysis, false);
        if let (Verdict::Fail, Some(cause)) = (judgement.verdict, judgement.cause) {
            self.fail(self.failure(cause, judgement.why, judgement.evidence));
        }
    }

    /// A failure of the candidate as a whole.
    pub(crate) fn failure(&self, cause: Cause, detail: String, evidence: Vec<String>) -> Failure {
        Failure { cause, revision: self.state.candidate, instance: None, at: self.state.now, detail, evidence }
    }

    /// Waits until the candidate has as many live instances as needed; whether it has. Fails it when that takes too long, at its
    /// start as well as later: an instance that nobody reports as failed but that never comes back must not hold a rollout for ever.
    pub(crate) fn await_candidate(&mut self, needed: u32) -> bool {
        let live = self.view.candidate.live;
        if live >= needed {
            self.state.missing = Default::default();
            return true;
        }
        if self.state.held {
            self.state.missing.hold();
            self.is_blocked();
            return false;
        }
        self.state.missing.run(self.state.now);
        let counted = format!("{live} of {needed} instances of revision {} are ready and live", self.state.candidate);
        let timeout = self.state.plan.analysis.startup_timeout;
        if self.state.missing.spent() >= timeout {
            let cause = if self.state.was_live { Cause::Unresponsive } else { Cause::StartupTimeout };
            let evidence = vec![format!("phase: {}", self.state.describe()), format!("startup-timeout: {timeout}")];
            self.fail(self.failure(cause, format!("{counted} after {timeout}"), evidence));
            self.is_blocked();
        } else {
            self.state.waiting = Some(crate::Waiting::Instances { why: counted });
        }
        false
    }

    /// Enters a phase that is watched from here on: what was counted before does not count.
    pub(crate) fn enter_watch(&mut self, phase: Phase) {
        self.state.readings.begin();
        if let Some((candidate, stable)) = self.view.counters() {
            let analysis = &self.state.plan.analysis;
            let latency = analysis.max_latency_ms.is_some() || analysis.max_latency_ratio.is_some();
            self.state.readings.take(self.state.now, &candidate, &stable, analysis.window, latency);
        }
        self.enter(phase);
    }
}
