//! The world in which a rollout is played: clock, cluster, gateway, controller, traffic, faults.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::beside::BesideKind;
use modelyard_core::event::Order;
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp, Weight};
use modelyard_rollout::{Action, Observation, Plan, PoolSeen, Rollout, Waiting};

use crate::cluster::{Cluster, Temper};
use crate::controller::{Command, Controller, Move};
use crate::faults::Faults;
use crate::gateway::{Gateway, Table};
use crate::invariants::Violation;

/// One tick of the virtual clock.
pub const TICK: Millis = Millis(125);
/// The revision that is stable when a rollout is submitted.
pub const STABLE: RevisionNumber = RevisionNumber(1);
/// When worlds begin: 2025-01-01, so that a clock that is set back stays within range.
const DAWN: Timestamp = Timestamp(1_735_689_600_000);

/// The function under test: `modelyard_rollout::step`, or a broken one that proves that the rig would notice.
pub type Stepper = fn(Rollout, &Observation) -> (Rollout, Vec<Action>);

/// A world. The same seed and the same calls play the same events.
pub struct World {
    pub(crate) now: Timestamp,
    pub(crate) random: fastrand::Rng,
    pub(crate) faults: Faults,
    pub(crate) cluster: Cluster,
    pub(crate) gateway: Gateway,
    pub(crate) controller: Option<Controller>,
    pub(crate) tempers: BTreeMap<RevisionNumber, Temper>,
    pub(crate) last_move: Option<Move>,
    pub(crate) has_passed: bool,
    pub(crate) was_promoted_by_hand: bool,
    /// Somebody's abort was taken and not refused.
    pub(crate) was_aborted: bool,
    stepper: Stepper,
    in_transit: Vec<(Timestamp, Command)>,
    stale_pools: BTreeMap<RevisionNumber, PoolSeen>,
    /// Requests per tick.
    pub(crate) traffic: u32,
}

