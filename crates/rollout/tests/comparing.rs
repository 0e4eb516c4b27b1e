//! A/B tests, shadows and quality, walked step by step in a world without delay.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "comparing/beside.rs"]
mod beside;
#[path = "comparing/quality.rs"]
mod quality;
#[path = "comparing/slowness.rs"]
mod slowness;

use std::collections::BTreeMap;

use modelyard_core::event::{Order, Outcome};
use modelyard_core::evidence::{ArmEvidence, Drift, Statistic};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::mirror::{Comparison, Example};
use modelyard_core::route::split_among;
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::{Ab, Arm, Canary, QualityAction, Shadow, Strategy, Then};
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp, Weight};
use modelyard_rollout::{Action, GatewaySeen, Observation, Plan, PoolSeen, Rollout, Verdict, Waiting, step};

const OLD: RevisionNumber = RevisionNumber(1);
const NEW: RevisionNumber = RevisionNumber(2);
const THIRD: RevisionNumber = RevisionNumber(3);

/// A world in which what is desired is so at the next look; each arm has an accuracy, each shadow an agreement.
struct World {
    rollout: Rollout,
    seen: Observation,
    accuracy: BTreeMap<RevisionNumber, f64>,
    /// Units that are counted per look and arm for each hundredth of the traffic.
    pace: u64,
    /// Units of an arm that get lost before they are counted, in percent.
    lost: BTreeMap<RevisionNumber, u64>,
    psi: f64,
    /// No value of the metric comes.
    mute: bool,
    /// No request comes to any arm.
    silent: bool,
    /// One of so many requests of the candidate fails; none at 0.
    errors: u64,
    /// Outputs and latencies of every shadow.
    compared: Option<Comparison>,
    said: Vec<(Verdict, Option<Cause>, String)>,
}

fn spec(strategy: Strategy) -> ServiceSpec {
    let accuracy = serde_json::json!({ "name": "accuracy", "kind": "accuracy", "from": "feedback" });
    ServiceSpec {
        strategy,
        metrics: vec![serde_json::from_value(accuracy).unwrap()],
        ..ServiceSpec::named(ServiceName::new("wine").unwrap())
    }
}

fn ab(change: impl FnOnce(&mut Ab)) -> ServiceSpec {
    let mut ab = Ab { metric: "accuracy".into(), effect: 0.05, ..Ab::default() };
    change(&mut ab);
    spec(Strategy::Ab(ab))
}

fn shadow(change: impl FnOnce(&mut Shadow)) -> ServiceSpec {
    let mut shadow = Shadow::default();
    change(&mut shadow);
    ServiceSpec { metrics: Vec::new(), ..spec(Strategy::Shadow(shadow)) }
}

fn arm() -> Arm {
    Arm { package: "wine:3".into(), share: Weight::new(2_000).unwrap(), flags: BTreeMap::new() }
}

impl World {
    fn new(spec: &ServiceSpec, arms: &[RevisionNumber], accuracy: &[(RevisionNumber, f64)]) -> Self {
        let plan = Plan::new(spec).unwrap();
        let rollout = Rollout::start(spec.name.clone(), Some(OLD), NEW, arms, plan, Timestamp(0));
        let seen = Observation { gateway: Some(GatewaySeen::default()), ..Observation::default() };
        let (accuracy, lost) = (accuracy.iter().copied().collect(), BTreeMap::new());
        let mut world = Self {
            rollout,
            seen,
            accuracy,
            pace: 1,
            lost,
            psi: 0.0,
            mute: false,
            silent: false,
            errors: 0,
            compared: None,
            said: Vec::new(),
        };
        world.obey();
        world
    }

