//! The instances of one play: they start, are probed, end by themselves, and go when they are asked to.
//!
//! Promises: no chance here. What the faults say happens when they say it; a start is tried again as the control plane would.

use std::collections::BTreeMap;

use modelyard_core::failure::{Cause, Failure};
use modelyard_core::service::Desired;
use modelyard_core::{InstanceId, Millis, RevisionNumber, ServiceName, Timestamp};
use modelyard_rollout::PoolSeen;

use super::scenario::Now;

/// From hanging to being known to hang: three probes a second apart, each given up after two seconds.
const HANG_SHOWS: Millis = Millis::seconds(8);
/// From wrong answers to being known for them: samples are asked every fifth second, and twice.
const WRONG_SHOWS: Millis = Millis::seconds(7);
/// Pause before a start is tried again, doubling up to the longest.
const FIRST_PAUSE: u64 = 500;
const LONGEST_PAUSE: u64 = 30_000;

/// How revisions behave at this moment.
pub(super) type States = BTreeMap<RevisionNumber, Now>;

/// One instance.
#[derive(Clone, Debug)]
struct Copy {
    number: u32,
    revision: RevisionNumber,
    /// When it is through with starting; none for one that never is.
    ready_at: Option<Millis>,
    /// Since when it has been live.
    live_since: Option<Millis>,
    ill_since: Option<Millis>,
    /// Known to hang or to answer wrongly: it gets no requests.
    is_broken: bool,
    gone_at: Option<Millis>,
}

impl Copy {
    fn is_live(&self) -> bool {
        self.live_since.is_some() && !self.is_broken && self.gone_at.is_none()
    }
}

/// All instances.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    service: ServiceName,
    copies: Vec<Copy>,
    numbered: BTreeMap<RevisionNumber, u32>,
    /// Ends by revision: how many, and when the last one was.
    trouble: BTreeMap<RevisionNumber, (u32, Millis)>,
    /// What is to be reported.
    pub(super) failures: Vec<Failure>,
    /// Revisions of which instances have just ended by themselves.
    pub(super) ended: Vec<RevisionNumber>,
}

