//! One play: the real state machine in a world where what was described happens, and nothing else.
//!
//! Promises: looks as often as the controller does while anything moves, and every two seconds (the longest gap that counts as watched)
//! while nothing does. Routes come from the real `split_among`.
//! Absent on purpose: waits in queues. A revision is as fast under load as without.

use std::collections::{BTreeMap, VecDeque};

use modelyard_core::event::Order;
use modelyard_core::failure::Cause;
use modelyard_core::measure::{BUCKETS, Counters, Histogram};
use modelyard_core::metric::MetricSource;
use modelyard_core::route::split_among;
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, RevisionNumber, Timestamp, Weight};
use modelyard_rollout::{GatewaySeen, LOOK_AGAIN, Observation, Rollout, step};

use super::evidence::Gathered;
use super::fault::Whose;
use super::person::{Persons, Wish};
use super::pools::{Pools, States};
use super::scenario::{Case, Course, Scenario};
use super::story::Story;
use super::told::{Kind, Notice, Played, Window, Windows};
use super::traffic::Arrivals;
use super::{CANDIDATE, STABLE, draws};

/// Midnight of the day that is played: 2026-01-01.
const MIDNIGHT: u64 = 1_767_225_600_000;
/// The longest gap between two looks that counts as watched.
const CALM: Millis = Millis::seconds(2);
/// How far one tick goes once the rollout is over.
const OVER: Millis = Millis::seconds(60);
/// How long nothing must have happened before looks get rarer.
const SETTLES: Millis = Millis::seconds(30);

/// One play.
pub(super) struct Stage<'a> {
    pub(super) spec: &'a ServiceSpec,
    pub(super) scenario: &'a Scenario,
    course: Course<'a>,
    pub(super) now: Millis,
    begun: Millis,
    pools: Pools,
    states: States,
    split: BTreeMap<RevisionNumber, Weight>,
    counters: BTreeMap<RevisionNumber, Counters>,
    needs_latency: bool,
    last_sent: BTreeMap<RevisionNumber, (Millis, f64)>,
    parked: VecDeque<(Millis, u64)>,
    /// Requests that will be given up: when, and at which revision.
    hanging: VecDeque<(Millis, RevisionNumber, u64)>,
    ends: Vec<(Whose, bool)>,
    random: fastrand::Rng,
    arrivals: Arrivals<'a>,
    gathered: Option<Gathered<'a>>,
    last_news: Millis,
    pub(super) persons: Persons,
    pub(super) story: Story,
    pub(super) told: Played,
    windows: Windows,
    over_since: Option<Millis>,
    /// Since when it has been less than whole, and for how long it was before.
    broken: Option<Millis>,
    broken_for: Millis,
}

impl<'a> Stage<'a> {
    pub(super) fn new(spec: &'a ServiceSpec, scenario: &'a Scenario, case: &'a Case) -> Self {
        let compares =
            matches!(spec.strategy, Strategy::Ab(_) | Strategy::Shadow(_)) || !spec.strategy.shadows().is_empty();
        let mut pools = Pools::new(spec.name.clone());
        pools.run(STABLE, spec.instances);
        let analysis = &spec.analysis;
        let mut stage = Self {
            course: Course::new(scenario, &case.faults, &spec.metrics),
            now: Millis(0),
            begun: Millis(0),
            pools,
            states: States::new(),
            split: BTreeMap::from([(STABLE, Weight::ALL)]),
            counters: BTreeMap::new(),
            needs_latency: analysis.max_latency_ms.is_some()
                || analysis.max_latency_ratio.is_some()
                || spec.metrics.iter().any(|metric| metric.from == MetricSource::Latency),
            last_sent: BTreeMap::new(),
            parked: VecDeque::new(),
            hanging: VecDeque::new(),
            ends: Vec::new(),
            random: fastrand::Rng::with_seed(scenario.seed ^ 0x5EED),
            arrivals: Arrivals::new(&scenario.traffic, scenario.seed, scenario.start),
            gathered: (compares || !spec.metrics.is_empty()).then(|| Gathered::new(&spec.metrics, scenario.labels)),
            last_news: Millis(0),
            persons: Persons::new(scenario.person),
            story: Story::default(),
            told: Played { strategy: spec.strategy.name().to_owned(), ..Played::default() },
            windows: Windows::new(),
            over_since: None,
            broken: None,
            broken_for: Millis(0),
            spec,
            scenario,
        };
        stage.change(
            &case.faults.iter().filter(|fault| fault.from == Millis(0)).map(ToString::to_string).collect::<Vec<_>>(),
        );
        let at_once: Vec<_> = stage.course.ends(None, Millis(0)).collect();
        stage.ends.extend(at_once);
        stage.story.shares(Millis(0), &stage.split);
        stage
    }