impl World {
    /// A kind world whose chances are drawn from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self {
            now: DAWN,
            random: fastrand::Rng::with_seed(seed),
            faults: Faults::none(),
            cluster: Cluster::default(),
            gateway: Gateway::default(),
            controller: None,
            tempers: BTreeMap::new(),
            last_move: None,
            has_passed: false,
            was_promoted_by_hand: false,
            was_aborted: false,
            stepper: modelyard_rollout::step,
            in_transit: Vec::new(),
            stale_pools: BTreeMap::new(),
            traffic: 6,
        }
    }

    /// Lets things go wrong. Once the world has calmed down, somebody attends to rollouts that wait for a person.
    #[must_use]
    pub fn with(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Plays another state machine.
    #[must_use]
    pub fn playing(mut self, stepper: Stepper) -> Self {
        self.stepper = stepper;
        self
    }

    /// How a revision behaves.
    #[must_use]
    pub fn where_revision(mut self, revision: RevisionNumber, temper: Temper) -> Self {
        self.tempers.insert(revision, temper);
        self
    }

    /// Starts a rollout of revision 2. With `stable`, revision 1 runs already and carries everything.
    pub fn submit(&mut self, plan: Plan, stable: bool) {
        let count = if stable { u64::from(plan.instances) } else { 0 };
        (0..count).for_each(|id| self.cluster.start(id, STABLE, Temper::good(), Millis(0), self.now));
        let pools: BTreeMap<_, _> = stable.then(|| (STABLE, (0..count).collect())).into_iter().collect();
        let weights: BTreeMap<_, _> = stable.then_some((STABLE, Weight::ALL)).into_iter().collect();
        let table = Table { generation: 1, weights, pools };
        self.gateway.apply(table.clone());
        let service = ServiceName::new("wine").unwrap_or_else(|_| unreachable!("`wine` is a service name"));
        let further: Vec<RevisionNumber> = (3..).map(RevisionNumber).take(plan.strategy.further().len()).collect();
        let rollout = Rollout::start(service, stable.then_some(STABLE), RevisionNumber(2), &further, plan, self.now);
        self.controller = Some(Controller::new(rollout, table, count));
    }

    /// The rollout as the log has it.
    pub fn rollout(&self) -> Option<&Rollout> {
        self.controller.as_ref().map(|controller| &controller.committed)
    }

    /// The last move that was made, if one was made in this tick.
    pub fn last_move(&self) -> Option<&Move> {
        self.last_move.as_ref()
    }

    /// Requests so far, and those of them that found nobody who answers.
    pub fn requests(&self) -> (u64, u64) {
        (self.gateway.requests, self.gateway.parked)
    }

    /// Time since the world began.
    pub fn elapsed(&self) -> Millis {
        self.now - DAWN
    }

    /// Whether things still go wrong by themselves.
    pub fn is_calm(&self) -> bool {
        self.elapsed() >= self.faults.until
    }

    /// Whether the rollout is over and the world is as it asks.
    pub fn is_settled(&self) -> bool {
        let Some(controller) = &self.controller else { return true };
        let desired = controller.committed.desired();
        let seen = self.cluster.seen(&controller.ending, self.now);
        let as_wanted = seen.iter().all(|(revision, pool)| {
            pool.leaving == 0
                && pool.live == desired.instances.get(revision).copied().unwrap_or(0)
                && pool.live == pool.running
        });
        controller.committed.is_closed()
            && as_wanted
            && seen.len() == desired.instances.len()
            && self.gateway.table.weights == desired.weights
    }

    /// Whether the gateway has an older table than was published: it will get the newer one again, and again.
    pub(crate) fn lags(&self) -> bool {
        let published = self.controller.as_ref().map(|controller| controller.published.generation);
        published.is_some_and(|published| self.gateway.table.generation < published)
    }

    /// What the rollout waits for, for people.
    pub fn why_waiting(&self) -> String {
        let Some(rollout) = self.controller.as_ref().map(|controller| &controller.state) else {
            return "nothing was submitted".into();
        };
        let waiting = rollout.waiting().map_or("nothing".into(), Waiting::to_string);
        format!("{}: {waiting}", rollout.describe())
    }

    /// Plays until everything has settled or the time is up, checking after every event.
    ///
    /// # Errors
    /// The first [`Violation`] of a check.
    pub fn run_until_settled(
        &mut self,
        limit: Millis,
        check: impl Fn(&Self) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        while self.elapsed() < limit && !self.is_settled() {
            self.tick();
            check(self)?;
        }
        Ok(())
    }

    /// Plays one tick.
    pub fn tick(&mut self) {
        self.now = self.now + TICK;
        self.last_move = None;
        let killed_at = self.misfortunes();
        self.deliver();
        self.cluster.advance(&self.tempers, self.now);
        self.gateway.forward(self.traffic, &self.cluster, &self.tempers, &mut self.random, self.now);
        self.control(killed_at);
    }

    /// Rolls the dice; where the controller is killed in this tick, if it is.
    fn misfortunes(&mut self) -> Option<u8> {
        if self.is_calm() {
            return None;
        }
        let faults = self.faults;
        if self.chance(faults.kill) {
            self.with_any_instance(|world, id| world.cluster.die(id, Cause::Crash, world.now));
        }
        if self.chance(faults.hang) {
            let span = Millis(self.random.u64(100..3_000));
            self.with_any_instance(|world, id| world.hang(id, span));
        }
        if self.chance(faults.cut) {
            self.gateway.cut_until = self.now + Millis(self.random.u64(200..8_000));
        }
        if self.chance(faults.restart_gateway) {
            self.gateway.restart();
        }
        if self.chance(faults.clock)
            && let Some(controller) = &mut self.controller
        {
            controller.skew = self.random.i64(-3_600_000..3_600_000);
        }
        if self.chance(faults.order) {
            let alternative = Order::Try {
                revision: RevisionNumber(self.random.u32(8..10)),
                share: Weight::new(self.random.u16(..4) * 500).unwrap_or_default(),
                kind: if self.random.bool() { BesideKind::Canary } else { BesideKind::Shadow },
            };
            let orders = [
                alternative.clone(),
                Order::Pause,
                Order::Pause,
                Order::Resume,
                Order::Promote { all: false },
                Order::Promote { all: true },
                Order::Abort,
            ];
            // While somebody decides, others are tried.
            let decides = self.rollout().is_some_and(|rollout| rollout.is_paused() || rollout.is_held());
            let order = match decides && self.random.bool() {
                true => alternative,
                false => orders[self.random.usize(..orders.len())].clone(),
            };
            self.order(order);
        }
        self.chance(faults.crash).then(|| self.random.u8(..3))
    }

    fn chance(&mut self, chance: f64) -> bool {
        chance > 0.0 && self.random.f64() < chance
    }

    fn with_any_instance(&mut self, act: impl Fn(&mut Self, u64)) {
        if !self.cluster.instances.is_empty() {
            let nth = self.random.usize(..self.cluster.instances.len());
            if let Some(&id) = self.cluster.instances.keys().nth(nth) {
                act(self, id);
            }
        }
    }

    /// An instance answers nothing for a while. The prober calls it unresponsive after a second.
    pub(crate) fn hang(&mut self, id: u64, span: Millis) {
        let Some(instance) = self.cluster.instances.get_mut(&id) else { return };
        instance.hangs_until = self.now + span;
        if span >= Millis(1_000) && !instance.is_leaving() {
            let detail = format!("instance i{id} did not answer for {span}");
            let failure = Failure {
                cause: Cause::Unresponsive,
                revision: instance.revision,
                instance: None,
                at: self.now,
                detail,
                evidence: Vec::new(),
            };
            self.cluster.failures.push(failure);
        }
    }

    /// A person orders something.
    pub fn order(&mut self, order: Order) {
        self.was_promoted_by_hand |= matches!(order, Order::Promote { .. });
        if let Some(controller) = &mut self.controller {
            controller.orders.push(order);
        }
    }

    /// Kills the controller for a while.
    pub fn kill_controller(&mut self, down: Millis) {
        if let Some(controller) = &mut self.controller {
            controller.crash(self.now + down);
        }
    }

    fn deliver(&mut self) {
        let (due, later) = std::mem::take(&mut self.in_transit).into_iter().partition(|(at, _)| *at <= self.now);
        self.in_transit = later;
        let due: Vec<(Timestamp, Command)> = due;
        due.into_iter().for_each(|(_, command)| self.carry_out(command));
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Start { id, revision } => {
                let temper = self.tempers.get(&revision).copied().unwrap_or(Temper::good());
                let ready_after = Millis(self.random.u64(200..2_000));
                self.cluster.start(id, revision, temper, ready_after, self.now);
            }
            Command::Stop { id } => self.cluster.stop(id, self.now),
            Command::Route(table) if self.gateway.is_reachable(self.now) => self.gateway.apply(table),
            Command::Route(_) => {}
        }
    }

    fn send(&mut self, command: Command) {
        let faults = if self.is_calm() { Faults::none() } else { self.faults };
        if self.chance(faults.lose) {
            return;
        }
        if self.chance(faults.duplicate) {
            self.in_transit.push((self.now + Millis(self.random.u64(0..3_000)), command.clone()));
        }
        match self.chance(faults.delay) {
            true => self.in_transit.push((self.now + Millis(self.random.u64(100..3_000)), command)),
            false => self.carry_out(command),
        }
    }

    fn control(&mut self, killed_at: Option<u8>) {
        let Some(mut controller) = self.controller.take() else { return };
        controller.failures.append(&mut self.cluster.failures);
        if controller.down_until <= self.now {
            self.run_controller(&mut controller, killed_at);
        }
        self.controller = Some(controller);
    }

    fn run_controller(&mut self, controller: &mut Controller, killed_at: Option<u8>) {
        self.attend(controller);
        let due = controller.wake <= self.now || !controller.failures.is_empty() || !controller.orders.is_empty();
        if due && killed_at != Some(0) {
            let pools = self.look(&controller.ending);
            let seen = controller.observe(pools, &self.gateway, &self.tempers, self.now);
            let at = seen.at;
            let made = controller.step(self.stepper, seen, &self.gateway, killed_at == Some(1));
            let wake = made.iter().flat_map(|made| &made.actions).find_map(|action| match action {
                Action::WakeAt { at: wake } => Some(*wake - at),
                _ => None,
            });
            controller.wake = self.now + wake.unwrap_or(Millis::seconds(3_600));
            self.has_passed |= made.iter().flat_map(|made| &made.actions).any(is_pass);
            self.was_aborted |= made.as_ref().is_some_and(takes_an_abort);
            self.last_move = made;
        }
        if killed_at.is_some() {
            return controller.crash(self.now + Millis(self.random.u64(100..8_000)));
        }
        let commands = controller.reconcile(&self.cluster, &self.gateway, self.now);
        commands.into_iter().for_each(|command| self.send(command));
    }

    /// The instances as the observer sees them: now and then as they were a moment ago.
    fn look(&mut self, ending: &BTreeSet<u64>) -> BTreeMap<RevisionNumber, PoolSeen> {
        let fresh = self.cluster.seen(ending, self.now);
        let stale = std::mem::replace(&mut self.stale_pools, fresh.clone());
        let is_stale = !self.is_calm() && self.chance(self.faults.stale);
        if is_stale { stale } else { fresh }
    }

    /// Once a faulty world is calm, somebody looks after rollouts that wait for a person. In a kind world the script does.
    fn attend(&mut self, controller: &mut Controller) {
        if self.faults == Faults::none() || !self.is_calm() || !controller.orders.is_empty() {
            return;
        }
        match controller.state.waiting() {
            Some(Waiting::Paused) => controller.orders.push(Order::Resume),
            Some(Waiting::Person { .. }) if controller.state.failure().is_some() => {
                controller.orders.push(Order::Abort)
            }
            Some(Waiting::Person { .. }) => {
                self.was_promoted_by_hand = true;
                controller.orders.push(Order::Promote { all: false });
            }
            _ => {}
        }
    }
}

/// Whether a move took an abort in: one that was ordered and is not among those that were refused.
fn takes_an_abort(made: &Move) -> bool {
    let asked = made.seen.orders.iter().filter(|order| **order == Order::Abort).count();
    let is_refused = |action: &&Action| matches!(action, Action::Refused { order: Order::Abort, .. });
    asked > made.actions.iter().filter(is_refused).count()
}

fn is_pass(action: &Action) -> bool {
    matches!(action, Action::Verdict { verdict: modelyard_rollout::Verdict::Pass, .. })
}
