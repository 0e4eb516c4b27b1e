//! Each strategy walked through in a world that does at once what is desired.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;

use modelyard_core::event::{Order, Outcome};
use modelyard_core::failure::{Cause, Class, Failure};
use modelyard_core::measure::Counters;
use modelyard_core::route::split_among;
use modelyard_core::service::{Desired, Routing, ServiceSpec};
use modelyard_core::strategy::{BlueGreen, Canary, Recreate, RollbackPolicy, Rolling, Strategy};
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp, Weight};
use modelyard_rollout::{Action, GatewaySeen, Observation, Phase, Plan, PoolSeen, Rollout, Waiting, step};

const OLD: RevisionNumber = RevisionNumber(1);
const NEW: RevisionNumber = RevisionNumber(2);

fn spec(strategy: Strategy, instances: u32) -> ServiceSpec {
    let mut spec = ServiceSpec {
        instances,
        strategy,
        analysis: Default::default(),
        rollback: RollbackPolicy::default(),
        routing: Routing::default(),
        ..ServiceSpec::named(ServiceName::new("wine").unwrap_or_else(|_| unreachable!("`wine` is a service name")))
    };
    if let Strategy::Ab(ab) = &mut spec.strategy {
        ab.metric = "accuracy".into(); // a test cannot be planned without what decides it
        let accuracy = serde_json::json!({ "name": "accuracy", "kind": "accuracy", "from": "feedback" });
        spec.metrics.push(serde_json::from_value(accuracy).unwrap());
    }
    spec
}

/// A world without delay: what is desired is so at the next look, a quarter of a second later.
struct Easy {
    rollout: Rollout,
    seen: Observation,
    /// Share of the candidate's answers that are errors, in percent.
    errors: u64,
    /// The candidate's instances never live.
    dead: bool,
    /// Instances of the candidate whose machine is out of reach.
    lost: u32,
    gateway_lost: bool,
    said: Vec<Action>,
    weights: Vec<u16>,
}

impl Easy {
    fn new(spec: &ServiceSpec, stable: bool) -> Self {
        let plan = Plan::new(spec).unwrap();
        let rollout = Rollout::start(spec.name.clone(), stable.then_some(OLD), NEW, &[], plan, Timestamp(0));
        let gateway = GatewaySeen::default();
        let seen = Observation { gateway: Some(gateway), ..Observation::default() };
        let mut easy =
            Self { rollout, seen, errors: 0, dead: false, lost: 0, gateway_lost: false, said: vec![], weights: vec![] };
        easy.obey(&easy.rollout.desired());
        easy
    }

    fn obey(&mut self, desired: &Desired) {
        let live = |revision: RevisionNumber, count: u32| if self.dead && revision == NEW { 0 } else { count };
        let lost = |revision: RevisionNumber| if revision == NEW { self.lost } else { 0 };
        let pool = |(&revision, &count): (&RevisionNumber, &u32)| {
            (revision, PoolSeen { running: count, live: live(revision, count), leaving: 0, lost: lost(revision) })
        };
        self.seen.pools = desired.instances.iter().map(pool).collect();
        let pools = self.seen.pools.clone();
        let split = split_among(desired, |revision| pools.get(&revision).is_some_and(|pool| pool.live > 0));
        if self.gateway_lost {
            self.seen.gateway = None;
            return;
        }
        let gateway = self.seen.gateway.get_or_insert_default();
        for (&revision, weight) in &split {
            let counters: &mut Counters = gateway.counters.entry(revision).or_default();
            let requests = u64::from(weight.basis_points()) / 50; // 800 a second in all
            counters.requests += requests;
            counters.errors += if revision == NEW { requests * self.errors / 100 } else { 0 };
        }
        gateway.weights = split;
    }