    /// The clock on the wall.
    pub(super) fn at(&self) -> Timestamp {
        Timestamp(MIDNIGHT + self.scenario.start * 1_000 + self.now.0)
    }

    /// Plays one tick.
    pub(super) fn tick(&mut self, rollout: Rollout, case: &Case) -> Rollout {
        let before = self.now;
        self.now = Millis(before.0 + self.stride(&rollout).0);
        self.live(before, case);
        self.route(&rollout);
        self.forward(before, &rollout);
        let orders = self.persons.orders(self.now, &rollout, &self.told, self.is_badly_served());
        if self.persons.has_acted() && self.told.noticed.is_none() {
            (self.told.noticed, self.told.noticed_by) = (Some(self.now), Some(Notice::Person));
            self.story.tell(self.now, Kind::Person, "a person notices that something is wrong".to_owned());
        }
        if orders.contains(&Wish::RollBack) {
            return self.roll_back(rollout);
        }
        let orders: Vec<Order> = orders.into_iter().filter_map(Wish::order).collect();
        let rollout = if rollout.is_closed() { rollout } else { self.step(rollout, orders) };
        let drain = self.drain();
        if self.pools.reconcile(&rollout.desired(), self.now, &self.states, drain) {
            self.news();
        }
        self.route(&rollout);
        self.judge(&rollout);
        rollout
    }

    /// How far the next tick goes.
    fn stride(&self, rollout: &Rollout) -> Millis {
        let moving = self.pools.is_moving() || !self.parked.is_empty() || self.now.0 < self.last_news.0 + SETTLES.0;
        let stride = match (rollout.is_closed(), moving) {
            (_, true) => LOOK_AGAIN,
            (false, false) => CALM,
            (true, false) => OVER,
        };
        let bounds = [
            self.course.next_change(self.now),
            self.persons.due().filter(|&due| due > self.now),
            Some(self.scenario.longest),
        ];
        let bound = bounds.into_iter().flatten().map(|at| at.0.saturating_sub(self.now.0)).min().unwrap_or(stride.0);
        Millis(stride.0.min(bound).max(1))
    }

    fn news(&mut self) {
        self.last_news = self.now;
    }

    /// What the world does by itself.
    fn live(&mut self, before: Millis, case: &Case) {
        let within = |at: Millis| before < at && at <= self.now;
        let mut told: Vec<String> = Vec::new();
        for fault in &case.faults {
            if within(fault.from) {
                told.push(fault.to_string());
            }
            if fault.until.is_some_and(within) {
                told.push(format!("over: {fault}"));
            }
        }
        if !told.is_empty() {
            self.change(&told);
        }
        let ends: Vec<_> = self.course.ends(Some(before), self.now).collect();
        self.ends.extend(ends);
        let (now, at) = (self.now, self.at());
        if self.pools.advance(now, at, &self.states) {
            self.news();
        }
        let due = std::mem::take(&mut self.ends);
        for (whose, memory) in due {
            let cause = if memory { Cause::OutOfMemory } else { Cause::Crash };
            let revision = if whose == Whose::Candidate { CANDIDATE } else { STABLE };
            if !self.pools.end_one(revision, cause, now, at) {
                self.ends.push((whose, memory)); // nothing lives yet that could end
            }
        }
        for revision in std::mem::take(&mut self.pools.ended) {
            self.news();
            self.break_requests(revision);
        }
        let told: Vec<String> = self.pools.failures.iter().map(|failure| failure.detail.clone()).collect();
        told.into_iter().for_each(|detail| self.story.tell(now, Kind::World, detail));
    }