    fn obey(&mut self) {
        let desired = self.rollout.desired();
        let pool = |(&revision, &count): (&RevisionNumber, &u32)| {
            (revision, PoolSeen { running: count, live: count, leaving: 0, lost: 0 })
        };
        self.seen.pools = desired.instances.iter().map(pool).collect();
        let pools = &self.seen.pools;
        let split = split_among(&desired, |revision| pools.contains_key(&revision));
        let evidence = self.seen.evidence.get_or_insert_default();
        for (&revision, weight) in &split {
            let arm: &mut ArmEvidence = evidence.arms.entry(revision).or_default();
            let units = u64::from(weight.basis_points()) / 100 * self.pace;
            arm.units += units * (100 - self.lost.get(&revision).copied().unwrap_or(0)) / 100;
            let accuracy = self.accuracy.get(&revision).copied().unwrap_or(0.9);
            let hits = (arm.units as f64 * accuracy) as u64;
            if !self.mute {
                arm.metrics.insert("accuracy".into(), Statistic::Proportion { units: arm.units, hits });
            }
        }
        for (&revision, share) in &desired.mirrors {
            let compared: &mut Comparison = evidence.shadows.entry(revision).or_default();
            if let Some(Comparison { outputs, latency, stable_latency, .. }) = &self.compared {
                compared.outputs.clone_from(outputs);
                compared.latency.clone_from(latency);
                compared.stable_latency.clone_from(stable_latency);
            }
            compared.sent += u64::from(share.basis_points()) / 100 * self.pace;
            compared.compared = compared.sent;
            compared.agreed = (compared.sent as f64 * self.accuracy.get(&revision).copied().unwrap_or(1.0)) as u64;
            let what = "label: 3 is 8".to_owned();
            compared.worst = vec![Example { request_id: "a-1".into(), what, difference: 1.0 }];
        }
        let drift = Drift {
            field: "input x".into(),
            seen: 1_000,
            psi: self.psi,
            ks: None,
            chi_square_p: None,
            jensen_shannon: 0.0,
            reference: "package".into(),
        };
        evidence.drift.insert(NEW, vec![drift]);
        let gateway = self.seen.gateway.get_or_insert_default();
        for (&revision, weight) in &split {
            let counters = gateway.counters.entry(revision).or_default();
            counters.requests += if self.silent { 0 } else { u64::from(weight.basis_points()) / 50 };
            counters.errors = if revision == NEW { counters.requests.checked_div(self.errors).unwrap_or(0) } else { 0 };
        }
        gateway.weights = split;
    }

    fn tick(&mut self) {
        self.seen.at = self.seen.at + Millis(250);
        // What the log would hold comes back from it.
        let json = serde_json::to_string(&self.rollout).unwrap();
        let (rollout, actions) = step(serde_json::from_str(&json).unwrap(), &self.seen);
        self.rollout = rollout;
        self.said.extend(actions.into_iter().filter_map(|action| match action {
            Action::Verdict { verdict, why, cause } => Some((verdict, cause, why)),
            _ => None,
        }));
        self.seen.failures.clear();
        self.seen.orders.clear();
        self.obey();
    }

    fn play(&mut self, seconds: u64) -> &mut Self {
        (0..seconds * 4).for_each(|_| self.tick());
        self
    }

    fn until(&mut self, reached: impl Fn(&Rollout) -> bool) -> &mut Self {
        for _ in 0..20_000 {
            if reached(&self.rollout) {
                return self;
            }
            self.tick();
        }
        panic!("never reached: {} {:?} {:?}", self.rollout.describe(), self.rollout.waiting(), self.said);
    }

    fn fail(&mut self, revision: RevisionNumber, cause: Cause) -> &mut Self {
        let (at, detail) = (self.seen.at, cause.to_string());
        self.seen.failures.push(Failure { cause, revision, instance: None, at, detail, evidence: vec![] });
        self.tick();
        self
    }

    fn order(&mut self, order: Order) -> &mut Self {
        self.seen.orders.push(order);
        self.tick();
        self
    }

    fn ends(&mut self, outcome: Outcome, winner: RevisionNumber) {
        self.until(Rollout::is_closed);
        assert_eq!(self.rollout.outcome(), Some(outcome), "{:?}", self.said);
        let desired = self.rollout.desired();
        assert_eq!(desired.weights, BTreeMap::from([(winner, Weight::ALL)]));
        assert_eq!(desired.instances.keys().copied().collect::<Vec<_>>(), [winner]);
        assert_eq!(desired.mirrors, BTreeMap::new());
    }