    fn tick(&mut self) {
        self.seen.at = self.seen.at + Millis(250);
        let (rollout, actions) = step(self.rollout.clone(), &self.seen);
        self.rollout = rollout;
        self.said.extend(
            actions.into_iter().filter(|action| !matches!(action, Action::WakeAt { .. } | Action::Desire { .. })),
        );
        self.seen.failures.clear();
        self.seen.orders.clear();
        let desired = self.rollout.desired();
        let weight = desired.weights.get(&NEW).map_or(0, |weight| weight.basis_points());
        if self.weights.last() != Some(&weight) {
            self.weights.push(weight);
        }
        self.obey(&desired);
    }

    fn play(&mut self, seconds: u64) -> &mut Self {
        (0..seconds * 4).for_each(|_| self.tick());
        self
    }

    fn until(&mut self, reached: impl Fn(&Rollout) -> bool) -> &mut Self {
        for _ in 0..100_000 {
            if reached(&self.rollout) {
                return self;
            }
            self.tick();
        }
        panic!("never reached: {}", self.rollout.describe());
    }

    fn order(&mut self, order: Order) -> &mut Self {
        self.seen.orders.push(order);
        self.tick();
        self
    }

    fn fail(&mut self, revision: RevisionNumber, cause: Cause) -> &mut Self {
        let at = self.seen.at;
        self.seen.failures.push(Failure {
            cause,
            revision,
            instance: None,
            at,
            detail: format!("{cause}"),
            evidence: vec![],
        });
        self.tick();
        self
    }

    fn ends(&mut self, outcome: Outcome) -> &mut Self {
        self.until(Rollout::is_closed);
        assert_eq!(self.rollout.outcome(), Some(outcome), "{:?}", self.said);
        let winner = if outcome == Outcome::Promoted { Some(NEW) } else { self.rollout.stable };
        let desired = self.rollout.desired();
        assert_eq!(desired.weights, winner.map(|winner| (winner, Weight::ALL)).into_iter().collect());
        assert_eq!(desired.instances.keys().copied().collect::<Vec<_>>(), winner.into_iter().collect::<Vec<_>>());
        self
    }
}

fn canary() -> Easy {
    Easy::new(&spec(Strategy::Canary(Canary::default()), 4), true)
}

#[test]
fn canary_climbs_its_steps_and_retires_stable_bit_by_bit() {
    let mut easy = canary();
    let mut stable_counts = Vec::new();
    while !easy.rollout.is_closed() {
        easy.tick();
        let count = easy.rollout.desired().instances.get(&OLD).copied().unwrap_or(0);
        if stable_counts.last() != Some(&count) {
            stable_counts.push(count);
        }
    }
    easy.ends(Outcome::Promoted);
    assert_eq!(easy.weights, [1_000, 2_500, 5_000, 10_000]);
    assert_eq!(stable_counts, [4, 3, 2, 0]);
    assert!(easy.seen.at >= Timestamp(120_000), "four bakes of 30 s");
}

#[test]
fn canary_with_errors_goes_back_with_the_figures() {
    let mut easy = canary();
    easy.errors = 5;
    easy.ends(Outcome::RolledBack);
    assert_eq!(easy.weights, [1_000, 0]);
    let failure = easy.rollout.failure().unwrap();
    assert_eq!(failure.cause, Cause::ErrorRate);
    assert!(failure.detail.contains("requests failed in"), "{}", failure.detail);
    assert!(easy.seen.at <= Timestamp(12_000), "at 80 requests a second, 5 % shows within seconds: {:?}", easy.seen.at);
}

#[test]
fn the_cause_that_is_seen_after_its_symptom_is_the_one_that_is_told() {
    for (later, told) in
        [(Cause::OutOfMemory, Cause::OutOfMemory), (Cause::Crash, Cause::Crash), (Cause::Latency, Cause::ErrorRate)]
    {
        let mut easy = canary();
        easy.errors = 50;
        easy.until(|rollout| rollout.failure().is_some());
        assert_eq!(easy.rollout.cause(), Some(Cause::ErrorRate));
        easy.fail(NEW, later).ends(Outcome::RolledBack);
        assert_eq!(easy.rollout.cause(), Some(told), "{later} after error-rate");
    }
}