    fn change(&mut self, told: &[String]) {
        self.news();
        told.iter().for_each(|what| self.story.tell(self.now, Kind::World, format!("from now on: {what}")));
        let arms = super::arms(self.spec).into_iter().chain([STABLE, CANDIDATE]);
        self.states = arms.map(|revision| (revision, self.course.behaviour(revision, self.now))).collect();
    }

    /// Requests that an instance was answering when it ended: others answer them, if there are any.
    fn break_requests(&mut self, revision: RevisionNumber) {
        let Some(&(_, rate)) = self.last_sent.get(&revision) else { return };
        let latency = self.states.get(&revision).map_or(0.0, |is| is.latency_ms) / 1e3;
        let copies = f64::from(self.pools.live(revision) + 1);
        let broken = draws::poisson(&mut self.random, rate * latency / copies);
        let counters = self.counters.entry(revision).or_default();
        counters.requests += broken;
        counters.errors += broken;
        let others = self.split.keys().any(|&other| self.pools.live(other) > 0);
        match others && self.spec.routing.retries > 0 {
            true => counters.retried += broken,
            false => self.told.failed += broken,
        }
        self.meet(broken);
    }

    fn meet(&mut self, count: u64) {
        if count > 0 {
            self.told.met += count;
            self.told.last_met = Some(self.now);
            self.persons.met.get_or_insert(self.now);
        }
    }

    /// The gateway is told within milliseconds.
    fn route(&mut self, rollout: &Rollout) {
        let desired = rollout.desired();
        let split = split_among(&desired, |revision| self.pools.live(revision) > 0);
        if split != self.split {
            self.split = split;
            self.news();
            self.story.shares(self.now, &self.split);
        }
    }

    /// Requests since the last tick.
    fn forward(&mut self, before: Millis, rollout: &Rollout) {
        let count = self.arrivals.between(before, self.now);
        let span = Millis(self.now.0 - before.0);
        self.told.requests += count;
        let mut window = Window { end: self.now, span, requests: count, ..Window::default() };
        let (met, failed) = (self.told.met, self.told.failed);
        self.give_up();
        if self.split.is_empty() {
            self.park(count, rollout.desired().park);
            self.told.outage = Millis(self.told.outage.0 + span.0);
        } else {
            let waiting: u64 = self.parked.drain(..).map(|(_, count)| count).sum();
            self.spread(count + waiting, span, rollout, &mut window);
        }
        window.met = self.told.met - met;
        window.failed = self.told.failed - failed;
        self.windows.add(window);
        if let Some(gathered) = &mut self.gathered {
            gathered.catch_up(&mut self.random, self.now);
        }
    }

    /// Requests that waited, or hung, for as long as they may.
    fn give_up(&mut self) {
        let park = self.spec.routing.park.0;
        while self.parked.front().is_some_and(|&(since, _)| self.now.0 >= since.0 + park) {
            self.told.failed += self.parked.pop_front().map_or(0, |(_, count)| count);
        }
        while self.hanging.front().is_some_and(|&(due, _, _)| due <= self.now) {
            let Some((_, revision, count)) = self.hanging.pop_front() else { return };
            self.counters.entry(revision).or_default().errors += count;
            self.told.failed += count;
        }
    }

    fn park(&mut self, count: u64, parks: bool) {
        let waiting: u64 = self.parked.iter().map(|(_, count)| count).sum();
        let room = if parks { u64::from(self.spec.routing.park_limit).saturating_sub(waiting) } else { 0 };
        let parked = count.min(room);
        self.told.failed += count - parked;
        if parked > 0 {
            self.told.waited += parked;
            self.parked.push_back((self.now, parked));
        }
    }