    fn waiting(&self) -> String {
        self.rollout.waiting().map(ToString::to_string).unwrap_or_default()
    }
}

fn promote() -> Order {
    Order::Promote { all: false }
}

#[test]
fn a_test_promotes_what_is_better_and_only_that() {
    let mut world = World::new(&ab(|_| ()), &[], &[(OLD, 0.90), (NEW, 0.96)]);
    world.until(|rollout| rollout.describe().starts_with("testing"));
    assert_eq!(world.rollout.desired().weights[&NEW], Weight::new(5_000).unwrap());
    world.ends(Outcome::Promoted, NEW);
    let (_, _, planned) = &world.said[0];
    assert!(planned.starts_with("planned: an improvement of `accuracy` by 0.05"), "{:?}", world.said);
    assert!(world.said.iter().any(|(verdict, _, why)| *verdict == Verdict::Pass && why.contains("is better")));

    for candidate in [0.90, 0.85] {
        let longest = Some(Millis::seconds(120));
        let mut world = World::new(&ab(|ab| ab.longest = longest), &[], &[(OLD, 0.90), (NEW, candidate)]);
        world.ends(Outcome::RolledBack, OLD);
        assert_eq!(world.rollout.cause(), Some(Cause::NotBetter), "{candidate}: {:?}", world.said);
    }
}

#[test]
fn an_open_test_tells_how_long_it_needs() {
    let mut world = World::new(&ab(|_| ()), &[], &[(OLD, 0.90), (NEW, 0.91)]);
    world.play(30);
    let told = world.waiting();
    assert!(told.contains("not enough evidence yet") && told.contains("more at today's traffic"), "{told}");
    // Traffic stops: nobody can tell when it is decided.
    world.pace = 0;
    world.play(120);
    assert!(world.waiting().ends_with("no traffic: cannot tell when"), "{}", world.waiting());
    let mut silent = World::new(&ab(|_| ()), &[], &[]);
    silent.pace = 0;
    silent.play(60);
    assert!(matches!(silent.rollout.waiting(), Some(Waiting::Evidence { .. })), "{:?}", silent.rollout.waiting());
    assert!(silent.waiting().ends_with("no traffic: cannot tell when"), "{}", silent.waiting());
    assert_eq!(silent.rollout.outcome(), None, "without traffic nothing is decided");
    // The figures change with every look and are worth no line in the log.
    let before = silent.rollout.clone();
    silent.play(60);
    assert!(!silent.rollout.advanced_from(&before));
    silent.order(Order::Abort).ends(Outcome::Aborted, OLD);
}

#[test]
fn a_test_without_any_value_says_what_it_waits_for() {
    let mut world = World::new(&ab(|_| ()), &[], &[]);
    world.mute = true;
    world.play(30);
    let told = world.waiting();
    assert!(told.starts_with("no value of `accuracy` of revision 2 yet"), "{told}");
    assert!(told.contains("values come with feedback") && told.ends_with("; cannot tell when"), "{told}");
    world.pace = 0;
    world.play(180);
    assert!(world.waiting().ends_with("no traffic: cannot tell when"), "{}", world.waiting());
    let mut nothing = World::new(&ab(|_| ()), &[], &[]);
    (nothing.mute, nothing.pace) = (true, 0);
    nothing.seen.evidence = None;
    nothing.play(30);
    let told = nothing.waiting();
    assert!(told.contains("no unit was assigned") && told.ends_with("cannot tell when"), "{told}");
}

#[test]
fn canaries_and_shadows_tell_how_long_they_need() {
    let mut rules = spec(Strategy::Canary(Canary::default()));
    rules.metrics.clear();
    rules.analysis.min_requests = 100_000;
    let mut world = World::new(&rules, &[], &[]);
    world.play(60);
    let told = world.waiting();
    assert!(told.contains("of 100000 requests that a verdict needs; about"), "{told}");
    assert!(told.ends_with("more at today's traffic"), "{told}");
    world.silent = true;
    world.play(180);
    assert!(world.waiting().ends_with("no traffic: cannot tell when"), "{}", world.waiting());

    let mut world = World::new(&shadow(|shadow| shadow.least_pairs = 100_000), &[], &[]);
    world.play(60);
    assert!(world.waiting().ends_with("more at today's traffic"), "{}", world.waiting());
    world.pace = 0;
    world.play(180);
    assert!(world.waiting().ends_with("no traffic: cannot tell when"), "{}", world.waiting());
    let mut never = World::new(&shadow(|_| ()), &[], &[]);
    never.pace = 0;
    never.play(60);
    assert!(never.waiting().ends_with("no traffic: cannot tell when"), "{}", never.waiting());
}