#[test]
fn what_crashed_is_not_started_again_on_the_way_back() {
    let mut easy = canary();
    easy.until(|rollout| rollout.desired().instances.get(&NEW).is_some_and(|&count| count > 1));
    let asked = easy.rollout.desired().instances[&NEW];
    easy.seen.pools.insert(NEW, PoolSeen { running: asked - 1, live: asked - 1, leaving: 0, lost: 0 });
    easy.fail(NEW, Cause::Crash);
    assert!(matches!(easy.rollout.phase, Phase::Returning { .. }), "{:?}", easy.rollout.phase);
    assert_eq!(easy.rollout.desired().instances.get(&NEW), Some(&(asked - 1)), "no replacement");
    easy.ends(Outcome::RolledBack);
}

#[test]
fn without_the_gateway_nothing_moves_and_no_time_counts() {
    let mut easy = canary();
    easy.play(5);
    easy.gateway_lost = true;
    let weights = easy.rollout.desired().weights;
    easy.play(600);
    assert_eq!((easy.rollout.phase, easy.rollout.desired().weights), (Phase::Baking { step: 0 }, weights));
    assert_eq!(easy.rollout.waiting(), Some(&Waiting::Gateway));
    easy.gateway_lost = false;
    easy.play(10);
    assert_eq!(easy.rollout.phase, Phase::Baking { step: 0 });
    easy.gateway_lost = true;
    easy.fail(NEW, Cause::Crash);
    assert_eq!(easy.rollout.cause(), Some(Cause::Crash), "failures are recorded meanwhile");
    easy.gateway_lost = false;
    easy.ends(Outcome::RolledBack);
}

#[test]
fn failures_of_stable_are_not_held_against_the_candidate() {
    let mut easy = canary();
    easy.play(2).fail(OLD, Cause::Crash).fail(OLD, Cause::OutOfMemory).ends(Outcome::Promoted);
    assert!(easy.rollout.failure().is_none());
}

#[test]
fn every_infrastructure_cause_takes_a_live_candidate_back() {
    // All but a lost machine, which is no fault of the candidate's.
    let counts = |cause: &Cause| cause.class() == Class::Infrastructure && *cause != Cause::MachineLost;
    let causes: Vec<Cause> = Cause::ALL.into_iter().filter(counts).collect();
    assert_eq!(causes.len(), 9, "{causes:?}");
    for cause in causes {
        let mut easy = canary();
        easy.play(3).fail(NEW, cause).ends(Outcome::RolledBack);
        assert_eq!(easy.rollout.cause(), Some(cause));
    }
}

#[test]
fn no_cause_of_quality_goes_back_by_itself() {
    for cause in Cause::ALL.into_iter().filter(|cause| cause.class() == Class::Quality) {
        let mut easy = canary();
        easy.play(3).fail(NEW, cause).play(600);
        assert!(easy.rollout.waiting().unwrap().is_person(), "{cause}: {}", easy.rollout.describe());
        assert_eq!(
            (&easy.weights[..], easy.rollout.outcome()),
            (&[1_000][..], None),
            "{cause}: it is held where it was"
        );
        easy.order(Order::Abort).ends(Outcome::Aborted);
        assert_eq!(easy.rollout.cause(), Some(cause));
    }
}

#[test]
fn a_candidate_that_was_never_live_may_crash_until_it_loops() {
    let mut easy = canary();
    easy.dead = true;
    easy.obey(&easy.rollout.desired());
    easy.play(1).fail(NEW, Cause::Crash).fail(NEW, Cause::Crash);
    assert!(easy.rollout.failure().is_none());
    easy.fail(NEW, Cause::Crash);
    assert_eq!(easy.rollout.cause(), Some(Cause::CrashLoop));
    easy.ends(Outcome::RolledBack);
    assert_eq!(easy.weights, [0], "it never got a request");
}