    fn spread(&mut self, count: u64, span: Millis, rollout: &Rollout, window: &mut Window) {
        let (mut left, mut share) = (count, 10_000_u32);
        let split: Vec<(RevisionNumber, Weight)> = self.split.iter().map(|(&r, &w)| (r, w)).collect();
        let mut of_stable = 0;
        for (revision, weight) in split {
            let points = u32::from(weight.basis_points());
            let here = draws::binomial(&mut self.random, left, f64::from(points) / f64::from(share.max(1)));
            left -= here;
            share -= points.min(share);
            of_stable += if Some(revision) == rollout.stable { here } else { 0 };
            self.answer(revision, here, span, window);
        }
        for (revision, share) in rollout.desired().mirrors {
            let is = self.states.entry(revision).or_insert_with(|| self.course.behaviour(revision, self.now)).clone();
            if let Some(gathered) = self.gathered.as_mut().filter(|_| self.pools.live(revision) > 0) {
                gathered.mirrored(&mut self.random, revision, share, of_stable, &is);
            }
        }
    }

    fn answer(&mut self, revision: RevisionNumber, count: u64, span: Millis, window: &mut Window) {
        let is = self.states.entry(revision).or_insert_with(|| self.course.behaviour(revision, self.now)).clone();
        let latency = match self.needs_latency && count > 0 && !is.hangs {
            true => {
                let mut buckets = [0; BUCKETS];
                let sum = draws::latencies(&mut self.random, &mut buckets, count, is.latency_ms, is.spread);
                Histogram::from_counts(buckets.to_vec(), sum)
            }
            false => Histogram::default(),
        };
        let errors = if is.hangs { 0 } else { draws::binomial(&mut self.random, count, is.error_rate) };
        let counters = self.counters.entry(revision).or_default();
        counters.requests += count;
        counters.errors += errors;
        if self.needs_latency {
            counters.latency.add(&latency);
        }
        if is.hangs && count > 0 {
            self.hanging.push_back((Millis(self.now.0 + self.spec.routing.timeout.0), revision, count));
        }
        self.told.failed += errors;
        if count > 0 {
            self.last_sent.insert(revision, (self.now, count as f64 / span.as_seconds().max(0.001)));
        }
        if is.is_bad {
            self.meet(count);
        }
        match revision {
            STABLE => window.stable_latency_ms = is.latency_ms,
            CANDIDATE => {
                window.candidate += count;
                window.candidate_errors += errors;
                window.candidate_latency_ms = is.latency_ms;
            }
            _ => {}
        }
        if let Some(gathered) = &mut self.gathered {
            gathered.answered(&mut self.random, self.now, revision, (count, errors), &is, &latency);
        }
    }

    /// Requests that a revision is answering right now.
    fn in_flight(&self) -> BTreeMap<RevisionNumber, u64> {
        let answering = self.last_sent.iter().filter_map(|(&revision, &(at, rate))| {
            let is = self.states.get(&revision)?;
            let since = (self.now.0 - at.0) as f64;
            let lasts = draws::longest(is.latency_ms, is.spread);
            (since <= lasts).then(|| (revision, (rate * is.latency_ms / 1e3).ceil() as u64))
        });
        let mut counts: BTreeMap<RevisionNumber, u64> = answering.filter(|&(_, count)| count > 0).collect();
        self.hanging.iter().for_each(|&(_, revision, count)| *counts.entry(revision).or_default() += count);
        counts
    }

    /// How long an instance that goes still answers what it has.
    fn drain(&self) -> Millis {
        let longest = self.states.values().map(|is| draws::longest(is.latency_ms, is.spread)).fold(0.0, f64::max);
        Millis((longest as u64).min(self.spec.routing.drain.0))
    }