impl Pools {
    pub(super) fn new(service: ServiceName) -> Self {
        Self {
            service,
            copies: Vec::new(),
            numbered: BTreeMap::new(),
            trouble: BTreeMap::new(),
            failures: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Instances that run already when the play begins.
    pub(super) fn run(&mut self, revision: RevisionNumber, count: u32) {
        for _ in 0..count {
            let number = self.number(revision);
            self.copies.push(Copy {
                number,
                revision,
                ready_at: Some(Millis(0)),
                live_since: Some(Millis(0)),
                ill_since: None,
                is_broken: false,
                gone_at: None,
            });
        }
    }

    fn number(&mut self, revision: RevisionNumber) -> u32 {
        let number = self.numbered.entry(revision).or_default();
        *number += 1;
        *number
    }

    /// Lets time pass. Whether anything changed.
    pub(super) fn advance(&mut self, now: Millis, at: Timestamp, states: &States) -> bool {
        let count = self.copies.len();
        self.copies.retain(|copy| copy.gone_at.is_none_or(|gone| gone > now));
        let mut changed = self.copies.len() != count;
        let (mut failures, mut dying) = (Vec::new(), Vec::new());
        for copy in self.copies.iter_mut().filter(|copy| copy.gone_at.is_none()) {
            let Some(is) = states.get(&copy.revision) else { continue };
            let was = (copy.live_since, copy.is_broken);
            if let Some((cause, detail)) = copy.be(now, is) {
                failures.push(failure(&self.service, copy, cause, detail, at));
            }
            let overdue =
                is.crashes_every.zip(copy.live_since).is_some_and(|(every, since)| now.0 >= since.0 + every.0);
            if overdue {
                dying.push((copy.revision, copy.number));
            }
            changed |= was != (copy.live_since, copy.is_broken) || overdue;
        }
        self.failures.extend(failures);
        dying.into_iter().for_each(|(revision, number)| self.end(revision, number, Cause::Crash, now, at));
        changed
    }

    /// One live instance of a revision ends by itself; whether there was one.
    pub(super) fn end_one(&mut self, revision: RevisionNumber, cause: Cause, now: Millis, at: Timestamp) -> bool {
        let victim =
            self.copies.iter().find(|copy| copy.revision == revision && copy.is_live()).map(|copy| copy.number);
        victim.inspect(|&number| self.end(revision, number, cause, now, at)).is_some()
    }

    fn end(&mut self, revision: RevisionNumber, number: u32, cause: Cause, now: Millis, at: Timestamp) {
        let Some(index) = self.copies.iter().position(|copy| (copy.revision, copy.number) == (revision, number)) else {
            return;
        };
        let copy = self.copies.remove(index);
        let detail = match cause {
            Cause::OutOfMemory => "went past its memory limit and was ended",
            _ => "ended by itself",
        };
        self.failures.push(failure(&self.service, &copy, cause, detail, at));
        self.ended.push(revision);
        let trouble = self.trouble.entry(revision).or_insert((0, now));
        *trouble = (trouble.0 + 1, now);
    }

    /// Starts what is missing and asks the surplus to end. Whether anything was done.
    pub(super) fn reconcile(&mut self, desired: &Desired, now: Millis, states: &States, drain: Millis) -> bool {
        let mut changed = false;
        for (&revision, &wanted) in &desired.instances {
            let stays = self.copies.iter().filter(|copy| copy.revision == revision && copy.gone_at.is_none()).count();
            let missing = (wanted as usize).saturating_sub(stays);
            if missing > 0 && self.may_start(revision, now) {
                let is = states.get(&revision);
                let ready_at = is.filter(|is| !is.never_starts).map(|is| Millis(now.0 + is.starts_in.0));
                for _ in 0..missing {
                    let number = self.number(revision);
                    let (live_since, ill_since, is_broken, gone_at) = (None, None, false, None);
                    self.copies.push(Copy { number, revision, ready_at, live_since, ill_since, is_broken, gone_at });
                }
                changed = true;
            }
        }
        let mut kept: BTreeMap<RevisionNumber, u32> = BTreeMap::new();
        // The ones to keep first: those that answer, then the oldest.
        self.copies.sort_by_key(|copy| (copy.revision, !copy.is_live(), copy.number));
        for copy in self.copies.iter_mut().filter(|copy| copy.gone_at.is_none()) {
            let kept = kept.entry(copy.revision).or_default();
            *kept += 1;
            if *kept > desired.instances.get(&copy.revision).copied().unwrap_or(0) {
                let stops = states.get(&copy.revision).map_or(Millis(0), |is| is.stops_in);
                copy.gone_at = Some(Millis(now.0 + stops.0 + drain.0));
                changed = true;
            }
        }
        changed
    }

    fn may_start(&self, revision: RevisionNumber, now: Millis) -> bool {
        self.trouble.get(&revision).is_none_or(|&(count, last)| {
            let pause = match count {
                0 | 1 => 0,
                n => (FIRST_PAUSE << (n - 2).min(10)).min(LONGEST_PAUSE),
            };
            now.0 >= last.0 + pause
        })
    }

    /// What an observer sees.
    pub(super) fn seen(&self) -> BTreeMap<RevisionNumber, PoolSeen> {
        let mut pools: BTreeMap<RevisionNumber, PoolSeen> = BTreeMap::new();
        for copy in &self.copies {
            let pool = pools.entry(copy.revision).or_default();
            match copy.gone_at {
                Some(_) => pool.leaving += 1,
                None => {
                    pool.running += 1;
                    pool.live += u32::from(copy.is_live());
                }
            }
        }
        pools
    }

    /// Live instances of a revision.
    pub(super) fn live(&self, revision: RevisionNumber) -> u32 {
        self.copies.iter().filter(|copy| copy.revision == revision && copy.is_live()).map(|_| 1).sum()
    }

    /// All instances, those that are ending included.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.copies.len()).unwrap_or(u32::MAX)
    }

    /// Whether an instance is on its way up or down.
    pub(super) fn is_moving(&self) -> bool {
        self.copies.iter().any(|copy| copy.gone_at.is_some() || (copy.live_since.is_none() && copy.ready_at.is_some()))
    }
}

impl Copy {
    /// Takes in how its revision behaves now; what is to be reported of it.
    fn be(&mut self, now: Millis, is: &Now) -> Option<(Cause, &'static str)> {
        let ready = self.ready_at.filter(|&at| at <= now)?;
        if self.live_since.is_none() {
            if is.hangs {
                return None; // it does not answer its first probe either, until its time to start is over
            }
            if is.wrong {
                let first = !std::mem::replace(&mut self.is_broken, true);
                return first.then_some((Cause::WrongAnswers, "answers its samples wrongly"));
            }
            (self.live_since, self.is_broken) = (Some(ready), false);
            return None;
        }
        let (shows, told) = match (is.hangs, is.wrong) {
            (true, _) => (HANG_SHOWS, (Cause::Unresponsive, "runs but does not answer")),
            (_, true) => (WRONG_SHOWS, (Cause::WrongAnswers, "answers its samples wrongly")),
            _ => {
                (self.ill_since, self.is_broken) = (None, false);
                return None;
            }
        };
        let since = *self.ill_since.get_or_insert(now);
        if self.is_broken || now.0 < since.0 + shows.0 {
            return None;
        }
        self.is_broken = true;
        Some(told)
    }
}

fn failure(service: &ServiceName, copy: &Copy, cause: Cause, detail: &str, at: Timestamp) -> Failure {
    let name = format!("{service}-r{}-{}", copy.revision, copy.number);
    Failure {
        cause,
        revision: copy.revision,
        detail: format!("{name} {detail}"),
        instance: InstanceId::new(name).ok(),
        at,
        evidence: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: RevisionNumber = RevisionNumber(2);

    fn pools() -> Pools {
        Pools::new(ServiceName::new("wine").unwrap())
    }

    fn desired(count: u32) -> Desired {
        Desired { instances: BTreeMap::from([(R, count)]), ..Desired::default() }
    }

    fn states(is: Now) -> States {
        BTreeMap::from([(R, is)])
    }

    #[test]
    fn instances_start_end_and_are_tried_again_ever_less_often() {
        let is = states(Now { starts_in: Millis(1_000), crashes_every: Some(Millis(1_000)), ..Now::default() });
        let mut pools = pools();
        let mut starts = Vec::new();
        for tick in 0..240 {
            let now = Millis(tick * 250);
            pools.advance(now, Timestamp(now.0), &is);
            if pools.reconcile(&desired(1), now, &is, Millis(0)) {
                starts.push(now.0);
            }
        }
        let gaps: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps[..5], [2_000, 2_500, 3_000, 4_000, 6_000], "two seconds of life, then 0, 0.5, 1, 2, 4 s");
        assert_eq!(pools.failures.len(), starts.len() - usize::from(pools.count() > 0));
        assert!(pools.failures.iter().all(|failure| failure.cause == Cause::Crash));
    }

    #[test]
    fn who_hangs_is_known_after_a_while_and_who_answers_wrongly_never_lives() {
        let mut pools = pools();
        pools.run(R, 1);
        let hangs = states(Now { hangs: true, ..Now::default() });
        pools.advance(Millis(0), Timestamp(0), &hangs);
        assert_eq!((pools.live(R), pools.failures.len()), (1, 0), "nobody knows yet");
        pools.advance(HANG_SHOWS, Timestamp(0), &hangs);
        assert_eq!((pools.live(R), pools.failures[0].cause), (0, Cause::Unresponsive));
        pools.advance(Millis(9_000), Timestamp(0), &states(Now::default()));
        assert_eq!(pools.live(R), 1, "it is well again");
        let wrong = states(Now { wrong: true, ..Now::default() });
        pools.reconcile(&desired(2), Millis(9_000), &wrong, Millis(0));
        pools.advance(Millis(9_000), Timestamp(0), &wrong);
        assert_eq!((pools.live(R), pools.failures.len()), (1, 2), "the second one has not passed its first probe");
    }

    #[test]
    fn the_surplus_goes_newest_first_and_is_seen_leaving() {
        let is = states(Now { stops_in: Millis(500), ..Now::default() });
        let mut pools = pools();
        pools.run(R, 3);
        assert!(pools.reconcile(&desired(1), Millis(0), &is, Millis(0)));
        let seen = pools.seen()[&R];
        assert_eq!((seen.running, seen.live, seen.leaving), (1, 1, 2));
        assert_eq!(pools.copies.iter().find(|copy| copy.gone_at.is_none()).map(|copy| copy.number), Some(1));
        pools.advance(Millis(500), Timestamp(500), &is);
        assert_eq!(pools.count(), 1);
    }
}
