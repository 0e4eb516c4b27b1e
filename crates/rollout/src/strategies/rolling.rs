//! Rolling: instances are replaced in batches. Traffic follows the live instances.
//!
//! Within a batch, candidate instances are started while the surge allows; when it does not, stable gives up instances, but never more
//! than capacity can spare (R6), and the last one only once the gateway reports that nothing is sent to it (R3).

use modelyard_core::strategy::Strategy;

use crate::step::Turn;
use crate::{Phase, Waiting};

/// The counts that a batch decides by.
struct Counts {
    /// Instances asked for.
    instances: u32,
    surge: u32,
    unavailable: u32,
    /// Wanted of the candidate.
    candidate: u32,
    /// Wanted of stable.
    stable: u32,
}

impl Turn<'_> {
    fn counts(&self) -> Counts {
        let (surge, unavailable) = match &self.state.plan.strategy {
            Strategy::Rolling(rolling) => (rolling.max_surge, rolling.max_unavailable),
            _ => (1, 0),
        };
        Counts {
            instances: self.state.plan.instances,
            surge,
            unavailable,
            candidate: self.wanted(self.state.candidate),
            stable: self.state.stable.map_or(0, |stable| self.wanted(stable)),
        }
    }

    pub(super) fn advance_batch(&mut self, goal: u32) {
        if self.is_blocked() {
            return self.state.missing.hold();
        }
        let counts = self.counts();
        let candidate = room_for_candidate(&counts, goal, self.view.stable.running + self.view.stable.leaving);
        if candidate > counts.candidate {
            self.want_candidate(candidate);
            self.state.missing = Default::default();
        }
        self.ask_in_proportion(self.view.stable.live.min(counts.stable), self.view.candidate.live.min(candidate));
        if !self.await_candidate(candidate) {
            return;
        }
        if candidate < goal {
            return self.shrink_stable(&counts, goal);
        }
        if self.is_routed() {
            self.enter(Phase::Pausing { goal });
        }
    }

    /// Makes room for the next instance of the candidate.
    fn shrink_stable(&mut self, counts: &Counts, goal: u32) {
        // Instances that are not wanted may still live for a moment: they are no capacity.
        let stable = self.view.stable.live.min(counts.stable);
        let candidate = self.view.candidate.live.min(counts.candidate);
        let fewer = fewer_stable(counts, goal, stable, candidate);
        if fewer >= counts.stable {
            let why = format!("{} live instances, none can be spared yet", stable + candidate);
            self.state.waiting = Some(Waiting::Instances { why });
            return;
        }
        // Route first: those that are left carry it, then the others may go.
        self.ask_in_proportion(stable.min(fewer), candidate);
        if !self.is_routed() {
            return self.state.drain.hold();
        }
        if fewer > 0 {
            return self.want_stable(fewer);
        }
        if self.view.stable_is_off() && self.is_drained(self.view.stable_in_flight()) && !self.is_shaken {
            self.want_stable(0);
        }
    }

    /// The pause after a batch, with analysis. It keeps its schedule: too few requests do not hold it, doubtful figures do.
    pub(super) fn advance_pausing(&mut self, goal: u32) {
        let stable = self.counts().stable;
        self.ask_in_proportion(self.view.stable.live.min(stable), self.view.candidate.live.min(goal));
        let pause = self.bake();
        if !self.is_watched(goal) || !self.has_stood(pause, "the next batch") {
            return;
        }
        self.waited();
        let instances = self.state.plan.instances;
        match goal >= instances {
            true => self.enter(Phase::Draining),
            false => self.enter(Phase::Batch { goal: goal.saturating_add(self.batch()).min(instances) }),
        }
    }

    fn batch(&self) -> u32 {
        match &self.state.plan.strategy {
            Strategy::Rolling(rolling) => rolling.batch.max(1),
            _ => 1,
        }
    }
}

/// How many candidate instances may be wanted: up to the batch's goal, as far as the surge allows beside all of stable that still runs.
fn room_for_candidate(counts: &Counts, goal: u32, stable_runs: u32) -> u32 {
    let most = counts.instances.saturating_add(counts.surge).saturating_sub(counts.stable.max(stable_runs));
    goal.min(most).max(counts.candidate)
}

/// How few stable instances may be wanted. Dead ones cost nothing (they are stopped first); of the live ones, as many as
/// capacity can spare; never fewer than are needed beside the batch's goal.
fn fewer_stable(counts: &Counts, goal: u32, stable_live: u32, candidate_live: u32) -> u32 {
    let dead = counts.stable.saturating_sub(stable_live);
    let least = counts.instances.saturating_sub(counts.unavailable);
    let spare = stable_live.saturating_add(candidate_live).saturating_sub(least);
    let target = counts.instances.saturating_sub(goal);
    counts.stable.saturating_sub(dead.saturating_add(spare)).max(target).min(counts.stable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(instances: u32, surge: u32, unavailable: u32, candidate: u32, stable: u32) -> Counts {
        Counts { instances, surge, unavailable, candidate, stable }
    }

    #[test]
    fn the_surge_bounds_what_runs() {
        assert_eq!(room_for_candidate(&counts(4, 1, 0, 0, 4), 2, 4), 1);
        assert_eq!(room_for_candidate(&counts(4, 1, 0, 1, 3), 2, 4), 1, "one that is leaving still takes room");
        assert_eq!(room_for_candidate(&counts(4, 1, 0, 1, 3), 2, 3), 2);
        assert_eq!(room_for_candidate(&counts(4, 0, 1, 0, 4), 1, 4), 0);
    }

    #[test]
    fn stable_gives_up_only_what_can_be_spared() {
        assert_eq!(fewer_stable(&counts(4, 1, 0, 1, 4), 2, 4, 1), 3);
        assert_eq!(fewer_stable(&counts(4, 1, 0, 1, 4), 2, 4, 0), 4, "the new one is not live yet");
        assert_eq!(fewer_stable(&counts(4, 0, 1, 0, 4), 1, 4, 0), 3);
        assert_eq!(fewer_stable(&counts(4, 0, 1, 0, 4), 2, 4, 0), 3, "one at a time, whatever the batch");
        assert_eq!(fewer_stable(&counts(4, 1, 0, 1, 4), 2, 0, 1), 2, "dead ones cost nothing");
        assert_eq!(fewer_stable(&counts(2, 0, 1, 1, 1), 2, 1, 1), 0);
    }
}