    /// Observes, and lets the state machine decide.
    fn step(&mut self, rollout: Rollout, orders: Vec<Order>) -> Rollout {
        if !orders.is_empty() {
            self.news();
        }
        orders.iter().for_each(|order| self.story.ordered(self.now, order));
        let seen = Observation {
            at: self.at(),
            gateway: Some(GatewaySeen {
                weights: self.split.clone(),
                in_flight: self.in_flight(),
                counters: self.counters.clone(),
            }),
            pools: self.pools.seen(),
            evidence: self.gathered.as_ref().map(Gathered::evidence),
            failures: std::mem::take(&mut self.pools.failures),
            orders,
        };
        let phase = rollout.phase;
        let (after, actions) = step(rollout, &seen);
        if after.phase != phase {
            self.news();
        }
        self.story.moved(self.now, phase, &after, &actions, &mut self.told);
        after
    }

    /// A person rolls back a rollout that is over: a rollout of its own, all at once as soon as the old revision lives again.
    fn roll_back(&mut self, over: Rollout) -> Rollout {
        self.news();
        self.begun = self.now;
        self.over_since = None;
        match super::rollback(self.spec, self.at()) {
            Some(rollout) => {
                self.story.tell(self.now, Kind::Person, format!("`modelyard rollback {}`", self.spec.name));
                rollout
            }
            None => over,
        }
    }

    /// Whether a bad revision answers right now.
    fn is_badly_served(&self) -> bool {
        self.split
            .iter()
            .any(|(revision, &weight)| weight > Weight::NONE && self.states.get(revision).is_some_and(|is| is.is_bad))
    }

    /// Whether the service is whole, since when it was not, and when it was again.
    fn judge(&mut self, rollout: &Rollout) {
        let live: u32 = self.split.keys().map(|&revision| self.pools.live(revision)).sum();
        let spared = match &self.spec.strategy {
            Strategy::Rolling(rolling) => rolling.max_unavailable,
            _ => 0,
        };
        let going_back = !rollout.phase.is_forward() && rollout.outcome().is_none();
        let hurts = self.is_badly_served() && self.persons.met.is_some();
        let whole = !hurts
            && !self.split.is_empty()
            && live >= self.spec.instances.saturating_sub(spared)
            && self.parked.is_empty()
            && !going_back;
        self.told.most_instances = self.told.most_instances.max(self.pools.count());
        match (whole, self.told.harm, self.told.whole) {
            (false, None, _) => (self.told.harm, self.broken) = (Some(self.now), Some(self.now)),
            (false, Some(_), Some(_)) => (self.told.whole, self.broken) = (None, Some(self.now)),
            (true, Some(_), None) => {
                self.news();
                self.told.whole = Some(self.now);
                let since = self.broken.take().unwrap_or(self.now);
                self.broken_for = Millis(self.broken_for.0 + self.now.0 - since.0);
                self.story.tell(
                    self.now,
                    Kind::Good,
                    "whole again: every instance lives, nothing bad answers".to_owned(),
                );
            }
            _ => {}
        }
        let settled = rollout.is_closed() && !self.is_badly_served() && whole && self.ends.is_empty();
        let waits = self.course.next_change(self.now).is_some();
        self.over_since = (settled && !waits).then(|| self.over_since.unwrap_or(self.now));
    }

    /// Whether there is nothing more to see: a little longer than it takes, so that charts show the end.
    pub(super) fn is_over(&self) -> bool {
        let tail = (self.now.0 / 20).clamp(5_000, 60_000);
        self.now >= self.scenario.longest || self.over_since.is_some_and(|since| self.now.0 >= since.0 + tail)
    }

    /// What is told of it.
    pub(super) fn finish(mut self, rollout: &Rollout) -> Played {
        let told = &mut self.told;
        told.stands = match self.begun {
            Millis(0) => rollout.describe(),
            at => format!("promoted; rolled back by a person after {at}"),
        };
        told.played = self.now;
        let began = self.persons.met.or(told.harm);
        told.noticed_after = told.noticed.zip(began).map(|(noticed, began)| Millis(noticed.0.saturating_sub(began.0)));
        told.whole_after = told.whole.map(|_| self.broken_for);
        told.windows = self.windows.into_windows();
        (told.timeline, told.shares) = self.story.into_parts();
        self.told
    }
}