#[test]
fn doubtful_figures_tell_how_long_they_need() {
    let mut rules = spec(Strategy::Canary(Canary { bake: Millis::seconds(5), ..Canary::default() }));
    rules.metrics.clear();
    let mut world = World::new(&rules, &[], &[]);
    world.errors = 50; // 2 %, which may be chance for a while
    world.play(6);
    let told = world.waiting();
    assert!(told.contains("it may be chance; about") && told.ends_with("more at today's traffic"), "{told}");
}

#[test]
fn a_required_metric_without_values_says_that_nobody_knows_when() {
    let mut rules = spec(Strategy::Canary(Canary::default()));
    rules.metrics[0].required = true;
    let mut world = World::new(&rules, &[], &[]);
    world.mute = true;
    world.play(60);
    let told = world.waiting();
    assert!(told.contains("required") && told.ends_with("cannot tell when"), "{told}");
}

#[test]
fn of_several_arms_the_best_is_promoted() {
    let spec = ab(|ab| {
        ab.share = Weight::new(3_000).unwrap();
        ab.arms = vec![arm()];
    });
    let mut world = World::new(&spec, &[THIRD], &[(OLD, 0.80), (NEW, 0.81), (THIRD, 0.97)]);
    assert_eq!(world.rollout.starts(), &BTreeMap::from([(NEW, 0), (THIRD, 3_000)]), "no arm moves another's sessions");
    world.until(|rollout| rollout.describe().starts_with("testing"));
    let shares: Vec<u16> = world.rollout.desired().weights.values().map(|share| share.basis_points()).collect();
    assert_eq!(shares, [5_000, 3_000, 2_000]);
    world.ends(Outcome::Promoted, THIRD);
    assert_eq!(world.rollout.candidate, THIRD);
}

#[test]
fn an_arm_that_fails_is_taken_out_and_the_others_go_on() {
    let spec = ab(|ab| {
        ab.share = Weight::new(3_000).unwrap();
        ab.arms = vec![arm()];
    });
    for (failing, left) in [(THIRD, NEW), (NEW, THIRD)] {
        let mut world = World::new(&spec, &[THIRD], &[(OLD, 0.80), (left, 0.97)]);
        world.until(|rollout| rollout.describe().starts_with("testing")).fail(failing, Cause::OutOfMemory);
        assert!(!world.rollout.desired().weights.contains_key(&failing), "{:?}", world.rollout.desired());
        world.ends(Outcome::Promoted, left);
    }
    let mut world = World::new(&ab(|_| ()), &[], &[]);
    world.until(|rollout| rollout.describe().starts_with("testing")).fail(NEW, Cause::Crash);
    world.ends(Outcome::RolledBack, OLD);
    assert_eq!(world.rollout.cause(), Some(Cause::Crash));
}

#[test]
fn a_split_that_does_not_hold_stops_the_test_with_a_clear_word() {
    let mut world = World::new(&ab(|_| ()), &[], &[(OLD, 0.90), (NEW, 0.91)]);
    world.lost.insert(NEW, 30);
    world.ends(Outcome::RolledBack, OLD);
    assert_eq!(world.rollout.cause(), Some(Cause::SampleRatioMismatch));
    let why = &world.rollout.failure().unwrap().detail;
    assert!(why.contains("sample ratio mismatch") && why.contains("revision 2 got"), "{why}");
}