#[test]
fn a_candidate_that_never_lives_times_out() {
    for strategy in Strategy::NAMES {
        let mut easy = Easy::new(&spec(Strategy::from_name(strategy).unwrap(), 2), true);
        easy.dead = true;
        easy.obey(&easy.rollout.desired());
        easy.ends(Outcome::RolledBack);
        assert_eq!(easy.rollout.cause(), Some(Cause::StartupTimeout), "{strategy}");
        assert!(easy.rollout.failure().unwrap().detail.ends_with("after 2 min"), "{:?}", easy.rollout.failure());
    }
}

#[test]
fn a_live_candidate_that_vanishes_unreported_times_out_too() {
    for strategy in ["rolling", "blue-green", "canary"] {
        let mut easy = Easy::new(&spec(Strategy::from_name(strategy).unwrap(), 2), true);
        easy.play(3);
        easy.dead = true;
        easy.ends(Outcome::RolledBack);
        assert_eq!(easy.rollout.cause(), Some(Cause::Unresponsive), "{strategy}");
    }
}

#[test]
fn a_candidate_survives_the_loss_of_one_machine_and_of_no_second_one() {
    let rules = |bake| spec(Strategy::Canary(Canary { bake: Millis::seconds(bake), ..Canary::default() }), 4);
    let mut easy = Easy::new(&rules(30), true);
    easy.until(|rollout| matches!(rollout.phase, Phase::Baking { .. }));
    // Both of its instances there are lost, each seen by its own probes; what broke on the way is the machine's.
    easy.errors = 100;
    easy.lost = 1;
    easy.play(1).fail(NEW, Cause::MachineLost).play(2).fail(NEW, Cause::MachineLost).play(3);
    (easy.errors, easy.lost) = (0, 0);
    easy.play(5);
    assert_eq!((easy.rollout.outcome(), easy.rollout.cause()), (None, None), "{:?}", easy.said);
    easy.ends(Outcome::Promoted);

    let mut easy = Easy::new(&rules(60), true);
    easy.until(|rollout| matches!(rollout.phase, Phase::Baking { .. }));
    easy.fail(NEW, Cause::MachineLost).play(40).fail(NEW, Cause::MachineLost);
    easy.ends(Outcome::RolledBack);
    assert_eq!(easy.rollout.cause(), Some(Cause::MachineLost));
    // Nothing is lost, and everything fails: that is the model's.
    let mut easy = Easy::new(&rules(30), true);
    easy.until(|rollout| matches!(rollout.phase, Phase::Baking { .. }));
    easy.fail(NEW, Cause::MachineLost);
    easy.errors = 100;
    easy.ends(Outcome::RolledBack);
    assert_eq!(easy.rollout.cause(), Some(Cause::ErrorRate));
}

#[test]
fn a_policy_by_hand_holds_a_failed_candidate_for_a_person() {
    let mut rules = spec(Strategy::Canary(Canary::default()), 1);
    rules.rollback.automatic = false;
    let mut easy = Easy::new(&rules, true);
    easy.play(3).fail(NEW, Cause::Unresponsive).play(100);
    assert!(easy.rollout.waiting().unwrap().is_person(), "{}", easy.rollout.describe());
    assert_eq!(easy.weights, [1_000]);
    let mut other =
        Easy { rollout: easy.rollout.clone(), seen: easy.seen.clone(), said: vec![], weights: vec![], ..easy };
    other.order(Order::Resume);
    assert!(matches!(&other.said[..], [Action::Refused { .. }]), "a resume is no decision about a failure");
    other.order(Order::Promote { all: false }).ends(Outcome::Promoted);
    easy.order(Order::Abort).ends(Outcome::Aborted);
    assert_eq!(easy.rollout.cause(), Some(Cause::Unresponsive));
}