#[test]
fn a_person_may_end_a_test_and_may_pause_it() {
    let mut world = World::new(&ab(|_| ()), &[], &[(OLD, 0.90), (NEW, 0.97)]);
    world.until(|rollout| rollout.describe().starts_with("testing")).order(Order::Pause).play(120);
    assert_eq!(world.rollout.outcome(), None, "paused: {:?}", world.said);
    world.order(Order::Resume).ends(Outcome::Promoted, NEW);
    let mut world = World::new(&ab(|_| ()), &[], &[]);
    world.until(|rollout| rollout.describe().starts_with("testing")).order(promote());
    world.ends(Outcome::Promoted, NEW);
    assert!(world.said.iter().any(|(_, _, why)| why.contains("a person promoted")), "{:?}", world.said);
}

#[test]
fn a_shadow_answers_nobody_and_what_follows_is_as_planned() {
    for (then, outcome, winner) in [
        (Then::End, Outcome::Compared, OLD),
        (Then::Canary, Outcome::Promoted, NEW),
        (Then::Ask, Outcome::Promoted, NEW),
    ] {
        let mut world = World::new(&shadow(|shadow| shadow.then = then), &[], &[]);
        world.until(|rollout| rollout.describe().starts_with("comparing"));
        assert_eq!(world.rollout.desired().weights, BTreeMap::from([(OLD, Weight::ALL)]));
        assert_eq!(world.rollout.desired().mirrors, BTreeMap::from([(NEW, Weight::ALL)]));
        if then == Then::Ask {
            world.until(|rollout| rollout.waiting().is_some_and(Waiting::is_person)).play(60);
            assert!(world.waiting().contains("goes on as canary"), "{}", world.waiting());
            world.order(promote());
            assert_eq!(world.rollout.desired().mirrors, BTreeMap::new());
        }
        world.ends(outcome, winner);
    }
}

#[test]
fn disagreement_asks_a_person_and_shows_examples() {
    let mut world = World::new(&shadow(|_| ()), &[], &[(NEW, 0.90)]);
    world.until(|rollout| rollout.failure().is_some()).play(10);
    assert_eq!(world.rollout.cause(), Some(Cause::Disagreement));
    assert!(world.rollout.waiting().is_some_and(Waiting::is_person), "{:?}", world.rollout.waiting());
    let failure = world.rollout.failure().unwrap();
    assert!(failure.detail.contains("disagrees in") && failure.evidence[0].contains("3 is 8"), "{failure:?}");
    world.order(Order::Abort).ends(Outcome::Aborted, OLD);
}

#[test]
fn of_several_shadows_the_best_goes_on() {
    let spec = shadow(|shadow| {
        shadow.arms = vec![arm().into()];
        shadow.then = Then::Canary;
        shadow.max_disagreement = 0.2;
    });
    let mut world = World::new(&spec, &[THIRD], &[(NEW, 0.90), (THIRD, 0.99)]);
    world.until(|rollout| rollout.describe().starts_with("comparing"));
    assert_eq!(world.rollout.desired().mirrors.len(), 2);
    world.ends(Outcome::Promoted, THIRD);
}

#[test]
fn a_shadow_that_crashes_goes_without_a_caller_noticing() {
    let mut world = World::new(&shadow(|_| ()), &[], &[]);
    world.until(|rollout| rollout.describe().starts_with("comparing")).fail(NEW, Cause::Crash);
    world.ends(Outcome::RolledBack, OLD);
    assert_eq!(world.rollout.cause(), Some(Cause::Crash));
}

#[test]
fn a_drop_of_quality_asks_steps_back_or_goes_back_as_policy_has_it() {
    for action in [QualityAction::Ask, QualityAction::StepBack, QualityAction::RollBack] {
        let mut rules = spec(Strategy::Canary(Canary::default()));
        rules.quality.action = action;
        let mut world = World::new(&rules, &[], &[(OLD, 0.95), (NEW, 0.70)]);
        world.until(|rollout| rollout.failure().is_some());
        assert_eq!(world.rollout.cause(), Some(Cause::Quality));
        if action == QualityAction::Ask {
            for _ in 0..200 {
                world.tick();
                assert!(world.rollout.waiting().is_some_and(Waiting::is_person), "{:?}", world.rollout.waiting());
            }
            world.order(Order::Abort).ends(Outcome::Aborted, OLD);
        } else {
            world.ends(Outcome::RolledBack, OLD);
        }
    }
    // A person who goes on in spite of it is not asked again.
    let mut world = World::new(&spec(Strategy::Canary(Canary::default())), &[], &[(OLD, 0.95), (NEW, 0.70)]);
    world.until(|rollout| rollout.failure().is_some()).order(promote()).ends(Outcome::Promoted, NEW);
}

#[test]
fn drift_counts_once_policy_says_so() {
    let mut rules = spec(Strategy::Canary(Canary::default()));
    let mut world = World::new(&rules, &[], &[]);
    world.psi = 0.9;
    world.play(60);
    assert_eq!(world.rollout.failure(), None, "nobody asked to look at drift");
    rules.quality.max_psi = Some(0.2);
    let mut world = World::new(&rules, &[], &[]);
    world.psi = 0.9;
    world.until(|rollout| rollout.failure().is_some());
    assert_eq!(world.rollout.cause(), Some(Cause::Drift));
    let why = &world.rollout.failure().unwrap().detail;
    assert!(why.contains("input x has moved from package"), "{why}");
}

#[test]
fn nonsense_is_refused_with_every_mistake() {
    let refused = |spec: &ServiceSpec| -> Vec<&'static str> {
        Plan::new(spec).unwrap_err().mistakes.into_iter().map(|mistake| mistake.key).collect()
    };
    let bad = ab(|ab| {
        ab.metric = "speed".into();
        ab.share = Weight::ALL;
        ab.effect = 0.0;
        ab.error = 1.0;
        ab.unit = modelyard_core::strategy::Unit::Session;
    });
    let keys = refused(&bad);
    assert_eq!(keys, ["strategy.share", "strategy.metric", "strategy.unit", "strategy.error", "strategy.effect"]);
    let bad = shadow(|shadow| {
        shadow.share = Weight::NONE;
        shadow.max_disagreement = 1.5;
        shadow.limit = 0;
    });
    assert_eq!(refused(&bad), ["strategy.share", "strategy.limit", "strategy.max-disagreement"]);
}

#[test]
fn what_cannot_keep_its_error_is_refused_at_the_door() {
    let mistakes = |spec: &ServiceSpec| -> Vec<(&'static str, String)> {
        let refused = Plan::new(spec).unwrap_err();
        refused.mistakes.into_iter().map(|mistake| (mistake.key, mistake.what)).collect()
    };
    let metric = |json: serde_json::Value| serde_json::from_value(json).unwrap();
    // Answers of one session go together.
    for kind in ["f1", "quantile", "count"] {
        let mut bad = ab(|ab| ab.unit = modelyard_core::strategy::Unit::Session);
        bad.metrics =
            vec![metric(serde_json::json!({ "name": "accuracy", "kind": kind, "from": "feedback", "quantile": 0.9 }))];
        bad.routing.affinity = serde_json::from_value(serde_json::json!({ "by": "issued" })).unwrap();
        let found = mistakes(&bad);
        assert!(
            found
                .iter()
                .any(|(key, what)| *key == "strategy.unit" && what.contains("those of one session go together")),
            "{found:?}"
        );
    }
    // Polls of a number elsewhere overlap.
    let polled =
        serde_json::json!({ "name": "accuracy", "kind": "mean", "from": "webhook", "url": "http://127.0.0.1:1" });
    let mut bad = ab(|_| ());
    bad.metrics = vec![metric(polled.clone())];
    let found = mistakes(&bad);
    assert!(found[0].0 == "strategy.metric" && found[0].1.contains("no independent units"), "{found:?}");
    let mut guarded = spec(Strategy::Canary(Canary::default()));
    guarded.metrics = vec![metric(polled)];
    let found = mistakes(&guarded);
    assert!(found[0].0 == "judge.kind" && found[0].1.contains("write `threshold` or `classical`"), "{found:?}");
    guarded.judge.kind = modelyard_core::metric::JudgeKind::Threshold;
    assert!(Plan::new(&guarded).is_ok());
    guarded.judge.kind = modelyard_core::metric::JudgeKind::Sequential;
    guarded.metrics[0].dry_run = true;
    assert!(Plan::new(&guarded).is_ok(), "a dry run decides nothing");
}