#[test]
fn going_back_in_steps_takes_the_steps() {
    let mut rules = spec(Strategy::Canary(Canary::default()), 4);
    rules.rollback.stepped = true;
    let mut easy = Easy::new(&rules, true);
    easy.until(|rollout| rollout.phase == Phase::Baking { step: 2 }).play(1).fail(NEW, Cause::Latency);
    easy.ends(Outcome::RolledBack);
    assert_eq!(easy.weights, [1_000, 2_500, 5_000, 2_500, 1_000, 0]);
}

#[test]
fn orders_pause_resume_skip_and_abort() {
    let mut easy = canary();
    easy.play(3).order(Order::Pause).play(300);
    assert_eq!((easy.rollout.phase, easy.rollout.waiting()), (Phase::Baking { step: 0 }, Some(&Waiting::Paused)));
    easy.order(Order::Resume).play(1);
    assert_eq!(easy.rollout.phase, Phase::Baking { step: 1 }, "the bake went on during the pause");
    easy.play(1).order(Order::Promote { all: false }).play(1);
    assert_eq!(easy.rollout.phase, Phase::Baking { step: 2 });
    easy.order(Order::Abort).ends(Outcome::Aborted);
    easy.order(Order::Promote { all: true });
    assert!(matches!(easy.said.last(), Some(Action::Refused { .. })));
    let mut hurried = canary();
    hurried.play(2).order(Order::Promote { all: true }).play(3).ends(Outcome::Promoted);
    assert_eq!(hurried.weights, [1_000, 10_000]);
}

#[test]
fn canary_by_hand_waits_before_each_further_step() {
    let manual = Canary { manual: true, bake: Millis::seconds(1), ..Canary::default() };
    let mut easy = Easy::new(&spec(Strategy::Canary(manual), 1), true);
    for step in 0..3 {
        easy.play(60);
        assert_eq!(easy.rollout.phase, Phase::Baking { step });
        assert!(easy.rollout.waiting().unwrap().is_person());
        easy.order(Order::Promote { all: false });
    }
    easy.ends(Outcome::Promoted);
}

fn blue_green(plan: BlueGreen) -> Easy {
    Easy::new(&spec(Strategy::BlueGreen(plan), 2), true)
}

#[test]
fn blue_green_switches_at_once_and_keeps_blue_for_its_window() {
    let mut easy = blue_green(BlueGreen::default());
    easy.until(|rollout| rollout.phase == Phase::Kept);
    assert_eq!(easy.weights, [10_000]);
    assert_eq!(easy.rollout.outcome(), Some(Outcome::Promoted));
    easy.play(500);
    assert_eq!(easy.rollout.desired().instances.get(&OLD), Some(&2), "blue is kept");
    easy.ends(Outcome::Promoted);
    assert!(easy.seen.at >= Timestamp(600_000));
}

#[test]
fn blue_green_goes_back_within_its_window_without_starting_anything() {
    let mut easy = blue_green(BlueGreen::default());
    easy.until(|rollout| rollout.phase == Phase::Kept).play(10).fail(NEW, Cause::OutOfMemory);
    let desired = easy.rollout.desired();
    assert_eq!((desired.weights, desired.instances[&OLD]), (BTreeMap::from([(OLD, Weight::ALL)]), 2));
    easy.ends(Outcome::RolledBack);
    let finishes = easy.said.iter().filter(|action| matches!(action, Action::Finish { .. })).count();
    assert_eq!(finishes, 2, "promoted, then rolled back");
    let closed =
        blue_green(BlueGreen::default()).until(|rollout| rollout.phase == Phase::Kept).rollout.clone().close_window();
    assert!(closed.is_closed() && !closed.desired().instances.contains_key(&OLD));
}

#[test]
fn blue_green_shows_a_preview_and_waits_for_a_person() {
    let plan = BlueGreen {
        preview: Millis::seconds(20),
        manual: true,
        steps: vec![Weight::new(5_000).unwrap(), Weight::ALL],
        ..BlueGreen::default()
    };
    let mut easy = blue_green(plan);
    easy.play(10);
    assert_eq!((easy.rollout.phase, easy.weights.clone()), (Phase::Preview, vec![0]));
    easy.play(60);
    assert!(easy.rollout.waiting().unwrap().is_person());
    easy.order(Order::Promote { all: false }).ends(Outcome::Promoted);
    assert_eq!(easy.weights, [0, 5_000, 10_000]);
}