#[test]
fn a_shadow_is_held_against_its_mean_difference_and_stables_latency() {
    use modelyard_core::measure::Histogram;
    use modelyard_core::mirror::OutputComparison;
    let output = |shift: f64| {
        let mut output =
            OutputComparison { rows: 1_000, same_label: 1_000, in_top_k: 1_000, ..OutputComparison::default() };
        (0..1_000).for_each(|n| output.difference.add(f64::from(n * 37 % 101 - 50) / 500.0 + shift));
        (0..1_000).for_each(|n| output.distance.add(f64::from(n % 10) / 100.0));
        output
    };
    let latency = |micros: u64| {
        let mut histogram = Histogram::default();
        (0..1_000).for_each(|n| histogram.record(micros + n));
        histogram
    };
    let play = |change: &dyn Fn(&mut ServiceSpec), shift: f64, micros: u64| {
        let mut rules = shadow(|shadow| shadow.then = Then::End);
        change(&mut rules);
        let mut world = World::new(&rules, &[], &[]);
        world.compared = Some(Comparison {
            outputs: BTreeMap::from([("score".to_owned(), output(shift))]),
            latency: latency(micros),
            stable_latency: latency(2_000),
            ..Comparison::default()
        });
        world.until(Rollout::is_closed);
        world
    };
    let limited = |spec: &mut ServiceSpec| {
        if let Strategy::Shadow(shadow) = &mut spec.strategy {
            shadow.max_difference = Some(0.1);
            shadow.max_distance = Some(0.2);
        }
    };
    let fine = play(&limited, 0.0, 2_000);
    let (verdict, _, why) = fine.said.last().unwrap();
    assert_eq!(*verdict, Verdict::Pass, "{why}");
    assert!(
        why.contains("the mean difference of `score` is") && why.contains("the mean distance of `score` is +0.045"),
        "{why}"
    );
    assert!(why.contains("ms against stable"), "{why}");
    let biased = play(&limited, 0.5, 2_000);
    assert!(
        biased.said.iter().any(|(verdict, cause, _)| (*verdict, *cause) == (Verdict::Fail, Some(Cause::Disagreement))),
        "{:?}",
        biased.said
    );
    let unlimited = play(&|_| (), 0.5, 2_000);
    assert_eq!(
        unlimited.said.last().unwrap().0,
        Verdict::Pass,
        "nobody asked to hold it against anything: {:?}",
        unlimited.said
    );
    let ratio = |spec: &mut ServiceSpec| spec.analysis.max_latency_ratio = Some(2.0);
    let slow = play(&ratio, 0.0, 20_000);
    assert_eq!(slow.rollout.cause(), Some(Cause::Latency), "{:?}", slow.said);
    assert!(slow.rollout.failure().unwrap().detail.contains("2 times stable's"), "{:?}", slow.rollout.failure());
    assert_eq!(play(&ratio, 0.0, 2_500).rollout.outcome(), Some(Outcome::Compared));
}

#[test]
fn a_state_from_before_there_were_arms_is_still_read() {
    let plan = Plan::new(&spec(Strategy::Canary(Canary::default()))).unwrap();
    let rollout = Rollout::start(ServiceName::new("wine").unwrap(), Some(OLD), NEW, &[], plan, Timestamp(0));
    let mut json = serde_json::to_value(&rollout).unwrap();
    for key in ["shares", "starts", "out", "began", "plan_is_told", "quality_forgiven", "arm_readings"] {
        json.as_object_mut().unwrap().remove(key).unwrap();
    }
    for key in ["metrics", "judge", "quality"] {
        json["plan"].as_object_mut().unwrap().remove(key).unwrap();
    }
    let read: Rollout = serde_json::from_value(json).unwrap();
    assert_eq!((read.stable, read.candidate, read.desired()), (Some(OLD), NEW, rollout.desired()));
}