#[test]
fn rolling_replaces_in_batches_within_its_bounds() {
    for (batch, max_surge, max_unavailable) in [(1, 1, 0), (2, 2, 0), (1, 0, 1), (3, 1, 1), (4, 4, 0)] {
        let rolling = Rolling { batch, max_surge, max_unavailable, pause: Millis::seconds(5) };
        let mut easy = Easy::new(&spec(Strategy::Rolling(rolling), 4), true);
        easy.until(|rollout| {
            let total: u32 = rollout.desired().instances.values().sum();
            assert!((4 - max_unavailable..=4 + max_surge).contains(&total), "{total} instances wanted");
            rollout.is_closed()
        });
        easy.ends(Outcome::Promoted);
        assert!(easy.weights.is_sorted(), "{:?}", easy.weights);
        let pauses = u64::from(4u32.div_ceil(batch));
        assert!(easy.seen.at >= Timestamp(pauses * 5_000), "{pauses} pauses");
    }
}

#[test]
fn recreate_empties_stops_starts_and_on_failure_returns() {
    let mut easy = Easy::new(&spec(Strategy::Recreate(Recreate::default()), 2), true);
    easy.tick();
    assert!(easy.rollout.desired().weights.is_empty() && easy.rollout.desired().park);
    assert_eq!(
        easy.rollout.desired().instances.get(&OLD),
        Some(&2),
        "not stopped before the gateway reports that it is empty"
    );
    easy.ends(Outcome::Promoted);
    let mut bad = Easy::new(&spec(Strategy::Recreate(Recreate { park: false, ..Recreate::default() }), 2), true);
    bad.until(|rollout| rollout.phase == Phase::Replacing);
    assert!(!bad.rollout.desired().park);
    bad.fail(NEW, Cause::StartFailed).ends(Outcome::RolledBack);
}

#[test]
fn a_failed_first_deployment_leaves_nothing() {
    let mut easy = Easy::new(&spec(Strategy::default(), 2), false);
    easy.dead = true;
    easy.obey(&easy.rollout.desired());
    easy.play(1).fail(NEW, Cause::StartFailed).ends(Outcome::RolledBack);
    assert_eq!(easy.rollout.desired(), Desired::default());
    Easy::new(&spec(Strategy::default(), 2), false).ends(Outcome::Promoted);
}

#[test]
fn nonsense_is_refused_with_every_mistake_at_once() {
    let mut rules = spec(Strategy::Canary(Canary { steps: vec![Weight::new(3_000).unwrap()], ..Canary::default() }), 0);
    rules.analysis.max_error_rate = f64::NAN;
    let error = Plan::new(&rules).unwrap_err();
    let keys: Vec<&str> = error.mistakes.iter().map(|mistake| mistake.key).collect();
    assert_eq!(keys, ["instances", "strategy.steps", "strategy.steps", "analysis.max-error-rate"]);
    assert!(error.to_string().contains("a canary starts at 20 % (2000) or less"), "{error}");
    let stuck = spec(Strategy::Rolling(Rolling { max_surge: 0, max_unavailable: 0, ..Rolling::default() }), 3);
    assert!(Plan::new(&stuck).unwrap_err().to_string().contains("nothing could move"));
    let empty = spec(Strategy::Rolling(Rolling { max_unavailable: 1, ..Rolling::default() }), 1);
    assert!(Plan::new(&empty).unwrap_err().to_string().contains("use the strategy `recreate`"));
    for name in Strategy::NAMES {
        Plan::new(&spec(Strategy::from_name(name).unwrap(), 1)).unwrap();
    }
}
